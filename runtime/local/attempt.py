"""One start of all hosts, watched to its end: interruptions, the user's stop, time limits, survivors of a failure."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from runtime.base.log import Log
from runtime.contract.paths import Paths
from runtime.launch.progress import read_slots
from runtime.local.engine import Engine, Host
from runtime.local.host_log import HostLog
from runtime.local.interruption import Interruption
from runtime.local.request import JobSpec
from runtime.local.stop_request import StopRequest

log = Log("local")

GRACE_S = 120.0
"""From SIGTERM to SIGKILL, for a stop and an interruption. Source: StopTrainingJob."""
FAILED_ALONE_S = 30.0
"""How long other hosts may outlive one that failed. Ours end within seconds; others must be told."""
WATCH_S = 0.004
"""Between two looks at the progress files while an interruption at a step is awaited: well below a step."""
IDLE_S = 0.02
"""Between two looks otherwise."""

End = Literal["ended", "interrupted", "stopped", "max_run", "max_wait"]
"""Why an attempt ended: by itself, by an interruption, by the user, by a limit of ``StoppingCondition``."""
LIMIT_STATUS: Mapping[End, str] = {"max_run": "MaxRuntimeExceeded", "max_wait": "MaxWaitTimeExceeded"}
"""Secondary status of a job that a limit has stopped."""


@dataclass(frozen=True)
class Limit:
    """How long an attempt may take."""

    seconds: float
    end: End
    """``max_run`` or ``max_wait``."""


class Player(Protocol):
    """Plays faults, see `runtime.local.faults`."""

    @property
    def needs_step(self) -> bool:
        """Whether a step is awaited."""
        ...

    def begin(self, hosts: Sequence[Host]) -> None:
        """The hosts of an attempt were started."""
        ...

    def tick(self, step: int, elapsed_s: float) -> None:
        """Play what is due; asked again and again."""
        ...

    def end(self) -> None:
        """Take back what still lasts: the attempt is over."""
        ...

    def lost(self) -> tuple[str, ...]:
        """Name the hosts that vanished in this attempt, as a broken machine does."""
        ...


@dataclass(frozen=True)
class AttemptEnd:
    """What became of an attempt."""

    hosts: Sequence[Host]
    end: End
    last_step: int
    interrupted_at: float | None = None
    """Unix seconds of the interruption's signal."""
    lost: tuple[str, ...] = ()
    """Hosts that a fault took away."""


def last_step_of(hosts: Sequence[Host]) -> int:
    """Return the last step that any rank has finished; 0 before the first, or when none is reported."""
    return max((last_step_in(host.paths) for host in hosts), default=0)


def last_step_in(paths: Paths) -> int:
    """Return the last step that any rank of one host has finished; 0 before the first, or when none is reported."""
    return max((step for step, _ in read_slots(f"{paths.state}/progress")), default=0)


def ranks_started(hosts: Sequence[Host]) -> bool:
    """Tell whether every host has started its ranks: its launcher makes the progress file just before."""
    return all((Path(host.paths.state) / "progress").exists() for host in hosts)


class Attempt:
    """One start of all hosts; used once."""

    def __init__(self, engine: Engine, logs: Mapping[str, HostLog], stop: StopRequest) -> None:
        """Nothing is started.

        Args:
            engine: makes the hosts.
            logs: of every host.
            stop: the user's wish to end the run.
        """
        self._engine = engine
        self._logs = logs
        self._stop = stop
        self._hosts: list[Host] = []
        self._end: End = "ended"
        self._kill_at = 0.0
        """Monotonic seconds at which what still runs is killed; 0 while nobody was told to end."""
        self._interrupted_at: float | None = None

    def run(
        self,
        spec: JobSpec,
        bases: Mapping[str, Path],
        *,
        interruption: Interruption | None,
        limit: Limit | None,
        player: Player,
        on_running: Callable[[], None],
        on_training: Callable[[], None],
        on_ending: Callable[[End], None],
    ) -> AttemptEnd:
        """Start the hosts and see them to their end.

        Args:
            spec: the job.
            bases: host to the root of its tree, which is there.
            interruption: to play in this attempt.
            limit: None: no limit.
            player: of faults.
            on_running: called once, when the first process of every host has been started.
            on_training: called once, when every host has started its ranks.
            on_ending: called once, when we make the attempt end.
        """
        began = time.monotonic()
        training = running = False
        watched = player.needs_step or (interruption is not None and interruption.step is not None)
        try:
            for name, base in bases.items():
                self._hosts.append(self._engine.start(spec, name, base, self._logs[name]))
            player.begin(self._hosts)
            while not self._all_ended():
                self._engine.check()
                if not running and all(host.running for host in self._hosts):
                    running = True
                    on_running()
                if not training and ranks_started(self._hosts):
                    training = True
                    on_training()
                before = self._end
                step = last_step_of(self._hosts) if watched else 0
                player.tick(step, time.monotonic() - began)
                self._decide(interruption, step, time.monotonic() - began, limit)
                if self._end != before:
                    on_ending(self._end)
                for host_log in self._logs.values():
                    host_log.pump()
                time.sleep(WATCH_S if watched and not self._kill_at else IDLE_S)
            if not running:
                on_running()  # it was over between two looks
            if not training and ranks_started(self._hosts):
                on_training()
        finally:
            player.end()
            self._engine.finish(self._hosts)
            for host_log in self._logs.values():
                host_log.pump(last=True)
        last = last_step_of(self._hosts)
        return AttemptEnd(self._hosts, self._end, last, self._interrupted_at, player.lost())

    def _all_ended(self) -> bool:
        # A list: every host is looked at, whatever the first one says.
        return all([host.exit_code is not None or host.poll() for host in self._hosts])

    def _running(self) -> list[Host]:
        return [host for host in self._hosts if host.exit_code is None]

    def _decide(self, interruption: Interruption | None, step: int, elapsed_s: float, limit: Limit | None) -> None:
        now = time.monotonic()
        if self._end in ("ended", "interrupted") and self._stop.times:
            self._terminate("stopped", f"{self._stop.signal_name} to slipway run")
        elif self._end == "ended" and limit is not None and elapsed_s >= limit.seconds:
            key = "MaxRuntimeInSeconds" if limit.end == "max_run" else "MaxWaitTimeInSeconds"
            self._terminate(limit.end, f"{key} is used up")
        elif self._end == "ended" and interruption is not None and interruption.due(step, elapsed_s):
            self._interrupted_at = time.time()
            self._terminate(
                "interrupted", f"interruption after {interruption.after}", kill=interruption.signal == "KILL"
            )
        elif self._end == "ended" and not self._kill_at:
            self._end_survivors(now)
        if (self._kill_at and now >= self._kill_at) or self._stop.times > 1:
            self._engine.kill(self._running())

    def _terminate(self, end: End, reason: str, *, kill: bool = False) -> None:
        self._end = end
        self._kill_at = self._kill_at or time.monotonic() + (0.0 if kill else GRACE_S)
        log.info(f"{reason}: {'SIGKILL' if kill else f'SIGTERM, {GRACE_S:g} s to leave'}")
        if not kill:
            self._signal()

    def _signal(self) -> None:
        for host in self._running():
            host.terminate()

    def _end_survivors(self, now: float) -> None:
        """End hosts that live on although another has failed; what the service does at once."""
        ended = [host.started + host.seconds for host in self._hosts if host.exit_code]
        if ended and now - min(ended) > FAILED_ALONE_S:
            self._kill_at = now + GRACE_S
            log.warning(f"another host failed {FAILED_ALONE_S:g} s ago: SIGTERM, {GRACE_S:g} s to leave")
            self._signal()
