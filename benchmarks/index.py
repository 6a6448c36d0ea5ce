"""What an index of image and caption pairs costs to build, to bring up to date, and to open, and how that grows.

Counted is the CPU time of the process that builds, per file of the tree (an image and its caption are two). The floor
is what no index can do without: every directory listed, every caption opened, read and closed. The slow file system is
this machine's with a wait before every request that a network would carry.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import Figure, Ratio, Result, interleave, ratio
from runtime.data.index.build import Request, build
from runtime.data.index.files import Files, Listing
from runtime.data.index.rows import Options
from runtime.data.index.segments import INDEX
from runtime.data.index.sidecar import Header

REQUEST_S = 0.0017
"""Of a network file system's metadata server, as a published recipe for 50 million pairs has met it."""
PAIRS_GOAL, HEADERS_GOAL = 400_000.0, 250_000.0
OPEN_GOAL_S, WORKER_GOAL_BYTES = 0.1, 5_000_000
SLOW_GOAL, REBUILD_GOAL = 30.0, 0.03
EACH = 500
"""Pairs in a directory."""
QUICK_DIRECTORIES = 40
GROWTH = (40, 160, 640)
"""Directories of the trees that are compared."""
ROWS = (1_000_000, 10_000_000, 50_000_000)

# The smallest JPEG that says its size: 240 x 320 pixels, with the usual segments before its frame.
JPEG = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    + b"\xff\xdb\x00\x43\x00" + bytes(64) + b"\xff\xdb\x00\x43\x01" + bytes(64)
    + b"\xff\xc0\x00\x11\x08\x00\xf0\x01\x40\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01" + bytes(1200)
)  # fmt: skip


def grow_tree(root: Path, directories: int) -> int:
    """Make a tree of pairs, or more of it; returns its files."""
    for number in range(directories):
        directory = root / f"{number:05d}"
        if directory.exists():
            continue
        directory.mkdir(parents=True)
        for pair in range(EACH):
            stem = f"{directory}/{number:05d}{pair:05d}"
            with open(f"{stem}.jpg", "wb") as image, open(f"{stem}.txt", "w", encoding="utf-8") as caption:
                image.write(JPEG)
                caption.write(f"a photograph, number {pair} of folder {number}, of something that needs many words")
    return directories * EACH * 2


def floor(root: Path) -> None:
    """List every directory, and read every caption."""
    with os.scandir(root) as entries:
        directories = [entry.path for entry in entries if entry.is_dir()]
    for path in directories:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        for name in os.listdir(directory):
            if name.endswith(".txt"):
                handle = os.open(name, os.O_RDONLY, dir_fd=directory)
                os.read(handle, 4096)
                os.close(handle)
        os.close(directory)


def naive(root: Path) -> None:
    """Do what scripts do: find the images by a pattern, and open what lies beside each."""
    rows: list[str] = []
    for image in root.glob("**/*.jpg"):
        rows.append(
            json.dumps({"file_name": str(image.relative_to(root)), "text": image.with_suffix(".txt").read_text()})
        )
    (root.parent / "naive.jsonl").write_text("\n".join(rows), encoding="utf-8")


def cpu_of(act: Callable[[], object]) -> Callable[[], float]:
    """Return an arm: the CPU seconds, user and system, that this process spends."""

    def arm() -> float:
        begin = resource.getrusage(resource.RUSAGE_SELF)
        act()
        end = resource.getrusage(resource.RUSAGE_SELF)
        return end.ru_utime - begin.ru_utime + end.ru_stime - begin.ru_stime

    return arm


def anew(root: Path, options: Options) -> Callable[[], object]:
    """Return what builds an index from nothing, in this process."""
    out = root.parent / f"index-{'headers' if options.headers else 'pairs'}"

    def act() -> None:
        shutil.rmtree(out, ignore_errors=True)
        build(Request(root, out, options))

    return act


