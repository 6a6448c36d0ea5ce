"""The figures of the report: time line, phases, step times, the machine. Facts and columns in, markup out. Pure."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise

from runtime.profile.chart import (
    WIDTH,
    Bucket,
    Frame,
    axes,
    band,
    clipped,
    clock,
    drawing,
    gaps,
    line,
    phase_class,
    reduce,
    round_up,
    stacked_bars,
    ticks,
)
from runtime.profile.findings import duration
from runtime.profile.records import HostTrace, Records
from runtime.profile.summary import AttemptFacts, Summary, quantile, shares_of

BARS = 17
"""Bars of ranks that are drawn; the table has all of them."""
OWN_LINES = 6
"""Hosts that get a line of their own; more are drawn as one band."""
COLOURS = 6


def pauses(attempts: Sequence[AttemptFacts]) -> list[tuple[float, float]]:
    """Return the times between attempts, in seconds of the job."""
    return [(one.end_s, two.start_s) for one, two in pairwise(attempts)]


def time_line(summary: Summary) -> str:
    """Draw the attempts as bars: starting, steps done again, steps, and the gaps."""
    frame = Frame(end=summary.seconds, top=1.0, height=76, left=12, above=8, below=30)
    height = frame.height - frame.above - frame.below
    parts = gaps(frame, pauses(summary.attempts))

    def bar(begin: float, end: float, colour: str, title: str) -> str:
        x = frame.x(begin)
        return (
            f'<rect class="{colour}" x="{x:.1f}" y="{frame.above}" width="{max(1.0, frame.x(end) - x):.1f}" '
            f'height="{height}"><title>{escape(title)}</title></rect>'
        )

    for attempt in summary.attempts:
        name = f"attempt {attempt.attempt}"
        begin, last = attempt.first_step_at_s, attempt.last_step_at_s
        parts.append(bar(attempt.start_s, attempt.end_s, "t-start", f"{name}: starting, or ending"))
        if begin is not None and last is not None:
            # Steps that were done again come first in an attempt; each takes about what the others take.
            again = min(last, begin + attempt.redone_s)
            if attempt.redone_steps:
                parts.append(bar(begin, again, "t-again", f"{name}: {attempt.redone_steps} steps done again"))
            parts.append(bar(again, last, "t-steps", f"{name}: steps"))
        if frame.x(attempt.end_s) - frame.x(attempt.start_s) > 90:
            middle = (frame.x(attempt.start_s) + frame.x(attempt.end_s)) / 2
            y = frame.above + height / 2 + 4
            parts.append(f'<text class="inside" x="{middle:.1f}" y="{y:.1f}" text-anchor="middle">{name}</text>')
        if attempt.interrupted_by:
            x = frame.x(attempt.end_s)
            parts.append(
                f'<path class="t-cut" d="M{x:.1f} {frame.above - 6}v{height + 12}">'
                f"<title>{escape(attempt.interrupted_by)}</title></path>"
            )
    bottom = frame.height - frame.below + 6
    for moment in ticks(frame.end):
        x = frame.x(moment)
        anchor = "start" if moment == 0 else "end" if x > WIDTH - 30 else "middle"
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom}v4"/>')
        text = f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="{anchor}">{clock(moment)}</text>'
        parts.append(text)
    return drawing(parts, frame.height, f"{len(summary.attempts)} attempts over {duration(summary.seconds)}")


def phase_bars(summary: Summary) -> str:
    """Draw the shares of all ranks together, then of each; of many, those whose shares are the most unlike the rest."""
    rows = [("all ranks", dict(summary.shares))]
    ranks = [(rank, shares_of(seconds)) for rank, seconds in summary.ranks_over_attempts().items()]
    if len(ranks) > BARS - 1:

        def distance(shares: dict[str, float]) -> float:
            return sum(abs(share - summary.shares.get(name, 0.0)) for name, share in shares.items())

        ranks = sorted(sorted(ranks, key=lambda item: -distance(item[1]))[: BARS - 1])
    if len(ranks) > 1:
        rows += [(f"rank {rank}", shares) for rank, shares in ranks]
    return stacked_bars(rows, "share of each phase in the time of steps, per rank")


def legend_of_phases(summary: Summary) -> str:
    """Name the colours of the phases that occur."""
    return _legend((phase_class(name), name) for name in summary.phases if summary.shares.get(name, 0.0) > 0)


def _legend(entries: "Iterator[tuple[str, str]]") -> str:
    keys = "".join(f'<span><i class="{colour}"></i>{escape(name)}</span>' for colour, name in entries)
    return f'<div class="legend">{keys}</div>'


def step_times(summary: Summary, records: Records) -> str:
    """Draw the time of each step over the time of the job: the median of all ranks, in a band from min to max."""
    reduced: list[list[Bucket]] = []
    for attempt in summary.attempts:
        traces = [trace for trace in records.ranks if trace.attempt == attempt.attempt and len(trace)]
        moments = (
            (begin - summary.origin, seconds)
            for trace in traces
            for begin, seconds in zip(trace.begin, trace.total, strict=True)
        )
        reduced.append(reduce(moments, 0.0, summary.seconds))
    highs = sorted(bucket.high for buckets in reduced for bucket in buckets)
    middles = sorted(bucket.middle for buckets in reduced for bucket in buckets)
    if not highs:
        return ""
    # One slow first step must not flatten all others: what is far above the usual is marked at the edge.
    top = round_up(min(highs[-1] * 1.05, max(3 * quantile(middles, 0.9), 1.1 * quantile(highs, 0.9))))
    frame = Frame(end=summary.seconds, top=top, height=190)
    parts = [*axes(frame, "s"), *gaps(frame, pauses(summary.attempts))]
    for index, buckets in enumerate(reduced):
        colour = f"c{index % COLOURS}"
        parts += [band(frame, buckets, colour), line(frame, buckets, colour), *clipped(frame, buckets)]
    return drawing(parts, frame.height, "step time over the time of the job")


def machine_figures(summary: Summary, records: Records) -> list[tuple[str, str]]:
    """Draw CPU, memory, disk and network; a title and the markup of each, without those that are unknown."""
    figures: list[tuple[str, str]] = []
    for title, solid, dashed, unit in (
        ("CPU busy (dashed: waiting for the disk)", "cpu_pct", "iowait_pct", "%"),
        ("Memory used", "mem_pct", "", "%"),
        ("Disk: read (dashed: written)", "disk_read_bps", "disk_write_bps", "B/s"),
        ("Network: received (dashed: sent)", "net_rx_bps", "net_tx_bps", "B/s"),
    ):
        markup = _machine_figure(summary, records, solid, dashed, unit)
        if markup:
            figures.append((title, markup))
    return figures


def host_names(records: Records) -> list[str]:
    """Return the hosts in the order of their colours."""
    return list(dict.fromkeys(trace.host for trace in records.hosts if len(trace.t)))


def legend_of_hosts(records: Records) -> str:
    """Name the colours of the hosts."""
    names = host_names(records)
    if len(names) > OWN_LINES:
        return _legend(iter([("c0", f"{len(names)} hosts: median, in a band from min to max")]))
    return _legend((f"c{index % COLOURS}", name) for index, name in enumerate(names))


def _machine_figure(summary: Summary, records: Records, solid: str, dashed: str, unit: str) -> str:
    names = host_names(records)
    drawn: list[tuple[list[Bucket], str, bool]] = []
    for column in filter(None, (solid, dashed)):
        for attempt in sorted({trace.attempt for trace in records.hosts}):
            # A host of a very short attempt may have left no sample at all.
            traces = [trace for trace in records.hosts if trace.attempt == attempt and len(trace.t)]
            groups = [traces] if len(names) > OWN_LINES and traces else [[trace] for trace in traces]
            for group in groups:
                colour = "c0" if len(names) > OWN_LINES else f"c{names.index(group[0].host) % COLOURS}"
                buckets = reduce(_moments(group, column, summary.origin), 0.0, summary.seconds)
                drawn.append((buckets, colour, column == dashed))
    peak = max((bucket.high for buckets, _, _ in drawn for bucket in buckets), default=math.nan)
    if math.isnan(peak):
        return ""
    frame = Frame(end=summary.seconds, top=100.0 if unit == "%" else round_up(peak), height=130)
    parts = [*axes(frame, unit), *gaps(frame, pauses(summary.attempts))]
    for buckets, colour, is_dashed in drawn:
        if not is_dashed:
            parts.append(band(frame, buckets, colour))
        parts.append(line(frame, buckets, colour, dashed=is_dashed))
    return drawing(parts, frame.height, f"{solid} over the time of the job")


def _moments(traces: Sequence[HostTrace], column: str, origin: float) -> Iterator[tuple[float, float]]:
    for trace in traces:
        for moment, value in zip(trace.t, trace.columns.get(column, ()), strict=False):
            yield moment - origin, value
