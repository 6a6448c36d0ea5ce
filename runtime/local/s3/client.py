"""The connection to S3: boto3, set up for any endpoint, with its errors turned into what happened and what to do."""

import contextlib
import importlib
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from runtime.base.env import Environ, region_of
from runtime.base.errors import PlatformError, UserError, did_you_mean, one_line
from runtime.base.log import Log
from runtime.local.s3.grant import S3Grant
from runtime.local.s3.uri import S3Object, S3Uri

log = Log("local")

CONNECT_S = 10.0
READ_S = 60.0
"""Without a byte for so long, a request is tried again."""
ATTEMPTS = 8
"""S3 asks clients to come again in normal operation (503 SlowDown); boto3 waits between attempts, up to 20 s."""
LONGEST_PAUSE_S = 5.0
CONNECTIONS = 32
PIECE = 1 << 20
"""Bytes that are read at one time."""
DENIED = ("AccessDenied", "403", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden")
EXPIRED = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired")
NO_KEY = ("NoSuchKey", "404", "NotFound")


class _BrokenOffError(Exception):
    """A connection ended in the middle of an object."""


class S3Client:
    """S3, for several threads at one time."""

    def __init__(self, environ: Environ, endpoint: str = "") -> None:
        """Set up; nothing is asked yet.

        Args:
            environ: of this process. boto3 reads AWS_PROFILE, the files of ``aws configure`` and the other variables of
                its own from the process itself; S3_ENDPOINT_URL is what it does not know.
            endpoint: instead of the configured one; empty: that one.

        Raises:
            UserError: boto3 is not installed, or its settings are wrong, such as a profile that is not there.
        """
        try:
            boto3: Any = importlib.import_module("boto3")
            config: Any = importlib.import_module("botocore.config")
            self._exceptions: Any = importlib.import_module("botocore.exceptions")
            self._http_errors: Any = importlib.import_module("urllib3.exceptions")
            unsigned: Any = importlib.import_module("botocore").UNSIGNED
        except ImportError as error:
            raise UserError(
                f"S3 cannot be used: {error}", fix="install the extra: pip install 'slipway[local]'"
            ) from error
        own = endpoint or ("" if environ.get("AWS_ENDPOINT_URL_S3") else environ.get("S3_ENDPOINT_URL", ""))
        try:
            session = boto3.session.Session()
            self._credentials: Any = session.get_credentials()
            options: dict[str, Any] = {"signature_version": unsigned} if self._credentials is None else {}

            def make(**more: object) -> Any:  # noqa: ANN401 - of boto3
                return session.client(
                    "s3",
                    endpoint_url=own or None,
                    region_name=region_of(environ, session.region_name or "us-east-1"),
                    config=config.Config(
                        connect_timeout=CONNECT_S,
                        read_timeout=READ_S,
                        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                        max_pool_connections=CONNECTIONS,
                        **options,
                        **more,
                    ),
                )

            self._client = make()
            if not _is_aws(str(self._client.meta.endpoint_url)):
                # Others often know neither names of buckets as names of hosts, nor the newer checksums of boto3.
                self._client = make(
                    s3={"addressing_style": "path"},
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                )
        except self._exceptions.BotoCoreError as error:
            raise UserError(one_line(f"S3 cannot be used: {error}"), fix="see `aws configure list`") from error
        except ValueError as error:
            raise UserError(
                one_line(f"S3 cannot be used: {error}"), fix="an endpoint is http(s)://HOST[:PORT]"
            ) from error
        self._begun = threading.Event()

    @property
    def endpoint(self) -> str:
        """The endpoint that was configured; empty: AWS's own."""
        url = str(self._client.meta.endpoint_url)
        return "" if _is_aws(url) else url

    @property
    def region(self) -> str:
        """Name of the region."""
        return str(self._client.meta.region_name)

    def grant(self) -> S3Grant:
        """Return what makes a container act as we do.

        Raises:
            UserError: the credentials that should be there cannot be had, such as those of an expired login.
        """
        environ = {"AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region}
        if self._credentials is not None:
            with self._explained("credentials"):
                frozen = self._credentials.get_frozen_credentials()
            environ |= {"AWS_ACCESS_KEY_ID": frozen.access_key, "AWS_SECRET_ACCESS_KEY": frozen.secret_key}
            if frozen.token:
                environ["AWS_SESSION_TOKEN"] = frozen.token
        else:
            environ["AWS_EC2_METADATA_DISABLED"] = "true"  # nobody is there, and asking takes seconds
        return S3Grant(environ, self.endpoint)

    # --- reading --------------------------------------------------------------------------------------------

    def objects(self, prefix: S3Uri) -> Iterator[S3Object]:
        """List all objects whose key begins so, page by page, in the order of their keys.

        Raises:
            UserError: no such bucket, no access.
            PlatformError: S3 does not answer.
        """
        self._begin()
        with self._explained(str(prefix)):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=prefix.bucket, Prefix=prefix.key)
            for page in pages:
                for item in page.get("Contents", ()):
                    modified = int(item["LastModified"].timestamp()) * 1_000_000_000
                    yield S3Object(item["Key"], int(item["Size"]), item["ETag"].strip('"'), modified)

    def folders(self, prefix: S3Uri, most: int = 50) -> tuple[list[str], bool]:
        """Return names right below a prefix that ends in a slash or is empty, and whether there are more."""
        with self._explained(str(prefix)):
            page = self._client.list_objects_v2(Bucket=prefix.bucket, Prefix=prefix.key, Delimiter="/", MaxKeys=most)
        names = [item["Prefix"] for item in page.get("CommonPrefixes", ())]
        names += [item["Key"] for item in page.get("Contents", ()) if item["Key"] != prefix.key]
        return sorted(name[len(prefix.key) :] for name in names), bool(page.get("IsTruncated"))

    def head(self, uri: S3Uri) -> S3Object:
        """Look at one object.

        Raises:
            UserError: there is none, or no access.
        """
        self._begin()
        with self._explained(str(uri)):
            found = self._client.head_object(Bucket=uri.bucket, Key=uri.key)
        modified = int(found["LastModified"].timestamp()) * 1_000_000_000
        return S3Object(uri.key, int(found["ContentLength"]), found["ETag"].strip('"'), modified)

    def read(self, bucket: str, item: S3Object, offset: int, length: int) -> bytes:
        """Read a part of an object, as it was when it was listed.

        Returns:
            Exactly `length` bytes, fewer at the end of the object.

        Raises:
            UserError: it has changed since, or is gone.
            PlatformError: S3 does not answer, or breaks off again and again.
        """
        pieces: list[bytes] = []
        self.copy(bucket, item, offset, min(offset + length, item.size), pieces.append)
        return b"".join(pieces)

    def copy(
        self,
        bucket: str,
        item: S3Object,
        start: int,
        end: int,
        sink: Callable[[bytes], object],
        ended: threading.Event | None = None,
    ) -> None:
        """Read an object from `start` to `end`, going on where a connection broke off.

        Args:
            bucket: of the object.
            item: as it was listed; another content under the same key is an error.
            start: first byte.
            end: behind the last byte.
            sink: takes every piece, in order.
            ended: set by somebody who does not want the rest.

        Raises:
            UserError: it has changed since, or is gone.
            PlatformError: S3 does not answer, or broke off `ATTEMPTS` times with nothing to show for it.
        """
        have, idle, told = start, 0, "it ended early"
        ended = ended or threading.Event()
        while have < end and not ended.is_set():
            before = have
            try:
                for piece in self._stream(bucket, item, have, end):
                    sink(piece)
                    have += len(piece)
                    if ended.is_set():
                        return
            except _BrokenOffError as error:
                told = str(error)
            if have < end:
                # What is left shrinks, or a good piece came: then it is worth while to ask again.
                idle = 0 if have - before >= min(PIECE, max(1, (end - before) // 4)) else idle + 1
                if idle == ATTEMPTS:
                    raise PlatformError(
                        one_line(f"s3://{bucket}/{item.key} broke off after {have:,} of {item.size:,} bytes: {told}"),
                        fix="run again: it goes on from there",
                    )
                ended.wait(min(0.05 * 2**idle, LONGEST_PAUSE_S))

    def _stream(self, bucket: str, item: S3Object, start: int, end: int) -> Generator[bytes]:
        with self._explained(f"s3://{bucket}/{item.key}"):
            answer = self._client.get_object(
                Bucket=bucket, Key=item.key, Range=f"bytes={start}-{end - 1}", IfMatch=f'"{item.etag}"'
            )
        body = answer["Body"]
        left = end - start
        try:
            while left and (piece := body.read(min(PIECE, left))):
                left -= len(piece)
                yield piece
        except (self._exceptions.BotoCoreError, self._http_errors.HTTPError, OSError) as error:
            raise _BrokenOffError(str(error)) from error
        finally:
            body.close()

    # --- writing --------------------------------------------------------------------------------------------

    def upload(self, path: Path, uri: S3Uri) -> None:
        """Store a file, in several parts when it is large; it appears when it is whole.

        Raises:
            UserError: no such bucket, no access.
            PlatformError: S3 does not answer.
        """
        transfer: Any = importlib.import_module("boto3.exceptions")
        with self._explained(str(uri)):
            try:
                self._client.upload_file(str(path), uri.bucket, uri.key)
            except transfer.S3UploadFailedError as error:
                # It hides the answer of S3 in its text and its context.
                raise error.__context__ or error from error

    def put(self, stream: BinaryIO, uri: S3Uri) -> None:
        """Store what a stream holds, in several parts when it is large."""
        with self._explained(str(uri)):
            self._client.upload_fileobj(stream, uri.bucket, uri.key)

    def delete(self, uri: S3Uri) -> None:
        """Remove one object; no error when it is gone."""
        with self._explained(str(uri)):
            self._client.delete_object(Bucket=uri.bucket, Key=uri.key)

    def require_bucket(self, uri: S3Uri) -> None:
        """See that a bucket is there before hours of work are to be stored in it.

        Raises:
            UserError: it is not, or it may not be asked.
        """
        self._begin()
        with self._explained(f"s3://{uri.bucket}"):
            try:
                self._client.head_bucket(Bucket=uri.bucket)
            except self._exceptions.ClientError as error:
                if _code(error) in NO_KEY:
                    raise self._no_bucket(uri.bucket) from error
                if _code(error) in DENIED:
                    # To store objects one need not be allowed to look at the bucket.
                    log.debug(f"s3://{uri.bucket} may not be looked at; whether it may be written to will be seen")
                    return
                raise

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # --- errors ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Before the first request: what is not there at all is said at once, not after a minute of attempts."""
        if self._begun.is_set():
            return
        url = urlsplit(str(self._client.meta.endpoint_url))
        from urllib.request import getproxies  # its HTTP client costs 15 ms, wanted by jobs that use S3

        if url.scheme not in getproxies():
            try:
                port = url.port or (443 if url.scheme == "https" else 80)
                socket.create_connection((url.hostname or "", port), CONNECT_S).close()
            except OSError as error:
                raise self._silent("The first request", error) from error
        self._begun.set()
        if self._credentials is None:
            log.info("no AWS credentials here: requests to S3 are unsigned, which public buckets allow")

    def _silent(self, what: str, error: Exception) -> PlatformError:
        place = self.endpoint or f"AWS, region {self.region}"
        return PlatformError(
            one_line(f"{what}: S3 ({place}) does not answer: {error}"),
            fix="start it, or mend AWS_ENDPOINT_URL_S3" if self.endpoint else "see that this machine is online",
        )

    @contextlib.contextmanager
    def _explained(self, what: str) -> Generator[None]:
        """Turn an error of boto3 into one of ours."""
        errors = self._exceptions
        try:
            yield
        except errors.ClientError as error:
            raise self._refusal(error, what) from error
        except (errors.NoCredentialsError, errors.PartialCredentialsError, errors.CredentialRetrievalError) as error:
            raise UserError(one_line(f"{what}: no credentials: {error}"), fix=_CREDENTIALS) from error
        except (errors.SSOError, errors.TokenRetrievalError, errors.UnauthorizedSSOTokenError) as error:
            raise UserError(one_line(f"{what}: the login has ended: {error}"), fix="aws sso login") from error
        except errors.SSLError as error:
            raise UserError(
                one_line(f"{what}: {error}"), fix="set AWS_CA_BUNDLE to the endpoint's certificates"
            ) from error
        except (errors.ConnectionError, errors.HTTPClientError) as error:
            raise self._silent(what, error) from error
        except errors.BotoCoreError as error:
            raise PlatformError(one_line(f"{what}: {type(error).__name__}: {error}")) from error

    def _refusal(self, error: Any, what: str) -> UserError | PlatformError:  # noqa: ANN401 - of boto3
        code, status = _code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        told = error.response.get("Error", {}).get("Message", "")
        if code == "NoSuchBucket":
            return self._no_bucket(what.removeprefix("s3://").partition("/")[0])
        if code in DENIED:
            who = "without credentials" if self._credentials is None else "with the credentials found here"
            return UserError(
                one_line(f"{what}: access is denied {who} ({code}{': ' + told if told else ''})"), fix=_CREDENTIALS
            )
        if code in EXPIRED:
            return UserError(f"{what}: the credentials have expired ({code})", fix="log in again")
        if code in NO_KEY:
            return UserError(f"{what} is not there")
        if code in ("PreconditionFailed", "412"):
            return UserError(f"{what} was changed while it was read", fix="run again")
        if status >= 500 or code in ("SlowDown", "RequestTimeout", "503", "500"):
            return PlatformError(one_line(f"{what}: S3 failed {ATTEMPTS} times: {code} {told}"), fix="run again")
        return UserError(one_line(f"{what}: S3 refuses: {code} {told}"))

    def _no_bucket(self, bucket: str) -> UserError:
        known: list[str] = []
        with contextlib.suppress(self._exceptions.ClientError, self._exceptions.BotoCoreError):
            known = [item["Name"] for item in self._client.list_buckets().get("Buckets", ())]
        place = f" at {self.endpoint}" if self.endpoint else ""
        return UserError(
            f"Bucket {bucket!r} is not there{place}", allowed=did_you_mean(bucket, known),
            fix="" if known else "mend its name, or AWS_ENDPOINT_URL_S3",
        )  # fmt: skip


_CREDENTIALS = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, of somebody who may"


def _code(error: Any) -> str:  # noqa: ANN401 - of boto3
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_aws(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))
