"""Whole runs of engine process with everything in S3: code, inputs, checkpoints, results."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.testing.s3_faults import S3FaultProxy, S3Faults
from tests.conftest import wait_for
from tests.s3 import FakeS3

SCRIPT = """
import json, mmap, os, pathlib, signal, struct, sys, time

base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
state = pathlib.Path(os.environ["SLIPWAY_STATE_DIR"])
host = os.environ["SM_CURRENT_HOST"]
words = dict(zip([word.lstrip("-") for word in sys.argv[1::2]], sys.argv[2::2]))
channels = {}
for channel in json.loads(os.environ["SM_CHANNELS"]):
    root = pathlib.Path(os.environ["SM_CHANNEL_" + channel.upper()])
    files = sorted(path for path in root.rglob("*") if path.is_file())
    channels[channel] = {path.relative_to(root).as_posix(): path.read_text() for path in files}
saved = base / "checkpoints"
begun = {path.name: path.read_text() for path in saved.iterdir()} if saved.is_dir() else None
print("SHOWN " + json.dumps({"channels": channels, "begun": begun}), flush=True)
(base / "model" / f"weights-{host}").write_text("w")
(base / "output" / "data" / "out.txt").write_text(host)
if saved.is_dir():
    (saved / f"step-of-{host}").write_text("7")
