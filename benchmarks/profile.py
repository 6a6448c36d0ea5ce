"""What profiling costs a training loop: CPU per step with ``slipway_profile`` on, over off.

Both arms are the same loop on ``runtime.Run`` in a world of one, in one process, chunk by chunk in turn: data from a
channel, forward, backward, AdamW, ``run.step``. The CPU of a chunk is that of the whole process. The sampler is a real
one, stopped while the other arm runs; what it costs per sample is charged to each step by its length.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.measure import Figure, Result, interleave, ratio
from runtime import Run
from runtime.base import log
from runtime.contract.job import Job, read_job
from runtime.contract.paths import Paths
from runtime.contract.settings import resolve
from runtime.launch.ranks import SAMPLER
from runtime.session import StopRequest

INTERVAL_MS = 500
"""The default of slipway_profile_interval_ms."""
CHUNK_S = 0.1
"""CPU seconds of one arm at a time: the shorter, the more alike is what the neighbours do to both arms."""
WARM_UP_STEPS = 5
WARM_UP_ROUNDS = 2
MOST_ROUNDS = 400
GOAL = 1.02
SAMPLES = 4096
TOKENS, WIDTH, CLASSES = 16, 64, 10


@dataclass(frozen=True)
class Cost:
    """What one chunk took, per step."""

    cpu_s: float
    wall_s: float


class Loop:
    """A small transformer on a channel of arrays, with steps of a given length."""

    def __init__(self, root: Path, step_s: float) -> None:
        """Write the contract's tree and find the batch size that gives the step's length.

        Args:
            root: an empty directory.
            step_s: CPU seconds of a step.
        """
        self.job = _write_job(root)
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True)
        self.model = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(TOKENS * WIDTH, CLASSES))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4)
        self.batch_size = 1
        for _ in range(4):
            measured = self.chunk(steps=30, profile="off").cpu_s
            self.batch_size = max(1, min(512, round(self.batch_size * min(8.0, step_s / measured))))
        self.steps = max(20, round(CHUNK_S / step_s))

    def chunk(self, *, steps: int, profile: str) -> Cost:
        """Run some steps with a new `Run`, whose start is not counted and whose end is."""
        wanted = {"slipway_profile": profile, "slipway_max_steps": str(steps + WARM_UP_STEPS)}
        run = Run(self.job, resolve(wanted, {}), {}, StopRequest())
        data = run.data("train", batch_size=self.batch_size, workers=0)
        cpu = wall = 0.0
        for _ in run.epochs(data, 1_000_000):
            for x, y in data:
                loss = F.cross_entropy(self.model(x), y)
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
                run.step(loss=loss.detach())
                if run.steps_done == WARM_UP_STEPS:
                    cpu, wall = time.process_time(), time.perf_counter()
        run.finish()
        return Cost((time.process_time() - cpu) / steps, (time.perf_counter() - wall) / steps)


def _write_job(root: Path) -> Job:
    paths = Paths(str(root))
    channel = Path(paths.data) / "train"
    channel.mkdir(parents=True)
    Path(paths.config).mkdir(parents=True)
    (Path(paths.config) / "resourceconfig.json").write_text(json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]}))
    (Path(paths.config) / "inputdataconfig.json").write_text(json.dumps({"train": {"TrainingInputMode": "File"}}))
    noise = np.random.default_rng(0)
    np.save(channel / "x.npy", noise.standard_normal((SAMPLES, TOKENS, WIDTH), dtype=np.float32))
    np.save(channel / "y.npy", noise.integers(0, CLASSES, SAMPLES))
    return read_job(paths, {})


class SamplerProcess:
    """A real sampler; its CPU is told by the kernel when it has ended."""

    def __init__(self, file: Path, interval_ms: int, *, parent: int | None = None) -> None:
        """Start it as the launcher does.

        Args:
            file: where its samples go.
            interval_ms: between two of them.
            parent: whose end is its own; None: this process.
        """
        words = ["--out", str(file), "--interval-ms", str(interval_ms), "--disk", str(file.parent)]
        words += ["--parent", str(os.getpid() if parent is None else parent)]
        self.process = subprocess.Popen([sys.executable, "-I", "-S", str(SAMPLER), *words])
        self.file = file

    def samples(self) -> int:
        """Count the samples so far."""
        return max(0, self.file.read_text().count("\n") - 1) if self.file.exists() else 0

    def rss_bytes(self) -> int:
        """Return the memory that it holds now."""
        pages = int((Path("/proc") / str(self.process.pid) / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> float:
        """End it; returns its CPU seconds."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        return self.wait()

    def wait(self) -> float:
        """Wait for its end; returns its CPU seconds."""
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_utime + usage.ru_stime

    @contextlib.contextmanager
    def running(self) -> Generator[None]:
        """Let it run inside, and stand still afterwards."""
        self.process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGSTOP)


