"""The weights that a job leaves: ``model.pt``, and ``model.json`` with what whoever loads it must know."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from runtime.base.errors import PlatformError
from runtime.base.log import Log
from runtime.version import __version__

log = Log("run")

FORMAT = 1


def write_model(directory: Path, state: Mapping[str, object], facts: Mapping[str, object]) -> None:
    """Write the weights, so that a reader never finds half of them.

    Args:
        directory: made if need be.
        state: of the model, as `load_state_dict` takes it.
        facts: JSON-able.

    Raises:
        PlatformError: they cannot be written.
    """
    record = {"format": FORMAT, "runtime": __version__, **facts}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        aside = directory / ".model.pt.tmp"
        torch.save(state, aside)
        aside.rename(directory / "model.pt")
        (directory / "model.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except (OSError, RuntimeError) as error:
        raise PlatformError(f"The model cannot be written to {directory}: {error}") from error
    log.info(f"saved {directory / 'model.pt'}")