def warm(home: Path, *, quick: bool) -> list[Figure]:
    """Measure builds from the cache of the kernel."""
    root = home / "tree"
    sizes = (QUICK_DIRECTORIES,) if quick else GROWTH
    costs: dict[int, dict[str, list[float]]] = {}
    for directories in sizes:
        files = grow_tree(root, directories)
        arms = {
            "floor": cpu_of(lambda: floor(root)),
            "pairs": cpu_of(anew(root, Options("pairs"))),
            "headers": cpu_of(anew(root, Options("pairs", headers=True))),
        }
        if directories == sizes[0]:
            arms["naive"] = cpu_of(lambda: naive(root))
        costs[files] = interleave(arms, rounds=7 if directories == sizes[0] else 5)
    files = sizes[0] * EACH * 2
    first = costs[files]
    over_floor, over_naive = ratio(first["pairs"], first["floor"]), ratio(first["naive"], first["pairs"])
    figures = [
        _rate("index_files_per_s_core", first["pairs"], files, PAIRS_GOAL, first),
        _rate("index_headers_files_per_s_core", first["headers"], files, HEADERS_GOAL, {}),
        _ratio("index_cpu_over_floor", over_floor),
        _ratio("index_naive_over_ours", over_naive),
    ]
    if not quick:
        told = ", ".join(
            f"{count:,} files {statistics.median(cost['pairs']) / count * 1e6:.2f} us" for count, cost in costs.items()
        )
        growth = (
            statistics.median(costs[max(costs)]["pairs"]) / max(costs) / (statistics.median(first["pairs"]) / files)
        )
        figures.append(Figure("index_cpu_per_file_growth_16x", growth, "ratio", note=f"CPU for each file: {told}"))
    return figures


def _rate(key: str, costs: Sequence[float], files: int, goal: float, peers: dict[str, list[float]]) -> Figure:
    rates = sorted(files / cost for cost in costs)
    low, median, high = statistics.quantiles(rates, n=4, method="inclusive")
    others = {name: files / statistics.median(values) for name, values in peers.items() if name in ("floor", "naive")}
    return Figure(key, median, "files/s", goal, "higher", others, (low, high))


def _ratio(key: str, found: Ratio) -> Figure:
    return Figure(key, found.median, "ratio", spread=(found.low, found.high))


# --- a slow file system -------------------------------------------------------------------------------------------


