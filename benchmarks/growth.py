"""What the launchers' side channel costs as a job grows: CPU, memory, and the time until all have noticed a fault.

Jobs of all sizes run on the machine at once, so that what it does to one it does to all. Jobs of one host have no side
channel: what their launchers cost is taken off.
"""

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import environments
from benchmarks.crowd import Crowd, Member
from benchmarks.environments import Environment
from benchmarks.measure import Figure, Ratio, ratio
from benchmarks.trees import memory, run_s, wait_until

SIZES = (2, 8, 24, 64)
SMALLEST, LARGEST = SIZES[0], SIZES[-1]
CPU_GOAL = 2.0
NOTICE_GOAL = 1.3
RSS_GOAL = 16e6
SLICES = 6
SILENCE_S = 2.0
SETTLED_S = 3.0
"""After the last rank's start: everything of the launch is over by then."""
NOTICE_ROUNDS = 5


def cost(root: Path, ours: Environment, *, quick: bool) -> list[Figure]:
    """Measure CPU and memory in the steady state.

    Args:
        root: an empty directory.
        ours: with our `train`.
        quick: the smallest and the largest size, for a shorter time.
    """
    sizes = [64, *[2] * 8, *[1] * 8] if quick else [64, 24, 8, 8, *[2] * 8, *[1] * 8]
    crowd = Crowd(root / "cost", ours, sizes, {})
    try:
        time.sleep(SETTLED_S)
        slices = [_slice(crowd, 3.0 if quick else 20.0) for _ in range(SLICES)]
        resident = {size: max(memory(m.pid)[0] for m in _of(crowd, size)) for size in set(sizes)}
    finally:
        crowd.close()
    alone = [each[1] for each in slices]
    extra = {size: [each[size] - one for each, one in zip(slices, alone, strict=True)] for size in set(sizes) - {1}}
    grown = ratio(extra[LARGEST], extra[SMALLEST])
    told = ", ".join(f"{size}: {statistics.median(each[size] for each in slices):.1f}" for size in sorted(set(sizes)))
    held = ", ".join(f"{size}: {resident[size] / 1e6:.1f} MB" for size in sorted(resident))
    return [
        Figure(
            "growth_cpu_64_over_2",
            grown.median,
            "ratio",
            CPU_GOAL,
            spread=(grown.low, grown.high),
            note=f"whole launcher by hosts of its job, ms of CPU per minute: {told}; on {os.cpu_count()} CPUs at once",
        ),
        Figure("growth_rss_64_bytes", float(resident[LARGEST]), "bytes", RSS_GOAL, note=f"largest: {held}"),
    ]


def _of(crowd: Crowd, size: int) -> list[Member]:
    return [member for job in crowd.jobs if len(job) == size for member in job]


def _slice(crowd: Crowd, seconds: float) -> dict[int, float]:
    """Return milliseconds of CPU per minute and launcher, by the size of the job."""
    before = {member.pid: run_s(member.pid) for member in crowd.members}
    began = time.monotonic()
    time.sleep(seconds)
    used = {member.pid: run_s(member.pid) - before[member.pid] for member in crowd.members}
    minutes = (time.monotonic() - began) / 60
    sizes = {len(job) for job in crowd.jobs}
    return {size: statistics.mean(used[m.pid] for m in _of(crowd, size)) * 1e3 / minutes for size in sizes}


class _Noticed:
    """Seconds until the last of the others had a line that names the victim, by kind of fault and size of job."""

    def __init__(self) -> None:
        self.kill: dict[int, list[float]] = {}
        self.freeze: dict[int, list[float]] = {}

    def ratio(self, of: dict[int, list[float]]) -> Ratio:
        """Compare the largest with the smallest job."""
        return ratio(of[LARGEST], of[SMALLEST])

    def told(self, of: dict[int, list[float]]) -> str:
        """Tell the medians."""
        return ", ".join(f"{size}: {statistics.median(values):.4g} s" for size, values in sorted(of.items()))


def notice(root: Path, ours: Environment) -> list[Figure]:
    """Measure how long a killed and a frozen launcher of the middle host remain unnoticed."""
    seen = _Noticed()
    for number in range(NOTICE_ROUNDS):
        sizes = SIZES if number % 2 else SIZES[::-1]
        for name, fault, kept in (("kill", signal.SIGKILL, seen.kill), ("freeze", signal.SIGSTOP, seen.freeze)):
            crowd = Crowd(root / f"{name}-{number}", ours, sizes, {"slipway_silence_s": f"{SILENCE_S:g}"})
            try:
                time.sleep(SETTLED_S)
                for job in crowd.jobs:
                    kept.setdefault(len(job), []).append(_until_noticed(job, fault))
            finally:
                crowd.close()
    silent, loud = seen.ratio(seen.freeze), seen.ratio(seen.kill)
    return [
        Figure(
            "growth_notice_frozen_64_over_2",
            silent.median,
            "ratio",
            NOTICE_GOAL,
            spread=(silent.low, silent.high),
            note=f"limit {SILENCE_S:g} s; until the last host has noticed, by hosts: {seen.told(seen.freeze)}",
        ),
        Figure(
            "growth_notice_killed_64_s",
            statistics.median(seen.kill[LARGEST]),
            "s",
            spread=(min(seen.kill[LARGEST]), max(seen.kill[LARGEST])),
            note=f"{loud.median:.3g} times that of 2, because 63 launchers share {os.cpu_count()} CPUs and hear it at "
            f"one instant, each by its own connection: {seen.told(seen.kill)}",
        ),
    ]


def _until_noticed(job: Sequence[Member], fault: signal.Signals) -> float:
    victim = job[len(job) // 2]
    others = [member for member in job if member is not victim]
    words = f"host {victim.host} "
    began = time.monotonic()
    os.kill(victim.pid, fault)

    def when(member: Member) -> float | None:
        return member.first(words, began)

    wait_until(lambda: all(when(member) is not None for member in others), f"{words}in the log of all others")
    # Their end costs CPU that the next job would miss.
    wait_until(lambda: all(member.process.poll() is not None for member in others), "the end of all others")
    return max(when(member) or began for member in others) - began


def figures(*, quick: bool) -> list[Figure]:
    """Measure CPU and memory at 2 and 64 hosts (quick), at all sizes, and the time to notice too (full)."""
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as name:
        root = Path(name)
        ours = environments.ours(root / "env")
        found = cost(root, ours, quick=quick)
        return found if quick else [*found, *notice(root, ours)]
