"""Where checkpoints outlive the containers: a directory of this machine, or a prefix in S3.

Files by name, nothing more; who moves them, and when, is `runtime.local.checkpoints.agent`.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from runtime.base.errors import PlatformError, UserError
from runtime.base.log import Log
from runtime.local.s3.client import S3Client
from runtime.local.s3.uri import S3Object, S3Uri, lay_out

log = Log("local")

PARTIAL = ".slipway-partial"
"""Suffix of a file that is being stored."""


@dataclass(frozen=True)
class StoredFile:
    """One file of a store."""

    size: int
    """Bytes."""
    modified_ns: int
    """Unix time at which it was stored, in ns."""


class CheckpointStore(Protocol):
    """Files by relative name. Several threads use one at the same time."""

    @property
    def uri(self) -> str:
        """Where it is, for people."""
        ...

    def list(self) -> Mapping[str, StoredFile]:
        """List everything.

        Raises:
            UserError, PlatformError: it cannot be read.
        """
        ...

    def get(self, name: str, target: Path) -> None:
        """Bring a file here, with the time of its storing; `target`'s directory is there.

        Raises:
            UserError, PlatformError, OSError: it cannot be read, or not be written here.
        """
        ...

    def put(self, stream: BinaryIO, name: str) -> None:
        """Store a file; it appears when it is whole, and not at all when reading the stream fails.

        Raises:
            UserError, PlatformError, OSError: it cannot be stored.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a file; no error when it is gone."""
        ...


class DirectoryStore:
    """A directory of this machine."""

    def __init__(self, directory: Path) -> None:
        """Name the directory; it is made when it is needed."""
        self.directory = directory

    @property
    def uri(self) -> str:
        """Its path."""
        return str(self.directory)

    def list(self) -> dict[str, StoredFile]:
        """List everything but what is being stored."""
        found: dict[str, StoredFile] = {}
        for parent, _, names in os.walk(self.directory):
            for name in names:
                path = Path(parent, name)
                if not name.endswith(PARTIAL):
                    with contextlib.suppress(FileNotFoundError):
                        status = path.stat()
                        relative = path.relative_to(self.directory).as_posix()
                        found[relative] = StoredFile(status.st_size, status.st_mtime_ns)
        return found

    def require_writable(self) -> None:
        """Write a file, and leave nothing of it: modes and owners do not tell of mounts that are read-only.

        Raises:
            UserError: nothing can be stored.
        """
        missing = [path for path in (self.directory, *self.directory.parents) if not path.exists()]
        probe = self.directory / f"{os.getpid()}{PARTIAL}"
        try:
            while True:
                self.directory.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # another run removed what it had left empty
                    probe.touch()
                    break
        except OSError as error:
            raise UserError(
                f"Checkpoints cannot be kept in {self.directory}: {error.strerror}",
                fix="name a directory that you can write to: --checkpoints DIR",
            ) from error
        with contextlib.suppress(OSError):  # another run may be storing there by now
            probe.unlink()
            for path in missing:
                path.rmdir()

    def get(self, name: str, target: Path) -> None:
        """Copy a file."""
        shutil.copy2(self.directory / name, target)

    def put(self, stream: BinaryIO, name: str) -> None:
        """Copy a stream, through another name."""
        target = self.directory / name
        # Two hosts may store the same name at the same time.
        partial = target.with_name(f"{target.name}.{id(stream):x}{PARTIAL}")
        try:
            while True:
                target.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # another host removed what it had left empty
                    copy = partial.open("wb")
                    break
        except OSError as error:  # not to be taken for one of the file that is stored, which may vanish
            raise PlatformError(f"{target} cannot be written: {error.strerror}") from error
        with copy:
            try:
                shutil.copyfileobj(stream, copy, 1 << 20)
            except BaseException:
                partial.unlink()
                raise
        partial.replace(target)

    def remove(self, name: str) -> None:
        """Remove a file, and the directories that it leaves empty: S3 has none."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            while (path := path.parent) != self.directory:
                path.rmdir()


class S3Store:
    """A prefix in a bucket."""

    def __init__(self, client: S3Client, prefix: S3Uri) -> None:
        """Name the prefix, with or without a slash at its end."""
        self._client = client
        self._prefix = prefix
        self._objects: dict[str, S3Object] = {}

    @property
    def uri(self) -> str:
        """Its address."""
        return str(self._prefix)

    def list(self) -> dict[str, StoredFile]:
        """List everything that begins so.

        Like the service: a prefix ``.../job-1`` without a slash also matches ``.../job-10/``. Source: syne-tune #363.
        """
        self._objects = lay_out(self._prefix, self._client.objects(self._prefix))
        own = self._prefix.key if self._prefix.key.endswith("/") or not self._prefix.key else f"{self._prefix.key}/"
        foreign = next((item.key for item in self._objects.values() if not item.key.startswith(own)), None)
        if foreign is not None:
            log.warning(
                f"{self._prefix} also matches what others keep, such as s3://{self._prefix.bucket}/{foreign}: "
                "end the S3Uri with '/'"
            )
        return {name: StoredFile(item.size, item.modified_ns) for name, item in self._objects.items()}

    def get(self, name: str, target: Path) -> None:
        """Download an object that was listed."""
        item = self._objects[name]
        with target.open("wb") as stream:
            self._client.copy(self._prefix.bucket, item, 0, item.size, stream.write)
        os.utime(target, ns=(item.modified_ns, item.modified_ns))

    def put(self, stream: BinaryIO, name: str) -> None:
        """Upload a stream."""
        self._client.put(stream, self._prefix.below(name))

    def remove(self, name: str) -> None:
        """Delete an object; what others keep below a longer name is not ours to delete."""
        self._client.delete(self._prefix.below(name))
