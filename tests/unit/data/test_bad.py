"""Bad samples of every kind and source: counted, named, bounded, and the ranks stay in step."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.base.errors import UserError
from runtime.contract.job import Channel
from runtime.data.loader import Data, Extent
from runtime.data.order import Division
from runtime.data.policy import FREE, IN_STATE, Bad, BadSamples, Bounds
from runtime.data.sources import Source, open_source

SAMPLES = 24


class Hooks:
    def enter(self, phase: str) -> None: ...

    def before_first_batch(self) -> None: ...

    def at_end(self) -> bool:
        return False

    def agree(self, channel: str, mine: Extent) -> Extent:
        del channel
        return mine


def jpeg(shade: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(shade).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def folders(root: Path) -> Source:
    for number in range(SAMPLES):
        file = root / str(number % 2) / f"{number:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(number))
    (root / "0/002.jpg").write_bytes(jpeg(2)[:300])  # cut
    (root / "1/003.jpg").write_bytes(b"")
    (root / "1/005.jpg").unlink()
    (root / "1/005.jpg").symlink_to("nowhere.jpg")
    return open_source(Channel("train", str(root)), whole=False)


def pairs(root: Path) -> Source:
    root.mkdir()
    for number in range(SAMPLES):
        (root / f"{number:03d}.jpg").write_bytes(jpeg(number))
        (root / f"{number:03d}.txt").write_text(f"caption {number}")
    (root / "002.txt").unlink()
    (root / "003.txt").write_bytes(b"\xff\xfe\xff")
    (root / "005.jpg").write_bytes(b"<html>404</html>")
    return open_source(Channel("train", str(root)), whole=False)


def tar(root: Path) -> Source:
    root.mkdir()
    with tarfile.open(root / "part-0.tar", "w") as archive:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

        for number in range(SAMPLES):
            image = jpeg(number)[:300] if number == 2 else jpeg(number)
            add(f"{number:03d}.jpg", image)
            if number != 3:
                add(f"{number:03d}.cls", b"a dog" if number == 5 else b"1")
    return open_source(Channel("train", str(root)), whole=False)


def csv(root: Path) -> Source:
    root.mkdir()
    rows = [f"{number % 2},{number}.5,1" for number in range(SAMPLES)]
    rows[2], rows[3], rows[5] = "cat,2.5,1", "1,,1", "0,x,1"
    (root / "part-0.csv").write_text("\n".join(rows) + "\n")
    return open_source(Channel("train", str(root)), whole=False)


SOURCES = [folders, pairs, tar, csv]


def data(source: Source, **options: Any) -> Data:
    rank, ranks, last = options.pop("rank", 0), options.pop("ranks", 1), options.pop("last", "short")
    values: dict[str, Any] = {
        "name": "train",
        "seed": 0,
        "shuffle": True,
        "workers": 0,
        "on_bad": "skip",
        "transform": None,
        "device": torch.device("cpu"),
        "sample": 0,
        "hooks": Hooks(),
    }
    return Data(source, division=Division(4, rank, ranks, last), **(values | options))


@pytest.mark.parametrize("make", SOURCES)
def test_raise_ends_the_job_with_the_name(make: Callable[[Path], Source], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Unreadable sample: .*(002|003|005|sample [235])"):
        list(data(make(tmp_path / "train"), on_bad="raise"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", SOURCES)
def test_skip_leaves_out_the_bad_ones_alone(make: Callable[[Path], Source], workers: int, tmp_path: Path) -> None:
    one = data(make(tmp_path / "train"), workers=workers)
    batches = list(one)
    assert sum(batch.num_samples for batch in batches) == SAMPLES - 3
    assert sum(len(batch[1]) for batch in batches) == SAMPLES - 3
    assert sorted([0, bad.index] for batch in batches for bad in batch.bad) == one.bad.state()["samples"]
    assert len(one.bad) == one.skipped == 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", SOURCES)
def test_replace_keeps_every_batch_full(make: Callable[[Path], Source], workers: int, tmp_path: Path) -> None:
    source = make(tmp_path / "train")
    one = data(source, workers=workers, on_bad="replace")
    batches = list(one)
    assert [len(batch[1]) for batch in batches] == [4] * 6
    assert sum(batch.padding for batch in batches) == sum(batch.skipped for batch in batches) == 3
    again = list(data(source, on_bad="replace"))
    for batch, other in zip(batches, again, strict=True):
        assert torch.equal(batch[0], other[0]), "substitutes are a function of the order, not of the run"


@pytest.mark.parametrize("on_bad", ["skip", "replace"])
@pytest.mark.parametrize("last", ["short", "pad", "drop"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_every_rank_has_as_many_batches_whatever_is_bad(ranks: int, last: str, on_bad: str, tmp_path: Path) -> None:
    root = tmp_path / "train"
    folders(root)
    for number in range(0, SAMPLES, 2):  # a whole label: with few samples per rank, whole batches are bad
        (root / f"0/{number:03d}.jpg").write_bytes(b"")
    source = open_source(Channel("train", str(root)), whole=False)
    found: set[int] = set()
    counts: list[int] = []
    for rank in range(ranks):
        one = data(source, rank=rank, ranks=ranks, last=last, on_bad=on_bad, shuffle=False, bad=roomy())
        batches = list(one)
        counts.append(len(batches))
        assert all(len(batch[1]) > 0 for batch in batches)
        assert all(batch.num_samples >= 0 for batch in batches)
        found |= {bad.index for batch in batches for bad in batch.bad}
    assert len(set(counts)) == 1
    if last != "drop":
        assert len(found) == SAMPLES // 2 + 2


def roomy() -> BadSamples:
    return BadSamples("train", SAMPLES, Bounds(share=1.0))


def test_workers_end_when_an_epoch_is_left(tmp_path: Path) -> None:
    one = data(folders(tmp_path / "train"), workers=2)
    others = children()
    for _ in one:
        assert len(children() - others) == 2
        break
    assert not children() - others


def children() -> set[int]:
    """List the children of this process that live."""
    found: set[int] = set()
    for name in Path("/proc").iterdir():
        try:
            words = (name / "stat").read_text().rpartition(")")[2].split() if name.name.isdigit() else []
        except OSError:
            continue
        if words and int(words[1]) == os.getpid() and words[0] != "Z":
            found.add(int(name.name))
    return found


def test_a_device_that_waits_is_told_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("runtime.data.feeding.LEAST_S", 0.0)
    monkeypatch.setattr("runtime.data.feeding.LEAST_BATCHES", 1)
    monkeypatch.setattr("runtime.data.feeding.SETTLED", 1)
    list(data(folders(tmp_path / "train"), cpus=4))
    text = capsys.readouterr().err
    assert "channel 'train': the device waits" in text
    assert "pass workers=" in text


def test_a_transform_may_call_a_sample_bad(tmp_path: Path) -> None:
    from runtime.data.images import BadSample

    def picky(x: Any) -> torch.Tensor:
        if x.mean() > 127:
            raise BadSample("too bright")
        return torch.from_numpy(x)  # pyright: ignore[reportUnknownMemberType]

    one = data(folders(tmp_path / "train"), transform=picky, bad=roomy())
    batches = list(one)
    assert 3 < len(one.bad) < SAMPLES
    assert sum(batch.num_samples for batch in batches) == SAMPLES - len(one.bad)


def test_a_label_outside_of_the_classes_is_bad_where_their_number_is_told(tmp_path: Path) -> None:
    rows = [f"{number % 3},{number}.5" for number in range(12)]
    rows[4], rows[7], rows[9] = "3,1.5", "-1,1.5", "nan,1.5"
    (tmp_path / "part.csv").write_text("\n".join(rows) + "\n")
    one = data(open_source(Channel("train", str(tmp_path), content_type="text/csv;classes=3")))
    list(one)
    assert one.bad.state()["samples"] == [[0, 4], [0, 7], [0, 9]]
    with pytest.raises(UserError, match="classes='many' in the content type"):
        open_source(Channel("train", str(tmp_path), content_type="text/csv;classes=many"))


def some(*numbers: int) -> list[Bad]:
    return [Bad(number, f"/data/{number}.jpg", f"/data/{number}.jpg is empty") for number in numbers]


def test_the_first_few_are_free_and_then_their_share_counts() -> None:
    bounds = Bounds(most=100, share=0.01)
    assert bounds.broken_by(FREE, FREE) == ""
    assert "slipway_bad_share=0.01" in bounds.broken_by(FREE + 1, 50)
    assert bounds.broken_by(FREE + 1, 100) == ""
    assert bounds.broken_by(100, 10_000) == ""
    assert "slipway_bad_most=100" in bounds.broken_by(101, 10**9)


def test_beyond_the_bounds_the_job_ends_with_the_cause() -> None:
    bad = BadSamples("train", 10_000, Bounds(most=3))
    bad.add(some(1, 2, 3), 100, 0, "skip")
    with pytest.raises(UserError, match=r"'train': 4 of 200 samples cannot be read.*bad_most=3.*/data/4\.jpg is empty"):
        bad.add(some(4), 100, 0, "skip")


def test_a_sample_that_is_bad_in_every_epoch_counts_once() -> None:
    bad = BadSamples("train", 100, Bounds(most=1))
    for epoch in range(5):
        bad.add(some(7), 100, epoch, "skip")
    assert len(bad) == 1


def test_more_epochs_make_no_room_for_more_bad_samples() -> None:
    bad = BadSamples("train", 100)
    bad.add([], 1_000_000, 0, "skip")
    with pytest.raises(UserError, match="12 of 100 samples"):
        bad.add(some(*range(12)), 1, 9, "skip")


def test_together_the_ranks_break_a_bound_that_each_keeps() -> None:
    ranks = [BadSamples("train", 10_000, Bounds(most=5)) for _ in range(2)]
    ranks[0].add(some(1, 2, 3), 100, 0, "skip")
    ranks[1].add(some(4, 5, 6), 100, 0, "skip")
    told = [bad for rank in ranks for bad in rank.fresh()]
    for rank in ranks:
        with pytest.raises(UserError, match="6 of 200 samples"):
            rank.hear(told, 200)
    assert ranks[0].fresh() == ()


def test_what_others_found_is_not_held_against_what_this_rank_has_seen() -> None:
    """Of 2,000 samples over two ranks 24 are bad: 1.2 %, fewer than ten and a hundredth."""
    ranks = [BadSamples("train", 10_000) for _ in range(2)]
    ranks[0].add(some(*range(12)), 1000, 0, "skip")
    ranks[1].add(some(*range(100, 112)), 1000, 0, "skip")
    told = [bad for rank in ranks for bad in rank.fresh()]
    for rank in ranks:
        rank.hear(told, sum(rank.seen for rank in ranks))
    ranks[0].add(some(12), 10, 0, "skip")
    resumed = BadSamples("train", 10_000)
    resumed.load_state(ranks[0].state(), str)
    resumed.add(some(13), 10, 0, "skip")
    resumed.hear(resumed.fresh(), 10)
    assert len(resumed) == 26


def test_together_the_ranks_break_a_share_that_each_keeps() -> None:
    ranks = [BadSamples("train", 10_000) for _ in range(4)]
    for number, rank in enumerate(ranks):
        rank.add(some(*range(20 * number, 20 * number + 9)), 100, 0, "skip")
    told = [bad for rank in ranks for bad in rank.fresh()]
    with pytest.raises(UserError, match="36 of 400 samples"):
        ranks[0].hear(told, 400)


def test_after_they_talked_all_ranks_have_one_state() -> None:
    ranks = [BadSamples("train", 10_000) for _ in range(2)]
    ranks[0].add(some(1, 2, 3), 100, 0, "skip")
    ranks[1].add(some(3, 4), 100, 0, "skip")
    told = [bad for rank in ranks for bad in rank.fresh()]
    for rank in ranks:
        rank.hear(told, 200)
    assert ranks[0].state() == ranks[1].state()
    assert ranks[0].state()["samples"] == [[0, 1], [0, 2], [0, 3], [0, 4]]


def test_the_count_goes_on_after_a_resume() -> None:
    bad = BadSamples("train", 10_000, Bounds(most=4))
    bad.add(some(1, 2, 3), 1000, 0, "skip")
    resumed = BadSamples("train", 10_000, Bounds(most=4))
    resumed.load_state(json.loads(json.dumps(bad.state())), str)
    resumed.add(some(2, 9), 1000, 0, "skip")
    assert len(resumed) == 4
    with pytest.raises(UserError, match="5 of"):
        resumed.add(some(10), 1000, 0, "skip")


def test_the_state_stays_small_and_keeps_the_count() -> None:
    bad = BadSamples("train", 10**9)
    bad.add(some(*range(900_000_000, 900_000_000 + 1000)), 10**9, 0, "skip")
    state = bad.state()
    assert len(json.dumps(state)) < 700
    assert (state["count"], len(state["samples"])) == (1000, IN_STATE)
    resumed = BadSamples("train", 10**9)
    resumed.load_state(state, str)
    assert len(resumed) == 1000
    assert resumed.state()["count"] == 1000


def test_a_position_carries_what_was_bad(tmp_path: Path) -> None:
    source = folders(tmp_path / "train")
    one = data(source)
    list(one)
    other = data(source)
    assert "bad" not in other.state_dict()
    other.load_state_dict(one.state_dict())
    assert other.bad.state()["samples"] == one.bad.state()["samples"]


def test_names_and_reasons_are_kept_as_soon_as_they_are_known(tmp_path: Path) -> None:
    record = tmp_path / "output/data/bad_samples-rank-0.jsonl"
    bad = BadSamples("train", 100, record=record)
    bad.add(some(4), 10, 0, "skip")
    bad.add(some(4, 8), 10, 1, "skip")
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert lines[0] == {"format": 1}
    assert [(line["sample"], line["epoch"], line["name"]) for line in lines[1:]] == [
        (4, 0, "/data/4.jpg"),
        (8, 1, "/data/8.jpg"),
    ]
    assert lines[1]["reason"] == "/data/4.jpg is empty"
    summary = bad.conclude(1, "skip")
    assert "2 of 100 samples could not be read and were skipped: /data/4.jpg is empty; /data/8.jpg is empty" in summary
    assert f"all names in {record}" in summary


def test_the_record_of_the_one_who_concludes_is_whole(tmp_path: Path) -> None:
    record = tmp_path / "bad_samples-rank-0.jsonl"
    bad = BadSamples("train", 100, record=record)
    bad.load_state({"count": 1, "samples": [[0, 77]], "digest": ""}, lambda number: f"/data/{number}.jpg")
    bad.add(some(4), 10, 0, "skip")
    bad.hear(some(4, 8), 20)
    assert "3 of 100 samples" in bad.conclude(0, "skip")
    lines = [json.loads(line) for line in record.read_text().splitlines()][1:]
    assert sorted(line["name"] for line in lines) == ["/data/4.jpg", "/data/77.jpg", "/data/8.jpg"]


def test_hosts_with_different_files_count_their_own_samples() -> None:
    hosts = [BadSamples("train", 100, shard=number) for number in range(2)]
    for host in hosts:
        host.add(some(7), 10, 0, "skip")
    told = [bad for host in hosts for bad in host.fresh()]
    for host in hosts:
        host.hear(told, 20)
        assert len(host) == 2
    assert hosts[0].state() == hosts[1].state()


def test_a_record_that_cannot_be_written_does_not_hurt_the_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "output").write_text("a file")
    bad = BadSamples("train", 100, record=tmp_path / "output/data/bad.jsonl")
    bad.add(some(4), 10, 0, "skip")
    assert "names of bad samples are not kept" in capsys.readouterr().err
    assert len(bad) == 1


def test_nothing_bad_says_nothing() -> None:
    assert BadSamples("train", 100).conclude(0, "skip") == ""
