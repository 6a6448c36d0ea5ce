"""What is seen of a machine and a job in passing: each finding with its reason and remedy, and no false alarm."""

import os
from pathlib import Path

import pytest

from runtime.contract.job import Job, read_job
from runtime.launch import checks
from runtime.launch.checks import OK, STOP, WARNING, Finding
from tests.conftest import Tree


def job_of(tree: Tree, **resources: object) -> Job:
    tree.config("resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1"], **resources})
    return read_job(tree.paths, {})


def put(root: Path, **files: str) -> str:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("value", "shown"),
    [("$HOME/data", "'$HOME/data'"), ("a${REGION}b", "'${REGION}b'"), ("pa$$word", "'$$word'"), ('"$USER"', "'$USER'")],
)
def test_a_value_that_interpolation_has_met(value: str, shown: str) -> None:
    (found,) = checks.mangled({"PREFIX": value, "FINE": "value"})
    assert found.level == WARNING
    assert found.found == f"environment variable PREFIX holds {shown}"
    assert "compose" in found.fix


@pytest.mark.parametrize("value", ["5$ a piece", "a$b", "^[a-z]+$", "$", "$5", "", "100 $"])
def test_a_dollar_alone_is_none(value: str) -> None:
    assert list(checks.mangled({"X": value})) == []


def test_a_mangled_secret_is_named_and_not_shown() -> None:
    (found,) = checks.mangled({"DB_PASSWORD": "hun$$ter2"})
    assert found.found == "environment variable DB_PASSWORD holds [redacted]"


def test_a_gpu_instance_without_a_gpu(tree: Tree, tmp_path: Path) -> None:
    job = job_of(tree, current_instance_type="ml.g5.xlarge")
    (tmp_path / "none/dev").mkdir(parents=True)
    (found,) = checks.gpus(job, str(tmp_path / "none"))
    assert "instance type ml.g5.xlarge has GPUs, and none is visible here" in found.text()
    assert list(checks.gpus(job, put(tmp_path / "one", dev__nvidia0="", dev__nvidiactl=""))) == []
    assert list(checks.gpus(job_of(tree, current_instance_type="ml.m5.xlarge"), str(tmp_path / "none"))) == []


def test_a_channel_that_is_a_file(tree: Tree) -> None:
    tree.config("inputdataconfig", {"train": {}, "test": {}})
    tree.channel("test", x__csv="1")
    (Path(tree.paths.data) / "train").write_text("rows")
    (found,) = checks.file_channels(read_job(tree.paths, {}))
    assert found.name == "channel train"
    assert "is a file, not a directory" in found.found


def test_a_shell_as_process_1(tmp_path: Path) -> None:
    (found,) = checks.first_process(put(tmp_path / "bash", proc__1__comm="bash\n"))
    assert "exec train" in found.fix
    assert list(checks.first_process(put(tmp_path / "train", proc__1__comm="train\n"))) == []
    assert list(checks.first_process(str(tmp_path / "none"))) == []


MOUNTS = """overlay / overlay rw 0 0
proc /proc proc rw 0 0
/dev/nvme1n1 /opt/ml/input ext4 rw 0 0
10.0.0.5@tcp:/fsx /opt/ml/input/data/train lustre rw 0 0
fs-1.efs.eu-west-1.amazonaws.com:/ /mnt/with\\040blank nfs4 rw 0 0
"""


def test_mounts_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    root = put(tmp_path, proc__mounts=MOUNTS)
    assert list(checks.mounts(root))[-1] == ("/mnt/with blank", "nfs4", "fs-1.efs.eu-west-1.amazonaws.com:/")
    assert checks.mount_of("/opt/ml/input/data/train/x", root)[1] == "lustre"
    assert checks.mount_of("/opt/ml/input/data/training", root)[0] == "/opt/ml/input"
    assert checks.mount_of("/opt/ml/checkpoints", root)[0] == "/"
    assert checks.mount_of("/x", str(tmp_path / "none")) == ("", "", "")


