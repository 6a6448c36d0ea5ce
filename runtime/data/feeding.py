"""Does the data keep up with the device? If not: what exactly to change."""

import math
from dataclasses import dataclass

SETTLED = 10
"""Batches before anything is judged: workers start, caches fill, kernels are compiled."""
LEAST_BATCHES = 20
LEAST_S = 10.0
"""Judged together: as long and as many, whichever comes later."""
STARVED_SHARE = 0.1
MOST_WORKERS = 32
"""More loader processes than this per rank are not advised: formats and storage decide by then."""
CPU_BOUND = 0.5
"""Share of a worker's time that is spent on a CPU, from which on more storage would not help."""


@dataclass(frozen=True)
class Feeding:
    """What is known of one channel's loader."""

    channel: str
    workers: int
    cpus: int
    """For this rank."""
    batch_size: int


class Watch:
    """Adds up what batches cost, and speaks once."""

    def __init__(self, feeding: Feeding) -> None:
        """Begin with nothing."""
        self._feeding = feeding
        self._seen = 0
        self._waited = self._used = self._made = self._cpu = 0.0
        self._batches = 0
        self._spoken = False

    def add(self, *, waited_s: float, used_s: float, made_s: float, cpu_s: float) -> str:
        """Take one batch.

        Args:
            waited_s: until it was there, once it was wanted.
            used_s: from then until the next one was wanted: the device's part.
            made_s: that its making took, in a worker or here.
            cpu_s: of them, on a CPU.

        Returns:
            A warning with the change to make, once; else an empty text.
        """
        self._seen += 1
        if self._spoken or self._seen <= SETTLED:
            return ""
        self._waited += waited_s
        self._used += used_s
        self._made += made_s
        self._cpu += cpu_s
        self._batches += 1
        total = self._waited + self._used
        if self._batches < LEAST_BATCHES or total < LEAST_S:
            return ""
        share = self._waited / total
        if share < STARVED_SHARE:
            self._waited = self._used = self._made = self._cpu = 0.0  # the next stretch is judged by itself
            self._batches = 0
            return ""
        self._spoken = True
        told = f"channel {self._feeding.channel!r}: the device waits {share:.0%} of the time for data; "
        return told + self._change()

    def _change(self) -> str:
        feeding = self._feeding
        made, cpu, used = (value / self._batches for value in (self._made, self._cpu, self._used))
        per_sample = (
            f"{1000 * made / feeding.batch_size:.2f} ms a sample, {1000 * cpu / feeding.batch_size:.2f} on a CPU"
        )
        if cpu >= CPU_BOUND * made:
            need = math.ceil(cpu / max(used, 1e-6))
            if need > max(feeding.workers, 1) and feeding.workers < feeding.cpus:
                workers = min(need, feeding.cpus, MOST_WORKERS)
                short = (
                    "" if need <= feeding.cpus else f"; to keep up it would take {min(need, 1000)} CPUs for each rank"
                )
                return f"decoding takes {per_sample}: pass workers={workers} to run.data (now {feeding.workers}){short}"
            return (
                f"decoding takes {per_sample}, and {feeding.cpus} CPUs for each rank do not do more: store smaller "
                f"images (slipway convert --short-edge), do less in transform=, or take an instance with more CPUs"
            )
        need = min(MOST_WORKERS, max(math.ceil(made / max(used, 1e-6)), feeding.workers + 1))
        if feeding.workers >= MOST_WORKERS:
            return f"storage is slow ({per_sample}): {_STORAGE}"
        return (
            f"storage is slow ({per_sample}): pass workers={need} to run.data (now {feeding.workers}), so that more "
            f"requests are under way; {_STORAGE}"
        )


_STORAGE = "files or shards of 100 to 200 MB (slipway convert) and input mode File read faster than many small ones"
