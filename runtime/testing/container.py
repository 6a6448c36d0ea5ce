"""One container: its limits, what it prints and how it ends, with the times of the engine's clock."""

import datetime
import json
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.base.errors import PlatformError
from runtime.testing.client import PATIENCE_S, docker, must, wait_until
from runtime.testing.faults.network import ContainerNetwork
from runtime.testing.tree import ContractTree

_STAMPED = re.compile(r"^(\d{4}-\d\d-\d\dT[\d:.]+Z) (.*)$")
RANKS = (
    "for p in /proc/[0-9]*; do"
    ' if tr "\\0" "\\n" <"$p/environ" | grep -qx "RANK=$0"; then'
    ' echo "${p#/proc/} $(sed -n "s/^PPid:[[:space:]]*//p" "$p/status")"; fi; done 2>/dev/null; true'
)
"""Prints pid and parent of every process with the environment of one rank."""


def top_of_rank(text: str) -> int | None:
    """Read what `RANKS` prints: the process of the rank itself, its children passed over; None without one."""
    rows = [line.split() for line in text.splitlines()]
    found = {int(row[0]): int(row[1]) for row in rows if len(row) == 2}
    return min((pid for pid, parent in found.items() if parent not in found), default=None)


@dataclass(frozen=True)
class Limits:
    """What a container may use. None and False leave it to the engine."""

    memory_mb: int | None = None
    """Mebibytes, swap included; above it the kernel kills."""
    shm_mb: int | None = None
    """Mebibytes of /dev/shm; the engine's default is 64."""
    pids: int | None = None
    """Processes and threads together."""
    cpus: float | None = None
    """Share of the machine's CPUs, such as 0.5."""
    read_only: bool = False
    """Nothing but volumes and tmpfs can be written."""
    user: str = ""
    """``uid:gid``."""
    no_capabilities: bool = False
    """Drop all Linux capabilities."""
    tmpfs: Mapping[str, int] = field(default_factory=dict[str, int])
    """Directory to its size in mebibytes: small disks that can be full."""

    def options(self) -> list[str]:
        """Return the options of ``docker run``."""
        words: list[str] = []
        if self.memory_mb is not None:
            words += [f"--memory={self.memory_mb}m", f"--memory-swap={self.memory_mb}m"]
        if self.shm_mb is not None:
            words += [f"--shm-size={self.shm_mb}m"]
        if self.pids is not None:
            words += [f"--pids-limit={self.pids}"]
        if self.cpus is not None:
            words += [f"--cpus={self.cpus}"]
        if self.read_only:
            words += ["--read-only"]
        if self.user:
            words += [f"--user={self.user}"]
        if self.no_capabilities:
            words += ["--cap-drop=ALL"]
        for directory, size in self.tmpfs.items():
            words += ["--tmpfs", f"{directory}:size={size}m,mode=1777"]
        return words


@dataclass(frozen=True)
class LogLine:
    """One line that a container printed."""

    at: float
    """Unix seconds at which the engine read it."""
    text: str


@dataclass(frozen=True)
class Ending:
    """How a container ended."""

    host: str
    exit_code: int
    at: float
    """Unix seconds at which the engine saw the end."""
    out_of_memory: bool
    """Whether the kernel killed anything in it for its memory limit, as the engine saw it."""
    failure: str
    """Its failure file; empty without one."""
    stopped: bool
    """Whether it left the record of a clean stop."""
    succeeded: bool
    log: tuple[LogLine, ...]

    @property
    def text(self) -> str:
        """The whole log."""
        return "\n".join(line.text for line in self.log)

    def first(self, *words: str, since: float = 0.0) -> LogLine | None:
        """Find the first line that holds all of these words."""
        found = (line for line in self.log if line.at >= since and all(word in line.text for word in words))
        return next(found, None)


