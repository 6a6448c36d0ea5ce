"""Processing jobs and faults on a Docker engine: what a job sees of them from inside, and what is left afterwards."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.testing import Cluster, docker, must, wait_until

pytestmark = pytest.mark.container

ROOT = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="tc, iptables and mount need root on the engine's machine")

# Goes on until it has seen what it was told to look for, in order; then it is complete.
WATCHER = """
import errno, json, mmap, os, pathlib, socket, struct, sys, threading, time

state, host = pathlib.Path(os.environ["SLIPWAY_STATE_DIR"]), os.environ["SM_CURRENT_HOST"]
words = dict(zip([word.lstrip("-") for word in sys.argv[1::2]], sys.argv[2::2]))
progress = open(state / "progress", "r+b")
slots = mmap.mmap(progress.fileno(), 0)
wanted, saved = words.get(host, words.get("all", "")).split(), pathlib.Path(words.get("disk", "/opt/ml/output/data"))
phase, told, heard = b"x", threading.Event(), threading.Event()
server = socket.create_server(("", 9000))

def serve():
    while True:
        client, _ = server.accept()
        said = phase
        with client:
            client.settimeout(1.5)  # one that was cut off never answers
            try:
                client.sendall(said)
                if said == b"d" and client.recv(1) == b"!":
                    told.set()
            except OSError:
                pass

def hear():
    with socket.create_connection((peer, 9000), 1.5) as client:
        client.settimeout(1.5)
        said = client.recv(1)
        client.sendall(b"!")
    if said == b"d":
        heard.set()
    return said

def ask(peer):
    began = time.monotonic()
    try:
        hear()
    except OSError:
        return None
    return time.monotonic() - began

def said():
    try:
        return hear()
    except OSError:
        return b""

def write(step):
    began = time.monotonic()
    path = saved / f"of-{step % 50}"
    try:
        path.unlink(missing_ok=True)
        (saved / f"new-{step}").write_bytes(b"x" * 400_000)
        (saved / f"new-{step}").replace(path)
    except OSError as error:
        (saved / f"new-{step}").unlink(missing_ok=True)
        return error.errno
    return time.monotonic() - began

LOOKS = {
    "late": lambda: (ask(peer) or 0) > 0.25,
    "near": lambda: (ask(peer) or 9) < 0.2,
    "gone": lambda: ask(peer) is None,
    "full": lambda: write(step) == errno.ENOSPC,
    "free": lambda: write(step) not in (errno.ENOSPC,),
    "slow": lambda: write(step) > 0.5,
    "later": lambda: step > 200,
    "fast": lambda: write(step) < 0.4,
}
threading.Thread(target=serve, daemon=True).start()
peer = "algo-2" if host == "algo-1" else "algo-1"
alone = "alone" in words
deadline, step = time.monotonic() + 200, 0
while time.monotonic() < deadline and not alone and ask(peer) is None:
    time.sleep(0.02)
phase = b"r"
while time.monotonic() < deadline and not alone and said() not in (b"r", b"d"):
    time.sleep(0.02)
while time.monotonic() < deadline and wanted:
    step += 1
    struct.pack_into("<qd", slots, 0, step, time.time())
    if LOOKS[wanted[0]]():
        print("SEEN", wanted.pop(0), "at", step, flush=True)
        seen_at = time.monotonic()
    time.sleep(0.02)
phase = b"d"
while time.monotonic() < deadline and not alone and not (heard.is_set() and told.is_set()):
    said()
    time.sleep(0.02)
sys.exit(f"not seen: {wanted}" if wanted else 0)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sl-") as directory:
        (Path(directory) / "watcher.py").write_text(WATCHER)
        yield Path(directory)


def run_request(request: dict[str, Any], place: Path, *words: str) -> SimpleNamespace:
    """Run a request to its end, and return job.json with its keys as attributes."""
    path = place / "request.json"
    path.write_text(json.dumps(request))
    command = [sys.executable, "-m", "runtime", "run", str(path), "--engine", "docker", "--output", str(place / "out")]
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    print(done.stdout, done.stderr)
    told = (place / "out/job.json").read_text()
    return json.loads(told, object_hook=lambda value: SimpleNamespace(**value))


