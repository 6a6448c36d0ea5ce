"""Plays faults at their moments, whoever the hosts are: containers of a test, of a Docker engine, or processes."""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from runtime.base.errors import PlatformError, UserError
from runtime.base.log import Log
from runtime.testing.faults.plan import Fault

log = Log("faults")

Undo = Callable[[], object]
"""Takes a fault back."""


class Victim(Protocol):
    """A host as a fault sees it. A kind of host that cannot do something raises UserError."""

    @property
    def host(self) -> str:
        """Its name in the job."""
        ...

    def is_up(self) -> bool:
        """Whether it has been started; false again when it has ended."""
        ...

    def vanish(self) -> object:
        """End all of its processes at once, as a lost machine ends."""
        ...

    def freeze(self) -> object:
        """Stop all of its processes where they are."""
        ...

    def unfreeze(self) -> object:
        """Let them go on."""
        ...

    def signal_rank(self, rank: int, number: int) -> bool:
        """Send a signal to one rank; tell whether it is here."""
        ...

    def unplug(self) -> object:
        """Take its network interface away."""
        ...

    def plug(self) -> object:
        """Give it back."""
        ...

    def disturb(self, fault: Fault) -> Undo:
        """Begin ``drop``, ``loss`` or ``latency``."""
        ...

    def spoil(self, fault: Fault) -> Undo:
        """Begin ``full-disk`` or ``slow-disk``; the disk was prepared before the host was started."""
        ...


@dataclass
class Played:
    """What became of a fault on one host."""

    fault: str
    """As asked, see `runtime.testing.faults.plan`."""
    host: str
    """Empty when no host was found for it."""
    attempt: int
    """Counts from 1; 0: its moment never came."""
    step: int = 0
    """Last step that any rank had finished then."""
    at: float | None = None
    """Unix seconds of its beginning; None: it never began."""
    ended: float | None = None
    """Unix seconds at which it was taken back; None: it lasted until the end of the host."""
    error: str | None = None
    """Why it could not be played."""


@dataclass
class _Active:
    fault: Fault
    played: Played
    undo: Undo
    until: float
    """Monotonic seconds."""


@dataclass
class FaultPlayer:
    """Plays the faults of one job, through all of its attempts."""

    faults: Sequence[Fault]
    record: list[Played] = field(default_factory=list[Played])
    """Grows while faults are played."""

    def __post_init__(self) -> None:
        """Nothing is due yet."""
        self._once = [fault for fault in self.faults if fault.once]
        self._waiting: list[Fault] = []
        self._active: list[_Active] = []
        self._victims: Sequence[Victim] = ()
        self._lost: list[str] = []
        self._attempt = 0

    @property
    def needs_step(self) -> bool:
        """Whether a step is awaited."""
        return any(fault.step is not None for fault in self._once)

    def begin(self, victims: Sequence[Victim]) -> None:
        """Take the hosts of an attempt, which are coming up."""
        self._attempt += 1
        self._victims = victims
        self._lost.clear()
        self._waiting = [fault for fault in self.faults if not fault.once]

    def tick(self, step: int, elapsed_s: float) -> None:
        """Play what is due, and take back what is over; asked again and again.

        Args:
            step: last one that any rank has finished in this attempt; 0 before the first.
            elapsed_s: since the start of the hosts.
        """
        now = time.monotonic()
        for active in [item for item in self._active if now >= item.until]:
            self._end(active)
        for pending in (self._waiting, self._once):
            for fault in [item for item in pending if item.due(step, elapsed_s)]:
                if self._try(fault, step):
                    pending.remove(fault)

    def end(self) -> None:
        """Take back what still lasts: the hosts are to end, and a frozen one cannot."""
        for active in list(self._active):
            self._end(active, early=True)

    def lost(self) -> tuple[str, ...]:
        """Name the hosts that vanished in this attempt."""
        return tuple(self._lost)

    def close(self) -> None:
        """Note the faults whose moment never came."""
        for fault in self._once:
            self.record.append(Played(fault.text, fault.host, 0, error="its moment never came"))
            log.warning(f"fault {fault.text}: its moment never came")
        self._once.clear()

    def _try(self, fault: Fault, step: int) -> bool:
        """Play a fault if its hosts are up; false while one is still coming up."""
        aimed = [victim for victim in self._victims if fault.host in ("", victim.host)]
        if not all(victim.is_up() for victim in aimed):
            return False
        if fault.rank is not None:
            self._play_rank(fault, aimed, step)
            return True
        for victim in aimed:
            self._play(fault, victim.host, step, lambda _, victim=victim: begin(fault, victim))
            if fault.verb == "kill":
                self._lost.append(victim.host)
        return True

    def _play_rank(self, fault: Fault, victims: Sequence[Victim], step: int) -> None:
        stop = signal.SIGKILL if fault.verb == "kill" else signal.SIGSTOP
        rank = fault.rank or 0

        def find(played: Played) -> Undo:
            for victim in victims:
                if victim.signal_rank(rank, stop):
                    played.host = victim.host
                    return lambda: victim.signal_rank(rank, signal.SIGCONT)
            raise UserError(f"no host has rank {rank}")

        self._play(fault, "", step, find)

    def _play(self, fault: Fault, host: str, step: int, start: Callable[[Played], Undo]) -> None:
        played = Played(fault.text, host, self._attempt, step, time.time())
        self.record.append(played)
        try:
            undo = start(played)
        except (PlatformError, UserError, OSError) as error:
            played.error = str(error)
            log.warning(f"fault {fault.text} on {host or 'a rank'} could not be played: {error}")
            return
        log.info(f"fault {fault.text} on {played.host or host} after step {step}")
        until = float("inf") if fault.lasting_s is None else time.monotonic() + fault.lasting_s
        self._active.append(_Active(fault, played, undo, until))

    def _end(self, active: _Active, *, early: bool = False) -> None:
        self._active.remove(active)
        try:
            active.undo()
        except (PlatformError, UserError, OSError) as error:
            log.warning(f"fault {active.fault.text} could not be taken back: {error}")
            return
        if not early:
            active.played.ended = time.time()
            log.info(f"fault {active.fault.text} on {active.played.host} is over")


def begin(fault: Fault, victim: Victim) -> Undo:
    """Let a fault happen to one host.

    Returns:
        What takes it back.

    Raises:
        UserError: this kind of host cannot do it.
        PlatformError: it did not work.
    """
    if fault.verb == "kill":
        victim.vanish()
        return _nothing
    if fault.verb == "freeze":
        victim.freeze()
        return victim.unfreeze
    if fault.verb == "disconnect":
        victim.unplug()
        return victim.plug
    if fault.path:
        return victim.spoil(fault)
    return victim.disturb(fault)


def _nothing() -> None:
    """Take nothing back: what is dead stays dead."""
