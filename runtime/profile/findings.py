"""Facts in, plain sentences out: what stands out, what it costs, what to try. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from runtime.profile.summary import HostFacts, Summary, quantile

DATA_SHARE = 0.10
"""Waiting for data above this share of the time in steps is a problem, below `DATA_FINE` it is praise."""
DATA_FINE = 0.05
CHECKPOINT_SHARE = 0.05
OUTLIER_SHARE = 0.05
SLOW_RANK = 1.15
"""Ratio of a rank's median step to that of the median rank."""
SLOW_DATA = 0.10
"""By how much a rank's share of waiting for data exceeds that of the median rank."""
AROUND_SHARE = 0.25
FIRST_STEP_RATIO = 5.0
BUSY_CPU_PCT = 90.0
MEMORY_PCT = 90.0
GROWTH_POINTS = 5.0
FREE_BYTES = 2e9


@dataclass(frozen=True)
class Finding:
    """One sentence, with its weight."""

    kind: Literal["problem", "note", "good"]
    text: str


def duration(seconds: float) -> str:
    """Write a duration with a unit that fits.

    >>> duration(0.0123), duration(4.25), duration(75), duration(7265)
    ('12.3 ms', '4.25 s', '1 min 15 s', '2 h 01 min')
    """
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def size(value: float) -> str:
    """Write a number of bytes with a unit that fits.

    >>> size(999), size(1.5e9)
    ('999 B', '1.5 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def percent(share: float) -> str:
    """Write a share.

    >>> percent(0.314), percent(0.004)
    ('31 %', '0.4 %')
    """
    return f"{share * 100:.0f} %" if share >= 0.01 or share == 0 else f"{share * 100:.1f} %"


def count(number: int, noun: str) -> str:
    """Write a number with its noun.

    >>> count(1, "step"), count(10, "step")
    ('1 step', '10 steps')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def find(summary: Summary) -> tuple[Finding, ...]:
    """Say what stands out, the most important first."""
    found = [
        *_interruptions(summary),
        *_data(summary),
        *_slow_ranks(summary),
        *_steps(summary),
        *_around_steps(summary),
        *_machines(summary),
    ]
    weight = {"problem": 0, "note": 1, "good": 2}
    return tuple(sorted(found, key=lambda finding: weight[finding.kind]))


def _interruptions(summary: Summary) -> Iterator[Finding]:
    for before, after in zip(summary.attempts, summary.attempts[1:], strict=False):
        who = f"by {before.interrupted_by}" if before.interrupted_by else "(nobody says by whom)"
        gap = duration(after.gap_before_s or 0.0)
        went_on = (
            "began anew" if after.resumed_step is None else f"went on from the checkpoint of step {after.resumed_step}"
        )
        again = (
            f"{count(after.redone_steps, 'step')} ({duration(after.redone_s)}) were done again"
            if after.redone_steps
            else "no step was done again"
        )
        yield Finding(
            "problem" if after.resumed_step is None and after.redone_steps else "note",
            f"Attempt {before.attempt} was interrupted {who}; after {gap} attempt {after.attempt} {went_on}: {again}.",
        )


def _data(summary: Summary) -> Iterator[Finding]:
    share = summary.steady_shares.get("data")
    if share is None:
        return
    if share <= DATA_FINE:
        yield Finding("good", f"Data keeps up: ranks wait {percent(share)} of the time for it.")
    if share < DATA_SHARE:
        return
    cpu = [host.levels["cpu_pct"].mean for host in summary.hosts if "cpu_pct" in host.levels]
    busiest = max(cpu, default=None)
    advice = "try more loader workers (run.data(workers=...)), then the input mode"
    if busiest is not None and busiest >= BUSY_CPU_PCT:
        advice = f"the CPUs are {busiest:.0f} % busy: decode less per sample, or take an instance with more CPUs"
    elif busiest is not None:
        advice = f"the CPUs are only {busiest:.0f} % busy: {advice}"
    yield Finding(
        "problem",
        f"Ranks wait {percent(share)} of the time for data; without that, steps would be up to "
        f"{1 / (1 - share) if share < 0.99 else 100:.2g} times as fast. What to do: {advice}.",
    )


