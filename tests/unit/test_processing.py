"""Processing jobs: their description, the text they leave, and the command `process`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.contract.processing_job import ProcessingJob, read_processing_job, write_message
from tests.conftest import GOLDEN, Tree


def write(tree: Tree, **files: object) -> None:
    config = Path(tree.base) / "config"
    config.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (config / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))


def test_a_job_of_local_mode(tree: Tree) -> None:
    write(tree, **json.loads((GOLDEN / "processingjobconfig_local_mode.json").read_text())["files"])
    job = read_processing_job(tree.paths)
    assert job.under_contract
    assert job.name == "scikit-2024-01-01-00-00-00-000"
    assert (job.current_host, job.hosts) == ("algo-2-x7jf7", ("algo-1-q2w3e", "algo-2-x7jf7"))
    assert {name: item.path for name, item in job.inputs.items()} == {
        "raw": "/opt/ml/processing/input/raw",
        "code": "/opt/ml/processing/input/code",
    }
    assert job.outputs["train"].uri == "s3://bucket/out/train"
    assert job.entrypoint == ("python3", "/opt/ml/processing/input/code/prepare.py")
    assert job.arguments == ("--ratio", "0.2", "--note", "a b")
    assert job.environment == {"STAGE": "test"}


def test_an_input_that_the_service_made_has_a_path_too(tree: Tree) -> None:
    made = {"LocalPath": "/opt/ml/processing/q", "DataDistributionType": "ShardedByS3Key", "InputMode": "Pipe"}
    write(tree, processingjobconfig={"ProcessingInputs": [{"InputName": "q", "DatasetDefinition": made}]})
    item = read_processing_job(tree.paths).inputs["q"]
    assert (item.path, item.distribution, item.input_mode, item.uri) == (
        "/opt/ml/processing/q", "ShardedByS3Key", "Pipe", "",
    )  # fmt: skip


def test_without_files_it_is_one_host(tree: Tree) -> None:
    assert read_processing_job(tree.paths) == ProcessingJob()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"processingjobconfig": "{"}, r"processingjobconfig\.json is not JSON"),
        ({"processingjobconfig": {"ProcessingInputs": ["x"]}}, r"no list of objects.*CreateProcessingJob"),
        ({"resourceconfig": {"hosts": ["algo-1", "algo-2"]}}, r"'current_host' is ''.*hosts: algo-1, algo-2"),
    ],
)
def test_a_malformed_description_is_named(tree: Tree, files: dict[str, object], words: str) -> None:
    write(tree, **files)
    with pytest.raises(UserError, match=words):
        read_processing_job(tree.paths)


@pytest.mark.parametrize("text", ["short", "ü" * 2000, "a" + "ü" * 2000, "😀" * 400, "half a pair: \ud800", ""])
def test_the_message_is_utf8_and_short_whatever_the_text(tree: Tree, text: str) -> None:
    write_message(tree.paths, text)
    data = (Path(tree.paths.output) / "message").read_bytes()
    assert len(data) <= 1024
    assert text.encode("utf-8", "backslashreplace").decode().startswith(data.decode("utf-8"))
    assert len(data) > 1020 or data.decode() == text.encode("utf-8", "backslashreplace").decode()


def process(tree: Tree, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.processing", *words],
        env={"PATH": os.environ["PATH"], "SAGEMAKER_BASE_DIR": str(tree.base)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_any_command_is_executed_as_it_is_with_its_own_exit_code(tree: Tree) -> None:
    done = process(tree, sys.executable, "-c", "import sys; print(sys.argv[1:]); sys.exit(7)", "a b", "$HOME")
    assert (done.returncode, done.stdout) == (7, "['a b', '$HOME']\n")


def test_what_cannot_run_leaves_a_message_in_a_processing_job_only(tree: Tree) -> None:
    assert process(tree, "no-such-command").returncode == 1
    assert not Path(tree.paths.output, "message").exists()
    write(tree, resourceconfig={"current_host": "algo-1", "hosts": ["algo-1"]})
    assert process(tree, "no-such-command").returncode == 1
    assert "no-such-command" in Path(tree.paths.output, "message").read_text()


def test_our_workloads_are_named_and_run(tree: Tree) -> None:
    told = process(tree, "--to", "tar").stderr
    assert "`process --to` names no processing workload. workloads here: convert" in told
    assert "`process image_classification` names no" in process(tree, "image_classification").stderr
    done = process(tree, "convert", "--help")
    assert (done.returncode, "slipway convert" in done.stdout) == (0, True)
