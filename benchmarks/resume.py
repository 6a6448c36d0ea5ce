"""What resuming in the middle of a long epoch costs over beginning it: the order is a function, nothing is replayed.

Each arm is a process of its own that opens a source of rows, sets the position, and waits for the first batch; its
imports are left out of the clock. Rows are synthetic and cost next to nothing: what is measured is order and position.
The plan's memory is what the process holds more, over the same process that has read its first batch in the order of
the index.
"""

import json
import subprocess
import sys

from benchmarks.measure import Figure, Result, interleave, ratio

ROWS, QUICK_ROWS = 50_000_000, 50_000_000
AT = 0.9
SECONDS_GOAL, MEMORY_GOAL = 1.0, 50_000_000
HANG_S = 300

_ARM = """
import json, sys, time
import numpy as np, torch, torch.utils.data
from runtime.data.loader import Data
from runtime.data.order import Division
rows, at, shuffle, workers = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "1", int(sys.argv[4])

class Rows:
    digest, images, classes, blocks = "synthetic", False, (), None
    def __len__(self): return rows
    def name(self, index): return str(index)
    def read(self, index): return np.asarray(index), np.asarray(index)
    def find_damaged(self, share): return ""

class Hooks:
    def enter(self, phase): pass
    def before_first_batch(self): pass
    def at_end(self): return False
    def agree(self, channel, mine): return mine

def anonymous():
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))

before = anonymous()
begin = time.perf_counter()
data = Data(Rows(), name="train", division=Division(64, 3, 8), seed=1, shuffle=shuffle, workers=workers,
            on_bad="raise", transform=None, device=torch.device("cpu"), sample=0, hooks=Hooks())
state = data.state_dict()
consumed = int(rows * at) // data.global_batch * data.global_batch
data.load_state_dict({**state, "consumed": consumed})
batches = iter(data)
first = next(batches)
seconds = time.perf_counter() - begin
used = anonymous() - before
assert data.position == consumed // data.global_batch + 1
print(json.dumps([seconds, used]))
"""


def run(*, quick: bool) -> Result:
    """Measure."""
    rows = QUICK_ROWS if quick else ROWS
    rounds = 5 if quick else 9

    def arm(at: float, workers: int = 0) -> float:
        return _run(rows, at, shuffle=True, workers=workers)[0]

    costs = interleave({"resumed": lambda: arm(AT), "cold": lambda: arm(0.0)}, rounds=rounds, seconds=45.0)
    extra = sorted(one - other for one, other in zip(costs["resumed"], costs["cold"], strict=True))
    spread = (extra[len(extra) // 4], extra[-1 - len(extra) // 4])
    memory = _run(rows, AT, shuffle=True, workers=0)[1] - _run(rows, AT, shuffle=False, workers=0)[1]
    over = ratio(costs["resumed"], costs["cold"])
    note = f"{rows:,} rows at {AT:.0%}; the first batch after {sorted(costs['resumed'])[rounds // 2]:.3f} s"
    return Result(
        "resume",
        [
            Figure("resume_over_cold_s", extra[len(extra) // 2], "s", SECONDS_GOAL, spread=spread, note=note),
            Figure("resume_over_cold_ratio", over.median, "ratio", spread=(over.low, over.high)),
            Figure("plan_bytes", max(0, memory), "bytes", MEMORY_GOAL, note="of a shuffled epoch, over an ordered one"),
        ],
        packages=("torch", "numpy"),
    )


def _run(rows: int, at: float, *, shuffle: bool, workers: int) -> tuple[float, int]:
    words = [str(rows), str(at), "1" if shuffle else "0", str(workers)]
    done = subprocess.run(
        [sys.executable, "-c", _ARM, *words], capture_output=True, text=True, check=True, timeout=HANG_S
    )
    seconds, used = json.loads(done.stdout)
    return float(seconds), int(used)
