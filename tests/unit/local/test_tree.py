"""The tree of a host: what the service writes, and what our own reader makes of it."""

import json
import os
from pathlib import Path

import pytest

from runtime.contract.job import read_job
from runtime.contract.paths import Paths
from runtime.local.request import ChannelSpec, CheckpointSpec, GroupSpec, MetricDefinition, TrainingJobSpec
from runtime.local.tree import link_channels, write_tree


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for key in ("b/1.png", "a/2.png", "a/10.png", "Z.txt", "c.txt"):
        path = tmp_path / "data" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(key)
    return tmp_path / "data"


def keys_of(directory: Path) -> list[str]:
    found = [Path(parent, name) for parent, _, names in os.walk(directory, followlinks=True) for name in names]
    return sorted((path.relative_to(directory).as_posix() for path in found), key=str.encode)


def nothing_is_mounted(host: str, channel: ChannelSpec) -> Path:
    raise AssertionError(f"{channel.name} of {host} is no mount")


def config(base: Path, name: str) -> object:
    return json.loads((base / "input/config" / name).read_text())


def test_files_are_as_the_service_writes_them(tmp_path: Path, data: Path):
    spec = TrainingJobSpec(
        "job",
        hyperparameters={"lr": "0.1"},
        channels=(ChannelSpec("train", data, content_type="image/png", compression="None"),),
        groups=(GroupSpec("homogeneousCluster", "ml.m5.large", 11),),
        metric_definitions=(MetricDefinition("loss", "loss=(.*)"),),
        checkpoint=CheckpointSpec(None, "/opt/ml/here/checkpoints"),
    )
    write_tree(spec, "algo-2", tmp_path / "base", "eth0")
    base = tmp_path / "base"
    hosts = ["algo-1", "algo-10", "algo-11", *(f"algo-{n}" for n in range(2, 10))]
    assert config(base, "hyperparameters.json") == {"lr": "0.1"}
    assert config(base, "inputdataconfig.json") == {
        "train": {
            "TrainingInputMode": "File",
            "S3DistributionType": "FullyReplicated",
            "RecordWrapperType": "None",
            "ContentType": "image/png",
            "CompressionType": "None",
        }
    }
    assert config(base, "resourceconfig.json") == {
        "current_host": "algo-2",
        "current_instance_type": "ml.m5.large",
        "current_group_name": "homogeneousCluster",
        "hosts": hosts,
        "instance_groups": [
            {"instance_group_name": "homogeneousCluster", "instance_type": "ml.m5.large", "hosts": hosts}
        ],
        "network_interface_name": "eth0",
    }
    assert config(base, "checkpointconfig.json") == {"LocalPath": "/opt/ml/here/checkpoints"}
    assert config(base, "metric-definition-regex.json") == {"loss": "loss=(.*)"}
    assert (base / "here/checkpoints").is_dir()


def test_our_reader_understands_it(tmp_path: Path, data: Path):
    groups = (GroupSpec("gpu", "ml.g5.xlarge", 2), GroupSpec("cpu", "ml.m5.large", 1))
    spec = TrainingJobSpec("job", channels=(ChannelSpec("train", data),), groups=groups)
    write_tree(spec, "algo-3", tmp_path / "base")
    link_channels(spec, "algo-3", tmp_path / "base", nothing_is_mounted)
    job = read_job(Paths(tmp_path / "base"), {"TRAINING_JOB_NAME": "job"})
    assert (job.name, job.current_host, job.host.group) == ("job", "algo-3", "cpu")
    assert [host.name for host in job.hosts] == ["algo-1", "algo-2", "algo-3"]
    assert job.checkpoint_path is None
    assert (job.channel("train").path / "b/1.png").read_text() == "b/1.png"


