"""What a Pipe channel costs: parsing a FIFO, and dealing its samples out to ranks.

The limit of parsing is ``cat FIFO > /dev/null`` on the same bytes from the same writer, another ``cat``, interleaved.
Records are dmlc RecordIO in files in the page cache; our arm is `runtime.data.pipe_fifo.Fifo`, whose reads have a
deadline, under `read_records`, in a process of its own as the reader of a channel is. Dealing out is measured through
a channel's real reader process to one consumer that decodes nothing, and compared with parsing alone.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Figure, Result, interleave, ratio
from runtime.data.formats.recordio import RecordWriter

PARSE_GOAL, SMALL_GOAL = 0.85, 1e6
IMAGE_BYTES, SMALL_BYTES = 25_000, 64
DEALT_BYTES, QUICK_DEALT_BYTES = (64, 1024, 25_000), (64, 25_000)
DEALT_TOTAL = 300_000_000
HANG_S = 300

_OURS = """
import sys, time
from runtime.data.formats.recordio import read_records
from runtime.data.formats.window import Window
from runtime.data.pipe_fifo import Fifo
fifo = Fifo(sys.argv[1], 0, channel="bench", wait_s=60)
fifo.open()
begin, cpu = time.perf_counter(), time.process_time()
count = sum(1 for _ in read_records(Window(fifo, "bench")))
print(count, time.perf_counter() - begin, time.process_time() - cpu)
"""


def run(*, quick: bool) -> Result:
    """Measure."""
    rounds, seconds = (5, 12.0) if quick else (11, 60.0)
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as directory:
        root = Path(directory)
        images = _write(root / "images.rec", 400_000_000 if quick else 1_000_000_000, IMAGE_BYTES)
        small = _write(root / "small.rec", 40_000_000 if quick else 120_000_000, SMALL_BYTES)
        walls = interleave(
            {"ours": lambda: _sweep(root, images)[0], "cat": lambda: _cat(root, images)}, rounds=rounds, seconds=seconds
        )
        # Our clock runs from the first byte on; what it takes to start a cat and to find it done is taken off.
        nothing = _write(root / "nothing", 0, 1)
        start = sorted(_cat(root, nothing) for _ in range(9))[4]
        over = ratio([wall - start for wall in walls["cat"]], walls["ours"])
        counts = small.stat().st_size // (SMALL_BYTES + 8)
        sweeps = [_sweep(root, small) for _ in range(rounds)]
        fast, cpu = sorted(wall for wall, _ in sweeps), sorted(spent for _, spent in sweeps)
        middle = fast[len(fast) // 2]
        spread = (counts / fast[-1 - len(fast) // 4], counts / fast[len(fast) // 4])
        sizes = QUICK_DEALT_BYTES if quick else DEALT_BYTES
        dealt = {size: _dealt(root, size, min(100_000, DEALT_TOTAL // size), 1 if quick else 5) for size in sizes}
    return Result(
        "pipe",
        [
            Figure(
                "parse_over_cat",
                over.median,
                "ratio",
                PARSE_GOAL,
                better="higher",
                spread=(over.low, over.high),
                note=f"bytes per second of ours over cat's; records of {IMAGE_BYTES} bytes",
            ),
            Figure(
                "records_per_s_64_bytes",
                counts / middle,
                "1/s",
                SMALL_GOAL,
                better="higher",
                spread=spread,
                note=f"{counts / cpu[len(cpu) // 2]:,.0f} per second of the reader's CPU",
            ),
            *(
                Figure(
                    f"deal_us_{size}_bytes",
                    per_sample,
                    "us",
                    note="CPU that each sample costs more than parsing it: cutting, checksum, pickle, socket; one rank",
                )
                for size, per_sample in dealt.items()
            ),
        ],
        packages=("numpy",),
    )


def _write(path: Path, total: int, size: int) -> Path:
    with path.open("wb") as stream:
        writer = RecordWriter(stream)
        block = os.urandom(size * 64)
        for number in range(total // (size + 8)):
            at = number % 64 * size
            writer.write(block[at : at + size])
    return path


def _fed(root: Path, path: Path) -> "tuple[Path, subprocess.Popen[bytes]]":
    fifo = root / "fifo_0"
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo)
    return fifo, subprocess.Popen(["sh", "-c", 'exec cat "$1" > "$2"', "-", str(path), str(fifo)])


def _sweep(root: Path, path: Path) -> tuple[float, float]:
    """Return the seconds of one sweep of ours: of the clock, and of CPU."""
    fifo, writer = _fed(root, path)
    prefix = str(fifo).removesuffix("_0")
    done = subprocess.run(
        [sys.executable, "-c", _OURS, prefix], capture_output=True, text=True, check=True, timeout=HANG_S
    )
    writer.wait(HANG_S)
    _, wall, cpu = done.stdout.split()
    return float(wall), float(cpu)


def _cat(root: Path, path: Path) -> float:
    fifo, writer = _fed(root, path)
    begin = time.perf_counter()
    subprocess.run(["sh", "-c", 'exec cat "$1" > /dev/null', "-", str(fifo)], check=True, timeout=HANG_S)
    seconds = time.perf_counter() - begin
    writer.wait(HANG_S)
    return seconds


_DEAL = """
import json, os, resource, sys, time
from runtime.data.formats.recordio_protobuf import RecordIOProtobuf
from runtime.data.formats.window import Window
from runtime.data.pipe_fifo import Fifo
from runtime.data.pipe_reader import ReaderPlan
from runtime.data.pipe_start import start_reader
from runtime.data.pipe_wire import HELLO, PART, END, Connection, Hello
prefix, dealt = sys.argv[1], sys.argv[2] == "dealt"
count = 0
if dealt:
    address, process = start_reader(ReaderPlan(
        channel="bench", prefix=prefix, wait_s=60, content_type="application/x-recordio-protobuf", wrapped=False,
        attributes=(), batch_size=64, first_rank=0, local_ranks=1, ranks=1, sharded=False, last="short", seed=0,
        shuffle=False, sample=0, speaks=False))
    connection = Connection(address, "bench")
    connection.send(HELLO, Hello(epoch=0))
    kind = 0
    while kind != END:
        kind, part = connection.receive()
        if kind == PART:
            count += len(part.samples) - part.padding
    process.stdin.close()
    process.wait(60)
