"""Builds an index of a directory tree: over processes of this machine, over hosts and jobs by shares.

What is known stays: a directory that has not changed is not listed again, of one that has only new files are read, and
a build that was killed goes on with what it had done.
"""

import fcntl
import math
import multiprocessing
import os
import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

from runtime.base.errors import UserError
from runtime.data.index.files import Files
from runtime.data.index.reader import Rows
from runtime.data.index.rows import Kind, Options
from runtime.data.index.scan import IMAGE_SUFFIXES, Scanned, Scanner
from runtime.data.index.segments import Built, Segment, assemble, read_built, segment_from_json, segments_of

DEEPEST = 32
"""Directories inside each other; deeper means a link that leads back. The kernel itself gives up at 40 links."""
FRESH_NS = 2_000_000_000
"""A directory that changed so shortly before it was listed may change once more with the same time."""
BUILDING = ".building"
ALONE_S = 0.5
"""Longer than a pool of processes takes to start."""
REPORT_S = 2.0
"""A process tells after this time what it has done: so much is done again after a kill, at most."""
MOST_DIRECTORIES = 256
"""That a process takes at one time."""


@dataclass(frozen=True)
class Share:
    """Which part of the tree: directories are dealt out by their names, so that nobody has to ask anybody."""

    index: int = 0
    count: int = 1

    def owns(self, directory: str, part: int) -> bool:
        """Tell whether a directory, or a part of a huge one, is of this share."""
        return (
            self.count == 1 or crc32(f"{directory}\0{part}".encode(errors="surrogateescape")) % self.count == self.index
        )


@dataclass(frozen=True)
class Known:
    """What an earlier look found in a directory."""

    changed_ns: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Task:
    """What a process takes at one time: directories, or a further part of a huge one."""

    directories: tuple[str, ...]
    known: Mapping[str, Known] = field(default_factory=dict[str, Known])
    part: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """What became of a task."""

    segments: list[Segment]
    more: list[Task]


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


_worker: Worker | None = None
"""Of a process of the pool."""


def _begin(files: Files, options: Options, share: Share, directory: str) -> None:
    global _worker
    _worker = Worker(files, options, share, _spool_path(directory))


def _do(task: Task) -> Done:
    assert _worker is not None  # noqa: S101 - `_begin` ran
    return _worker.do(task)


@dataclass(frozen=True)
class Request:
    """What is to be built."""

    root: Path
    out: Path
    options: Options
    share: Share = Share()
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
    with _Hands(request, files, building) as hands, (building / "journal").open("ab") as journal:
        running: set[Future[Done]] = set()
        while waiting or parts or running:
            while (waiting or parts) and len(running) < hands.at_one_time:
                running.add(hands.submit(parts.pop() if parts else _next(waiting, known, hands.at_one_time)))
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
                        waiting += _children(segment)
                journal.flush()
            progress.waiting = len(waiting) + sum(1 for _ in running)
            on_progress(progress)
    return segments, progress


def _children(segment: Segment) -> Iterator[str]:
    if segment.directory.count("/") >= DEEPEST:
        raise UserError(
            f"{segment.directory[:200]}... lies {DEEPEST} directories deep",
            fix="look for a link that leads back to a directory above it",
        )
    before = f"{segment.directory}/" if segment.directory else ""
    return (before + name for name in segment.directories)


def _next(waiting: list[str], known: Mapping[str, Known], at_one_time: int) -> Task:
    """Take as many directories as leave work for the other processes."""
    count = max(1, min(MOST_DIRECTORIES, len(waiting) // at_one_time))
    taken, waiting[-count:] = tuple(waiting[-count:]), []
    return Task(taken, {directory: known[directory] for directory in taken if directory in known})


class _Hands:
    """Does tasks: at first in this very process, in several as soon as there is more to do than their start takes."""

    def __init__(self, request: Request, files: Files, building: Path) -> None:
        self._request = request
        self._arguments = (files, request.options, request.share, str(building))
        self._worker = Worker(*self._arguments[:3], _spool_path(str(building)))
        self._alone_until = time.monotonic() + (ALONE_S if request.processes > 1 else math.inf)
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "_Hands":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=kind is not None)
        self._worker.close()

    @property
    def at_one_time(self) -> int:
        """Tasks that are worth handing out before the first is done."""
        return 1 if time.monotonic() < self._alone_until else 2 * self._request.processes

    def submit(self, task: Task) -> "Future[Done]":
        """Do a task, or have it done."""
        if time.monotonic() < self._alone_until:
            future: Future[Done] = Future()
            future.set_result(self._worker.do(task))
            return future
        if self._executor is None:
            context = multiprocessing.get_context("forkserver")
            self._executor = ProcessPoolExecutor(self._request.processes, context, _begin, self._arguments)
        return self._executor.submit(_do, task)


def _spool_path(directory: str) -> str:
    return f"{directory}/spool-{os.getpid()}-{time.time_ns()}"


def merge(parts: Sequence[Path], out: Path) -> Built:
    """Make one index of the parts that hosts or jobs have built.

    Raises:
        UserError: a part is missing, comes twice, or is of another tree or other options.
    """
    found: dict[int, tuple[Path, Built]] = {}
    for path in parts:
        built = read_built(path)
        if built is None:
            raise UserError(f"{path} holds no index", fix="build it: slipway index")
        if built.share[0] in found:
            raise UserError(f"{path} and {found[built.share[0]][0]} are the same part {built.share[0] + 1}")
        found[built.share[0]] = (path, built)
    if not found:
        raise UserError("No parts to merge")
    whole = next(iter(found.values()))[1]
    for path, built in found.values():
        if (built.options, built.share[1]) != (whole.options, whole.share[1]):
            raise UserError(f"{path} was built with other options, or as a part of another number of parts")
    missing = sorted(set(range(whole.share[1])) - set(found))
    if missing:
        told = ", ".join(str(number + 1) for number in missing)
        raise UserError(f"Of {whole.share[1]} parts these are missing: {told}", fix="build them, then merge")
    segments = [
        segment
        for number, (path, built) in found.items()
        for segment in segments_of(path, built)
        if Share(number, whole.share[1]).owns(*segment.key)  # of the others' directories it only knows that they exist
    ]
    out.mkdir(parents=True, exist_ok=True)
    return assemble(segments, out, root=whole.root, options=whole.options, share=(0, 1))


def guess_kind(root: Path, files: Files | None = None) -> tuple[Kind, str]:
    """Guess what lies in a tree, from the first directory with images.

    Returns:
        ``pairs``, ``labels`` or ``images``, and the reason.

    Raises:
        UserError: no image is there.
    """
    tree = files or Files(str(root))
    waiting = [""]
    looked = 0
    while waiting:
        directory = waiting.pop()
        handle = tree.open_directory(directory)
        try:
            listing = tree.look(handle)
        finally:
            os.close(handle)
        looked += 1
        images = [name for name in listing.names if name.lower().endswith(IMAGE_SUFFIXES)]
        if images:
            captions = {name[: -len(".txt")] for name in listing.names if name.endswith(".txt")}
            paired = sum(name[: name.rindex(".")] in captions for name in images)
            where = f"{paired} of {len(images)} images in {directory or '.'} have a .txt beside them"
            if paired * 2 > len(images):
                return "pairs", where
            return ("labels" if directory else "images"), where
        waiting += sorted((f"{directory}/{name}" if directory else name for name in listing.directories), reverse=True)
    raise UserError(f"{root} holds no images in {looked} directories", allowed=", ".join(IMAGE_SUFFIXES))
