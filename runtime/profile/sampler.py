"""Samples of the machine, one JSON line each, written by a small process of its own.

Started by its path with ``python -I -S``, so that it holds 10 MB and shares nothing with the job: it must
import neither ``runtime`` nor anything heavier than ``os``, ``sys`` and ``time`` (``json`` alone adds 1 MB).
SIGTERM keeps its default action: every line is one write, so that there is nothing to finish.

A counter that this machine does not offer is ``null`` in every line, never 0.
"""

import os
import sys
import time

FORMAT = 1
NICE = 10
"""The job goes first; a late sample says so by its time."""
LEAST_INTERVAL_S = 0.01
"""CPU time is counted in ticks of 10 ms: sampling faster reads the same numbers again."""
PARENT_CHECK_S = 1.0
"""The longest sleep, so that an orphan ends within a second whatever its interval."""
SECTOR_BYTES = 512
"""Unit of /proc/diskstats on every device. Source: Documentation/admin-guide/iostats.rst of Linux."""
STACKED_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr", "fd")
"""Devices that lie on others, whose bytes would count twice, or that are no disks."""
INNER_INTERFACES = ("lo", "veth", "docker", "br-", "virbr", "cni", "bond", "ifb", "dummy")
"""Interfaces that stay inside the host, or whose bytes an outer interface counts as well."""
FIELDS = (
    "t",
    "cpu_pct",
    "iowait_pct",
    "mem_pct",
    "mem_bytes",
    "disk_read_bps",
    "disk_write_bps",
    "net_rx_bps",
    "net_tx_bps",
    "disk_free_bytes",
)
"""Keys of a line: percentages of all CPUs or of the memory that the job may use, and bytes per second."""

Pair = tuple[float, float]
Sample = dict[str, float | None]


# --- parsing: text in, numbers out --------------------------------------------------------------------------


def parse_cpu(stat: str) -> tuple[float, float, float] | None:
    """Read /proc/stat.

    Returns:
        Ticks of all CPUs since boot: busy, waiting for I/O, total. Time that the hypervisor gave to others is
        in the total only. None when the line is missing.
    """
    words = stat.split("\n", 1)[0].split()
    if len(words) < 8 or words[0] != "cpu":
        return None
    # guest and guest_nice, behind these, are part of user and nice already
    ticks = [float(word) for word in words[1:9]]
    user, nice, system, _idle, iowait, irq, softirq = ticks[:7]
    return user + nice + system + irq + softirq, iowait, sum(ticks)


def parse_memory(meminfo: str) -> tuple[float, float] | None:
    """Read /proc/meminfo.

    Returns:
        Bytes that cannot be reclaimed, and bytes in all; None when a kernel does not say.
    """
    values: list[float] = []
    for name in ("MemTotal:", "MemAvailable:"):
        at = meminfo.find(name)
        if at < 0:
            return None
        values.append(float(meminfo[at + len(name) :].split(None, 1)[0]) * 1024)
    return values[0] - values[1], values[0]


def parse_disks(diskstats: str) -> Pair | None:
    """Read /proc/diskstats.

    Returns:
        Bytes read and written since boot, over whole disks (with their partitions). None without a disk.
    """
    rows = [words for words in map(str.split, diskstats.splitlines()) if len(words) >= 10]
    names = {words[2] for words in rows}
    read, written, found = 0.0, 0.0, False
    for words in rows:
        if not words[2].startswith(STACKED_DISKS) and not is_partition(words[2], names):
            read += float(words[5]) * SECTOR_BYTES
            written += float(words[9]) * SECTOR_BYTES
            found = True
    return (read, written) if found else None


def is_partition(name: str, listed: set[str]) -> bool:
    """Tell whether a device is a part of another one in the list.

    Some Xen guests list ``xvda1`` without an ``xvda``: there it is the disk.

    >>> [is_partition(name, {"nvme0n1", "sda"}) for name in ("nvme0n1p2", "nvme0n10", "sda1", "xvda1")]
    [True, False, True, False]
    """
    stem = name.rstrip("0123456789")
    if stem == name:
        return False
    return stem in listed or (stem.endswith("p") and stem[:-1] in listed and stem[-2:-1].isdigit())


def parse_network(net_dev: str) -> Pair | None:
    """Read /proc/net/dev.

    Returns:
        Bytes received and sent since boot over the outer interfaces; None without one. EFA's own traffic
        passes the kernel by and is not in it.
    """
    received, sent, found = 0.0, 0.0, False
    for line in net_dev.splitlines():
        name, colon, rest = line.partition(":")
        words = rest.split()
        if not colon or len(words) < 9 or name.strip().startswith(INNER_INTERFACES):
            continue
        received += float(words[0])
        sent += float(words[8])
        found = True
    return (received, sent) if found else None


