"""LaunchPlan -> processes -> Outcome: sees the ranks of one host, and their hosts, to one end with one cause.

One thread, one loop. It decides from facts only: what to start is in the plan, what is known so far and what is due in
`runtime.launch.known`, why a rank ended in `rank_end`, who stands still in `standstill`, what it all came to in
`conclusion`.
"""

from __future__ import annotations

import time

from runtime.base.errors import PlatformError
from runtime.base.frozen import asdict, replace
from runtime.base.log import Log
from runtime.cause.cgroup import Memory, read_memory
from runtime.cause.outcome import cause_from_error
from runtime.launch.conclusion import (
    cause_of_leaving,
    conclude_failure,
    conclude_well,
    read_end_records,
    stopped_step,
)
from runtime.launch.known import Known
from runtime.launch.loop import Loop
from runtime.launch.ranks import Rank, Ranks
from runtime.launch.standstill import Standstill
from runtime.launch.starting import Started, start_ranks

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping

    from runtime.cause.outcome import Cause, Outcome
    from runtime.contract.job import Job
    from runtime.contract.settings import Settings
    from runtime.launch.peers import Lost, Message, Peers
    from runtime.launch.signals import Signals
    from runtime.planning.plan import LaunchPlan
else:
    import _signal as signal  # see runtime.launch.signals

