"""`slipway run --engine docker`: the life of a job, what containers get, and what is left when something is killed."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.testing import docker, must, wait_until

pytestmark = pytest.mark.container

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, mmap, os, pathlib, signal, socket, struct, sys, time

base = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
state = pathlib.Path(os.environ["SLIPWAY_STATE_DIR"])
host, rank = os.environ["SM_CURRENT_HOST"], int(os.environ["RANK"])
words = dict(zip([word.lstrip("-") for word in sys.argv[1::2]], sys.argv[2::2]))
steps, fail_at = int(words.get("steps", 5)), int(words.get("fail_at", 0))
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
progress = open(state / "progress", "r+b")
slots = mmap.mmap(progress.fileno(), 0)
saved = base / "checkpoints"
done = sorted(saved.glob("step-*/MANIFEST.json")) if saved.is_dir() else []
step = json.loads(done[-1].read_text())["step"] if done else 0
if done and rank == 0:
    (state / "resumed.json").write_text(json.dumps({"step": step}))
(base / "model" / f"of-{host}").write_text(host)
(base / "model" / "same").write_text(host)
(base / "output" / "data" / "out.txt").write_text(host)
print(f"rank {rank} of {host} begins at {step}", flush=True)

def meet():
    # Rank 1 fails when rank 0 has come here, and not before: what each of them has done is then known.
    place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if rank == 0:
        with socket.create_server(place) as server:
            server.settimeout(300)
            server.accept()[0].close()
        while not stop:
            time.sleep(0.01)
    elif rank == 1:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                socket.create_connection(place, 5).close()
                break
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("rank 1 cannot go on")

def reached(address):
    try:
        socket.create_connection((address, 1), 2).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True

def named(name):
    try:
        return bool(socket.getaddrinfo(name, 80))
    except OSError:
        return False

if "show" in words:
    print("SHOWN " + json.dumps(eval(words["show"])), flush=True)
while step < steps and not stop:
    time.sleep(0.02)
    step += 1
    if step == fail_at:
        meet()
        break
    if rank == 0 and saved.is_dir():
        target = saved / f"step-{step:04d}"
        target.mkdir(exist_ok=True)
        (target / "shard").write_text(str(step))
        (target / "MANIFEST.json.tmp").write_text(json.dumps({"step": step}))
        (target / "MANIFEST.json.tmp").rename(target / "MANIFEST.json")
        durable = target / "MANIFEST.json.sagemaker-uploaded"
        while "durable" in words and not stop and not durable.exists():
            time.sleep(0.001)
    if rank == 0:  # it saves, and nobody waits for it: the others' steps would say nothing about its checkpoints
        struct.pack_into("<qd", slots, 0, step, time.time())
    if rank == 0:
        print(f"loss={1 / step:.4f};", flush=True)
end = {"status": "stopped" if stop else "completed", "step": step}
(state / f"end-rank-{rank}.json").write_text(json.dumps(end))
"""
Run = Callable[..., "Ran"]


class Ran:
    """One `slipway run` and what it left."""

    def __init__(self, process: subprocess.Popen[str], out: Path) -> None:
        self.process = process
        self.out = out

    def end(self) -> "Ran":
        self.text, self.errors = self.process.communicate(timeout=900)
        return self

    @property
    def code(self) -> int:
        return self.process.returncode

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.out / "job.json").read_text())

    def log(self, host: int = 1) -> str:
        path = self.out / "logs" / f"algo-{host}.log"
        return path.read_text() if path.exists() else ""

    def shown(self, host: int = 1) -> Any:
        line = next(line for line in self.log(host).splitlines() if "SHOWN " in line)
        return json.loads(line.partition("SHOWN ")[2])

    def members(self, name: str) -> dict[str, str]:
        with tarfile.open(self.out / name) as tar:
            return {member.name: tar.extractfile(member).read().decode() for member in tar}  # type: ignore[union-attr]

    def containers(self) -> list[str]:
        return must("ps", "--all", "--quiet", "--filter", f"label=slipway.job={self.out.name}").split()

    def networks(self) -> list[str]:
        return must("network", "ls", "--quiet", "--filter", f"label=slipway.job={self.out.name}").split()


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sl-") as directory:
        (Path(directory) / "small.py").write_text(SCRIPT)
        yield Path(directory)


