"""Users' own scripts: alone on a laptop, torchrun-style without us, and on a sample."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dist.conftest import Ended

OWN_LOOP = '''
import torch
import torch.nn.functional as F

import runtime


def train(run: runtime.Run, epochs: int = 2, lr: float = 0.1) -> None:
    """A classifier of digits, on one page."""
    data = run.data("train", batch_size=32)
    torch.manual_seed(0)
    model = run.wrap(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    run.checkpoint(model=model, optimizer=optimizer, data=data, every_steps=10)
    for _ in run.epochs(data, epochs):
        for x, y in data:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
    run.save_model(model)
    print(f"world={run.world_size} lr={lr} steps={run.steps_done}")


if __name__ == "__main__":
    runtime.main(train)
'''

TORCHRUN_STYLE = """
import argparse
import os

import torch
import torch.distributed as dist

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--model-dir", default=os.environ["SM_MODEL_DIR"])
args = parser.parse_args()
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(total)
print(f"sum={total.item():.0f} lr={args.lr} local={os.environ['LOCAL_RANK']} hosts={os.environ['SM_HOSTS']}")
if dist.get_rank() == 0:
    open(os.path.join(args.model_dir, "weights"), "w").write("1")
dist.destroy_process_group()
"""


@pytest.fixture
def clean_environ() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("SLIPWAY_", "SM_", "SAGEMAKER_", "RANK", "WORLD"))}


def test_alone_on_a_laptop(tmp_path: Path, digits: Path, clean_environ: dict[str, str]) -> None:
    (tmp_path / "train.py").write_text(OWN_LOOP)
    done = subprocess.run(
        [sys.executable, "train.py", "--lr", "0.05", "--epochs=1"],
        cwd=tmp_path,
        env=clean_environ | {"SM_CHANNEL_TRAIN": str(digits / "train")},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "world=1 lr=0.05 steps=45" in done.stdout  # ceil(1437 / 32)


def test_a_mistake_on_a_laptop_is_one_line(tmp_path: Path, clean_environ: dict[str, str]) -> None:
    (tmp_path / "train.py").write_text(OWN_LOOP)
    done = subprocess.run(
        [sys.executable, "train.py", "--learning-rate", "0.05"],
        cwd=tmp_path, env=clean_environ, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Unknown hyperparameter 'learning_rate'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_script_that_imports_nothing_of_ours(tmp_path: Path, slipway_run: Callable[..., Ended]) -> None:
    (tmp_path / "plain.py").write_text(TORCHRUN_STYLE)
    ended = slipway_run("--entrypoint", tmp_path / "plain.py", "--hosts", 2, "--procs-per-host", 2, "--hp", "lr=0.25")
    assert ended.exit_code == 0, ended.text
    lines = [line for host in ("algo-1", "algo-2") for line in ended.log(host).splitlines() if "sum=" in line]
    assert len(lines) == 4
    assert all("sum=10 lr=0.25" in line and 'hosts=["algo-1","algo-2"]' in line for line in lines)
    assert (ended.output / "model.tar.gz").is_file()


@pytest.mark.parametrize("entrypoint", ["image_classification", "own.py"])
def test_a_sample_of_100_projects_the_full_run(
    entrypoint: str, tmp_path: Path, digits: Path, slipway_run: Callable[..., Ended]
) -> None:
    (tmp_path / "own.py").write_text(OWN_LOOP)
    named = tmp_path / entrypoint if entrypoint.endswith(".py") else entrypoint
    network = [] if entrypoint.endswith(".py") else ["--hp", "network=cnn"]
    ended = slipway_run(
        "--entrypoint", named, "--procs-per-host", 2, "--channel", f"train={digits / 'train'}", "--sample", 100,
        "--hp", "epochs=2", *network,
    )  # fmt: skip
    assert ended.exit_code == 0, ended.text
    assert ended.job["status"] == "Completed"
    assert "100 of 1437 samples" in ended.log()
    assert ended.job["projection"]["seconds"] > 0
    assert "full run" in ended.text.lower()


def test_max_steps_ends_as_if_the_data_were_used_up(
    tmp_path: Path, digits: Path, slipway_run: Callable[..., Ended]
) -> None:
    (tmp_path / "own.py").write_text(OWN_LOOP)
    ended = slipway_run("--entrypoint", tmp_path / "own.py", "--channel", f"train={digits / 'train'}", "--max-steps", 7)
    assert ended.exit_code == 0, ended.text
    assert "steps=7" in ended.log()


def test_an_exception_names_rank_and_line_on_every_host(tmp_path: Path, slipway_run: Callable[..., Ended]) -> None:
    (tmp_path / "own.py").write_text(
        "import runtime\n\n\ndef train(run: runtime.Run) -> None:\n    run.world.barrier()\n"
        "    if run.rank == 2:\n        raise ValueError('the third rank is unwell')\n    run.world.barrier()\n\n\n"
        "runtime.main(train)\n"
    )
    ended = slipway_run("--entrypoint", tmp_path / "own.py", "--hosts", 2, "--procs-per-host", 2)
    assert ended.exit_code == 1
    reason = ended.job["failure_reason"]
    assert reason.startswith("algo-2 rank 2: ValueError: the third rank is unwell at ")
    assert "own.py:7" in reason
    hosts = ended.job["attempts"][0]["hosts"]
    assert [host["exit_code"] for host in hosts] == [1, 1]
    assert reason[:60] in ended.log("algo-1")
    assert reason[:60] in ended.log("algo-2")


def test_job_json_agrees_with_the_end(tmp_path: Path, slipway_run: Callable[..., Ended]) -> None:
    (tmp_path / "own.py").write_text("import sys\nsys.exit(7)\n")
    ended = slipway_run("--entrypoint", tmp_path / "own.py")
    assert ended.exit_code == 1
    assert ended.job["status"] == "Failed"
    assert ended.job["attempts"][0]["hosts"][0]["exit_code"] == 7
    assert json.dumps(ended.job)


def test_a_limit_of_steps_leaves_validation_whole(digits: Path, slipway_run: Callable[..., Ended]) -> None:
    ended = slipway_run(
        "--entrypoint", "image_classification", "--channel", f"train={digits / 'train'}", "--max-steps", 3,
        "--channel", f"validation={digits / 'validation'}", "--hp", "network=cnn",
    )  # fmt: skip
    assert ended.exit_code == 0, ended.text
    assert ended.job["metrics"]["validation_accuracy"] > 0, "three steps are better than nothing"


def test_beginning_anew_survives_an_interruption(digits: Path, slipway_run: Callable[..., Ended]) -> None:
    ended = slipway_run(
        "--entrypoint", "image_classification", "--channel", f"train={digits / 'train'}", "--hp", "network=cnn",
        "--hp", "epochs=1", "--hp", "slipway_resume=off", "--interrupt-after", "step:10",
    )  # fmt: skip
    assert ended.exit_code == 0, ended.text
    assert ended.job["attempts"][1]["resumed_step"] >= 10


def test_children_of_a_script_can_be_terminated(tmp_path: Path, slipway_run: Callable[..., Ended]) -> None:
    (tmp_path / "own.py").write_text(
        "import multiprocessing, time\nimport runtime\n\n\ndef train(run: runtime.Run) -> None:\n"
        "    child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))\n    child.start()\n"
        "    child.terminate()\n    child.join(20)\n    print('exit code of the child:', child.exitcode)\n\n\n"
        "runtime.main(train)\n"
    )
    ended = slipway_run("--entrypoint", tmp_path / "own.py")
    assert ended.exit_code == 0, ended.text
    assert "exit code of the child: -15" in ended.log()


def test_a_rank_that_leaves_early_is_named(tmp_path: Path, slipway_run: Callable[..., Ended]) -> None:
    (tmp_path / "own.py").write_text(
        "import sys\nimport runtime\n\n\ndef train(run: runtime.Run) -> None:\n    run.world.barrier()\n"
        "    if run.rank == 1:\n        sys.exit(0)\n    run.world.barrier()\n\n\nruntime.main(train)\n"
    )
    ended = slipway_run("--entrypoint", tmp_path / "own.py", "--hosts", 2)
    assert ended.exit_code == 1
    assert "rank 1 ended with exit code 0 while other ranks were still at work" in ended.job["failure_reason"]
