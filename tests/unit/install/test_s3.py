"""S3 over plain HTTP: a server of ours checks the signature and misbehaves on demand."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runtime.base.errors import PlatformError, UserError
from runtime.install import aws, s3

KEYS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret/key+1", "AWS_SESSION_TOKEN": "tok"}


@dataclass
class Server:
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    answers: list[int] = field(default_factory=list[int])
    """Codes to give before the truth; 0 breaks off after half of the body."""
    region: str = ""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list[tuple[str, dict[str, str]]])
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            code = state.answers.pop(0) if state.answers else 200
            body = state.objects.get(self.path.lstrip("/"))
            if self.path.startswith("/role"):
                body = b'{"AccessKeyId": "AKROLE", "SecretAccessKey": "s", "Token": "t"}'
            elif state.region and f"/{state.region}/s3/" not in self.headers.get("authorization", ""):
                code = 400
            elif code == 200 and body is None:
                code = 404
            self.send_response(200 if code in (0, 200) else code)
            if state.region:
                self.send_header("x-amz-bucket-region", state.region)
            body = body or b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if code == 200 else body[: len(body) // 2] if code == 0 else b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def fetch(server: Server, tmp_path: Path, uri: str = "s3://bucket/key", **environ: str) -> bytes:
    pauses.clear()
    s3.download(uri, str(tmp_path / "out"), {"S3_ENDPOINT_URL": server.url, **KEYS, **environ}, pauses.append)
    return (tmp_path / "out").read_bytes()


pauses: list[float] = []


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"])
def test_every_name_of_an_endpoint_is_honoured(server: Server, tmp_path: Path, name: str) -> None:
    server.objects["bucket/a%20b/%C3%BC.tar.gz"] = b"content"
    s3.download("s3://bucket/a b/ü.tar.gz", str(tmp_path / "out"), {name: server.url + "/", **KEYS}, pauses.append)
    assert (tmp_path / "out").read_bytes() == b"content"


def test_the_request_carries_what_the_signature_covers(server: Server, tmp_path: Path) -> None:
    server.objects["bucket/key"] = b"1"
    fetch(server, tmp_path, AWS_REGION="eu-west-1")
    (path, headers), *_ = server.asked
    asked = aws.Request("s3", "eu-west-1", headers["host"], path)
    signed = aws.sign(asked, aws.Credentials("AKID", "secret/key+1", "tok"), headers["x-amz-date"])
    assert headers["authorization"] == signed["authorization"]
    assert headers["x-amz-security-token"] == "tok"


def test_the_signature_of_the_worked_example_in_the_s3_documentation() -> None:
    """The example "GET Bucket (List Objects)", which has just the headers that we send."""
    key = aws.Credentials("AKIA" + "IOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    asked = aws.Request("s3", "us-east-1", "examplebucket.s3.amazonaws.com", "/", "max-keys=2&prefix=J")
    signed = aws.sign(asked, key, "20130524T000000Z")["authorization"]
    assert signed.endswith("Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")


def test_nothing_is_signed_without_credentials(server: Server, tmp_path: Path) -> None:
    server.objects["bucket/key"] = b"public"
    environ = {"S3_ENDPOINT_URL": server.url, "AWS_EC2_METADATA_DISABLED": "true"}
    s3.download("s3://bucket/key", str(tmp_path / "out"), environ, pauses.append)
    assert "authorization" not in server.asked[0][1]


def test_credentials_of_the_containers_role(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "CONTAINER_HOST", server.url)
    found = aws.find_credentials({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/role/x"})
    assert found == aws.Credentials("AKROLE", "s", "t")
    told = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.url}/role",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "let-me-in",
    }
    assert aws.find_credentials(told) == found
    assert server.asked[-1][1]["authorization"] == "let-me-in"


@pytest.mark.parametrize("answers", [[503], [500, 503, 429], [0], [0, 503]])
def test_what_s3_asks_to_be_repeated_is_repeated(server: Server, tmp_path: Path, answers: list[int]) -> None:
    server.objects["bucket/key"] = b"content" * 1000
    server.answers = list(answers)
    assert fetch(server, tmp_path) == b"content" * 1000
    assert len(pauses) == len(answers)
    assert pauses == sorted(pauses)
    assert not (tmp_path / "out.part").exists()


def test_the_attempts_end(server: Server, tmp_path: Path) -> None:
    server.objects["bucket/key"] = b"content"
    server.answers = [503] * 50
    with pytest.raises(PlatformError, match=r"s3://bucket/key cannot be fetched: S3 answered 503 \(4 attempts"):
        fetch(server, tmp_path)
    assert len(server.asked) == 4
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("code", "words"), [(403, "access is denied.*s3:GetObject"), (404, "there is no such object")])
def test_a_refusal_is_the_users_and_is_not_repeated(server: Server, tmp_path: Path, code: int, words: str) -> None:
    server.objects["bucket/key"] = b"content"
    server.answers = [code]
    with pytest.raises(UserError, match=rf"s3://bucket/key cannot be fetched: {words}"):
        fetch(server, tmp_path)
    assert len(server.asked) == 1


def test_a_bucket_in_another_region_is_found(server: Server, tmp_path: Path) -> None:
    server.objects["bucket/key"] = b"far away"
    server.region = "ap-south-1"
    assert fetch(server, tmp_path, AWS_REGION="us-east-1") == b"far away"
    assert len(server.asked) == 2


def test_nobody_there_is_the_platforms_fault(tmp_path: Path) -> None:
    environ = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", **KEYS}
    with pytest.raises(PlatformError, match=r"refused.*Fix: under network isolation pass the code as the channel"):
        s3.download("s3://bucket/key", str(tmp_path / "out"), environ, pauses.append)


@pytest.mark.parametrize("uri", ["s3://bucket", "s3:///key", "s3://bucket/", "https://bucket/key"])
def test_what_is_no_address_of_an_object(uri: str) -> None:
    with pytest.raises(UserError, match="no S3 address"):
        s3.split(uri)


@pytest.mark.parametrize(
    ("bucket", "region", "address"),
    [
        ("b", "us-east-1", "https://b.s3.us-east-1.amazonaws.com"),
        ("b", "cn-north-1", "https://b.s3.cn-north-1.amazonaws.com.cn"),
        ("b.c", "eu-west-1", "https://s3.eu-west-1.amazonaws.com/b.c"),
    ],
)
def test_addresses_of_the_service(bucket: str, region: str, address: str) -> None:
    assert s3.endpoint(bucket, region, {}) == address
