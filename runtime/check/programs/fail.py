"""Fail as training scripts do: an early line that looks like an error, much progress, then the real cause."""

# pyright: basic
import sys
import time

print("retrying after Exception: connection reset", file=sys.stderr)
for number in range(300):
    print("step %d loss 0.5" % number)
sys.stdout.flush()


def load(shard: int) -> None:
    """Raise the cause."""
    began = time.time()
    raise RuntimeError("labels of shard %d are out of range: größer als 1000" % shard if began else "")


load(17)
