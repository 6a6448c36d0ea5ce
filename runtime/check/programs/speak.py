"""Print a line and wait for an answer: what is late in the log is then missing, however fast the machine."""

# pyright: basic
import os
import sys
import time

ANSWER = "/opt/ml/output/answer-%s"
PATIENCE_S = 900.0


def wait_for(name: str) -> None:
    """Wait until the checker has answered."""
    end = time.monotonic() + PATIENCE_S
    while not os.path.exists(ANSWER % name):
        if time.monotonic() > end:
            sys.exit("no answer " + name)
        time.sleep(0.05)


print("said and flushed", flush=True)
wait_for("flushed")
print("said and left to the buffer")
wait_for("buffered")
with open("/opt/ml/model/seen.json", "w", encoding="utf-8") as stream:
    stream.write("{}")
