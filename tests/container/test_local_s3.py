"""`slipway run --engine docker` with S3 on this machine's loopback: containers reach it through the job's forwarder."""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.testing import S3FaultProxy, S3Faults, must
from tests.s3 import FakeS3

pytestmark = pytest.mark.container

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, os, pathlib, sys, time, urllib.error, urllib.request

host = os.environ["SM_CURRENT_HOST"]
base = pathlib.Path("/opt/ml")
words = dict(zip([word.lstrip("-") for word in sys.argv[1::2]], sys.argv[2::2]))
endpoint = os.environ.get("AWS_ENDPOINT_URL_S3", "")

def asked(url):
    try:
        return urllib.request.urlopen(url, timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code  # whoever refuses is there
    except OSError:
        return 0

channels = {}
for name in json.loads(os.environ["SM_CHANNELS"]):
    root = base / "input/data" / name
    channels[name] = {p.relative_to(root).as_posix(): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}
saved = base / "checkpoints"
synced = (base / "input/config/checkpointconfig.json").exists()
begun = sorted(p.relative_to(saved).as_posix() for p in saved.rglob("*") if p.is_file()) if synced else None
print("SHOWN " + json.dumps({
    "channels": channels, "begun": begun, "endpoint": endpoint, "asked": asked(endpoint) if endpoint else None,
    "known": sorted(name for name in os.environ if name.startswith(("AWS_", "S3_"))),
    "env": [os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_REGION")],
}), flush=True)
(base / "model" / f"weights-{host}").write_text("w")
(base / "output" / "data" / "out.txt").write_text(host)
if synced:
    step = saved / "step-1"
    step.mkdir(exist_ok=True)
    (step / f"shard-{host}").write_text(host)
    mark = step / f"shard-{host}.sagemaker-uploaded"
    deadline = time.monotonic() + 300
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    print("MARKED", mark.exists(), flush=True)
    (saved / "old").unlink(missing_ok=True)
"""
Run = Callable[..., dict[str, Any]]


def archive(text: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("train.py")
        member.size = len(text.encode())
        tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def channel(uri: str, name: str = "train", **more: object) -> dict[str, object]:
    return {"ChannelName": name, "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri, **more}}}


@pytest.fixture
def run(slim: str, s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a request whose code is in S3; returns job.json, with what the hosts printed."""
    s3.put_all({"code/sourcedir.tar.gz": archive(SCRIPT)})
    with tempfile.TemporaryDirectory(prefix="sl-") as directory:
        place = Path(directory)
        monkeypatch.setenv("SLIPWAY_CACHE_DIR", str(place / "cache"))

        def start(*words: str, environ: dict[str, str] | None = None, **changes: object) -> dict[str, Any]:
            name = f"s3-{os.getpid()}-{len(list(place.glob('slipway-runs/*')))}"
            request: dict[str, object] = {
                "TrainingJobName": name,
                "AlgorithmSpecification": {"TrainingImage": slim},
                "HyperParameters": {
                    "sagemaker_program": "train.py",
                    "sagemaker_submit_directory": s3.uri("code/sourcedir.tar.gz"),
                    "slipway_profile": "off",
                },
                "OutputDataConfig": {"S3OutputPath": s3.uri("results/")},
                **changes,
            }
            (place / "request.json").write_text(json.dumps(request))
            command = [
                sys.executable,
                "-m",
                "runtime",
                "run",
                str(place / "request.json"),
                "--engine",
                "docker",
                *words,
            ]
            done = subprocess.run(
                command,
                cwd=place,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})},
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            home = place / "slipway-runs" / name
            job = home / "job.json"
            record = json.loads(job.read_text()) if job.exists() else {}
            logs = {path.stem: path.read_text() for path in sorted((home / "logs").glob("*.log"))}
            shown = {
                host: json.loads(line.partition("SHOWN ")[2])
                for host, text in logs.items()
                for line in text.splitlines()
                if "SHOWN " in line
            }
            left = must("ps", "--all", "--quiet", "--filter", f"label=slipway.job={name}").split()
            left += must("network", "ls", "--quiet", "--filter", f"label=slipway.job={name}").split()
            text = done.stdout + done.stderr
            return {**record, "code": done.returncode, "text": text, "logs": logs, "shown": shown, "left": left}

        yield start


