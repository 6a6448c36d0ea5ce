"""Records in, facts out: what the report says, as numbers. Pure.

Every share is a fraction of the time inside steps, in [0, 1]. "Steady" leaves out the first step of every
attempt of every rank: it pays for imports, compilation and the first files, and tells nothing of the others.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from runtime.profile.records import OTHER, Attempt, HostTrace, JobRecord, RankTrace, Records

PHASE_ORDER = ("data", "compute", "optimizer", "checkpoint", OTHER)
LEVELS = ("cpu_pct", "iowait_pct", "mem_pct", "disk_read_bps", "disk_write_bps", "net_rx_bps", "net_tx_bps")


@dataclass(frozen=True)
class AttemptFacts:
    """One attempt on the job's own clock, in which second 0 is its first start."""

    attempt: int
    start_s: float
    end_s: float
    gap_before_s: float | None
    """Seconds that nothing ran before it; None for the first one."""
    first_step_at_s: float | None
    """When its first step began; None without steps, as is `last_step_at_s`."""
    last_step_at_s: float | None
    """When its last step ended."""
    first_step: int | None
    last_step: int | None
    resumed_step: int | None
    interrupted_by: str
    """Such as ``SIGTERM after step:50``; empty when it was not."""
    redone_steps: int
    """Steps that the attempt before had finished already."""
    redone_s: float
    """Seconds that they took again, on the slowest rank."""
    exit_codes: Mapping[str, int | None]


@dataclass(frozen=True)
class RankFacts:
    """One rank in one attempt; times in seconds."""

    attempt: int
    host: str
    rank: int
    steps: int
    first_step_s: float
    median_s: float
    """Of the steady steps, as is `p95_s`."""
    p95_s: float
    max_s: float
    seconds: Mapping[str, float]
    """Sum by phase over all steps."""
    steady_shares: Mapping[str, float]


@dataclass(frozen=True)
class Level:
    """A quantity of a host over an attempt."""

    mean: float
    p95: float
    max: float


@dataclass(frozen=True)
class HostFacts:
    """One host in one attempt."""

    attempt: int
    host: str
    cpus: int | None
    memory_bytes: float | None
    samples: int
    left_out: int
    levels: Mapping[str, Level]
    """By name of a column; without those that the machine does not tell."""
    disk_free_bytes: float | None
    """At the end."""
    memory_growth_pct: float
    """Points of memory from the second quarter of the attempt to the last; 0 when it did not only rise."""


@dataclass(frozen=True)
class Summary:
    """All facts about a job."""

    job: JobRecord | None
    origin: float
    """Unix seconds of the job's second 0."""
    seconds: float
    attempts: tuple[AttemptFacts, ...]
    ranks: tuple[RankFacts, ...]
    hosts: tuple[HostFacts, ...]
    phases: tuple[str, ...]
    """Names in the order in which they are drawn."""
    shares: Mapping[str, float]
    """Of all time in steps, over all ranks; empty without steps."""
    steady_shares: Mapping[str, float]
    steps: int
    """Distinct steps that were finished."""
    redone_steps: int
    redone_s: float
    first_step_s: float | None
    """Slowest rank, first attempt."""
    median_s: float | None
    p95_s: float | None
    outliers: int
    """Steady steps that took more than three medians, and what they took, as a share of the time in steps."""
    outlier_share: float
    checkpoints: int
    """Saves on the rank that saved most often."""
    checkpoint_median_s: float | None
    missing: tuple[str, ...]
    """What the report cannot say, and why."""

    def ranks_over_attempts(self) -> dict[int, dict[str, float]]:
        """Return seconds by phase of each rank, all attempts together."""
        together: dict[int, dict[str, float]] = {}
        for rank in self.ranks:
            seconds = together.setdefault(rank.rank, dict.fromkeys(self.phases, 0.0))
            for name, value in rank.seconds.items():
                seconds[name] += value
        return dict(sorted(together.items()))


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the nearest-rank quantile of values in order.

    >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def shares_of(seconds: Mapping[str, float]) -> dict[str, float]:
    """Turn seconds by phase into shares; empty when nothing took time."""
    whole = sum(seconds.values())
    return {name: value / whole for name, value in seconds.items()} if whole > 0 else {}


def add_up(parts: Iterable[Mapping[str, float]], names: Iterable[str]) -> dict[str, float]:
    """Sum mappings by name."""
    listed = list(parts)
    return {name: sum(part.get(name, 0.0) for part in listed) for name in names}


