"""What an engine of hosts gives to a run: places where `train` runs, watched and ended one by one.

The life of a job (`runtime.local.runner`, `attempts`, `attempt`) is the same whatever a host is; an engine says
how one is made, and how it ends.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from runtime.contract.paths import Paths
from runtime.local.host_log import HostLog
from runtime.local.record import InputRecord
from runtime.local.request import JobSpec
from runtime.local.s3.grant import S3Grant
from runtime.testing.faults.network import ContainerNetwork


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
