#!/usr/bin/env python3
"""An algorithm of somebody's own that honours the contract: the mean of all numbers, slowly."""

import json
import pathlib
import signal
import sys
import time

ML = pathlib.Path("/opt/ml")
STATE = ML / "checkpoints" / "state.json"


def main() -> None:
    """Train, save when asked to stop, go on where the last one stopped."""
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    steps = int(json.loads((ML / "input/config/hyperparameters.json").read_text())["steps"])
    done = json.loads(STATE.read_text())["step"] if STATE.exists() else 0
    cells = [row.split(",") for path in (ML / "input/data/numbers").iterdir() for row in path.read_text().split()]
    while done < steps and not asked:
        time.sleep(0.1)  # the work
        done += 1
        print("step", done, flush=True)
    STATE.parent.mkdir(exist_ok=True)
    STATE.write_text(json.dumps({"step": done}))
    if not asked:
        numbers = [float(cell) for row in cells for cell in row]
        (ML / "model" / "mean.json").write_text(json.dumps(sum(numbers) / len(numbers)))


try:
    main()
except Exception as error:
    (ML / "output" / "failure").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    sys.exit(1)
