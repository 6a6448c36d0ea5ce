"""Builds an index of a directory tree: over processes of this machine, over hosts and jobs by shares.

What is known stays: a directory that has not changed is not listed again, of one that has only new files are read, and
a build that was killed goes on with what it had done.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path

from runtime.base.errors import UserError
from runtime.data.index.files import Files
from runtime.data.index.hands import Hands
from runtime.data.index.rows import Options
from runtime.data.index.segments import Built, Segment, assemble, read_built, segment_from_json, segments_of
from runtime.data.index.tasks import WHOLE, Done, Known, Share, Task, children, next_task

BUILDING = ".building"


@dataclass
class Progress:
    """How far a build is."""

    rows: int = 0
    directories: int = 0
    waiting: int = 0
    """Directories that are known and not done."""
    kept: int = 0
    """Rows that were not made again."""
    problems: int = 0


@dataclass(frozen=True)
class Request:
    """What is to be built."""

    root: Path
    out: Path
    options: Options
    share: Share = WHOLE
    processes: int = 1
    recheck: bool = False
    """Read everything again: what was changed in place shows by nothing else."""
    files: type[Files] = Files
    """How the tree is read; tests slow it."""


def build(request: Request, on_progress: Callable[[Progress], None] = lambda _: None) -> tuple[Built, Progress]:
    """Build an index, or bring one up to date.

    Args:
        request: what.
        on_progress: called after every task.

    Returns:
        What was built, and how it came about.

    Raises:
        UserError: the tree cannot be listed, or the output directory holds another index, or is in use.
    """
    request.out.mkdir(parents=True, exist_ok=True)
    lock = os.open(request.out, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{request.out} is being built by another process", fix="wait for it") from None
        building = request.out / BUILDING
        known = _known(request, building)
        building.mkdir(exist_ok=True)
        segments, progress = _scan_tree(request, building, known, on_progress)
        built = assemble(
            segments,
            request.out,
            root=str(request.root.resolve()),
            options=request.options,
            share=(request.share.index, request.share.count),
        )
        shutil.rmtree(building)
        return built, progress
    finally:
        os.close(lock)


def _known(request: Request, building: Path) -> dict[str, Known]:
    """Collect what an earlier index, and a build that was cut off, know of the tree."""
    built = read_built(request.out)
    root = str(request.root.resolve())
    if built is not None and (built.root, built.share) != (root, (request.share.index, request.share.count)):
        raise UserError(
            f"{request.out} holds the index of {built.root}, part {built.share[0] + 1} of {built.share[1]}",
            fix="choose another --out",
        )
    same = f"{root}\n{request.options}\n{request.share}\n"
    note = building / "request"
    try:
        continued = note.read_text(encoding="utf-8") == same
    except FileNotFoundError:
        continued = False
    if not continued:
        shutil.rmtree(building, ignore_errors=True)
    building.mkdir(exist_ok=True)
    note.write_text(same, encoding="utf-8")
    if request.recheck:
        return {}
    found: dict[str, list[Segment]] = {}
    if built is not None and built.options == request.options:
        for segment in segments_of(request.out, built):
            found.setdefault(segment.directory, []).append(segment)
    journal = building / "journal"
    if journal.exists():
        late: dict[str, dict[int, Segment]] = {}
        for line in journal.read_bytes().split(b"\n")[:-1]:  # what follows the last newline was cut off
            segment = segment_from_json(line)
            late.setdefault(segment.directory, {})[segment.part] = segment
        # Of a huge directory all parts must be there, which only its end shows: it is made again.
        found |= {directory: [parts[0]] for directory, parts in late.items() if set(parts) == {0}}
    return {directory: Known(segments[0].changed_ns, tuple(segments)) for directory, segments in found.items()}


def _scan_tree(
    request: Request, building: Path, known: Mapping[str, Known], on_progress: Callable[[Progress], None]
) -> tuple[list[Segment], Progress]:
    files = request.files(str(request.root))
    old = {segment.key: segment.source for item in known.values() for segment in item.segments}
    segments: list[Segment] = []
    progress = Progress(waiting=1)
    waiting: list[str] = [""]
    parts: list[Task] = []
    with (
        Hands(files, request.options, request.share, str(building), request.processes) as hands,
        (building / "journal").open("ab") as journal,
    ):
        running: set[Future[Done]] = set()
        while waiting or parts or running:
            while (waiting or parts) and len(running) < hands.at_one_time:
                running.add(hands.submit(parts.pop() if parts else next_task(waiting, known, hands.at_one_time)))
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                done = future.result()
                parts += done.more
                for segment in done.segments:
                    segments.append(segment)
                    if old.get(segment.key) == segment.source:
                        progress.kept += segment.rows
                    else:
                        journal.write(segment.as_json())
                    progress.rows += segment.rows
                    progress.problems += len(segment.problems)
                    if not segment.part:
                        progress.directories += 1
                        waiting += children(segment)
                journal.flush()
            progress.waiting = len(waiting) + sum(1 for _ in running)
            on_progress(progress)
    return segments, progress
