"""The end of a process in words: its exit status, what it said last, and what the machine knows of it.

Imported when something has failed, never before: it costs more than the rest of the launcher.
"""

from __future__ import annotations

import os

from runtime.base.frozen import frozen, replace
from runtime.cause.cgroup import Memory, gib, read_memory
from runtime.cause.signatures import MEMORY_FIX, SIGNALS, Signature, find
from runtime.cause.tracebacks import is_users, last_raised

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LAST_LINES = 4
"""Lines before the last one that are told of a program which ended without an exception."""
LAST_CHARS = 300
SHM = "/dev/shm"  # noqa: S108 - the one place of shared memory


@frozen
class Facts:
    """What the machine knew before, and where to look now."""

    before: Memory = Memory()
    """Memory counters from before the ranks were started."""
    places: tuple[str, ...] = ()
    """Directories that a program writes to; their free space is told when a disk is full."""
    root: str = ""
    """Where /proc, /sys and /dev are, for tests."""


@frozen
class Explanation:
    """What happened."""

    message: str
    """In words that are useful alone."""
    where: str = ""
    """``file:line`` of the user's code; empty when unknown."""
    means: str = ""
    """What the message means here, with facts of this machine; empty when it says enough."""
    fix: str = ""
    """What to do; empty when nobody can know."""
    consequence: bool = False
    """True for what a survivor feels of another's end."""


def explain_exit(status: int, err: Sequence[str], out: Sequence[str], facts: Facts) -> Explanation:
    """Explain how a program ended.

    Args:
        status: exit code (not 0), or -n for death by signal n.
        err: last lines of its standard error, oldest first.
        out: the same of its standard output.
        facts: of the machine.
    """
    if status < 0:
        return _by_signal(-status, 128 - status, err, facts)
    raised = last_raised(err)
    last = _last(err)
    # A traceback ends a Python program with 1. With any other code it was told on the way, and something else ended it.
    if raised is not None and (raised.at_end or (status == 1 and not raised.aside)):
        return replace(explain_text(raised.message, facts), where=raised.where)
    if status > 128 and _signal_name(status - 128) in (*SIGNALS, "SIGKILL") and raised is None:
        # What a shell says of its child.
        return _by_signal(status - 128, status, err, facts)
    if not last and (inner := last_raised(out)) is not None:  # a script that sends everything to standard output
        return replace(explain_text(inner.message, facts), where=inner.where)
    found = explain_text(last, facts) if last else Explanation("")
    says = f": {last}" if last else " without a word on standard error"
    before = _before(err)
    if before:
        says += f" (before it: {before})"
    elif not last and (spoken := _last(out)):
        says += f"; its last line: {spoken}"
    if raised is not None:
        says += f" (an earlier traceback: {raised.message.splitlines()[0]})"
    return replace(found, message=f"the program ended with exit code {status}{says}")


def explain_text(message: str, facts: Facts) -> Explanation:
    """Look up what an error's own words mean."""
    row = find(message)
    memory = read_memory(facts.root or "/")
    killed = memory.killed_since(facts.before) or 0
    means, fix = (row.means, row.fix) if row is not None else ("", "")
    fact = _fact(row.look, facts, memory) if row is not None else ""
    if killed:
        fact = f"the kernel has ended {_count(killed)} of this container for want of memory: {memory.told()}"
        fix = MEMORY_FIX
    means = "; ".join(part for part in (means, fact) if part)
    return Explanation(message, "", means, fix, row is not None and row.consequence)


def _by_signal(number: int, code: int, err: Sequence[str], facts: Facts) -> Explanation:
    name = _signal_name(number)
    memory = read_memory(facts.root or "/")
    if name == "SIGKILL":
        return _killed(code, memory, memory.killed_since(facts.before))
    said = _native_words(err)
    row = find("\n".join([*said, *err[-20:]])) if name == "SIGABRT" else None
    known = SIGNALS.get(name)
    means = known.means if known is not None else ""
    fix = known.fix if known is not None else ""
    if name == "SIGBUS":
        size, used = _shm(facts.root)
        full = size and used > size // 2
        means = f"shared memory is full: {_shm_told(size, used)}"
        if size and not full:
            means = (
                f"shared memory was full at that moment, or a memory-mapped file was cut off or its disk failed "
                f"({_shm_told(size, used)} now)"
            )
    if isinstance(row, Signature):
        means, fix = row.means, row.fix
    words = f": {said[0]}" if said else ""
    where = _fatal_place(err)
    died = f"killed by {name} (exit code {code}){words}"
    return Explanation(died, where, means, fix, row is not None and row.consequence)


