"""The proxy that makes S3 slow or failing: what it plays, how often, and that a seed plays it again."""

import http.client
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from runtime.base.errors import UserError
from runtime.testing import S3FaultProxy, S3Faults, parse_s3_faults

BODY = bytes(range(256)) * 400


class _Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(BODY)

    def do_HEAD(self) -> None:
        self.answer(BODY)

    def do_PUT(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.answer(self.headers["Host"].encode() + b" " + self.rfile.read(length))

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Upstream) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def ask(proxy: S3FaultProxy, method: str = "GET", path: str = "/b/k", body: object = None, **headers: str) -> bytes:
    """Make one request; raises what a client meets."""
    connection = http.client.HTTPConnection(proxy.url.partition("//")[2], timeout=60)
    try:
        connection.request(method, path, body, headers, encode_chunked="Transfer-Encoding" in headers)  # type: ignore[arg-type]
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise OSError(f"{answer.status} {content.decode()}")
        return content
    finally:
        connection.close()


def test_without_faults_it_is_not_there(upstream: str):
    with S3FaultProxy(upstream, S3Faults()) as proxy:
        assert ask(proxy) == BODY
        assert ask(proxy, "HEAD") == b""
        host = proxy.url.partition("//")[2].encode()
        assert ask(proxy, "PUT", body=b"x" * 100_000) == host + b" " + b"x" * 100_000, "signatures cover the host"
        chunks = iter([b"one", b"two"])
        assert ask(proxy, "PUT", body=chunks, **{"Transfer-Encoding": "chunked"}) == host + b" onetwo"
        assert proxy.played == {"requests": 4}


def test_slow_down_is_an_answer_of_s3(upstream: str):
    with S3FaultProxy(upstream, S3Faults(slow_down=1, most=2)) as proxy:
        for _ in range(2):
            with pytest.raises(OSError, match="503 <Error><Code>SlowDown"):
                ask(proxy)
        assert ask(proxy) == BODY, "one and the same request fails twice at most"
        assert proxy.played == {"requests": 3, "slow-down": 2}


def test_half_a_body(upstream: str):
    with S3FaultProxy(upstream, S3Faults(truncate=1, most=1)) as proxy:
        with pytest.raises(http.client.IncompleteRead) as error:
            ask(proxy)
        assert error.value.partial == BODY[: len(BODY) // 2]
        assert ask(proxy) == BODY


def test_a_reset_in_the_middle(upstream: str):
    with S3FaultProxy(upstream, S3Faults(reset=1, most=1)) as proxy:
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
            ask(proxy)
        assert ask(proxy) == BODY


def test_an_endpoint_that_is_down(upstream: str):
    with S3FaultProxy("http://127.0.0.1:9", S3Faults()) as proxy, pytest.raises(OSError, match="502"):
        ask(proxy)


def test_a_seed_plays_the_same_again_in_any_order():
    faults = S3Faults(slow_down=0.2, reset=0.2, truncate=0.2, jitter_s=1, seed=4)
    requests = [f"GET /b/{number} " for number in range(300)]
    first = {request: faults.of(request, 0) for request in requests}
    assert first == {request: faults.of(request, 0) for request in reversed(requests)}
    shares = [sum(fault == name for fault, _ in first.values()) for name in ("slow-down", "reset", "truncate", "")]
    assert all(30 < share < 90 for share in shares[:3]), shares
    other = S3Faults(slow_down=0.2, reset=0.2, truncate=0.2, jitter_s=1, seed=5)
    assert first != {request: other.of(request, 0) for request in requests}


def test_settings():
    assert parse_s3_faults("latency=200ms~50ms,bandwidth=10m,slow-down=5%,reset=2.5%,truncate=1%,seed=7") == S3Faults(
        latency_s=0.2, jitter_s=0.05, bandwidth=10 << 20, slow_down=0.05, reset=0.025, truncate=0.01, seed=7
    )
    assert parse_s3_faults("latency=1s") == S3Faults(latency_s=1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("latncy=1s", "Did you mean 'latency'"),
        ("latency=5", "latency=200ms"),
        ("reset=half", "reset=2%"),
        ("slow-down=60%,truncate=50%", "all together at most 1"),
    ],
)
def test_what_is_wrong_is_said(text: str, told: str):
    with pytest.raises(UserError) as error:
        parse_s3_faults(text)
    assert told in str(error.value)


def test_a_proxy_needs_an_endpoint_without_tls():
    with pytest.raises(UserError, match="http://"):
        S3FaultProxy("https://s3.amazonaws.com", S3Faults())