def summarise_records(records: Records) -> Summary:
    """Work out all facts."""
    traces = [trace for trace in records.ranks if len(trace)]
    phases = _phase_names(traces)
    origin, end = _window(records)
    ranks = tuple(_rank_facts(trace) for trace in traces)
    attempts = _attempts(records, traces, origin)
    steady = sorted(seconds for trace in traces for seconds in trace.total[1:] or trace.total)
    median = quantile(steady, 0.5) if steady else None
    long_steps = [seconds for seconds in steady if median and seconds > 3 * median]
    in_steps = sum(steady)
    saves = _saves(traces)
    return Summary(
        job=records.job,
        origin=origin,
        seconds=end - origin,
        attempts=attempts,
        ranks=ranks,
        hosts=tuple(_host_facts(trace) for trace in records.hosts if len(trace.t)),
        phases=phases,
        shares=shares_of(add_up((rank.seconds for rank in ranks), phases)),
        steady_shares=shares_of(add_up((_steady_seconds(trace) for trace in traces), phases)),
        steps=len({step for trace in traces for step in trace.step}),
        redone_steps=sum(attempt.redone_steps for attempt in attempts),
        redone_s=sum(attempt.redone_s for attempt in attempts),
        first_step_s=max((rank.first_step_s for rank in ranks if rank.attempt == ranks[0].attempt), default=None),
        median_s=median,
        p95_s=quantile(steady, 0.95) if steady else None,
        outliers=len(long_steps),
        outlier_share=sum(long_steps) / in_steps if in_steps else 0.0,
        checkpoints=len(saves),
        checkpoint_median_s=quantile(sorted(saves), 0.5) if saves else None,
        missing=_missing(records),
    )


def _phase_names(traces: Iterable[RankTrace]) -> tuple[str, ...]:
    found = dict.fromkeys(name for trace in traces for name in trace.phases)
    known = [name for name in PHASE_ORDER if name in found and name != OTHER]
    new = [name for name in found if name not in PHASE_ORDER]
    return (*known, *new, *((OTHER,) if OTHER in found else ()))


def _window(records: Records) -> tuple[float, float]:
    """Return the first and last moment that anything tells of; (0, 0) when nothing does."""
    moments = [trace.t[index] for trace in records.hosts if len(trace.t) for index in (0, -1)]
    for trace in records.ranks:
        if len(trace):
            moments += [trace.begin[0], trace.begin[-1] + trace.total[-1]]
    if records.job is not None:
        moments += [moment for attempt in records.job.attempts for moment in (attempt.started, attempt.ended)]
    return (min(moments), max(moments)) if moments else (0.0, 0.0)


def _steady_seconds(trace: RankTrace) -> dict[str, float]:
    first = 1 if len(trace) > 1 else 0
    return {name: sum(column[first:]) for name, column in trace.phases.items()}


def _rank_facts(trace: RankTrace) -> RankFacts:
    steady = sorted(trace.total[1:] or trace.total)
    return RankFacts(
        attempt=trace.attempt,
        host=trace.host,
        rank=trace.rank,
        steps=len(trace),
        first_step_s=trace.total[0],
        median_s=quantile(steady, 0.5),
        p95_s=quantile(steady, 0.95),
        max_s=steady[-1],
        seconds={name: sum(column) for name, column in trace.phases.items()},
        steady_shares=shares_of(_steady_seconds(trace)),
    )


def _saves(traces: Iterable[RankTrace]) -> list[float]:
    by_rank: dict[int, list[float]] = {}
    for trace in traces:
        for event in trace.events:
            if event.get("event") == "checkpoint" and isinstance(event.get("seconds"), int | float):
                by_rank.setdefault(trace.rank, []).append(float(event["seconds"]))
    return max(by_rank.values(), key=len, default=[])


def _attempts(records: Records, traces: Sequence[RankTrace], origin: float) -> tuple[AttemptFacts, ...]:
    """Join what the job says of its attempts with what the ranks wrote; either may be absent."""
    told = records.job.attempts if records.job and records.job.attempts else _attempts_of_traces(records, traces)
    facts: list[AttemptFacts] = []
    before: AttemptFacts | None = None
    for attempt in told:
        mine = [trace for trace in traces if trace.attempt == attempt.number]
        resumed = attempt.resumed_step if attempt.resumed_step is not None else _resumed(mine)
        done_before = before.last_step if before and before.last_step is not None else 0
        redone = [_steps_up_to(trace, done_before) for trace in mine] if before else []
        by = attempt.interrupted
        start = attempt.started - origin
        before = AttemptFacts(
            attempt=attempt.number,
            start_s=start,
            end_s=attempt.ended - origin,
            gap_before_s=max(0.0, start - before.end_s) if before else None,
            first_step_at_s=min((trace.begin[0] for trace in mine), default=math.nan) - origin if mine else None,
            last_step_at_s=max((trace.begin[-1] + trace.total[-1] for trace in mine), default=math.nan) - origin
            if mine
            else None,
            first_step=min((trace.step[0] for trace in mine), default=None),
            last_step=max((max(trace.step) for trace in mine), default=None)
            if attempt.last_step is None
            else attempt.last_step,
            resumed_step=resumed,
            interrupted_by=f"{by.signal} after {by.after}" if by and by.after else by.signal if by else "",
            redone_steps=max((count for count, _ in redone), default=max(0, done_before - (resumed or 0)))
            if before
            else 0,
            redone_s=max((seconds for _, seconds in redone), default=0.0),
            exit_codes={host.name: host.exit_code for host in attempt.hosts},
        )
        facts.append(before)
    return tuple(facts)