@contextlib.contextmanager
def silence() -> Generator[None]:
    """Keep native code's log lines, which know nothing of Python's streams, out of our output."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


def start_cost(directory: Path) -> float:
    """Return the CPU seconds of a sampler that starts and finds its parent gone: paid once per job."""
    costs = [SamplerProcess(directory / f"system-{number}.jsonl", 500, parent=0).wait() for number in range(5)]
    return statistics.median(costs)


def compare(root: Path, step_ms: float, seconds: float, *, peer: bool) -> Figure:
    """Measure one length of steps."""
    loop = Loop(root / "job", step_ms / 1000)
    started = start_cost(root)
    sampler = SamplerProcess(root / "system-algo-1.jsonl", INTERVAL_MS)
    wall: list[float] = []

    def on() -> float:
        with sampler.running():
            cost = loop.chunk(steps=loop.steps, profile="on")
        wall.append(cost.wall_s)
        return cost.cpu_s

    def off() -> float:
        return loop.chunk(steps=loop.steps, profile="off").cpu_s

    def torch_profiler() -> float:
        with silence(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
            return loop.chunk(steps=loop.steps, profile="off").cpu_s

    arms: dict[str, Callable[[], float]] = {"on": on, "off": off}
    if peer:
        arms["torch.profiler"] = torch_profiler
    costs = interleave(arms, rounds=MOST_ROUNDS, warm_up=WARM_UP_ROUNDS, seconds=seconds)
    samples = sampler.samples()
    per_sample = max(0.0, sampler.end() - started) / max(1, samples)
    step_s = statistics.median(wall)
    charged = per_sample * step_s / (INTERVAL_MS / 1000)
    against = ratio([cost + charged for cost in costs["on"]], costs["off"])
    usual = statistics.median(costs["off"])
    return Figure(
        key="cpu_per_step_on_over_off" + ("" if step_ms == 5 else f"_{step_ms:g}ms"),
        value=against.median,
        unit="ratio",
        goal=GOAL,
        spread=(against.low, against.high),
        peers={"torch.profiler": ratio(costs["torch.profiler"], costs["off"]).median} if peer else {},
        note=f"{len(wall) - WARM_UP_ROUNDS} rounds of {loop.steps} steps of {step_s * 1e3:.2f} ms "
        f"({usual * 1e3:.2f} ms CPU); profiling adds {(against.median - 1) * usual * 1e6:.1f} us per step, "
        f"{charged * 1e6:.1f} us of it the sampler's",
    )


def sampler_alone(root: Path, interval_ms: int, seconds: float) -> tuple[Figure, Figure]:
    """Measure the sampler at a short interval: its share of a core once it runs, and its memory."""
    started = start_cost(root)
    sampler = SamplerProcess(root / "system-alone.jsonl", interval_ms)
    time.sleep(seconds)
    rss, samples = sampler.rss_bytes(), sampler.samples()
    per_sample = max(0.0, sampler.end() - started) / max(1, samples)
    return (
        Figure(
            f"sampler_cpu_of_a_core_{interval_ms}ms",
            per_sample / (interval_ms / 1000),
            "ratio",
            0.005,
            note=f"{samples} samples of {per_sample * 1e6:.0f} us; starting costs {started * 1e3:.0f} ms once",
        ),
        Figure("sampler_rss_bytes", float(rss), "bytes", 20e6),
    )


def run(*, quick: bool) -> Result:
    """Measure steps of 5 ms (quick), and of 1 and 20 ms with a peer (full)."""
    log.configure(level="error")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # other threads would wait in spin loops, which the process's CPU time would count
    figures: list[Figure] = []
    try:
        for step_ms in (5.0,) if quick else (1.0, 5.0, 20.0):
            with tempfile.TemporaryDirectory(prefix="slipway-bench-") as name:
                figures.append(compare(Path(name), step_ms, 35 if quick else 60, peer=not quick and step_ms == 5))
        with tempfile.TemporaryDirectory(prefix="slipway-bench-") as name:
            figures += sampler_alone(Path(name), 100, 5.0 if quick else 20.0)
    finally:
        torch.set_num_threads(threads)
    return Result("profile", figures, packages=("torch", "numpy"))
