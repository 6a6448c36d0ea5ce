"""Several channels as one: shares, resume, and what does not mix."""

from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.base.errors import UserError
from runtime.contract.job import Channel
from runtime.data.loader import Data
from runtime.data.mixing import open_channels, weights_of
from runtime.data.order import Division
from tests.unit.data.test_loader import Hooks
from tests.unit.data.test_shards import write


def mixed(root: Path, weights: tuple[float, ...] = (3, 1), **options: Any) -> Data:
    channels: list[Channel] = []
    for number, size in enumerate((300, 100)):
        folder = root / str(number)
        if not folder.exists():
            write(folder, "csv", [{"label": 1000 * number + n, "a": n} for n in range(size)], per_shard=500)
        channels.append(Channel(f"c{number}", str(folder)))
    source, mix = open_channels(channels, weights)
    values: dict[str, Any] = {"name": "c0+c1", "seed": 0, "shuffle": True, "workers": 0, "on_bad": "raise"}
    values |= {"transform": None, "device": torch.device("cpu"), "sample": 0, "hooks": Hooks(), "mix": mix}
    return Data(source, division=Division(options.pop("batch_size", 8), 0, 1), **(values | options))


def labels(data: Data) -> list[int]:
    return [int(label) for _, y in data for label in y]


def test_channels_are_mixed_by_weight(tmp_path: Path) -> None:
    one = mixed(tmp_path)
    seen = labels(one)
    assert len(seen) == one.num_samples == 400
    assert 270 <= sum(label < 1000 for label in seen) <= 330
    assert len(set(seen)) >= 360
    other = mixed(tmp_path, (1, 1))
    assert 160 <= sum(label < 1000 for label in labels(other)) <= 240


def test_a_mix_is_resumed_to_the_sample(tmp_path: Path) -> None:
    whole = labels(mixed(tmp_path))
    begun = mixed(tmp_path)
    batches = iter(begun)
    given = [int(label) for _ in range(5) for label in next(batches)[1]]
    other = mixed(tmp_path, batch_size=5)
    other.load_state_dict(begun.state_dict())
    assert given + labels(other) == whole
    with pytest.raises(UserError, match="another mix of channels than the checkpoint"):
        mixed(tmp_path, (1, 1)).load_state_dict(begun.state_dict())


def test_what_does_not_mix(tmp_path: Path) -> None:
    for weights in ((1, 0), (1, float("nan")), (1, -1)):
        with pytest.raises(UserError, match="a positive weight for each channel"):
            mixed(tmp_path, weights)
    channels = [Channel("a", str(tmp_path / "0")), Channel("b", str(tmp_path / "1"), distribution="ShardedByS3Key")]
    with pytest.raises(UserError, match="some of them are ShardedByS3Key"):
        open_channels(channels, (1, 1))
    assert weights_of("a") == {"a": 1.0}
