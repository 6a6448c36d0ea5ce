"""Input modes in a request and in ``--channel``: what is taken, and what is refused with what is allowed."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from runtime.base.errors import UserError
from runtime.local.channel_flag import limit
from runtime.local.flags import add_flags, read_flags
from runtime.local.request import TrainingJobSpec, parse_request


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.txt").write_text("a")
    (tmp_path / "m.json").write_text(json.dumps([{"prefix": f"{tmp_path}/data/"}, "a.txt"]))
    (tmp_path / "lines").write_text(json.dumps({"image-ref": f"{tmp_path}/data/a.txt", "class": 1}) + "\n")
    (tmp_path / "train.py").write_text("print(1)")
    return tmp_path


def parsed(place: Path, *words: str, request: dict[str, Any] | None = None) -> TrainingJobSpec:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    if request is not None:
        (place / "request.json").write_text(json.dumps(request))
        words = (str(place / "request.json"), *words)
    else:
        words = ("--entrypoint", str(place / "train.py"), *words)
    made, options = read_flags(parser.parse_args(words), {})
    spec, _ = parse_request(made, options.engine)
    return limit(spec, options.limits)


def channel(place: Path, text: str):
    return parsed(place, "--channel", f"train={text}").channels[0]


def test_every_option_reaches_its_key(place):
    made = channel(
        place,
        f"{place}/data,mode=Pipe,distribution=ShardedByS3Key,content_type=text/csv,wrapper=RecordIO,compression=Gzip,"
        "shuffle=-7,latency=20ms,bandwidth=1.5m",
    )
    assert (made.input_mode, made.distribution, made.content_type) == ("Pipe", "ShardedByS3Key", "text/csv")
    assert (made.record_wrapper, made.compression, made.shuffle_seed) == ("RecordIO", "Gzip", -7)
    assert (made.latency_s, made.bytes_per_s) == (pytest.approx(0.02), 1.5 * 1024**2)


def test_manifests(place):
    made = channel(place, f"{place}/m.json,manifest=yes,mode=FastFile")
    assert (made.data_type, made.uri, made.mounted) == ("ManifestFile", f"{place}/m.json", True)
    made = channel(place, f"{place}/lines,attributes=image-ref:class,mode=Pipe,wrapper=RecordIO")
    assert (made.data_type, made.attributes) == ("AugmentedManifestFile", ("image-ref", "class"))


def test_a_seed_of_zero_is_a_seed(place):
    assert channel(place, f"{place}/data,shuffle=0").shuffle_seed == 0
    assert channel(place, f"{place}/data").shuffle_seed is None


def test_file_systems(place):
    made = channel(place, f"{place}/data,access=rw")
    assert (made.shared_file_system, made.read_only, made.input_mode, made.mounted) == (True, False, "File", False)
    made = channel(place, f"{place}/data,access=ro,latency=1s")
    assert (made.read_only, made.mounted) == (True, True)


@pytest.mark.parametrize("path", ["/fsx/data", "/data", "data/"])
def test_a_directory_plays_a_file_system_of_the_request(place, path):
    system = {
        "FileSystemId": "fs-1",
        "FileSystemType": "FSxLustre",
        "DirectoryPath": path,
        "FileSystemAccessMode": "rw",
    }
    request = {
        "TrainingJobName": "j",
        "InputDataConfig": [{"ChannelName": "train", "DataSource": {"FileSystemDataSource": system}}],
    }
    made = parsed(place, "--file-system", f"fs-1={place}", request=request).channels[0]
    assert (made.source, made.read_only) == (place / "data", False)
    with pytest.raises(UserError, match=r"no such FileSystemId.*fs-1"):
        parsed(place, "--file-system", f"fs-2={place}", request=request)
    system["DirectoryPath"] = "/../etc"
    with pytest.raises(UserError, match="is not in"):
        parsed(place, "--file-system", f"fs-1={place}", request=request)


def test_a_flag_keeps_what_the_request_says_of_a_channel(place):
    source = {
        "S3DataType": "AugmentedManifestFile",
        "S3Uri": "s3://bucket/lines",
        "S3DataDistributionType": "ShardedByS3Key",
        "AttributeNames": ["image-ref", "class"],
        "InstanceGroupNames": ["g"],
    }
    request = {
        "TrainingJobName": "j",
        "ResourceConfig": {"InstanceGroups": [{"InstanceGroupName": "g", "InstanceType": "t", "InstanceCount": 1}]},
        "InputDataConfig": [
            {
                "ChannelName": "train",
                "DataSource": {"S3DataSource": source},
                "InputMode": "Pipe",
                "RecordWrapperType": "RecordIO",
                "ShuffleConfig": {"Seed": 3},
            }
        ],
    }
    made = parsed(place, request=request).channels[0]
    assert (made.data_type, made.uri) == ("AugmentedManifestFile", "s3://bucket/lines")
    made = parsed(place, "--channel", f"train={place}/lines", request=request).channels[0]
    assert (made.data_type, made.attributes, made.groups) == (
        "AugmentedManifestFile",
        ("image-ref", "class"),
        ("g",),
    )
    assert (made.distribution, made.shuffle_seed, made.record_wrapper) == ("ShardedByS3Key", 3, "RecordIO")
    made = parsed(place, "--channel", f"train={place}/data", request=request).channels[0]
    assert (made.data_type, made.attributes) == ("S3Prefix", ())


@pytest.mark.parametrize(
    ("options", "told", "allowed"),
    [
        ("compression=Gzip", "Gzip in File mode", "in Pipe mode only"),
        ("wrapper=RecordIO,mode=FastFile", "RecordIO in FastFile mode", "in Pipe mode only"),
        ("mode=Fast", "InputMode is 'Fast'", "File, FastFile, Pipe"),
        ("distribution=Sharded", "'Sharded'", "FullyReplicated, ShardedByS3Key"),
        ("manifest=yes", "is a directory", "one file"),
        ("manifest=true", "manifest=true", "yes or no"),
        ("shuffle=abc", "shuffle=abc", "whole number"),
        ("latency=20,mode=Pipe", "latency=20", "with its unit"),
        ("bandwidth=0,mode=Pipe", "bandwidth=0", "bytes per second"),
        ("latency=20ms", "a File channel", "FastFile, Pipe"),
        ("access=rw,latency=20ms", "written to", "access=ro"),
        ("access=ro,mode=Pipe", "file system, with InputMode Pipe", "File"),
        ("access=ro,shuffle=3", "shuffle=", "access="),
        ("access=rx", "FileSystemAccessMode is 'rx'", "ro, rw"),
        ("mdoe=Pipe", "'mdoe=Pipe'", "mode="),
        ("more", "'more'", "REQUEST.json"),
    ],
)
def test_what_is_refused_says_what_is_allowed(place, options, told, allowed):
    with pytest.raises(UserError) as caught:
        channel(place, f"{place}/data,{options}")
    assert told in str(caught.value)
    assert allowed in str(caught.value)


@pytest.mark.parametrize("mode", ["File", "FastFile"])
def test_the_service_takes_augmented_manifests_in_pipe_mode_only(place, mode):
    with pytest.raises(UserError, match="Pipe mode only"):
        channel(place, f"{place}/lines,attributes=class,mode={mode}")


def test_an_augmented_manifest_needs_its_attributes(place):
    source = {"S3DataType": "AugmentedManifestFile", "S3Uri": f"{place}/lines"}
    entry = {"ChannelName": "train", "InputMode": "Pipe", "DataSource": {"S3DataSource": source}}
    request = {"TrainingJobName": "j", "InputDataConfig": [entry]}
    with pytest.raises(UserError, match="1 to 16"):
        parsed(place, request=request)
    source |= {"S3DataType": "S3Prefix", "AttributeNames": ["a"]}
    with pytest.raises(UserError, match="only an AugmentedManifestFile"):
        parsed(place, request=request)


def test_a_channel_may_not_lie_where_another_has_its_fifos(place):
    with pytest.raises(UserError, match="FIFO of epoch 0"):
        parsed(place, "--channel", f"a={place}/data,mode=Pipe", "--channel", f"a_0={place}/data")
    parsed(place, "--channel", f"a={place}/data", "--channel", f"a_0={place}/data,mode=Pipe")


def test_a_processing_input_may_be_a_manifest(place):
    source = {
        "S3Uri": f"file://{place}/m.json",
        "LocalPath": "/opt/ml/processing/input/data",
        "S3DataType": "ManifestFile",
        "S3InputMode": "File",
    }
    request = {
        "ProcessingJobName": "p",
        "AppSpecification": {"ImageUri": "image"},
        "ProcessingInputs": [{"InputName": "data", "S3Input": source}],
        "ProcessingResources": {
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
        },
    }
    spec, _ = parse_request(request, "docker")
    assert (spec.channels[0].data_type, spec.channels[0].uri) == ("ManifestFile", f"{place}/m.json")
    source |= {"S3InputMode": "Pipe"}
    with pytest.raises(UserError, match="training jobs only"):
        parse_request(request, "docker")
    source |= {"S3InputMode": "File", "S3CompressionType": "Gzip"}
    with pytest.raises(UserError, match="in Pipe mode only"):
        parse_request(request, "docker")


def test_the_api_takes_twenty_channels(place):
    words = [word for number in range(20) for word in ("--channel", f"c{number}={place}/data")]
    assert len(parsed(place, *words).channels) == 20
    with pytest.raises(UserError, match="takes 20"):
        parsed(place, *words, "--channel", f"more={place}/data")
