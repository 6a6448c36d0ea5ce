"""A slow or failing S3: a proxy in front of any endpoint, reproducible by seed.

    with S3FaultProxy("http://127.0.0.1:5000", S3Faults(latency_s=0.2, slow_down=0.05, truncate=0.02)) as proxy:
        environ["AWS_ENDPOINT_URL_S3"] = proxy.url

What happens to a request depends on the seed, the request and how often it was made before, and not on the order in
which clients make theirs. It is for an endpoint that takes any name of a host, as moto and MinIO do; AWS's does not.
"""

import contextlib
import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

from runtime.base.errors import UserError, did_you_mean

PIECE = 1 << 16
UPSTREAM_S = 60.0
Fault = Literal["", "slow-down", "reset", "truncate"]
_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-authorization"}
"""Headers between two neighbours: never passed on."""


@dataclass(frozen=True)
class S3Faults:
    """What may happen to a request; shares are in 0..1 and sum to at most 1."""

    latency_s: float = 0.0
    """Before every answer."""
    jitter_s: float = 0.0
    """Added to it, up to this much."""
    bandwidth: int | None = None
    """Bytes per second of one answer; None: no limit."""
    slow_down: float = 0.0
    """Share of requests that are answered with 503 SlowDown."""
    reset: float = 0.0
    """Share whose connection is reset in the middle of the body."""
    truncate: float = 0.0
    """Share whose connection ends in the middle of the body, as if it were whole."""
    seed: int = 0
    most: int = 3
    """How often at most one and the same request fails: then it comes through."""

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        shares = (self.slow_down, self.reset, self.truncate)
        if min(shares) < 0 or sum(shares) > 1:
            raise UserError(f"Shares of faults are {shares}", allowed="each is at least 0, all together at most 1")

    def of(self, request: str, times: int) -> tuple[Fault, float]:
        """Decide what happens to a request.

        Args:
            request: method, address and range.
            times: how often it was made before.

        Returns:
            The fault, and seconds before the answer.
        """
        chance = random.Random(f"{self.seed} {times} {request}")  # noqa: S311 - reproducible on purpose
        drawn = chance.random()
        delay = self.latency_s + chance.random() * self.jitter_s
        if times >= self.most:
            return "", delay
        shares: tuple[tuple[Fault, float], ...] = (
            ("slow-down", self.slow_down),
            ("reset", self.reset),
            ("truncate", self.truncate),
        )
        for name, share in shares:
            if drawn < share:
                return name, delay
            drawn -= share
        return "", delay


def parse_s3_faults(text: str) -> S3Faults:
    """Read settings with commas between them.

    >>> parse_s3_faults("latency=200ms~50ms,slow-down=5%,truncate=1%,bandwidth=10m,seed=7").slow_down
    0.05

    Raises:
        UserError: a setting is unknown or malformed.
    """
    values: dict[str, float | int] = {}
    for setting in filter(None, text.split(",")):
        name, _, value = setting.strip().partition("=")
        if name not in _FORMS:
            raise UserError(f"S3 faults {text!r}: {name!r}", allowed=did_you_mean(name, list(_FORMS)))
        found = re.fullmatch(_FORMS[name][0], value)
        if not found:
            raise UserError(f"S3 faults {text!r}: {setting!r}", allowed=f"it is {_FORMS[name][1]}")
        if name == "latency":
            values["latency_s"], values["jitter_s"] = _seconds(found[1], found[2]), _seconds(found[3] or "0", found[4])
        elif name == "bandwidth":
            values["bandwidth"] = max(1, int(float(found[1]) * 1024 ** " kmg".index(found[2] or " ")))
        elif name == "seed":
            values["seed"] = int(value)
        else:
            values[name.replace("-", "_")] = float(found[1]) / 100
    return S3Faults(**values)  # pyright: ignore[reportArgumentType] - each setting has the type of its field


