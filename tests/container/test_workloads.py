"""Our own workloads and commands in the image: two hosts, stopped on the way and resumed."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.container.containers import Container, Containers, Tree, make_tree, wait_until

pytestmark = pytest.mark.container

HOSTS = ("algo-1", "algo-2")
CLASSES = {"dark": 40, "light": 215}
"""Label folder to grey level: a task that anything learns at once."""


def write_images(channel: Path, per_class: int) -> Path:
    """Write `per_class` grey squares of 8 x 8 pixels for each of `CLASSES`."""
    for label, grey in CLASSES.items():
        (channel / label).mkdir(parents=True)
        for number in range(per_class):
            Image.new("L", (8, 8), grey + number % 16).save(channel / label / f"{number:03d}.png")
    return channel


def start(
    containers: Containers, home: Path, channels: dict[str, Path], checkpoints: Path, hyperparameters: dict[str, str]
) -> list[tuple[Container, Tree]]:
    """Start the workload on two hosts that see one directory of checkpoints, as the service keeps it in S3."""
    network = containers.network()
    started: list[tuple[Container, Tree]] = []
    values = {"slipway_entrypoint": "image_classification", "network": "cnn", **hyperparameters}
    for host in HOSTS:
        tree = make_tree(home / host, host=host, hosts=HOSTS, hyperparameters=values, channels=channels)
        (tree.base / "input" / "config" / "checkpointconfig.json").write_text('{"LocalPath": "/opt/ml/checkpoints"}')
        shared = ("--volume", f"{checkpoints}:/opt/ml/checkpoints")
        started.append((containers.run("train", tree=tree, host=host, network=network, options=shared), tree))
    return started


def test_image_classification_on_two_hosts_stops_and_resumes(containers: Containers, tmp_path: Path):
    train, validation = write_images(tmp_path / "train", 32), write_images(tmp_path / "validation", 8)
    channels = {"train": train, "validation": validation}
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()

    many = {"epochs": "100000", "batch_size": "8", "checkpoint_every_steps": "2"}
    (first, first_tree), (second, second_tree) = start(containers, tmp_path / "one", channels, checkpoints, many)
    wait_until(lambda: any(checkpoints.iterdir()) or not first.running(), "the first checkpoint")
    assert first.stop() < 30, first.logs()
    assert first.exit_code() == 0, first.logs()
    assert second.exit_code(30) == 0, second.logs()
    assert first_tree.stopped is not None, first.logs()
    assert second_tree.stopped is not None, second.logs()
    step = first_tree.stopped["step"]
    assert isinstance(step, int)
    assert step >= 1

    epochs = {"epochs": str(step // 4 + 3), "batch_size": "8"}  # 64 samples / (2 ranks x 8) = 4 steps per epoch
    (first, first_tree), (second, second_tree) = start(containers, tmp_path / "two", channels, checkpoints, epochs)
    assert first.exit_code() == 0, first.logs()
    assert second.exit_code() == 0, second.logs()
    assert first_tree.succeeded
    assert second_tree.succeeded
    resumed = json.loads((first_tree.base / "output" / "slipway" / "resumed.json").read_text())
    assert resumed["step"] == step
    record = json.loads(first_tree.model("model.json").read_text())
    assert record["classes"] == sorted(CLASSES)
    assert record["world_size"] == 2
    assert not second_tree.model("model.pt").exists()


def test_the_command_slipway_is_there(containers: Containers):
    container = containers.run("slipway", "--help", options=("--read-only",))
    assert container.exit_code() == 0
    assert "plan" in container.logs()
