"""LaunchPlan -> processes -> Outcome: starts the ranks of one host, owns their signals, output and end.

One thread, one selector: pipes of the ranks, sockets of the other launchers, signals. It decides from facts only; what
to start is in the plan, what a fault means is in `runtime.outcome`.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from runtime.errors import ExitCode, PlatformError
from runtime.job import Job
from runtime.log import Log
from runtime.outcome import Cause, Outcome, cause_from_error, cause_of_exit, first_cause, read_rank_error
from runtime.peers import Lost, Message, Peers, job_token
from runtime.plan import LaunchPlan, RankPlan
from runtime.relay import Relay
from runtime.settings import Settings

log = Log("launch")

SETTLE_S = 2.0
"""How long a survivor's symptom waits for the cause to be told; reports of other hosts came within 0.4 s."""
KILL_AFTER_S = 1.5
"""From SIGTERM to SIGKILL once the job has failed: collectives cannot work any more, so there is nothing to save."""
ANNOUNCE_S = 5.0
"""How long a host that cannot even start tries to tell the others."""
SAMPLER = Path(__file__).parent / "profile" / "sampler.py"

PROGRESS = struct.Struct("<qd")
"""One slot per local rank in the progress file: last finished step of this attempt's count, and unix seconds of the
report. The seconds are 0 until a rank that uses `Run` has reported for the first time, with step 0."""


def _only_wake(_number: int, _frame: object) -> None:
    """Handle SIGCHLD: a handler must exist for the wake-up descriptor to be written."""


class Signals:
    """SIGTERM and SIGINT as facts that the loop looks at, SIGCHLD as a wake-up."""

    def __init__(self) -> None:
        """Take the signals of this process over."""
        self.stop_asked: str = ""
        self.interrupts = 0
        """Ctrl-C by a person; the second one means at once. A platform may well repeat its SIGTERM."""
        self.wake, writer = socket.socketpair()
        self.wake.setblocking(False)
        writer.setblocking(False)
        self._writer = writer
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, _only_wake)

    def _on_stop(self, number: int, _frame: object) -> None:
        self.interrupts += number == signal.SIGINT
        self.stop_asked = self.stop_asked or signal.Signals(number).name

    def drain(self) -> None:
        """Empty the wake-up pipe."""
        with contextlib.suppress(BlockingIOError):
            self.wake.recv(4096)


@dataclass
class _Rank:
    """One running or ended process."""

    plan: RankPlan
    process: subprocess.Popen[bytes]
    relays: list[Relay]
    status: int | None = None
    """Exit code, or -n for death by signal n; None while it runs."""
    killed: bool = False
    """Whether it was ended because it had nothing to save and nobody left to wait for."""


@dataclass
class _State:
    """What is known so far; only the loop changes it."""

    ranks: dict[int, _Rank] = field(default_factory=dict[int, _Rank])
    causes: list[Cause] = field(default_factory=list[Cause])
    done_hosts: set[str] = field(default_factory=set[str])
    stop_reason: str = ""
    stop_deadline: float = 0.0
    end_deadline: float = 0.0
    """When the ranks must be told to end, after a failure; 0 while all is well."""
    kill_deadline: float = 0.0
    """When they are killed; 0 until they were told."""
    stop_felt_at: float = 0.0
    """When the first rank had ended after a stop was asked; 0 before."""
    done_at: float = 0.0
    """Monotonic seconds at which our ranks had all ended well; 0 before."""


def announce_failure(cause: Cause, job: Job, settings: Settings, addresses: Mapping[str, str]) -> None:
    """Tell the other hosts of a failure that came before there was anything to supervise.

    Bounded by `ANNOUNCE_S`; hosts that are not up by then find us missing.
    """
    selector = selectors.DefaultSelector()
    try:
        hosts = [host.name for host in job.hosts]
        peers = Peers(selector, job.current_host, hosts, addresses, settings.peer_port, job_token(job))
    except PlatformError:
        return
    told: set[str] = set()
    deadline = time.monotonic() + ANNOUNCE_S
    while len(told) < len(peers.others) and time.monotonic() < deadline:
        for key, _ in selector.select(0.05):
            key.data()
        peers.tick(time.monotonic(), settings.silence_s)
        here = set(peers.others) - set(peers.missing)
        if here - told:
            peers.send(failed=asdict(cause.short()))
            told |= here
    peers.close()
    selector.close()


