"""The random number generators of one rank as a state that needs no pickle."""

import random
import sys
from collections.abc import Mapping
from typing import Any

import torch


def capture() -> dict[str, Any]:
    """Read the generators of Python, NumPy (when it is imported), torch and the GPU."""
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": {"version": version, "words": list(words), "gauss": gauss},
    }
    if "numpy" in sys.modules:
        kind, keys, position, has_gauss, cached = sys.modules["numpy"].random.get_state()
        keys = torch.tensor(keys.tolist(), dtype=torch.int64)
        state["numpy"] = {"kind": kind, "keys": keys, "position": position, "gauss": [has_gauss, cached]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: Mapping[str, Any]) -> None:
    """Set the generators to what `capture` returned."""
    torch.set_rng_state(state["torch"])
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
    if "numpy" in state:
        import numpy as np

        saved = state["numpy"]
        keys = np.array(saved["keys"].tolist(), dtype=np.uint32)
        np.random.set_state((saved["kind"], keys, saved["position"], *saved["gauss"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
