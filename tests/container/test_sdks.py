"""Unmodified SDKs in local mode on our CPU image: through the real docker-compose 1, and through `slipway compose`.

All jobs of one SDK on one of the two run in one process of it, see `Client.run`; each test looks at one of them.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runtime.testing import must, wait_until
from tests.container.check_images import build
from tests.container.sdks import Client, Fit, environ_of, find_sdk, real_compose, real_plugin, stand_in
from tests.left_out import has_compose_plugin
from tests.s3 import bridge_gateway, bucket_at, serve

pytestmark = pytest.mark.container

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, os, pathlib, socket, sys, time

base = pathlib.Path("/opt/ml")
rank = int(os.environ.get("RANK", "0"))
args = " ".join(sys.argv[1:])
seen = {
    "files": {p.name: json.loads(p.read_text()) for p in (base / "input/config").glob("*.json")},
    "train": [p.read_text() for p in sorted((base / "input/data/train").rglob("*")) if p.is_file()],
    "money": os.environ.get("MONEY"), "world": os.environ.get("WORLD_SIZE"), "argv": sys.argv[1:],
    "interfaces": sorted(os.listdir("/sys/class/net")), "hostname": socket.gethostname(),
    "job": os.environ.get("TRAINING_JOB_NAME"), "hps": os.environ.get("SM_HPS"), "pid": os.getpid(),
}
try:
    import tiny_wheel
    seen["wheel"] = tiny_wheel.VALUE
except ImportError:
    seen["wheel"] = None
print("SEEN%d " % rank + json.dumps(seen), flush=True)
(base / "model" / ("of-%d" % rank)).write_text("m")
(base / "output/data").mkdir(parents=True, exist_ok=True)
(base / "output/data/out.txt").write_text("o")
if "fail" in args and rank == int(os.environ.get("WORLD_SIZE", "1")) - 1:
    raise ValueError("told to fail")
if "late" in args and rank == 0:
    time.sleep(3)
    (base / "model" / "late").write_text("still there")
if "wait" in args:
    (base / "model" / "waits").touch()
    time.sleep(600)
if "collect" in args:
    import torch, torch.distributed
    torch.distributed.init_process_group("gloo")
    mine = torch.tensor([rank + 1.0])
    torch.distributed.all_reduce(mine)
    print("SUM%d %g" % (rank, mine.item()), flush=True)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""
HYPERPARAMETERS: Mapping[str, Any] = {
    **{"lr": 0.1, "flag": True, "word": "abc", "digits": "12", "commit": "1234e5", "none": None},
    **{"odd": 'a $b "c" \\ `d` ; * e', "unicode": "größer 你好 🚢", "list": [1, "a"], "map": {"a": {"b": [1, None]}}},
}
QUOTE = {"quote": "it's"}
"""SDK v3 writes values into a shell script without escaping: with source code a quote ends the job before us."""
MONEY = "a$$b${HOME}$c"
"""Compose replaces it; the stand-in does not, and neither does the service."""


def encoded(values: Mapping[str, Any]) -> dict[str, str]:
    """As SDK v2 writes hyperparameters beside an entry point: everything as JSON."""
    return {name: json.dumps(value) for name, value in values.items()}


def plain(values: Mapping[str, Any]) -> dict[str, str]:
    """As SDK v3 writes them: strings as they are, the rest as JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def wheel(directory: Path) -> None:
    """Write a wheel that pip installs without a network."""
    info = "tiny_wheel-1.0.dist-info"
    files = {
        "tiny_wheel.py": "VALUE = 'from the wheel'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-wheel\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(directory / "tiny_wheel-1.0-py3-none-any.whl", "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)


REAL = {"compose": real_compose, "plugin": real_plugin}
"""docker-compose 1, and the plugin of version 2 where a machine has it; `tests.left_out` says when it has not."""


@dataclass
class Matrix:
    """The jobs of one SDK on one docker-compose, run when the first test asks."""

    client: Client
    through: str
    """``stand-in``, or one of `REAL`."""
    jobs: Mapping[str, Mapping[str, Any]]
    environ: Mapping[str, str]
    fits: dict[str, Fit] = field(default_factory=dict[str, Fit])

    def fit(self, name: str) -> Fit:
        if not self.fits:
            self.fits = self.client.run(self.jobs, **self.environ)
        return self.fits[name]

    def completed(self, name: str) -> Fit:
        fit = self.fit(name)
        assert fit.raised == "", fit.text[-4000:]
        return fit

    def failed(self, name: str) -> Fit:
        fit = self.fit(name)
        assert fit.raised, fit.text[-4000:]
        return fit