else:
    count = sum(1 for _ in RecordIOProtobuf().samples(Window(Fifo(prefix, 0, channel="bench", wait_s=60), "bench")))
own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([count, sum(each.ru_utime + each.ru_stime for each in (own, children))]))
"""


def _dealt(root: Path, size: int, count: int, rounds: int) -> float:
    """Return microseconds of CPU that dealing out adds to a sample, over parsing it; what starting costs is off."""
    few = 64

    def cost(arm: str, samples: int) -> float:
        path = root / f"deal-{size}-{samples}.rec"
        if not path.exists():
            _write_tensors(path, samples, size)
        fifo, writer = _fed(root, path)
        prefix = str(fifo).removesuffix("_0")
        done = subprocess.run(
            [sys.executable, "-c", _DEAL, prefix, arm], capture_output=True, text=True, check=True, timeout=HANG_S
        )
        writer.wait(HANG_S)
        seen, cpu = json.loads(done.stdout)
        if seen != samples:
            raise AssertionError(f"{seen} of {samples} samples came")
        return cpu

    extra: list[float] = []
    for _ in range(rounds):
        dealt = cost("dealt", count) - cost("dealt", few)
        parsed = cost("parsed", count) - cost("parsed", few)
        extra.append((dealt - parsed) / (count - few) * 1e6)
    return sorted(extra)[len(extra) // 2]


def _write_tensors(path: Path, count: int, size: int) -> None:
    import numpy as np

    from runtime.data.formats.recordio_protobuf import RecordIOProtobuf

    values = np.frombuffer(struct.pack(f"{size // 4}f", *range(size // 4)), np.float32)
    with path.open("wb") as stream:
        writer = RecordIOProtobuf().writer(stream)
        for number in range(count):
            writer.write({"values": values, "label": np.array([number % 10], np.float32)})
        writer.close()
