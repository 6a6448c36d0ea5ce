"""What an engine of hosts gives to a run: places where `train` runs, watched and ended one by one.

The life of a job (`runtime.local.attempt`, `runtime.local.runner`) is the same whatever a host is; an engine says
how one is made, and how it ends.
"""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from runtime.contract.paths import Paths
from runtime.local.record import InputRecord
from runtime.local.request import JobSpec
from runtime.local.s3.client import S3Grant
from runtime.testing.faults.network import ContainerNetwork


class HostLog:
    """The log file of one host: the engine writes it, we only show what is new."""

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


class Host(Protocol):
    """One started host."""

    name: str
    base: Path
    """Root of its tree on this machine; what is ``/opt/ml`` for the job."""
    started: float
    """Monotonic seconds."""
    exit_code: int | None
    """128 + n for death by signal n; None while it runs."""
    seconds: float
    """From its start to its end; 0 while it runs."""

    @property
    def paths(self) -> Paths:
        """Its tree."""
        ...

    @property
    def running(self) -> bool:
        """Whether its first process has been started; true also when it has ended since."""
        ...

    def poll(self) -> bool:
        """Look whether it has ended; once it has, `exit_code` and `seconds` are known and its log is whole.

        Raises:
            PlatformError: the engine lost sight of it.
        """
        ...

    def terminate(self) -> None:
        """Send SIGTERM to its first process; no error when it has ended."""
        ...

    # Faults, see `runtime.local.faults`: only those are asked for that the engine can play.

    @property
    def pid(self) -> int:
        """Process id of its first process, as this machine counts."""
        ...

    def freeze(self) -> None:
        """Stop all of its processes where they are."""
        ...

    def unfreeze(self) -> None:
        """Let them go on."""
        ...

    def signal_rank(self, rank: int, number: int) -> bool:
        """Send a signal to one rank; tell whether it is here."""
        ...

    def unplug(self) -> None:
        """Take its network interface away."""
        ...

    def plug(self) -> None:
        """Give it back; it may get another address."""
        ...

    def network(self) -> ContainerNetwork:
        """Reach into its network."""
        ...


class Engine(Protocol):
    """Makes and ends the hosts of one job. Used for one run, from `open` to `close`."""

    interface: str
    """``network_interface_name`` of the hosts."""

    def open(self, spec: JobSpec, directory: Path) -> None:
        """Make ready what all attempts share.

        Args:
            spec: the job.
            directory: output directory of the run.

        Raises:
            UserError: something is missing on this machine, such as the image.
        """
        ...

    def grant(self, grant: S3Grant) -> None:
        """Let all hosts use S3 as this process does; called after `open`.

        Raises:
            UserError: hosts cannot reach its endpoint.
        """
        ...

    def submit(self, archive: Path) -> str:
        """Return the URI by which hosts find the packed code that lies at `archive`."""
        ...

    def await_earlier(self, trees: Sequence[Path], seconds: float) -> None:
        """See the hosts of an earlier run, which was cut off, to their end.

        Args:
            trees: roots of their trees.
            seconds: what still runs then is killed.
        """
        ...

    def begin(self, spec: JobSpec) -> None:
        """Begin an attempt: what it needs afresh, such as ports."""
        ...

    def lay_out(self, spec: JobSpec, host: str, base: Path) -> None:
        """Write a host's tree; `base` does not exist yet."""
        ...

    def start(self, spec: JobSpec, host: str, base: Path, log: HostLog) -> Host:
        """Start one host; what it prints goes to ``log.sink``.

        Raises:
            PlatformError: it cannot be started.
        """
        ...

    def kill(self, hosts: Sequence[Host]) -> None:
        """Let machines vanish, all at once: SIGKILL to every process of every one."""
        ...

    def finish(self, hosts: Sequence[Host]) -> None:
        """End an attempt: nothing of these hosts runs afterwards, and their files are the user's."""
        ...

    def check(self) -> None:
        """See that the hosts can still read their channels.

        Raises:
            UserError: the data of a channel cannot be read, or is not what the request says.
            PlatformError: what showed it is gone.
        """
        ...

    def inputs(self) -> list[InputRecord]:
        """Return what streamed and mounted channels delivered in the attempt that `finish` ended."""
        ...

    def close(self) -> None:
        """Give back everything; called whatever the end."""
        ...


class StoppedEarlyError(Exception):
    """The user stopped the job before its hosts were started."""


class StopRequest:
    """Turns SIGINT, SIGTERM and SIGHUP of ``slipway run`` into facts, and puts the old handlers back."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        """Nothing is taken over yet."""
        self.signal_name = ""
        self.times = 0
        self._old: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in self.NUMBERS:
            self._old[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType] - it came from signal.signal

    def check(self) -> None:
        """Raise when somebody wants no more.

        Raises:
            StoppedEarlyError: a signal came.
        """
        if self.times:
            raise StoppedEarlyError(self.signal_name)

    def _on_signal(self, number: int, _frame: object) -> None:
        self.times += 1
        self.signal_name = self.signal_name or signal.Signals(number).name