def test_replicated_channels_are_linked_not_copied(tmp_path: Path, data: Path):
    channels = (ChannelSpec("train", data), ChannelSpec("one", data / "c.txt"))
    spec = TrainingJobSpec("job", channels=channels)
    write_tree(spec, "algo-1", tmp_path / "base")
    link_channels(spec, "algo-1", tmp_path / "base", nothing_is_mounted)
    inputs = tmp_path / "base/input/data"
    assert (inputs / "train").readlink() == data
    assert [path.name for path in (inputs / "one").iterdir()] == ["c.txt"]


def test_shards_are_disjoint_and_whole(tmp_path: Path, data: Path):
    channel = ChannelSpec("train", data, distribution="ShardedByS3Key")
    spec = TrainingJobSpec("job", channels=(channel,), groups=(GroupSpec("g", "local", 2),))
    shares: list[list[str]] = []
    for host in spec.hosts:
        write_tree(spec, host, tmp_path / host)
        link_channels(spec, host, tmp_path / host, nothing_is_mounted)
        shares.append(keys_of(tmp_path / host / "input/data/train"))
    assert keys_of(data) == ["Z.txt", "a/10.png", "a/2.png", "b/1.png", "c.txt"]  # bytes, as S3 lists
    assert shares == [["Z.txt", "a/2.png", "c.txt"], ["a/10.png", "b/1.png"]]


def test_more_hosts_than_files(tmp_path: Path, data: Path):
    channel = ChannelSpec("train", data / "a", distribution="ShardedByS3Key")
    spec = TrainingJobSpec("job", channels=(channel,), groups=(GroupSpec("g", "local", 3),))
    for host in spec.hosts:
        write_tree(spec, host, tmp_path / host)
        link_channels(spec, host, tmp_path / host, nothing_is_mounted)
    assert [keys_of(tmp_path / host / "input/data/train") for host in spec.hosts] == [["10.png"], ["2.png"], []]


def test_the_files_of_a_manifest_keep_their_places(tmp_path: Path, data: Path):
    manifest = tmp_path / "train.manifest"
    manifest.write_text(json.dumps([{"prefix": f"{data}/"}, "b/1.png", "Z.txt", "a/2.png"]))
    for distribution, expected in (
        ("FullyReplicated", [["Z.txt", "a/2.png", "b/1.png"]] * 2),
        ("ShardedByS3Key", [["a/2.png", "b/1.png"], ["Z.txt"]]),  # in the order of the manifest
    ):
        channel = ChannelSpec("train", manifest, distribution=distribution, data_type="ManifestFile")
        spec = TrainingJobSpec("job", channels=(channel,), groups=(GroupSpec("g", "local", 2),))
        for host, names in zip(spec.hosts, expected, strict=True):
            base = tmp_path / distribution / host
            write_tree(spec, host, base)
            link_channels(spec, host, base, nothing_is_mounted)
            assert keys_of(base / "input/data/train") == names
            assert all((base / "input/data/train" / name).read_text() == name for name in names)


def test_a_channel_may_be_for_one_group(tmp_path: Path, data: Path):
    channels = (
        ChannelSpec("raw", data, distribution="ShardedByS3Key", groups=("cpu",)),
        ChannelSpec("all", data),
    )
    spec = TrainingJobSpec(
        "job", channels=channels, groups=(GroupSpec("gpu", "local", 1), GroupSpec("cpu", "local", 2))
    )
    seen: dict[str, list[str]] = {}
    for host in spec.hosts:
        write_tree(spec, host, tmp_path / host)
        link_channels(spec, host, tmp_path / host, nothing_is_mounted)
        assert sorted(config(tmp_path / host, "inputdataconfig.json")) == (  # type: ignore[call-overload]
            ["all"] if host == "algo-1" else ["all", "raw"]
        )
        raw = tmp_path / host / "input/data/raw"
        seen[host] = keys_of(raw) if raw.exists() else []
    assert seen["algo-1"] == []
    assert sorted(seen["algo-2"] + seen["algo-3"]) == sorted(keys_of(data))  # divided over those that get it
    assert len(seen["algo-2"]) == 3
