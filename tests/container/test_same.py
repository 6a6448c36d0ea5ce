"""One job, started in four ways: engine process, engine docker, and both SDKs through `slipway compose`.

Its script sees the same, and what it leaves is the same: model, output, failure, and every line of its log.
"""

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from runtime.testing import must
from tests.container.sdks import Client, find_sdk, stand_in

pytestmark = pytest.mark.container

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, os, pathlib, socket, sys, time

model, output = pathlib.Path(os.environ["SM_MODEL_DIR"]), pathlib.Path(os.environ["SM_OUTPUT_DATA_DIR"])
rank, host = int(os.environ["RANK"]), os.environ["SM_CURRENT_HOST"]
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "MINE")
seen = {name: value for name, value in os.environ.items() if name.startswith("SM_") or name in names}
seen["argv"] = sys.argv[1:]
seen["train"] = pathlib.Path(os.environ["SM_CHANNEL_TRAIN"], "rows.csv").read_text()
print("SEEN " + json.dumps(seen), flush=True)
print("  grüße", 'a "b" $HOME', flush=True)
print("to the error stream", file=sys.stderr, flush=True)
(model / "weights").write_text("of rank 1" if rank else "of rank 0")
(model / f"of-{rank}").write_text(f"model {rank}")
output.mkdir(parents=True, exist_ok=True)
(output / f"notes-{rank}").write_text(f"notes {rank}")
if "--fail" in sys.argv:
    # Rank 1 fails when rank 0 has come here: what each of them has done is then known.
    place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if rank == 0:
        with socket.create_server(place) as server:
            server.accept()[0].close()
        time.sleep(900)
    while True:
        try:
            socket.create_connection(place, 5).close()
            break
        except OSError:
            time.sleep(0.02)
    raise ValueError("as told: 你好")
"""
ENVIRONMENT = {"MINE": "a word"}
VOLATILE = {
    "SM_RESOURCE_CONFIG",  # the SDKs write fewer keys; the hosts in it are compared by SM_HOSTS
    "SM_INPUT_DATA_CONFIG",
    "SM_TRAINING_ENV",  # holds both
    "SM_MODULE_DIR",
    "SM_JOB_NAME",
    "SM_CODE_DIR",
    "SM_MASTER_PORT",  # engine process: hosts of one machine share its ports
    "SM_NETWORK_INTERFACE_NAME",  # engine process: they meet on its loopback interface
}
"""Variables whose texts belong to the way and not to the job."""
SDK_V3 = {
    *("SM_CHANNELS", "SM_CHANNEL_CODE", "SM_CHANNEL_SM_DRIVERS", "SM_CURRENT_INSTANCE_TYPE"),
    *("SM_INSTANCE_GROUPS_DICT", "SM_HP_SAGEMAKER_PROGRAM", "SM_SOURCE_DIR"),
}
"""It makes channels of its code and its drivers, has a name of its own for the instance, and exports its own words."""


@dataclass(frozen=True)
class Left:
    """What one run left, without what differs from run to run."""

    seen: list[Any]
    """By rank."""
    log: list[list[str]]
    """The ranks' own lines, by host; sorted, since nobody knows the order of two streams."""
    model: dict[str, str]
    output: dict[str, str]
    failure: str
    code: int


def tidy(text: str) -> str:
    """Take out what is no part of the job: SDK v2's suffix of host names, where the code lies, the tree's place."""
    text = re.sub(r"\b(algo-\d+)-[a-z0-9]{5}\b", r"\1", text)
    text = re.sub(r"/\S*?/\.work/attempt-1/algo-\d+/", "/opt/ml/", text)
    return re.sub(r"/opt/ml/(input/data/)?code/", "CODE/", text)


def archive(path: Path, below: str = "") -> dict[str, str]:
    """Files of an archive."""
    with tarfile.open(path) as tar:
        files = {member.name.removeprefix("./"): tar.extractfile(member) for member in tar if member.isfile()}
        held = {name: file.read().decode() for name, file in files.items() if file is not None}
    return {name.removeprefix(below): text for name, text in held.items() if name.startswith(below)}


def shown(log: str) -> dict[str, Any]:
    """What a rank showed of itself."""
    line = next(line for line in log.splitlines() if "SEEN " in line)
    values = json.loads(line.partition("SEEN ")[2])
    return {key: value for key, value in values.items() if key not in VOLATILE}


