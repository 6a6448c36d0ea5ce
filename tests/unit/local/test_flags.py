"""Flags build the request that a file would hold, and change one that a file holds."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from runtime.base.errors import UserError
from runtime.local.docker_options import DockerOptions
from runtime.local.flags import RunOptions, add_flags, read_flags
from runtime.local.request import parse_request


def read(*words: str, environ: dict[str, str] | None = None) -> tuple[dict[str, Any], RunOptions]:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return read_flags(parser.parse_args(words), environ or {})


def test_flags_alone_make_a_whole_request(tmp_path: Path):
    script = tmp_path / "my_train.py"
    script.touch()
    request, options = read(
        *("--entrypoint", str(script), "--hosts", "2", "--procs-per-host", "4", "--sample", "100", "--max-steps", "7"),
        *("--channel", f"train={tmp_path},distribution=ShardedByS3Key", "--hp", "lr=0.1", "--hp", "note=a=b"),
        *("--env", "MODE=x", "--env", "TOKEN", "--max-run", "90", "--checkpoints", str(tmp_path / "c")),
        *("--interrupt-after", "step:5", "--interrupt-after", "2s", "--interrupt-signal", "KILL"),
        environ={"TOKEN": "secret"},
    )
    spec, warnings = parse_request(request)
    assert warnings == []
    assert spec.name.startswith("my-train-2")
    assert dict(spec.hyperparameters) == {
        "sagemaker_program": "my_train.py",
        "slipway_procs_per_host": "4",
        "slipway_sample": "100",
        "slipway_max_steps": "7",
        "lr": "0.1",
        "note": "a=b",
    }
    assert dict(spec.environment) == {"MODE": "x", "TOKEN": "secret"}
    assert (spec.hosts, spec.max_run_s) == (("algo-1", "algo-2"), 90.0)
    assert spec.checkpoint is not None
    assert spec.checkpoint.store == tmp_path / "c"
    assert spec.channels[0].distribution == "ShardedByS3Key"
    assert options.code == script  # and nothing else of its directory
    assert options.sample == 100
    assert [(item.signal, item.after) for item in options.interruptions] == [("KILL", "step:5"), ("KILL", "2s")]


def test_checkpoints_are_on_unless_the_request_file_says_otherwise(tmp_path: Path):
    assert parse_request(read()[0])[0].checkpoint is not None
    file = tmp_path / "request.json"
    file.write_text('{"TrainingJobName": "a"}')
    assert parse_request(read(str(file))[0])[0].checkpoint is None


def test_flags_change_a_request_file(tmp_path: Path):
    file = tmp_path / "request.json"
    content = {
        "TrainingJobName": "from-file",
        "HyperParameters": {"sagemaker_program": "a.py", "sagemaker_submit_directory": "s3://b/c.tar.gz", "lr": "1"},
        "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
        "InputDataConfig": [
            {
                "ChannelName": "train",
                "ContentType": "image/png",
                "DataSource": {"S3DataSource": {"S3Uri": "s3://bucket/d", "S3DataDistributionType": "ShardedByS3Key"}},
            }
        ],
    }
    file.write_text(json.dumps(content))
    script = tmp_path / "b.py"
    script.touch()
    words = [
        "--entrypoint",
        str(script),
        "--channel",
        f"train={tmp_path}",
        "--output",
        str(tmp_path / "o"),
        "--hp",
        "lr=2",
    ]
    spec, _ = parse_request(read(str(file), *words)[0])
    assert spec.name == "from-file"
    assert dict(spec.hyperparameters) == {"sagemaker_program": "b.py", "lr": "2"}
    channel = spec.channels[0]
    assert (channel.source, channel.content_type, channel.distribution) == (tmp_path, "image/png", "ShardedByS3Key")


def test_the_output_directory_names_a_nameless_job(tmp_path: Path):
    assert read("--output", str(tmp_path / "my run_1"))[0]["TrainingJobName"] == "my-run-1"


def test_a_source_directory_is_submitted_whole(tmp_path: Path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "go.py").touch()
    request, options = read("--source-dir", str(tmp_path), "--entrypoint", "pkg/go.py")
    assert request["HyperParameters"]["sagemaker_program"] == "pkg/go.py"
    assert options.code == tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--shm-size", "1g"], "--engine docker"),
        (["--group", "gpu=two"], "'two' hosts"),
        (["--group", "gpu=2", "--hosts", "2"], "--hosts 2 meets --group gpu=2"),
        (["--entrypoint", "nothing.py"], "nothing.py is not there"),
        (["--entrypoint", "image_clasification"], "neither a file nor one of our workloads"),
        (["--source-dir", "."], "--source-dir without --entrypoint"),
        (["--channel", "train"], "--channel NAME=PATH"),
        (["--channel", "train=/x,colour=red"], "'colour=red'"),
        (["--hp", "lr"], "--hp KEY=VALUE"),
        (["--env", "NOT_SET_HERE"], "not set here"),
        (["--interrupt-after", "step:0"], "step:N"),
        (["no-such.json"], "no-such.json cannot be read"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], expected: str):
    with pytest.raises(UserError) as caught:
        read(*words)
    assert expected in str(caught.value)


def test_groups_are_hosts_numbered_in_order():
    spec, _ = parse_request(read("--group", "cpu=1", "--group", "gpu=2")[0])
    assert spec.hosts == ("algo-1", "algo-2", "algo-3")
    assert [(group.name, spec.hosts_of(group)) for group in spec.groups] == [
        ("cpu", ("algo-1",)),
        ("gpu", ("algo-2", "algo-3")),
    ]


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("2k", 2048), ("1.5m", 1572864), ("2g", 2 << 30), ("2GiB", 2 << 30), ("1tb", 1 << 40)]
)
def test_sizes_of_containers(text: str, size: int):
    options = read("--engine", "docker", "--shm-size", text, "--memory", "1g")[1]
    assert (options.engine, options.docker) == ("docker", DockerOptions(size, 1 << 30))


@pytest.mark.parametrize("text", ["0", "g", "-1", "1x", "1 g"])
def test_no_size(text: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        read("--engine", "docker", f"--shm-size={text}")
    assert "no size" in capsys.readouterr().err


def test_network_isolation_is_refused_by_name():
    with pytest.raises(UserError, match="--network-isolation"):
        parse_request(read("--network-isolation")[0])


def test_one_of_our_workloads_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("runtime.local.flags.workloads", lambda: {"my_workload": tmp_path})
    request, options = read("--entrypoint", "my_workload")
    assert request["HyperParameters"] == {"slipway_entrypoint": "my_workload"}
    assert options.code is None