PROCESS = """
import json, os, pathlib, sys

config = pathlib.Path("/opt/ml/config")
told = {p.name: json.loads(p.read_text()) for p in config.glob("*.json")}
rows = sorted(p.read_text() for p in pathlib.Path("/opt/ml/processing/input/rows").rglob("*.txt"))
seen = {"config": told, "argv": sys.argv[1:], "rows": rows, "money": os.environ.get("MONEY")}
print("SEEN0 " + json.dumps(seen), flush=True)
host = told["resourceconfig.json"]["current_host"].partition("-")[2].partition("-")[0]
out = pathlib.Path("/opt/ml/processing/output")
out.mkdir(parents=True, exist_ok=True)
(out / ("of-" + host)).write_text(" ".join(rows))
if "fail" in sys.argv:
    (pathlib.Path("/opt/ml/output") / "message").write_text("told to fail")
    raise ValueError("told to fail")
"""
PROCESS_IMAGE = "slipway-process:test"
ARGUMENTS = ["--name", "two words", "--text", 'a "quoted" ; *', "--empty", ""]


@dataclass(frozen=True)
class Store:
    """The bucket of a matrix."""

    name: str
    endpoint: str
    s3: Any

    def uri(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def keys(self, prefix: str) -> set[str]:
        return {key.removeprefix(prefix) for key in self.s3.keys(prefix)}


def training_jobs(place: Path, image: str, through: str) -> dict[str, dict[str, Any]]:
    """What both SDKs are asked."""
    data = {"train": str(place / "data")}
    code = {"code": str(place / "src")}
    # Where compose would replace `$`, only what it leaves alone can be compared.
    environment = {"MONEY": MONEY if through == "stand-in" else "plain, größer"}
    usual = {"image": image, "channels": data, "environment": environment}
    jobs = {
        # An image with an algorithm of its own: the SDK submits no code.
        "own": {
            "channels": data | code,
            "hyperparameters": {"sagemaker_program": "train.py", **HYPERPARAMETERS, **QUOTE},
        },
        "script": {"hosts": 2, "source": str(place / "src"), "hyperparameters": dict(HYPERPARAMETERS)},
        "fail": {"hosts": 2, "source": str(place / "src"), "hyperparameters": {"fail": 1}},
        # Compose ends the job with the first host; its work was lost in silence.
        "late": {
            **{"hosts": 2, "source": str(place / "src")},
            "hyperparameters": {"late": 1, "slipway_launcher": "own"},
        },
    }
    return {name: usual | job for name, job in jobs.items()}


def processing_jobs(place: Path, image: str, store: Store, through: str) -> dict[str, dict[str, Any]]:
    """What both SDKs are asked, code and data in S3."""
    environment = {"MONEY": MONEY if through == "stand-in" else "plain"}
    usual = {"image": image, "environment": environment, "bucket": store.name, "kind": "processor"}
    usual |= {"inputs": {"rows": store.uri("rows")}, "code": str(place / "src/process.py")}
    with_code = {"inputs": {"rows": store.uri("rows"), "code": store.uri("code")}}
    entrypoint = ["python3", "/opt/ml/processing/input/code/process.py"]
    jobs = {
        "processed": {"kind": "script", "arguments": ARGUMENTS},
        "bare": {**with_code, "entrypoint": entrypoint, "arguments": ["one"], "hosts": 2},
        "no-entrypoint": {**with_code, "image": PROCESS_IMAGE},
        "unprocessed": {"kind": "script", "arguments": ["fail"]},
        "not-asked": {},
    }
    return {name: usual | job | {"output": store.uri(f"out/{through}-{name}")} for name, job in jobs.items()}


def v2_jobs(place: Path, image: str, store: Store, through: str) -> dict[str, dict[str, Any]]:
    jobs = training_jobs(place, image, through)
    pytorch = {**jobs["script"], "kind": "pytorch", "hyperparameters": {"collect": 1}}
    in_s3 = {"bucket": store.name, "channels": {"train": store.uri("rows")}}
    jobs |= {
        "pytorch": pytorch | {"hosts": 1},
        "pytorch-s3": pytorch | in_s3,
        "s3": {**jobs["script"], **in_s3, "hosts": 1, "output": store.uri(f"{through}-models")},
    }
    return jobs | processing_jobs(place, image, store, through)


def v3_jobs(place: Path, image: str, store: Store, through: str) -> dict[str, dict[str, Any]]:
    jobs = training_jobs(place, image, through)
    source = {**jobs["script"], "hosts": 1}
    jobs["fail"] |= {"command": "exec train", "hyperparameters": {"fail": 1, "sagemaker_program": "train.py"}}
    jobs["late"] |= {"command": "exec train"}
    jobs["late"]["hyperparameters"] = jobs["late"]["hyperparameters"] | {"sagemaker_program": "train.py"}
    needs = {**source, "source": str(place / "needs"), "requirements": "requirements.txt"}
    jobs |= {
        "script": source,
        "train": source
        | {"command": "exec train", "hyperparameters": {"sagemaker_program": "train.py", **HYPERPARAMETERS}},
        "requirements": needs,
        "torchrun": source | {"torchrun": 2, "hyperparameters": {"collect": 1}},
        "torchrun-hosts": source | {"torchrun": 1, "hosts": 2, "hyperparameters": {"collect": 1}},
        "driver-fails": source | {"hyperparameters": {"fail": 1}},
    }
    return jobs | processing_jobs(place, image, store, through)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch, contextlib.contextmanager(serve)(bridge_gateway()) as endpoint:
        s3 = bucket_at(endpoint, patch)
        s3.put_all({"rows/a.txt": "row a", "rows/b/c.txt": "row c", "code/process.py": PROCESS})
        yield Store(s3.bucket, s3.endpoint, s3)


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sdk-") as directory:
        path = Path(directory)
        fill(path)
        yield path


def fill(path: Path) -> None:
    """Write what jobs of these tests need."""
    for name, text in (("src/train.py", PROGRAM), ("src/process.py", PROCESS), ("data/x", "sample")):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(text)
    (path / "needs").mkdir()
    (path / "needs/train.py").write_text(PROGRAM)
    wheel(path / "needs")
    (path / "needs/requirements.txt").write_text("./tiny_wheel-1.0-py3-none-any.whl\n")


def client(version: int, through: str, place: Path) -> Client:
    python, why = find_sdk(version)
    compose, reason = (stand_in(place / "cache"), "") if through == "stand-in" else REAL[through]()
    if python is None or compose is None:
        pytest.skip(why or reason)
    return Client(version, python, place, compose)


@pytest.fixture(scope="module", params=["stand-in", "compose", *(["plugin"] if has_compose_plugin() else [])])
def through(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def processing_image(image: str) -> str:
    """Our image as a processing image is: what the job names is its program, else its own."""
    script = "/opt/ml/processing/input/code/process.py"
    return build(PROCESS_IMAGE, f'FROM {image}\nENTRYPOINT ["process"]\nCMD ["python3", "{script}", "by default"]\n')


def containers_below(place: Path) -> list[str]:
    """Containers of the stand-in whose compose files lie in a directory."""
    form = '{{.ID}} {{.Label "slipway.compose"}}'
    lines = must("ps", "--all", "--filter", "label=slipway.compose", "--format", form).splitlines()
    return [line for line in lines if f" {place}/" in line]


def matrix(version: int, through: str, image: str, store: Store) -> Iterator[Matrix]:
    with tempfile.TemporaryDirectory(prefix="sdk-") as directory:
        place = Path(directory)
        fill(place)
        made = client(version, through, place)
        jobs = (v2_jobs if version == 2 else v3_jobs)(place, image, store, through)
        environ = {**store.s3.environ, "AWS_ENDPOINT_URL": store.endpoint}
        yield Matrix(made, through, jobs, environ)
        if through in REAL:
            made.down(through)
        assert containers_below(place) == []


@pytest.fixture(scope="module")
def v2(through: str, image: str, processing_image: str, store: Store) -> Iterator[Matrix]:
    yield from matrix(2, through, image, store)


@pytest.fixture(scope="module")
def v3(through: str, image: str, processing_image: str, store: Store) -> Iterator[Matrix]:
    yield from matrix(3, through, image, store)


def check_training(done: Fit, through: str) -> Any:
    """What every job that completed shows."""
    seen = done.seen()
    assert seen["train"] in (["sample"], ["row a", "row c"])
    assert seen["money"] == (MONEY if through == "stand-in" else "plain, größer")
    resources = seen["files"]["resourceconfig.json"]
    if through == "stand-in":
        assert (resources["network_interface_name"], seen["hostname"]) == ("eth0", resources["current_host"])
        assert resources["instance_groups"][0]["hosts"] == resources["hosts"]
        assert {host["exit_code"] for host in done.record["attempts"][0]["hosts"]} == {0}
    return seen


def told_of(seen: Any, names: Mapping[str, Any]) -> dict[str, str]:
    """Hyperparameters as they stand in the file, without those that an SDK adds."""
    return {name: value for name, value in seen["files"]["hyperparameters.json"].items() if name in names}


def arguments_of(seen: Any) -> dict[str, str]:
    """Arguments of the program."""
    argv = seen["argv"]
    return {name.removeprefix("--"): value for name, value in zip(argv[::2], argv[1::2], strict=True)}


SPELT = {
    **{"lr": "0.1", "flag": "True", "word": "abc", "digits": "12", "commit": "1234e5", "none": ""},
    **{"odd": HYPERPARAMETERS["odd"], "unicode": HYPERPARAMETERS["unicode"]},
    **{"list": "[1, 'a']", "map": '{"a": {"b": [1, null]}}'},
}
"""Arguments that a program gets of what SDK v2 encoded: the stock toolkit's words, see docs/01-contract.md."""


class TestV2:
    def test_script_on_two_hosts(self, v2: Matrix):
        done = v2.completed("script")
        seen = check_training(done, v2.through)
        assert told_of(seen, HYPERPARAMETERS) == encoded(HYPERPARAMETERS)
        assert arguments_of(seen) == SPELT
        assert seen["world"] == "2"
        assert seen["files"]["resourceconfig.json"]["hosts"][0].startswith("algo-1-")
        assert done.members() == {"of-0", "of-1"}
        assert done.members("output.tar.gz") >= {"data/out.txt"}
        assert "failure" not in done.members("output.tar.gz")

    def test_own_image_without_entry_point(self, v2: Matrix):
        """The SDK sends str() of every value: what is no string arrives as Python writes it."""
        done = v2.completed("own")
        seen = check_training(done, v2.through)
        sent = {name: str(value) for name, value in (dict(HYPERPARAMETERS) | QUOTE).items()}
        assert told_of(seen, sent) == sent
        assert arguments_of(seen) == sent
        assert done.members() == {"of-0"}

    def test_a_failure_is_raised_and_told(self, v2: Matrix):
        done = v2.failed("fail")
        assert "exited with code: 1" in done.raised
        assert re.match(r"algo-2\S* rank 1: ValueError: told to fail at \S+/train.py:\d+", done.failure())
        assert "data/out.txt" in done.members("output.tar.gz")
        if v2.through == "stand-in":
            assert "ValueError: told to fail" in done.record["failure_reason"]
            assert "Failed:" in done.text  # also the last lines reach the SDK

    def test_no_host_is_cut_off_by_one_that_ends_early(self, v2: Matrix):
        assert {"of-0", "of-1", "late"} <= v2.completed("late").members()

    @pytest.mark.parametrize(("job", "hosts"), [("pytorch", 1), ("pytorch-s3", 2)])
    def test_pytorch_estimator_with_torch_distributed(self, v2: Matrix, job: str, hosts: int):
        done = v2.completed(job)
        check_training(done, v2.through)
        for rank in range(hosts):
            assert f"SUM{rank} {[1, 3][hosts - 1]}" in done.text

    def test_code_and_results_in_s3(self, v2: Matrix, store: Store):
        done = v2.completed("s3")
        seen = check_training(done, v2.through)
        assert seen["train"] == ["row a", "row c"]
        assert seen["files"]["hyperparameters.json"]["sagemaker_submit_directory"].startswith('"s3://')
        assert arguments_of(seen) == SPELT
        assert done.model.startswith(store.uri(f"{v2.through}-models/"))
        assert any(key.endswith("/model.tar.gz") for key in store.keys(f"{v2.through}-models"))


class TestV3:
    def test_without_source_code(self, v3: Matrix):
        done = v3.completed("own")
        seen = check_training(done, v3.through)
        sent = dict(HYPERPARAMETERS) | QUOTE
        assert told_of(seen, sent) == plain(sent)
        assert arguments_of(seen) == plain(sent)
        assert "of-0" in done.members()
        assert "data/out.txt" in done.members("output.tar.gz")

    def test_script_by_the_driver_of_the_sdk(self, v3: Matrix):
        """No `train` runs here: the image holds what the SDK's scripts need, and our files are not in their way."""
        done = v3.completed("script")
        seen = check_training(done, v3.through)
        assert told_of(seen, HYPERPARAMETERS) == plain(HYPERPARAMETERS)
        assert "of-0" in done.members()

    def test_exec_train(self, v3: Matrix):
        done = v3.completed("train")
        seen = check_training(done, v3.through)
        assert arguments_of(seen) == plain(HYPERPARAMETERS)
        assert json.loads(seen["hps"])["unicode"] == HYPERPARAMETERS["unicode"]
        assert "of-0" in done.members()

    def test_requirements(self, v3: Matrix):
        assert v3.completed("requirements").seen()["wheel"] == "from the wheel"

    @pytest.mark.parametrize("job", ["torchrun", "torchrun-hosts"])
    def test_torchrun(self, v3: Matrix, job: str):
        done = v3.completed(job)
        check_training(done, v3.through)
        assert "SUM0 3" in done.text
        assert "SUM1 3" in done.text

    def test_a_failure_is_raised_and_told(self, v3: Matrix):
        done = v3.failed("fail")
        assert "code: 1" in done.raised
        assert re.match(r"algo-2\S* rank 1: ValueError: told to fail at \S+/train.py:\d+", done.failure())
        if v3.through == "stand-in":
            assert "ValueError: told to fail" in done.record["failure_reason"]

    def test_a_failure_under_the_driver_of_the_sdk(self, v3: Matrix):
        assert "code: 1" in v3.failed("driver-fails").raised

    def test_no_host_is_cut_off_by_one_that_ends_early(self, v3: Matrix):
        assert "late" in v3.completed("late").members()


class Processors:
    """What both SDKs' processors do."""

    def out(self, sdk: Matrix, store: Store, job: str) -> set[str]:
        return store.keys(f"out/{sdk.through}-{job}/")

    def test_script(self, sdk: Matrix, store: Store):
        done = sdk.completed("processed")
        seen = done.seen()
        assert seen["rows"] == ["row a", "row c"]
        assert seen["argv"] == ARGUMENTS
        assert seen["money"] == (MONEY if sdk.through == "stand-in" else "plain")
        assert "AppSpecification" in seen["config"]["processingjobconfig.json"]
        assert self.out(sdk, store, "processed") == {"of-1"}

    def test_entrypoint_on_two_hosts(self, sdk: Matrix, store: Store):
        done = sdk.completed("bare")
        assert len(done.seen()["config"]["resourceconfig.json"]["hosts"]) == 2
        assert done.seen()["argv"] == ["one"]
        assert self.out(sdk, store, "bare") == {"of-1", "of-2"}

    def test_no_entrypoint(self, sdk: Matrix, store: Store):
        assert sdk.completed("no-entrypoint").seen()["argv"] == ["by default"]
        assert self.out(sdk, store, "no-entrypoint") == {"of-1"}

    def test_a_training_image_without_entrypoint_says_what_to_do(self, sdk: Matrix):
        done = sdk.failed("not-asked")
        assert "processing job" in done.text
        assert "entrypoint" in done.text

    def test_failure(self, sdk: Matrix):
        done = sdk.failed("unprocessed")
        assert "code: 1" in done.raised
        assert "told to fail" in done.text


class TestProcessorsV2(Processors):
    @pytest.fixture
    def sdk(self, v2: Matrix) -> Matrix:
        return v2


class TestProcessorsV3(Processors):
    @pytest.fixture
    def sdk(self, v3: Matrix) -> Matrix:
        return v3


def test_two_jobs_of_one_name_at_one_time(place: Path, image: str):
    """SDK v3 names hosts algo-N and its project for the directory: under docker-compose the jobs would meet."""
    sdk = client(3, "stand-in", place)
    running: dict[str, subprocess.Popen[str]] = {}
    for name in ("a", "b"):
        (place / name / "job").mkdir(parents=True)
        (place / name / "data").mkdir()
        (place / name / "data/x").write_text(f"of {name}")
        job = {"image": image, "hosts": 2, "source": str(place / "src"), "command": "exec train"}
        job |= {"root": str(place / name / "job"), "channels": {"train": str(place / name / "data")}}
        job |= {
            "hyperparameters": {"sagemaker_program": "train.py", "word": name},
            "kind": "generic",
            "environment": {},
        }
        with (place / f"{name}.log").open("w") as log:
            words = sdk.words({"job": job})
            running[name] = subprocess.Popen(words, cwd=place, stdout=log, stderr=log, env=sdk.environ(), text=True)
    for name, process in running.items():
        assert process.wait(1400) == 0
        text = (place / f"{name}.log").read_text()
        model = place / name / "job/compressed_artifacts/model.tar.gz"
        fit = Fit(text, json.loads(text.splitlines()[-1])["job"]["raised"], str(model), place / name / "job")
        assert fit.raised == "", text[-4000:]
        assert fit.seen(1)["train"] == [f"of {name}"]
        assert fit.seen(1)["argv"] == ["--word", name]
        assert {"of-0", "of-1"} <= fit.members()
    assert containers_below(place) == []


def test_ctrl_c_leaves_nothing(place: Path, image: str):
    sdk = client(2, "stand-in", place)
    job = sdk.usual("waits") | {"image": image, "hosts": 2, "source": str(place / "src")}
    job |= {"channels": {"train": str(place / "data")}, "hyperparameters": {"wait": 1}}
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            # A shell that runs these tests in the background has them ignore Ctrl-C, which a child inherits.
            ["env", "--default-signal=INT", "sh", "-c", 'exec "$0" "$@"', *sdk.words({"waits": job})],
            cwd=place, stdout=log, stderr=log, env=sdk.environ(PYTHONUNBUFFERED="1"), start_new_session=True,
        )  # fmt: skip
    try:
        told = place / "log"
        wait_until(lambda: process.poll() is not None or {"SEEN0", "SEEN1"} <= set(told.read_text().split()), "both")
        assert process.poll() is None, told.read_text()
        assert len(containers_below(place)) == 2
        os.killpg(process.pid, signal.SIGINT)
        process.wait(600)
        wait_until(lambda: not containers_below(place), "the end of the containers")
    finally:
        process.kill()
        process.wait()
    (record,) = place.glob("waits/*/slipway/*/job.json")
    wait_until(lambda: json.loads(record.read_text())["status"] == "Stopped", "the record")


@pytest.mark.parametrize("version", [2, 3])
def test_the_example(place: Path, image: str, version: int):
    sdk = client(version, "stand-in", place)
    script = Path(__file__).parents[2] / "examples/local_mode.py"
    words = [sdk.words({})[0], str(script), image, "src", "data", "--output", "out", "--hosts", "2"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False, env=sdk.environ(), timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    fit = Fit(done.stdout, "", done.stdout.splitlines()[-1], place / "out")
    assert {"of-0", "of-1"} <= fit.members()
    assert fit.seen()["argv"] == ["--lr", "0.1"]


CHOICE = """
import importlib, os, sys
container = importlib.import_module(sys.argv[1])._SageMakerContainer
for path in sys.argv[2:]:
    os.environ["PATH"] = path
    try:
        print("CHOICE", *container._get_compose_cmd_prefix())
    except ImportError:
        print("CHOICE none")
"""


@pytest.mark.parametrize("version", [2, 3])
def test_the_stand_in_is_chosen_whatever_plugin_is_there(place: Path, version: int):
    """Recorded answers of `docker compose version`: both SDKs read them in their own way; ours is always found."""
    answers = {"none": "", "v2": "Docker Compose version v2.29.7", "debian": "Docker Compose version 2.26.1-4"}
    answers["v5"] = "Docker Compose version v5.0.1"
    for name, text in answers.items():
        (place / name).mkdir()
        (place / name / "docker").write_text(f'#!/bin/sh\n[ "$1" = compose ] && [ -n "{text}" ] && echo "{text}"\n')
        (place / name / "docker").chmod(0o755)
    python, why = find_sdk(version)
    if python is None:
        pytest.skip(why)
    ours = stand_in(place / "cache")
    paths = [f"{place / name}:/bin-of-nobody" for name in answers]
    module = {2: "sagemaker.local.image", 3: "sagemaker.core.local.image"}[version]
    words = [str(python), "-c", CHOICE, module, *paths, *(f"{ours}:{path}:/bin" for path in paths)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environ_of(place, ours))
    choices = [line.removeprefix("CHOICE ") for line in done.stdout.splitlines() if line.startswith("CHOICE")]
    plugin = "docker compose"
    # SDK v2 looks for the letters "v2", SDK v3 for a number of at least 2.
    assert choices[:4] == ["none", plugin, *(["none", "none"] if version == 2 else [plugin, plugin])]
    assert choices[4:] == ["docker-compose"] * 4
