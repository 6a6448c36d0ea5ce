"""kill -9 of a whole job: its loader workers end, and nothing of it is left in /dev/shm."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.dist.conftest import Ended

HANG_S = 600.0
SCRIPT = """
import os, pathlib, torch, runtime

def slow(x):
    torch.rand(1)
    return torch.from_numpy(x).float()

def train(run: runtime.Run, into: str):
    data = run.data("train", batch_size=2, workers=2, transform=slow)
    for _ in run.epochs(data, 10**6):
        for x, y in data:
            run.step()
            if run._step == 3:
                pathlib.Path(f"{into}/rank-{run.rank}").write_text(str(os.getpid()))

runtime.main(train)
"""
FAILING = """
import torch, runtime

def crop(x):
    raise ValueError("the crop is larger than the image")

def train(run: runtime.Run):
    for x, y in run.data("train", batch_size=2, workers=2, transform=crop):
        run.step()

runtime.main(train)
"""


def write(root: Path) -> Path:
    for number in range(40):
        file = root / str(number % 2) / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64, 3), number, dtype=np.uint8)).save(file)
    return root


def children(pid: int) -> list[int]:
    """List all processes below one."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + HANG_S
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_nothing_is_left_of_a_job_whose_ranks_and_launcher_are_killed(tmp_path: Path) -> None:
    config = tmp_path / "ml/input/config"
    config.mkdir(parents=True)
    (tmp_path / "ml/code").mkdir()
    (tmp_path / "ml/code/train.py").write_text(SCRIPT)
    write(tmp_path / "ml/input/data/train")
    values = {"sagemaker_program": "train.py", "into": str(tmp_path)}
    (config / "hyperparameters.json").write_text(json.dumps(values))
    (config / "inputdataconfig.json").write_text(json.dumps({"train": {"TrainingInputMode": "File"}}))
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]}))
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SLIPWAY_", "SM_", "SAGEMAKER_"))}
    environ |= {"SAGEMAKER_BASE_DIR": str(tmp_path / "ml"), "SLIPWAY_PROCS_PER_HOST": "2", "OMP_NUM_THREADS": "1"}
    before = set(os.listdir("/dev/shm"))
    with (tmp_path / "log").open("w") as log:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "runtime.launch.launcher"], env=environ, stdout=log, stderr=subprocess.STDOUT
        )
        marks = [tmp_path / f"rank-{rank}" for rank in range(2)]
        try:
            wait_until(
                lambda: all(mark.exists() for mark in marks) or launcher.poll() is not None, "no rank made three steps"
            )
            assert launcher.poll() is None, (tmp_path / "log").read_text()
            everybody = children(launcher.pid)
            ranks = [int(mark.read_text()) for mark in marks]
            workers = [pid for rank in ranks for pid in children(rank)]
            assert len(workers) == 4, "two loader workers for each rank"
        finally:
            launcher.kill()
            for rank in [int(mark.read_text()) for mark in marks if mark.exists()]:
                os.kill(rank, signal.SIGKILL)
            launcher.wait(HANG_S)
    wait_until(lambda: not any(lives(pid) for pid in workers), "a loader worker outlives its rank")
    # Other jobs on this machine use it too; torch's names hold the number of a process.
    mine = {str(pid) for pid in (*everybody, launcher.pid)}
    left = {name for name in set(os.listdir("/dev/shm")) - before if mine & set(name.replace(".", "_").split("_"))}
    assert not left


def test_an_error_in_a_loader_worker_is_told_with_its_place(tmp_path: Path, slipway_run: Callable[..., Ended]) -> None:
    script = tmp_path / "train.py"
    script.write_text(FAILING)
    ended = slipway_run("--entrypoint", script, "--channel", f"train={write(tmp_path / 'data')}")
    assert ended.exit_code == 1
    reason = ended.job["failure_reason"]
    assert "ValueError: the crop is larger than the image" in reason
    assert "train.py:5" in reason
    assert "Traceback" not in reason
