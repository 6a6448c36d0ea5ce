"""Bad samples in a job over hosts that is killed and goes on: in step, counted once, named at the end, or too many."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.dist.conftest import Ended

SCRIPT = """
import torch, runtime

def train(run: runtime.Run, on_bad: str, workers: int = 0):
    data = run.data("train", batch_size=3, on_bad=on_bad, workers=workers)
    model = run.wrap(torch.nn.Linear(3 * 8 * 8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run.checkpoint(every_steps=1, model=model, optimizer=optimizer, data=data)
    for _ in run.epochs(data, 2):
        for x, y in data:
            model(x.flatten(1)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            run.step()

runtime.main(train)
"""
BAD = (3, 4, 5, 30, 41)


def write(root: Path, bad: tuple[int, ...] = BAD) -> Path:
    for number in range(50):
        file = root / str(number % 2) / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
        if number in bad:
            file.write_bytes(file.read_bytes()[:60])
    return root


@pytest.mark.parametrize(("on_bad", "workers"), [("skip", 0), ("replace", 1)])
def test_a_killed_job_goes_on_and_names_every_bad_sample_once(
    on_bad: str, workers: int, tmp_path: Path, slipway_run: Callable[..., Ended]
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    words = ["--entrypoint", script, "--channel", f"train={write(tmp_path / 'data')}", "--hosts", 2]
    words += ["--procs-per-host", 2, "--hp", f"on_bad={on_bad}", "--hp", f"workers={workers}"]
    words += ["--interrupt-after", "step:4", "--interrupt-signal", "KILL"]
    ended = slipway_run(*words)
    assert ended.exit_code == 0, ended.text
    done = {"skip": "skipped", "replace": "replaced"}[on_bad]
    assert f"5 of 50 samples could not be read and were {done}" in ended.log(), ended.text
    with tarfile.open(ended.output / "output.tar.gz") as archive:
        records = [member for member in archive if "bad_samples-rank-" in member.name]
        lines = [
            json.loads(line)
            for member in records
            for line in (archive.extractfile(member) or pytest.fail(member.name)).read().splitlines()
        ]
    named = {Path(line["name"]).stem for line in lines if "name" in line}
    assert named == {f"{number:03d}" for number in BAD}


def test_too_many_end_the_job_with_the_cause(tmp_path: Path, slipway_run: Callable[..., Ended]) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    words = ["--entrypoint", script, "--channel", f"train={write(tmp_path / 'data')}", "--procs-per-host", 2]
    words += ["--hp", "on_bad=skip", "--hp", "slipway_bad_most=3"]
    ended = slipway_run(*words)
    assert ended.exit_code == 1, ended.text
    reason = ended.job["failure_reason"]
    assert "Channel 'train'" in reason
    assert "slipway_bad_most=3" in reason
    assert ".png" in reason
