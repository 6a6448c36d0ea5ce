"""Where a channel's bytes come from: objects in a store, listed once and read in pieces.

A store is this machine's files or one bucket; the feeder of FIFOs and the mount know no difference.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from runtime.base.errors import UserError
from runtime.local.s3.uri import S3Object, S3Uri, lay_out

PIECE = 1 << 20
"""Bytes that are read from this machine's files at one time."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object, as a listing shows it."""

    key: str
    """Unique in its store: of a file its absolute path."""
    size: int
    """Bytes."""
    etag: str = ""
    """Changes with the content."""
    name: str = ""
    """Path in a channel whose prefix was listed."""


class ObjectStore(Protocol):
    """Objects by key. Several threads use one at the same time."""

    def list(self, prefix: str) -> list[StoredObject]:
        """List what begins with a prefix, in the order of the keys' UTF-8 bytes, without "directory" objects.

        Raises:
            UserError: nothing of the kind can be listed.
        """
        ...

    def stat(self, key: str) -> StoredObject:
        """Look at one object.

        Raises:
            UserError: it is not there.
        """
        ...

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Read a part; shorter than `length` at the end of the object only.

        Raises:
            OSError, UserError, PlatformError: it cannot be read.
        """
        ...


class FileStore:
    """Files of this machine; a key is an absolute path, a prefix is a directory or one file."""

    def list(self, prefix: str) -> list[StoredObject]:
        """List the files below a directory; links are followed, but never in circles."""
        if os.path.isfile(prefix):
            return [self.stat(prefix)]
        if not os.path.isdir(prefix):
            raise UserError(f"{prefix} is not there", allowed="it is a directory or a file")
        found = sorted(_files(prefix, frozenset()), key=os.fsencode)
        root = prefix.rstrip("/") + "/"
        return [replace(self.stat(key), name=key.removeprefix(root)) for key in found]

    def stat(self, key: str) -> StoredObject:
        """Look at one file."""
        try:
            facts = os.stat(key)
        except OSError as error:
            raise UserError(f"{key} cannot be read: {error.strerror}") from error
        return StoredObject(key, facts.st_size, f"{facts.st_mtime_ns:x}-{facts.st_size:x}", os.path.basename(key))

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Read a part of a file."""
        descriptor = os.open(key, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)


def _files(directory: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    facts = os.stat(directory)
    here = (facts.st_dev, facts.st_ino)
    if here in above:
        return
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path, above | {here})
            elif entry.is_file():
                yield entry.path


class SlowStore:
    """A store whose every request takes its time: what is slow on the service can be seen before it is paid for."""

    def __init__(self, store: ObjectStore, latency_s: float, bytes_per_s: float | None) -> None:
        """Slow a store down.

        Args:
            store: it does the work.
            latency_s: seconds from a request to its first byte.
            bytes_per_s: of one request; several at one time have as much each, as connections to S3 do. None: no limit.
        """
        self._store = store
        self._latency_s = latency_s
        self._bytes_per_s = bytes_per_s

    def list(self, prefix: str) -> list[StoredObject]:
        """List; not slowed down, since it happens before the job is started."""
        return self._store.list(prefix)

    def stat(self, key: str) -> StoredObject:
        """Look at one object; not slowed down."""
        return self._store.stat(key)

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Read a part, not sooner than a request of its size is answered."""
        due = time.monotonic() + self._latency_s
        data = self._store.read(key, offset, length)
        if self._bytes_per_s is not None:
            due += len(data) / self._bytes_per_s
        time.sleep(max(0.0, due - time.monotonic()))
        return data


def split_uri(uri: str) -> tuple[str, str]:
    """Split a URI into its bucket, empty for this machine's files, and its key.

    >>> split_uri("s3://bucket/some/key"), split_uri("file:///data/a")
    (('bucket', 'some/key'), ('', '/data/a'))

    Raises:
        UserError: another scheme, or no bucket.
    """
    scheme, found, rest = uri.partition("://")
    if not found:
        return "", str(Path(uri).expanduser().absolute())
    if scheme == "file" and rest.startswith("/"):
        return "", rest
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise UserError(f"{uri!r} names no data", allowed="s3://BUCKET/KEY, file:///PATH or a path")
    return bucket, key


class Stores:
    """Stores by bucket, each opened on first use."""

    def __init__(self, latency_s: float = 0.0, bytes_per_s: float | None = None, endpoint: str = "") -> None:
        """Nothing is opened; see `SlowStore` and `BucketStore` for the arguments."""
        self._endpoint = endpoint
        self._latency_s = latency_s
        self._bytes_per_s = bytes_per_s
        self._opened: dict[str, ObjectStore] = {}

    @property
    def slow(self) -> bool:
        """Whether requests are slowed down."""
        return bool(self._latency_s or self._bytes_per_s)

    def of(self, bucket: str) -> ObjectStore:
        """Return a bucket's store; the empty name is this machine."""
        if bucket not in self._opened:
            store: ObjectStore = BucketStore(bucket, self._endpoint) if bucket else FileStore()
            self._opened[bucket] = SlowStore(store, self._latency_s, self._bytes_per_s) if self.slow else store
        return self._opened[bucket]


class BucketStore:
    """One bucket of S3."""

    def __init__(self, bucket: str, endpoint: str = "") -> None:
        """Connect as the rest of the platform does: by the environment of this process.

        Args:
            bucket: its name.
            endpoint: instead of the configured one; empty: that one.

        Raises:
            UserError: boto3 is not installed, or its settings are wrong.
        """
        # boto3 takes half a second to import, and most jobs need none of it.
        from runtime.base.env import process_environ
        from runtime.local.s3.client import S3Client

        self._bucket = bucket
        self._client = S3Client(process_environ(), endpoint)
        self._known: dict[str, S3Object] = {}

    def list(self, prefix: str) -> list[StoredObject]:
        """List the objects whose keys begin so."""
        found = lay_out(uri := S3Uri(self._bucket, prefix), self._client.objects(uri))
        if not found:
            from runtime.local.s3.cache import nothing_there

            raise nothing_there(self._client, uri, "The channel's prefix")
        return [self._remember(item, name) for name, item in found.items()]

    def stat(self, key: str) -> StoredObject:
        """Look at one object."""
        return self._remember(self._client.head(S3Uri(self._bucket, key)), key.rpartition("/")[2])

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Read a part of an object, as it was when it was listed."""
        if key not in self._known:
            self.stat(key)
        return self._client.read(self._bucket, self._known[key], offset, length)

    def _remember(self, item: S3Object, name: str) -> StoredObject:
        self._known[item.key] = item
        return StoredObject(item.key, item.size, item.etag, name)