@pytest.fixture
def watch(slim: str, place: Path) -> Callable[..., SimpleNamespace]:
    """Run the watcher on both hosts, each of which must see something."""

    def run(*faults: str, hosts: int = 2, more: dict[str, Any] | None = None, **hp: str) -> SimpleNamespace:
        request: dict[str, Any] = {
            "TrainingJobName": f"watch-{os.getpid()}",
            "AlgorithmSpecification": {"TrainingImage": slim},
            "ResourceConfig": {"InstanceCount": hosts},
            "HyperParameters": {"slipway_profile": "off", **hp},
            **(more or {}),
        }
        words = ["--entrypoint", str(place / "watcher.py")]
        return run_request(request, place, *words, *(word for fault in faults for word in ("--fault", fault)))

    return run


def log_of(place: Path, host: int) -> str:
    return (place / f"out/logs/algo-{host}.log").read_text()


def mounts_below(place: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(place) in line]


# --- faults -----------------------------------------------------------------------------------------------------


@needs_root
def test_latency_comes_and_goes(watch: Callable[..., SimpleNamespace], place: Path):
    record = watch("latency:algo-2=400ms~50ms@step:3+4s", all="late near")
    assert record.status == "Completed", record.failure_reason
    assert "SEEN near" in log_of(place, 1)
    (played,) = record.faults
    assert (played.host, played.error) == ("algo-2", None)
    assert (played.ended or 0) - (played.at or 0) > 3.9


@needs_root
def test_packets_that_are_dropped_come_back(watch: Callable[..., SimpleNamespace], place: Path):
    record = watch("drop:algo-2@step:3+4s", all="gone near")
    assert record.status == "Completed", record.failure_reason


def test_an_interface_that_was_taken_comes_back(watch: Callable[..., SimpleNamespace], place: Path):
    record = watch("disconnect:algo-2@step:3+3s", all="gone near")
    assert record.status == "Completed", record.failure_reason
    assert record.faults[0].ended is not None


def test_a_frozen_host_is_silent_and_goes_on(watch: Callable[..., SimpleNamespace], place: Path):
    record = watch("freeze:algo-2@step:3+4s", **{"algo-1": "gone near", "algo-2": "near"})
    assert record.status == "Completed", record.failure_reason
    assert "SEEN gone" in log_of(place, 1)
    assert record.faults[0].error is None


@needs_root
def test_a_disk_gets_full_and_free_again(watch: Callable[..., SimpleNamespace], place: Path):
    record = watch(
        "full-disk:/opt/ml/checkpoints=32m@step:2+2s",
        more={"CheckpointConfig": {"S3Uri": str(place / "saved")}},
        all="full free",
        disk="/opt/ml/checkpoints",
    )
    assert record.status == "Completed", record.failure_reason
    assert sorted(played.host for played in record.faults) == ["algo-1", "algo-2"]
    assert any((place / "out/checkpoints").glob("of-*")) or any((place / "saved").glob("of-*")), (
        "what was written before and after is synced"
    )
    assert mounts_below(place) == []
    assert not list((place / "out").glob(".work"))


@needs_root
def test_a_disk_gets_slow_and_fast_again(watch: Callable[..., SimpleNamespace], place: Path):
    record = watch(
        "slow-disk:algo-1:/opt/ml/model=300k@step:2+6s", hosts=1, alone="yes", all="slow fast", disk="/opt/ml/model"
    )
    assert record.status == "Completed", record.failure_reason
    assert (place / "out/model.tar.gz").is_file(), "what lay on the disk is packed"
    assert mounts_below(place) == []


def test_a_lost_host_is_replaced_where_the_request_has_retries(watch: Callable[..., SimpleNamespace], place: Path):
    record = watch("kill:algo-2@step:3", more={"RetryStrategy": {"MaximumRetryAttempts": 1}}, all="later")
    assert record.status == "Completed", record.failure_reason
    assert len(record.attempts) == 2
    assert [item.status for item in record.transitions].count("Restarting") == 1
    assert record.attempts[0].hosts[1].exit_code == 137


def test_a_rank_of_a_container_is_killed(watch: Callable[..., SimpleNamespace], place: Path):
    record = watch("kill:rank:1@step:3", all="gone")
    assert record.status == "Failed"
    assert record.faults[0].host == "algo-2"
    assert "rank 1" in (record.failure_reason or "")


