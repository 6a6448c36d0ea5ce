"""Pipe channels through real jobs: interrupted and resumed, they train on the same samples as without interruption."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.data.formats.image_record import ImageRecords
from runtime.data.formats.tar import TarShards
from tests.dist.conftest import Ended
from tests.dist.test_elastic_data import COUNT, SCRIPT, write

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


@pytest.mark.parametrize(
    ("last", "first", "second"),
    [("short", (2, 2, 4, 1), (1, 3, 5, 0)), ("pad", (1, 2, 7, 0), (2, 1, 3, 2))],
)
def test_an_epoch_of_a_pipe_goes_on_in_another_world(
    last: str,
    first: tuple[int, int, int, int],
    second: tuple[int, int, int, int],
    tmp_path: Path,
    slipway_run: Callable[..., Ended],
) -> None:
    """(hosts, ranks per host, batch size, loader workers) of both lives."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    root = write(tmp_path / "data", "recordio-protobuf")
    seen: Counter[int] = Counter()
    for life, ((hosts, ranks, batch_size, workers), steps) in enumerate(((first, 4), (second, 0))):
        into = tmp_path / f"life-{life}"
        into.mkdir()
        words: list[object] = ["--entrypoint", script, "--channel", f"train={root},mode=Pipe,shuffle=2"]
        words += ["--hosts", hosts, "--procs-per-host", ranks]
        for name, value in {
            "state": tmp_path / "state.json", "batch_size": batch_size, "into": into, "workers": workers, "last": last,
        }.items():  # fmt: skip
            words += ["--hp", f"{name}={value}"]
        ended = slipway_run(*words, *(["--max-steps", steps] if steps else []), name=f"out-{life}")
        assert ended.exit_code == 0, ended.text
        lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(into.glob("rank-*"))]
        assert len(lines) == hosts * ranks
        assert len({len(each) for each in lines}) == 1, "ranks had different numbers of batches"
        assert all(size > 0 for each in lines for _, size, _ in each)
        seen.update(label for each in lines for _, _, labels in each for label in labels)
        if life == 0:
            assert sum(seen.values()) == 4 * hosts * ranks * batch_size
    assert seen == Counter(range(COUNT))


def test_a_job_without_a_writer_says_why(tmp_path: Path, slipway_run: Callable[..., Ended]) -> None:
    """As under an SDK's local mode: the configuration says Pipe, and nobody makes a FIFO."""
    script = tmp_path / "train.py"
    script.write_text(
        "import json, os, pathlib, runtime\n"
        "base = pathlib.Path(os.environ['SAGEMAKER_BASE_DIR'])\n"
        "here = base / 'input/config/inputdataconfig.json'\n"
        "held = json.loads(here.read_text())\n"
        "held['lonely'] = {'TrainingInputMode': 'Pipe', 'S3DistributionType': 'FullyReplicated'}\n"
        "here.write_text(json.dumps(held))\n"
        "def train(run: runtime.Run):\n"
        "    for batch in run.data('lonely', batch_size=4): run.step()\n"
        "runtime.main(train)\n"
    )
    root = write(tmp_path / "data", "jsonlines")
    words = ["--entrypoint", script, "--channel", f"train={root}", "--hp", "slipway_pipe_wait_s=2"]
    ended = slipway_run(*words)
    assert ended.exit_code == 1
    assert "Channel 'lonely', epoch 0: no writer for" in ended.job["failure_reason"], ended.text
    assert "mode File" in ended.job["failure_reason"]


def model_of(ended: Ended) -> dict[str, np.ndarray]:
    import tarfile

    import torch

    into = ended.output / "unpacked"
    with tarfile.open(ended.output / "model.tar.gz") as archive:
        archive.extractall(into, filter="data")
    assert json.loads((into / "model.json").read_text())["step"] == STEPS
    return {name: value.numpy() for name, value in torch.load(into / "model.pt", weights_only=True).items()}
