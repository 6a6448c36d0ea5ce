"""`run.data` in one process: shapes, epochs, positions, bad samples, randomness of transforms."""

import itertools
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from runtime.base.errors import UserError
from runtime.data.loader import Data
from runtime.data.order import Division
from runtime.data.sources import BadSample


class Numbers:
    """Samples whose value is their number; some cannot be read."""

    images = False
    blocks = None
    classes: tuple[str, ...] = ()

    def __init__(self, size: int, bad: frozenset[int] = frozenset(), digest: str = "d") -> None:
        self.digest = digest
        self._size = size
        self._bad = bad

    def __len__(self) -> int:
        return self._size

    def read(self, index: int) -> tuple[Any, Any]:
        if index in self._bad:
            raise BadSample(f"/data/{index}.png is no readable image: broken")
        return np.array([index], dtype=np.float32), np.asarray(index)

    def name(self, index: int) -> str:
        return f"/data/{index}.png"

    def find_damaged(self, share: range) -> str:
        del share
        return ""


class Hooks:
    def __init__(self, steps: int = 10**9) -> None:
        self.phases: list[str] = []
        self.begun = 0
        self._left = steps

    def enter(self, phase: str) -> None:
        self.phases.append(phase)

    def before_first_batch(self) -> None:
        self.begun += 1

    def at_end(self) -> bool:
        return self.phases.count("compute") >= self._left

    def agree(self, channel: str, *mine: Any) -> Any:
        return mine[-1]


def data(size: int = 10, batch_size: int = 4, **options: Any) -> Data:
    source = options.pop("source", None) or Numbers(size)
    last, rank, ranks = options.pop("last", "short"), options.pop("rank", 0), options.pop("ranks", 1)
    values: dict[str, Any] = {
        "name": "train",
        "seed": 0,
        "shuffle": True,
        "workers": 0,
        "on_bad": "raise",
        "transform": None,
        "device": torch.device("cpu"),
        "sample": 0,
        "hooks": Hooks(),
    }
    return Data(source, division=Division(batch_size, rank, ranks, last), **(values | options))


