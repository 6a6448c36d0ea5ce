"""Plays the hosts of a job as processes of this machine, without root and without Docker.

A host is one ``train`` (`runtime.launcher`) with a tree, an address and a log of its own. One loop starts them,
watches them, plays interruptions, and leaves nothing running, whatever the end.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from runtime.errors import PlatformError
from runtime.local.interruption import Interruption
from runtime.local.processes import (
    PR_SET_CHILD_SUBREAPER,
    adopt_orphans,
    children_of,
    end_orphans,
    kill_all,
)
from runtime.log import Log
from runtime.paths import Paths
from runtime.progress import PROGRESS

log = Log("local")

GRACE_S = 120.0
"""From SIGTERM to SIGKILL, for a stop and an interruption. Source: StopTrainingJob."""
FAILED_ALONE_S = 30.0
"""How long other hosts may outlive one that failed. Ours end within seconds; others must be told."""
WATCH_S = 0.004
"""Between two looks at the progress files while an interruption at a step is awaited: well below a step."""
IDLE_S = 0.02
"""Between two looks otherwise."""
_PR_SET_PDEATHSIG = 1

End = Literal["ended", "interrupted", "stopped", "max_run"]
"""Why an attempt ended: by itself, by an interruption, by the user, by ``MaxRuntimeInSeconds``."""


class HostLog:
    """The log file of one host: the host writes it itself, we only show what is new."""

    def __init__(self, path: Path, show: Callable[[str], None] | None) -> None:
        """Open the file for appending.

        Args:
            path: made if need be; earlier attempts stay in it.
            show: takes one whole line; None: nobody watches.
        """
        self.path = path
        self._show = show
        self.sink = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._source = path.open("rb")
        self._source.seek(0, os.SEEK_END)
        self._rest = b""

    def mark(self, line: str) -> None:
        """Separate attempts."""
        os.write(self.sink, f"=== {line} ===\n".encode())

    def pump(self, *, last: bool = False) -> None:
        """Show the lines that came since."""
        if self._show is None:
            return
        while piece := self._source.read(1 << 16):
            *lines, self._rest = (self._rest + piece).split(b"\n")
            for line in lines:
                self._show(line.decode(errors="replace"))
        if last and self._rest:
            self._show(self._rest.decode(errors="replace"))
            self._rest = b""

    def close(self) -> None:
        """Show the rest and close."""
        self.pump(last=True)
        self._source.close()
        os.close(self.sink)


@dataclass
class HostProcess:
    """One host of an attempt."""

    name: str
    base: Path
    """Root of its tree."""
    process: subprocess.Popen[bytes]
    started: float
    """Monotonic seconds."""
    exit_code: int | None = None
    """128 + n for death by signal n; None while it runs."""
    seconds: float = 0.0

    @property
    def paths(self) -> Paths:
        """Its tree."""
        return Paths(str(self.base))


@dataclass
class AttemptEnd:
    """What became of an attempt."""

    hosts: list[HostProcess]
    end: End
    last_step: int
    interrupted_at: float | None = None
    """Unix seconds of the interruption's signal."""
    reasons: list[str] = field(default_factory=list[str])
    """What we did to it, in words."""


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

    def _on_signal(self, number: int, _frame: object) -> None:
        self.times += 1
        self.signal_name = self.signal_name or signal.Signals(number).name


def last_step_of(hosts: Sequence[HostProcess]) -> int:
    """Return the last step that any rank has finished; 0 before the first, or when none is reported."""
    last = 0
    for host in hosts:
        try:
            slots = (Path(host.paths.state) / "progress").read_bytes()
        except OSError:
            continue
        whole = len(slots) - len(slots) % PROGRESS.size
        last = max([last, *(step for step, _ in PROGRESS.iter_unpack(slots[:whole]))])
    return last


def ranks_started(hosts: Sequence[HostProcess]) -> bool:
    """Tell whether every host has started its ranks: its launcher makes the progress file just before."""
    return all((Path(host.paths.state) / "progress").exists() for host in hosts)


