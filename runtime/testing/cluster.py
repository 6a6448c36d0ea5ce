"""The hosts of one job as containers on a private network."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from runtime.base.errors import PlatformError, UserError, one_line
from runtime.contract.paths import DEFAULT_BASE
from runtime.launch.progress import read_slots
from runtime.testing.client import LOOK_EVERY_S, PATIENCE_S, docker, must
from runtime.testing.container import Container, Ending, Limits
from runtime.testing.faults.disk import Disk
from runtime.testing.faults.plan import Fault, parse_faults
from runtime.testing.faults.play import FaultPlayer
from runtime.testing.tree import ContractTree

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Host(Container):
    """One started host: a container and its tree."""

    host: str
    tree: ContractTree
    network: str
    """The engine's name of its network, or ``none``."""
    disks: Mapping[str, Disk] = field(default_factory=dict[str, Disk])
    """Path in the container to its small disk, see `Cluster.disk`."""

    @property
    def address(self) -> str:
        """Its IPv4 address on the private network."""
        form = f'{{{{(index .NetworkSettings.Networks "{self.network}").IPAddress}}}}'
        return must("inspect", "--format", form, self.name).strip()

    def wait_for_file(self, name: str, deadline_s: float = PATIENCE_S) -> None:
        """Wait for a file under its /opt/ml, such as ``model/ready-0``."""
        self.wait_for(self.tree.base / name, deadline_s)

    def disconnect(self) -> float:
        """Take its network interface away, and return the unix time at which this began."""
        began = time.time()
        must("network", "disconnect", "--force", self.network, self.name)
        return began

    def connect(self) -> None:
        """Give it an interface again; it may get another address."""
        must("network", "connect", "--alias", self.host, self.network, self.name)

    # --- as `runtime.testing.faults` sees it --------------------------------------------------------------------

    def is_up(self) -> bool:
        """Whether it runs."""
        done = docker("inspect", "--format", "{{.State.Running}}", self.name)
        return done.returncode == 0 and done.stdout.strip() == "true"

    def vanish(self) -> float:
        """End all of its processes at once."""
        return self.kill()

    def signal_rank(self, rank: int, number: int) -> bool:
        """Send a signal to one rank; tell whether it is here."""
        try:
            self.kill_rank(rank, signal.Signals(number))
        except PlatformError:
            return False
        return True

    def unplug(self) -> float:
        """Take its network interface away."""
        return self.disconnect()

    def plug(self) -> None:
        """Give it an interface again."""
        self.connect()

    def disturb(self, fault: Fault) -> Callable[[], None]:
        """Begin ``drop``, ``loss`` or ``latency``."""
        return self.network_space().disturb(fault)

    def spoil(self, fault: Fault) -> Callable[[], None]:
        """Begin ``full-disk`` or ``slow-disk``."""
        disk = self.disks.get(fault.path)
        if disk is None:
            raise UserError(f"{self.host} has no disk of its own at {fault.path}", fix="call Cluster.disk before start")
        return disk.spoil(fault, self.pid())

    def wait(self, deadline_s: float = PATIENCE_S) -> Ending:
        """Wait for its end and describe it."""
        self.exit_code(deadline_s)
        return self.ending(self.host, self.tree.base)


