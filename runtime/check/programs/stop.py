"""Work until SIGTERM, then save a checkpoint; started again with it, say so and end."""

# pyright: basic
import json
import os
import signal
import sys
import time

ML = "/opt/ml"
CHECKPOINT = ML + "/checkpoints/step.json"


def write(path: str, value: dict) -> None:
    """Write a JSON file in one step."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".tmp", "w", encoding="utf-8") as stream:
        json.dump(value, stream)
    os.rename(path + ".tmp", path)


def save(_number: int, _frame: object) -> None:
    """Save as a stop asks."""
    write(CHECKPOINT, {"step": 41})
    write(ML + "/model/handled.json", {"pid": os.getpid()})
    sys.exit(0)


if os.path.exists(CHECKPOINT):
    with open(CHECKPOINT, encoding="utf-8") as stream:
        write(ML + "/model/resumed.json", json.load(stream))
    sys.exit(0)
if os.environ.get("CHECK_RESTARTED"):
    sys.exit("no checkpoint is here")
signal.signal(signal.SIGTERM, save)
write(ML + "/model/began.json", {"pid": os.getpid(), "parent": os.getppid()})
END = time.monotonic() + 900
while time.monotonic() < END:
    time.sleep(0.2)
sys.exit("no SIGTERM came")
