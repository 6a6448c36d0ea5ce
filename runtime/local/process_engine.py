"""Plays the hosts of a job as processes of this machine, without root and without Docker.

A host is one ``train`` (`runtime.launch.launcher`) with a tree, an address and a log of its own. Nothing of it is left
running, whatever the end.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from runtime.base import env
from runtime.base.errors import PlatformError, UserError
from runtime.contract.paths import DEFAULT_BASE, Paths
from runtime.local.engine import Host
from runtime.local.environment import arn_of, container_environ
from runtime.local.host_log import HostLog
from runtime.local.inputs.service import Inputs
from runtime.local.network import free_ports, loopback_addresses
from runtime.local.processes import (
    PR_SET_CHILD_SUBREAPER,
    adopt_orphans,
    await_end,
    children_of,
    end_orphans,
    kill_all,
    pid_of_rank,
    processes_of,
    signal_all,
)
from runtime.local.record import InputRecord
from runtime.local.request import JobSpec, ProcessingJobSpec
from runtime.local.s3.grant import S3Grant
from runtime.local.tree import link_channels, write_tree
from runtime.planning.hardware import probe
from runtime.testing.faults.network import ContainerNetwork

_PR_SET_PDEATHSIG = 1


@dataclass
class HostProcess:
    """One host of an attempt."""

    name: str
    base: Path
    process: subprocess.Popen[bytes]
    started: float
    known: "ProcessEngine" = field(repr=False)
    exit_code: int | None = None
    seconds: float = 0.0

    @property
    def paths(self) -> Paths:
        """Its tree."""
        return Paths(str(self.base))

    @property
    def running(self) -> bool:
        """A process runs from its making."""
        return True

    def poll(self) -> bool:
        """Look whether it has ended; a container ends with its first process, and so does this host."""
        status = self.process.poll()
        if status is None:
            return False
        self.exit_code = 128 - status if status < 0 else status
        self.seconds = time.monotonic() - self.started
        kill_all(self.base)
        self.known.end_orphans()
        return True

    def terminate(self) -> None:
        """Send SIGTERM to its launcher."""
        self.process.send_signal(signal.SIGTERM)

    @property
    def pid(self) -> int:
        """Of its launcher."""
        return self.process.pid

    def freeze(self) -> None:
        """Stop all of its processes; one that was just born is found at the second look."""
        for _ in range(2):
            signal_all(sorted(processes_of(self.base)), signal.SIGSTOP)

    def unfreeze(self) -> None:
        """Let all of them go on."""
        signal_all(sorted(processes_of(self.base)), signal.SIGCONT)

    def signal_rank(self, rank: int, number: int) -> bool:
        """Send a signal to one rank; tell whether it is here."""
        pid = pid_of_rank(sorted(processes_of(self.base)), rank)
        if pid is not None:
            signal_all([pid], number)
        return pid is not None

    def unplug(self) -> None:
        """A process shares this machine's network."""
        raise UserError("engine process has no network of its own", fix="use --engine docker")

    def plug(self) -> None:
        """Nothing was unplugged."""

    def network(self) -> ContainerNetwork:
        """A process shares this machine's network."""
        raise UserError("engine process has no network of its own", fix="use --engine docker")


