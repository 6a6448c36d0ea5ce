"""What all benchmarks share: interleaved rounds, medians with their spread, the table and the JSON object."""

import importlib.metadata
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from runtime.version import __version__

LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Ratio:
    """How one arm compares with another: the median of the rounds' ratios, and the middle half of them."""

    median: float
    low: float
    """A quarter of the rounds is below."""
    high: float
    """A quarter of the rounds is above."""


@dataclass(frozen=True)
class Figure:
    """One number that we claim."""

    key: str
    value: float
    unit: str
    """``ratio``, ``s``, ``bytes``, ..."""
    goal: float | None = None
    """None: told, not judged."""
    better: str = "lower"
    """``lower`` or ``higher`` than the goal is met."""
    peers: Mapping[str, float] = field(default_factory=dict[str, float])
    """The same quantity of what others use, measured in the same rounds."""
    spread: tuple[float, float] | None = None
    """Middle half of the rounds."""
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the goal is met; a figure without a goal always is."""
        if self.goal is None:
            return True
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal


@dataclass(frozen=True)
class Result:
    """What a benchmark found."""

    name: str
    figures: Sequence[Figure]
    packages: Sequence[str] = ()
    """Distributions whose versions matter to it."""

    @property
    def met(self) -> bool:
        """Whether all goals are met."""
        return all(figure.met for figure in self.figures)


def interleave(
    arms: Mapping[str, Callable[[], float]], *, rounds: int, warm_up: int = 1, seconds: float = math.inf
) -> dict[str, list[float]]:
    """Run every arm once per round, and turn the order around each time.

    A machine that slows down or speeds up in between then hits all arms alike.

    Args:
        arms: by name, what runs once and returns its cost.
        rounds: at least `LEAST_ROUNDS`.
        warm_up: rounds that are run before and not counted.
        seconds: begin no further round after this time, once there are `LEAST_ROUNDS`.

    Returns:
        Costs by arm, in the order of the rounds.

    Raises:
        ValueError: too few rounds to say anything.
    """
    if rounds < LEAST_ROUNDS:
        raise ValueError(f"{rounds} rounds: at least {LEAST_ROUNDS} are needed")
    costs: dict[str, list[float]] = {name: [] for name in arms}
    end = time.monotonic() + seconds
    for number in range(-warm_up, rounds):
        if number >= LEAST_ROUNDS and time.monotonic() > end:
            break
        names = list(arms)
        for name in names if number % 2 else reversed(names):
            cost = arms[name]()
            if number >= 0:
                costs[name].append(cost)
    return costs


def ratio(ones: Sequence[float], others: Sequence[float]) -> Ratio:
    """Compare two arms round by round.

    >>> ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]).median
    2.0
    """
    values = [one / other for one, other in zip(ones, others, strict=True)]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Ratio(median, low, high)


def machine() -> dict[str, object]:
    """Describe this machine, as far as it matters to a reader of the figures."""
    model = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            model = next((line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")), "")
    except OSError:
        pass  # not Linux: the architecture says enough
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": model or platform.processor(),
        "arch": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "load": os.getloadavg()[0],
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Name the versions of what was measured; a package that is absent is left out."""
    found = {"python": platform.python_version(), "slipway": __version__}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def as_json(result: Result) -> str:
    """Write the one JSON object of a benchmark."""
    figures: dict[str, object] = {}
    for figure in result.figures:
        figures[figure.key] = {
            "value": figure.value,
            "unit": figure.unit,
            "goal": figure.goal,
            "met": figure.met,
            "peers": dict(figure.peers),
            "better": figure.better,
            "spread": figure.spread,
        }
    record = {
        "name": result.name,
        "machine": machine(),
        "versions": versions(result.packages),
        "figures": figures,
    }
    return json.dumps(record, indent=1)


def as_table(result: Result) -> str:
    """Write a table for people."""
    head = ("figure", "value", "middle half", "goal", "met", "peers")
    rows: list[tuple[str, ...]] = [head]
    for figure in result.figures:
        sign = "<=" if figure.better == "lower" else ">="
        rows.append(
            (
                figure.key,
                number(figure.value, figure.unit),
                " to ".join(number(edge, "") for edge in figure.spread) if figure.spread else "",
                f"{sign} {number(figure.goal, '')}" if figure.goal is not None else "",
                "" if figure.goal is None else "yes" if figure.met else "NO",
                ", ".join(f"{name} {number(value, '')}" for name, value in figure.peers.items()),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    facts = machine()
    lines.insert(0, f"{result.name}: {facts['cpus']} CPUs, {facts['cpu']}, load {facts['load']:.1f}")
    lines += [f"  {figure.key}: {figure.note}" for figure in result.figures if figure.note]
    return "\n".join(lines)


def number(value: float, unit: str) -> str:
    """Write a number of a table.

    >>> number(1.00512, "ratio"), number(9961472, "bytes"), number(0.0034, "s")
    ('1.005', '9,961,472 bytes', '0.0034 s')
    """
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text if unit in ("", "ratio") else f"{text} {unit}"