def labels(batches: Any) -> list[list[int]]:
    return [y.tolist() for _, y in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


def test_an_epoch_gives_every_sample_once_and_the_next_one_another_order() -> None:
    one = data()
    first, second = labels(one), labels(one)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(flat(first)) == sorted(flat(second)) == list(range(10))
    assert first != second
    assert one.epoch == 2
    assert len(one) == 3


def test_the_x_of_a_batch_belongs_to_its_y() -> None:
    for x, y in data():
        assert x.shape == (len(y), 1)
        assert x.dtype == torch.float32
        assert x[:, 0].tolist() == y.tolist()


@pytest.mark.parametrize("cut", range(4))
def test_a_position_is_resumed_to_the_batch(cut: int) -> None:
    whole = data()
    expected = labels(whole) + labels(whole)
    begun = data()
    given: list[list[int]] = []
    batches = iter(begun)
    for _ in range(cut):
        given.append(next(batches)[1].tolist())
    state = begun.state_dict()
    resumed = data()
    resumed.load_state_dict(state)
    assert (resumed.epoch, resumed.position) == (0, cut)
    assert given + labels(resumed) + labels(resumed) == expected


def test_an_epoch_that_was_left_goes_on_where_it_was() -> None:
    one = data()
    for _ in one:
        break
    assert (one.epoch, one.position) == (0, 1)
    assert sum(len(batch) for batch in labels(one)) == 6
    assert (one.epoch, one.position) == (1, 0)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"size": 11}, "another number of samples than the checkpoint: 11, was 10"),
        ({"source": Numbers(10, digest="e")}, "another files than the checkpoint"),
        ({"seed": 1}, "another seed than the checkpoint: 1, was 0"),
        ({"shuffle": False}, "another shuffle than the checkpoint"),
    ],
)
def test_a_position_in_other_data_is_refused(other: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        data(**other).load_state_dict(data().state_dict())
    assert "slipway_resume=off" in str(caught.value)


def test_a_position_fits_another_world_of_the_same_global_batch() -> None:
    other = data(batch_size=2, ranks=2, rank=1)
    other.load_state_dict(data().state_dict() | {"consumed": 8})
    assert other.position == 2
    assert len(other) - other.position == 1


def test_a_position_fits_another_global_batch() -> None:
    begun = data(size=23)
    given = [next(batches)[1].tolist() for batches in [iter(begun)] for _ in range(3)]
    other = data(size=23, batch_size=5)
    other.load_state_dict(begun.state_dict())
    assert (len(other), other.position) == (5, 2)
    rest = labels(other)
    assert [len(batch) for batch in rest] == [5, 5, 1]
    assert sorted(flat(given) + flat(rest)) == list(range(23))
    assert other.epoch == 1


def test_a_position_at_the_end_of_an_epoch_goes_on_with_the_next() -> None:
    one = data()
    batches = iter(one)
    for _ in range(3):
        next(batches)
    state = one.state_dict()
    other = data(batch_size=3)
    other.load_state_dict(state)
    assert labels(other) == []
    assert other.epoch == 1
    assert len(flat(labels(other))) == 10


def test_the_state_is_a_few_hundred_bytes() -> None:
    assert len(json.dumps(data().state_dict())) < 300


def test_a_newer_position_is_refused_by_its_number() -> None:
    with pytest.raises(UserError, match="format 3 of order 2; this runtime reads format 2 of order 2"):
        data().load_state_dict(data().state_dict() | {"format": 3})


@pytest.mark.parametrize("sample", [1, 3, 9])
def test_a_sample_is_spread_evenly(sample: int) -> None:
    one = data(size=10, sample=sample, shuffle=False)
    chosen = flat(labels(one))
    assert len(chosen) == len(set(chosen)) == sample == one.num_samples
    assert one.num_samples_in_channel == 10
    gaps = [b - a for a, b in itertools.pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("sample", [0, 10, 11])
def test_a_sample_of_all_is_all(sample: int) -> None:
    assert data(size=10, sample=sample).num_samples == 10


def test_padding_is_counted() -> None:
    batches = list(data(size=5, last="pad", shuffle=False))
    assert [(len(batch[1]), batch.padding, batch.num_samples) for batch in batches] == [(4, 0, 4), (4, 3, 1)]


def test_too_few_samples_for_one_batch_say_what_to_do() -> None:
    with pytest.raises(UserError, match=r"gives no batch: 3 samples, global batch 4, last='drop'.*smaller batch_size"):
        list(data(size=3, last="drop"))


def test_a_bad_sample_ends_the_job_and_is_named() -> None:
    with pytest.raises(UserError, match=r"Unreadable sample: /data/3\.png is no readable image.*on_bad='skip'"):
        list(data(source=Numbers(10, frozenset({3}))))


def test_a_bad_sample_may_be_skipped_and_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    one = data(source=Numbers(10, frozenset({3, 7})), on_bad="skip")
    batches = list(one)
    assert sorted(flat(labels(batches))) == [0, 1, 2, 4, 5, 6, 8, 9]
    assert sum(batch.skipped for batch in batches) == one.skipped == 2
    assert "2 unreadable samples so far; /data/" in capsys.readouterr().err


def test_a_bad_repeat_is_no_lost_sample_and_takes_no_real_one_out_of_the_counts() -> None:
    """Size 6, global batch 4: the last batch is 4, 5 and the repeats 0, 1; 0 cannot be read."""
    first, last = list(data(source=Numbers(6, frozenset({0})), on_bad="skip", last="pad", shuffle=False))
    assert (first[1].tolist(), first.skipped, first.num_samples) == ([1, 2, 3], 1, 3)
    assert last[1].tolist() == [4, 5, 1]
    assert (last.padding, last.skipped, last.num_samples) == (1, 0, 2)


def test_a_bad_real_sample_leaves_the_repeats_out_of_the_counts() -> None:
    _, last = list(data(source=Numbers(6, frozenset({4})), on_bad="skip", last="pad", shuffle=False))
    assert last[1].tolist() == [5, 0, 1]
    assert (last.padding, last.skipped, last.num_samples) == (2, 1, 1)


def test_a_batch_of_bad_samples_only_is_an_error() -> None:
    with pytest.raises(UserError, match="None of the 4 samples of a batch can be read"):
        list(data(size=4, source=Numbers(4, frozenset(range(4))), on_bad="skip"))


def test_an_error_in_a_loader_worker_arrives_as_ours() -> None:
    with pytest.raises(UserError, match=r"^Unreadable sample: /data/3\.png"):
        list(data(source=Numbers(10, frozenset({3})), workers=1))


def test_workers_change_nothing() -> None:
    assert labels(data(workers=2)) == labels(data(workers=0))


def noisy(x: Any) -> torch.Tensor:
    return torch.cat(
        [torch.from_numpy(x), torch.rand(1), torch.tensor([random.random()]), torch.tensor([np.random.rand()])]
    )


def test_random_transforms_depend_on_the_sample_and_the_epoch_alone() -> None:
    def table(one: Data) -> dict[int, list[float]]:
        return {int(y): x.tolist() for xs, ys in one for x, y in zip(xs, ys, strict=True)}

    first = data(transform=noisy)
    epochs = table(first), table(first)
    torch.manual_seed(99)
    assert table(data(transform=noisy, batch_size=3)) == epochs[0]
    assert epochs[0] != epochs[1]


def test_reading_does_not_touch_the_generators_of_the_training() -> None:
    def drawn(use: Callable[[], object]) -> tuple[float, float, float]:
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        use()
        return float(torch.rand(1)), random.random(), float(np.random.rand())

    assert drawn(lambda: list(data(transform=noisy))) == drawn(lambda: None)


def test_samples_of_different_shapes_say_what_to_do() -> None:
    class Mixed(Numbers):
        def read(self, index: int) -> tuple[Any, Any]:
            return np.zeros(index + 1), np.asarray(index)

    with pytest.raises(UserError, match=r"different shapes cannot be stacked: \[\(1,\), \(2,\).*transform="):
        list(data(source=Mixed(4), shuffle=False))


def test_images_become_channels_first_between_0_and_1() -> None:
    class Pixels(Numbers):
        images = True

        def read(self, index: int) -> tuple[Any, Any]:
            return np.full((3, 5, 3), 255, dtype=np.uint8), np.asarray(index)

    one = data(source=Pixels(2))
    assert one.shape == (3, 3, 5)
    x, _ = next(iter(one))
    assert (x.dtype, float(x.max()), x.shape) == (torch.float32, 1.0, (2, 3, 3, 5))


def test_a_limit_of_steps_ends_the_iteration_within_the_epoch() -> None:
    one = data(hooks=Hooks(steps=2))
    assert len(labels(one)) == 2
    assert (one.epoch, one.position) == (0, 2)


def test_the_phases_alternate_and_end_with_other() -> None:
    hooks = Hooks()
    one = data(hooks=hooks)
    labels(one)
    assert hooks.phases == ["data", "compute"] * 3 + ["data", "other"]
    assert hooks.begun == 1
