"""Fetching one object from S3 into a file."""

from __future__ import annotations

import os

from runtime.base.env import region_of
from runtime.base.errors import PlatformError, UserError
from runtime.install.aws import CONNECT_S, Request, find_credentials, now, sign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from urllib.error import HTTPError

    from runtime.base.env import Environ
    from runtime.install.aws import Credentials

ATTEMPTS = 4
"""S3 answers 500 and 503 in normal operation and asks clients to come again."""


def split(uri: str) -> tuple[str, str]:
    """Take an ``s3://bucket/key`` apart.

    Raises:
        UserError: it has no bucket or no key.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or not key:
        raise UserError(f"{uri!r} is no S3 address of an object", allowed="s3://BUCKET/KEY")
    return bucket, key


def endpoint(bucket: str, region: str, environ: Environ) -> str:
    """Return the address under which a bucket's objects are found.

    An endpoint of the caller's is addressed by path, since its host may be an address without a name per bucket.
    """
    for name in ("AWS_ENDPOINT_URL_S3", "S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"):
        if environ.get(name):
            return f"{environ[name].rstrip('/')}/{bucket}"
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    if "." in bucket:  # no certificate covers a name with dots
        return f"https://s3.{region}.{suffix}/{bucket}"
    return f"https://{bucket}.s3.{region}.{suffix}"


def download(uri: str, target: str, environ: Environ, pause: Callable[[float], object]) -> int:
    """Fetch one object into a file.

    Args:
        uri: ``s3://BUCKET/KEY``.
        target: a file; it appears when it is complete.
        environ: endpoint, region and credentials.
        pause: waits the given seconds before another attempt; may raise to give up.

    Returns:
        Its size in bytes.

    Raises:
        UserError: S3 refuses (no such key, access denied).
        PlatformError: S3 cannot be reached, or breaks off, `ATTEMPTS` times.
    """
    bucket, key = split(uri)
    region = region_of(environ)
    credentials = find_credentials(environ)
    failure = "S3 sends us from region to region"
    for attempt in range(ATTEMPTS):
        if attempt:
            pause(0.5 * 2**attempt)
        try:
            return _download(bucket, key, region, credentials, environ, target)
        except _OtherRegionError as error:
            region = error.region
        except (OSError, EOFError) as error:
            failure = str(error)
    raise PlatformError(
        f"{uri} cannot be fetched: {failure} ({ATTEMPTS} attempts at {endpoint(bucket, region, environ)})",
        fix="under network isolation pass the code as the channel 'code'; else give the subnet a way to S3",
    )


class _OtherRegionError(Exception):
    def __init__(self, region: str) -> None:
        super().__init__(region)
        self.region = region


def _download(
    bucket: str, key: str, region: str, credentials: Credentials | None, environ: Environ, target: str
) -> int:
    import shutil
    from urllib import error as refused
    from urllib import parse, request

    address = parse.urlsplit(f"{endpoint(bucket, region, environ)}/{parse.quote(key, safe='/-_.~')}")
    asked = Request("s3", region, address.netloc, address.path)
    headers = sign(asked, credentials, now()) if credentials else {}
    try:
        question = request.Request(address.geturl(), headers=headers)  # noqa: S310 - the job's own endpoint
        with request.urlopen(question, timeout=CONNECT_S) as answer, open(f"{target}.part", "wb") as file:  # noqa: S310
            length = int(answer.headers.get("Content-Length") or -1)
            shutil.copyfileobj(answer, file, 1 << 20)
    except refused.HTTPError as error:
        raise _refusal(error, f"s3://{bucket}/{key}", region) from error
    size = os.path.getsize(f"{target}.part")
    if length >= 0 and size != length:
        raise EOFError(f"the connection broke off after {size} of {length} bytes")
    os.replace(f"{target}.part", target)
    return size


def _refusal(error: HTTPError, uri: str, region: str) -> Exception:
    """Turn an answer of S3 into what is to be done about it."""
    elsewhere = error.headers.get("x-amz-bucket-region", "")
    if elsewhere and elsewhere != region and error.code in (301, 307, 400, 403):
        return _OtherRegionError(elsewhere)
    if error.code >= 500 or error.code == 429:
        return OSError(f"S3 answered {error.code}")
    words = {403: "access is denied", 404: "there is no such object", 400: "S3 calls the request malformed"}
    return UserError(
        f"{uri} cannot be fetched: {words.get(error.code, f'S3 answered {error.code}')}",
        fix="let the job's role read it (s3:GetObject)" if error.code == 403 else "submit the code again",
    )
