"""What reading a sample costs, beside the least that it can cost: one sweep of 1 MiB reads over the same bytes.

All arms read the same samples forward in one process with warm caches; counted is the CPU time of that process per
sample, user and system. Ours yield the samples' own bytes (tar: fields by name; RecordIO: records; TFRecord: records
whose checksums have been checked). Peers run in an environment of their own beside ours, on the same samples in their
own form, in the same rounds. litdata hands out views of mapped pages, of which nothing has been read yet: its bytes are
taken out like everybody's.
"""

import io
import json
import os
import random
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast

from benchmarks import environments
from benchmarks.measure import Figure, Ratio, Result, interleave, ratio
from runtime.data.formats import recordio, tfrecord
from runtime.data.formats.tar import TarShards
from runtime.data.formats.window import MIB, Window

SHARD_BYTES = 50 * MIB
SIZE = 25_000
"""Bytes of a sample: a JPEG file of 240 to 320 pixels."""
GROWTH = (64, 1024, 25_000, 100 * 1024)
TOTAL_BYTES = 200_000_000
QUICK_BYTES = 100_000_000
TAR_GOAL, RECORD_GOAL, WEBDATASET_GOAL, MDS_GOAL, LITDATA_GOAL = 3.0, 3.5, 5.0, 5.0, 1.0
PEERS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "webdataset": (("webdataset==1.0.2", "numpy"),),
    # torch first, for CPUs: unpinned, both would bring gigabytes of CUDA.
    "mds": (("torch==2.13.0",), ("torch==2.13.0", "mosaicml-streaming==0.13.0")),
    "litdata": (("torch==2.13.0",), ("torch==2.13.0", "litdata==0.2.76")),
}
"""What is installed, in steps."""
HANG_S = 600

_PEER = """
import sys, time, json
kind, root, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
{make}
print("ready", flush=True)
for line in sys.stdin:
    begin = time.process_time()
    seen = size = 0
    {sweep}
    spent = time.process_time() - begin
    assert (seen, size) == (count, count * int(sys.argv[4])), (seen, size)
    print(json.dumps([spent, size]), flush=True)
"""
_NO_TORCHVISION = """import importlib.machinery, sys, types
class Absent(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
for name in ("", ".datasets", ".datasets.folder", ".transforms", ".transforms.functional"):
    sys.modules["torchvision" + name] = Absent("torchvision" + name)
    sys.modules["torchvision" + name].__spec__ = importlib.machinery.ModuleSpec("torchvision" + name, None)
"""
"""streaming imports torchvision for its image data sets, which are not measured; the one on the index wants CUDA."""
_PEERS_CODE: Mapping[str, tuple[str, str]] = {
    "webdataset": (
        """import glob
import webdataset as wds
shards = sorted(glob.glob(root + "/*.tar"))""",
        """for sample in wds.WebDataset(shards, shardshuffle=False):
        seen += 1
        size += len(sample["jpg"])""",
    ),
    "mds": (
        _NO_TORCHVISION
        + """from streaming import StreamingDataset
data = StreamingDataset(local=root, shuffle=False, batch_size=64)""",
        """for sample in data:
        seen += 1
        size += len(sample["jpg"])""",
    ),
    "litdata": (
        """from litdata import StreamingDataset
data = StreamingDataset(root, shuffle=False)""",
        """for sample in data:
        seen += 1
        size += len(bytes(sample["jpg"]))""",
    ),
}
_PEERS_WRITE: Mapping[str, str] = {
    "mds": _NO_TORCHVISION
    + """
import random
from streaming import MDSWriter
out, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(0)
with MDSWriter(out=out, columns={"jpg": "bytes", "cls": "int"}, size_limit=50 << 20) as writer:
    for number in range(count):
        writer.write({"jpg": chance.randbytes(size), "cls": number % 1000})
""",
    "litdata": """
import sys, random
from litdata.streaming.writer import BinaryWriter  # the writer below litdata.optimize, without its processes
out, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(0)
writer = BinaryWriter(cache_dir=out, chunk_bytes=50 << 20)
for number in range(count):
    writer.add_item(number, {"jpg": chance.randbytes(size), "cls": number % 1000})
writer.done()
writer.merge(1)
""",
}