def test_two_hosts_with_everything_in_s3(s3: FakeS3, run: Run):
    s3.put_all({f"data/train/{number}.txt": str(number) for number in range(5)})
    s3.put_all({"data/eval.csv": "1,2", "saved/old": "3"})
    record = run(
        InputDataConfig=[
            channel(s3.uri("data/train"), S3DataDistributionType="ShardedByS3Key"),
            channel(s3.uri("data/eval.csv"), "eval"),
        ],
        ResourceConfig={"InstanceCount": 2},
        CheckpointConfig={"S3Uri": s3.uri("saved"), "LocalPath": "/opt/ml/checkpoints"},
    )
    assert (record["code"], record["status"]) == (0, "Completed"), record["text"]
    first, second = record["shown"]["algo-1"], record["shown"]["algo-2"]
    assert (sorted(first["channels"]["train"]), sorted(second["channels"]["train"])) == (
        ["0.txt", "2.txt", "4.txt"],
        ["1.txt", "3.txt"],
    )
    assert second["channels"]["eval"] == {"eval.csv": "1,2"}
    assert first["begun"] == second["begun"] == ["old"]
    assert not first["endpoint"].startswith("http://127."), "no container would reach it there"
    assert first["asked"] == 200
    assert first["env"] == ["AKIASLIPWAYTEST", "us-east-1"]
    assert all("MARKED True" in log for log in record["logs"].values())
    assert s3.keys("saved") == ["saved/step-1/shard-algo-1", "saved/step-1/shard-algo-2"]
    folder = f"results/{record['name']}/output"
    assert s3.keys("results") == [f"{folder}/model.tar.gz", f"{folder}/output.tar.gz"]
    with tarfile.open(fileobj=io.BytesIO(s3.get(f"{folder}/model.tar.gz"))) as tar:
        assert tar.getnames() == ["weights-algo-1", "weights-algo-2"]
    assert record["phases"]["downloading"] > 0
    secret = s3.environ["AWS_SECRET_ACCESS_KEY"]
    assert secret not in record["text"] + "".join(record["logs"].values())
    assert record["left"] == []


def test_a_slow_and_failing_s3(s3: FakeS3, run: Run):
    s3.put_all({f"data/{number}": str(number) * 5000 for number in range(12)})
    faults = S3Faults(latency_s=0.02, slow_down=0.15, reset=0.1, truncate=0.15, seed=5, most=2)
    with S3FaultProxy(s3.endpoint, faults) as proxy:
        record = run(environ={"AWS_ENDPOINT_URL_S3": proxy.url}, InputDataConfig=[channel(s3.uri("data/"))])
        assert (record["code"], record["status"]) == (0, "Completed"), record["text"]
        assert sum(proxy.played[name] for name in ("slow-down", "reset", "truncate")) > 0, proxy.played
    found = record["shown"]["algo-1"]["channels"]["train"]
    assert found == {str(number): str(number) * 5000 for number in range(12)}


def test_isolated_hosts_get_the_data_and_nothing_else(s3: FakeS3, run: Run):
    s3.put_all({"data/a": "1"})
    record = run(EnableNetworkIsolation=True, InputDataConfig=[channel(s3.uri("data"))])
    assert record["code"] == 1
    assert "isolated container cannot fetch" in record["failure_reason"]
    s3.put_all({"code-channel/train.py": SCRIPT})
    record = run(
        EnableNetworkIsolation=True,
        HyperParameters={
            "sagemaker_program": "train.py",
            "sagemaker_submit_directory": "/opt/ml/input/data/code",
            "slipway_profile": "off",
        },
        InputDataConfig=[channel(s3.uri("data")), channel(s3.uri("code-channel"), "code")],
    )
    assert (record["code"], record["status"]) == (0, "Completed"), record["text"]
    assert record["shown"]["algo-1"]["known"] == []
    assert record["shown"]["algo-1"]["channels"]["train"] == {"a": "1"}
    assert s3.keys("results") == [f"results/{record['name']}/output/{name}.tar.gz" for name in ("model", "output")]


def test_an_endpoint_that_containers_reach_is_used_as_it_is(bridge_s3: FakeS3, run: Run):
    bridge_s3.put_all({"code/sourcedir.tar.gz": archive(SCRIPT)})
    record = run(
        environ=bridge_s3.environ,
        HyperParameters={
            "sagemaker_program": "train.py",
            "sagemaker_submit_directory": bridge_s3.uri("code/sourcedir.tar.gz"),
            "slipway_profile": "off",
        },
        OutputDataConfig={"S3OutputPath": bridge_s3.uri("results")},
    )
    assert (record["code"], record["status"]) == (0, "Completed"), record["text"]
    assert record["shown"]["algo-1"]["endpoint"] == bridge_s3.endpoint