def test_checkpoints_on_the_containers_own_layer(tree: Tree, tmp_path: Path) -> None:
    tree.config("checkpointconfig", {"LocalPath": "/data/checkpoints"})
    job = job_of(tree)
    (found,) = checks.checkpoint_mount(job, put(tmp_path / "a", proc__mounts=MOUNTS))
    assert found.found == "/data/checkpoints is no mount"
    own = MOUNTS + "/dev/sdb /data/checkpoints xfs rw 0 0\n"
    assert list(checks.checkpoint_mount(job, put(tmp_path / "b", proc__mounts=own))) == []
    assert list(checks.checkpoint_mount(job, str(tmp_path / "unknown"))) == []


def test_what_an_earlier_run_left_in_the_model(tree: Tree) -> None:
    job = job_of(tree)
    assert list(checks.leftovers(job)) == []
    Path(tree.paths.model).mkdir(parents=True)
    for name in "abcd":
        (Path(tree.paths.model) / name).touch()
    (found,) = checks.leftovers(job)
    assert "is not empty (a, b, c …)" in found.found


def test_shared_memory_that_is_not_there_stops_a_job(tmp_path: Path) -> None:
    (found,) = checks.shared_memory(str(tmp_path))
    assert (found.level, found.name) == (STOP, "/dev/shm")


def test_an_interface_that_does_not_exist(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "sys/class/net/eth0").mkdir(parents=True)
    (found,) = checks.interface(job_of(tree, network_interface_name="ethwe"), str(tmp_path))
    assert found.level == WARNING
    assert "'ethwe' of resourceconfig.json does not exist; here are eth0" in found.found
    (found,) = checks.interface(job_of(tree, network_interface_name="eth0"), str(tmp_path))
    assert (found.level, found.found) == (OK, "eth0")


LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max processes             {processes:<20} unlimited            processes
Max open files            {files:<20} 4096                 files
Max locked memory         {locked:<20} 65536                bytes
"""


def test_limits_that_are_too_low(tmp_path: Path) -> None:
    low = LIMITS.format(processes=100, files=1024, locked=65536)
    root = put(tmp_path / "low", proc__self__limits=low, sys__class__infiniband__efa0="")
    assert {found.name for found in checks.limits(root) if found.level == WARNING} == {
        "open files",
        "processes",
        "locked memory",
    }
    high = LIMITS.format(processes="unlimited", files=65536, locked="unlimited")
    (found,) = checks.limits(put(tmp_path / "high", proc__self__limits=high))
    assert found == Finding(OK, "limits", "files 65536, processes unlimited")


def test_the_limit_of_processes_is_the_containers(tmp_path: Path) -> None:
    high = LIMITS.format(processes="unlimited", files=65536, locked="unlimited")
    root = put(tmp_path, proc__self__limits=high, sys__fs__cgroup__pids__max="")
    (tmp_path / "sys/fs/cgroup/pids.max").write_text("64\n")
    assert [found.found for found in checks.limits(root) if found.level == WARNING] == ["64"]


def test_places_that_cannot_be_written(tree: Tree) -> None:
    job = job_of(tree)
    assert {found.level for found in checks.writable(job)} == {OK}
    Path(tree.paths.model).write_text("a file")
    stops = [found for found in checks.writable(job) if found.level == STOP]
    assert [found.found for found in stops] == [f"{tree.paths.model} cannot be written by uid {os.getuid()}"]


def test_a_tree_elsewhere_is_no_container(tree: Tree, tmp_path: Path) -> None:
    root = put(tmp_path / "root", proc__1__comm="bash\n", proc__mounts="overlay / overlay rw 0 0\n")
    tree.config("checkpointconfig", {"LocalPath": "/data/checkpoints"})
    assert [found.name for found in checks.quick(job_of(tree), {}, root)] == []


def test_what_a_quick_rank_has_written_is_no_leftover(tree: Tree) -> None:
    Path(tree.paths.model).mkdir(parents=True, exist_ok=True)
    Path(tree.paths.model, "model.pt").touch()
    assert list(checks.leftovers(job_of(tree), [])) == []
    assert [found.found for found in checks.leftovers(job_of(tree), ["old"])] == [
        f"{tree.paths.model} is not empty (old)"
    ]
    assert len(list(checks.leftovers(job_of(tree)))) == 1