class Cluster:
    """Hosts of one job. As a context manager it removes everything that it made."""

    def __init__(
        self,
        image: str,
        home: Path,
        hosts: int | Sequence[str] = 1,
        *,
        script: str | Mapping[str, str] = "",
        hyperparameters: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        network: bool = True,
        names: bool = True,
    ) -> None:
        """Write the trees and make the network; no container is started.

        Args:
            image: what to run.
            home: directory for the trees; it must be empty or not there.
            hosts: how many (``algo-1``, ``algo-2``, ...), or their names.
            script: text of the program, or the files of the code, see `ContractTree.write`.
            hyperparameters: of the job, equal on all hosts.
            limits: of every container; `start` can give other ones.
            network: False: each host is alone, without any interface.
            names: False: no host's name resolves until `publish`.
        """
        self.image = image
        self.hosts: tuple[str, ...] = (
            tuple(f"algo-{n}" for n in range(1, hosts + 1)) if isinstance(hosts, int) else tuple(hosts)
        )
        self.trees = {
            host: ContractTree.write(home / host, script, host=host, hosts=self.hosts, hyperparameters=hyperparameters)
            for host in self.hosts
        }
        self._limits = limits or Limits()
        self._names = names
        self._started: dict[str, Host] = {}
        self._prefix = f"slipway-{os.getpid()}-{next(_numbers)}"
        self._published: dict[str, str] = {}
        self._home = home
        self._disks: dict[str, dict[str, Disk]] = {host: {} for host in self.hosts}
        self._players: list[tuple[FaultPlayer, threading.Thread]] = []
        self._over = threading.Event()
        self._names_file = home / "hosts"
        if not names:
            self._names_file.write_text("127.0.0.1 localhost\n", encoding="utf-8")
        self._network = self._prefix if network else "none"
        if network:
            must("network", "create", "--internal", self._network)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, host: str | int) -> Host:
        """Return a started host by its name, or by its number from 1."""
        name = self.hosts[host - 1] if isinstance(host, int) else host
        if name not in self._started:
            raise UserError(f"{name} was not started", fix="call start first")
        return self._started[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._started.values())

    def start(
        self,
        *hosts: str | int,
        command: Sequence[str] = ("train",),
        limits: Limits | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """Start these hosts, all that are not started yet when none is named.

        Args:
            hosts: names, or numbers from 1.
            command: what to run in the image.
            limits: instead of the cluster's.
            options: further options of ``docker run``.
        """
        wanted = [self.hosts[host - 1] if isinstance(host, int) else host for host in hosts]
        for host in wanted or [host for host in self.hosts if host not in self._started]:
            name = f"{self._prefix}-{host}"
            # The engine's own name service answers for host names too, with or without an alias.
            words = ["run", "--detach", "--name", name, "--hostname", host if self._names else name]
            words += ["--network", self._network]
            words += ["--volume", f"{self.trees[host].base}:{DEFAULT_BASE}"]
            if self._network != "none" and self._names:
                words += ["--network-alias", host]
            if not self._names:
                words += ["--volume", f"{self._names_file}:/etc/hosts"]
            words += (limits or self._limits).options()
            # Known before it is started: a client that fails half-way must not leave a container behind.
            self._started[host] = Host(name, host, self.trees[host], self._network, self._disks[host])
            must(*words, *options, self.image, *command)

    def kill(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Send a signal to every started host, as the platform does when a job is stopped; ended ones are passed over.

        Returns:
            The unix time at which this began.
        """
        began = time.time()
        done = docker("kill", "--signal", str(int(number)), *(host.name for host in self))
        refused = [line for line in done.stderr.splitlines() if "is not running" not in line]
        if done.returncode != 0 and refused:
            raise PlatformError(one_line(f"docker kill: {' '.join(refused)}"))
        return began

    def disk(self, host: str | int, path: str, megabytes: int | None = None) -> Disk:
        """Put a small disk in the place of a directory of a host, before the host is started. Needs root.

        Args:
            host: name, or number from 1.
            path: below /opt/ml, such as /opt/ml/checkpoints.
            megabytes: None: a disk for ``slow-disk``, as big as anybody wants.

        Raises:
            UserError: this machine cannot do it, or the host runs already.
        """
        name = self.hosts[host - 1] if isinstance(host, int) else host
        if name in self._started:
            raise UserError(f"{name} runs already", fix="call disk before start")
        target = self.trees[name].base / Path(path).relative_to(DEFAULT_BASE)
        home = self._home / "disks" / name / target.name
        made = Disk(home, target, None if megabytes is None else megabytes << 20)
        self._disks[name][path] = made
        return made

    def play(self, *faults: str) -> FaultPlayer:
        """Let faults happen at their moments, in a thread that ends with the cluster.

        Args:
            faults: see `runtime.testing.faults.plan`; steps are those that ranks with a `Run` report, times count
                from now.

        Returns:
            Its ``record`` says what was played and when.

        Raises:
            UserError: a text has no meaning.
        """
        player = FaultPlayer(parse_faults(faults, self.hosts))
        player.begin(list(self))
        thread = threading.Thread(target=self._drive, args=(player,), name="faults", daemon=True)
        self._players.append((player, thread))
        thread.start()
        return player

    def _drive(self, player: FaultPlayer) -> None:
        began = time.monotonic()
        while not self._over.wait(LOOK_EVERY_S):
            player.tick(self._step() if player.needs_step else 0, time.monotonic() - began)

    def _step(self) -> int:
        files = [tree.base / "output" / "slipway" / "progress" for tree in self.trees.values()]
        return max((step for file in files for step, _ in read_slots(str(file))), default=0)

    def publish(self, *hosts: str | int) -> None:
        """Let the names of these started hosts resolve on all hosts, from now on; all when none is named."""
        for host in [self[host] for host in hosts] or list(self):
            self._published[host.host] = host.address
        lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in self._published.items())]
        # Written in place: the containers have this very file mounted.
        self._names_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def endings(self, *hosts: str | int, deadline_s: float = PATIENCE_S) -> list[Ending]:
        """Wait for the end of these hosts, of all started ones when none is named."""
        return [host.wait(deadline_s) for host in ([self[host] for host in hosts] or list(self))]

    def close(self) -> None:
        """Remove containers and network; files that root wrote in a container become the caller's again."""
        self._over.set()
        for player, thread in self._players:
            thread.join()
            player.end()
        mine = f"{os.getuid()}:{os.getgid()}"
        for host in self._started.values():
            docker("unpause", host.name)  # an old engine does not remove a frozen container
            docker("rm", "--force", "--volumes", host.name)
            if os.getuid() != 0:
                volume = f"{host.tree.base}:{DEFAULT_BASE}"
                docker("run", "--rm", "--user=0", "--volume", volume, self.image, "chown", "-R", mine, DEFAULT_BASE)
        self._started.clear()
        for disks in self._disks.values():
            for disk in disks.values():
                disk.unmount()
        if self._network != "none":
            done = docker("network", "rm", self._network)
            if done.returncode != 0 and "not found" not in done.stderr:
                raise PlatformError(f"docker network rm {self._network}: {done.stderr.strip()}")