"""

Run = Callable[..., dict[str, Any]]


def archive(**files: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


@pytest.fixture
def run(s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a request with code in S3; returns job.json, with what the hosts printed."""
    monkeypatch.setenv("SLIPWAY_CACHE_DIR", str(tmp_path / "cache"))
    s3.put_all({"code/sourcedir.tar.gz": archive(train__py=SCRIPT)})

    def start(*words: str, **changes: object) -> dict[str, Any]:
        request: dict[str, object] = {
            "TrainingJobName": "job",
            "HyperParameters": {
                "sagemaker_program": "train.py",
                "sagemaker_submit_directory": s3.uri("code/sourcedir.tar.gz"),
                "slipway_profile": "off",
            },
            "OutputDataConfig": {"S3OutputPath": s3.uri("results")},
            **changes,
        }
        (tmp_path / "request.json").write_text(json.dumps(request))
        done = subprocess.run(
            [sys.executable, "-m", "runtime", "run", str(tmp_path / "request.json"), *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        home = tmp_path / "slipway-runs" / "job"
        record = json.loads((home / "job.json").read_text()) if (home / "job.json").exists() else {}
        logs = {path.stem: path.read_text() for path in sorted((home / "logs").glob("*.log"))}
        shown = {
            host: json.loads(line.partition("SHOWN ")[2])
            for host, text in logs.items()
            for line in text.splitlines()
            if "SHOWN " in line
        }
        return {**record, "code": done.returncode, "text": done.stdout + done.stderr, "logs": logs, "shown": shown}

    return start


def channel(uri: str, name: str = "train", **more: object) -> dict[str, object]:
    return {"ChannelName": name, "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri, **more}}}


def test_everything_in_s3(s3: FakeS3, run: Run, tmp_path: Path):
    s3.put_all({f"data/train/{number}.txt": str(number) for number in range(4)})
    s3.put_all({"data/eval.csv": "1,2", "saved/old": "3"})
    record = run(
        InputDataConfig=[
            channel(s3.uri("data/train"), S3DataDistributionType="ShardedByS3Key"),
            channel(s3.uri("data/eval.csv"), "eval"),
        ],
        ResourceConfig={"InstanceCount": 2},
        CheckpointConfig={"S3Uri": s3.uri("saved")},
    )
    assert (record["code"], record["status"]) == (0, "Completed"), record["text"]
    shards = [record["shown"][host]["channels"]["train"] for host in ("algo-1", "algo-2")]
    assert [sorted(shard) for shard in shards] == [["0.txt", "2.txt"], ["1.txt", "3.txt"]]
    assert record["shown"]["algo-2"]["channels"]["eval"] == {"eval.csv": "1,2"}
    assert record["shown"]["algo-1"]["begun"] == {"old": "3"}
    assert s3.keys("saved") == ["saved/old", "saved/step-of-algo-1", "saved/step-of-algo-2"]
    assert s3.keys("results") == ["results/job/output/model.tar.gz", "results/job/output/output.tar.gz"]
    with tarfile.open(fileobj=io.BytesIO(s3.get("results/job/output/model.tar.gz"))) as tar:
        assert tar.getnames() == ["weights-algo-1", "weights-algo-2"]
    assert record["uploaded"]["model.tar.gz"] == s3.uri("results/job/output/model.tar.gz")
    assert record["phases"]["downloading"] > 0
    assert record["phases"]["uploading"] > 0
    assert "Downloading" in [transition["status"] for transition in record["transitions"]]
    assert record["paths"]["checkpoints"] == s3.uri("saved")
    assert [report["end"] for report in record["checkpoint_sync"]] == ["flushed", "flushed"]


def test_credentials_are_nowhere_to_be_read(s3: FakeS3, run: Run, tmp_path: Path):
    s3.put_all({"data/a": "1"})
    record = run(InputDataConfig=[channel(s3.uri("data"))])
    assert record["code"] == 0, record["text"]
    secret = s3.environ["AWS_SECRET_ACCESS_KEY"]
    assert secret not in record["text"]
    found = [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert found == []


def test_a_second_run_downloads_nothing(s3: FakeS3, run: Run):
    s3.put_all({"data/a": "1", "data/b": "2"})
    assert "downloading 2 objects" in run(InputDataConfig=[channel(s3.uri("data"))])["text"]
    again = run(InputDataConfig=[channel(s3.uri("data"))])
    assert "nothing to download" in again["text"]
    assert again["shown"]["algo-1"]["channels"]["train"] == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"InputDataConfig": "data/missing"}, "no object begins so"),
        (
            {"OutputDataConfig": {"S3OutputPath": "s3://no-such-bucket-here/x"}},
            "Bucket 'no-such-bucket-here' is not there",
        ),
        ({"CheckpointConfig": {"S3Uri": "s3://no-such-bucket-here/x"}}, "Bucket 'no-such-bucket-here' is not there"),
    ],
)
def test_what_is_missing_fails_the_job_before_it_starts(s3: FakeS3, run: Run, changes: dict[str, Any], told: str):
    s3.put_all({"data/there/a": "1"})
    if "InputDataConfig" in changes:
        changes = {"InputDataConfig": [channel(s3.uri(str(changes["InputDataConfig"])))]}
    record = run(**changes)
    assert record["code"] == 1
    assert record["status"] == "Failed"
    assert told in record["failure_reason"]
    assert record["attempts"] == []


def test_code_that_is_not_there_is_the_containers_error(s3: FakeS3, run: Run):
    record = run(
        HyperParameters={
            "sagemaker_program": "train.py",
            "sagemaker_submit_directory": s3.uri("code/missing.tar.gz"),
        }
    )
    assert record["code"] == 1
    assert "code/missing.tar.gz cannot be fetched: there is no such object" in record["failure_reason"]


def test_output_of_the_command_line_keeps_results_here(s3: FakeS3, run: Run, tmp_path: Path):
    record = run("--output", str(tmp_path / "slipway-runs" / "job"))
    assert record["code"] == 0, record["text"]
    assert s3.keys("results") == []
    assert record["uploaded"] == {}


