"""Input modes in containers: FIFOs and mounts across the border of a container, from directories and from S3."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.local.inputs.mounts import our_mounts
from runtime.local.request import ChannelSpec
from runtime.testing import docker, must, wait_until
from tests.inputs import SCRIPT, models, needs_fuse, records, run_use
from tests.s3 import FakeS3

pytestmark = [pytest.mark.container, needs_fuse]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sl-") as directory:
        yield Path(directory)


@pytest.fixture
def job(place: Path, slim: str) -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    """Run a request whose hosts evaluate ``show``; returns job.json, and what each host saw."""

    def run(show: str, *channels: dict[str, Any], hosts: int = 1, image: str = slim, out: str = "out", **request: Any):
        (place / "use.py").write_text(SCRIPT)
        request = {
            "TrainingJobName": "use",
            "InputDataConfig": list(channels),
            "ResourceConfig": {"InstanceCount": hosts, "InstanceType": "local"},
            "Environment": {"SHOW": show},
            **request,
        }
        (place / "request.json").write_text(json.dumps(request))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "runtime", "run", str(place / "request.json"), "--json"),
                *("--engine", "docker", "--image", image, "--hp", "slipway_profile=off"),
                *("--entrypoint", str(place / "use.py"), "--output", str(place / out)),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert (place / out / "job.json").exists(), done.stderr
        record = json.loads((place / out / "job.json").read_text())
        assert not held(place)
        return record, models(place / out) if record["status"] == "Completed" else {}

    return run


def channel(name: str, uri: object, mode: str = "File", **keys: Any) -> dict[str, Any]:
    """An entry of InputDataConfig; keys of S3DataSource are told by their names."""
    inside = {key: keys.pop(key) for key in ("S3DataType", "AttributeNames") if key in keys}
    source = {"S3DataType": "S3Prefix", "S3Uri": str(uri), **inside}
    if keys.pop("sharded", False):
        source["S3DataDistributionType"] = "ShardedByS3Key"
    return {"ChannelName": name, "InputMode": mode, "DataSource": {"S3DataSource": source}, **keys}


def file_system(name: str, path: Path, access: str) -> dict[str, Any]:
    system = {
        "FileSystemId": "fs-1",
        "FileSystemType": "EFS",
        "DirectoryPath": str(path),
        "FileSystemAccessMode": access,
    }
    return {"ChannelName": name, "DataSource": {"FileSystemDataSource": system}}


@pytest.fixture
def data(place: Path) -> Path:
    for name in ("b/3", "a/1", "a/2", "c"):
        path = place / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return place / "data"


def test_two_hosts_with_every_mode_at_one_time(job, data, place):
    lines = [{"image-ref": str(data / name), "class": index} for index, name in enumerate(("c", "a/1", "b/3"))]
    (place / "lines").write_text("\n".join(map(json.dumps, lines)))
    (place / "m.json").write_text(json.dumps([{"prefix": f"{data}/"}, "b/3", "c", "a/2"]))
    channels = (
        channel("pipe", data, "Pipe", sharded=True),
        channel("wrapped", data, "Pipe", RecordWrapperType="RecordIO", ShuffleConfig={"Seed": 5}),
        channel(
            "lines",
            place / "lines",
            "Pipe",
            S3DataType="AugmentedManifestFile",
            AttributeNames=["class", "image-ref"],
            RecordWrapperType="RecordIO",
        ),
        channel("fast", data, "FastFile"),
        channel("part", f"file://{data}", "FastFile", sharded=True),
        channel("named", place / "m.json", S3DataType="ManifestFile", sharded=True),
    )
    show = (
        "[[epoch('pipe', n) .decode() for n in range(2)], epoch('wrapped', 0).decode('latin-1'),"
        " epoch('lines', 0).decode('latin-1'), tree('fast'), tree('part'), tree('named'),"
        " os.path.ismount(inputs / 'fast'), os.access(inputs / 'fast/c', os.W_OK)]"
    )
    record, seen = job(show, *channels, hosts=2)
    assert record["status"] == "Completed", record["failure_reason"]
    first, second = (seen[f"algo-{host}"] for host in (1, 2))
    assert (first[0], second[0]) == (["a/1b/3"] * 2, ["a/2c"] * 2)
    assert sorted(records(first[1].encode("latin-1"))) == [b"a/1", b"a/2", b"b/3", b"c"]
    assert first[1] == second[1]
    assert records(first[2].encode("latin-1")) == [b"0", b"c", b"1", b"a/1", b"2", b"b/3"]
    assert first[3] == second[3] == {name: name for name in ("a/1", "a/2", "b/3", "c")}
    assert (set(first[4]), set(second[4])) == ({"a/1", "b/3"}, {"a/2", "c"})
    assert (set(first[5]), set(second[5])) == ({"b/3", "a/2"}, {"c"})
    assert (first[6], first[7]) == (True, False)
    rows = {(row["host"], row["channel"]): row for row in record["attempts"][-1]["inputs"]}
    assert rows["algo-2", "part"]["mount"]["opened"] == 2
    assert [epoch["end"] for epoch in rows["algo-1", "pipe"]["epochs"]] == ["complete", "complete", "never opened"]


def test_file_systems_may_be_written_to_when_the_request_says_so(job, data):
    show = "[os.access(inputs / name, os.W_OK) for name in ('ro', 'rw')] + [(inputs / 'rw/new').write_text('x')]"
    channels = (file_system("ro", data, "ro"), file_system("rw", data, "rw"))
    record, seen = job(show, *channels)
    assert record["status"] == "Completed", record["failure_reason"]
    assert seen == {"algo-1": [False, True, 1]}
    assert (data / "new").read_text() == "x"


def test_isolated_hosts_read_s3_through_the_platform(job, s3: FakeS3):
    # The endpoint is on this machine's loopback, and the containers reach nothing at all.
    s3.put_all({"data/a/x": b"x" * 100_000, "data/y": b"y"})
    channels = [channel(mode, s3.uri("data/"), mode) for mode in ("Pipe", "FastFile")]
    show = "[len(epoch('Pipe', 0)), {name: len(text) for name, text in tree('FastFile').items()}]"
    record, seen = job(show, *channels, EnableNetworkIsolation=True)
    assert record["status"] == "Completed", record["failure_reason"]
    assert seen == {"algo-1": [100_001, {"a/x": 100_000, "y": 1}]}


def test_another_user_reads_fifos_and_mounts(job, data, slim):
    text = f"FROM {slim}\nRUN mkdir -p /opt/ml/code && chmod 777 /opt/ml/code\nUSER 1234:1234\nENV HOME=/tmp\n"
    subprocess.run(["docker", "build", "--tag", f"{slim}-user", "-"], input=text, text=True, check=True)
    try:
        channels = [channel(mode, data, mode) for mode in ("Pipe", "FastFile")]
        show = "[os.getuid(), len(epoch('Pipe', 0)), len(tree('FastFile'))]"
        record, seen = job(show, *channels, image=f"{slim}-user")
    finally:
        docker("rmi", "--force", f"{slim}-user")
    assert record["status"] == "Completed", record["failure_reason"]
    assert seen == {"algo-1": [1234, 10, 4]}


def test_a_rank_that_is_killed_in_the_middle_of_a_stream(job, place):
    (place / "big").mkdir()
    with (place / "big/zeros").open("wb") as file:
        file.truncate(1 << 30)
    record, _ = job(
        "open(inputs / 'train_0', 'rb').read(100) and os.kill(os.getpid(), 9)", channel("train", place / "big", "Pipe")
    )
    assert record["status"] == "Failed"
    assert record["attempts"][-1]["inputs"][0]["epochs"][0]["end"] == "closed early"


@pytest.mark.parametrize("mount_too", [False, True])
def test_nothing_is_left_when_slipway_is_killed(place, data, slim, mount_too):
    (place / "use.py").write_text(SCRIPT)
    channels = [f"fast={data},mode=FastFile", f"train={data},mode=Pipe"]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "runtime", "run", "--engine", "docker", "--image", slim),
            *("--entrypoint", str(place / "use.py"), "--output", str(place / "killed")),
            *(word for channel in channels for word in ("--channel", channel)),
            *("--env", "SHOW=[print('SHOWN', tree('fast'), flush=True), time.sleep(600)]"),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        log = place / "killed/logs/algo-1.log"
        wait_until(lambda: log.exists() and "SHOWN {'a/1'" in log.read_text(), "the job has read its channel")
        if mount_too:
            server = next(pid for pid in children(process.pid) if b"fastfile" in command(pid))
            os.kill(server, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not held(place), "the mount is gone")
    labelled = ("ps", "--all", "--quiet", "--filter", "label=slipway.job=killed")
    wait_until(lambda: not must(*labelled).split(), "the containers are gone")
    assert [path.name for path in data.rglob("*") if path.is_file()]


def held(place: Path) -> list[str]:
    return [mount.path for mount in our_mounts() if mount.path.startswith(str(place))]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_both_engines_give_the_same_bytes(job, data, place):
    show = "[epoch('train', n).decode('latin-1') for n in range(3)]"
    entry = channel("train", data, "Pipe", ShuffleConfig={"Seed": 9}, RecordWrapperType="RecordIO")
    _, container = job(show, entry)
    spec = ChannelSpec("train", data, input_mode="Pipe", shuffle_seed=9, record_wrapper="RecordIO")
    record, process = run_use(place, show, spec, out="process")
    assert record.status == "Completed", record.failure_reason
    assert container == process