def _attempts_of_traces(records: Records, traces: Sequence[RankTrace]) -> tuple[Attempt, ...]:
    ends: dict[int, list[float]] = {}
    for trace in traces:
        ends.setdefault(trace.attempt, []).extend([trace.begin[0], trace.begin[-1] + trace.total[-1]])
    for host in records.hosts:
        if len(host.t):
            ends.setdefault(host.attempt, []).extend([host.t[0], host.t[-1]])
    return tuple(Attempt(number, min(moments), max(moments)) for number, moments in sorted(ends.items()))


def _resumed(traces: Iterable[RankTrace]) -> int | None:
    steps = [
        event["step"]
        for trace in traces
        for event in trace.events
        if event.get("event") == "resumed" and isinstance(event.get("step"), int)
    ]
    return min(steps, default=None)


def _steps_up_to(trace: RankTrace, last: int) -> tuple[int, float]:
    again = [seconds for step, seconds in zip(trace.step, trace.total, strict=True) if step <= last]
    return len(again), sum(again)


def known(column: Iterable[float]) -> list[float]:
    """Return the values that are numbers."""
    return [value for value in column if value == value]  # NaN alone differs from itself


def _host_facts(trace: HostTrace) -> HostFacts:
    levels: dict[str, Level] = {}
    for name in LEVELS:
        values = sorted(known(trace.columns.get(name, array("d"))))
        if values:
            levels[name] = Level(sum(values) / len(values), quantile(values, 0.95), values[-1])
    free = known(trace.columns.get("disk_free_bytes", array("d")))
    return HostFacts(
        attempt=trace.attempt,
        host=trace.host,
        cpus=trace.cpus,
        memory_bytes=trace.memory_bytes,
        samples=len(trace.t),
        left_out=trace.left_out,
        levels=levels,
        disk_free_bytes=free[-1] if free else None,
        memory_growth_pct=_growth(known(trace.columns.get("mem_pct", array("d")))),
    )


def _growth(values: Sequence[float]) -> float:
    """Return how far a level rose over the last three quarters, if each has a higher median."""
    quarter = len(values) // 4
    if quarter < 5:
        return 0.0
    medians = [quantile(sorted(values[part * quarter : (part + 1) * quarter]), 0.5) for part in (1, 2, 3)]
    return medians[2] - medians[0] if medians[0] < medians[1] < medians[2] else 0.0


def _missing(records: Records) -> tuple[str, ...]:
    return (*_missing_files(records), *_missing_ranks(records), *_left_out(records))


def _missing_files(records: Records) -> Iterator[str]:
    if records.job is None:
        yield "No job.json: status, failure reason, billable seconds and who interrupted are unknown."
    elif not records.job.attempts:
        yield "job.json lists no attempts: their times are those of the first and last record."
    if not any(len(trace) for trace in records.ranks):
        yield "No step was recorded: slipway_profile is off, or the script does not loop with runtime.Run."
    if not records.hosts:
        yield "No samples of the machine: slipway_profile is off, or the sampler could not start."
        return
    told = {name for trace in records.hosts for name, column in trace.columns.items() if known(column)}
    if not told:
        yield "The job ended before the first sample of the machine."
    elif silent := [name for name in LEVELS if name not in told]:
        yield f"This machine does not tell: {', '.join(silent)}."


def _missing_ranks(records: Records) -> Iterator[str]:
    for attempt, world in {trace.attempt: trace.world_size for trace in records.ranks}.items():
        absent = set(range(world)) - {trace.rank for trace in records.ranks if trace.attempt == attempt}
        if absent:
            names = ", ".join(map(str, sorted(absent)[:8])) + (", ..." if len(absent) > 8 else "")
            yield f"Attempt {attempt} has no step records of {len(absent)} of {world} ranks: {names}."
    if any(len(trace) for trace in records.ranks):
        yield "Accelerators are not sampled yet: compute is the time that the program spent in it."


def _left_out(records: Records) -> Iterator[str]:
    if cut := sum(trace.unreadable for trace in (*records.ranks, *records.hosts)):
        yield f"{cut} cut or unreadable lines were left out (a killed process cuts its last line)."
    if late := sum(trace.left_out for trace in records.hosts):
        yield f"{late} samples were left out because the machine was too busy to take them."
    if records.unreadable_files:
        yield f"Files without a usable first line were left out: {', '.join(records.unreadable_files)}."
