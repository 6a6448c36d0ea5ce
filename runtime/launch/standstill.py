"""Ranks that stand still: noticed, asked where they are, over all hosts, and the one that is behind named."""

from __future__ import annotations

import time

from runtime.base.errors import ExitCode
from runtime.base.log import Log
from runtime.cause.outcome import Cause
from runtime.launch import stacks
from runtime.launch.progress import PATIENCE, ProgressWatch, Stall, read_slots
from runtime.launch.starting import PROGRESS_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runtime.contract.settings import Settings
    from runtime.launch.ranks import Rank, Ranks
    from runtime.planning.plan import LaunchPlan

log = Log("launch")

LOOK_S = 1.0
"""Between two looks at the progress of the ranks."""
ANSWER_S = 1.0
"""How long ranks, and other hosts, have to say where they stand."""
REMARK_S = 10.0
"""How long some ranks may go on after others have ended, before it is remarked upon; evaluation by rank 0 is usual."""


class _Inquiry:
    """Where all ranks stand: asked once, answered within `ANSWER_S`."""

    def __init__(self, due: float, asked: Sequence[Rank], stall: Stall | None) -> None:
        self.due = due
        self.asked = asked
        self.stall = stall
        """What we have seen ourselves; None when another host asks, or nothing is to be ended."""
        self.steps: dict[int, int] = {}
        """Last finished step by global rank, as the other hosts tell it."""


class Standstill:
    """The watch of one launcher over its ranks' progress."""

    def __init__(self, plan: LaunchPlan, settings: Settings, state_dir: str, ranks: Ranks) -> None:
        """Begin to watch, now.

        Args:
            plan: who runs here.
            settings: the limits.
            state_dir: where the ranks report.
            ranks: what they print, and how to ask them.
        """
        self._plan = plan
        self._settings = settings
        self._slots_file = f"{state_dir}/{PROGRESS_FILE}"
        self._ranks = ranks
        now = time.monotonic()
        self._watch = ProgressWatch(plan.topology.nproc_per_host, settings.progress_s, settings.first_step_s, now)
        self._due = now
        self._warned_at = 0.0
        self._left_at = 0.0
        self._inquiry: _Inquiry | None = None

    # --- what the supervisor asks -------------------------------------------------------------------------------

    def slots(self) -> list[tuple[int, float]]:
        """Return (step, unix seconds) of each local rank."""
        return read_slots(self._slots_file)

    def look(self, now: float, done_hosts: Sequence[str], tell: Callable[..., None]) -> Cause | None:
        """Look at the progress, when it is time.

        Args:
            now: monotonic seconds.
            done_hosts: hosts whose ranks have all ended well.
            tell: says something to the other launchers.

        Returns:
            Why the job must end; None while all is well, or while the ranks are still being asked.
        """
        running = self._ranks.running
        inquiry = self._inquiry
        if inquiry is not None:
            return self._conclude(inquiry) if now >= inquiry.due else None
        if now < self._due or not running:
            return None
        self._due = now + LOOK_S
        self._watch.observe(self.slots(), now)
        self._remark(now, done_hosts)
        stall = self._watch.stall(self._local_ranks(running), now)
        if stall is not None:
            tell(stand=True)
            self.ask(stall)
        elif not self._watch.reports:
            self._look_at_output(now)
        return None

    def ask(self, stall: Stall | None = None) -> None:
        """Ask the ranks of this host where they stand; the log gets the answers."""
        if self._inquiry is None:
            self._inquiry = _Inquiry(time.monotonic() + ANSWER_S, self._ranks.ask_stacks(), stall)

    def give_up(self) -> None:
        """Print what has been answered so far: the job ends, and nobody will look any more."""
        if self._inquiry is not None:
            self._conclude(self._inquiry)

    def steps(self) -> dict[str, int]:
        """Return the last finished step by global rank, of the ranks here that report."""
        first = self._plan.ranks[0].rank
        return {str(first + local): step for local, (step, at) in enumerate(self.slots()) if at}

    def hear(self, steps: Mapping[str, int]) -> None:
        """Take in what another host answers."""
        if self._inquiry is not None:
            self._inquiry.steps |= {int(rank): int(step) for rank, step in steps.items()}

    # --- inside -------------------------------------------------------------------------------------------------

    def _local_ranks(self, running: Sequence[Rank]) -> list[int]:
        if any(rank.plan.adapter for rank in running):
            return list(range(self._plan.topology.nproc_per_host))
        return [rank.plan.local_rank for rank in running]

    def _remark(self, now: float, done_hosts: Sequence[str]) -> None:
        gone = [f"rank {rank.plan.rank}" for rank in self._ranks if rank.status == 0]
        gone += [f"all ranks of {host}" for host in sorted(done_hosts)]
        if gone and not self._left_at:
            self._left_at = now
        if self._left_at and now > self._left_at + REMARK_S:
            self._left_at = float("inf")
            log.warning(
                f"{', '.join(gone)} ended with exit code 0, {len(self._ranks.running)} ranks of this host are still at "
                "work: a collective that needs them all would wait for ever"
            )

    def _look_at_output(self, now: float) -> None:
        """Mind a script that never reports: all that we can see of it is what it prints."""
        silent = now - self._ranks.last_line_at
        limit = self._settings.output_silence_s
        if limit and silent > limit:
            ranks = self._local_ranks(self._ranks.running)
            self.ask(Stall(tuple(ranks), 0, silent, limit, by_output=True))
        elif silent > self._settings.progress_s and now - self._warned_at > self._settings.progress_s:
            self._warned_at = now
            log.warning(
                f"no rank of this host has printed a line for {silent:.0f} s, and the script does not use Run: it may "
                "be stuck; slipway_output_silence_s sets a limit after which it is ended"
            )
            self.ask()

    def _conclude(self, inquiry: _Inquiry) -> Cause | None:
        self._inquiry = None
        places: dict[int, str] = {}
        for rank in inquiry.asked:
            dump = self._ranks.stack_of(rank)
            places[rank.plan.rank] = stacks.place(dump)
            log.warning(f"stacks of rank {rank.plan.rank}:\n{dump.rstrip()}")
        stall = inquiry.stall
        if stall is None:
            return None
        number, step = self._plan.ranks[0].rank + stall.local_ranks[0], stall.step
        behind, at = min(((s, r) for r, s in inquiry.steps.items()), default=(step, number))
        if behind < step:
            number, step = at, behind
        topology = self._plan.topology
        host = next((host for host in topology.hosts if number in topology.ranks_of(host)), topology.current_host)
        message = _describe(stall, step, places.get(number, ""))
        return Cause(host, message, ExitCode.PLATFORM_ERROR, time.time(), number)


def _describe(stall: Stall, step: int, place: str) -> str:
    where = f", and stands at {place}" if place else ""
    limit = f"{stall.limit_s:g} s"
    if stall.by_output:
        return f"no line of output for {stall.seconds:.0f} s{where} (limit {limit}: slipway_output_silence_s)"
    if step:
        limit += f", the longer of slipway_progress_s and {PATIENCE} median steps of {stall.median_step_s:.3g} s"
    return f"no progress for {stall.seconds:.0f} s after step {step}{where} (limit {limit}; the log holds all stacks)"