def write_tar(root: Path, count: int, size: int) -> list[Path]:
    """Write samples of an image's bytes and a label, in shards of about `SHARD_BYTES`."""
    chance = random.Random(0)

    def put(stream: tarfile.TarFile, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        stream.addfile(info, io.BytesIO(data))

    paths: list[Path] = []
    for part in _parts(count, size):
        paths.append(root / f"part-{len(paths):05}.tar")
        with tarfile.open(paths[-1], "w") as stream:
            for number in part:
                put(stream, f"{number:08}.jpg", chance.randbytes(size))
                put(stream, f"{number:08}.cls", str(number % 1000).encode())
    return paths


def write_recordio(root: Path, count: int, size: int) -> list[Path]:
    """Write the same images as records."""
    return _write_records(root, count, size, "rec", lambda stream: recordio.RecordWriter(stream).write)


def write_tfrecord(root: Path, count: int, size: int) -> list[Path]:
    """Write the same images as TFRecords."""
    return _write_records(root, count, size, "tfrecord", lambda stream: tfrecord.TFRecordWriter(stream).write)


def _write_records(
    root: Path, count: int, size: int, suffix: str, begin: Callable[[io.BufferedWriter], Callable[[bytes], None]]
) -> list[Path]:
    chance = random.Random(0)
    paths: list[Path] = []
    for part in _parts(count, size):
        paths.append(root / f"part-{len(paths):05}.{suffix}")
        with paths[-1].open("wb") as stream:
            write = begin(stream)
            for _ in part:
                write(chance.randbytes(size))
    return paths


def _parts(count: int, size: int) -> Iterator[range]:
    each = max(1, SHARD_BYTES // size)
    return (range(at, min(count, at + each)) for at in range(0, count, each))


def sweep_limit(paths: list[Path]) -> float:
    """Read every byte into one buffer of 1 MiB; return CPU seconds."""
    buffer = bytearray(MIB)
    begin = time.process_time()
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return time.process_time() - begin


def sweep_tar(paths: list[Path], count: int) -> float:
    """Read every sample of tar shards; return CPU seconds."""
    seen, form = 0, TarShards()
    begin = time.process_time()
    for path in paths:
        with Window.open(path) as window:
            for sample in form.samples(window):
                seen += bool(sample["jpg"])
    spent = time.process_time() - begin
    return _checked(spent, seen, count)


def sweep_records(paths: list[Path], count: int, read: Callable[[Window], Iterator[bytes]]) -> float:
    """Read every record; return CPU seconds."""
    seen = 0
    begin = time.process_time()
    for path in paths:
        with Window.open(path) as window:
            for record in read(window):
                seen += bool(record)
    spent = time.process_time() - begin
    return _checked(spent, seen, count)


def _checked(spent: float, seen: int, count: int) -> float:
    if seen != count:
        raise RuntimeError(f"{seen} samples were read, {count} were written")
    return spent


class Peer:
    """A library that reads in a process of its own, a sweep whenever it is asked."""

    def __init__(self, name: str, python: str, root: Path, count: int) -> None:
        """Start it and wait until it is ready."""
        make, sweep = _PEERS_CODE[name]
        code = _PEER.format(make=make, sweep=sweep)
        environ = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HOME": str(root.parent)}
        words = [python, "-W", "ignore", "-c", code, name, str(root), str(count), str(SIZE)]
        self._errors = (root.parent / f"{name}.log").open("w+")
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environ
        )
        self._input = cast(IO[str], self._process.stdin)
        self._answer("ready")

    def sweep(self) -> float:
        """Read everything once; return its CPU seconds."""
        self._input.write("again\n")
        self._input.flush()
        return float(json.loads(self._answer("["))[0])

    def _answer(self, begins: str) -> str:
        for line in cast(IO[str], self._process.stdout):
            if line.startswith(begins):
                return line
        self._errors.seek(0)
        raise RuntimeError(f"the peer ended: {self._errors.read()[-800:]}")

    def close(self) -> None:
        """End it."""
        self._input.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


def run(*, quick: bool) -> Result:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix="slipway-read-") as folder, ExitStack() as stack:
        root = Path(folder)
        figures, notes = _main(root, stack, quick=quick)
        if not quick:
            figures += _growth(root)
    if notes:
        last = figures[0]
        figures[0] = Figure(last.key, last.value, last.unit, last.goal, last.better, last.peers, last.spread, notes)
    return Result("read", figures, packages=("numpy", "fastcrc"))


