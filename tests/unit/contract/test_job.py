"""The job as the platform describes it: real shapes, old shapes, and broken ones."""

import random
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.contract.job import natural_key, read_job
from tests.conftest import GOLDEN, Tree


def test_natural_order_of_hosts() -> None:
    hosts = [f"algo-{n}" for n in range(1, 121)]
    for seed in range(20):
        mixed = random.Random(seed).sample(hosts, len(hosts))
        assert sorted(mixed, key=natural_key) == hosts


def test_natural_order_accepts_suffixes_and_names_without_numbers() -> None:
    names = ["algo-10-aaaaa", "algo-2-zzzzz", "algo-2", "head", "7"]
    assert sorted(names, key=natural_key) == ["7", "algo-2", "algo-2-zzzzz", "algo-10-aaaaa", "head"]


@pytest.mark.parametrize("case", sorted(path.stem for path in GOLDEN.glob("*.json")))
def test_every_golden_case_is_read(tree: Tree, case: str) -> None:
    tree.golden(case)
    job = read_job(tree.paths, {})
    assert job.under_contract
    assert job.current_host in [host.name for host in job.hosts]


def test_groups_come_unsorted_and_leave_sorted(tree: Tree) -> None:
    tree.golden("resourceconfig_service_four_hosts")
    job = read_job(tree.paths, {})
    assert job.groups[0].hosts == ("algo-1", "algo-2", "algo-3", "algo-4")
    assert job.host.name == "algo-3"
    assert {host.instance_type for host in job.hosts} == {"ml.g4dn.12xlarge"}


def test_twelve_hosts_in_text_order_become_natural_order(tree: Tree) -> None:
    tree.golden("resourceconfig_service_twelve_hosts")
    assert [host.name for host in read_job(tree.paths, {}).hosts] == [f"algo-{n}" for n in range(1, 13)]


def test_old_local_mode_lacks_keys(tree: Tree) -> None:
    tree.golden("resourceconfig_old_local_mode")
    job = read_job(tree.paths, {})
    assert (job.current_host, job.network_interface, job.groups) == ("algo-2-x7jf7", "", ())
    assert (job.host.group, job.host.instance_type) == ("homogeneousCluster", "local")


def test_each_host_has_the_type_of_its_group(tree: Tree) -> None:
    tree.golden("resourceconfig_heterogeneous")
    job = read_job(tree.paths, {})
    assert [(host.name, host.group) for host in job.hosts] == [
        ("algo-1", "feeders"),
        ("algo-2", "trainers"),
        ("algo-3", "trainers"),
    ]
    assert job.host.instance_type == "ml.p4d.24xlarge"


def test_channels_as_the_service_writes_them(tree: Tree) -> None:
    tree.golden("inputdataconfig_service")
    channels = read_job(tree.paths, {}).channels
    train, stream = channels["train"], channels["stream"]
    assert (train.input_mode, train.distribution, train.content_type) == (
        "FastFile",
        "ShardedByS3Key",
        "application/x-image",
    )
    assert (stream.input_mode, stream.record_wrapper, stream.compression) == ("Pipe", "RecordIO", "Gzip")
    assert train.path == Path(tree.paths.data) / "train"


def test_local_mode_writes_the_mode_alone(tree: Tree) -> None:
    tree.golden("inputdataconfig_local_mode")
    channel = read_job(tree.paths, {}).channels["train"]
    assert (channel.input_mode, channel.distribution, channel.compression) == ("File", "FullyReplicated", "None")


def test_hyperparameters_are_kept_as_the_file_holds_them(tree: Tree) -> None:
    tree.golden("hyperparameters_framework_estimator")
    job = read_job(tree.paths, {})
    assert job.hyperparameters["commit"] == '"1234e5"'
    assert job.name == "pytorch-training-2026-01-02-03-04-05-678"
    assert read_job(tree.paths, {"TRAINING_JOB_NAME": "other"}).name == "other"


def test_numbers_of_a_hand_written_file_become_text_without_loss(tree: Tree) -> None:
    tree.config("hyperparameters", {"lr": 0.1, "n": 3, "on": True, "list": [1, "a"], "none": None})
    assert dict(read_job(tree.paths, {}).hyperparameters) == {
        "lr": "0.1",
        "n": "3",
        "on": "true",
        "list": '[1, "a"]',
        "none": "null",
    }


