"""`slipway doctor`: what would stop a job is found, what would not is told, and nothing takes long."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runtime.contract.job import read_job
from runtime.launch import doctor
from runtime.launch.checks import OK, STOP, WARNING, Finding
from runtime.launch.doctor import Report, ask_network, describe, examine, torch_build
from tests.conftest import Tree
from tests.unit.launch.test_checks import job_of, put


def levels(report: Report) -> dict[str, str]:
    return {finding.name: finding.level for finding in report.findings}


def ready(tree: Tree) -> Tree:
    job_of(tree)
    tree.config("inputdataconfig", {"train": {}})
    tree.channel("train", x__csv="1")
    tree.hyperparameters(sagemaker_program="train.py")
    tree.script("pass")
    return tree


def test_a_job_in_good_order_is_ready(tree: Tree) -> None:
    report = examine(ready(tree).paths, {}, network=False)
    assert not report.stops, describe(report)
    assert levels(report)["channel train"] == OK
    assert report.as_json()["verdict"] == "ready"


def test_without_a_job_the_container_is_looked_at(tree: Tree) -> None:
    report = examine(tree.paths, {}, network=False)
    assert not report.stops
    assert {"job", "/dev/shm", "limits", "interface", "GPU", "clock"} <= set(levels(report))


def test_a_job_that_cannot_be_read_stops(tree: Tree) -> None:
    tree.config("hyperparameters", "{")
    (stop,) = [found for found in examine(tree.paths, {}, network=False).findings if found.level == STOP]
    assert "hyperparameters.json is not JSON" in stop.found


@pytest.mark.parametrize(
    ("break_it", "name"),
    [
        (lambda tree: tree.hyperparameters(sagemaker_program="other.py"), "program"),
        (lambda tree: tree.hyperparameters(sagemaker_program="train.py", slipway_silense_s="3"), "job"),
        (lambda tree: tree.config("inputdataconfig", {"train": {}, "gone": {}}), "channel gone"),
        (lambda tree: (Path(tree.paths.data) / "train/x.csv").unlink(), "channel train"),
        (lambda tree: Path(tree.paths.model).write_text("a file"), "writable"),
    ],
)
def test_what_would_stop_a_job_is_found(tree: Tree, break_it: object, name: str) -> None:
    break_it(ready(tree))  # type: ignore[operator]
    report = examine(tree.paths, {}, network=False)
    stops = [found for found in report.findings if found.level == STOP]
    assert [found.name for found in stops] == [name]
    assert all(found.why and found.fix for found in stops)


def test_code_in_s3_without_credentials(tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ready(tree).hyperparameters(sagemaker_program="train.py", sagemaker_submit_directory="s3://b/code.tar.gz")
    found = levels(examine(tree.paths, {}, network=False))
    assert (found["credentials"], found["region"]) == (WARNING, WARNING)
    given = {"AWS_ACCESS_KEY_ID": "x", "AWS_REGION": "eu-west-1"}
    assert {"credentials", "region"} & set(levels(examine(tree.paths, given, network=False))) == set()


# --- driver and CUDA ----------------------------------------------------------------------------------------------

NVRM = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Mar  5 22:15:33 UTC 2024\nGCC version: 12\n"


@pytest.mark.parametrize(
    ("driver", "cuda", "level"),
    [
        ("550.54.15", "12.8", OK),
        ("470.182.03", "12.8", STOP),
        ("550.54.15", "13.0", STOP),
        ("450.80.02", "11.8", OK),
        ("", "12.8", OK),
        ("550.54.15", "", WARNING),
    ],
)
def test_the_driver_is_held_against_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str, cuda: str, level: str
) -> None:
    monkeypatch.setattr(doctor, "torch_build", lambda: ("2.11.0", cuda))
    root = put(tmp_path, proc__driver__nvidia__version=NVRM.format(driver)) if driver else str(tmp_path)
    (found,) = doctor.cuda({}, root)
    assert found.level == level, found
    (tmp_path / "usr/local/cuda/compat").mkdir(parents=True)
    (found,) = doctor.cuda({}, root)
    assert found.level == (WARNING if level == STOP else level)


def test_the_build_is_read_from_torchs_own_file(tmp_path: Path) -> None:
    text = "from typing import Optional\n__version__ = '2.11.0+cu128'\ndebug = False\ncuda: Optional[str] = '12.8'\n"
    put(tmp_path, torch__version__py="")
    (tmp_path / "torch/version.py").write_text(text)
    assert torch_build([str(tmp_path)]) == ("2.11.0+cu128", "12.8")
    (tmp_path / "torch/version.py").write_text("__version__ = '2.11.0+cpu'\ncuda: Optional[str] = None\n")
    assert torch_build([str(tmp_path)]) == ("2.11.0+cpu", "")
    assert torch_build([str(tmp_path / "nowhere")]) == ("", "")


def test_it_agrees_with_torch_itself() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed here")
    assert torch_build() == (torch.__version__, torch.version.cuda or "")


# --- clock --------------------------------------------------------------------------------------------------------


def test_files_from_the_future_mean_a_slow_clock(tree: Tree) -> None:
    ready(tree)
    assert [found.level for found in doctor.clock(tree.paths)] == [OK]
    later = time.time() + 3600
    os.utime(f"{tree.paths.config}/resourceconfig.json", (later, later))
    (found,) = doctor.clock(tree.paths)
    assert found.level == WARNING
    assert "behind the job's files" in found.found


# --- network ------------------------------------------------------------------------------------------------------


def two_hosts(tree: Tree) -> Tree:
    ready(tree)
    tree.config("resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"]})
    return tree


def answers(tree: Tree, environ: dict[str, str], root: str = "/nowhere") -> dict[str, Finding]:
    return {found.name: found for found in ask_network(read_job(tree.paths, {}), environ, root)}


OFFLINE = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}


def test_a_name_with_two_addresses_means_two_jobs(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"algo-1": ["10.0.0.2"], "algo-2": ["10.0.0.3", "10.0.0.9"]}

    def resolve(host: str, *_: object) -> list[object]:
        return [(2, 1, 6, "", (address, 0)) for address in table[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(doctor, "_connect", lambda *_: None)
    found = answers(two_hosts(tree), {})
    assert found["host algo-1"] == Finding(OK, "host algo-1", "10.0.0.2")
    assert found["host algo-2"].level == STOP
    assert "has 2 addresses: 10.0.0.3, 10.0.0.9" in found["host algo-2"].found


def test_a_name_that_is_not_known_yet_is_worth_knowing(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    found = answers(two_hosts(tree), OFFLINE)["host algo-2"]
    assert (found.level, found.found) == (WARNING, "has no address: Name or service not known")


def test_a_name_service_that_never_answers_costs_a_bounded_time(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()

    def wait(*_: object) -> list[object]:
        never.wait(300)
        return [(2, 1, 6, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    monkeypatch.setattr(doctor, "NETWORK_S", 0.2)
    try:
        found = answers(two_hosts(tree), OFFLINE)
    finally:
        never.set()
    assert found["host algo-1"].found == "no answer within 0.2 s"
    assert found["host algo-2"].level == WARNING


def test_hosts_whose_addresses_are_given_are_not_looked_up(tree: Tree) -> None:
    given = {**OFFLINE, "SLIPWAY_HOST_ADDRESSES": "algo-1=127.0.0.1,algo-2=127.0.0.2"}
    assert set(answers(two_hosts(tree), given)) == {"S3"}


def test_s3_is_asked_where_the_endpoint_is(tree: Tree) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.getsockname()[1]}"}
        assert answers(ready(tree), here)["S3"] == Finding(OK, "S3", "127.0.0.1 answers")


def test_s3_out_of_reach_stops_only_a_job_that_needs_it(tree: Tree) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        gone = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.getsockname()[1]}"}
    assert answers(ready(tree), gone)["S3"].level == OK
    tree.hyperparameters(sagemaker_program="train.py", sagemaker_submit_directory="s3://b/code.tar.gz")
    assert answers(tree, gone)["S3"].level == STOP


def test_the_server_of_a_mount_is_asked_at_its_port(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def connect(host: str, port: int) -> None:
        asked.append((host, port))
        if port == 988:
            raise TimeoutError("timed out")

    monkeypatch.setattr(doctor, "_connect", connect)
    mounts = "10.0.0.5@tcp:/fsx /data lustre rw 0 0\nfs-1.efs.x:/ /home/efs nfs4 rw 0 0\n"
    found = answers(ready(tree), {}, put(tmp_path / "root", proc__mounts=mounts))
    assert {("10.0.0.5", 988), ("fs-1.efs.x", 2049)} <= set(asked)
    assert "allow TCP 988" in found["file system /data"].fix
    assert found["file system /home/efs"].level == OK


# --- the command --------------------------------------------------------------------------------------------------


def run(tree: Tree, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime", "doctor", "--no-network", *words],
        env={"PATH": os.environ["PATH"], "SAGEMAKER_BASE_DIR": str(tree.base), **environ},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_command_ends_with_1_when_something_would_stop_a_job(tree: Tree) -> None:
    assert run(ready(tree)).returncode == 0
    tree.hyperparameters(sagemaker_program="gone.py")
    done = run(tree)
    assert done.returncode == 1
    assert done.stdout.startswith("STOP  program")
    assert "1 would stop a job" in done.stdout
    told = json.loads(run(tree, "--json").stdout)
    assert told["verdict"] == "stop"
    assert {"level", "name", "found", "why", "fix"} == set(told["findings"][0])


def test_no_secret_is_shown(tree: Tree) -> None:
    done = run(ready(tree), DB_PASSWORD="hun$$ter2-long", S3_ENDPOINT_URL="http://me:hunter2@x")  # noqa: S106 - made up
    assert "hun" not in done.stdout
    assert "DB_PASSWORD" in done.stdout


def test_torch_is_not_imported(tree: Tree) -> None:
    code = (
        "import sys; from runtime.launch.doctor import examine; from runtime.contract.paths import Paths;"
        f"examine(Paths({str(tree.base)!r}), {{}}); print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == ["False", "False"]
