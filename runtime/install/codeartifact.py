"""The address of a private package index of AWS CodeArtifact, with its token inside.

Source: sagemaker-training 5.1.4 (``CA_REPOSITORY_ARN``); "Configure and use pip with CodeArtifact", CodeArtifact guide.
"""

from __future__ import annotations

from runtime.base.errors import PlatformError, UserError
from runtime.base.jsontext import loads
from runtime.base.redact import learn
from runtime.install.aws import CONNECT_S, Credentials, Request, find_credentials, now, sign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.base.env import Environ


def index_url(arn: str, environ: Environ) -> str:
    """Ask for a token and an address.

    Args:
        arn: ``arn:PARTITION:codeartifact:REGION:ACCOUNT:repository/DOMAIN/REPOSITORY``.
        environ: credentials; AWS_ENDPOINT_URL_CODEARTIFACT.

    Returns:
        An address for pip. The token in it is masked in everything that we print from now on.

    Raises:
        UserError: the ARN is malformed.
        PlatformError: the service refuses or cannot be reached.
    """
    parts = arn.split(":", 5)
    names = parts[5].split("/", 2) if len(parts) == 6 else []
    if len(names) != 3 or parts[0] != "arn" or parts[2] != "codeartifact" or names[0] != "repository" or not all(names):
        raise UserError(
            f"CA_REPOSITORY_ARN is {arn!r}",
            allowed="arn:PARTITION:codeartifact:REGION:ACCOUNT:repository/DOMAIN/REPOSITORY",
        )
    region, owner, domain, repository = parts[3], parts[4], names[1], names[2]
    credentials = find_credentials(environ)
    if credentials is None:
        raise PlatformError("CA_REPOSITORY_ARN is set, and the job has no credentials to ask with")
    suffix = "amazonaws.com.cn" if parts[1] == "aws-cn" else "amazonaws.com"
    base = environ.get("AWS_ENDPOINT_URL_CODEARTIFACT") or f"https://codeartifact.{region}.{suffix}"
    who = f"domain={domain}&domain-owner={owner}"
    token = _ask(base, region, "POST", "/v1/authorization-token", who, credentials, "authorizationToken")
    learn({"codeartifact_token": token})
    asked = f"{who}&format=pypi&repository={repository}"
    address = _ask(base, region, "GET", "/v1/repository/endpoint", asked, credentials, "repositoryEndpoint")
    scheme, _, rest = address.rstrip("/").partition("://")
    return f"{scheme}://aws:{token}@{rest}/simple/"


def _ask(base: str, region: str, method: str, path: str, query: str, credentials: Credentials, key: str) -> str:
    from urllib import parse, request

    host = parse.urlsplit(base).netloc
    headers = sign(Request("codeartifact", region, host, path, query, method), credentials, now())
    asked = request.Request(f"{base}{path}?{query}", headers=headers, method=method)  # noqa: S310 - AWS or its stand-in
    try:
        with request.urlopen(asked, timeout=CONNECT_S) as answer:  # noqa: S310
            held = loads(answer.read().decode())
    except (OSError, ValueError) as error:
        raise PlatformError(
            f"CodeArtifact does not answer {method} {path}: {error}",
            fix="let the job's role call codeartifact:GetAuthorizationToken and GetRepositoryEndpoint",
        ) from error
    value: object = held.get(key) if isinstance(held, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not isinstance(value, str):
        raise PlatformError(f"CodeArtifact's answer to {method} {path} lacks {key!r}")
    return value