def test_the_default_of_a_checkpoint_path_moves_with_the_root(tree: Tree) -> None:
    tree.golden("checkpointconfig")
    assert read_job(tree.paths, {}).checkpoint_path == str(tree.base / "checkpoints")
    tree.config("checkpointconfig", {"LocalPath": "/opt/ml/elsewhere/x"})
    assert read_job(tree.paths, {}).checkpoint_path == str(tree.base / "elsewhere/x")
    tree.config("checkpointconfig", {"LocalPath": "/mnt/fast"})
    assert read_job(tree.paths, {}).checkpoint_path == "/mnt/fast"


def test_without_a_checkpoint_config_there_is_no_path(tree: Tree) -> None:
    tree.hyperparameters()
    assert read_job(tree.paths, {}).checkpoint_path is None


def test_an_empty_config_directory_is_a_world_of_one(tree: Tree) -> None:
    Path(tree.paths.config).mkdir(parents=True)
    job = read_job(tree.paths, {})
    assert job.under_contract
    assert ([host.name for host in job.hosts], job.current_host, job.name) == (["algo-1"], "algo-1", "local")


def test_without_a_contract_directories_are_channels(tree: Tree) -> None:
    tree.channel("b", x__txt="1")
    tree.channel("a", x__txt="1")
    (Path(tree.paths.data) / "file").write_text("no channel")
    job = read_job(tree.paths, {})
    assert not job.under_contract
    assert list(job.channels) == ["a", "b"]


def test_a_missing_channel_is_named_with_those_that_are_there(tree: Tree) -> None:
    tree.golden("inputdataconfig_service")
    job = read_job(tree.paths, {})
    with pytest.raises(UserError) as caught:
        job.channel("trian")
    text = str(caught.value)
    assert "'trian' is not in this job" in text
    assert "Channels: 'stream', 'train'" in text
    assert "Did you mean 'train'?" in text
    assert "--channel trian=PATH" in text


def test_a_job_without_channels_says_so(tree: Tree) -> None:
    tree.hyperparameters()
    with pytest.raises(UserError, match=r"Channel 'train' is not in this job\. The job has no channels\."):
        read_job(tree.paths, {}).channel("train")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("hyperparameters", '{"a": ', ["hyperparameters.json is not JSON", "line 1 column"]),
        ("hyperparameters", "[1]", ["hyperparameters.json holds list, not an object"]),
        ("resourceconfig", '{"hosts": []}', ["'hosts' is []", "at least one"]),
        ("resourceconfig", '{"hosts": [1]}', ["'hosts' is [1]"]),
        ("resourceconfig", '{"hosts": "algo-1"}', ["'hosts' is 'algo-1'"]),
        ("resourceconfig", '{"hosts": ["a", "b"]}', ["'current_host' is None", "hosts: a, b"]),
        ("resourceconfig", '{"hosts": ["a"], "current_host": "c"}', ["'current_host' is 'c'", "hosts: a"]),
        ("resourceconfig", '{"hosts": ["a"], "instance_groups": [{}]}', ["'instance_groups' is malformed"]),
        ("resourceconfig", '{"hosts": ["a"], "instance_groups": ["a"]}', ["'instance_groups' is malformed"]),
        ("inputdataconfig", '{"train": "File"}', ["channel 'train' is 'File'"]),
        (
            "inputdataconfig",
            '{"train": {"TrainingInputMode": "Fast"}}',
            ["TrainingInputMode 'Fast'", "File, FastFile, Pipe"],
        ),
        ("inputdataconfig", '{"t": {"S3DistributionType": "Sharded"}}', ["S3DistributionType 'Sharded'"]),
        ("inputdataconfig", '{"t": {"CompressionType": "Zip"}}', ["CompressionType 'Zip'", "None, Gzip"]),
    ],
)
def test_a_broken_file_is_named_with_its_place(tree: Tree, file: str, content: str, words: list[str]) -> None:
    tree.config(file, content)
    with pytest.raises(UserError) as caught:
        read_job(tree.paths, {})
    assert str(Path(tree.paths.config) / f"{file}.json") in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_bytes_that_are_no_utf8_are_named(tree: Tree) -> None:
    Path(tree.paths.config).mkdir(parents=True)
    (Path(tree.paths.config) / "hyperparameters.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UserError, match=r"hyperparameters.json cannot be read.*UTF-8"):
        read_job(tree.paths, {})


def test_reading_changes_nothing(tree: Tree) -> None:
    tree.golden("resourceconfig_heterogeneous", "inputdataconfig_service", "checkpointconfig")
    before = sorted(tree.base.rglob("*"))
    read_job(tree.paths, {})
    assert sorted(tree.base.rglob("*")) == before
