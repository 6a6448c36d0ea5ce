"""A request in boto3's shape becomes a spec, or a message that names the key."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from runtime.base.errors import UserError
from runtime.contract.job import DEFAULT_GROUP
from runtime.local.request import parse_request
from runtime.local.request.keys import PROCESSING_KEYS, TRAINING_KEYS


def request_with(data: Path, **changes: Any) -> dict[str, Any]:
    request: dict[str, Any] = {
        "TrainingJobName": "job-1",
        "RoleArn": "arn:aws:iam::111122223333:role/r",
        "HyperParameters": {"sagemaker_program": '"train.py"', "lr": "0.1"},
        "AlgorithmSpecification": {
            "TrainingImage": "111122223333.dkr.example/img:1",
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": "loss", "Regex": "loss=([0-9.]+)"}],
        },
        "InputDataConfig": [
            {
                "ChannelName": "train",
                "ContentType": "application/x-image",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": f"file://{data}",
                        "S3DataDistributionType": "ShardedByS3Key",
                    }
                },
            },
            {"ChannelName": "shared", "DataSource": {"FileSystemDataSource": {"DirectoryPath": str(data)}}},
        ],
        "OutputDataConfig": {"S3OutputPath": f"file://{data}/out"},
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 3, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200},
        "CheckpointConfig": {"S3Uri": f"file://{data}/ckpt"},
        "EnableManagedSpotTraining": True,
        "Environment": {"MODE": "x"},
    }
    return copy.deepcopy(request) | changes


def test_a_whole_request(tmp_path: Path):
    spec, warnings = parse_request(request_with(tmp_path))
    assert warnings == []
    assert (spec.name, spec.spot, spec.max_run_s, spec.max_wait_s) == ("job-1", True, 3600.0, 7200.0)
    assert spec.hosts == ("algo-1", "algo-2", "algo-3")
    assert spec.groups[0].instance_type == "ml.g5.xlarge"
    train, shared = spec.channels
    assert (train.source, train.distribution) == (tmp_path, "ShardedByS3Key")
    assert train.content_type == "application/x-image"
    assert (shared.input_mode, shared.distribution, shared.shared_file_system) == ("File", "FullyReplicated", True)
    assert spec.checkpoint is not None
    assert spec.checkpoint.store == tmp_path / "ckpt"
    assert spec.output == tmp_path / "out"
    assert spec.hyperparameters["sagemaker_program"] == '"train.py"'  # as the SDK encodes it, untouched


def test_the_least_request():
    spec, warnings = parse_request({"TrainingJobName": "a"})
    assert warnings == []
    assert (spec.hosts, spec.checkpoint, spec.max_run_s) == (("algo-1",), None, None)
    assert spec.groups[0].name == DEFAULT_GROUP


@pytest.mark.parametrize(
    ("path", "guess"),
    [
        ("HyperParametres", "'HyperParameters'"),
        ("InputDataConfig[0].DataSource.S3DataSource.S3URI", "'S3Uri'"),
        ("VpcConfig.Subnet", "'Subnets'"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_guess(tmp_path: Path, path: str, guess: str):
    request = request_with(tmp_path, VpcConfig={"Subnets": ["s"]})
    *outer, key = path.replace("[0]", "").split(".")
    inner: Any = request
    for name in outer:
        inner = inner[name][0] if name == "InputDataConfig" else inner[name]
    inner[key] = "x"
    with pytest.raises(UserError) as caught:
        parse_request(request)
    assert f"unknown key {path}" in str(caught.value)
    assert guess in str(caught.value)


def test_what_means_nothing_here_is_recorded_with_its_reason(tmp_path: Path):
    spec, _ = parse_request(request_with(tmp_path, VpcConfig={"Subnets": ["s"]}, Tags=[{"Key": "a", "Value": "b"}]))
    assert set(spec.without_effect) == {"RoleArn", "VpcConfig", "Tags", "ResourceConfig.VolumeSizeInGB"}
    assert all(spec.without_effect.values())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"TrainingJobName": "a b"}, "TrainingJobName is 'a b'"),
        ({"TrainingJobName": 7}, "TrainingJobName is 7 (int)"),
        ({"HyperParameters": {"lr": 0.1}}, "HyperParameters.lr is 0.1 (float)"),
        ({"HyperParameters": {"x": "y" * 2501}}, "HyperParameters.x has 2501 characters"),
        ({"HyperParameters": {f"k{n}": "" for n in range(101)}}, "HyperParameters has 101 entries"),
        ({"ResourceConfig": {"InstanceCount": 0}}, "ResourceConfig.InstanceCount is 0"),
        ({"ResourceConfig": {"InstanceCount": True}}, "ResourceConfig.InstanceCount is True"),
        ({"ResourceConfig": {"InstanceCount": 900}}, "900 hosts"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": "60"}}, "StoppingCondition.MaxRuntimeInSeconds is '60'"),
        ({"Environment": {"B C": "1"}}, "Environment has the name 'B C'"),
        ({"Environment": {"": "1"}}, "Environment has the name ''"),
        ({"InputDataConfig": {}}, "InputDataConfig is {} (dict)"),
        ({"InputDataConfig": [3]}, "InputDataConfig[0] is 3 (int)"),
        ({"InputDataConfig": [{}]}, "lacks InputDataConfig[0].ChannelName"),
        ({"EnableManagedSpotTraining": "yes"}, "EnableManagedSpotTraining is 'yes'"),
        ({"CheckpointConfig": {"S3Uri": "s3://b/c"}}, "CheckpointConfig.S3Uri is 's3://b/c'"),
        ({"CheckpointConfig": {"LocalPath": "/data"}}, "CheckpointConfig.LocalPath is '/data'"),
        ({"OutputDataConfig": {"S3OutputPath": "s3://b/o"}}, "OutputDataConfig.S3OutputPath is 's3://b/o'"),
        (
            {"AlgorithmSpecification": {"MetricDefinitions": [{"Name": "a", "Regex": "("}]}},
            "MetricDefinitions[0].Regex",
        ),
        ({"AlgorithmSpecification": {"MetricDefinitions": [{"Name": "a", "Regex": "x"}]}}, "first group"),
        ({"AlgorithmSpecification": {"TrainingInputMode": "Fast"}}, "TrainingInputMode is 'Fast'"),
        ({"AlgorithmSpecification": {"ContainerEntrypoint": ["bash"]}}, "ContainerEntrypoint"),
        ({"AlgorithmSpecification": {"ContainerArguments": [1]}}, "AlgorithmSpecification.ContainerArguments[0] is 1"),
        ({"EnableNetworkIsolation": True}, "network isolation"),
        (
            {
                "ResourceConfig": {
                    "InstanceGroups": [
                        {"InstanceGroupName": "a", "InstanceType": "t", "InstanceCount": 1},
                        {"InstanceGroupName": "a", "InstanceType": "t", "InstanceCount": 1},
                    ]
                }
            },
            "has a group 'a'",
        ),
        ({"ProcessingJobName": "p"}, "unknown key ProcessingJobName"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], expected: str):
    with pytest.raises(UserError) as caught:
        parse_request(request_with(tmp_path, **changes))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://", "is s3://BUCKET/KEY"),
        ("ftp://bucket/train", "takes file:// only"),
        ("file:///no/such/place", "is not there"),
        ("file://", "and a path"),
    ],
)
def test_where_channels_may_lie(tmp_path: Path, uri: str, expected: str):
    request = request_with(tmp_path)
    request["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = uri
    with pytest.raises(UserError) as caught:
        parse_request(request)
    assert "InputDataConfig[0].DataSource.S3DataSource.S3Uri" in str(caught.value)
    assert expected in str(caught.value)


def test_one_channel_cannot_be_named_twice(tmp_path: Path):
    request = request_with(tmp_path)
    request["InputDataConfig"][1]["ChannelName"] = "train"
    with pytest.raises(UserError, match="'train' 2 times"):
        parse_request(request)


def test_what_only_containers_can_do(tmp_path: Path):
    request = request_with(
        tmp_path,
        EnableNetworkIsolation=True,
        CheckpointConfig={"LocalPath": "/data"},
        AlgorithmSpecification={"ContainerEntrypoint": ["bash"], "ContainerArguments": ["-c", "true"]},
    )
    request["InputDataConfig"][0]["InputMode"] = "FastFile"
    spec, _ = parse_request(request, "docker")
    assert (spec.network_isolation, spec.container_entrypoint, spec.container_arguments) == (
        True,
        ("bash",),
        ("-c", "true"),
    )
    assert spec.checkpoint is not None
    assert spec.checkpoint.local_path == "/data"
    assert spec.channels[0].input_mode == "FastFile"


def test_channels_of_groups(tmp_path: Path):
    request = request_with(
        tmp_path,
        ResourceConfig={
            "InstanceGroups": [
                {"InstanceGroupName": "a", "InstanceType": "t", "InstanceCount": 1},
                {"InstanceGroupName": "b", "InstanceType": "t", "InstanceCount": 2},
            ]
        },
    )
    source = request["InputDataConfig"][0]["DataSource"]["S3DataSource"]
    source["InstanceGroupNames"] = ["b"]
    spec, _ = parse_request(request)
    assert spec.sharers(spec.channels[0]) == ("algo-2", "algo-3")
    source["InstanceGroupNames"] = ["c"]
    with pytest.raises(UserError, match="for the instance group 'c'"):
        parse_request(request)


@pytest.mark.parametrize(
    ("operation", "keys"),
    [("CreateTrainingJob", TRAINING_KEYS), ("CreateProcessingJob", PROCESSING_KEYS)],
)
def test_our_keys_are_those_of_the_api(operation: str, keys: Mapping[str, str]):
    """Ours may be behind a newer API, and never beside it: a key that boto3 would refuse is refused here."""
    model = botocore.session.get_session().get_service_model("sagemaker").operation_model(operation).input_shape
    seen: dict[str, set[str]] = {}

    def walk(shape: Any, name: str) -> None:
        if shape.type_name == "list":
            walk(shape.member, name)
        elif shape.type_name == "structure":
            seen.setdefault(name, set()).update(shape.members)
            for member, inner in shape.members.items():
                walk(inner, member)

    walk(model, "")
    for name, words in keys.items():
        assert set(words.split()) <= seen[name], name
    assert set(keys) == set(seen)
    assert set(seen[""]) == set(keys[""].split()), "a new key of the API: honour it, or say why it does nothing"
