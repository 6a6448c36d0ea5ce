"""The order of samples as a pure function, and its division over ranks.

``(digest, seed, epoch) -> global order``; ranks only slice it. So the same global batches come in the same sequence at
any world size with an equal global batch, and a position is one number of samples, the same on every rank: it means
the same to another world, another number of workers and another batch size.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Last = Literal["short", "pad", "drop"]
Positions = npt.NDArray[np.int64]

ORDER_FORMAT = 2
"""Of the function itself: what position p means. Format 1 was NumPy's own permutation, as an array."""

SMALL = 1 << 16
"""Up to here an order is a sorted array, a permutation like any other; beyond, a Feistel network over its numbers."""
_ROUNDS = 8
_TOGETHER = 4096


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

    begin: int
    """Position of the global batch in the epoch: samples before it."""
    indices: tuple[int, ...]
    padding: int
    """How many of the last `indices` are repeats, to be kept out of counts and metrics."""


class Order:
    """Positions of an epoch to indices of samples."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        """Count the samples of an epoch."""
        return self._size

    def at(self, positions: Positions) -> Positions:
        """Return the indices at some positions, each in [0, len)."""
        raise NotImplementedError

    def take(self, begin: int, end: int) -> Positions:
        """Return the indices at positions [begin, end), as far as there are any."""
        return self.at(np.arange(begin, min(end, self._size), dtype=np.int64))


class Identity(Order):
    """The order of the index itself."""

    def at(self, positions: Positions) -> Positions:
        """Return the positions themselves."""
        return positions


class Permutation(Order):
    """A permutation of ``range(size)`` chosen by a key, in a few hundred bytes however long it is.

    Beyond `SMALL`, an unbalanced Feistel network permutes the numbers of ``(size - 1).bit_length()`` bits, and numbers
    outside of the range walk on until they are inside: fewer than two steps on average.
    """

    def __init__(self, size: int, key: str) -> None:
        """Choose it.

        Args:
            size: at least 0.
            key: any text; another key is another permutation.
        """
        super().__init__(size)
        self._small: Positions | None = None
        digest = hashlib.shake_256(key.encode()).digest(8 * _ROUNDS)
        self._keys = np.frombuffer(digest, "<u8").astype(np.uint64)
        if size <= SMALL:
            hashed = _mix(np.arange(size, dtype=np.uint64), self._keys[:1])
            self._small = np.argsort(_mix(hashed, self._keys[1:2]), kind="stable").astype(np.int64)
        bits = max(2, (size - 1).bit_length())
        self._low_bits = np.uint64(bits - bits // 2)
        self._low = np.uint64((1 << (bits - bits // 2)) - 1)
        self._high = np.uint64((1 << (bits // 2)) - 1)

    def at(self, positions: Positions) -> Positions:
        """Return the indices at some positions."""
        if self._small is not None:
            return self._small[positions]
        found = self._network(positions.astype(np.uint64))
        outside = np.flatnonzero(found >= self._size)
        while outside.size:
            found[outside] = self._network(found[outside])
            outside = outside[found[outside] >= self._size]
        return found.astype(np.int64)

    def _network(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        high, low = numbers >> self._low_bits, numbers & self._low
        for number in range(0, _ROUNDS, 2):
            high = high ^ (_mix(low, self._keys[number : number + 1]) & self._high)
            low = low ^ (_mix(high, self._keys[number + 1 : number + 2]) & self._low)
        return high << self._low_bits | low


class Nearby(Order):
    """A shuffle for data whose neighbours are read together: row groups of Parquet, stretches of a mounted shard.

    The blocks are permuted; so are all samples within each window of some blocks that then follow one another. A rank
    touches a window's blocks only, and comes back to none of them.
    """

    def __init__(self, starts: Positions, window: int, key: str) -> None:
        """Choose it.

        Args:
            starts: index of the first sample of each block, and the number of samples; [blocks + 1], ascending.
            window: blocks, at least 1.
            key: any text.
        """
        super().__init__(int(starts[-1]))
        self._key = key
        blocks = len(starts) - 1
        chosen = Permutation(blocks, f"{key}/blocks").take(0, blocks)
        self._firsts = starts[chosen]
        self._ends = np.cumsum((starts[1:] - starts[:-1])[chosen])
        self._borders = np.concatenate(([0], self._ends[window - 1 : -1 : window], self._ends[-1:]))
        self._windows: dict[int, Permutation] = {}

    def at(self, positions: Positions) -> Positions:
        """Return the indices at some positions."""
        within = np.empty(len(positions), np.int64)
        numbers = np.searchsorted(self._borders, positions, side="right") - 1
        for number in np.unique(numbers).tolist():
            there = np.flatnonzero(numbers == number)
            begin = self._borders[number]
            within[there] = begin + self._window(number).at(positions[there] - begin)
        blocks = np.searchsorted(self._ends, within, side="right")
        before = np.where(blocks > 0, self._ends[blocks - 1], 0)
        return self._firsts[blocks] + within - before

    def _window(self, number: int) -> Permutation:
        known = self._windows.get(number)
        if known is None:
            if len(self._windows) > 4:
                self._windows.clear()
            size = int(self._borders[number + 1] - self._borders[number])
            known = self._windows[number] = Permutation(size, f"{self._key}/{number}")
        return known


class Chosen(Order):
    """An order of some of the samples, spread evenly over the index so that a few of label folders have every label."""

    def __init__(self, order: Order, total: int) -> None:
        """Order `len(order)` of `total` samples."""
        super().__init__(len(order))
        self._order = order
        self._total = total

    def at(self, positions: Positions) -> Positions:
        """Return the indices at some positions."""
        return self._order.at(positions) * self._total // self._size


class Mixed(Order):
    """Several sets of samples, one after another in the index, mixed by weight.

    In every period of `PERIOD` positions each set has its share to the sample, at places that the key chooses; within
    a set, samples come in the set's own order, epoch after epoch of it.
    """

    PERIOD = 1000

    def __init__(
        self, sizes: tuple[int, ...], weights: tuple[float, ...], *, length: int, key: str, shuffle: bool
    ) -> None:
        """Mix them.

        Args:
            sizes: samples of each set, at least 1.
            weights: positive; what counts is their ratio, to a thousandth.
            length: samples of an epoch.
            key: of the order.
            shuffle: False: each set in the order of its index.
        """
        super().__init__(length)
        self._sizes = sizes
        self._key = key
        self._shuffle = shuffle
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._counts = shares(weights, self.PERIOD)
        slots = np.repeat(np.arange(len(sizes)), self._counts)
        self._slots = slots[Permutation(self.PERIOD, f"{key}/slots").take(0, self.PERIOD)]
        self._before = np.empty(self.PERIOD, np.int64)
        for number in range(len(sizes)):
            mine = self._slots == number
            self._before[mine] = np.arange(int(mine.sum()))
        self._orders: dict[tuple[int, int], Permutation] = {}

    def at(self, positions: Positions) -> Positions:
        """Return the indices at some positions."""
        periods, places = np.divmod(positions, self.PERIOD)
        sets = self._slots[places]
        numbers = periods * self._counts[sets] + self._before[places]
        found = np.empty(len(positions), np.int64)
        for number, size in enumerate(self._sizes):
            mine = np.flatnonzero(sets == number)
            rounds, within = np.divmod(numbers[mine], size)
            for turn in np.unique(rounds).tolist():
                there = rounds == turn
                picked = within[there]
                if self._shuffle:
                    picked = self._order(number, turn, size).at(picked)
                found[mine[there]] = picked + self._starts[number]
        return found

    def _order(self, number: int, turn: int, size: int) -> Permutation:
        known = self._orders.get((number, turn))
        if known is None:
            for old in [at for at in self._orders if at[0] == number and at[1] < turn - 1]:
                del self._orders[old]
            known = self._orders[number, turn] = Permutation(size, f"{self._key}/{number}/{turn}")
        return known


def shares(weights: tuple[float, ...], slots: int) -> Positions:
    """Divide slots by weight, to the nearest whole number; every weight has at least one.

    >>> shares((2.0, 1.0), 1000).tolist()
    [667, 333]
    """
    exact = np.array(weights) / sum(weights) * slots
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    # The largest remainders round up; who was lifted to 1 is paid for by the largest.
    while (missing := slots - int(counts.sum())) != 0:
        step = 1 if missing > 0 else -1
        counts[int(np.argmax((exact - counts) * step))] += step
    return counts


def order_key(*, digest: str, seed: int, epoch: int) -> str:
    """Name the order of an epoch."""
    return f"{ORDER_FORMAT}/{digest}/{seed}/{epoch}"


@dataclass(frozen=True)
class Blocks:
    """Samples that are cheap to read together."""

    starts: Positions
    """Index of the first sample of each, and the number of samples; [blocks + 1]."""
    window: int
    """Blocks whose samples are mixed."""


def global_order(
    size: int, *, digest: str, seed: int, epoch: int, shuffle: bool, blocks: Blocks | None = None
) -> Order:
    """Return the order of all samples in this epoch.

    Args:
        size: samples.
        digest: of the index, so that other data gets another order.
        seed: the user's.
        epoch: counted from 0; changes the permutation.
        shuffle: False: the order of the index, in every epoch.
        blocks: shuffle near to them; None: over everything.
    """
    if not shuffle:
        return Identity(size)
    key = order_key(digest=digest, seed=seed, epoch=epoch)
    return Permutation(size, key) if blocks is None else Nearby(blocks.starts, blocks.window, key)


def num_batches(samples: int, division: Division) -> int:
    """Count the batches that so many samples give; the same for every rank."""
    full, rest = divmod(max(0, samples), division.global_batch)
    return full + (1 if rest and division.last != "drop" else 0)


def slice_batch(order: Order, begin: int, division: Division) -> BatchSlice:
    """Cut one rank's part of the global batch that begins at a position; never empty.

    A global batch beyond the end (another host has more files) consists of padding only.
    """
    size = len(order)
    rest = max(0, min(size - begin, division.global_batch))
    if rest == division.global_batch or (division.last == "short" and rest >= division.ranks):
        # Evenly: the first `extra` ranks hold one sample more.
        share, extra = divmod(rest, division.ranks)
        first = begin + division.rank * share + min(division.rank, extra)
        count = share + (1 if division.rank < extra else 0)
        return BatchSlice(begin, tuple(order.take(first, first + count).tolist()), 0)
    width = division.batch_size if division.last == "pad" else 1
    first = begin + division.rank * width
    real = max(0, min(width, size - first))
    repeats = [
        int(order.take(at, at + 1)[0]) for at in ((division.rank * width + i) % size for i in range(width - real))
    ]
    return BatchSlice(begin, (*order.take(first, first + real).tolist(), *repeats), width - real)


def slice_batches(order: Order, begin: int, count: int, division: Division) -> Iterator[BatchSlice]:
    """Cut this rank's part of `count` global batches from position `begin` on."""
    width, step = division.batch_size, division.global_batch
    # A permutation of some thousand positions at once costs a tenth of one of some dozen each time.
    together = max(1, _TOGETHER // width)
    while count > 0:
        full = min(count, together, max(0, len(order) - begin) // step)
        if not full:
            yield slice_batch(order, begin, division)
            begin, count = begin + step, count - 1
            continue
        firsts = begin + division.rank * width + np.arange(full, dtype=np.int64)[:, None] * step
        indices = order.at((firsts + np.arange(width, dtype=np.int64)).reshape(-1)).reshape(full, width).tolist()
        for number, mine in enumerate(indices):
            yield BatchSlice(begin + number * step, tuple(mine), 0)
        begin, count = begin + full * step, count - full


def _mix(numbers: npt.NDArray[np.uint64], key: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Hash 64-bit numbers; the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    mixed = numbers + key
    mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return mixed ^ mixed >> np.uint64(31)
