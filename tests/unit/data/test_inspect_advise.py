"""The predictions of `slipway inspect --advise`: they follow what they say they follow."""

import json
from pathlib import Path

import numpy as np
import pytest

from runtime.base.errors import UserError
from runtime.data.inspect.advise import Advice, Plan, advise
from runtime.data.inspect.look import Dataset
from runtime.data.inspect.prices import OURS, read_prices
from runtime.data.inspect.survey import Sizes, Survey
from runtime.data.inspect.table import told_advice
from runtime.data.storage import Mount


def dataset(files: int, size: int, samples: int = 0) -> Dataset:
    sizes = np.full(min(files, 1000), size)
    return Dataset(
        "/data",
        Survey(Path("/data"), Sizes(files, files * size, float(np.median(sizes)), float(size), size), 1),
        Mount("/", "ext4"),
        samples=samples or files,
    )


def made(found: Dataset, **plan: object) -> Advice:
    return advise(found, Plan(**plan), read_prices())  # pyright: ignore


def mode(advice: Advice, name: str):
    return next(mode for mode in advice.modes if mode.name == name)


SHARDS = dataset(500, 100_000_000, samples=2_000_000)
"""50 GB in shards of 100 MB."""
SMALL = dataset(2_000_000, 25_000)
"""The same in files of 25 kB."""


def test_file_mode_takes_what_aws_says() -> None:
    assert mode(made(SHARDS), "File").before_step_1_s == pytest.approx(300, rel=0.05)


def test_small_files_make_every_mode_slower_and_are_to_be_packed() -> None:
    small, shards = made(SMALL), made(SHARDS)
    for name in ("File", "FastFile", "Pipe", "EFS", "FSx"):
        before, after = mode(small, name), mode(shards, name)
        assert before.before_step_1_s >= after.before_step_1_s
        assert before.mb_per_s <= after.mb_per_s
    assert any("pack the 2,000,000 files into 334 tar shards" in text for text in small.changes)
    assert not any("pack" in text for text in shards.changes)


def test_shards_are_as_many_for_each_host() -> None:
    assert any("336 tar shards of 149 MB, as many for each of 8 hosts" in text for text in made(SMALL, hosts=8).changes)


def test_whether_devices_wait_follows_from_their_speed() -> None:
    slow = mode(made(SMALL, device_samples_per_s=100.0), "FastFile")
    fast = mode(made(SMALL, device_samples_per_s=5000.0), "FastFile")
    assert slow.starved_s == 0
    assert fast.starved_share is not None
    assert 0.5 < fast.starved_share < 1
    assert mode(made(SMALL), "FastFile").starved_share is None


def test_more_epochs_make_a_slow_mode_dearer_and_a_download_no_dearer() -> None:
    plan = {"device_samples_per_s": 5000.0, "instance": "ml.g5.2xlarge"}
    once, often = made(SMALL, epochs=1, **plan), made(SMALL, epochs=50, **plan)
    assert (mode(often, "FastFile").waiting_usd or 0) > 40 * (mode(once, "FastFile").waiting_usd or 0)
    assert mode(often, "File").waiting_usd == mode(once, "File").waiting_usd
    assert mode(often, "FastFile").request_usd > 40 * mode(once, "FastFile").request_usd


def test_waiting_costs_every_host() -> None:
    one = mode(made(SHARDS, instance="ml.p4d.24xlarge"), "File")
    four = mode(made(SHARDS, instance="ml.p4d.24xlarge", hosts=4), "File")
    assert four.waiting_usd == pytest.approx(4 * (one.waiting_usd or 0))
    assert one.waiting_usd == pytest.approx(one.before_step_1_s / 3600 * 37.688)
    assert any("ShardedByS3Key" in text for text in made(SHARDS, hosts=4).changes)


def test_a_price_of_ones_own_wins() -> None:
    own = mode(made(SHARDS, instance="ml.new.huge", host_usd_per_h=36.0), "File")
    assert own.waiting_usd == pytest.approx(own.before_step_1_s / 100)


def test_an_instance_without_a_price_is_told() -> None:
    with pytest.raises(UserError, match=r"'ml.g5.2xlarg' has no price.*Did you mean 'ml.g5.2xlarge'.*--price"):
        made(SHARDS, instance="ml.g5.2xlarg")


def test_without_a_price_the_cost_of_waiting_is_not_invented() -> None:
    assert all(mode.waiting_usd is None and mode.sum_usd is None for mode in made(SHARDS).modes)
    assert any("no --instance" in text for text in made(SHARDS).assumptions)


def test_the_volume_holds_the_data() -> None:
    assert any("VolumeSizeInGB=63" in text for text in made(SHARDS).changes)
    assert any("VolumeSizeInGB=30" in text for text in made(dataset(10, 1000)).changes)


def test_the_best_is_the_cheapest_where_all_is_known() -> None:
    advice = made(SMALL, instance="ml.p4d.24xlarge", device_samples_per_s=5000.0, epochs=20)
    assert advice.best == min(advice.modes, key=lambda mode: mode.sum_usd or 0.0).name


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(UserError, match="holds no bytes"):
        made(dataset(3, 0))


@pytest.mark.parametrize("files", [1, 999, 50_000_000])
@pytest.mark.parametrize("size", [1, 10**12])
def test_extremes_give_finite_figures(files: int, size: int) -> None:
    advice = made(dataset(files, size), device_samples_per_s=1.0, instance="ml.m5.xlarge", hosts=7, epochs=0.5)
    for one in advice.modes:
        for value in (one.before_step_1_s, one.mb_per_s, one.starved_s, one.sum_usd):
            assert value is not None
            assert np.isfinite(value)
            assert value >= 0
    assert told_advice(advice)
    json.dumps(advice.as_json(), allow_nan=False)


def test_figures_that_nobody_measured_are_marked() -> None:
    text = "\n".join(told_advice(made(SHARDS)))
    assert "* unverified" in text
    assert "(all unverified)" in text
    assert "us-east-1" in text
    assert read_prices().as_of in text


def test_a_price_file_of_ones_own(tmp_path: Path) -> None:
    held = json.loads(OURS.read_text())
    held["instances_per_hour"]["ml.mine"] = 100.0
    held["as_of"] = "2031-01"
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(held))
    prices = read_prices(file)
    assert prices.instances["ml.mine"] == 100.0
    assert f"prices of 2031-01, us-east-1, from {file}" in advise(SHARDS, Plan(), prices).assumptions[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda held: held.update(format=2), "has format 2"),
        (lambda held: held["storage"].pop("efs_gb_month"), "lacks storage.efs_gb_month"),
        (lambda held: held.pop("requests"), "cannot be read: KeyError"),
        (lambda held: held["storage"].update(efs_gb_month="much"), "cannot be read: ValueError"),
    ],
)
def test_a_price_file_that_is_wrong(change, words: str, tmp_path: Path) -> None:
    held = json.loads(OURS.read_text())
    change(held)
    (tmp_path / "prices.json").write_text(json.dumps(held))
    with pytest.raises(UserError, match=words):
        read_prices(tmp_path / "prices.json")