_NUMBER = r"(\d+(?:\.\d+)?)"
_FORMS = {
    "latency": (rf"{_NUMBER}(ms|s)(?:~{_NUMBER}(ms|s))?", "latency=200ms, or latency=200ms~50ms with a spread"),
    "bandwidth": (rf"{_NUMBER}([kmg]?)(?:i?b)?(?:/s)?", "bandwidth=10m, bytes per second"),
    "slow-down": (rf"{_NUMBER}%", "slow-down=5%"),
    "reset": (rf"{_NUMBER}%", "reset=2%"),
    "truncate": (rf"{_NUMBER}%", "truncate=1%"),
    "seed": (r"\d+", "seed=N"),
}


def _seconds(number: str, unit: str | None) -> float:
    return float(number) / (1000 if unit == "ms" else 1)


class S3FaultProxy:
    """Listens, passes requests on, and lets them fail; a context manager."""

    def __init__(self, endpoint: str, faults: S3Faults, address: str = "127.0.0.1") -> None:
        """Listen; requests are taken at once.

        Args:
            endpoint: URL of the S3 behind it.
            faults: what happens; may be replaced while it runs.
            address: of this machine, to listen on.
        """
        self.faults = faults
        self.played: Counter[str] = Counter()
        """How often each fault was played, and ``requests`` in all."""
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()
        parts = urlsplit(endpoint)
        if parts.scheme != "http" or not parts.hostname:
            raise UserError(f"S3 faults need an endpoint of http://, this one is {endpoint!r}")
        self.upstream = (parts.hostname, parts.port or 80)
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{address}:{self._server.server_address[1]}"
        """To be used as the endpoint."""
        self._thread = threading.Thread(target=self._server.serve_forever, name="S3 faults", daemon=True)
        self._thread.start()

    def __enter__(self) -> "S3FaultProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def draw(self, request: str) -> tuple[Fault, float]:
        """Decide about one request, and count it."""
        with self._lock:
            times = self._times[request]
            self._times[request] += 1
            fault, delay = self.faults.of(request, times)
            self.played["requests"] += 1
            if fault:
                self.played[fault] += 1
        return fault, delay


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: S3FaultProxy

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: tests read what is printed."""

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError, BrokenPipeError):  # a client that gives up is no fault of ours
            super().handle_one_request()
            return
        self.close_connection = True

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self._pass_on
        raise AttributeError(name)

    def _pass_on(self) -> None:
        body = b"".join(self._body())
        fault, delay = self.owner.draw(f"{self.command} {self.path} {self.headers.get('Range', '')}")
        if delay:
            time.sleep(delay)
        if fault == "slow-down":
            self._refuse()
            return
        upstream = http.client.HTTPConnection(*self.owner.upstream, timeout=UPSTREAM_S)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in {*_HOP, "expect"}}
            if body or "Content-Length" in headers or self.headers.get("Transfer-Encoding"):
                headers["Content-Length"] = str(len(body))
            upstream.request(self.command, self.path, body or None, headers)
            self._answer(upstream.getresponse(), fault)
        except ConnectionRefusedError:
            self.send_error(502, "the endpoint behind the proxy does not answer")
        finally:
            upstream.close()

    def _answer(self, answer: http.client.HTTPResponse, fault: Fault) -> None:
        length = answer.getheader("Content-Length")
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        if length is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD" and answer.status not in (204, 304):
            # Half of a body of unknown length would look whole: then the fault comes at its beginning.
            self._send_body(answer, None if not fault else int(length or 0) // 2)
        if fault == "reset":
            # With no time to linger, closing sends a reset instead of an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault:
            self.close_connection = True

    def _send_body(self, answer: http.client.HTTPResponse, left: int | None) -> None:
        rate = self.owner.faults.bandwidth
        while piece := answer.read(PIECE if rate is None else max(1, min(PIECE, rate // 10))):
            if left is not None:
                piece, left = piece[:left], left - len(piece[:left])
            if rate is not None:
                time.sleep(len(piece) / rate)
            self.wfile.write(piece)
            if left == 0:
                break
        self.wfile.flush()

    def _refuse(self) -> None:
        text = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        self.send_response(503, "Slow Down")
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
        elif length := int(self.headers.get("Content-Length") or 0):
            yield self.rfile.read(length)