@pytest.fixture
def start(slim: str, place: Path) -> Iterator[Run]:
    """Start `slipway run --engine docker` in the background; what it does to the engine is undone whatever happens."""
    started: list[Ran] = []

    def begin(*words: str, name: str = "", engine: str = "docker", **options: Any) -> Ran:
        out = place / (name or f"job-{os.getpid()}-{len(started)}")
        command = [sys.executable, "-m", "runtime", "run", "--entrypoint", str(place / "small.py")]
        command += ["--engine", engine, *(["--image", slim] if engine == "docker" else [])]
        command += ["--hp", "slipway_profile=off", "--output", str(out), *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes, **options)  # type: ignore[call-overload]
        ran = Ran(process, out)
        started.append(ran)
        return ran

    yield begin
    for ran in started:
        if ran.process.poll() is None:
            ran.process.kill()
            ran.process.communicate()
        for container in ran.containers():
            docker("rm", "--force", container)
        for network in ran.networks():
            docker("network", "rm", network)


@pytest.fixture
def run(start: Run) -> Run:
    return lambda *words, **options: start(*words, **options).end()


def begun(ran: Ran, host: int = 1) -> Callable[[], bool]:
    def look() -> bool:
        assert ran.process.poll() is None, ran.process.communicate()
        return "begins at" in ran.log(host).rpartition("===")[2]

    return look


def test_two_hosts_complete(run: Run, place: Path):
    done = run("--hosts", "2", "--json")
    assert done.code == 0, done.errors
    assert json.loads(done.text) == done.record
    record = done.record
    assert (record["status"], record["failure_reason"], record["exit_code"]) == ("Completed", None, 0)
    assert [host["exit_code"] for host in record["attempts"][0]["hosts"]] == [0, 0]
    statuses = [item["status"] for item in record["transitions"]]
    assert statuses == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert done.members("model.tar.gz") == {"of-algo-1": "algo-1", "of-algo-2": "algo-2", "same": "algo-2"}
    assert done.members("output.tar.gz") == {"out.txt": "algo-2"}
    for host in (1, 2):
        assert f"rank {host - 1} of algo-{host} begins at 0" in done.log(host)
    assert (done.containers(), done.networks()) == ([], [])
    assert not (done.out / ".work").exists()