class SlowFiles(Files):
    """Waits before every request that a network file system sends to its server."""

    def open_directory(self, path: str) -> int:
        """Wait, and open."""
        time.sleep(REQUEST_S)
        return super().open_directory(path)

    def changed_ns(self, path: str) -> int:
        """Wait, and ask."""
        time.sleep(REQUEST_S)
        return super().changed_ns(path)

    def look(self, directory: int) -> Listing:
        """Wait for the first names, and for each thousand more."""
        listing = super().look(directory)
        time.sleep(REQUEST_S * (1 + len(listing.names) // 1000))
        return listing

    def read(self, directory: int, names: Sequence[str], limit: int) -> list[bytes | OSError]:
        """Wait for the lookup and for the bytes of each."""
        found: list[bytes | OSError] = []
        for name in names:
            time.sleep(2 * REQUEST_S)
            found += super().read(directory, [name], limit)
        return found


def sequential(root: Path, pairs: int) -> float:
    """Return the seconds for each pair when requests are sent one after the other."""
    files = SlowFiles(str(root))
    handle = files.open_directory("00000")
    names = [name for name in files.look(handle).names if name.endswith(".txt")][:pairs]
    began = time.monotonic()
    files.read(handle, names, 4096)
    seconds = time.monotonic() - began
    os.close(handle)
    return seconds / len(names)


def slow(home: Path, *, quick: bool) -> list[Figure]:
    """Measure builds where every request takes its time."""
    root, out = home / "tree", home / "slow"
    directories = QUICK_DIRECTORIES if quick else GROWTH[1]
    grow_tree(root, directories)
    pairs = len([path for path in root.iterdir()]) * EACH
    seconds: dict[int, float] = {}
    for processes in (1, 2):
        shutil.rmtree(out, ignore_errors=True)
        began = time.monotonic()
        build(Request(root, out, Options("pairs"), processes=processes, files=SlowFiles))
        seconds[processes] = time.monotonic() - began
    one_by_one = sequential(root, 200)
    rebuilds = [] if quick else _rebuilds(root, out, directories)
    rate = {processes: pairs / value for processes, value in seconds.items()}
    told = (
        f"{pairs:,} pairs, {REQUEST_S * 1000:g} ms for each request; 1 process {rate[1]:,.0f} pairs/s, 2 {rate[2]:,.0f}"
    )
    return [
        Figure("index_slow_over_sequential", rate[1] * one_by_one, "ratio", SLOW_GOAL, "higher", note=told),
        Figure("index_slow_2_processes_over_1", seconds[1] / seconds[2], "ratio"),
        *rebuilds,
    ]


def _rebuilds(root: Path, out: Path, directories: int) -> list[Figure]:
    """Add 1 % new pairs, in directories of their own and then all over the tree."""
    options, files = Options("pairs"), directories * EACH * 2

    def timed() -> float:
        began = time.monotonic()
        build(Request(root, out, options, files=SlowFiles))
        return time.monotonic() - began

    time.sleep(2.1)  # so long a directory must have been left alone for its own time to count
    shutil.rmtree(out, ignore_errors=True)
    first = timed()
    grow_tree(root, directories + max(1, directories // 100))
    apart = timed()
    for directory in root.iterdir():
        for pair in range(EACH // 100):
            (directory / f"new{pair}.jpg").write_bytes(JPEG)
            (directory / f"new{pair}.txt").write_text("a new one", encoding="utf-8")
    spread = timed()
    for new in root.glob("*/new*"):
        new.unlink()
    told = f"1 % new pairs beside {files:,} files, 1 process: {apart:.2f} s after {first:.2f} s; all over the tree "
    told += f"{spread:.2f} s, as every directory is listed again"
    return [
        Figure("index_rebuild_over_first", apart / first, "ratio", REBUILD_GOAL, note=told),
        Figure("index_rebuild_spread_over_first", spread / first, "ratio"),
    ]


# --- opening ------------------------------------------------------------------------------------------------------

OPENS = """import json, random, sys, time
from runtime.data.index.reader import Index
def anonymous():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024
before = anonymous()
began = time.perf_counter()
index = Index(sys.argv[1])
count = len(index)
seconds = time.perf_counter() - began
chance = random.Random(0)
began = time.perf_counter()
for _ in range(10_000):
    index[chance.randrange(count)]
print(json.dumps([seconds, anonymous() - before, (time.perf_counter() - began) / 10_000]))
"""


def write_index(out: Path, rows: int) -> None:
    """Write an index of many rows, which belong to no tree."""
    out.mkdir()
    lines = [
        b'{"file_name":"%05d/%010d.jpg","text":"a photograph of something"}\n' % (number % 1000, number)
        for number in range(100_000)
    ]
    block, lengths = b"".join(lines), np.array([len(line) for line in lines], dtype=np.uint64)
    starts = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(lengths)[:-1]])
    with (out / "rows.jsonl").open("wb") as text, (out / "rows.idx").open("wb") as index:
        index.write(Header(rows, len(block) * (rows // 100_000), bytes(32)).pack())
        for number in range(rows // 100_000):
            text.write(block)
            index.write((starts + np.uint64(number * len(block))).tobytes())
    about = {"format": 1, "rows": rows, "size": len(block) * (rows // 100_000), "digest": "0" * 64, "directories": 1}
    about |= {"problems": 0, "stem": "rows", "root": "/", "options": {"kind": "pairs"}, "share": [0, 1]}
    (out / INDEX).write_text(json.dumps(about), encoding="utf-8")


def opened(home: Path, *, quick: bool) -> list[Figure]:
    """Measure what a process that opens an index waits for, and holds for itself alone."""
    found: dict[int, list[list[float]]] = {}
    for rows in ROWS[:1] if quick else ROWS:
        out = home / f"rows-{rows}"
        write_index(out, rows)
        command = [sys.executable, "-c", OPENS, str(out)]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(5)]
        found[rows] = [json.loads(run) for run in runs]
        shutil.rmtree(out)
    medians = {rows: [statistics.median(column) for column in zip(*runs, strict=True)] for rows, runs in found.items()}
    largest = max(medians)
    told = "; ".join(
        f"{rows:,} rows: open {values[0] * 1000:.2f} ms, {values[1] / 1e6:.1f} MB, a row {values[2] * 1e6:.1f} us"
        for rows, values in medians.items()
    )
    return [
        Figure("index_open_s", medians[largest][0], "s", OPEN_GOAL_S, note=told),
        Figure("index_open_anonymous_bytes", medians[largest][1], "bytes", WORKER_GOAL_BYTES),
    ]


def run(*, quick: bool) -> Result:
    """Measure; `quick` takes small trees and one million rows."""
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as name:
        home = Path(name)
        figures = [*warm(home, quick=quick), *slow(home, quick=quick), *opened(home, quick=quick)]
    return Result("index", figures, ("numpy", "orjson"))
