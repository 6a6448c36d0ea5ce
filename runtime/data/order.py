"""The order of samples as a pure function, and its division over ranks.

``(digest, seed, epoch) -> global order``; ranks only slice it. So the same global batches come in the same sequence at
any world size with an equal global batch, and a position is one number, the same on every rank.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Last = Literal["short", "pad", "drop"]
Order = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Division:
    """How global batches are cut."""

    batch_size: int
    """Samples per rank and step."""
    rank: int
    """In [0, `ranks`)."""
    ranks: int
    """Ranks that share these samples: the world, or one host's ranks when hosts hold different files."""
    last: Last = "short"
    """The last global batch: divided as evenly as possible, padded to full size, or dropped."""
    shards: int = 1
    """Groups of `ranks` that hold different samples: the hosts of a sharded channel, else 1."""

    @property
    def global_batch(self) -> int:
        """Samples per step over `ranks`."""
        return self.batch_size * self.ranks


@dataclass(frozen=True)
class BatchSlice:
    """One rank's part of one global batch."""

    number: int
    """Batch number within the epoch, counted from 0."""
    indices: tuple[int, ...]
    padding: int
    """How many of the last `indices` are repeats, to be kept out of counts and metrics."""


def global_order(size: int, *, digest: str, seed: int, epoch: int, shuffle: bool) -> Order:
    """Return all sample indices in the order of this epoch.

    Args:
        size: samples; the result has this length.
        digest: of the index, so that other data gets another order.
        seed: the user's.
        epoch: counted from 0; changes the permutation.
        shuffle: False: the order of the index, in every epoch.
    """
    if not shuffle:
        return np.arange(size, dtype=np.int64)
    key = hashlib.sha256(f"{digest}/{seed}/{epoch}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "little"))).permutation(size)


def num_batches(size: int, division: Division) -> int:
    """Count the batches of an epoch; the same for every rank."""
    full, rest = divmod(size, division.global_batch)
    return full + (1 if rest and division.last != "drop" else 0)


def slice_batch(order: Order, number: int, division: Division) -> BatchSlice:
    """Cut one rank's part of global batch `number`; never empty.

    A global batch beyond the end (another host has more files) consists of padding only.
    """
    size = len(order)
    begin = number * division.global_batch
    rest = max(0, min(size - begin, division.global_batch))
    if rest == division.global_batch or (division.last == "short" and rest >= division.ranks):
        # Evenly: the first `extra` ranks hold one sample more.
        share, extra = divmod(rest, division.ranks)
        first = begin + division.rank * share + min(division.rank, extra)
        count = share + (1 if division.rank < extra else 0)
        return BatchSlice(number, tuple(order[first : first + count].tolist()), 0)
    width = division.batch_size if division.last == "pad" else 1
    first = begin + division.rank * width
    real = max(0, min(width, size - first))
    repeats = [int(order[(division.rank * width + i) % size]) for i in range(width - real)]
    return BatchSlice(number, (*order[first : first + real].tolist(), *repeats), width - real)
