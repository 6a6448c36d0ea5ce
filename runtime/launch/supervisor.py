"""LaunchPlan -> processes -> Outcome: sees the ranks of one host, and their hosts, to one end with one cause.

One thread, one loop. It decides from facts only: what to start is in the plan, what a fault means is in
`runtime.cause.outcome`, who stands still is in `runtime.launch.progress`.
"""

from __future__ import annotations

import os
import time

from runtime.base.errors import ExitCode, PlatformError, UserError
from runtime.base.frozen import asdict, cast, replace
from runtime.base.jsontext import loads_or
from runtime.base.log import Log
from runtime.cause.cgroup import Memory, read_memory
from runtime.cause.outcome import Cause, Outcome, cause_from_error, cause_of_exit, first_cause, read_rank_error
from runtime.launch.loop import Loop
from runtime.launch.ranks import Rank, Ranks
from runtime.launch.standstill import Standstill
from runtime.launch.starting import Started, start_ranks

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping
    from typing import Any

    from runtime.cause.explain import Facts
    from runtime.contract.job import Job
    from runtime.contract.settings import Settings
    from runtime.launch.peers import Lost, Message, Peers
    from runtime.launch.signals import Signals
    from runtime.planning.plan import LaunchPlan
    from runtime.planning.topology import Topology
else:
    import _signal as signal  # see runtime.launch.signals

log = Log("launch")

SETTLE_S = 2.0
"""How long a survivor's symptom waits for the cause to be told; reports of other hosts came within 0.4 s."""
SETTLE_EARLY_S = 0.5
"""The same when some ranks had ended with exit code 0 before: that is the cause, unless a better one is on its way."""
KILL_AFTER_S = 1.5
"""From SIGTERM to SIGKILL once the job has failed: collectives cannot work any more, so there is nothing to save."""
AGREE_S = 2.5
"""After a failure, how long a host whose ranks have ended waits for the others: what they know may come first."""
ANNOUNCE_S = 30.0
"""How long a host that cannot even start tries to tell the others: cheaper than to let them all wait for it."""