@needs_root
def test_nothing_stays_mounted_when_slipway_run_is_killed(slim: str, place: Path):
    command = [sys.executable, "-m", "runtime", "run", "--engine", "docker", "--image", slim]
    command += ["--entrypoint", str(place / "watcher.py"), "--output", str(place / "out")]
    command += ["--hp", "alone=yes", "--hp", "all=full", "--hp", "disk=/opt/ml/checkpoints"]
    command += ["--fault", "full-disk:/opt/ml/checkpoints=32m@step:100000000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trees = place / "out/.work/attempt-1"
    wait_until(lambda: any(trees.glob("algo-1/checkpoints/of-*")), "the first file")
    assert mounts_below(place)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not mounts_below(place), "the guard unmounts")
    assert any(trees.glob("algo-1/checkpoints/of-*")), "what was written is still there, for the next run"
    label = "label=slipway.job=out"
    wait_until(lambda: not must("ps", "--all", "--quiet", "--filter", label).split(), "the guard removes containers")


# --- the test kit -----------------------------------------------------------------------------------------------

LISTENS = ("python3", "-c", "import socket; s = socket.create_server(('', 9000))\nwhile True: s.accept()[0].close()")
TRIES = """
import socket, time
began = time.time()
socket.create_connection(('algo-2', 9000), 9).close()
print(time.time() - began)
"""


@needs_root
def test_a_cluster_of_a_test_plays_the_same_faults(slim: str, tmp_path: Path):
    with Cluster(slim, tmp_path / "job", hosts=2) as cluster:
        cluster.disk("algo-1", "/opt/ml/checkpoints", megabytes=16)
        cluster.start(command=LISTENS)

        def seconds() -> float:
            done = docker("exec", cluster[1].name, "python3", "-c", TRIES)
            return float(done.stdout) if done.returncode == 0 else 99.0

        wait_until(lambda: seconds() < 9, "algo-2 listens")
        player = cluster.play("latency:algo-2=600ms", "full-disk:algo-1:/opt/ml/checkpoints=16m@100ms")
        wait_until(lambda: len(player.record) == 2, "both faults were played")
        wait_until(lambda: 0.6 <= seconds() < 9, "connections are late")
        write = "head -c 100000 /dev/zero > $(mktemp -p /opt/ml/checkpoints)"
        wait_until(lambda: "No space left" in docker("exec", cluster[1].name, "sh", "-c", write).stderr, "full")
        assert [played.error for played in player.record] == [None, None]
        began = cluster[2].kill()
        assert cluster[2].wait().at - began < 60
    assert [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(tmp_path) in line] == []


ECHO = (
    "python3",
    "-c",
    "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9))\n"
    "while True: s.sendto(*s.recvfrom(99))",
)
COUNTS = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.5)
place, heard = (socket.gethostbyname('algo-2'), 9), 0
for _ in range(20):
    for number in range(10):
        s.sendto(b'x', place)
    for number in range(10):
        try:
            s.recv(9)
            heard += 1
        except TimeoutError:
            break
print(heard)
"""


@needs_root
def test_a_share_of_the_packets_is_lost(slim: str, tmp_path: Path):
    with Cluster(slim, tmp_path / "job", hosts=2) as cluster:
        cluster.start(command=ECHO)

        def heard() -> int:
            done = docker("exec", cluster[1].name, "python3", "-c", COUNTS)
            return int(done.stdout) if done.returncode == 0 else 0

        wait_until(lambda: heard() > 190, "algo-2 answers")
        heal = cluster[2].lose(0.5, seed=7)
        assert 60 <= heard() <= 140
        heal()
        wait_until(lambda: heard() > 190, "algo-2 answers again")


# --- processing jobs --------------------------------------------------------------------------------------------

PREPARE = """
import json, os, pathlib, sys
ml = pathlib.Path("/opt/ml")
resources = json.loads((ml / "config/resourceconfig.json").read_text())
job = json.loads((ml / "config/processingjobconfig.json").read_text())
host, made = resources["current_host"], pathlib.Path("/data/made")
raw = ml / "processing/input/raw"
facts = {"hosts": resources["hosts"], "keys": sorted(job), "raw": sorted(p.name for p in raw.iterdir()),
         "words": sys.argv[1:], "mode": os.environ["MODE"], "uid": os.getuid(),
         "ml": sorted(p.name for p in ml.iterdir())}