def memory_cgroups(self_cgroup: str) -> list[tuple[str, str, str]]:
    """List where this process's memory may be limited, from /proc/self/cgroup, the innermost group first.

    Returns:
        Paths of limit, use and statistics, for each group up to the root, of cgroup v2 and v1.
    """
    places: list[tuple[str, str, str]] = []
    for line in self_cgroup.splitlines():
        if line.count(":") < 2:
            continue
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, limit, use = (
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else ("/sys/fs/cgroup", "memory.max", "memory.current")
        )
        group = group.rstrip("/")
        while True:
            places.append((f"{root}{group}/{limit}", f"{root}{group}/{use}", f"{root}{group}/memory.stat"))
            if not group:
                break
            group = group.rpartition("/")[0]
    return places


def parse_limit(text: str) -> float | None:
    """Read a cgroup's limit in bytes; None for ``max`` or no number (v1 writes a huge one for "none")."""
    word = text.strip()
    return float(word) if word.isdigit() else None


def reclaimable(memory_stat: str) -> float:
    """Return the bytes of page cache that the kernel would give up first: counted as used, but not needed."""
    for name in ("total_inactive_file ", "inactive_file "):  # v1 with its children, v2
        for line in memory_stat.splitlines():
            if line.startswith(name):
                return float(line.split()[1])
    return 0.0


def share(part: float, whole: float) -> float | None:
    """Return a percentage within 0..100; None without a whole."""
    return min(100.0, max(0.0, 100.0 * part / whole)) if whole > 0 else None


def rates(before: Pair | None, after: Pair | None, seconds: float) -> tuple[float | None, float | None]:
    """Return two rates per second; a counter that went back (an interface came anew) gives 0."""
    if before is None or after is None or seconds <= 0:
        return None, None
    return max(0.0, after[0] - before[0]) / seconds, max(0.0, after[1] - before[1]) / seconds


def encode(sample: Sample) -> str:
    """Write one line: percentages with two digits, everything else whole, the time in milliseconds."""
    words: list[str] = []
    for name in FIELDS:
        value = sample.get(name)
        digits = 3 if name == "t" else 2 if name.endswith("_pct") else 0
        words.append(f'"{name}": ' + ("null" if value is None else f"{value:.{digits}f}"))
    return "{" + ", ".join(words) + "}\n"


# --- reading the machine ------------------------------------------------------------------------------------


class Counter:
    """A file of the kernel that is read again and again: kept open, it costs half."""

    def __init__(self, path: str, head: int = 65536) -> None:
        """Open it.

        Args:
            path: below /proc or /sys.
            head: bytes from its start that are of interest; a longer file is read to its end only by the default.
        """
        self._head = head
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._handle = -1

    def text(self) -> str:
        """Return what it says now; empty when it is not there, not for us, or gone."""
        if self._handle < 0:
            return ""
        try:
            text = part = os.pread(self._handle, self._head, 0)
            while part and self._head >= 65536:  # the kernel gives a long one page by page
                part = os.pread(self._handle, self._head, len(text))
                text += part
        except OSError:
            return ""
        return text.decode("ascii", "replace")

    def close(self) -> None:
        """Close it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def read_once(path: str) -> str:
    """Return a small file's text; empty when it is not there or not for us."""
    counter = Counter(path)
    text = counter.text()
    counter.close()
    return text


