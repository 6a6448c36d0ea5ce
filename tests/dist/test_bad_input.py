"""Each mistake ends with one named line, the exit code and a failure file, before any process group exists."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

TRAIN = [sys.executable, "-m", "runtime.launch.launcher"]
DEFAULTS = {"slipway_entrypoint": "image_classification", "network": "cnn", "epochs": "1"}


@dataclass(frozen=True)
class Result:
    exit_code: int
    failure: str
    log: str


@pytest.fixture
def tree(tmp_path: Path, digits: Path) -> Path:
    """A contract tree that would run; each test breaks one thing."""
    config = tmp_path / "ml/input/config"
    config.mkdir(parents=True)
    data = tmp_path / "ml/input/data"
    data.mkdir()
    (data / "train").symlink_to(digits / "train")
    (config / "hyperparameters.json").write_text(json.dumps(DEFAULTS))
    (config / "inputdataconfig.json").write_text(json.dumps({"train": {"TrainingInputMode": "File"}}))
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]}))
    (config / "checkpointconfig.json").write_text(json.dumps({"LocalPath": "/opt/ml/checkpoints"}))
    return tmp_path / "ml"


@pytest.fixture
def train(tree: Path) -> Callable[..., Result]:
    def run(ranks: int = 2, **variables: str) -> Result:
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("SLIPWAY_", "SM_", "SAGEMAKER_"))}
        environ |= {"SAGEMAKER_BASE_DIR": str(tree), "SLIPWAY_PROCS_PER_HOST": str(ranks), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(TRAIN, env=environ | variables, capture_output=True, text=True, timeout=900, check=False)
        failure = tree / "output/failure"
        return Result(done.returncode, failure.read_text() if failure.exists() else "", done.stdout + done.stderr)

    return run


def fails(result: Result, *words: str, exit_code: int = 1) -> None:
    assert result.exit_code == exit_code, result.log
    assert all(word in result.failure for word in words), result.failure
    assert "\n" not in result.failure
    assert len(result.failure) <= 1024
    assert "Traceback" not in result.log
    assert "ddp over" not in result.log, "a process group existed"


def write_hyperparameters(tree: Path, **changes: str | None) -> None:
    values = {name: value for name, value in {**DEFAULTS, **changes}.items() if value is not None}
    (tree / "input/config/hyperparameters.json").write_text(json.dumps(values))


def test_unknown_hyperparameter(tree: Path, train: Callable[..., Result]) -> None:
    write_hyperparameters(tree, epoch="3")
    fails(train(), "Unknown hyperparameter 'epoch'", "Did you mean 'epochs'?")


def test_mistyped_hyperparameter(tree: Path, train: Callable[..., Result]) -> None:
    write_hyperparameters(tree, epochs="3.7")
    fails(train(), "Hyperparameter 'epochs' is '3.7', which is not an integer")


def test_missing_hyperparameter(tree: Path, train: Callable[..., Result]) -> None:
    (tree / "code").mkdir()
    (tree / "code/own.py").write_text(
        "import runtime\n\ndef train(run: runtime.Run, lr: float) -> None:\n    pass\n\nruntime.main(train)\n"
    )
    write_hyperparameters(tree, slipway_entrypoint=None, sagemaker_program="own.py", network=None, epochs=None)
    fails(train(), "Hyperparameter 'lr' is missing and has no default")


def test_unknown_setting(tree: Path, train: Callable[..., Result]) -> None:
    write_hyperparameters(tree, slipway_silense_s="3")
    fails(train(), "slipway_silense_s", "Did you mean 'slipway_silence_s'?")


def test_channel_that_the_job_lacks(tree: Path, train: Callable[..., Result]) -> None:
    (tree / "input/config/inputdataconfig.json").write_text(json.dumps({"trian": {"TrainingInputMode": "File"}}))
    (tree / "input/data/train").rename(tree / "input/data/trian")
    fails(train(), "Channel 'train' is not in this job", "'trian'")


def test_channel_without_directory(tree: Path, train: Callable[..., Result]) -> None:
    (tree / "input/data/train").unlink()
    fails(train(), "Channel 'train' is declared", "is not there")


def test_empty_channel(tree: Path, train: Callable[..., Result]) -> None:
    (tree / "input/data/train").unlink()
    (tree / "input/data/train").mkdir()
    fails(train(), "Channel 'train' is empty")


@pytest.mark.parametrize("name", ["hyperparameters", "inputdataconfig", "resourceconfig", "checkpointconfig"])
def test_malformed_config(name: str, tree: Path, train: Callable[..., Result]) -> None:
    (tree / f"input/config/{name}.json").write_text('{"a": ')
    fails(train(), f"{name}.json is not JSON", "line 1")


def test_unreadable_config(tree: Path, train: Callable[..., Result]) -> None:
    (tree / "input/config/hyperparameters.json").unlink()
    (tree / "input/config/hyperparameters.json").mkdir()
    fails(train(), "hyperparameters.json cannot be read")


def test_host_not_in_hosts(tree: Path, train: Callable[..., Result]) -> None:
    config = {"current_host": "algo-3", "hosts": ["algo-1", "algo-2"]}
    (tree / "input/config/resourceconfig.json").write_text(json.dumps(config))
    fails(train(), "'current_host' is 'algo-3'", "algo-1, algo-2")


def test_program_not_found(tree: Path, train: Callable[..., Result]) -> None:
    (tree / "code").mkdir()
    (tree / "code/train.py").touch()
    write_hyperparameters(tree, slipway_entrypoint=None, sagemaker_program="trian.py")
    fails(train(), "code/trian.py is not there", "Did you mean 'train.py'?")


def test_a_file_that_hides_our_package(tree: Path, train: Callable[..., Result]) -> None:
    (tree / "code").mkdir()
    (tree / "code/runtime.py").touch()
    (tree / "code/own.py").touch()
    write_hyperparameters(tree, slipway_entrypoint=None, sagemaker_program="own.py")
    fails(train(), "code/runtime.py hides the container's `runtime` package", "rename")


@pytest.mark.parametrize("damage", ["not an image", "truncated", "empty"])
def test_corrupt_image(damage: str, tree: Path, train: Callable[..., Result], digits: Path) -> None:
    import shutil

    (tree / "input/data/train").unlink()
    shutil.copytree(digits / "train", tree / "input/data/train")
    victim = sorted((tree / "input/data/train/7").iterdir())[11]
    whole = victim.read_bytes()
    victim.write_bytes(
        {"not an image": b"<html>404</html>", "truncated": whole[: len(whole) // 2], "empty": b""}[damage]
    )
    fails(train(), str(victim), "Channel 'train'")


def test_no_space_for_a_checkpoint(tree: Path, train: Callable[..., Result]) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to mount a small file system")
    full = tree / "checkpoints"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], check=True)
    try:
        fails(train(), "No space left for a checkpoint", str(full), "bytes free")
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_space_that_ends_in_the_middle(tree: Path, train: Callable[..., Result]) -> None:
    """Enough for two checkpoints, not for a third: the complete ones stay, nothing half is left."""
    if os.getuid() != 0:
        pytest.skip("needs root to mount a small file system")
    full = tree / "checkpoints"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1300k", "tmpfs", str(full)], check=True)
    try:
        write_hyperparameters(tree, checkpoint_every_steps="5", epochs="2", slipway_keep_checkpoints="50")
        result = train()
        assert result.exit_code == 1
        assert "No space left for checkpoint step-" in result.failure
        assert "earlier checkpoints are untouched" in result.failure
        complete = [path for path in full.iterdir() if (path / "MANIFEST.json").exists()]
        assert complete
        assert [path for path in full.rglob("*.tmp")] == []
    finally:
        subprocess.run(["umount", str(full)], check=True)