def _killed(code: int, memory: Memory, killed: int | None) -> Explanation:
    if killed:
        others = "" if killed == 1 else f" and {_count(killed - 1)} more"
        message = f"out of memory: the kernel ended this process{others} by SIGKILL (exit code {code}); {memory.told()}"
        return Explanation(message, fix=MEMORY_FIX)
    if killed == 0:
        return Explanation(
            f"killed by SIGKILL (exit code {code}) from outside",
            means=f"the kernel counts no out-of-memory kill in this container; {memory.told()}",
            fix="look for what ends processes on this machine: a container's stop, another tool, a person",
        )
    return Explanation(
        f"killed by SIGKILL (exit code {code}); often out of memory",
        means=f"this kernel does not show its count of kills; {memory.told()}",
        fix=MEMORY_FIX,
    )


def _signal_name(number: int) -> str:
    import signal

    return signal.Signals(number).name if number in {int(one) for one in signal.Signals} else f"signal {number}"


def _count(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def _native_words(err: Sequence[str]) -> list[str]:
    """Return what C++ or the C library said as it gave up, the most telling line first."""
    said: list[tuple[int, str]] = []
    for number, line in enumerate(err):
        text = line.strip()
        if text.startswith("terminate called"):
            kind = text.rpartition("'")[0].rpartition("'")[2]
            what = next((one.strip() for one in err[number + 1 : number + 3] if "what():" in one), "")
            said.append((0, f"{kind}: {what.partition('what():')[2].strip()}" if what else text))
        elif "Assertion" in text and "failed" in text:
            said.append((0, text))
        elif text.startswith("Fatal Python error:"):
            said.append((2, text))
        elif text.startswith(("free():", "malloc():", "double free", "corrupted", "munmap_chunk():", "*** ")):
            said.append((1, text))
    return [text for _, text in sorted(said, key=lambda one: one[0])]


def _fatal_place(err: Sequence[str]) -> str:
    """Name the user's innermost line in what `faulthandler` printed as the process died; most recent call first."""
    begins = [n for n, line in enumerate(err) if line.startswith("Current thread") and "most recent call first" in line]
    if not begins:
        return ""
    for line in err[begins[-1] + 1 :]:
        name, quote, rest = line.strip().removeprefix('File "').partition('", line ')
        if not quote:
            break
        if is_users(name):
            return f"{name}:{rest.split(' ', 1)[0]}"
    return ""


def _last(lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _before(lines: Sequence[str]) -> str:
    spoken = [line.strip() for line in lines[-40:] if line.strip()]
    told = " | ".join(spoken[-LAST_LINES - 1 : -1])
    return told[-LAST_CHARS:]


# --- facts of this machine ----------------------------------------------------------------------------------------


def _fact(look: str, facts: Facts, memory: Memory) -> str:
    if look == "shm":
        return _shm_told(*_shm(facts.root))
    if look == "memory":
        return memory.told()
    if look == "disk":
        return "free: " + ", ".join(_free(place) for place in facts.places) if facts.places else ""
    return _limits() if look == "limits" else ""


def _shm(root: str) -> tuple[int, int]:
    """Return size and use of the shared memory in bytes; 0, 0 when there is none."""
    try:
        told = os.statvfs(f"{root}{SHM}")
    except OSError:
        return 0, 0
    return told.f_blocks * told.f_frsize, (told.f_blocks - told.f_bfree) * told.f_frsize


def _shm_told(size: int, used: int) -> str:
    return f"{SHM} has {gib(size)}, {gib(used)} used" if size else f"there is no {SHM}"


def _free(place: str) -> str:
    try:
        told = os.statvfs(place)
    except OSError:
        return f"{place} unknown"
    inodes = ", no inode" if told.f_files and not told.f_favail else ""
    return f"{place} {gib(told.f_bavail * told.f_frsize)}{inodes}"


def _limits() -> str:
    import resource

    def told(number: int) -> str:
        return "unlimited" if number == resource.RLIM_INFINITY else str(number)

    files = told(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return f"open files at most {files}, processes at most {told(resource.getrlimit(resource.RLIMIT_NPROC)[0])}"
