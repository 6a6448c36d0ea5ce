"""The agent that syncs a host's checkpoints while the job runs, as the service's own does.

File by file, in no order, half-written ones too; removals are mirrored. Beside a file lies
``<file>.sagemaker-uploading`` while it is uploaded, ``<file>.sagemaker-uploaded`` once it is there; for a moment both
do. What others store later is never brought here. Source: sagemaker-xgboost-container, checkpointing.py;
sagemaker-debugger #310.

Not known of the service, and chosen here: files named ``*.sagemaker-ignore`` are left alone; an ``-uploaded`` lives as
long as its file.
"""

import contextlib
import errno
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, cast

from runtime.base.errors import PlatformError, UserError
from runtime.base.log import Log
from runtime.local.checkpoints.plan import SyncPlan
from runtime.local.checkpoints.stores import CheckpointStore
from runtime.local.links import Rooms, follow

log = Log("local")

UPLOADING, UPLOADED, IGNORED = ".sagemaker-uploading", ".sagemaker-uploaded", ".sagemaker-ignore"
SHORTEST_S, LONGEST_S = 0.02, 0.5
"""Between two looks at the directory, whose size decides: looking must cost little."""
LOOKING = 0.05
"""Share of a CPU for looking."""
PIECE = 1 << 18
RESTORE_WORKERS = 16

End = Literal["", "flushed", "cut off", "stopped", "died"]
"""How an agent ended: all was synced; its machine was gone first; or as `SyncPlan` asked for."""


