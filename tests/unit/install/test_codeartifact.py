"""The address of a CodeArtifact repository, from a service of ours on loopback."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from runtime.base import redact
from runtime.base.errors import PlatformError, UserError
from runtime.install import aws
from runtime.install.codeartifact import index_url

ARN = "arn:aws:codeartifact:eu-west-1:123456789012:repository/my-domain/my-repo"
KEYS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret"}
GIVEN = "t0ken-of-the-service-4711-x9Y8z7"


@dataclass
class Service:
    url: str = ""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list[tuple[str, str, dict[str, str]]])
    code: int = 200


@pytest.fixture
def service() -> Iterator[Service]:
    state = Service()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            state.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
            endpoint = "https://my-domain-123456789012.d.codeartifact.eu-west-1.amazonaws.com/pypi/my-repo/"
            held = {"authorizationToken": GIVEN} if self.command == "POST" else {"repositoryEndpoint": endpoint}
            body = json.dumps(held).encode()
            self.send_response(state.code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield state
        http.shutdown()
        thread.join()
    redact.forget()


def test_the_address_holds_the_token_and_nothing_that_we_print_does(service: Service) -> None:
    url = index_url(ARN, {**KEYS, "AWS_ENDPOINT_URL_CODEARTIFACT": service.url})
    host = "my-domain-123456789012.d.codeartifact.eu-west-1.amazonaws.com"
    assert url == f"https://aws:{GIVEN}@{host}/pypi/my-repo/simple/"
    assert GIVEN not in redact.redact(f"Looking in indexes: {url}")
    assert GIVEN not in redact.redact(f"pip said {GIVEN} alone")


def test_the_requests_are_those_of_the_service_and_signed(service: Service) -> None:
    index_url(ARN, {**KEYS, "AWS_ENDPOINT_URL_CODEARTIFACT": service.url})
    (first, token_path, headers), (second, endpoint_path, _) = service.asked
    assert (first, token_path) == ("POST", "/v1/authorization-token?domain=my-domain&domain-owner=123456789012")
    assert (second, endpoint_path) == (
        "GET",
        "/v1/repository/endpoint?domain=my-domain&domain-owner=123456789012&format=pypi&repository=my-repo",
    )
    path, _, query = token_path.partition("?")
    asked = aws.Request("codeartifact", "eu-west-1", headers["host"], path, query, "POST")
    signed = aws.sign(asked, aws.Credentials("AKID", "secret"), headers["x-amz-date"])
    assert headers["authorization"] == signed["authorization"]


@pytest.mark.parametrize("arn", ["", "my-repo", ARN.replace("codeartifact", "s3"), ARN.replace("/my-repo", "")])
def test_a_malformed_name_is_the_users(arn: str) -> None:
    with pytest.raises(UserError, match=r"CA_REPOSITORY_ARN is .*arn:PARTITION:codeartifact"):
        index_url(arn, KEYS)


def test_a_refusal_says_which_permissions_are_needed(service: Service) -> None:
    service.code = 403
    with pytest.raises(PlatformError, match=r"does not answer POST /v1/authorization-token: HTTP Error 403.*GetAuth"):
        index_url(ARN, {**KEYS, "AWS_ENDPOINT_URL_CODEARTIFACT": service.url})


def test_nobody_to_ask_with_is_told() -> None:
    with pytest.raises(PlatformError, match="no credentials to ask with"):
        index_url(ARN, {"AWS_EC2_METADATA_DISABLED": "true"})
