"""The main promise: an interrupted and resumed job ends with the very weights of one that was never interrupted."""

import hashlib
import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.dist.conftest import Ended

STEPS_PER_EPOCH = 23
"""1,437 digits in global batches of 64."""
JOB = [
    "--entrypoint", "image_classification", "--hosts", 2, "--procs-per-host", 2,
    "--hp", "network=cnn", "--hp", "epochs=4", "--hp", "batch_size=16", "--hp", "lr=0.004",
    "--hp", "dropout=0.1", "--hp", "checkpoint_every_steps=20",
]  # fmt: skip


def weights(output: Path) -> str:
    with tarfile.open(output / "model.tar.gz") as archive:
        member = archive.extractfile("model.pt")
        assert member is not None
        state = torch.load(io.BytesIO(member.read()), weights_only=True)
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()


def channels(digits: Path) -> list[object]:
    return ["--channel", f"train={digits / 'train'}", "--channel", f"validation={digits / 'validation'}"]


@pytest.fixture(scope="module")
def uninterrupted(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    import subprocess

    from tests.dist.conftest import SLIPWAY

    output = tmp_path_factory.mktemp("uninterrupted") / "out"
    command = [*SLIPWAY, "run", *map(str, [*JOB, *channels(digits), "--output", output])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return weights(output)


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_interrupted_mid_epoch_by_step(
    signal: str, digits: Path, uninterrupted: str, slipway_run: Callable[..., Ended]
) -> None:
    ended = slipway_run(*JOB, *channels(digits), "--interrupt-after", "step:55", "--interrupt-signal", signal)
    assert ended.exit_code == 0, ended.text
    first, second = ended.job["attempts"]
    assert first["interrupted"]["signal"].removeprefix("SIG") == signal
    resumed = second["resumed_step"]
    assert resumed > 0
    assert resumed % STEPS_PER_EPOCH != 0, "an epoch's border would prove nothing about the data position"
    # A stop saves its own step; a kill goes back to a save that was synced, mostly the last one.
    assert (resumed >= 55) if signal == "TERM" else (resumed in (20, 40, 60))
    assert weights(ended.output) == uninterrupted


def test_what_was_synced_by_half_is_passed_over(
    digits: Path, uninterrupted: str, slipway_run: Callable[..., Ended]
) -> None:
    """Manifests are stored before what they name, and the machines vanish in between."""
    words = ["--interrupt-after", "step:55", "--interrupt-signal", "KILL"]
    words += ["--checkpoint-sync", "order=small-first,rate=100k"]
    ended = slipway_run(*JOB, *channels(digits), *words)
    assert ended.exit_code == 0, ended.text
    first = ended.job["checkpoint_sync"][0]
    assert (first["attempt"], first["host"], first["end"]) == (1, "algo-1", "cut off")
    assert first["lost"] > 0, first
    assert weights(ended.output) == uninterrupted


def test_interrupted_at_random_steps(
    digits: Path, uninterrupted: str, slipway_run: Callable[..., Ended], request: pytest.FixtureRequest
) -> None:
    """Seeded; `make soak` runs more of them."""
    chance = random.Random(20261121)
    for number in range(request.config.getoption("--count-kills", default=2) // 2):
        steps = sorted(chance.sample(range(5, 85), 2))
        words = [word for step in steps for word in ("--interrupt-after", f"step:{step}")]
        signal = chance.choice(["TERM", "KILL"])
        ended = slipway_run(*JOB, *channels(digits), *words, "--interrupt-signal", signal, name=f"out-{number}")
        assert ended.exit_code == 0, ended.text
        assert weights(ended.output) == uninterrupted, f"{signal} at {steps}"


def test_a_sharded_channel_resumes_too(digits: Path, slipway_run: Callable[..., Ended]) -> None:
    """Each host reads its own files; the position means the same on all of them."""
    words = ["--entrypoint", "image_classification", "--hosts", 2, "--hp", "network=cnn", "--hp", "epochs=2"]
    words += ["--hp", "checkpoint_every_steps=10", "--channel", f"train={digits / 'train'},distribution=ShardedByS3Key"]
    straight = slipway_run(*words, name="straight")
    assert straight.exit_code == 0, straight.text
    ended = slipway_run(*words, "--interrupt-after", "step:35", "--interrupt-signal", "KILL")
    assert ended.exit_code == 0, ended.text
    assert ended.job["attempts"][1]["resumed_step"] in (10, 20, 30, 40)
    assert weights(ended.output) == weights(straight.output)
