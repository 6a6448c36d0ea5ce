"""What the flags of `slipway check` mean."""

import argparse
import json
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.check.clauses.common import argument, hyperparameter
from runtime.check.command import read_job
from runtime.check.flags import add_flags
from runtime.check.lab import OwnJob


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return parser.parse_args(["image", *words])


def test_without_a_job_there_is_none() -> None:
    assert read_job(parse("--json", "--only", "start")) is None


def test_flags_describe_a_job(tmp_path: Path) -> None:
    job = read_job(
        parse("--hp", "steps=3=4", "--channel", f"rows={tmp_path}", "--env", "A=", "--failing-hp", "steps=x")
    )
    assert job == OwnJob({"steps": "3=4"}, {"rows": tmp_path}, {"A": ""}, failing={"steps": "x"})


def test_a_request_gives_the_job_and_flags_change_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    request = {
        "TrainingJobName": "job",
        "RoleArn": "arn",
        "HyperParameters": {"steps": "3", "lr": "1"},
        "Environment": {"A": "b"},
        "AlgorithmSpecification": {"TrainingImage": "x", "TrainingInputMode": "File", "ContainerArguments": ["--fast"]},
        "InputDataConfig": [
            {"ChannelName": "rows", "DataSource": {"S3DataSource": {"S3Uri": f"file://{tmp_path / 'data'}"}}}
        ],
        "OutputDataConfig": {"S3OutputPath": f"file://{tmp_path}"},
        "ResourceConfig": {"InstanceType": "local", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request))
    job = read_job(parse("--job", str(path), "--hp", "lr=2"))
    assert job == OwnJob({"steps": "3", "lr": "2"}, {"rows": tmp_path / "data"}, {"A": "b"}, arguments=("--fast",))


def test_a_processing_request_gives_entrypoint_and_arguments(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    told = {"ImageUri": "x", "ContainerEntrypoint": ["convert"], "ContainerArguments": ["--name", "two words"]}
    path.write_text(json.dumps({"ProcessingJobName": "job", "AppSpecification": told, "Environment": {"A": "b"}}))
    assert read_job(parse("--job", str(path))) == OwnJob(
        environment={"A": "b"}, entrypoint=("convert",), arguments=("--name", "two words")
    )


def test_arguments_that_are_no_list_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"ProcessingJobName": "job", "AppSpecification": {"ContainerArguments": "--name x"}}))
    with pytest.raises(UserError, match=r"ContainerArguments is '--name x'\. the API takes a list"):
        read_job(parse("--job", str(path)))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--hp", "steps"), "--hp steps"),
        (("--hp", "=3"), "--hp"),
        (("--channel", "rows=/does/not/exist"), "is no directory"),
        (("--job", "/does/not/exist.json"), "cannot be read"),
    ],
)
def test_mistakes_are_named(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_job(parse(*words))


def test_a_hyperparameter_is_found_as_an_argument_or_as_a_variable() -> None:
    assert argument(["--empty", ""], "empty") == ""
    assert argument(["--name"], "name") is None
    seen = {"argv": ["--lr=1", "--text", "two words"], "environ": {"SM_HP_LR": "9", "SM_HP_MODE": "fast"}}
    assert [hyperparameter(seen, name) for name in ("lr", "text", "mode", "none")] == ["1", "two words", "fast", None]