class ProcessEngine:
    """Makes hosts of processes."""

    interface = "lo"

    def __init__(self) -> None:
        """Nothing is started."""
        self._run_id = f"{time.time_ns():x}"
        self._addresses: Mapping[str, str] = {}
        self._ports = (0, 0)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._before: set[int] = set()
        """Children that this process had already."""
        self._directory = Path()
        self._inputs = Inputs()
        self._granted: Mapping[str, str] = {}

    def open(self, spec: JobSpec, directory: Path) -> None:
        """See that this machine can do it."""
        if not sys.platform.startswith("linux"):
            raise UserError(
                f"This machine runs {sys.platform}", allowed="engine process needs Linux: /proc, 127.0.0.0/8"
            )
        self._directory = directory

    def grant(self, grant: S3Grant) -> None:
        """Let hosts use S3; they reach whatever this process reaches."""
        self._granted = grant.variables(grant.endpoint)

    def submit(self, archive: Path) -> str:
        """Hosts see this machine's files."""
        return f"file://{archive}"

    def await_earlier(self, trees: Sequence[Path], seconds: float) -> None:
        """See the hosts of an earlier run to their end: they may still be saving."""
        for base in trees:
            await_end(base, seconds)

    def begin(self, spec: JobSpec) -> None:
        """Choose addresses and ports, and become the parent of whatever loses its own."""
        self._inputs = Inputs()
        # Its process is our child and no orphan: made before they are counted.
        self._inputs.mount(spec, self._directory, other_users=False)
        self._addresses = loopback_addresses(spec.hosts, os.getpid())
        self._ports = cast("tuple[int, int]", free_ports(2))
        adopt_orphans(on=True)  # those of a host that is gone come to us
        self._before = children_of(os.getpid())

    def lay_out(self, spec: JobSpec, host: str, base: Path) -> None:
        """Write a host's tree; channels are links to the user's data."""
        write_tree(spec, host, base, self.interface, arn_of(spec, self._run_id))
        self._inputs.keep_for(base)
        link_channels(spec, host, base, self._inputs.path_of)
        self._inputs.feed(spec, host, base)

    def start(self, spec: JobSpec, host: str, base: Path, log: HostLog) -> HostProcess:
        """Start a launcher."""
        here = env.process_environ()
        environ = container_environ(spec, base, self._addresses, self._ports, here, probe(here).cpus, self._run_id)
        environ = {**self._granted, **environ}  # what the job brings itself wins
        libc = ctypes.CDLL(None)
        parent = os.getpid()

        def die_with_parent() -> None:
            # Even a SIGKILL of `slipway run` must not leave a job behind: launchers stop their ranks on SIGTERM.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # `train` inherits orphans, as PID 1 does
            if os.getppid() != parent:
                os._exit(1)

        try:
            process = subprocess.Popen(
                _command(spec, base),
                cwd=base,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log.sink,
                stderr=log.sink,
                # A Ctrl-C goes to the terminal's group; the hosts shall hear of it from us, once.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            raise PlatformError(f"Host {host} cannot be started: {error}") from error
        self._processes.append(process)
        return HostProcess(host, base, process, time.monotonic(), self)

    def kill(self, hosts: Sequence[Host]) -> None:
        """Kill all launchers first: machines that vanish do not talk about each other."""
        for host in hosts:
            cast(HostProcess, host).process.kill()
        for host in hosts:
            kill_all(host.base)

    def finish(self, hosts: Sequence[Host]) -> None:
        """End what still runs, and be nobody's parent any more."""
        for host in hosts:
            kill_all(host.base)
            cast(HostProcess, host).process.wait()
        self.end_orphans()
        adopt_orphans(on=False)
        self._processes.clear()
        self._inputs.close()

    def check(self) -> None:
        """Raise what keeps a channel from being read."""
        self._inputs.check()

    def inputs(self) -> list[InputRecord]:
        """Return what the channels of the attempt delivered."""
        return self._inputs.delivered

    def end_orphans(self) -> None:
        """End what came to us from hosts that are gone."""
        end_orphans(self._before | {process.pid for process in self._processes})

    def close(self) -> None:
        """Be nobody's parent, also when an attempt could not be prepared."""
        adopt_orphans(on=False)
        self._inputs.close()


def _command(spec: JobSpec, base: Path) -> list[str]:
    """Return the first process of a host: `train`, or `process` with the words of the request."""
    # -P: the working directory must not offer modules, as it does not to commands on PATH.
    python = [sys.executable, "-P", "-m"]
    if not isinstance(spec, ProcessingJobSpec):
        return [*python, "runtime.launch.launcher"]
    words = moved((*spec.container_entrypoint, *spec.container_arguments), base)
    return [*python, "runtime.processing", *(words[1:] if words[:1] == ["process"] else words)]


def moved(words: Sequence[str], base: Path) -> list[str]:
    """Put a host's tree in the place of ``/opt/ml`` wherever a command line names that.

    >>> moved(["python3", "/opt/ml/processing/input/code/a.py", "--to=/opt/ml", "/opt/mlx"], Path("/t"))
    ['python3', '/t/processing/input/code/a.py', '--to=/t', '/opt/mlx']
    """
    return [re.sub(rf"(?<![\w./-]){DEFAULT_BASE}(?=[/\s:;,'\"]|$)", lambda _: str(base), word) for word in words]
