"""The order of samples and its division: properties over many sizes, worlds and last batches."""

import itertools
from collections import Counter

import numpy as np
import pytest

from runtime.data.order import BatchSlice, Division, Last, global_order, num_batches, slice_batch

WORLDS = [(1, 1), (1, 4), (3, 1), (4, 2), (5, 3), (2, 8), (8, 5)]
SIZES = [1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 64, 100]


def epoch(size: int, batch_size: int, ranks: int, last: Last) -> list[list[BatchSlice]]:
    """All slices of an epoch: one list per batch, by rank."""
    order = global_order(size, digest="d", seed=1, epoch=0, shuffle=True)
    divisions = [Division(batch_size, rank, ranks, last) for rank in range(ranks)]
    counts = {num_batches(size, division) for division in divisions}
    assert len(counts) == 1, "ranks disagree on the number of batches"
    return [[slice_batch(order, number, division) for division in divisions] for number in range(counts.pop())]


def real(part: BatchSlice) -> tuple[int, ...]:
    return part.indices[: len(part.indices) - part.padding]


@pytest.mark.parametrize(("batch_size", "ranks"), WORLDS)
@pytest.mark.parametrize("last", ["short", "pad"])
def test_every_sample_counts_exactly_once_per_epoch(batch_size: int, ranks: int, last: Last) -> None:
    for size in SIZES:
        seen = Counter(i for batch in epoch(size, batch_size, ranks, last) for part in batch for i in real(part))
        assert seen == Counter(range(size)), f"size {size}"


@pytest.mark.parametrize(("batch_size", "ranks"), WORLDS)
def test_drop_leaves_out_less_than_one_global_batch_and_repeats_nothing(batch_size: int, ranks: int) -> None:
    for size in SIZES:
        seen = Counter(i for batch in epoch(size, batch_size, ranks, "drop") for part in batch for i in part.indices)
        assert set(seen.values()) <= {1}
        assert len(seen) == size // (batch_size * ranks) * batch_size * ranks


@pytest.mark.parametrize(("batch_size", "ranks"), WORLDS)
@pytest.mark.parametrize("last", ["short", "pad", "drop"])
def test_every_slice_has_samples_and_never_more_than_asked(batch_size: int, ranks: int, last: Last) -> None:
    for size in SIZES:
        for batch in epoch(size, batch_size, ranks, last):
            for part in batch:
                assert 1 <= len(part.indices) <= batch_size
                assert 0 <= part.padding <= len(part.indices)
                assert all(0 <= i < size for i in part.indices)
                if last != "short":
                    assert len(part.indices) == batch_size


@pytest.mark.parametrize(("batch_size", "ranks"), WORLDS)
def test_a_short_last_batch_is_divided_evenly(batch_size: int, ranks: int) -> None:
    for size in SIZES:
        final = epoch(size, batch_size, ranks, "short")[-1]
        counts = [len(real(part)) for part in final]
        assert max(counts) - min(counts) <= 1, f"size {size}: {counts}"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("last", ["short", "pad", "drop"])
def test_the_same_global_batches_at_any_world_of_equal_global_batch(size: int, last: Last) -> None:
    def batches(batch_size: int, ranks: int) -> list[Counter[int]]:
        return [Counter(i for part in batch for i in real(part)) for batch in epoch(size, batch_size, ranks, last)]

    first, *others = [batches(12 // ranks, ranks) for ranks in (1, 2, 3, 4, 6, 12)]
    assert all(other == first for other in others)


def test_the_order_of_a_full_global_batch_is_the_same_too() -> None:
    def flat(batch_size: int, ranks: int) -> list[int]:
        return [i for batch in epoch(96, batch_size, ranks, "short") for part in batch for i in part.indices]

    assert flat(12, 1) == flat(4, 3) == flat(1, 12)


def test_every_order_is_a_permutation() -> None:
    for size, seed, number in itertools.product([1, 2, 17, 1000], [0, 7], [0, 1]):
        order = global_order(size, digest="d", seed=seed, epoch=number, shuffle=True)
        assert sorted(order.tolist()) == list(range(size))


def test_digest_seed_and_epoch_each_change_the_order_and_nothing_else_does() -> None:
    def order(digest: str = "d", seed: int = 0, number: int = 0) -> list[int]:
        return global_order(50, digest=digest, seed=seed, epoch=number, shuffle=True).tolist()

    np.random.seed(1)
    first = order()
    np.random.seed(2)
    assert order() == first
    assert len({tuple(order()), tuple(order("e")), tuple(order(seed=1)), tuple(order(number=1))}) == 4
    # digest/seed/epoch are joined with a separator: 1 and 11 must not meet 11 and 1.
    assert order(seed=1, number=11) != order(seed=11, number=1)


def test_the_order_is_fixed_for_ever() -> None:
    """A checkpoint's position means this order: another NumPy or another Slipway must give the same."""
    order = global_order(10, digest="d", seed=0, epoch=0, shuffle=True)
    assert order.tolist() == FIXED
    assert order.dtype == np.int64


FIXED = [8, 9, 7, 5, 2, 3, 6, 1, 4, 0]


def test_without_shuffle_the_index_is_the_order_in_every_epoch() -> None:
    for number in (0, 5):
        assert global_order(4, digest="d", seed=9, epoch=number, shuffle=False).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("last", ["short", "pad"])
def test_a_batch_beyond_the_end_is_padding_only(last: Last) -> None:
    """Another host of a sharded channel has more files: this one repeats, and nothing of it counts."""
    order = global_order(5, digest="d", seed=0, epoch=0, shuffle=True)
    for rank in (0, 1):
        part = slice_batch(order, 9, Division(4, rank, 2, last))
        assert part.indices
        assert part.padding == len(part.indices)


def test_more_ranks_than_samples_still_give_every_rank_a_batch() -> None:
    parts = [slice_batch(np.arange(3), 0, Division(4, rank, 8)) for rank in range(8)]
    assert [len(part.indices) - part.padding for part in parts] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert all(len(part.indices) == 1 for part in parts)
