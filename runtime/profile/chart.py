"""Inline SVG of our own: frames with axes, bands and lines, bars, time lines. Numbers in, markup out. Pure.

Colours are classes and variables of the page's style sheet, so that one drawing serves a light and a dark page.
Series are reduced to one minimum, median and maximum per bucket of pixels: a page stays small however long the job
was, and a spike of one step stays visible.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from runtime.profile.findings import duration, percent, size

WIDTH = 640
"""Units of a drawing's width; the page scales it."""
BUCKETS = 280
"""Buckets over the width: two units each, finer than a pen of 1.5 units shows."""


@dataclass(frozen=True)
class Bucket:
    """What a series did in a small piece of time."""

    at: float
    low: float
    middle: float
    high: float


def reduce(pairs: Iterable[tuple[float, float]], start: float, end: float, buckets: int = BUCKETS) -> list[Bucket]:
    """Reduce a series to at most `buckets` pieces; values that are no number are left out.

    Args:
        pairs: moment and value, in any order.
        start: begin of the axis, in the unit of the moments, as is `end`.
        end: end of the axis.
        buckets: pieces into which the axis is cut.
    """
    width = (end - start) / buckets or 1.0
    held: dict[int, list[float]] = {}
    for moment, value in pairs:
        if value == value:  # NaN alone differs from itself
            held.setdefault(min(buckets - 1, max(0, int((moment - start) / width))), []).append(value)
    reduced: list[Bucket] = []
    for index, values in sorted(held.items()):
        values.sort()
        reduced.append(Bucket(start + (index + 0.5) * width, values[0], values[len(values) // 2], values[-1]))
    return reduced


def round_up(value: float) -> float:
    """Return a round number that is not smaller, for the top of an axis.

    >>> round_up(0.034), round_up(7.2), round_up(0)
    (0.04, 8.0, 1.0)
    """
    if value <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * scale >= value * (1 - 1e-9))


def ticks(end: float, wanted: int = 6) -> list[float]:
    """Return round numbers from 0 to `end`, in seconds: 1, 2, 5, 10, 15, 30 and 60 of a unit."""
    if end <= 0:
        return [0.0]
    steps = [base * 10.0**power for power in range(-4, 1) for base in (1, 2, 5)]
    steps += [10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200]
    step = next((step for step in sorted(steps) if end / step <= wanted), 86400.0 * math.ceil(end / 86400 / wanted))
    return [index * step for index in range(int(end / step + 1e-9) + 1)]


def clock(seconds: float) -> str:
    """Write a moment of the job for an axis.

    >>> clock(0), clock(0.5), clock(90), clock(5400)
    ('0', '0.5 s', '1:30', '1:30 h')
    """
    if seconds == 0:
        return "0"
    if seconds < 60:
        return f"{seconds:g} s"
    if seconds < 3600:
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d} h"


def speed(value: float) -> str:
    """Write bytes per second."""
    return f"{size(value)}/s"


@dataclass(frozen=True)
class Frame:
    """The inner rectangle of a drawing, and the values that its edges stand for."""

    end: float
    """Seconds at the right edge; the left one is 0."""
    top: float
    """Value at the upper edge; the lower one is 0."""
    height: int = 150
    left: int = 56
    right: int = 12
    above: int = 10
    below: int = 24

    def x(self, seconds: float) -> float:
        """Place a moment."""
        inner = WIDTH - self.left - self.right
        return self.left + inner * min(1.0, max(0.0, seconds / self.end if self.end > 0 else 0.0))

    def y(self, value: float) -> float:
        """Place a value; what is above the upper edge is drawn at it."""
        inner = self.height - self.above - self.below
        return self.height - self.below - inner * min(1.0, max(0.0, value / self.top if self.top > 0 else 0.0))


def drawing(parts: Iterable[str], height: int, label: str) -> str:
    """Put the parts of a drawing together; `label` is what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label, quote=True)}">'
        f"{''.join(parts)}</svg>"
    )


def axes(frame: Frame, unit: str) -> list[str]:
    """Draw grid lines with their labels; `unit` is ``s``, ``B/s`` or ``%``."""
    write = {"s": duration, "B/s": speed, "%": "{:.0f} %".format}[unit]
    parts: list[str] = []
    bottom = frame.height - frame.below
    for part in (0.0, 0.5, 1.0):
        y = frame.y(part * frame.top)
        text = "0" if part == 0 else write(part * frame.top)
        parts.append(f'<path class="grid" d="M{frame.left} {y:.1f}H{WIDTH - frame.right}"/>')
        parts.append(f'<text class="tick" x="{frame.left - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for moment in ticks(frame.end):
        x = frame.x(moment)
        anchor = "end" if x > WIDTH - 30 else "middle"
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom}v4"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="{anchor}">{clock(moment)}</text>')
    return parts


def gaps(frame: Frame, spans: Iterable[tuple[float, float]]) -> list[str]:
    """Shade the times at which nothing ran."""
    parts: list[str] = []
    for begin, end in spans:
        x, width = frame.x(begin), max(1.5, frame.x(end) - frame.x(begin))
        parts.append(
            f'<rect class="gap" x="{x:.1f}" y="{frame.above}" width="{width:.1f}" '
            f'height="{frame.height - frame.above - frame.below}"><title>nothing ran for {duration(end - begin)}'
            "</title></rect>"
        )
    return parts


def band(frame: Frame, buckets: Sequence[Bucket], colour: str) -> str:
    """Shade from minimum to maximum."""
    if not buckets:
        return ""
    upper = [f"{frame.x(bucket.at):.1f} {frame.y(bucket.high):.1f}" for bucket in buckets]
    lower = [f"{frame.x(bucket.at):.1f} {frame.y(bucket.low):.1f}" for bucket in reversed(buckets)]
    return f'<path class="band {colour}" d="M{"L".join([*upper, *lower])}Z"/>'


def line(frame: Frame, buckets: Sequence[Bucket], colour: str, *, dashed: bool = False) -> str:
    """Draw the medians; a single one becomes a dot."""
    if not buckets:
        return ""
    points = [f"{frame.x(bucket.at):.1f} {frame.y(bucket.middle):.1f}" for bucket in buckets]
    dash = " dashed" if dashed else ""
    return f'<path class="line {colour}{dash}" d="M{"L".join(points)}{"h0.1" if len(points) == 1 else ""}"/>'


def clipped(frame: Frame, buckets: Iterable[Bucket]) -> list[str]:
    """Mark what is too high to be drawn, with its value on hover."""
    return [
        f'<path class="clipped" d="M{frame.x(bucket.at):.1f} {frame.above - 7}l4 6h-8z">'
        f"<title>{duration(bucket.high)} at {clock(round(bucket.at, 1))}</title></path>"
        for bucket in buckets
        if bucket.high > frame.top
    ]


def stacked_bars(rows: Sequence[tuple[str, dict[str, float]]], label: str) -> str:
    """Draw one bar per row, cut into shares.

    Args:
        rows: a name and the shares by phase, which sum to 1.
        label: for screen readers.
    """
    row, left, right = 24, 84, 12
    parts: list[str] = []
    for index, (name, shares) in enumerate(rows):
        y, x = 6 + index * row, float(left)
        parts.append(f'<text class="name" x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        for phase, share in shares.items():
            width = share * (WIDTH - left - right)
            if width <= 0:
                continue
            colour = phase_class(phase)
            parts.append(
                f'<rect class="{colour}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{row - 6}">'
                f"<title>{escape(name)}: {escape(phase)} {percent(share)}</title></rect>"
            )
            if width > 40:
                parts.append(
                    f'<text class="inside" x="{x + width / 2:.1f}" y="{y + 13}" text-anchor="middle">'
                    f"{percent(share)}</text>"
                )
            x += width
    return drawing(parts, 6 + len(rows) * row, label)


def phase_class(phase: str) -> str:
    """Return the colour class of a phase; phases that we do not know share one."""
    return f"p-{phase}" if phase in ("data", "compute", "optimizer", "checkpoint", "other") else "p-new"