log = Log("launch")


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
        self._known = Known()
        self._done_at = 0.0
        """When our ranks had all ended well, in monotonic seconds; 0: not yet."""
        self._content_at = 0.0
        """When we knew that all hosts are done."""
        self._ended_told = False
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
                from runtime.launch.meeting import hosts_missing

                raise hosts_missing(peers, settings.host_wait_s)
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
                from runtime.launch.meeting import require_free

                require_free(self._host, address, self._plan.environ["MASTER_PORT"])
        return start_ranks(self._plan, overrides)

    def _look_after(self, started: Started) -> None:
        self._standstill = Standstill(self._plan, self._settings, self._state_dir, self._ranks)
        self._ranks.look_after(started)
        for choice in self._plan.choices:
            log.info(f"{choice.name}={choice.value} because {choice.reason}")
        # Read by now: the ranks need longer to start than this takes.
        self._memory = read_memory()

    def _ends_early(self) -> bool:
        """Whether there is a reason, here or on another host, not to start at all."""
        return bool(self._signals.stop_asked or self._known.stop_reason or self._known.causes)

    # --- the loop -----------------------------------------------------------------------------------------------

    def _tell(self, **body: object) -> None:
        if self._peers is not None:
            self._peers.send(**body)

    def _turn(self, timeout_s: float) -> None:
        self._loop.turn(timeout_s)
        for rank in self._ranks.reap():
            self._on_rank_end(rank)
        now = time.monotonic()
        self._ranks.tick(now)
        if self._peers is not None:
            self._peers.tick(now, self._settings.silence_s)
            for event in self._peers.take_events():
                self._on_event(event)
        if self._signals.stop_asked and not self._known.stop_reason:
            self._on_stop(self._signals.stop_asked, tell=True)
        if not self._known.failed_at and not self._known.stop_reason:
            stuck = self._standstill.look(now, sorted(self._known.done_hosts), self._tell)
            if stuck is not None:
                self._on_cause(stuck)
        self._act_on_deadlines(now)

    def _on_event(self, event: Message | Lost) -> None:
        from runtime.launch.peers import Lost
        from runtime.launch.told import told_cause

        if isinstance(event, Lost):
            self._on_lost(event)
        elif "failed" in event.body:
            self._on_told_cause(told_cause(event))
        elif "stop" in event.body:
            self._on_stop(f"{event.body['stop']} on {event.host}", tell=False)
        elif "done" in event.body:
            self._known.done_hosts.add(event.host)
        elif "all_done" in event.body:
            self._known.content_hosts.add(event.host)
        elif "ended" in event.body:
            self._known.ended_hosts.add(event.host)
        elif "stand" in event.body:
            self._standstill.ask()
            self._tell(steps=self._standstill.steps())
        elif "steps" in event.body:
            self._standstill.hear(event.body["steps"])
        elif "world" in event.body:
            self._compare_worlds(event)

    def _compare_worlds(self, event: Message) -> None:
        from runtime.launch.told import cause_of_another_world

        another = cause_of_another_world(event, self._plan.topology)
        if another is not None:
            self._on_cause(another)

    def _on_rank_end(self, rank: Rank) -> None:
        known, asked = self._known, bool(self._known.stop_reason)
        if asked:
            known.feel_stop(time.monotonic())
        if rank.status == 0:
            log.debug(f"rank {rank.plan.rank} ended with exit code 0")
            return
        from runtime.launch.rank_end import after_a_stop, explain_end  # a job that ends well needs no explanation

        ended = bool(known.kill_deadline)
        cause = explain_end(rank, self._plan, self._job, self._memory, asked=asked, ended=ended)
        if cause is not None and asked:
            cause = after_a_stop(
                cause,
                rank,
                self._host,
                grace_s=self._settings.stop_grace_s,
                grace_is_over=time.monotonic() >= known.stop_deadline,
                interrupts=self._signals.interrupts,
            )
        if cause is not None:
            self._on_cause(cause)

    def _on_told_cause(self, cause: Cause) -> None:
        if not self._known.holds(cause):
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
        some_left = bool(self._known.done_hosts) or any(rank.status == 0 for rank in self._ranks)
        self._known.take(cause, time.monotonic(), some_left=some_left)
        log.error(cause.text() if not cause.consequence else f"{cause.text()} (a consequence: waiting for the cause)")

    def _on_lost(self, event: Lost) -> None:
        from runtime.launch.told import cause_of_loss

        peers, known = self._peers, self._known
        assert peers is not None  # noqa: S101 - it told us
        if known.stop_reason or event.host in known.done_hosts or event.host in known.ended_hosts:
            return
        if any(cause.host == event.host and not cause.consequence for cause in known.causes):
            return  # why it went is known
        self._on_cause(cause_of_loss(event, self._plan.topology, deaf=peers.deaf))

    def _on_stop(self, reason: str, *, tell: bool) -> None:
        if self._known.stop_reason:
            return
        self._known.stop(reason, time.monotonic(), self._settings.stop_grace_s)
        log.info(f"asked to stop by {reason}: ranks have {self._settings.stop_grace_s:g} s to save and leave")
        self._ranks.stop()
        if tell:
            self._tell(stop=reason)

    def _act_on_deadlines(self, now: float) -> None:
        known = self._known
        if known.begin_end(now):
            self._ranks.signal(signal.SIGTERM)
        if known.others_have_left(now):
            self._end_those_without_a_step()
        if known.overdue(now) or self._signals.interrupts > 1:
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
        known = self._known
        if self._ranks.running:
            return False
        if known.causes:
            return self._agreed(time.monotonic())
        if known.stop_reason or stopped_step(read_end_records(self._state_dir)) is not None:
            return True
        if not self._done_at:
            self._done_at = time.monotonic()
            self._tell(done=True)
        others = self._peers.others if self._peers is not None else []
        waiting = [host for host in others if host not in known.done_hosts]
        if waiting and time.monotonic() - self._done_at > self._settings.end_wait_s:
            log.warning(f"{', '.join(waiting)} still at work after {self._settings.end_wait_s:g} s: ending alone")
            return True
        return not waiting and self._all_content(time.monotonic())

    def _all_content(self, now: float) -> bool:
        """Whether all hosts that are left know that all are done: what we have said may still be on its way.

        After a short outage it waits in the kernel for the next attempt, and would be lost with our container.
        """
        peers = self._peers
        if peers is None:
            return True
        if not self._content_at:
            self._content_at = now
            self._tell(all_done=True)
        waiting = [host for host in peers.present if host not in self._known.content_hosts]
        return not waiting or now > self._content_at + self._settings.silence_s

    def _agreed(self, now: float) -> bool:
        if self._peers is None:
            return True
        if not self._ended_told:
            self._ended_told = True
            self._tell(ended=True)
        return self._known.agreed(self._peers.present, now)

    def _conclude(self) -> Outcome:
        known, topology = self._known, self._plan.topology
        if known.causes:
            gone = [rank.plan.rank for rank in self._ranks if rank.status == 0]
            early = cause_of_leaving(topology, gone, known.done_hosts) if known.only_symptoms else None
            return conclude_failure(known.causes, early)
        records = read_end_records(self._state_dir)
        last = max((step for step, _ in self._standstill.slots()), default=0)
        reason = known.stop_reason or self._signals.stop_asked
        return conclude_well(records, topology.nproc_per_host, last, reason)
