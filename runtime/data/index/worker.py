"""Does tasks in one process: lists directories, makes rows of what is new, writes them to a spool of its own."""

import os
import time
from array import array
from collections.abc import Iterable, Mapping
from hashlib import blake2b

from runtime.data.index.files import Files
from runtime.data.index.reader import Rows
from runtime.data.index.rows import Options
from runtime.data.index.scan import Scanned, Scanner
from runtime.data.index.segments import Segment
from runtime.data.index.tasks import Done, Known, Share, Task

FRESH_NS = 2_000_000_000
"""A directory that changed so shortly before it was listed may change once more with the same time."""
REPORT_S = 2.0
"""A process tells after this time what it has done: so much is done again after a kill, at most."""


class Worker:
    """Does tasks in one process, and writes rows to a spool of its own."""

    def __init__(self, files: Files, options: Options, share: Share, spool: str) -> None:
        """Prepare.

        Args:
            files: the tree.
            options: of the rows.
            share: of the tree.
            spool: path without suffix; appended to.
        """
        self._scanner = Scanner(files, options, share.owns)
        self._share = share
        self._stem = spool
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._rows, self._lengths = os.open(f"{spool}.jsonl", flags, 0o644), os.open(f"{spool}.len", flags, 0o644)
        self._size, self._count = os.fstat(self._rows).st_size, os.fstat(self._lengths).st_size // 4

    def close(self) -> None:
        """Close the spool, and end the threads."""
        self._scanner.close()
        os.close(self._rows)
        os.close(self._lengths)

    def do(self, task: Task) -> Done:
        """Do a task."""
        if task.names:
            old = self._old(task.known.get(task.directories[0]), task.names[0], task.names[-1])
            return self._spool([self._scanner.scan_part(task.directories[0], task.part, task.names, old)])
        kept: list[Segment] = []
        changed: list[str] = []
        asked = [directory for directory in task.directories if directory in task.known]
        for directory, at in zip(asked, self._scanner.changed_ns(asked), strict=True):
            known = task.known[directory]
            if at and at == known.changed_ns:
                kept += known.segments
            else:
                changed.append(directory)
        new = [directory for directory in task.directories if directory not in task.known]
        due = [*changed, *new]
        done = self._spool(self._scanner.scan(due, lambda directory: self._old(task.known.get(directory))), task.known)
        rest = tuple(due[len(done.segments) :])
        left = [Task(rest, {name: task.known[name] for name in rest if name in task.known})] if rest else []
        return Done(kept + done.segments, done.more + left)

    def _old(self, known: Known | None, first: str = "", last: str = "") -> dict[str, bytes]:
        """Return the rows that were made before, by file name."""
        if known is None:
            return {}
        found: dict[str, bytes] = {}
        for segment in known.segments:
            if segment.rows:
                with Rows.open(segment.source) as rows:
                    found |= rows.by_name(segment.first, segment.rows, first, last)
        return found

    def _spool(self, scanned: Iterable[Scanned], known: Mapping[str, Known] | None = None) -> Done:
        """Write rows down, of as many directories as `REPORT_S` allows; a directory counts when they are there."""
        until = time.monotonic() + REPORT_S
        segments: list[Segment] = []
        more: list[Task] = []
        content: list[bytes] = []
        lengths: list[int] = []
        now = time.time_ns()
        for one in scanned:
            text = b"".join(one.rows)
            size = len(text)
            segments.append(
                Segment(
                    one.directory,
                    one.part,
                    one.changed_ns if now - one.changed_ns > FRESH_NS else 0,
                    len(one.rows),
                    size,
                    blake2b(text, digest_size=16).hexdigest(),
                    one.directories,
                    one.problems,
                    self._stem,
                    self._size,
                    self._count,
                )
            )
            content.append(text)
            lengths += map(len, one.rows)
            self._size += size
            self._count += len(one.rows)
            before = {one.directory: known[one.directory]} if known and one.directory in known else {}
            more += [
                Task((one.directory,), before, number, names)
                for number, names in enumerate(one.more, 1)
                if self._share.owns(one.directory, number)
            ]
            if time.monotonic() > until:
                break
        _write_all(self._rows, b"".join(content))
        _write_all(self._lengths, array("I", lengths).tobytes())
        return Done(segments, more)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
