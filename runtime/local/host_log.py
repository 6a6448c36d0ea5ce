"""The log file of one host: an engine writes it, watchers get its lines while the job runs."""

import os
from collections.abc import Callable
from pathlib import Path


class HostLog:
    """One file for all attempts; the engine writes it, we only show what is new."""

    def __init__(self, path: Path, *watchers: Callable[[str], None]) -> None:
        """Open the file for appending.

        Args:
            path: made if need be; earlier attempts stay in it.
            watchers: each takes one whole line.
        """
        self.path = path
        self._watchers = watchers
        self.sink = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._source = path.open("rb")
        self._source.seek(0, os.SEEK_END)
        self._rest = b""

    def mark(self, line: str) -> None:
        """Separate attempts."""
        os.write(self.sink, f"=== {line} ===\n".encode())

    def pump(self, *, last: bool = False) -> None:
        """Show the lines that came since."""
        if not self._watchers:
            return
        while piece := self._source.read(1 << 16):
            *lines, self._rest = (self._rest + piece).split(b"\n")
            for line in lines:
                self._tell(line)
        if last and self._rest:
            self._tell(self._rest)
            self._rest = b""

    def _tell(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        for watcher in self._watchers:
            watcher(text)

    def close(self) -> None:
        """Show the rest and close."""
        self.pump(last=True)
        self._source.close()
        os.close(self.sink)