def _main(root: Path, stack: ExitStack, *, quick: bool) -> tuple[list[Figure], str]:
    count = (QUICK_BYTES if quick else TOTAL_BYTES) // SIZE
    tars, records, tfrecords = _written(root, count, SIZE)
    arms: dict[str, Callable[[], float]] = {
        "limit": lambda: sweep_limit(records),
        "limit of tar": lambda: sweep_limit(tars),
        "tar": lambda: sweep_tar(tars, count),
        "recordio": lambda: sweep_records(records, count, recordio.read_records),
        "tfrecord": lambda: sweep_records(tfrecords, count, tfrecord.read_records),
    }
    missing: list[str] = []
    for name in PEERS:
        if quick and name != "webdataset":
            continue
        peer, why = _peer(name, root, count, tars[0].parent)
        if peer is None:
            missing.append(f"{name} is left out: {why}")
        else:
            stack.callback(peer.close)
            arms[name] = peer.sweep
    costs = interleave(arms, rounds=7 if quick else 11, seconds=45 if quick else 400)
    figures = [
        _over("tar_over_limit", costs, "tar", "limit of tar", TAR_GOAL, count),
        _over("recordio_over_limit", costs, "recordio", "limit", RECORD_GOAL, count),
        _over("tfrecord_over_limit", costs, "tfrecord", "limit", RECORD_GOAL, count),
    ]
    for key, peer_name, ours, goal in (
        ("webdataset_over_tar", "webdataset", "tar", WEBDATASET_GOAL),
        ("mds_over_recordio", "mds", "recordio", MDS_GOAL),
        ("mds_over_tfrecord", "mds", "tfrecord", MDS_GOAL),
        ("litdata_over_recordio", "litdata", "recordio", LITDATA_GOAL),
        ("litdata_over_tfrecord", "litdata", "tfrecord", LITDATA_GOAL),
    ):
        if peer_name in costs:
            figures.append(_over(key, costs, peer_name, ours, goal, count, better="higher"))
    return figures, "; ".join(missing)


def _over(
    key: str, costs: Mapping[str, list[float]], one: str, other: str, goal: float, count: int, *, better: str = "lower"
) -> Figure:
    found: Ratio = ratio(costs[one], costs[other])
    peers = {f"{name} us": sorted(values)[len(values) // 2] / count * 1e6 for name, values in costs.items()}
    return Figure(key, found.median, "ratio", goal, better, peers, (found.low, found.high))


def _written(root: Path, count: int, size: int) -> tuple[list[Path], list[Path], list[Path]]:
    made: list[list[Path]] = []
    for write in (write_tar, write_recordio, write_tfrecord):
        folder = root / f"{write.__name__}-{size}"
        folder.mkdir()
        made.append(write(folder, count, size))
    return made[0], made[1], made[2]


def _peer(name: str, root: Path, count: int, tars: Path) -> tuple[Peer | None, str]:
    environment, why = environments.peer(f"read-{name}", PEERS[name])
    if environment is None:
        return None, why
    home = tars
    if name in _PEERS_WRITE:
        home = root / name
        words = [environment.python, "-W", "ignore", "-c", _PEERS_WRITE[name], str(home), str(count), str(SIZE)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=HANG_S, check=False)
        if done.returncode:
            return None, (done.stderr.strip().splitlines() or ["no word"])[-1]
    try:
        return Peer(name, environment.python, home, count), ""
    except RuntimeError as error:
        return None, str(error).strip().splitlines()[-1]


def _growth(root: Path) -> list[Figure]:
    figures: list[Figure] = []
    for size in GROWTH:
        if size == SIZE:
            continue
        count = min(400_000, TOTAL_BYTES // 2 // size)
        tars, records, tfrecords = _written(root, count, size)
        arms: dict[str, Callable[[], float]] = {
            "limit": lambda records=records: sweep_limit(records),
            "tar": lambda tars=tars, count=count: sweep_tar(tars, count),
            "recordio": lambda records=records, count=count: sweep_records(records, count, recordio.read_records),
            "tfrecord": lambda found=tfrecords, count=count: sweep_records(found, count, tfrecord.read_records),
        }
        costs = interleave(arms, rounds=5, seconds=120)
        for name in ("tar", "recordio", "tfrecord"):
            per_sample = [cost / count * 1e6 for cost in costs[name]]
            least = [cost / count * 1e6 for cost in costs["limit"]]
            middle = sorted(per_sample)[len(per_sample) // 2]
            figures.append(
                Figure(
                    f"{name}_us_{size}_bytes",
                    middle,
                    "us",
                    1.0 if (name, size) == ("recordio", 64) else None,
                    "lower",
                    {"limit us": sorted(least)[len(least) // 2]},
                    (min(per_sample), max(per_sample)),
                )
            )
    return figures