class FileState(NamedTuple):
    """By what a file is known to be another one than before."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True)
class SyncReport:
    """What one agent did, for job.json."""

    host: str
    restored: int
    """Files that the host began with."""
    uploaded: int
    """Files, repetitions included."""
    uploaded_bytes: int
    removed: int
    """Files whose removal was mirrored."""
    lost: int
    """Files whose last content was not stored when the agent ended."""
    end: End


class _GoneError(Exception):
    """The agent is no more, in the middle of a file."""


def scan(directory: Path, rooms: Rooms | None = None) -> dict[str, FileState]:
    """List the files that are to be synced; what vanishes meanwhile is left out, and so are linked directories.

    Args:
        directory: whose files these are.
        rooms: how links of a container are followed, see `runtime.local.links`.
    """
    found: dict[str, FileState] = {}
    root = str(directory)
    for parent, _, names in os.walk(root):
        for name in names:
            if name.endswith((UPLOADING, UPLOADED, IGNORED)):
                continue
            path = f"{parent}/{name}"
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                if stat.S_ISLNK(status.st_mode):
                    place = follow(Path(path), rooms)
                    if place is None:
                        continue
                    status = os.stat(place)
                if not stat.S_ISREG(status.st_mode):
                    continue  # opening a FIFO would wait for its writer
                found[path[len(root) + 1 :]] = FileState(status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def restore(store: CheckpointStore, directories: Sequence[Path]) -> list[dict[str, FileState]]:
    """Give all hosts everything that is stored, before they start.

    Args:
        store: where checkpoints are kept.
        directories: one of each host; made if need be.

    Returns:
        What each host begins with, for its agent.

    Raises:
        UserError, PlatformError: the store cannot be read, or the disk is full.
    """
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
    stored = store.list()
    first = directories[0]
    need, free = len(directories) * sum(file.size for file in stored.values()), shutil.disk_usage(first).free
    if need > free:
        raise UserError(
            f"No space for the checkpoints: {need:,} bytes for {len(directories)} hosts, {first} has {free:,} free",
            fix="name a prefix that holds fewer, or a larger disk",
        )

    def get(name: str) -> None:
        target = first / name
        target.parent.mkdir(parents=True, exist_ok=True)
        store.get(name, target)
        for other in directories[1:]:
            (other / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(target, other / name)

    try:
        with ThreadPoolExecutor(RESTORE_WORKERS, "restore") as pool:
            list(pool.map(get, stored))
    except OSError as error:
        raise PlatformError(f"Checkpoints of {store.uri} cannot be restored: {error}") from error
    return [scan(directory) for directory in directories]


def adopt(store: CheckpointStore, directory: Path, rooms: Rooms | None = None) -> int:
    """Store what a host left whose run was cut off, so that nobody synced the rest; nothing is removed.

    Args:
        store: where checkpoints are kept.
        directory: of the host.
        rooms: see `scan`.

    Returns:
        Number of files that were stored.
    """
    there = store.list()
    count = 0
    for name, state in sorted(scan(directory, rooms).items()):
        known = there.get(name)
        if known is None or known.size != state.size or known.modified_ns < state.mtime_ns:
            with opened(directory / name, rooms) as stream:
                store.put(stream, name)
            count += 1
    return count


def opened(path: Path, rooms: Rooms | None) -> BinaryIO:
    """Open a file that `scan` found.

    Raises:
        FileNotFoundError: it vanished, or became a link to what is not the host's.
    """
    place = follow(path, rooms) if path.is_symlink() else path
    if place is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return place.open("rb")


class SyncAgent:
    """Syncs one host's directory in one attempt; used once."""

    def __init__(
        self,
        host: str,
        directory: Path,
        store: CheckpointStore,
        restored: Mapping[str, FileState],
        plan: SyncPlan,
        step: Callable[[], int],
        rooms: Rooms | None = None,
    ) -> None:
        """Begin to sync.

        Args:
            host: its name.
            directory: its checkpoints.
            store: where they are kept.
            restored: what it began with, from `restore`.
            plan: how to behave.
            step: last step of the host's ranks, for faults at a step.
            rooms: see `scan`.
        """
        self._host = host
        self._directory = directory
        self._store = store
        self._plan = plan
        self._step = step
        self._rooms = rooms
        self._known: dict[str, FileState] = dict(restored)
        """Content of every file as it is stored."""
        self._since: dict[str, float] = {}
        """Monotonic seconds at which a file was first seen to differ from that."""
        self._fading: list[Path] = []
        """Markers of uploads that have ended."""
        self._began = time.monotonic()
        self._turn = 0
        self._pause_s = SHORTEST_S
        self._restored, self._uploaded, self._bytes, self._removed = len(restored), 0, 0, 0
        self._end: End = ""
        self._told: set[str] = set()
        self._finish = threading.Event()
        self._deadline = float("inf")
        """Monotonic seconds at which the machine is gone."""
        self._failure: UserError | PlatformError | None = None
        self._thread = threading.Thread(target=self._run, name=f"sync {host}", daemon=True)
        self._thread.start()

    def vanish(self) -> None:
        """Be gone with the machine, at once; what is under way is lost."""
        self._deadline = time.monotonic()
        self._finish.set()

    def finish(self, seconds: float = float("inf"), give_up: Callable[[], bool] = lambda: False) -> SyncReport:
        """Sync the rest after the end of the host, and end.

        Args:
            seconds: after which the machine is gone.
            give_up: asked often; True when somebody does not want to wait for the rest.

        Raises:
            UserError, PlatformError: the store does not take it.
        """
        self._deadline = min(self._deadline, time.monotonic() + seconds)
        self._finish.set()
        while self._thread.is_alive():
            self._thread.join(LONGEST_S)
            if give_up():
                self.vanish()
        if self._failure is not None:
            raise self._failure
        found = scan(self._directory, self._rooms)
        links = _links_left_out(self._directory, found)
        if links:
            log.warning(
                f"{len(links)} links among the checkpoints of {self._host} ({links[0]} …) are not synced: they lead "
                "out of the host's own directories, to a directory, or nowhere"
            )
        lost = sum(self._known.get(name) != state for name, state in found.items())
        if lost:
            log.warning(f"{lost} files of checkpoints of {self._host} are not in {self._store.uri}: sync {self._end}")
        report = SyncReport(self._host, self._restored, self._uploaded, self._bytes, self._removed, lost, self._end)
        return report

    # --- in the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._finish.wait(self._pause_s):
                self._pass(self._plan.lag_s)
            self._flush()
        except _GoneError:
            pass
        except (UserError, PlatformError) as error:
            self._failure = error
        except OSError as error:
            self._failure = PlatformError(f"Checkpoints of {self._host} cannot be synced: {error}")
        finally:
            self._fade()

    def _flush(self) -> None:
        """Store what is left; the host is over, so that nothing changes any more."""
        self._pass(0.0, last=True)
        self._end = "flushed"

    def _require_life(self) -> None:
        now = time.monotonic()
        plan = self._plan
        if self._end:
            raise _GoneError
        late = plan.die_at_s is not None and now - self._began >= plan.die_at_s
        if late or (plan.die_at_step is not None and self._step() >= plan.die_at_step):
            self._end = "died"
        elif plan.stop_after is not None and self._uploaded >= plan.stop_after:
            self._end = "stopped"
        elif now >= self._deadline:
            self._end = "cut off"
        if self._end:
            raise _GoneError

    def _pass(self, lag_s: float, *, last: bool = False) -> None:
        """Look once, and do what is due."""
        self._require_life()
        self._fade()
        began = time.thread_time()
        found = scan(self._directory, self._rooms)
        self._pause_s = min(LONGEST_S, max(SHORTEST_S, (time.thread_time() - began) / LOOKING))
        now = time.monotonic()
        changed = [name for name, state in found.items() if self._known.get(name) != state]
        gone = [name for name in self._known if name not in found]
        self._since = {name: self._since.get(name, now) for name in (*changed, *gone)}
        due = {name for name, since in self._since.items() if now - since >= lag_s}
        self._turn += 1
        sizes = [(name, found[name].size) for name in changed if name in due]
        # Removals are as unordered as the rest: an old checkpoint may be gone before the new one is there.
        for name in self._plan.arrange([*sizes, *((name, 0) for name in gone if name in due)], self._turn):
            self._require_life()
            act = self._upload if name in found else self._remove
            self._attempt(lambda name=name, act=act: act(name), name, last=last)

    def _attempt(self, act: Callable[[], None], name: str, *, last: bool) -> None:
        """Do one thing; while the job runs, what fails is done again in the next turn."""
        try:
            act()
        except FileNotFoundError:
            return  # it vanished meanwhile: the next turn mirrors that
        except (UserError, PlatformError, OSError) as error:
            if last:
                raise
            self._tell(type(error).__name__, f"{name} is not synced yet, tried again: {error}")

    def _upload(self, name: str) -> None:
        path = self._directory / name
        uploading, uploaded = Path(f"{path}{UPLOADING}"), Path(f"{path}{UPLOADED}")
        with opened(path, self._rooms) as stream:
            status = os.fstat(stream.fileno())
            state = FileState(status.st_size, status.st_mtime_ns, status.st_ino)
            self._unmark(uploaded)
            self._mark(uploading)
            try:
                self._store.put(cast(BinaryIO, _Reader(stream, self._plan.rate, self._require_life)), name)
            except _GoneError:
                raise
            except BaseException:
                self._fading.append(uploading)
                raise
        self._uploaded += 1
        self._bytes += state.size
        self._fading.append(uploading)
        # What was changed meanwhile was stored half-written, and has its turn again.
        self._known[name] = state
        if scan_one(path, self._rooms) == state:
            self._mark(uploaded)

    def _remove(self, name: str) -> None:
        self._store.remove(name)
        self._removed += 1
        del self._known[name]
        for suffix in (UPLOADING, UPLOADED):
            self._unmark(Path(f"{self._directory / name}{suffix}"))

    def _mark(self, marker: Path) -> None:
        try:
            marker.touch()
        except FileNotFoundError:
            pass  # its directory was removed meanwhile
        except OSError as error:
            self._tell("marker", f"no upload markers beside checkpoints of {self._host}: {error}")

    def _unmark(self, marker: Path) -> None:
        with contextlib.suppress(OSError):
            marker.unlink(missing_ok=True)

    def _fade(self) -> None:
        for marker in self._fading:
            self._unmark(marker)
        self._fading.clear()

    def _tell(self, topic: str, text: str) -> None:
        if topic not in self._told:
            self._told.add(topic)
            log.warning(text)