def _slow_ranks(summary: Summary) -> Iterator[Finding]:
    """Compare ranks: in a synchronous job the others wait for a slow one, inside their own compute.

    The attempt with the most steps tells the most; the others would only say the same again.
    """
    steps: dict[int, int] = {}
    for rank in summary.ranks:
        steps[rank.attempt] = steps.get(rank.attempt, 0) + rank.steps
    if not steps:
        return
    attempt = max(steps, key=steps.__getitem__)
    ranks = [rank for rank in summary.ranks if rank.attempt == attempt]
    usual_share = quantile(sorted(rank.steady_shares.get("data", 0.0) for rank in ranks), 0.5)
    usual_step = quantile(sorted(rank.median_s for rank in ranks), 0.5)
    for rank in ranks:
        share = rank.steady_shares.get("data", 0.0)
        if share > usual_share + SLOW_DATA:
            yield Finding(
                "problem",
                f"Rank {rank.rank} on {rank.host} waits {percent(share)} of its time for data, the median rank "
                f"{percent(usual_share)}: the others wait for it. What to do: look at that host's disk and network, "
                "and at the size of its shard.",
            )
        if rank.median_s > SLOW_RANK * usual_step:
            yield Finding(
                "problem",
                f"Rank {rank.rank} on {rank.host} takes {duration(rank.median_s)} per step, the median rank "
                f"{duration(usual_step)}.",
            )


def _steps(summary: Summary) -> Iterator[Finding]:
    share = summary.steady_shares.get("checkpoint", 0.0)
    if share >= CHECKPOINT_SHARE:
        saves = f"{count(summary.checkpoints, 'save')}, " if summary.checkpoints else ""
        each = f"{duration(summary.checkpoint_median_s)} each; " if summary.checkpoint_median_s else ""
        yield Finding(
            "problem",
            f"Checkpoints take {percent(share)} of the time ({saves}{each}what to do: save less often, "
            "run.checkpoint(every_s=...)).",
        )
    first, steady = summary.first_step_s, summary.median_s
    if first and steady and first > FIRST_STEP_RATIO * steady:
        yield Finding(
            "note",
            f"The first step took {duration(first)}, a steady one {duration(steady)}: warm-up, paid once per attempt.",
        )
    if summary.outliers and summary.outlier_share >= OUTLIER_SHARE:
        yield Finding(
            "problem",
            f"{count(summary.outliers, 'step')} took more than three times the median and make "
            f"{percent(summary.outlier_share)} of the time in steps.",
        )


def _around_steps(summary: Summary) -> Iterator[Finding]:
    """Judge the time before the first and after the last step of each attempt, which is paid as well."""
    told = [attempt for attempt in summary.attempts if attempt.first_step_at_s is not None]
    whole = sum(attempt.end_s - attempt.start_s for attempt in summary.attempts)
    before = sum((attempt.first_step_at_s or 0.0) - attempt.start_s for attempt in told)
    after = sum(attempt.end_s - (attempt.last_step_at_s or attempt.end_s) for attempt in told)
    if whole <= 0:
        return
    for seconds, when, what in (
        (before, "before the first step", "imports, waiting for hosts and opening data"),
        (after, "after the last step", "saving, packing and waiting for the other hosts"),
    ):
        if seconds / whole >= AROUND_SHARE:
            each = f" ({count(len(told), 'attempt')})" if len(told) > 1 else ""
            yield Finding(
                "note", f"{percent(seconds / whole)} of the time, {duration(seconds)}{each}, was {when}: {what}."
            )


def _machines(summary: Summary) -> Iterator[Finding]:
    for host in summary.hosts:
        yield from _machine(host)


def _machine(host: HostFacts) -> Iterator[Finding]:
    where = f"{host.host} (attempt {host.attempt})"
    memory = host.levels.get("mem_pct")
    if memory and memory.max >= MEMORY_PCT:
        yield Finding("problem", f"Memory of {where} was {memory.max:.0f} % full: little is left before a kill.")
    if host.memory_growth_pct >= GROWTH_POINTS:
        yield Finding(
            "problem",
            f"Memory of {where} grew by {host.memory_growth_pct:.0f} points without a pause: something is "
            "kept that should be let go.",
        )
    if host.disk_free_bytes is not None and host.disk_free_bytes < FREE_BYTES:
        yield Finding("problem", f"The disk of {where} had {size(host.disk_free_bytes)} left at the end.")
    waiting = host.levels.get("iowait_pct")
    if waiting and waiting.mean >= 20:
        yield Finding("note", f"CPUs of {where} waited for the disk {waiting.mean:.0f} % of the time.")
