"""The few requests that an index makes of a file system, in one place: here they are counted, slowed and made to fail.

Names are relative to an open directory, so that the kernel (or a file server) walks no path twice.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""Not blocking: a FIFO that has the name of a caption is empty, and nobody waits for who may write to it."""


@dataclass(frozen=True)
class Listing:
    """One directory."""

    names: list[str]
    """Of files, in no order; hidden ones too."""
    directories: list[str]
    """Of its subdirectories, in no order."""
    changed_ns: int
    """Its time of change, looked at before it was read: what came in meanwhile is found the next time."""


class Files:
    """A directory tree of this machine."""

    def __init__(self, root: str) -> None:
        """Name the root."""
        self.root = root

    def open_directory(self, path: str) -> int:
        """Open a directory below the root; the caller closes it."""
        return os.open(os.path.join(self.root, path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def changed_ns(self, path: str) -> int:
        """Return a directory's time of change."""
        return os.stat(os.path.join(self.root, path)).st_mtime_ns

    def look(self, directory: int) -> Listing:
        """List an open directory. Links are followed; directories whose names begin with a dot are passed over."""
        changed = os.fstat(directory).st_mtime_ns
        with os.scandir(directory) as found:
            entries = list(found)
        # The kind comes with the listing; a link alone costs a request more.
        directories = [entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
        names = [entry.name for entry in entries]
        if directories:
            inner = frozenset(directories)
            names = [name for name in names if name not in inner]
        return Listing(names, directories, changed)

    def read(self, directory: int, names: Sequence[str], limit: int) -> list[bytes | OSError]:
        """Read at most `limit` bytes from the start of each file; an error is its result."""
        # Half of what an index costs is spent in these three calls: nothing is between them that need not be.
        open_, read, close = os.open, os.read, os.close
        found: list[bytes | OSError] = []
        add = found.append
        for name in names:
            try:
                handle = open_(name, _FLAGS, dir_fd=directory)
            except OSError as error:
                add(error)
                continue
            try:
                add(read(handle, limit))
            except OSError as error:
                add(error)
            close(handle)
        return found