def test_a_host_finds_what_the_service_gives(run: Run, place: Path):
    for name in ("a/1.txt", "a/2.txt", "b/3.txt"):
        path = place / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    show = (
        "{'files': {p.name: json.loads(p.read_text()) for p in (base / 'input/config').iterdir()},"
        " 'train': sorted(str(p.relative_to(base)) for p in (base / 'input/data/train').rglob('*.txt')),"
        " 'part': sorted(p.read_text() for p in (base / 'input/data/part').rglob('*.txt')),"
        " 'one': [p.name + p.read_text() for p in (base / 'input/data/one').iterdir()],"
        " 'writable': [os.access(base / name, os.W_OK) for name in ('input', 'model', 'output', 'input/data/train')],"
        " 'env': {k: os.environ.get(k) for k in ('MONEY', 'TRAINING_JOB_NAME', 'AWS_SECRET_ACCESS_KEY')},"
        " 'pid1': pathlib.Path('/proc/1/cmdline').read_text().split(chr(0))[:3],"
        " 'stdin': os.path.realpath('/proc/1/fd/0'), 'tty': os.isatty(1),"
        " 'shm': os.statvfs('/dev/shm').f_blocks * os.statvfs('/dev/shm').f_frsize,"
        " 'peer': socket.gethostbyname('algo-2') != socket.gethostbyname('algo-1'), 'hostname': socket.gethostname()}"
    )
    words = ["--channel", f"train={place / 'data'},mode=FastFile", "--channel", f"one={place / 'data/a/1.txt'}"]
    words += ["--channel", f"part={place / 'data'},distribution=ShardedByS3Key", "--shm-size", "96m"]
    environ = {**os.environ, "AWS_SECRET_ACCESS_KEY": "not for you"}
    done = run(*words, "--hosts", "2", "--hp", f"show={show}", "--env", "MONEY=a$$b${HOME}", env=environ)
    assert done.code == 0, done.errors
    seen = done.shown()
    files = seen["files"]
    assert set(files) == {
        *("hyperparameters.json", "inputdataconfig.json", "resourceconfig.json"),
        *("metric-definition-regex.json", "checkpointconfig.json"),
        *("init-config.json", "trainingjobconfig.json", "upstreamoutputdataconfig.json"),
    }
    common = {"RecordWrapperType": "None"}
    assert files["inputdataconfig.json"] == {
        "train": {"TrainingInputMode": "FastFile", "S3DistributionType": "FullyReplicated", **common},
        "one": {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", **common},
        "part": {"TrainingInputMode": "File", "S3DistributionType": "ShardedByS3Key", **common},
    }
    assert files["resourceconfig.json"] == {
        "current_host": "algo-1",
        "current_instance_type": "local",
        "current_group_name": "homogeneousCluster",
        "hosts": ["algo-1", "algo-2"],
        "instance_groups": [
            {"instance_group_name": "homogeneousCluster", "instance_type": "local", "hosts": ["algo-1", "algo-2"]}
        ],
        "network_interface_name": "eth0",
    }
    assert files["checkpointconfig.json"] == {"LocalPath": "/opt/ml/checkpoints"}
    assert seen["train"] == [f"input/data/train/{name}" for name in ("a/1.txt", "a/2.txt", "b/3.txt")]
    assert (seen["part"], done.shown(2)["part"]) == (["a/1.txt", "b/3.txt"], ["a/2.txt"])
    assert seen["one"] == ["1.txta/1.txt"]
    assert seen["writable"] == [True, True, True, False]  # the user's own data cannot be changed
    assert seen["env"] == {"MONEY": "a$$b${HOME}", "TRAINING_JOB_NAME": done.out.name, "AWS_SECRET_ACCESS_KEY": None}
    assert "train" in " ".join(seen["pid1"])
    assert (seen["stdin"], seen["tty"], seen["peer"]) == ("/dev/null", False, True)
    assert seen["shm"] == 96 << 20
    assert seen["hostname"] == "algo-1"


def test_a_failure_names_its_cause(run: Run):
    done = run("--hosts", "2", "--hp", "steps=5000", "--hp", "fail_at=3")
    assert done.code == 1
    assert done.record["status"] == "Failed"
    assert "algo-2" in done.record["failure_reason"]
    assert "rank 1 cannot go on" in done.record["failure_reason"]
    assert [host["exit_code"] for host in done.record["attempts"][0]["hosts"]] == [1, 1]
    assert done.record["paths"]["model"] is None
    assert Path(done.record["paths"]["work"], "attempt-1/algo-2/output/failure").is_file()
    assert (done.containers(), done.networks()) == ([], [])


@pytest.mark.parametrize("kind", ["TERM", "KILL"])
def test_an_interrupted_job_goes_on_from_its_checkpoint(run: Run, kind: str):
    words = ["--interrupt-after", "step:5", "--interrupt-after", "step:60", "--interrupt-signal", kind]
    done = run("--hosts", "2", "--hp", "steps=150", "--hp", "durable=1", *words)
    assert done.code == 0, done.errors
    attempts = done.record["attempts"]
    codes = [[host["exit_code"] for host in attempt["hosts"]] for attempt in attempts]
    assert codes == ([[137, 137], [137, 137], [0, 0]] if kind == "KILL" else [[0, 0]] * 3)
    resumed = [attempt["resumed_step"] for attempt in attempts]
    assert resumed[0] is None
    assert resumed[1] >= 4
    assert resumed[2] >= 59
    assert attempts[-1]["last_step"] == 150
    assert (done.out / "checkpoints/step-0150/MANIFEST.json").is_file()


@pytest.mark.parametrize("isolated", [True, False])
def test_isolated_hosts_reach_each_other_only(run: Run, isolated: bool):
    machine = must("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", "bridge").strip()
    show = (
        "{'peer': socket.gethostbyname('algo-2') != socket.gethostbyname('algo-1'),"
        f" 'machine': reached('{machine}'),"
        " 'gateway': reached(socket.gethostbyname('algo-1').rpartition('.')[0] + '.1'), 'name': named('slipway.test')}"
    )
    done = run("--hosts", "2", "--hp", f"show={show}", *(["--network-isolation"] if isolated else []))
    assert done.code == 0, done.errors
    seen = done.shown()
    assert seen["peer"] is True
    assert (seen["machine"], seen["gateway"]) == (not isolated, not isolated)  # by both of its addresses
    assert seen["name"] is False


def test_max_run_and_memory(run: Run):
    done = run("--hp", "steps=100000", "--max-run", "2", "--memory", "512m")
    assert (done.code, done.record["status"]) == (3, "Stopped")
    assert done.record["failure_reason"].startswith("MaxRuntimeExceeded")
    assert done.record["attempts"][0]["hosts"][0]["exit_code"] == 0


def test_a_host_that_wants_too_much_memory(run: Run):
    done = run("--memory", "256m", "--hp", "show=len(bytearray(b'x') * (1 << 30))")
    assert (done.code, done.record["status"]) == (1, "Failed")
    assert "memory" in done.record["failure_reason"], done.record["failure_reason"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_nothing(start: Run, number: signal.Signals):
    ran = start("--hosts", "2", "--hp", "steps=100000")
    wait_until(begun(ran), "the job's start")
    ran.process.send_signal(number)
    ran.end()
    assert (ran.code, ran.record["status"]) == (3, "Stopped")
    assert (ran.containers(), ran.networks()) == ([], [])


def test_containers_end_when_slipway_is_killed_and_lose_no_checkpoint(start: Run, run: Run):
    ran = start("--hosts", "2", "--hp", "steps=100000")
    wait_until(begun(ran), "the job's start")
    work = ran.out / ".work/attempt-1/algo-1/checkpoints"
    wait_until(lambda: any(work.glob("step-0005/MANIFEST.json")), "a checkpoint")
    assert len(ran.containers()) == 2
    ran.process.kill()
    ran.process.communicate()
    wait_until(lambda: not ran.containers() and not ran.networks(), "the end of the containers")
    assert ran.record["status"] == "InProgress"
    done = run("--hosts", "2", "--hp", "steps=6", name=ran.out.name)
    assert done.code == 0, done.errors
    assert done.record["attempts"][0]["resumed_step"] >= 5


def guard_of(pid: int) -> int:
    """Find the process that watches over a run."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(stat[1]) == pid and b"runtime.local.guard" in words:
                return int(entry.name)
    raise AssertionError(f"{pid} has no guard")


def slipway(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime", *words], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )


def test_clean_removes_what_dead_jobs_left_and_nothing_else(start: Run):
    dead, alive = start("--hp", "steps=100000"), start("--hp", "steps=100000")
    for ran in (dead, alive):
        wait_until(begun(ran), "the job's start")
    os.kill(guard_of(dead.process.pid), signal.SIGKILL)
    dead.process.kill()
    dead.process.communicate()
    (container,) = dead.containers()
    assert must("inspect", "--format", "{{.State.Running}}", container).strip() == "true"
    done = slipway("clean")
    assert done.returncode == 0, done.stderr
    assert f"removed slipway-{dead.out.name}-algo-1" in done.stdout
    assert f"job {alive.out.name} runs: left alone" in done.stdout
    assert (dead.containers(), dead.networks()) == ([], [])
    assert alive.process.poll() is None
    assert must("inspect", "--format", "{{.State.Running}}", alive.containers()[0]).strip() == "true"
    alive.process.send_signal(signal.SIGINT)
    assert alive.end().code == 3


def test_two_runs_at_one_time_do_not_meet(start: Run):
    both = [start("--hosts", "2", "--hp", "steps=40") for _ in range(2)]
    for ran in both:
        assert ran.end().code == 0, ran.errors
        assert ran.members("model.tar.gz")["same"] == "algo-2"


def test_an_image_that_is_not_here(run: Run):
    done = run("--image", "nobody/has:this")
    assert done.code == 1
    assert "'nobody/has:this' is not on this machine" in done.record["failure_reason"]
    assert "docker pull" in done.record["failure_reason"]


TIMES = {
    *("started", "ended", "seconds", "at", "phases", "billable_seconds", "training_seconds", "Timestamp"),
    *("StartTime", "EndTime", "CreationTime", "TrainingStartTime", "TrainingEndTime"),
    *("TrainingTimeInSeconds", "BillableTimeInSeconds"),
    # How often the agent of checkpoints has met a file that was there for a moment.
    *("uploaded", "uploaded_bytes", "removed"),
}


def without_times(value: Any, out: Path) -> Any:
    """What of a job.json is the same in every run."""
    if isinstance(value, dict):
        return {key: "..." if key in TIMES else without_times(item, out) for key, item in value.items()}
    if isinstance(value, list):
        return [without_times(item, out) for item in value]
    if isinstance(value, str):
        # Without a container /opt/ml lies below the output directory.
        return re.sub(re.escape(str(out)) + r"/\.work/attempt-\d+/algo-\d+", "/opt/ml", value).replace(str(out), "OUT")
    return value


@pytest.mark.parametrize(("words", "code"), [((), 0), (("--hp", "fail_at=3"), 1)])
def test_both_engines_give_the_same(run: Run, words: tuple[str, ...], code: int):
    seen: list[Any] = []
    for engine in ("process", "docker"):
        done = run("--hosts", "2", *words, name=f"{engine}/same", engine=engine)
        assert done.code == code, done.errors
        record = without_times(done.record, done.out)
        files = sorted(str(path.relative_to(done.out)) for path in done.out.rglob("*") if ".work" not in path.parts)
        archives = {
            name: done.members(name) for name in ("model.tar.gz", "output.tar.gz") if (done.out / name).exists()
        }
        told = [
            [line for line in done.log(host).splitlines() if line.startswith(("[algo", "===")) and "loss=" not in line]
            for host in (1, 2)
        ]
        text = done.log(1) + done.log(2)
        order = [word for word in ("are there", "started ranks", "world_size=2 because", "completed") if word in text]
        seen.append((record, files, archives, without_times(told, done.out), order))
    assert seen[0] == seen[1]


def test_results_belong_to_the_user(slim: str, place: Path):
    """A user who is not root, in a container with the engine's socket: images run as root all the same."""
    import docker as sdk

    gid = Path("/var/run/docker.sock").stat().st_gid
    packages = Path(sdk.__file__).parents[1]
    place.chmod(0o777)
    words = ["run", "--rm", "--user=54321:54321", f"--group-add={gid}", f"--volume={place}:{place}"]
    words += ["--volume=/var/run/docker.sock:/var/run/docker.sock", f"--workdir={place}", "--env=PYTHONPATH=/sdk"]
    for name in ("docker", "requests", "urllib3", "certifi", "idna", "charset_normalizer"):
        words.append(f"--volume={packages / name}:/sdk/{name}:ro")
    # Markers lie beside what root wrote in the container: our agent is let in, or the job would wait in vain.
    synced = ("--hp", "steps=3", "--hp", "durable=1", "--max-run", "300")
    for options, code in ((synced, 0), (("--hp", "fail_at=2", "--hosts", "2"), 1)):
        out = place / f"of-a-user-{code}"
        command = ["slipway", "run", "--engine", "docker", "--image", slim, "--entrypoint", "small.py"]
        done = docker(*words, slim, *command, "--output", str(out), *options)
        assert done.returncode == code, done.stdout + done.stderr
        paths = [out, *out.rglob("*")]
        assert any(path.name == "hyperparameters.json" for path in paths) == (code == 1)  # trees of failed jobs stay
        assert {path.lstat().st_uid for path in paths} == {54321}