def scan_one(path: Path, rooms: Rooms | None) -> FileState | None:
    """Look at one file; None when it is gone."""
    place = follow(path, rooms) if path.is_symlink() else path
    try:
        status = place.stat() if place is not None else None
    except OSError:
        return None
    return FileState(status.st_size, status.st_mtime_ns, status.st_ino) if status is not None else None


def _links_left_out(directory: Path, found: Mapping[str, FileState]) -> list[str]:
    names = [
        Path(parent, name).relative_to(directory).as_posix()
        for parent, directories, files in os.walk(directory)
        for name in (*directories, *files)
        if Path(parent, name).is_symlink()
    ]
    return sorted(name for name in names if name not in found and not name.endswith(IGNORED))


class _Reader:
    """A file as an uploader reads it: at a limited rate, and broken off when the agent is gone."""

    def __init__(self, stream: BinaryIO, rate: int | None, require_life: Callable[[], None]) -> None:
        self._stream = stream
        self._rate = rate
        self._require_life = require_life

    def read(self, size: int = -1, /) -> bytes:
        pieces: list[bytes] = []
        left = size
        while left:
            self._require_life()
            want = PIECE if self._rate is None else max(1, min(PIECE, self._rate // 10))
            piece = self._stream.read(want if left < 0 else min(want, left))
            if not piece:
                break
            if self._rate is not None:
                time.sleep(len(piece) / self._rate)
            pieces.append(piece)
            left -= len(piece) if left > 0 else 0
        return b"".join(pieces)