class Attempt:
    """One start of all hosts, watched to its end."""

    def __init__(self, logs: Mapping[str, HostLog], stop: StopRequest) -> None:
        """Nothing is started.

        Args:
            logs: of every host.
            stop: the user's wish to end the run.
        """
        self._logs = logs
        self._stop = stop
        self._hosts: list[HostProcess] = []
        self._end: End = "ended"
        self._kill_at = 0.0
        """Monotonic seconds at which what still runs is killed; 0 while nobody was told to end."""
        self._reasons: list[str] = []
        self._interrupted_at: float | None = None
        self._before: set[int] = set()
        """Children that this process had already."""

    def run(
        self,
        environs: Mapping[str, Mapping[str, str]],
        *,
        interruption: Interruption | None,
        max_run_s: float | None,
        on_training: Callable[[], None],
        on_ending: Callable[[End], None],
    ) -> AttemptEnd:
        """Start the hosts and see them to their end.

        Args:
            environs: host to its whole environment; ``SAGEMAKER_BASE_DIR`` is its tree, which is there.
            interruption: to play in this attempt.
            max_run_s: seconds that are left to the job; None: no limit.
            on_training: called once, when every host has started its ranks.
            on_ending: called once, when we make the attempt end.
        """
        began = time.monotonic()
        training = False
        adopt_orphans(on=True)  # those of a host that is gone come to us
        self._before = children_of(os.getpid())
        try:
            for name, environ in environs.items():
                self._hosts.append(self._start(name, environ))
            while not self._reap():
                if not training and ranks_started(self._hosts):
                    training = True
                    on_training()
                before = self._end
                self._decide(interruption, time.monotonic() - began, max_run_s)
                if self._end != before:
                    on_ending(self._end)
                for host_log in self._logs.values():
                    host_log.pump()
                watched = interruption is not None and interruption.step is not None and not self._kill_at
                time.sleep(WATCH_S if watched else IDLE_S)
        finally:
            for host in self._hosts:
                kill_all(host.base)
                host.process.wait()
            self._end_orphans()
            adopt_orphans(on=False)
            for host_log in self._logs.values():
                host_log.pump(last=True)
        last = last_step_of(self._hosts)
        return AttemptEnd(self._hosts, self._end, last, self._interrupted_at, self._reasons)

    def _end_orphans(self) -> None:
        end_orphans(self._before | {host.process.pid for host in self._hosts})

    def _start(self, name: str, environ: Mapping[str, str]) -> HostProcess:
        libc = ctypes.CDLL(None)
        parent = os.getpid()

        def die_with_parent() -> None:
            # Even a SIGKILL of `slipway run` must not leave a job behind: launchers stop their ranks on SIGTERM.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # `train` inherits orphans, as PID 1 does
            if os.getppid() != parent:
                os._exit(1)

        base = Path(environ["SAGEMAKER_BASE_DIR"])
        sink = self._logs[name].sink
        try:
            process = subprocess.Popen(
                # -P: the working directory must not offer modules, as it does not to `train` on PATH.
                [sys.executable, "-P", "-m", "runtime.launcher"],
                cwd=base,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                # A Ctrl-C goes to the terminal's group; the hosts shall hear of it from us, once.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            raise PlatformError(f"Host {name} cannot be started: {error}") from error
        return HostProcess(name, base, process, time.monotonic())

    def _reap(self) -> bool:
        """Note who has ended; True when all have."""
        for host in self._hosts:
            status = host.process.poll() if host.exit_code is None else None
            if status is not None:
                host.exit_code = 128 - status if status < 0 else status
                host.seconds = time.monotonic() - host.started
                kill_all(host.base)  # a container ends with its first process
                self._end_orphans()
        return all(host.exit_code is not None for host in self._hosts)

    def _decide(self, interruption: Interruption | None, elapsed_s: float, max_run_s: float | None) -> None:
        now = time.monotonic()
        if self._end in ("ended", "interrupted") and self._stop.times:
            self._terminate("stopped", f"{self._stop.signal_name} to slipway run")
        elif self._end == "ended" and max_run_s is not None and elapsed_s >= max_run_s:
            self._terminate("max_run", "MaxRuntimeInSeconds is used up")
        elif (
            self._end == "ended" and interruption is not None and interruption.due(self._step(interruption), elapsed_s)
        ):
            self._interrupted_at = time.time()
            self._terminate(
                "interrupted", f"interruption after {interruption.after}", kill=interruption.signal == "KILL"
            )
        elif self._end == "ended" and not self._kill_at:
            self._end_survivors(now)
        if (self._kill_at and now >= self._kill_at) or self._stop.times > 1:
            running = [host for host in self._hosts if host.exit_code is None]
            for host in running:
                host.process.kill()  # all launchers first: machines that vanish do not talk about each other
            for host in running:
                kill_all(host.base)

    def _step(self, interruption: Interruption) -> int:
        return last_step_of(self._hosts) if interruption.step is not None else 0

    def _terminate(self, end: End, reason: str, *, kill: bool = False) -> None:
        self._end = end
        self._reasons.append(reason)
        self._kill_at = self._kill_at or time.monotonic() + (0.0 if kill else GRACE_S)
        log.info(f"{reason}: {'SIGKILL' if kill else f'SIGTERM, {GRACE_S:g} s to leave'}")
        if not kill:
            self._signal_launchers()

    def _signal_launchers(self) -> None:
        for host in self._hosts:
            if host.exit_code is None:
                host.process.send_signal(signal.SIGTERM)

    def _end_survivors(self, now: float) -> None:
        """End hosts that live on although another has failed; what the service does at once."""
        ended = [host.started + host.seconds for host in self._hosts if host.exit_code]
        if ended and now - min(ended) > FAILED_ALONE_S:
            self._reasons.append(f"another host failed {FAILED_ALONE_S:g} s ago")
            self._kill_at = now + GRACE_S
            log.warning(f"{self._reasons[-1]}: SIGTERM, {GRACE_S:g} s to leave")
            self._signal_launchers()