def unix_seconds(stamp: str) -> float:
    """Read a time of the engine; its nanoseconds are cut to microseconds.

    >>> unix_seconds("1970-01-01T00:01:00.123456789Z")
    60.123456
    """
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    at = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.UTC).timestamp()
    return at + float(f"0.{fraction[:6] or '0'}")


def stamped_lines(text: str) -> tuple[LogLine, ...]:
    r"""Read what ``docker logs --timestamps`` prints, in the order of time.

    >>> stamped_lines("1970-01-01T00:00:02Z b\n1970-01-01T00:00:01.5Z a b\n")
    (LogLine(at=1.5, text='a b'), LogLine(at=2.0, text='b'))
    """
    matches = (_STAMPED.match(line) for line in text.split("\n"))
    return tuple(sorted((LogLine(unix_seconds(m[1]), m[2]) for m in matches if m), key=lambda line: line.at))


@dataclass(frozen=True)
class Container:
    """One container that was started.

    The verbs return the unix time at which they were called: what follows took no longer than it seems.
    """

    name: str

    # --- what it does -------------------------------------------------------------------------------------------

    def logs(self) -> str:
        """Everything that it printed so far."""
        done = docker("logs", self.name)
        return done.stdout + done.stderr

    def lines(self) -> tuple[LogLine, ...]:
        """Everything that it printed so far, with times."""
        done = docker("logs", "--timestamps", self.name)
        return stamped_lines(done.stdout + done.stderr)

    def running(self) -> bool:
        """Whether it still runs; a frozen one does."""
        return must("inspect", "--format", "{{.State.Running}}", self.name).strip() == "true"

    def exit_code(self, deadline_s: float = PATIENCE_S) -> int:
        """Wait for its end.

        Raises:
            PlatformError: it did not end in time; the message ends with its last lines.
        """
        try:
            done = docker("wait", self.name, timeout_s=deadline_s)
        except PlatformError as error:
            raise PlatformError(f"{self.name} did not end within {deadline_s:g} s: ...{self.logs()[-2000:]}") from error
        if done.returncode != 0:
            raise PlatformError(f"docker wait {self.name}: {done.stderr.strip()}")
        return int(done.stdout)

    def wait_for(self, path: Path, deadline_s: float = PATIENCE_S) -> None:
        """Wait until a file is there; a container that ends before ends the wait.

        Raises:
            PlatformError: the file did not come.
        """

        def there() -> bool:
            if path.exists():
                return True
            if not self.running() and not path.exists():
                raise PlatformError(f"{self.name} ended before {path.name} was there: ...{self.logs()[-2000:]}")
            return False

        wait_until(there, f"{self.name}: {path.name}", deadline_s)

    def wait_for_line(self, *words: str, deadline_s: float = PATIENCE_S) -> None:
        """Wait until it has printed a line that holds all of these words.

        Raises:
            PlatformError: the line did not come.
        """

        def printed() -> bool:
            over = not self.running()
            text = self.logs()
            if any(all(word in line for word in words) for line in text.splitlines()):
                return True
            if over:
                raise PlatformError(f"{self.name} ended before it printed {words}: ...{text[-2000:]}")
            return False

        wait_until(printed, f"{self.name}: a line with {words}", deadline_s)

    def pid_of_rank(self, rank: int) -> int:
        """Find a rank by its environment.

        Returns:
            Its process id inside the container; its own children, such as loader workers, are passed over.

        Raises:
            PlatformError: no process of this rank runs.
        """
        pid = top_of_rank(must("exec", self.name, "sh", "-c", RANKS, str(rank)))
        if pid is None:
            raise PlatformError(f"rank {rank} does not run in {self.name}")
        return pid

    # --- what happens to it -------------------------------------------------------------------------------------

    def kill(self, number: signal.Signals = signal.SIGKILL) -> float:
        """Send a signal to its first process; SIGKILL ends all of its processes, as a lost host ends."""
        began = time.time()
        must("kill", "--signal", str(int(number)), self.name)
        return began

    def stop(self, grace_s: int = 60) -> float:
        """Ask it to end as the platform does, wait for it, and return the seconds that it took."""
        began = time.monotonic()
        must("stop", "--time", str(grace_s), self.name)
        return time.monotonic() - began

    def kill_rank(self, rank: int, number: signal.Signals = signal.SIGKILL) -> float:
        """Send a signal to one rank alone."""
        pid = self.pid_of_rank(rank)
        began = time.time()
        must("exec", self.name, "sh", "-c", f"kill -{int(number)} {pid}")
        return began

    def freeze(self) -> float:
        """Stop all of its processes where they are; its connections stay open."""
        began = time.time()
        must("pause", self.name)
        return began

    def unfreeze(self) -> float:
        """Let a frozen container go on."""
        began = time.time()
        must("unpause", self.name)
        return began

    def drop(self, *, incoming: bool = True, outgoing: bool = True, peer: str = "") -> float:
        """Lose packets in silence, as a broken switch does. Needs root on the engine's own machine.

        Args:
            incoming: lose what comes to it.
            outgoing: lose what it sends.
            peer: an address, to lose only what goes to or comes from there.

        Raises:
            UserError: we may not enter its network namespace.
        """
        began = time.time()
        self.network_space().drop(incoming=incoming, outgoing=outgoing, peer=peer)
        return began

    def heal(self) -> float:
        """Take back every `drop`."""
        began = time.time()
        self.network_space().heal()
        return began

    def latency(self, delay_s: float, jitter_s: float = 0.0, seed: int = 0) -> Callable[[], None]:
        """Let what it sends come later; return what takes it back. Needs root on the engine's own machine.

        Args:
            delay_s: seconds.
            jitter_s: seconds around `delay_s`.
            seed: of the jitter, where the kernel has no netem.

        Raises:
            UserError: we may not enter its network name space.
        """
        return self.network_space().delay(delay_s, jitter_s, seed)

    def lose(self, share: float, seed: int = 0) -> Callable[[], None]:
        """Lose a share, in 0..1, of the packets that it sends; return what takes it back. Needs root, as `latency`."""
        return self.network_space().lose(share, seed)

    def pid(self) -> int:
        """Return the process id of its first process, as the engine's machine counts."""
        return int(must("inspect", "--format", "{{.State.Pid}}", self.name))

    def network_space(self) -> ContainerNetwork:
        """Reach into its network name space."""
        return ContainerNetwork(self.pid(), self.name)

    def fill(self, directory: str) -> int:
        """Write to a directory until its disk is full.

        Returns:
            Bytes that were still free.
        """
        done = docker("exec", self.name, "sh", "-c", 'cat /dev/zero >"$0/filler"; wc -c <"$0/filler"', directory)
        if "No space left" not in done.stderr:
            raise PlatformError(f"{directory} of {self.name} is not full: {done.stderr.strip()}")
        return int(done.stdout)

    def load_cpu(self, processes: int) -> None:
        """Start processes that only compute; they end with the container."""
        for _ in range(processes):
            must("exec", "--detach", self.name, "sh", "-c", "while :; do :; done")

    def ending(self, host: str, base: Path) -> Ending:
        """Describe its end; it must have ended.

        Args:
            host: its name in the job.
            base: the directory on this machine that is its /opt/ml.
        """
        state = json.loads(must("inspect", "--format", "{{json .State}}", self.name))
        if state["Running"]:
            raise PlatformError(f"{self.name} still runs")
        tree = ContractTree(base)
        return Ending(
            host=host,
            exit_code=int(state["ExitCode"]),
            at=unix_seconds(str(state["FinishedAt"])),
            out_of_memory=bool(state["OOMKilled"]),
            failure=tree.failure,
            stopped=tree.stopped is not None,
            succeeded=tree.succeeded,
            log=self.lines(),
        )
