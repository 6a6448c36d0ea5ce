"""The weights that a job leaves."""

import json
from pathlib import Path

import pytest
import torch

from runtime.base.errors import PlatformError
from runtime.model_file import write_model
from runtime.version import __version__


def test_weights_and_what_must_be_known(tmp_path: Path) -> None:
    write_model(tmp_path / "model", {"w": torch.ones(2)}, {"step": 3, "classes": ["a"]})
    assert torch.load(tmp_path / "model/model.pt", weights_only=True)["w"].tolist() == [1.0, 1.0]
    told = json.loads((tmp_path / "model/model.json").read_text())
    assert told == {"format": 1, "runtime": __version__, "step": 3, "classes": ["a"]}
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "model.pt"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    with pytest.raises(PlatformError, match=r"The model cannot be written to .*/model: "):
        write_model(tmp_path / "model", {}, {})
