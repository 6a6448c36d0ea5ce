"""Why a rank of this host ended, and what of it counts once a stop was asked."""

from __future__ import annotations

import time

from runtime.base.frozen import replace
from runtime.cause.explain import Facts
from runtime.cause.outcome import Cause, cause_of_exit, first_cause, read_rank_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal

    from runtime.cause.cgroup import Memory
    from runtime.contract.job import Job
    from runtime.launch.ranks import Rank
    from runtime.planning.plan import LaunchPlan
else:
    import _signal as signal  # see runtime.launch.signals


def explain_end(rank: Rank, plan: LaunchPlan, job: Job, memory: Memory, *, asked: bool, ended: bool) -> Cause | None:
    """Explain the end of a rank that did not end well.

    Args:
        rank: it has ended.
        plan: of this host.
        job: its paths.
        memory: what was known of it before the ranks were started.
        asked: the job was asked to stop.
        ended: all ranks were told to end, after a failure.

    Returns:
        None when we ended it ourselves, and it left nothing to say.
    """
    host, status = plan.topology.current_host, rank.status or 0
    record = None if rank.plan.adapter else read_rank_error(rank.plan.environ["TORCHELASTIC_ERROR_FILE"])
    if ended and record is None:
        return None
    if rank.plan.adapter:
        return _explain_adapter(rank, plan, status)
    return cause_of_exit(
        host,
        rank.plan.rank,
        status,
        record,
        rank.stderr_tail,
        time.time(),
        out=rank.stdout_tail,
        facts=_facts_before(plan, job, memory),
        told=_told_by_the_script(job),
        ended_by_us=ended or asked,
    )


def after_a_stop(
    cause: Cause, rank: Rank, host: str, *, grace_s: float, grace_is_over: bool, interrupts: int
) -> Cause | None:
    """Judge an end after a stop was asked.

    Args:
        cause: see `explain_end`.
        rank: it has ended.
        host: this one.
        grace_s: seconds that the ranks had to save and leave.
        grace_is_over: they have passed.
        interrupts: times that Ctrl-C was pressed.

    Returns:
        None when it went the way it was asked to.
    """
    status, number = rank.status, rank.plan.rank
    if status in (-signal.SIGTERM, 128 + signal.SIGTERM) or rank.killed or cause.consequence:
        return None
    if status == -signal.SIGKILL and grace_is_over:
        return Cause(host, f"did not end within {grace_s:g} s of SIGTERM and was killed", 137, cause.time, number)
    if status == -signal.SIGKILL and interrupts > 1:
        return Cause(host, "killed by a second Ctrl-C (SIGINT) while it was stopping", 137, cause.time, number)
    return cause


def _explain_adapter(rank: Rank, plan: LaunchPlan, status: int) -> Cause:
    """Say why somebody else's launcher ended: what the first of its ranks left, else its own words.

    Its ranks may be on other hosts, whose records only these can read: then its words are what it felt of it.
    """
    left = [record for record in map(read_rank_error, rank.plan.records) if record is not None]
    if left:
        return first_cause(left)
    host = plan.topology.current_host
    cause = cause_of_exit(host, rank.plan.rank, status, None, rank.stderr_tail, time.time())
    elsewhere = plan.topology.num_hosts > 1
    message = f"{plan.style}: {cause.message}"
    return replace(cause, message=message, rank=None, consequence=cause.consequence or elsewhere)


def _facts_before(plan: LaunchPlan, job: Job, memory: Memory) -> Facts:
    paths = job.paths
    places = (
        paths.model,
        paths.output_data,
        job.checkpoint_path or "",
        plan.environ.get("TMPDIR", "/tmp"),  # noqa: S108 - where programs write by default
    )
    return Facts(memory, tuple(place for place in places if place))


def _told_by_the_script(job: Job) -> str:
    """Read the failure file: ours is written later, and an earlier run's was removed at the start."""
    try:
        with open(job.paths.failure, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