class Supervisor:
    """Runs one plan."""

    def __init__(self, plan: LaunchPlan, settings: Settings, state_dir: Path, profiler: Path, signals: Signals) -> None:
        """Prepare; nothing is started.

        Args:
            plan: what to start.
            settings: deadlines.
            state_dir: where the ranks leave their records.
            profiler: where the sampler writes.
            signals: of this process, already taken over.
        """
        self._plan = plan
        self._settings = settings
        self._state_dir = state_dir
        self._profiler = profiler
        self._signals = signals
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals.wake, selectors.EVENT_READ, signals.drain)
        self._host = plan.topology.current_host
        self._state = _State()
        self._sampler: subprocess.Popen[bytes] | None = None
        self._peers: Peers | None = None

    def run(self, addresses: dict[str, str], token: str) -> Outcome:
        """Wait for the hosts, start the ranks, see them to their end.

        Raises:
            PlatformError: a host did not come, or a port is taken.
        """
        topology = self._plan.topology
        self._peers = Peers(self._selector, self._host, topology.hosts, addresses, self._settings.peer_port, token)
        try:
            self._forget_earlier_run()
            self._wait_for_hosts(self._peers)
            if not self._ends_early():
                self._start()
                while not self._finished(self._peers):
                    self._turn(0.25)
            return self._conclude()
        except PlatformError as error:
            # Our goodbye alone would look like a cause to those who are still there.
            self._peers.send(failed=asdict(cause_from_error(error, self._host)))
            raise
        finally:
            self._end_leftovers()
            self._peers.close()
            self._selector.close()

    # --- phases -------------------------------------------------------------------------------------------------

    def _wait_for_hosts(self, peers: Peers) -> None:
        deadline = time.monotonic() + self._settings.host_wait_s
        began = time.monotonic()
        while peers.missing and not self._ends_early():
            if time.monotonic() > deadline:
                missing = peers.missing
                there = [host for host in peers.others if host not in missing]
                raise PlatformError(
                    f"{'Hosts' if len(missing) > 1 else 'Host'} {', '.join(map(repr, missing))} did not come within "
                    f"{self._settings.host_wait_s:g} s: {peers.why_missing(missing[0])}",
                    allowed=f"{', '.join(there)} did" if there else "",
                    fix="allow traffic inside the security group; slipway_host_wait_s moves the limit",
                )
            self._turn(0.05)
        if peers.others and not peers.missing:
            log.info(f"all {len(peers.others) + 1} hosts are there after {time.monotonic() - began:.1f} s")

    def _ends_early(self) -> bool:
        """Whether there is a reason, here or on another host, not to start at all."""
        return bool(self._signals.stop_asked or self._state.stop_reason or self._state.causes)

    def _forget_earlier_run(self) -> None:
        """Remove what an earlier run in the same tree said of its end: a stop before our start is none of its steps."""
        self._state_dir.mkdir(parents=True, exist_ok=True)
        for record in self._state_dir.glob("*-rank-*.json"):
            record.unlink(missing_ok=True)
        (self._state_dir / "progress").write_bytes(bytes(PROGRESS.size * len(self._plan.ranks)))

    def _start(self) -> None:
        if self._settings.profile:
            self._start_sampler()
        prefix_on = self._settings.prefixes_lines(self._plan.topology.world_size)
        for rank in self._plan.ranks:
            prefix = f"[{self._host} r{rank.rank}] ".encode() if prefix_on else b""
            self._start_rank(rank, prefix)
        log.info(
            f"started ranks {self._plan.ranks[0].rank}-{self._plan.ranks[-1].rank} of {self._plan.topology.world_size}:"
            f" {' '.join(self._plan.command[:2])}"
        )

    def _start_rank(self, rank: RankPlan, prefix: bytes) -> None:
        try:
            process = subprocess.Popen(
                self._plan.command,
                cwd=self._plan.cwd,
                env={**self._plan.environ, **rank.environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise PlatformError(f"Rank {rank.rank} cannot be started: {error}") from error
        relays: list[Relay] = []
        for pipe, sink in ((process.stdout, 1), (process.stderr, 2)):
            assert pipe is not None  # noqa: S101 - asked for above
            relay = Relay(os.dup(pipe.fileno()), sink, prefix)
            pipe.close()
            relays.append(relay)
            self._selector.register(relay.source, selectors.EVENT_READ, self._pump(relay))
        self._state.ranks[process.pid] = _Rank(rank, process, relays)

    def _pump(self, relay: Relay) -> Callable[[], None]:
        def pump() -> None:
            relay.pump()
            if relay.ended:
                self._selector.unregister(relay.source)

        return pump

    def _start_sampler(self) -> None:
        """Start the sampler of the machine; the job never depends on it."""
        words = ["--out", str(self._profiler / f"system-{self._host}.jsonl")]
        words += ["--interval-ms", str(self._settings.profile_interval_ms), "--parent", str(os.getpid())]
        words += ["--disk", str(self._profiler)]
        try:
            self._sampler = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SAMPLER), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            log.warning(f"no samples of the machine: {error}")

    # --- the loop -----------------------------------------------------------------------------------------------

    def _turn(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            key.data()
        self._reap()
        now = time.monotonic()
        peers = self._peers
        assert peers is not None  # noqa: S101 - set before the first turn
        peers.tick(now, self._settings.silence_s)
        for event in peers.take_events():
            if isinstance(event, Lost):
                self._on_lost(event)
            elif "failed" in event.body:
                self._on_cause(self._told_cause(event), tell=False)
            elif "stop" in event.body:
                self._on_stop(f"{event.body['stop']} on {event.host}", tell=False)
            elif "done" in event.body:
                self._state.done_hosts.add(event.host)
        if self._signals.stop_asked and not self._state.stop_reason:
            self._on_stop(self._signals.stop_asked, tell=True)
        self._act_on_deadlines(now)

    def _told_cause(self, event: Message) -> Cause:
        try:
            return Cause(**event.body["failed"])
        except TypeError:  # another version of Slipway
            return Cause(event.host, f"failed: {event.body['failed']}", int(ExitCode.PLATFORM_ERROR), time.time())

    def _reap(self) -> None:
        while True:
            try:
                pid, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            status = os.waitstatus_to_exitcode(raw)
            if self._sampler is not None and pid == self._sampler.pid:
                self._sampler.returncode = status
                self._sampler = None
            rank = self._state.ranks.get(pid)
            if rank is not None:  # else an orphan that PID 1 inherited
                rank.status = rank.process.returncode = status
                self._on_rank_end(rank, status)

    def _on_rank_end(self, rank: _Rank, status: int) -> None:
        for relay in rank.relays:
            relay.drain()
        number = rank.plan.rank
        asked = bool(self._state.stop_reason)
        if asked:
            self._state.stop_felt_at = self._state.stop_felt_at or time.monotonic()
        if status == 0:
            log.debug(f"rank {number} ended")
            return
        record = read_rank_error(Path(rank.plan.environ["TORCHELASTIC_ERROR_FILE"]))
        if self._state.kill_deadline and record is None:
            return  # we ended it ourselves
        cause = cause_of_exit(
            self._host,
            number,
            status,
            record,
            rank.relays[1].tail,
            time.time(),
            told=self._told_by_the_script(),
            ended_by_us=bool(self._state.kill_deadline or asked),
        )
        if asked and (status in (-signal.SIGTERM, 128 + signal.SIGTERM) or rank.killed or cause.consequence):
            return  # it went the way it was asked to
        if asked and status == -signal.SIGKILL and time.monotonic() >= self._state.stop_deadline:
            limit = f"{self._settings.stop_grace_s:g} s"
            cause = Cause(self._host, f"did not end within {limit} of SIGTERM and was killed", 137, cause.time, number)
        elif asked and status == -signal.SIGKILL and self._signals.interrupts > 1:
            cause = Cause(
                self._host, "killed by a second Ctrl-C (SIGINT) while it was stopping", 137, cause.time, number
            )
        self._on_cause(cause, tell=True)

    def _told_by_the_script(self) -> str:
        """Read the failure file: ours is written later, and an earlier run's was removed at the start."""
        try:
            return (self._state_dir.parent / "failure").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _early_end(self) -> Cause | None:
        """Find who left in good order before the others, when all that is known is what those felt of it."""
        gone = [rank.plan.rank for rank in self._state.ranks.values() if rank.status == 0]
        hosts = [self._host] if gone else sorted(self._state.done_hosts, key=self._plan.topology.hosts.index)
        if not hosts:
            return None
        ranks = gone or self._plan.topology.ranks_of(hosts[0])
        which = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}-{ranks[-1]}"
        message = f"{which} ended with exit code 0 while other ranks were still at work and lost it"
        return Cause(hosts[0], message, int(ExitCode.USER_ERROR), time.time())

    def _on_cause(self, cause: Cause, *, tell: bool) -> None:
        cause = cause.short()
        self._state.causes.append(cause)
        now = time.monotonic()
        due = now + (SETTLE_S if cause.consequence else 0.0)
        self._state.end_deadline = min(self._state.end_deadline or due, due)
        log.error(cause.text() if not cause.consequence else f"{cause.text()} (a consequence: waiting for the cause)")
        if tell and self._peers is not None:
            self._peers.send(failed=asdict(cause))

    def _on_lost(self, event: Lost) -> None:
        if self._state.stop_reason or event.host in self._state.done_hosts:
            return
        ranks = self._plan.topology.ranks_of(event.host)
        which = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}-{ranks[-1]}"
        message = f"host {event.host} ({which}) was lost: {event.why}"
        code = int(ExitCode.PLATFORM_ERROR)
        self._on_cause(Cause(event.host, message, code, time.time(), consequence=event.said_goodbye), tell=False)

    def _on_stop(self, reason: str, *, tell: bool) -> None:
        if self._state.stop_reason:
            return
        self._state.stop_reason = reason
        self._state.stop_deadline = time.monotonic() + self._settings.stop_grace_s
        log.info(f"asked to stop by {reason}: ranks have {self._settings.stop_grace_s:g} s to save and leave")
        self._signal_ranks(signal.SIGTERM)
        if tell and self._peers is not None:
            self._peers.send(stop=reason)

    def _act_on_deadlines(self, now: float) -> None:
        state = self._state
        if state.end_deadline and not state.kill_deadline and now >= state.end_deadline:
            state.kill_deadline = now + KILL_AFTER_S
            self._signal_ranks(signal.SIGTERM)
        if state.stop_felt_at and now >= state.stop_felt_at + KILL_AFTER_S:
            self._end_those_without_a_step()
        overdue = (state.kill_deadline and now >= state.kill_deadline) or (
            state.stop_reason and now >= state.stop_deadline
        )
        if overdue or self._signals.interrupts > 1:
            self._signal_ranks(signal.SIGKILL)

    def _end_those_without_a_step(self) -> None:
        """After a stop, end ranks of ours that still join others which have gone: they have finished no step.

        A plain script reports nothing; it keeps its whole grace.
        """
        slots = self._slots()
        for pid, rank in self._state.ranks.items():
            step, reported = slots[rank.plan.local_rank] if slots else (0, 0.0)
            if rank.status is None and reported and step == 0:
                rank.killed = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _signal_ranks(self, number: signal.Signals) -> None:
        """Signal the ranks alone: their loader workers must live while a rank saves."""
        for pid, rank in self._state.ranks.items():
            if rank.status is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    # --- the end ------------------------------------------------------------------------------------------------

    def _finished(self, peers: Peers) -> bool:
        state = self._state
        if any(rank.status is None for rank in state.ranks.values()):
            return False
        if state.causes:
            # Only symptoms so far: give the host that knows the cause the time to tell it.
            known = any(not cause.consequence for cause in state.causes)
            return known or not peers.others or time.monotonic() >= state.end_deadline
        if state.stop_reason or self._stopped_step() is not None:
            return True
        if not state.done_at:
            state.done_at = time.monotonic()
            peers.send(done=True)
        waiting = [host for host in peers.others if host not in state.done_hosts]
        if waiting and time.monotonic() - state.done_at > self._settings.end_wait_s:
            log.warning(f"{', '.join(waiting)} still at work after {self._settings.end_wait_s:g} s: ending alone")
            return True
        return not waiting

    def _conclude(self) -> Outcome:
        state = self._state
        if state.causes:
            if all(cause.consequence for cause in state.causes):
                early = self._early_end()
                state.causes += [early] if early is not None else []
            cause = first_cause(state.causes)
            rest = tuple(other for other in state.causes if other is not cause)
            return Outcome("failed", cause.exit_code or int(ExitCode.PLATFORM_ERROR), cause, consequences=rest)
        step = self._stopped_step()
        reason = state.stop_reason or self._signals.stop_asked
        if step is not None or (reason and not self._all_completed()):
            return Outcome("stopped", step=self._progress() if step is None else step, reason=reason or "the ranks")
        return Outcome("completed", step=self._progress())

    def _end_records(self) -> list[dict[str, object]]:
        records: list[dict[str, object]] = []
        for path in self._state_dir.glob("end-rank-*.json"):
            with contextlib.suppress(OSError, ValueError):
                records.append(json.loads(path.read_text(encoding="utf-8")))
        return records

    def _stopped_step(self) -> int | None:
        """Return the step at which our ranks agreed to stop; None when none said so."""
        steps = [record["step"] for record in self._end_records() if record.get("status") == "stopped"]
        return max((step for step in steps if isinstance(step, int)), default=None)

    def _all_completed(self) -> bool:
        ended = [record for record in self._end_records() if record.get("status") == "completed"]
        return bool(ended) and len(ended) == len(self._plan.ranks)

    def _slots(self) -> list[tuple[int, float]]:
        try:
            return list(PROGRESS.iter_unpack((self._state_dir / "progress").read_bytes()))
        except (OSError, struct.error):
            return []

    def _progress(self) -> int:
        return max((step for step, _ in self._slots()), default=0)

    def _end_leftovers(self) -> None:
        """End what the ranks left behind: loader workers, servers, anything in their sessions."""
        for pid, rank in self._state.ranks.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            for relay in rank.relays:
                relay.drain()
                relay.close()
        self._reap()
        if self._sampler is not None:
            self._sampler.terminate()