class _State:
    """What is known so far; only the loop changes it. Times are monotonic seconds, 0 while the thing has not been."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []
        self.done_hosts: set[str] = set()
        self.content_hosts: set[str] = set()
        """Hosts that know of all others that they are done."""
        self.content_at = 0.0
        """When we knew that ourselves."""
        self.ended_hosts: set[str] = set()
        self.stop_reason = ""
        self.stop_deadline = 0.0
        self.failed_at = 0.0
        self.end_deadline = 0.0
        """When the ranks must be told to end, after a failure."""
        self.kill_deadline = 0.0
        """When they are killed; 0 until they were told."""
        self.stop_felt_at = 0.0
        """When the first rank had ended after a stop was asked."""
        self.done_at = 0.0
        """When our ranks had all ended well."""
        self.ended_told = False


def announce_failure(
    cause: Cause,
    job: Job,
    settings: Settings,
    addresses: Mapping[str, str],
    signals: Signals,
    took_s: float,
) -> None:
    """Tell the other hosts of a failure that came before there was anything to supervise.

    Bounded by `ANNOUNCE_S`: hosts that are not up by then find us missing. Where we failed after a longer installation,
    the others may be at the same for as long as it is allowed to take.

    Args:
        cause: what happened.
        job: whom to tell.
        settings: port and limits.
        addresses: host to address, where that is known without a name service.
        signals: a stop ends this too.
        took_s: seconds from our start to the failure.
    """
    from runtime.launch.peers import Message, Peers, job_key

    loop = Loop()
    hosts = [host.name for host in job.hosts]
    key = job_key(job)
    try:
        peers = Peers(loop, job.current_host, hosts, addresses, settings.peer_port, key)
    except PlatformError:  # that may be what has failed
        peers = Peers(loop, job.current_host, hosts, addresses, settings.peer_port, key, listens=False)
    peers.send(failed=asdict(cause.short()))
    peers.send(ended=True)
    told: set[str] = set()
    deadline = time.monotonic() + (ANNOUNCE_S if took_s < ANNOUNCE_S else settings.install_s)
    while set(peers.missing) - told and time.monotonic() < deadline and not signals.stop_asked:
        loop.turn(0.05)
        peers.tick(time.monotonic(), settings.silence_s)
        for event in peers.take_events():
            if isinstance(event, Message):
                told.update(event.body.get("told", ()))
    peers.close()


class Supervisor:
    """Runs one plan."""

    def __init__(self, plan: LaunchPlan, settings: Settings, job: Job, signals: Signals) -> None:
        """Prepare; nothing is started.

        Args:
            plan: what to start.
            settings: deadlines.
            job: its paths, and what its hosts know each other by.
            signals: of this process, already taken over.
        """
        self._plan = plan
        self._settings = settings
        self._job = job
        self._state_dir = job.paths.state
        self._signals = signals
        self._loop = Loop()
        self._loop.on_read(signals.wake, signals.drain)
        self._host = plan.topology.current_host
        self._state = _State()
        self._ranks = Ranks(plan, settings, job.paths.state, job.paths.profiler, self._loop)
        self._peers: Peers | None = None
        self._memory = Memory()
        self._standstill = Standstill(plan, settings, self._state_dir, self._ranks)

    def run(self, addresses: Mapping[str, str], started: Started | None = None) -> Outcome:
        """Wait for the hosts, start the ranks, see them to their end.

        Args:
            addresses: host to address, where that is known without a name service.
            started: the ranks of a job of one host, which need not wait for anybody.

        Raises:
            PlatformError: the port of the side channel is taken, so that no other host knows of it.
        """
        try:
            if len(self._plan.topology.all_hosts) > 1:
                self._connect(addresses)
            try:
                self._meet()
                if started is not None or not self._ends_early():
                    self._look_after(started or self._start())
            except PlatformError as error:
                self._on_cause(cause_from_error(error, self._host))
            while not self._finished():
                self._turn(0.25)
            return self._conclude()
        finally:
            self._ranks.end_leftovers()
            if self._peers is not None:
                self._peers.close()

    # --- phases -------------------------------------------------------------------------------------------------

    def _connect(self, addresses: Mapping[str, str]) -> None:
        # One host needs no socket, and starts the 10 ms sooner that the import takes.
        from runtime.launch.peers import Peers, job_key

        hosts, port = self._plan.topology.all_hosts, self._settings.peer_port
        self._peers = Peers(self._loop, self._host, hosts, addresses, port, job_key(self._job))
        topology = self._plan.topology
        if topology.in_world:
            self._tell(world=topology.world_size, ranks=topology.nproc_per_host)

    def _meet(self) -> None:
        peers, settings = self._peers, self._settings
        if peers is None:
            return
        began = time.monotonic()
        while peers.missing and not self._ends_early():
            if time.monotonic() > began + settings.host_wait_s:
                missing = peers.missing
                raise PlatformError(
                    f"{'Hosts' if len(missing) > 1 else 'Host'} {', '.join(map(repr, missing))} did not come within "
                    f"{settings.host_wait_s:g} s: {peers.why_missing(missing[0])}",
                    allowed=f"{', '.join(peers.present)} did" if peers.present else "",
                    fix="allow traffic inside the security group; slipway_host_wait_s moves the limit",
                )
            self._turn(peers.retry_s)
        if not peers.missing:
            log.info(f"all {len(peers.others) + 1} hosts are there after {time.monotonic() - began:.1f} s")

    def _start(self) -> Started:
        topology = self._plan.topology
        overrides: dict[str, str] = {}
        if self._peers is not None and topology.num_hosts > 1:
            address = self._peers.address_of(topology.coordinator)
            if address and address != self._plan.environ["MASTER_ADDR"]:
                overrides["MASTER_ADDR"] = address
                log.info(f"MASTER_ADDR={address} because {topology.coordinator} is reached there")
            if topology.host_rank == 0:
                self._check_rendezvous_port(address)
        return start_ranks(self._plan, overrides)

    def _look_after(self, started: Started) -> None:
        self._standstill = Standstill(self._plan, self._settings, self._state_dir, self._ranks)
        self._ranks.look_after(started)
        for choice in self._plan.choices:
            log.info(f"{choice.name}={choice.value} because {choice.reason}")
        # Read by now: the ranks need longer to start than this takes.
        self._memory = read_memory()

    def _check_rendezvous_port(self, address: str) -> None:
        """Find a taken port before the ranks do, each in its own words."""
        import socket

        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, int(self._plan.environ["MASTER_PORT"])))
            except OSError as error:
                raise PlatformError(
                    f"Port {self._plan.environ['MASTER_PORT']} of {self._host} ({address}), where the ranks are to "
                    f"meet, cannot be used: {error.strerror}",
                    fix="end the process that listens there, or set slipway_master_port to a free port",
                ) from error

    def _ends_early(self) -> bool:
        """Whether there is a reason, here or on another host, not to start at all."""
        return bool(self._signals.stop_asked or self._state.stop_reason or self._state.causes)

    # --- the loop -----------------------------------------------------------------------------------------------

    def _tell(self, **body: object) -> None:
        if self._peers is not None:
            self._peers.send(**body)

    def _turn(self, timeout_s: float) -> None:
        self._loop.turn(timeout_s)
        for rank in self._ranks.reap():
            self._on_rank_end(rank, rank.status or 0)
        now = time.monotonic()
        self._ranks.tick(now)
        if self._peers is not None:
            self._peers.tick(now, self._settings.silence_s)
            for event in self._peers.take_events():
                self._on_event(event)
        if self._signals.stop_asked and not self._state.stop_reason:
            self._on_stop(self._signals.stop_asked, tell=True)
        if not self._state.failed_at and not self._state.stop_reason:
            stuck = self._standstill.look(now, sorted(self._state.done_hosts), self._tell)
            if stuck is not None:
                self._on_cause(stuck)
        self._act_on_deadlines(now)

    def _on_event(self, event: Message | Lost) -> None:
        from runtime.launch.peers import Lost

        if isinstance(event, Lost):
            self._on_lost(event)
        elif "failed" in event.body:
            self._on_told_cause(self._told_cause(event))
        elif "stop" in event.body:
            self._on_stop(f"{event.body['stop']} on {event.host}", tell=False)
        elif "done" in event.body:
            self._state.done_hosts.add(event.host)
        elif "all_done" in event.body:
            self._state.content_hosts.add(event.host)
        elif "ended" in event.body:
            self._state.ended_hosts.add(event.host)
        elif "stand" in event.body:
            self._standstill.ask()
            self._tell(steps=self._standstill.steps())
        elif "steps" in event.body:
            self._standstill.hear(event.body["steps"])
        elif "world" in event.body:
            self._compare_worlds(event)

    def _compare_worlds(self, event: Message) -> None:
        """Find out before the ranks do, who would wait for each other until torch's own limit."""
        ours = self._plan.topology
        if event.host in ours.hosts and (event.body["world"], event.body["ranks"]) != (
            ours.world_size,
            ours.nproc_per_host,
        ):
            error = UserError(
                f"{self._host} plans {ours.nproc_per_host} ranks for each host and a world of {ours.world_size}, "
                f"{event.host} {event.body['ranks']} and {event.body['world']}",
                allowed="all hosts of a world have equally many ranks",
                fix="set slipway_procs_per_host, or use one instance type with one setting for all hosts",
            )
            self._on_cause(cause_from_error(error, self._host))

    def _told_cause(self, event: Message) -> Cause:
        try:
            return Cause(**event.body["failed"])
        except TypeError:  # another version of Slipway
            return Cause(event.host, f"failed: {event.body['failed']}", ExitCode.PLATFORM_ERROR, time.time())

    def _on_rank_end(self, rank: Rank, status: int) -> None:
        number = rank.plan.rank
        asked = bool(self._state.stop_reason)
        if asked:
            self._state.stop_felt_at = self._state.stop_felt_at or time.monotonic()
        if status == 0:
            log.debug(f"rank {number} ended with exit code 0")
            return
        record = None if rank.plan.adapter else read_rank_error(rank.plan.environ["TORCHELASTIC_ERROR_FILE"])
        if self._state.kill_deadline and record is None:
            return  # we ended it ourselves
        cause = cause_of_exit(
            self._host,
            number,
            status,
            record,
            rank.stderr_tail,
            time.time(),
            out=rank.stdout_tail,
            facts=self._facts_before(),
            told=self._told_by_the_script(),
            ended_by_us=bool(self._state.kill_deadline or asked),
        )
        if rank.plan.adapter:
            cause = self._cause_of_adapter(rank, status)
        if asked and (status in (-signal.SIGTERM, 128 + signal.SIGTERM) or rank.killed or cause.consequence):
            return  # it went the way it was asked to
        if asked and status == -signal.SIGKILL and time.monotonic() >= self._state.stop_deadline:
            limit = f"{self._settings.stop_grace_s:g} s"
            cause = Cause(self._host, f"did not end within {limit} of SIGTERM and was killed", 137, cause.time, number)
        elif asked and status == -signal.SIGKILL and self._signals.interrupts > 1:
            cause = Cause(
                self._host, "killed by a second Ctrl-C (SIGINT) while it was stopping", 137, cause.time, number
            )
        self._on_cause(cause)

    def _cause_of_adapter(self, rank: Rank, status: int) -> Cause:
        """Say why somebody else's launcher ended: what the first of its ranks left, else its own words.

        Its ranks may be on other hosts, whose records only these can read: then its words are what it felt of it.
        """
        left = [record for record in map(read_rank_error, rank.plan.records) if record is not None]
        if left:
            return first_cause(left)
        cause = cause_of_exit(self._host, rank.plan.rank, status, None, rank.stderr_tail, time.time())
        elsewhere = self._plan.topology.num_hosts > 1
        message = f"{self._plan.style}: {cause.message}"
        return replace(cause, message=message, rank=None, consequence=cause.consequence or elsewhere)

    def _facts_before(self) -> Facts:
        from runtime.cause.explain import Facts

        paths = self._job.paths
        places = (
            paths.model,
            paths.output_data,
            self._job.checkpoint_path or "",
            self._plan.environ.get("TMPDIR", "/tmp"),  # noqa: S108 - where programs write by default
        )
        return Facts(self._memory, tuple(place for place in places if place))

    def _told_by_the_script(self) -> str:
        """Read the failure file: ours is written later, and an earlier run's was removed at the start."""
        try:
            with open(self._job.paths.failure, encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except OSError:
            return ""

    def _on_told_cause(self, cause: Cause) -> None:
        if not any((c.host, c.rank, c.message) == (cause.host, cause.rank, cause.message) for c in self._state.causes):
            self._take_cause(cause)
            # Two hosts that do not hear each other may both hear us; and who told us learns who need not be told.
            self._tell(failed=asdict(cause), told=self._peers.present if self._peers is not None else [])

    def _on_cause(self, cause: Cause) -> None:
        """Something went wrong on this host, or was seen from it."""
        cause = cause.short()
        if self._peers is not None:
            cause = replace(cause, time=cause.time + self._peers.clock_offset_s)
        self._take_cause(cause)
        self._tell(failed=asdict(cause))

    def _take_cause(self, cause: Cause) -> None:
        self._standstill.give_up()
        self._state.causes.append(cause)
        now = time.monotonic()
        self._state.failed_at = self._state.failed_at or now
        left = bool(self._state.done_hosts) or any(rank.status == 0 for rank in self._ranks)
        settle = SETTLE_EARLY_S if left else SETTLE_S
        due = now + (settle if cause.consequence else 0.0)
        self._state.end_deadline = min(self._state.end_deadline or due, due)
        log.error(cause.text() if not cause.consequence else f"{cause.text()} (a consequence: waiting for the cause)")

    def _on_lost(self, event: Lost) -> None:
        peers = self._peers
        assert peers is not None  # noqa: S101 - it told us
        if self._state.stop_reason or event.host in self._state.done_hosts or event.host in self._state.ended_hosts:
            return
        if any(cause.host == event.host and not cause.consequence for cause in self._state.causes):
            return  # why it went is known
        code = ExitCode.PLATFORM_ERROR
        if event.silent and (peers.deaf or not _has_network()):
            message = f"host {self._host}{_ranks_of(self._plan.topology, self._host)} is cut off from all other hosts"
            self._on_cause(Cause(self._host, f"{message}: {event.why} from {event.host}", code, time.time()))
            return
        message = f"host {event.host}{_ranks_of(self._plan.topology, event.host)} was lost: {event.why}"
        # A closed connection is seen by everybody at once, a silence by the two neighbours only.
        self._on_cause(Cause(event.host, message, code, time.time(), consequence=event.said_goodbye))

    def _on_stop(self, reason: str, *, tell: bool) -> None:
        if self._state.stop_reason:
            return
        self._state.stop_reason = reason
        self._state.stop_deadline = time.monotonic() + self._settings.stop_grace_s
        log.info(f"asked to stop by {reason}: ranks have {self._settings.stop_grace_s:g} s to save and leave")
        self._ranks.stop()
        if tell:
            self._tell(stop=reason)

    def _act_on_deadlines(self, now: float) -> None:
        state = self._state
        if state.end_deadline and not state.kill_deadline and now >= state.end_deadline:
            state.kill_deadline = now + KILL_AFTER_S
            self._ranks.signal(signal.SIGTERM)
        if state.stop_felt_at and now >= state.stop_felt_at + KILL_AFTER_S:
            self._end_those_without_a_step()
        overdue = (state.kill_deadline and now >= state.kill_deadline) or (
            state.stop_reason and now >= state.stop_deadline
        )
        if overdue or self._signals.interrupts > 1:
            self._ranks.signal(signal.SIGKILL)

    def _end_those_without_a_step(self) -> None:
        """After a stop, end ranks of ours that still join others which have gone: they have finished no step.

        A plain script reports nothing; it keeps its whole grace.
        """
        slots = self._standstill.slots()
        for rank in self._ranks.running:
            step, reported = slots[rank.plan.local_rank] if slots else (0, 0.0)
            if reported and step == 0:
                rank.killed = True
                self._ranks.signal_one(rank, signal.SIGKILL)

    # --- the end ------------------------------------------------------------------------------------------------

    def _finished(self) -> bool:
        state = self._state
        if self._ranks.running:
            return False
        if state.causes:
            return self._agreed(time.monotonic())
        if state.stop_reason or self._stopped_step() is not None:
            return True
        if not state.done_at:
            state.done_at = time.monotonic()
            self._tell(done=True)
        others = self._peers.others if self._peers is not None else []
        waiting = [host for host in others if host not in state.done_hosts]
        if waiting and time.monotonic() - state.done_at > self._settings.end_wait_s:
            log.warning(f"{', '.join(waiting)} still at work after {self._settings.end_wait_s:g} s: ending alone")
            return True
        return not waiting and self._all_content(time.monotonic())

    def _all_content(self, now: float) -> bool:
        """Whether all hosts that are left know that all are done: what we have said may still be on its way.

        After a short outage it waits in the kernel for the next attempt, and would be lost with our container.
        """
        state, peers = self._state, self._peers
        if peers is None:
            return True
        if not state.content_at:
            state.content_at = now
            self._tell(all_done=True)
        waiting = [host for host in peers.present if host not in state.content_hosts]
        return not waiting or now > state.content_at + self._settings.silence_s

    def _agreed(self, now: float) -> bool:
        """Whether every host that is left knows what we know: then all report the same cause."""
        state = self._state
        if self._peers is None:
            return True
        if not state.ended_told:
            state.ended_told = True
            self._tell(ended=True)
        # Only symptoms so far: give the host that knows the cause the time to tell it.
        if all(cause.consequence for cause in state.causes) and now < state.end_deadline:
            return False
        waiting = [host for host in self._peers.present if host not in state.ended_hosts | state.done_hosts]
        return not waiting or now > state.failed_at + AGREE_S

    def _conclude(self) -> Outcome:
        state = self._state
        if state.causes:
            if all(cause.consequence for cause in state.causes):
                early = self._early_end()
                state.causes += [early] if early is not None else []
            cause = first_cause(state.causes)
            rest = tuple(other for other in state.causes if other is not cause)
            return Outcome("failed", cause.exit_code or ExitCode.PLATFORM_ERROR, cause, consequences=rest)
        step = self._stopped_step()
        reason = state.stop_reason or self._signals.stop_asked
        last = max((step for step, _ in self._standstill.slots()), default=0)
        if step is not None or (reason and not self._all_completed()):
            return Outcome("stopped", step=last if step is None else step, reason=reason or "the ranks")
        return Outcome("completed", step=last)

    def _early_end(self) -> Cause | None:
        """Find who left in good order before the others, when all that is known is what those felt of it."""
        gone = [rank.plan.rank for rank in self._ranks if rank.status == 0]
        hosts = [self._host] if gone else sorted(self._state.done_hosts, key=self._plan.topology.all_hosts.index)
        if not hosts:
            return None
        ranks = gone or self._plan.topology.ranks_of(hosts[0])
        which = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}-{ranks[-1]}"
        message = f"{which} ended with exit code 0 while other ranks were still at work and lost it"
        return Cause(hosts[0], message, ExitCode.USER_ERROR, time.time())

    def _end_records(self) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        for name in os.listdir(self._state_dir):
            if not (name.startswith("end-rank-") and name.endswith(".json")):
                continue
            with open(f"{self._state_dir}/{name}", encoding="utf-8") as stream:
                record: Any = loads_or(stream.read(), None)
            if isinstance(record, dict):
                records.append(cast("dict[str, Any]", record))
        return records

    def _stopped_step(self) -> int | None:
        """Return the step at which our ranks agreed to stop; None when none said so."""
        steps = [record["step"] for record in self._end_records() if record.get("status") == "stopped"]
        return max((step for step in steps if isinstance(step, int)), default=None)

    def _all_completed(self) -> bool:
        ended = [record for record in self._end_records() if record.get("status") == "completed"]
        return bool(ended) and len(ended) == self._plan.topology.nproc_per_host


def _ranks_of(topology: Topology, host: str) -> str:
    ranks = topology.ranks_of(host)
    if not ranks:
        return ""
    return f" (rank {ranks[0]})" if len(ranks) == 1 else f" (ranks {ranks[0]}-{ranks[-1]})"


def _has_network() -> bool:
    """Whether any interface but the loopback is up; True where the kernel does not tell."""
    try:
        names = os.listdir("/sys/class/net")
    except OSError:
        return True
    for name in names:
        try:
            with open(f"/sys/class/net/{name}/operstate") as stream:
                if name != "lo" and stream.read().strip() != "down":
                    return True
        except OSError:
            continue
    return not names
