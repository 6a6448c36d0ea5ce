"""Signed requests to AWS with the standard library alone: who we are, where we are, and the signature.

The launcher never imports boto3, which images need not have; to fetch an archive of code, or the address of a package
index, it needs a signed request or two. Signature Version 4 after "AWS Signature Version 4 for API requests" in the IAM
user guide.
"""

from __future__ import annotations

from runtime.base.errors import PlatformError
from runtime.base.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.base.env import Environ

CONNECT_S = 20.0
"""Deadline of one connection and of each read from it."""
CONTAINER_HOST = "http://169.254.170.2"
"""Where AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is relative to. Source: "Container credential provider", SDK guide."""
INSTANCE_HOST = "http://169.254.169.254"
"""Instance metadata service."""
INSTANCE_ANSWERS_S = 1.0
"""Off EC2 nobody answers there."""


@frozen
class Credentials:
    """What a request is signed with."""

    access_key: str
    secret_key: str
    token: str = ""


@frozen
class Request:
    """One request without a body."""

    service: str
    region: str
    host: str
    path: str
    """Percent-encoded, as it is sent."""
    query: str = ""
    """Percent-encoded, names in order."""
    method: str = "GET"


def sign(request: Request, credentials: Credentials, moment: str) -> dict[str, str]:
    """Return the headers that make a request ours.

    Args:
        request: what is asked.
        credentials: who asks.
        moment: UTC, ``YYYYMMDDTHHMMSSZ``.
    """
    import hashlib
    import hmac

    def mac(key: bytes, text: str) -> bytes:
        return hmac.new(key, text.encode(), hashlib.sha256).digest()

    empty = hashlib.sha256(b"").hexdigest()
    headers = {"host": request.host, "x-amz-content-sha256": empty, "x-amz-date": moment}
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(headers))
    listed = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = "\n".join((request.method, request.path, request.query, listed, names, empty))
    scope = f"{moment[:8]}/{request.region}/{request.service}/aws4_request"
    to_sign = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (moment[:8], request.region, request.service, "aws4_request"):
        key = mac(key, part)
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    del headers["host"]
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers


def now() -> str:
    """Return this moment as `sign` wants it."""
    import time

    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def find_credentials(environ: Environ) -> Credentials | None:
    """Look where SDKs look inside a container: environment, container credentials, instance metadata.

    Returns:
        None: nobody has any, and the request goes unsigned, as a public bucket allows.

    Raises:
        PlatformError: a place that should have them does not answer as it should.
    """
    if environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"):
        return Credentials(
            environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"], environ.get("AWS_SESSION_TOKEN", "")
        )
    relative = environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "")
    address = CONTAINER_HOST + relative if relative else environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
    if address:
        return _read_credentials(address, _authorization(environ))
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return None
    return _instance_credentials()


def _authorization(environ: Environ) -> dict[str, str]:
    token = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
    path = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "")
    if path:
        try:
            with open(path, encoding="utf-8") as file:
                token = file.read().strip()
        except OSError as error:
            raise PlatformError(f"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE cannot be read: {error}") from error
    return {"Authorization": token} if token else {}


def _read_credentials(address: str, headers: Mapping[str, str]) -> Credentials:
    from runtime.base.jsontext import loads

    try:
        held = loads(_ask(address, headers))
        named: dict[str, object] = held if isinstance(held, dict) else {}  # pyright: ignore[reportUnknownVariableType]
        return Credentials(str(named["AccessKeyId"]), str(named["SecretAccessKey"]), str(named.get("Token") or ""))
    except (OSError, ValueError, KeyError) as error:
        raise PlatformError(
            f"The credentials of the job's role cannot be read ({type(error).__name__}: {error})",
            fix="give the job a role, or pass AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ) from error


def _instance_credentials() -> Credentials | None:
    roles = f"{INSTANCE_HOST}/latest/meta-data/iam/security-credentials/"
    try:
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
        token = _ask(f"{INSTANCE_HOST}/latest/api/token", lifetime, method="PUT", seconds=INSTANCE_ANSWERS_S)
        headers = {"X-aws-ec2-metadata-token": token}
        role = _ask(roles, headers).split()[0]
    except (OSError, IndexError):
        return None
    return _read_credentials(roles + role, headers)


def _ask(address: str, headers: Mapping[str, str], *, method: str = "GET", seconds: float = CONNECT_S) -> str:
    from urllib import request

    # These addresses exist on this machine only: no proxy could reach them.
    opener = request.build_opener(request.ProxyHandler({}))
    asked = request.Request(address, headers=dict(headers), method=method)  # noqa: S310 - link-local, http by design
    with opener.open(asked, timeout=seconds) as answer:
        return answer.read().decode()
