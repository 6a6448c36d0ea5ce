"""The order of samples and its division: properties over many sizes, worlds and last batches."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.data.order import (
    SMALL,
    BatchSlice,
    Chosen,
    Division,
    Identity,
    Last,
    Mixed,
    Nearby,
    Permutation,
    global_order,
    num_batches,
    shares,
    slice_batch,
    slice_batches,
)

WORLDS = [(1, 1), (1, 4), (3, 1), (4, 2), (5, 3), (2, 8), (8, 5)]
SIZES = [1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 64, 100]


def epoch(size: int, batch_size: int, ranks: int, last: Last) -> list[list[BatchSlice]]:
    """All slices of an epoch: one list per batch, by rank."""
    order = global_order(size, digest="d", seed=1, epoch=0, shuffle=True)
    divisions = [Division(batch_size, rank, ranks, last) for rank in range(ranks)]
    counts = {num_batches(size, division) for division in divisions}
    assert len(counts) == 1, "ranks disagree on the number of batches"
    step = batch_size * ranks
    return [[slice_batch(order, n * step, division) for division in divisions] for n in range(counts.pop())]


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
        assert sorted(order.take(0, size).tolist()) == list(range(size))


def test_digest_seed_and_epoch_each_change_the_order_and_nothing_else_does() -> None:
    def order(digest: str = "d", seed: int = 0, number: int = 0) -> list[int]:
        return global_order(50, digest=digest, seed=seed, epoch=number, shuffle=True).take(0, 50).tolist()

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
    assert order.take(0, 10).tolist() == FIXED
    large = global_order(10_000_019, digest="d", seed=0, epoch=0, shuffle=True)
    assert large.take(10_000_009, 10_000_019).tolist() == FIXED_LARGE
    assert large.take(0, 1).dtype == order.take(0, 1).dtype == np.int64
    mixed = Mixed((3, 5), (2, 1), length=12, key="k", shuffle=True)
    assert mixed.take(0, 12).tolist() == FIXED_MIXED


FIXED = [8, 0, 4, 9, 7, 3, 6, 5, 1, 2]
FIXED_LARGE = [7690975, 5957193, 4900443, 4486457, 1675095, 8674085, 8429363, 106149, 5569130, 8697390]
FIXED_MIXED = [2, 4, 0, 1, 7, 2, 5, 3, 0, 1, 1, 2]


def test_without_shuffle_the_index_is_the_order_in_every_epoch() -> None:
    for number in (0, 5):
        assert global_order(4, digest="d", seed=9, epoch=number, shuffle=False).take(0, 9).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("last", ["short", "pad"])
def test_a_batch_beyond_the_end_is_padding_only(last: Last) -> None:
    """Another host of a sharded channel has more files: this one repeats, and nothing of it counts."""
    order = global_order(5, digest="d", seed=0, epoch=0, shuffle=True)
    for rank in (0, 1):
        part = slice_batch(order, 72, Division(4, rank, 2, last))
        assert part.indices
        assert part.padding == len(part.indices)


def test_more_ranks_than_samples_still_give_every_rank_a_batch() -> None:
    parts = [slice_batch(Identity(3), 0, Division(4, rank, 8)) for rank in range(8)]
    assert [len(part.indices) - part.padding for part in parts] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert all(len(part.indices) == 1 for part in parts)


@given(st.integers(SMALL + 1, 10**12), st.text(max_size=5), st.data())
@settings(max_examples=50, deadline=None)
def test_a_long_order_meets_nothing_twice_and_stays_inside(size: int, key: str, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, size - 1))
    found = Permutation(size, key).take(begin, begin + 3000)
    assert len(found) == min(3000, size - begin)
    assert len(np.unique(found)) == len(found)
    assert found.min() >= 0
    assert found.max() < size


@pytest.mark.parametrize("size", [SMALL + 1, (1 << 17) - 1, 1 << 17, (1 << 17) + 1, 200_003])
def test_a_long_order_is_a_permutation_however_it_is_cut(size: int) -> None:
    order = Permutation(size, "k")
    whole = order.take(0, size)
    assert np.array_equal(np.sort(whole), np.arange(size))
    cut = np.concatenate([order.take(at, at + 777) for at in range(0, size, 777)])
    assert np.array_equal(whole, cut)


@pytest.mark.parametrize("size", [6, SMALL + 5])
def test_orders_of_many_keys_are_spread_like_chance(size: int) -> None:
    """Where the first samples go, over many epochs: chi-square far from what a bias of a few per cent would give."""
    bins = 6
    hits = np.zeros(bins)
    for number in range(600):
        hits += np.bincount(Permutation(size, f"k/{number}").take(0, 5) * bins // size, minlength=bins)
    expected = hits.sum() / bins
    assert ((hits - expected) ** 2 / expected).sum() < 30, hits  # 5 degrees of freedom: p is 1e-5


def test_neighbours_of_a_long_order_are_far_apart() -> None:
    """A shuffle that keeps runs of the index together would teach a model the index."""
    found = Permutation(1_000_000, "k").take(0, 100_000)
    gaps = np.abs(np.diff(found))
    assert abs(float(np.median(gaps)) / 1_000_000 - 0.2929) < 0.01  # of two uniform numbers: 1 - sqrt(1/2)
    assert int((gaps == 1).sum()) < 10


def test_a_long_order_costs_no_memory_and_no_time_to_enter_anywhere() -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        order = Permutation(10**11, "k")
        assert len(order.take(9 * 10**10, 9 * 10**10 + 512)) == 512
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_chosen_samples_are_spread_over_the_index_and_ordered() -> None:
    order = Chosen(Permutation(10, "k"), 1000)
    assert sorted(order.take(0, 10).tolist()) == list(range(0, 1000, 100))


def test_a_mix_has_its_shares_and_goes_through_each_set_before_it_repeats() -> None:
    mixed = Mixed((100, 50, 7), (5, 4, 1), length=10_000, key="k", shuffle=True)
    found = mixed.take(0, 10_000)
    for low, high, share in ((0, 100, 0.5), (100, 150, 0.4), (150, 157, 0.1)):
        mine = found[(found >= low) & (found < high)]
        assert len(mine) == share * 10_000
        for turn in range(len(mine) // (high - low)):
            assert sorted(mine[turn * (high - low) : (turn + 1) * (high - low)].tolist()) == list(range(low, high))
    assert np.array_equal(found[1234:5678], mixed.take(1234, 5678))
    assert not np.array_equal(
        found, Mixed((100, 50, 7), (5, 4, 1), length=10_000, key="l", shuffle=True).take(0, 10_000)
    )


def test_shares_add_up_and_leave_nobody_out() -> None:
    for weights in [(1.0,), (1, 1, 1), (1e-9, 1), (3, 5, 7, 11), tuple(range(1, 60))]:
        counts = shares(tuple(map(float, weights)), 1000)
        assert int(counts.sum()) == 1000
        assert int(counts.min()) >= 1


@given(
    st.integers(1, 400),
    st.sampled_from(["short", "pad", "drop"]),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(0, 8)), min_size=1, max_size=5),
    st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_any_chain_of_worlds_and_batches_reads_every_sample_once(
    size: int, last: Last, lives: list[tuple[int, int, int]], shuffle: bool
) -> None:
    """Each life has its own (batch size, ranks), gives some batches and is killed; the last one ends the epoch."""
    order = global_order(size, digest="d", seed=3, epoch=1, shuffle=shuffle)
    seen: Counter[int] = Counter()
    position = 0
    for number, (batch_size, ranks, batches) in enumerate(lives):
        divisions = [Division(batch_size, rank, ranks, last) for rank in range(ranks)]
        step = batch_size * ranks
        left = num_batches(size - position, divisions[0])
        for _ in range(left if number == len(lives) - 1 else min(left, batches)):
            parts = [slice_batch(order, position, division) for division in divisions]
            assert all(part.indices for part in parts)
            seen.update(i for part in parts for i in real(part))
            position += step
    dropped = size - len(seen)
    assert set(seen.values()) <= {1}
    assert dropped == 0 if last != "drop" else dropped < lives[-1][0] * lives[-1][1] * 2
    if last == "drop":
        assert dropped == max(0, size - position)


@given(
    st.integers(1, 20_000), st.integers(1, 300), st.integers(1, 8), st.sampled_from(["short", "pad", "drop"]), st.data()
)
@settings(max_examples=60, deadline=None)
def test_batches_cut_together_are_those_cut_one_by_one(
    size: int, batch_size: int, ranks: int, last: Last, data: st.DataObject
) -> None:
    order = global_order(size, digest="d", seed=1, epoch=0, shuffle=True)
    begin = data.draw(st.integers(0, size))
    division = Division(batch_size, data.draw(st.integers(0, ranks - 1)), ranks, last)
    count = num_batches(size - begin, division) + 1
    one_by_one = [slice_batch(order, begin + n * division.global_batch, division) for n in range(count)]
    assert list(slice_batches(order, begin, count, division)) == one_by_one


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 9), st.text(max_size=4))
@settings(max_examples=150, deadline=None)
def test_a_near_shuffle_is_a_permutation_that_stays_within_its_windows(sizes: list[int], window: int, key: str) -> None:
    starts = np.cumsum([0, *sizes])
    order = Nearby(starts, window, key)
    found = order.take(0, len(order))
    assert sorted(found.tolist()) == list(range(int(starts[-1])))
    assert found.tolist() == [int(order.take(at, at + 1)[0]) for at in range(len(order))]
    blocks = np.searchsorted(starts, found, side="right") - 1
    seen: set[int] = set()
    while len(blocks):
        size, now = 0, set[int]()
        for block in dict.fromkeys(blocks.tolist()):
            now.add(block)
            size += sizes[block]
            if len(now) == window:
                break
        assert set(blocks[:size].tolist()) == now, "a window holds its blocks and nothing else"
        assert not now & seen
        seen |= now
        blocks = blocks[size:]
