"""What the kernel counted about this container's memory: the only proof that a SIGKILL was the out-of-memory killer's.

Both generations of control groups, with and without a namespace of our own. Pure reading under a movable root.

Source: Documentation/admin-guide/cgroup-v2.rst (memory.events, memory.peak, memory.max) and
cgroup-v1/memory.rst (memory.oom_control, memory.failcnt, memory.max_usage_in_bytes) of the Linux kernel.
"""

from __future__ import annotations

from runtime.base.frozen import frozen, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NO_LIMIT = 1 << 60
"""Version 1 writes a number near 2**63 where version 2 writes ``max``."""


@frozen
class Memory:
    """The memory of this container at one moment."""

    oom_kills: int | None = None
    """Processes of this group that the out-of-memory killer ended since it was made; None when the kernel hides it."""
    limit_bytes: int = 0
    """0: no limit but the machine's."""
    peak_bytes: int = 0
    """Most that was ever in use, page cache included; 0 when unknown."""
    used_bytes: int = 0
    """In use now; 0 when unknown."""
    machine_bytes: int = 0
    """Memory of the machine; 0 when unknown."""

    def killed_since(self, before: Memory) -> int | None:
        """Count processes that the out-of-memory killer ended since `before`; None when nobody can know."""
        if self.oom_kills is None or before.oom_kills is None:
            return None
        return max(0, self.oom_kills - before.oom_kills)

    def told(self) -> str:
        """Say limit and peak, as in ``limit 2.0 GiB, peak 2.0 GiB``."""
        limit = f"limit {gib(self.limit_bytes)}" if self.limit_bytes else "no limit of its own"
        machine = f", machine {gib(self.machine_bytes)}" if self.machine_bytes and not self.limit_bytes else ""
        most = self.peak_bytes or self.used_bytes
        peak = f", {'peak' if self.peak_bytes else 'in use'} {gib(most)}" if most else ""
        return f"{limit}{machine}{peak}"


def gib(count: int) -> str:
    """Write a number of bytes for a person.

    >>> gib(64 << 20), gib(2 << 30), gib(700)
    ('64 MiB', '2.0 GiB', '0 MiB')
    """
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"


def read_memory(root: str = "/") -> Memory:
    """Read the counters of the group that this process is in.

    Args:
        root: where /proc and /sys are.
    """
    machine = 0
    for line in _read(f"{root}/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            machine = int(line.split()[1]) * 1024
    for read, directory in _directories(root):
        memory = read(directory)
        if memory is not None:
            # A limit beyond the machine is none.
            limit = 0 if machine and memory.limit_bytes >= machine else memory.limit_bytes
            return replace(memory, limit_bytes=limit, machine_bytes=machine)
    return Memory(machine_bytes=machine)


def _directories(root: str) -> Iterator[tuple[Callable[[str], Memory | None], str]]:
    """List where this process's own counters may be: in a container its group is usually mounted as the root."""
    own: dict[str, str] = {}
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            own[name] = path.rstrip("/")
    base = f"{root}/sys/fs/cgroup"
    for reader, mount, path in (
        (_version_2, base, own.get("", "")),
        (_version_1, f"{base}/memory", own.get("memory", "")),
    ):
        if path:
            yield reader, mount + path
        yield reader, mount


def _version_2(directory: str) -> Memory | None:
    events = _table(f"{directory}/memory.events")
    if "oom_kill" not in events:
        return None
    limit = _read(f"{directory}/memory.max").strip()
    return Memory(
        oom_kills=events["oom_kill"],
        limit_bytes=int(limit) if limit.isdigit() else 0,
        peak_bytes=_number(f"{directory}/memory.peak"),
        used_bytes=_number(f"{directory}/memory.current"),
    )


def _version_1(directory: str) -> Memory | None:
    used = _number(f"{directory}/memory.usage_in_bytes")
    if not used:
        return None
    limit = _number(f"{directory}/memory.limit_in_bytes")
    # Kernels before 4.13 count no kills; a count of failed allocations proves nothing, since reclaim may have helped.
    return Memory(
        oom_kills=_table(f"{directory}/memory.oom_control").get("oom_kill"),
        limit_bytes=limit if limit < NO_LIMIT else 0,
        peak_bytes=_number(f"{directory}/memory.max_usage_in_bytes"),
        used_bytes=used,
    )


def _table(path: str) -> dict[str, int]:
    rows = (line.split() for line in _read(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def _number(path: str) -> int:
    text = _read(path).strip()
    return int(text) if text.isdigit() else 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
