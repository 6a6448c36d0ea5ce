"""Jobs of engine process that read FIFOs, mounts and manifests, from directories and from S3."""

import functools
import gzip
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.local.interruption import parse_interruption
from runtime.local.request import ChannelSpec
from runtime.local.s3 import parse_s3_uri
from runtime.testing.s3_faults import parse_s3_faults
from tests.inputs import needs_fuse, records, run_use, written
from tests.s3 import FakeS3


@pytest.fixture
def job(place: Path) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Run a job whose hosts evaluate ``show``; returns the record, and what each host saw."""
    return functools.partial(run_use, place)


@pytest.fixture
def data(place: Path) -> Path:
    for name in ("b/3", "a/1", "a/2", "c"):
        path = place / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return place / "data"


def test_two_hosts_read_two_epochs_of_their_shards(job, data):
    channel = ChannelSpec("train", data, input_mode="Pipe", distribution="ShardedByS3Key", shuffle_seed=1)
    record, seen = job("[epoch('train', n).decode() for n in range(2)]", channel, hosts=2)
    assert record.status == "Completed", record.failure_reason
    for number in range(2):
        parts = [seen[f"algo-{host}"][number] for host in (1, 2)]
        assert sorted("".join(parts)) == sorted("a/1a/2b/3c")
    rows = {row["host"]: row for row in written(record)}
    assert [epoch["end"] for epoch in rows["algo-2"]["epochs"]] == ["complete", "complete", "never opened"]
    assert [epoch["bytes"] for epoch in rows["algo-2"]["epochs"]][:2] == [len(part) for part in seen["algo-2"]]


def test_a_job_that_never_opens_its_pipe_ends(job, data):
    record, _ = job("1", ChannelSpec("train", data, input_mode="Pipe"))
    assert record.status == "Completed"
    assert [row["end"] for row in written(record)[0]["epochs"]] == ["never opened"]


def test_a_job_that_closes_early_or_fails_in_the_middle(job, place):
    (place / "big").mkdir()
    with (place / "big/zeros").open("wb") as file:
        file.truncate(1 << 30)
    channel = ChannelSpec("train", place / "big", input_mode="Pipe")
    record, seen = job("[open(inputs / 'train_0', 'rb').read(9).decode(), len(open(inputs / 'train_1', 'rb').read(9)) "
                       "if not any(time.sleep(0.01) for _ in range(200) if not (inputs / 'train_1').exists()) else 0]",
                       channel)  # fmt: skip
    assert (record.status, seen["algo-1"][1]) == ("Completed", 9)
    assert [row["end"] for row in written(record)[0]["epochs"]][:2] == ["closed early"] * 2
    record, _ = job("open(inputs / 'train_0', 'rb').read(9) and sys.exit(3)", channel, out="failed")
    assert (record.status, record.exit_code) == ("Failed", 3)


def test_data_that_cannot_be_read_fails_the_job_and_is_its_reason(job, place):
    (place / "data").mkdir()
    (place / "data/a.gz").write_bytes(gzip.compress(b"x" * 100)[:-4])
    channel = ChannelSpec("train", place / "data", input_mode="Pipe", compression="Gzip")
    record, _ = job("len(epoch('train', 0))", channel)
    assert record.status == "Failed"
    assert "a.gz is no whole gzip file: it ends too early" in record.failure_reason


def test_an_interrupted_job_begins_again_with_epoch_0(job, data):
    channel = ChannelSpec("train", data, input_mode="Pipe", shuffle_seed=3)
    show = "(time.sleep(600) if not (base.parents[1] / 'attempt-2').exists() else 0, epoch('train', 0).decode())[1]"
    record, seen = job(show, channel, interruptions=(parse_interruption("1s", "KILL"),))
    assert record.status == "Completed", record.failure_reason
    assert len(record.attempts) == 2
    again, plain = job("epoch('train', 0).decode()", channel, out="plain")
    assert again.status == "Completed"
    assert seen == plain


@needs_fuse
def test_a_fastfile_channel_is_a_read_only_tree_of_its_own(job, data):
    show = "[tree('train'), os.access(inputs / 'train', os.W_OK), os.statvfs(inputs / 'train').f_flag & os.ST_RDONLY]"
    record, seen = job(show, ChannelSpec("train", data, input_mode="FastFile"))
    assert record.status == "Completed", record.failure_reason
    assert seen["algo-1"][0] == {name: name for name in ("a/1", "a/2", "b/3", "c")}
    assert seen["algo-1"][2]
    assert [row["mount"]["opened"] for row in written(record)] == [4]
    assert (data / "a/1").read_text() == "a/1"


@needs_fuse
def test_every_attempt_has_a_mount_of_its_own(job, data):
    channel = ChannelSpec("train", data, input_mode="FastFile")
    show = "(time.sleep(600) if not (base.parents[1] / 'attempt-2').exists() else 0, tree('train'))[1]"
    record, seen = job(show, channel, interruptions=(parse_interruption("1s", "KILL"),))
    assert record.status == "Completed", record.failure_reason
    assert seen == {"algo-1": {name: name for name in ("a/1", "a/2", "b/3", "c")}}
    assert [attempt.inputs[0].mount["opened"] for attempt in record.attempts] == [0, 4]


@needs_fuse
def test_a_mounted_file_can_be_mapped_into_memory(job, data):
    show = "(__import__('mmap').mmap(os.open(inputs / 'train/a/1', os.O_RDONLY), 0, access=1)[:]).decode()"
    _, seen = job(show, ChannelSpec("train", data, input_mode="FastFile"))
    assert seen == {"algo-1": "a/1"}


def test_an_augmented_manifest_without_borders_is_streamed_with_a_warning(job, data, place, capfd):
    (place / "lines").write_text(json.dumps({"image-ref": str(data / "c"), "class": 7}))
    channel = ChannelSpec(
        "train",
        place / "lines",
        input_mode="Pipe",
        data_type="AugmentedManifestFile",
        attributes=("image-ref", "class"),
    )
    _, seen = job("epoch('train', 0).decode()", channel)
    assert seen == {"algo-1": "c7"}
    assert "without RecordIO" in capfd.readouterr().err


@needs_fuse
def test_only_what_is_read_is_fetched(job, place):
    (place / "big").mkdir()
    with (place / "big/zeros").open("wb") as file:
        file.truncate(1 << 30)
    show = "[f.seek(1 << 29) and len(f.read(4096)) for f in [open(inputs / 'train' / 'zeros', 'rb', buffering=0)]]"
    record, seen = job(show, ChannelSpec("train", place / "big", input_mode="FastFile"))
    assert seen == {"algo-1": [4096]}
    assert 4096 <= written(record)[0]["mount"]["fetched_bytes"] <= 256 << 10


@needs_fuse
def test_straight_reading_is_made_of_few_requests_and_jumps_of_small_ones(job, place):
    (place / "big").mkdir()
    (place / "big/x").write_bytes(bytes(range(256)) * (32 << 12))  # 32 MiB
    channel = ChannelSpec("train", place / "big", input_mode="FastFile", latency_s=0.001)
    record, seen = job("sum(open(inputs / 'train/x', 'rb').read()[:1000])", channel)
    straight = written(record)[0]["mount"]
    assert seen == {"algo-1": sum((list(range(256)) * 4)[:1000])}
    # Requests of the kernel may overtake each other, and are then answered one by one.
    assert straight["requests"] < straight["read_bytes"] / (128 << 10) / 2
    show = (
        "[(f.seek(n << 20), f.read(10)[:1].hex())[1] for f in [open(inputs / 'train/x', 'rb', 0)] for n in (9, 3, 20)]"
    )
    record, seen = job(show, channel, out="jumps")
    assert seen == {"algo-1": ["00"] * 3}
    assert written(record)[0]["mount"]["fetched_bytes"] <= 3 * (256 << 10)


@needs_fuse
def test_a_manifest_as_fastfile_and_as_file(job, data, place):
    manifest = place / "m.json"
    manifest.write_text(json.dumps([{"prefix": f"{data}/"}, "b/3", "a/1"]))
    for mode in ("FastFile", "File"):
        channel = ChannelSpec("train", manifest, input_mode=mode, data_type="ManifestFile")
        record, seen = job("tree('train')", channel, out=mode)
        assert record.status == "Completed", record.failure_reason
        assert seen == {"algo-1": {"a/1": "a/1", "b/3": "b/3"}}


@needs_fuse
def test_a_slow_file_system_is_mounted_and_says_that_it_is_a_file_channel(job, data):
    channel = ChannelSpec("train", data, shared_file_system=True, latency_s=0.01)
    show = "[tree('train')['c'], json.loads((base / 'input/config/inputdataconfig.json').read_text())['train']]"
    record, seen = job(show, channel)
    assert record.status == "Completed", record.failure_reason
    entry = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    assert seen == {"algo-1": ["c", entry]}


def in_s3(s3: FakeS3, key: str, **changes: Any) -> ChannelSpec:
    uri = parse_s3_uri(s3.uri(key), "here")
    return ChannelSpec("train", Path("/nonexistent"), remote=uri, **changes)


@pytest.fixture
def stored(s3: FakeS3, monkeypatch, place) -> FakeS3:
    monkeypatch.setenv("SLIPWAY_CACHE_DIR", str(place / "cache"))
    s3.put_all({f"data/{name}": name * 1000 for name in ("b/3", "a/1", "a/2", "c")})
    s3.put_all({"data/": b"", "data2": "not below the folder", "other": "no"})
    return s3


def test_a_pipe_from_s3(job, stored):
    record, seen = job("epoch('train', 0).decode()", in_s3(stored, "data/", input_mode="Pipe"))
    assert record.status == "Completed", record.failure_reason
    assert seen == {"algo-1": "".join(name * 1000 for name in ("a/1", "a/2", "b/3", "c"))}


def test_an_augmented_manifest_from_s3(job, stored):
    lines = [{"image-ref": stored.uri(f"data/{name}"), "class": index} for index, name in enumerate(("c", "a/2"))]
    stored.put_all({"lines": "\n".join(map(json.dumps, lines))})
    channel = in_s3(
        stored,
        "lines",
        input_mode="Pipe",
        data_type="AugmentedManifestFile",
        attributes=("class", "image-ref"),
        record_wrapper="RecordIO",
    )
    record, seen = job("epoch('train', 0).decode('latin-1')", channel)
    assert record.status == "Completed", record.failure_reason
    assert records(seen["algo-1"].encode("latin-1")) == [b"0", b"c" * 1000, b"1", b"a/2" * 1000]


def test_an_object_that_an_augmented_manifest_names_in_vain(job, stored):
    stored.put_all({"lines": json.dumps({"image-ref": stored.uri("data/gone")})})
    channel = in_s3(stored, "lines", input_mode="Pipe", data_type="AugmentedManifestFile", attributes=("image-ref",))
    record, _ = job("epoch('train', 0).decode('latin-1')", channel)
    assert record.status == "Failed"
    assert f"{stored.uri('data/gone')} is not there" in record.failure_reason


@needs_fuse
def test_a_fastfile_channel_from_s3_fetches_what_is_read(job, stored):
    stored.put_all({"big/x": bytes(20 << 20), "big/y": b"y"})
    show = "[os.listdir(inputs / 'train'), len(open(inputs / 'train/x', 'rb', buffering=0).read(1000))]"
    record, seen = job(show, in_s3(stored, "big", input_mode="FastFile"))
    assert record.status == "Completed", record.failure_reason
    assert seen == {"algo-1": [["x", "y"], 1000]}
    assert 1000 <= written(record)[0]["mount"]["fetched_bytes"] <= 1 << 20
    record, seen = job("tree('train')", in_s3(stored, "data", input_mode="FastFile"), out="whole")
    assert record.status == "Completed", record.failure_reason
    assert set(seen["algo-1"]) == {"a/1", "a/2", "b/3", "c", "data2"}


@pytest.mark.parametrize("mode", ["File", "Pipe"])
def test_a_manifest_in_s3(job, stored, mode):
    stored.put_all({"m.json": json.dumps([{"prefix": stored.uri("data/")}, "c", "a/2"])})
    channel = in_s3(stored, "m.json", data_type="ManifestFile", input_mode=mode)
    record, seen = job("tree('train')" if mode == "File" else "epoch('train', 0).decode()", channel)
    assert record.status == "Completed", record.failure_reason
    whole = {"a/2": "a/2" * 1000, "c": "c" * 1000}
    assert seen == {"algo-1": whole if mode == "File" else whole["c"] + whole["a/2"]}


@pytest.mark.parametrize("mode", ["Pipe", pytest.param("FastFile", marks=needs_fuse)])
def test_nothing_in_s3_is_said_before_the_job_starts(job, stored, mode):
    record, _ = job("1", in_s3(stored, "nothing/", input_mode=mode))
    assert (record.status, record.attempts) == ("Failed", [])
    assert "no object begins so" in record.failure_reason
    assert "did you mean" not in record.failure_reason
    assert "data/" in record.failure_reason  # what is there


def test_channels_keep_their_order_of_objects_when_the_job_is_repeated(job, data):
    channel = ChannelSpec("train", data, input_mode="Pipe", shuffle_seed=11)
    first = job("[epoch('train', n).decode() for n in range(3)]", channel, out="one")
    second = job("[epoch('train', n).decode() for n in range(3)]", replace(channel), out="two")
    assert first[1] == second[1]
    assert len(set(first[1]["algo-1"])) > 1


@pytest.mark.parametrize("mode", ["Pipe", pytest.param("FastFile", marks=needs_fuse)])
def test_a_failing_s3_is_asked_again_until_all_bytes_are_there(job, stored, mode):
    content = random.Random(mode).randbytes(6 << 20)
    stored.put_all({"big/x": content})
    show = "epoch('train', 0).decode('latin-1')" if mode == "Pipe" else "tree('train')['x']"
    faults = parse_s3_faults("slow-down=20%,reset=20%,truncate=20%,seed=4")
    record, seen = job(show, in_s3(stored, "big/", input_mode=mode), s3_faults=faults)
    assert record.status == "Completed", record.failure_reason
    assert seen["algo-1"].encode("latin-1") == content
    assert sum(record.s3_faults.values()) > 0
