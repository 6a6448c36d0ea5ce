"""Each workload runs by its smoke.json, and by the request that its example builds."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.planning.program import workloads
from tests.dist.conftest import Ended


@pytest.mark.parametrize("name", list(workloads()))
def test_smoke(name: str, digits: Path, slipway_run: Callable[..., Ended]) -> None:
    values = json.loads(Path(workloads()[name]).with_name("smoke.json").read_text())
    words = [word for key, value in values.items() for word in ("--hp", f"{key}={value}")]
    ended = slipway_run("--entrypoint", name, "--channel", f"train={digits / 'train'}", *words)
    assert ended.exit_code == 0, ended.text
    assert ended.job["status"] == "Completed"


@pytest.mark.parametrize(
    "options",
    [
        "network=resnet18 precision=bf16 channels_last=true batch_size=8",
        "network=cnn accumulate=3 optimizer=sgd lr=0.1 label_smoothing=0.1 image_size=12",
        "network=resnet50 optimizer=adam batch_size=4 lr_batch=0",
    ],
)
def test_options_of_image_classification(options: str, digits: Path, slipway_run: Callable[..., Ended]) -> None:
    words = [word for pair in options.split() for word in ("--hp", pair)]
    ended = slipway_run(
        "--entrypoint", "image_classification", "--procs-per-host", 2, "--max-steps", 3, "--sample", 64,
        "--channel", f"train={digits / 'train'}", "--hp", "epochs=2", *words,
    )  # fmt: skip
    assert ended.exit_code == 0, ended.text


def test_the_request_of_the_example(tmp_path: Path, digits: Path, slipway_run: Callable[..., Ended]) -> None:
    from examples.image_classification import request

    described = request(
        "slipway-pytorch:cpu", "arn:aws:iam::1:role/none", {"train": f"file://{digits}/train"}, "file://x"
    )
    described["HyperParameters"] = described["HyperParameters"] | {"network": "cnn", "epochs": "1"}
    (tmp_path / "request.json").write_text(json.dumps(described))
    ended = slipway_run(tmp_path / "request.json", "--max-steps", 3)
    assert ended.exit_code == 0, ended.text
    assert [host["name"] for host in ended.job["attempts"][0]["hosts"]] == ["algo-1", "algo-2"]