def left(record: Path, model: dict[str, str], output: dict[str, str], failure: str) -> Left:
    """Read what the platform kept, beside what the caller got."""
    told = json.loads(record.read_text())
    logs = sorted((record.parent / "logs").glob("*.log"))
    lines = [[line for line in tidy(log.read_text()).splitlines() if line.startswith("[algo")] for log in logs]
    seen = [shown(log.read_text()) for log in logs]
    assert tidy(told["failure_reason"] or "") == failure
    codes = {host["exit_code"] for host in told["attempts"][0]["hosts"]}
    assert len(codes) == 1
    told_lines = [sorted(line for line in log if "SEEN" not in line) for log in lines]
    return Left(seen, told_lines, model, output, failure, *codes)


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="same-") as directory:
        path = Path(directory)
        for name, text in (("src/train.py", PROGRAM), ("data/rows.csv", "1,2\n")):
            (path / name).parent.mkdir()
            (path / name).write_text(text)
        yield path


def by_slipway(engine: str, image: str, place: Path, values: dict[str, Any]) -> Left:
    out = place / engine / "same"
    words = [sys.executable, "-m", "runtime", "run", "--engine", engine, "--hosts", "2", "--output", str(out)]
    words += ["--image", image] if engine == "docker" else []
    words += ["--entrypoint", str(place / "src/train.py"), "--channel", f"train={place / 'data'}"]
    for name, value in values.items():
        words += ["--hp", f"{name}={value}"]
    for name, value in ENVIRONMENT.items():
        words += ["--env", f"{name}={value}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == int("fail" in values), done.stdout + done.stderr
    model = archive(out / "model.tar.gz") if done.returncode == 0 else {}
    failure = ""
    if done.returncode:
        failure = tidy((out / ".work/attempt-1/algo-1/output/failure").read_text())
    return left(out / "job.json", model, archive(out / "output.tar.gz"), failure)


def by_sdk(version: int, image: str, place: Path, values: dict[str, Any]) -> Left:
    python, why = find_sdk(version)
    if python is None:
        pytest.skip(why)
    client = Client(version, python, place, stand_in(place / "cache"))
    job = {"image": image, "hosts": 2, "source": str(place / "src"), "environment": ENVIRONMENT}
    job |= {"channels": {"train": str(place / "data")}, "hyperparameters": values}
    if version == 3:
        job |= {"command": "exec train", "hyperparameters": {"sagemaker_program": "train.py", **values}}
    fit = client.run({f"v{version}": job})[f"v{version}"]
    assert bool(fit.raised) == ("fail" in values), fit.text[-4000:]
    (record,) = fit.root.rglob("slipway/*/job.json")
    packed = Path(fit.model.removeprefix("file://"))
    # The SDKs pack a model after a failure too; the service does not.
    model = archive(packed) if not fit.raised else {}
    output = archive(packed.with_name("output.tar.gz"))
    data = {name.removeprefix("data/"): text for name, text in output.items() if name.startswith("data/")}
    return left(record, model, data, tidy(output.get("failure", "")))


WAYS: dict[str, Callable[[str, Path, dict[str, Any]], Left]] = {
    "process": lambda image, place, values: by_slipway("process", image, place, values),
    "docker": lambda image, place, values: by_slipway("docker", image, place, values),
    "sdk v2": lambda image, place, values: by_sdk(2, image, place, values),
    "sdk v3": lambda image, place, values: by_sdk(3, image, place, values),
}


@pytest.mark.parametrize("fails", [False, True], ids=["completes", "fails"])
def test_one_job_in_four_ways(image: str, place: Path, fails: bool):
    values: dict[str, Any] = {"lr": 0.1, "word": "größer $HOME", "steps": 3} | ({"fail": 1} if fails else {})
    results = {name: run(image, place, values) for name, run in WAYS.items()}
    first = results["docker"]
    assert first.model == ({} if fails else {"weights": "of rank 1", "of-0": "model 0", "of-1": "model 1"})
    assert first.output == {"notes-0": "notes 0", "notes-1": "notes 1"}
    assert [item["RANK"] for item in first.seen] == ["0", "1"]
    assert any("grüße" in line for line in first.log[0])
    assert first.code == int(fails)
    line = next(number for number, text in enumerate(PROGRAM.splitlines(), 1) if "raise" in text)
    assert first.failure == (f"algo-2 rank 1: ValueError: as told: 你好 at CODE/train.py:{line}" if fails else "")
    for name, result in results.items():
        found = differences(first.seen, result.seen)
        assert found.keys() <= (SDK_V3 if name == "sdk v3" else set()), f"{name}: {found}"
        assert replace(result, seen=first.seen) == first, name
    assert must("ps", "--all", "--quiet", "--filter", "label=slipway.job=same").split() == []


def differences(ones: list[Any], others: list[Any]) -> dict[str, list[Any]]:
    """What two runs showed their ranks differently."""
    found: dict[str, list[Any]] = {}
    for one, other in zip(ones, others, strict=True):
        for key in sorted(one.keys() | other.keys()):
            pair = [tidy(value) if isinstance(value, str) else value for value in (one.get(key), other.get(key))]
            if pair[0] != pair[1]:
                found[key] = pair
    return found
