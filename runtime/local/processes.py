"""Finds and ends every process of one host, as the end of a container does.

Ranks lead sessions of their own and may outlive the launcher. What marks them is the environment that they
inherited: the root of the host's tree.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from runtime.base.errors import PlatformError
from runtime.base.log import Log

log = Log("local")

PROC = Path("/proc")
PR_SET_CHILD_SUBREAPER = 36
KILL_DEADLINE_S = 10.0
"""A process that SIGKILL does not end within this time hangs in the kernel; we say so and go on."""


def _living(proc: Path) -> dict[int, int]:
    """Return every process but zombies, with its parent."""
    parents: dict[int, int] = {}
    for name in os.listdir(proc):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError):  # it ended while we looked
                stat = (proc / name / "stat").read_bytes().rpartition(b")")[2].split()
                if stat[0] not in (b"Z", b"X"):
                    parents[int(name)] = int(stat[1])
    return parents


def _with_descendants(found: set[int], parents: dict[int, int]) -> set[int]:
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found = found | more
    return found


def processes_of(base: Path, proc: Path = PROC) -> set[int]:
    """Find the living processes of a host: those with its tree in their environment, and their descendants.

    Args:
        base: root of the host's tree, as given in ``SAGEMAKER_BASE_DIR``.
        proc: the process file system.
    """
    mark = b"\0SAGEMAKER_BASE_DIR=" + os.fsencode(base) + b"\0"
    parents = _living(proc)
    parents.pop(os.getpid(), None)
    found: set[int] = set()
    for pid in parents:
        with contextlib.suppress(OSError):  # it ended, or it is another user's and so none of ours
            if mark in b"\0" + (proc / str(pid) / "environ").read_bytes():
                found.add(pid)
    # A program may have cleared its environment; its parent is still one of ours.
    return _with_descendants(found, parents)


def children_of(pid: int, proc: Path = PROC) -> set[int]:
    """Find the living children of a process."""
    return {child for child, parent in _living(proc).items() if parent == pid}


def adopt_orphans(*, on: bool) -> None:
    """Make this process the parent of all its descendants that lose theirs, as PID 1 of a container is."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(on))


def end_orphans(known: set[int]) -> None:
    """End, with all their descendants, the children of this process that it did not start itself.

    Args:
        known: children that are to be left alone.
    """
    deadline = time.monotonic() + KILL_DEADLINE_S
    while orphans := children_of(os.getpid()) - known:
        for pid in _with_descendants(orphans, _living(PROC)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0 if time.monotonic() < deadline else os.WNOHANG)
        if time.monotonic() > deadline:
            return


def await_end(base: Path, seconds: float) -> None:
    """Wait for the processes of a host that were told to end, and end with SIGKILL those that do not."""
    deadline = time.monotonic() + seconds
    while processes_of(base) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill_all(base)


def kill_all(base: Path) -> int:
    """End every process of a host with SIGKILL, and look again until there is none.

    Returns:
        How many were found.
    """
    deadline = time.monotonic() + KILL_DEADLINE_S
    seen: set[int] = set()
    while alive := processes_of(base):
        seen |= alive
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            log.warning(f"processes {sorted(alive)} of {base.name} do not end {KILL_DEADLINE_S:g} s after SIGKILL")
            break
        time.sleep(0.002)
    return len(seen)


def pid_of_rank(pids: Sequence[int], rank: int) -> int | None:
    """Find a rank among processes by its environment; its own children are passed over."""
    found: dict[int, int] = {}
    for pid in pids:
        try:
            environ = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
            parent = int((PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if f"RANK={rank}".encode() in environ:
            found[pid] = parent
    return min((pid for pid, parent in found.items() if parent not in found), default=None)


def signal_all(pids: Sequence[int], number: int) -> None:
    """Send a signal to many processes; those that ended meanwhile are passed over."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        except PermissionError as error:
            raise PlatformError(f"process {pid} cannot get {signal.Signals(number).name}: {error.strerror}") from error