(made / f"{host}.json").write_text(json.dumps(facts))
(ml / "processing/out/same").write_text(host)
(ml / "processing/input/code/built").write_text("x")
(ml / "output/message").write_text("2 tables")
"""


def processing(image: str, place: Path, **changes: Any) -> dict[str, Any]:
    (place / "raw").mkdir(exist_ok=True)
    for name in ("a", "b", "c"):
        (place / "raw" / name).write_text(name)
    (place / "code").mkdir(exist_ok=True)
    (place / "code/prepare.py").write_text(PREPARE)

    def source(name: str, path: Path, **more: str) -> dict[str, Any]:
        s3 = {"LocalPath": f"/opt/ml/processing/input/{name}", "S3Uri": f"file://{path}", "S3DataType": "S3Prefix"}
        return {"InputName": name, "AppManaged": False, "S3Input": {**s3, "S3InputMode": "File", **more}}

    def target(name: str, path: str) -> dict[str, Any]:
        s3 = {"LocalPath": path, "S3Uri": f"file://{place}/{name}", "S3UploadMode": "EndOfJob"}
        return {"OutputName": name, "AppManaged": False, "S3Output": s3}

    return {
        "ProcessingJobName": f"prepare-{os.getpid()}",
        "AppSpecification": {
            "ImageUri": image,
            "ContainerEntrypoint": ["python3", "/opt/ml/processing/input/code/prepare.py"],
            "ContainerArguments": ["--note", "a b $HOME"],
        },
        "ProcessingInputs": [
            source("raw", place / "raw", S3DataDistributionType="ShardedByS3Key"),
            source("code", place / "code/prepare.py"),
        ],
        "ProcessingOutputConfig": {"Outputs": [target("made", "/data/made"), target("out", "/opt/ml/processing/out")]},
        "ProcessingResources": {"ClusterConfig": {"InstanceCount": 2, "InstanceType": "ml.m5.large"}},
        "Environment": {"MODE": "x$y"},
        **changes,
    }


def test_a_processing_job_of_two_hosts(slim: str, place: Path):
    record = run_request(processing(slim, place), place)
    assert (record.status, record.exit_message) == ("Completed", "2 tables"), record.failure_reason
    first, second = (json.loads((place / f"out/outputs/made/algo-{host}.json").read_text()) for host in (1, 2))
    assert (first["raw"], second["raw"]) == (["a", "c"], ["b"])
    assert first["hosts"] == ["algo-1", "algo-2"]
    assert first["words"] == ["--note", "a b $HOME"]
    assert first["mode"] == "x$y"
    assert {"ProcessingJobArn", "ProcessingInputs", "ProcessingResources", "AppSpecification"} <= set(first["keys"])
    assert (place / "out/outputs/out/same").read_text() == "algo-2"
    assert sorted(path.name for path in (place / "raw").iterdir()) == ["a", "b", "c"]
    assert [path.name for path in (place / "code").iterdir()] == ["prepare.py"], "the code is a copy"
    owners = {path.stat().st_uid for path in place.rglob("*")}
    assert owners == {os.getuid()}


def test_an_image_with_its_own_entrypoint_gets_the_arguments(slim: str, place: Path):
    made = must("create", slim).strip()
    name = f"slipway-own:{os.getpid()}"
    try:
        change = 'ENTRYPOINT ["sh", "-c", "echo \\"own $0 $*\\" | tee /opt/ml/output/message; exit 5"]'
        must("commit", "--change", change, made, name)
        request = processing(name, place)
        request["AppSpecification"] = {"ImageUri": name, "ContainerArguments": ["one", "two"]}
        record = run_request(request, place)
    finally:
        docker("rm", made)
        docker("rmi", name)
    assert (record.status, record.exit_code, record.exit_message) == ("Failed", 5, "own one two\n")
    assert not (place / "out/outputs").exists()


def test_network_isolation_and_a_fault_at_a_time(slim: str, place: Path):
    request = processing(slim, place, NetworkConfig={"EnableNetworkIsolation": True})
    request["AppSpecification"]["ContainerEntrypoint"] = ["python3", "-c", "import time; time.sleep(300)"]
    record = run_request(request, place, "--fault", "kill:algo-1@500ms", "--fault", "kill:algo-2@600ms")
    assert (record.status, record.exit_code) == ("Failed", 137)
    assert sorted(played.host for played in record.faults) == ["algo-1", "algo-2"]
