"""Pipe channels through real jobs: interrupted and resumed, they train on the same samples as without interruption."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.data.formats.image_record import ImageRecords
from runtime.data.formats.tar import TarShards
from tests.dist.conftest import Ended

STEPS = 14


def write_shards(digits: Path, root: Path, form: str) -> Path:
    """Write some hundred digits into shards of 40."""
    root.mkdir()
    images = sorted((digits / "train").glob("*/*.png"), key=lambda path: path.name)[:330]
    for begin in range(0, len(images), 40):
        with (root / f"part-{begin:04}").open("wb") as stream:
            writer = TarShards().writer(stream) if form == "tar" else ImageRecords().writer(stream)
            for path in images[begin : begin + 40]:
                data, label = path.read_bytes(), path.parent.name
                if form == "tar":
                    writer.write({"__key__": path.stem, "png": data, "cls": label.encode()})
                else:
                    writer.write({"image": data, "label": float(label)})
            writer.close()
    return root


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("tar", "shuffle=5"),
        ("recordio", "shuffle=5,wrapper=RecordIO"),
        ("tar", "distribution=ShardedByS3Key,shuffle=5,wrapper=RecordIO"),
    ],
)
def test_an_interrupted_job_trains_on_the_same_samples(
    form: str, options: str, digits: Path, tmp_path: Path, slipway_run: Callable[..., Ended]
) -> None:
    shards = write_shards(digits, tmp_path / "shards", form)
    words: list[object] = [
        "--entrypoint",
        "image_classification",
        "--hosts",
        2,
        "--procs-per-host",
        2,
        "--max-steps",
        STEPS,
    ]
    words += ["--channel", f"train={shards},mode=Pipe,{options}"]
    hyperparameters = "network=cnn epochs=2 batch_size=8 num_classes=10 samples_per_epoch=330"
    for pair in [*hyperparameters.split(), "checkpoint_every_steps=1"]:
        words += ["--hp", pair]
    whole = slipway_run(*words, name="whole")
    assert whole.exit_code == 0, whole.text
    parts = slipway_run(*words, "--interrupt-after", "step:3", "--interrupt-after", "step:12", name="parts")
    assert parts.exit_code == 0, parts.text
    assert len(parts.job["attempts"]) == 3
    ours, theirs = (model_of(ended) for ended in (whole, parts))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours), "other samples, other weights"
    assert "samples that were given out before are read again and dropped" in parts.log()


def model_of(ended: Ended) -> dict[str, np.ndarray]:
    import tarfile

    import torch

    into = ended.output / "unpacked"
    with tarfile.open(ended.output / "model.tar.gz") as archive:
        archive.extractall(into, filter="data")
    assert json.loads((into / "model.json").read_text())["step"] == STEPS
    return {name: value.numpy() for name, value in torch.load(into / "model.pt", weights_only=True).items()}