class Machine:
    """Counters of this machine, and what they were at the last look."""

    def __init__(self, disk: str) -> None:
        """Find the memory limit and take the first look.

        Args:
            disk: a directory on the file system whose free space is watched.
        """
        self._disk = disk
        self._stat, self._meminfo = Counter("/proc/stat", 256), Counter("/proc/meminfo", 1024)
        self._diskstats, self._net_dev = Counter("/proc/diskstats"), Counter("/proc/net/dev")
        self._total = (parse_memory(self._meminfo.text()) or (0.0, 0.0))[1]
        self._cgroup: tuple[Counter, Counter] | None = None
        for limit_file, use_file, stat_file in memory_cgroups(read_once("/proc/self/cgroup")):
            limit = parse_limit(read_once(limit_file))
            if limit and (not self._total or limit < self._total):
                self._total, self._cgroup = limit, (Counter(use_file), Counter(stat_file))
        self._last = time.monotonic()
        self._cpu = parse_cpu(self._stat.text())
        self._disks = parse_disks(self._diskstats.text())
        self._network = parse_network(self._net_dev.text())

    @property
    def memory_total(self) -> float:
        """Bytes that the job may use: the tightest cgroup limit, else the machine's memory; 0: unknown."""
        return self._total

    def sample(self) -> Sample:
        """Look again: rates since the last look, levels of now."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        stamp = time.time()
        cpu, disks, network = (
            parse_cpu(self._stat.text()),
            parse_disks(self._diskstats.text()),
            parse_network(self._net_dev.text()),
        )
        busy = waiting = None
        if cpu and self._cpu:
            ticks = cpu[2] - self._cpu[2]
            busy, waiting = share(cpu[0] - self._cpu[0], ticks), share(cpu[1] - self._cpu[1], ticks)
        read, written = rates(self._disks, disks, seconds)
        received, sent = rates(self._network, network, seconds)
        self._cpu, self._disks, self._network = cpu, disks, network
        used = self._memory_used()
        return {
            "t": stamp,
            "cpu_pct": busy,
            "iowait_pct": waiting,
            "mem_pct": None if used is None else share(used, self._total),
            "mem_bytes": used,
            "disk_read_bps": read,
            "disk_write_bps": written,
            "net_rx_bps": received,
            "net_tx_bps": sent,
            "disk_free_bytes": self._free(),
        }

    def _memory_used(self) -> float | None:
        if self._cgroup is not None:
            use = self._cgroup[0].text().strip()
            if use.isdigit():
                return max(0.0, float(use) - reclaimable(self._cgroup[1].text()))
        memory = parse_memory(self._meminfo.text())
        return memory[0] if memory else None

    def _free(self) -> float | None:
        try:
            state = os.statvfs(self._disk)
        except OSError:
            return None
        return float(state.f_bavail * state.f_frsize)


# --- the process --------------------------------------------------------------------------------------------


def wait_until(due: float, parent: int) -> bool:
    """Sleep until a moment of the monotonic clock; False as soon as the parent is gone."""
    while os.getppid() == parent:
        left = due - time.monotonic()
        if left <= 0:
            return True
        time.sleep(min(left, PARENT_CHECK_S))
    return False


def next_due(due: float, interval: float, now: float) -> float:
    """Return the next tick of a fixed grid, so that nothing drifts; ticks that are past are left out.

    >>> next_due(10.0, 0.5, 10.01), next_due(10.0, 0.5, 11.2)
    (10.5, 11.5)
    """
    return due + interval * max(1, 1 + int((now - due) / interval))


def header(host: str, interval: float, memory: float) -> str:
    """Write the first line of a file."""
    quoted = host.replace("\\", "\\\\").replace('"', '\\"')
    return (
        f'{{"format": {FORMAT}, "host": "{quoted}", "interval_ms": {interval * 1000:.0f}, '
        f'"cpus": {os.cpu_count() or 0}, "mem_total_bytes": {memory:.0f}, "started": {time.time():.3f}}}\n'
    )


def run(out: str, interval: float, parent: int, disk: str) -> None:
    """Sample until the parent is gone; a full disk ends it, since the job needs the space more.

    Raises:
        OSError: the file cannot be written.
    """
    os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
    host = os.path.basename(out).removeprefix("system-").removesuffix(".jsonl")
    machine = Machine(disk)
    handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    line = header(host, interval, machine.memory_total)
    due = time.monotonic()
    while os.write(handle, line.encode()) == len(line.encode()):
        due = next_due(due, interval, time.monotonic())
        if not wait_until(due, parent):
            return
        line = encode(machine.sample())


def main(words: list[str]) -> int:
    """Read the command line by hand (argparse would double the start) and sample.

    Args:
        words: ``--out FILE --interval-ms N --parent PID --disk DIR``, all of them, in any order.

    Returns:
        0 when it ended as it should, which includes a full disk and a parent that is gone; 2 for wrong words.
    """
    options = dict(zip(words[::2], words[1::2], strict=False))
    try:
        out, disk = options["--out"], options["--disk"]
        interval = max(LEAST_INTERVAL_S, float(options["--interval-ms"]) / 1000)
        parent = int(options["--parent"])
    except (KeyError, ValueError) as error:
        takes = "--out FILE --interval-ms N --parent PID --disk DIR"
        sys.stderr.write(f"sampler: {error!r} in {words}. It takes {takes}.\n")
        return 2
    try:  # noqa: SIM105 - contextlib alone would add 0.5 MB
        os.nice(NICE)
    except OSError:
        pass  # a sandbox that forbids it takes nothing but our politeness
    try:
        run(out, interval, parent, disk)
    except (OSError, KeyboardInterrupt):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
