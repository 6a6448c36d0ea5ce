"""Faults of ``slipway run``: which an engine can play, its hosts as faults see them, the disks that they need."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runtime.base.errors import UserError
from runtime.local.engine import Engine, Host
from runtime.local.request import JobSpec
from runtime.local.tree import directory_of
from runtime.testing.faults.disk import Disk, can_make_disks, disks_of
from runtime.testing.faults.network import can_reach_in
from runtime.testing.faults.plan import DISK_VERBS, VERBS, Fault, parse_faults
from runtime.testing.faults.play import FaultPlayer, Played

ENGINE_VERBS: Mapping[str, Sequence[str]] = {"process": ("kill", "freeze"), "docker": VERBS}
"""What each engine can play."""
NETWORK_VERBS = ("drop", "latency", "loss")
"""Played by rules of this machine's kernel in the name space of a container; ``disconnect`` is the engine's own."""


def read_faults(texts: Sequence[str], spec: JobSpec, engine: str) -> tuple[Fault, ...]:
    """Read ``--fault``, and see whether this machine can do it, before anything is started.

    Args:
        texts: see `runtime.testing.faults.plan`.
        spec: the job; faults name its hosts and directories.
        engine: ``process`` or ``docker``.

    Raises:
        UserError: it cannot.
    """
    faults = parse_faults(texts, spec.hosts, ENGINE_VERBS[engine])
    for fault in faults:
        reason = can_reach_in() if fault.verb in NETWORK_VERBS else ""
        reason = can_make_disks() if fault.verb in DISK_VERBS else reason
        if reason:
            raise UserError(
                f"Fault {fault.text!r} cannot be played: {reason}",
                allowed="kill, freeze and disconnect need nothing",
                fix="run as root with nsenter, iptables and e2fsprogs installed",
            )
        if fault.path and directory_of(spec, Path("/"), fault.path) is None:
            raise UserError(
                f"Fault {fault.text!r}: {fault.path} is no directory of a host's own",
                allowed="a disk can be below /opt/ml/model, /opt/ml/output, /opt/ml/processing or the checkpoints",
            )
    return faults


class LocalFaults:
    """Plays the faults of one run."""

    def __init__(self, faults: Sequence[Fault], engine: Engine, record: list[Played]) -> None:
        """Nothing is played yet; `record` takes what is."""
        self._engine = engine
        self._player = FaultPlayer(faults, record)
        self._faults = faults
        self._disks: dict[tuple[str, str], Disk] = {}

    @property
    def needs_step(self) -> bool:
        """Whether a step is awaited."""
        return self._player.needs_step

    def prepare(self, spec: JobSpec, bases: Mapping[str, Path]) -> None:
        """Make the disks of an attempt, before its hosts are started; the disks of the one before go.

        Args:
            spec: the job.
            bases: host to the root of its tree, which is there.
        """
        self._unmount(keep=False)
        for fault in self._faults:
            for host, base in bases.items():
                target = directory_of(spec, base, fault.path) if fault.path else None
                if target is not None and fault.host in ("", host) and (host, fault.path) not in self._disks:
                    home = disks_of(base) / str(len(self._disks))
                    slow = fault.verb == "slow-disk"
                    self._disks[host, fault.path] = Disk(home, target, None if slow else fault.size)

    def begin(self, hosts: Sequence[Host]) -> None:
        """Take the hosts of an attempt."""
        self._player.begin([LocalVictim(host, self._engine, self._disks) for host in hosts])

    def tick(self, step: int, elapsed_s: float) -> None:
        """Play what is due."""
        self._player.tick(step, elapsed_s)

    def end(self) -> None:
        """Take back what still lasts."""
        self._player.end()

    def lost(self) -> tuple[str, ...]:
        """Name the hosts that vanished in this attempt."""
        return self._player.lost()

    def note_missed(self) -> None:
        """Note the faults whose moment never came."""
        self._player.close()

    def close(self) -> None:
        """Take the disks away; what lies on them stays in the trees."""
        self._unmount(keep=True)

    def _unmount(self, *, keep: bool) -> None:
        for disk in self._disks.values():
            disk.unmount(keep=keep)
        self._disks.clear()


class LocalVictim:
    """One host of a run, as a fault sees it."""

    def __init__(self, host: Host, engine: Engine, disks: Mapping[tuple[str, str], Disk]) -> None:
        """Nothing happens yet."""
        self._host = host
        self._engine = engine
        self._disks = disks

    @property
    def host(self) -> str:
        """Its name in the job."""
        return self._host.name

    def is_up(self) -> bool:
        """Whether it has been started; one that has ended can be hit as well, in vain."""
        return self._host.running

    def vanish(self) -> None:
        """End all of its processes at once."""
        self._require_alive()
        self._engine.kill([self._host])

    def freeze(self) -> None:
        """Stop all of its processes where they are."""
        self._require_alive()
        self._host.freeze()

    def unfreeze(self) -> None:
        """Let them go on; one that has ended meanwhile stays so."""
        if not self._host.poll():
            self._host.unfreeze()

    def signal_rank(self, rank: int, number: int) -> bool:
        """Send a signal to one rank; tell whether it is here."""
        return self._host.signal_rank(rank, number)

    def unplug(self) -> None:
        """Take its network interface away."""
        self._require_alive()
        self._host.unplug()

    def plug(self) -> None:
        """Give it back, if the host still runs."""
        if not self._host.poll():
            self._host.plug()

    def disturb(self, fault: Fault) -> Callable[[], object]:
        """Begin ``drop``, ``loss`` or ``latency``."""
        self._require_alive()
        return self._host.network().disturb(fault)

    def spoil(self, fault: Fault) -> Callable[[], object]:
        """Begin ``full-disk`` or ``slow-disk``."""
        self._require_alive()
        return self._disks[self.host, fault.path].spoil(fault, self._host.pid)

    def _require_alive(self) -> None:
        if self._host.poll():
            raise UserError(f"{self.host} had ended before")