def test_faults_are_played_to_everybody_and_counted(s3: FakeS3, run: Run):
    s3.put_all({f"data/{number}": "x" * 1000 for number in range(8)})
    faults = "latency=2ms,slow-down=20%,truncate=20%,seed=2"
    record = run("--s3-faults", faults, InputDataConfig=[channel(s3.uri("data"))])
    assert record["code"] == 0, record["text"]
    assert record["s3_faults"]["requests"] > 10
    assert record["s3_faults"]["slow-down"] + record["s3_faults"]["truncate"] > 0
    assert len(record["shown"]["algo-1"]["channels"]["train"]) == 8
    assert len(s3.keys("results")) == 2


def test_a_processing_job_from_s3_to_s3(s3: FakeS3, tmp_path: Path):
    s3.put_all({"in/1.txt": "one", "in/2.txt": "two"})
    copy = "mkdir -p {0}/deep; for f in {1}/*; do cp $f {0}/deep/; done; echo done > {0}/end"
    base = "$SAGEMAKER_BASE_DIR/processing"
    request = {
        "ProcessingJobName": "copy",
        "AppSpecification": {
            "ImageUri": "none",
            "ContainerEntrypoint": ["sh", "-c"],
            "ContainerArguments": [copy.format(f"{base}/output", f"{base}/input")],
        },
        "ProcessingInputs": [
            {"InputName": "in", "S3Input": {"S3Uri": s3.uri("in"), "LocalPath": "/opt/ml/processing/input"}}
        ],
        "ProcessingOutputConfig": {
            "Outputs": [
                {
                    "OutputName": "out",
                    "S3Output": {
                        "S3Uri": s3.uri("out"),
                        "LocalPath": "/opt/ml/processing/output",
                        "S3UploadMode": "EndOfJob",
                    },
                }
            ]
        },
        "ProcessingResources": {"ClusterConfig": {"InstanceCount": 1, "InstanceType": "local"}},
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    done = subprocess.run(
        [sys.executable, "-m", "runtime", "run", str(tmp_path / "request.json")],
        cwd=tmp_path,
        env={**os.environ, "SLIPWAY_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert s3.keys("out") == ["out/deep/1.txt", "out/deep/2.txt", "out/end"]
    assert s3.get("out/deep/2.txt") == b"two"
    record = json.loads((tmp_path / "slipway-runs/copy/job.json").read_text())
    assert record["uploaded"] == {"out": s3.uri("out")}


def test_ctrl_c_ends_a_download(s3: FakeS3, tmp_path: Path):
    s3.put_all({"data/big": b"x" * 3_000_000})
    with S3FaultProxy(s3.endpoint, S3Faults(bandwidth=20_000)) as proxy:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "runtime", "run", "--entrypoint", "image_classification", "--output", "out"),
                *("--channel", f"train={s3.uri('data')}"),
            ],
            cwd=tmp_path,
            env={**os.environ, "AWS_ENDPOINT_URL_S3": proxy.url, "SLIPWAY_CACHE_DIR": str(tmp_path / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_for(lambda: list(tmp_path.glob("cache/s3/objects/*.part")), "the download")
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=120)
    assert process.returncode == 3, text
    record = json.loads((tmp_path / "out/job.json").read_text())
    assert (record["status"], record["attempts"]) == ("Stopped", [])
    assert "SIGINT to slipway run: stopped before any host was started" in text


def test_a_model_that_is_not_to_be_packed(s3: FakeS3, run: Run):
    output = {"S3OutputPath": s3.uri("results"), "CompressionType": "NONE"}
    record = run(OutputDataConfig=output, ResourceConfig={"InstanceCount": 2})
    assert record["code"] == 0, record["text"]
    folder = "results/job/output"
    assert s3.keys("results") == [*(f"{folder}/model/weights-algo-{n}" for n in (1, 2)), f"{folder}/output.tar.gz"]
    assert record["uploaded"]["model"] == s3.uri(f"{folder}/model")
    again = run(OutputDataConfig=output)  # the directory of the earlier model is set aside
    assert (again["code"], sorted(path.name for path in Path(again["paths"]["model"]).iterdir())) == (
        0,
        ["weights-algo-1"],
    )
