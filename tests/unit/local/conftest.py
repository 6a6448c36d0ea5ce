"""A small job in plain Python: it reports steps, saves, resumes and stops as our workloads do, without torch."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.local.flags import RunOptions
from runtime.local.interruption import parse_interruption
from runtime.local.record import JobRecord
from runtime.local.request import CheckpointSpec, GroupSpec, TrainingJobSpec
from runtime.local.runner import run_job

RANK = """
import json, mmap, os, pathlib, signal, struct, subprocess, sys, time

base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
state = pathlib.Path(os.environ["SLIPWAY_STATE_DIR"])
host, rank, local = os.environ["SLIPWAY_HOST"], int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
words = dict(zip([word.lstrip("-") for word in sys.argv[1::2]], sys.argv[2::2]))
steps, fail_at, ignore_stop = int(words.get("steps", 10)), int(words.get("fail_at", 0)), "ignore_stop" in words
stop = []
signal.signal(signal.SIGTERM, signal.SIG_IGN if ignore_stop else lambda *_: stop.append(1))
if "orphans" in words:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    subprocess.Popen(sleep, env={}, start_new_session=True)  # nothing marks it but its parent
    lost = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True, env={})"
    subprocess.run([sys.executable, "-c", lost, *sleep])  # not even its parent
progress = open(state / "progress", "r+b")
slots = mmap.mmap(progress.fileno(), 0)
saved = base / "checkpoints"
done = sorted(saved.glob("step-*/MANIFEST.json")) if saved.is_dir() else []
step = json.loads(done[-1].read_text())["step"] if done else 0
if done and rank == 0:
    (state / "resumed.json").write_text(json.dumps({"step": step}))
(base / "model" / f"of-{host}").write_text(host)
(base / "model" / "same").write_text(host)
(base / "output" / "data" / "out.txt").write_text(host)
print(f"rank {rank} begins at {step}", flush=True)
leader = base.parent / "algo-1" / "output" / "slipway" / "progress"  # all hosts are on this machine
while step < steps and not stop:
    time.sleep(0.01)
    while rank and not stop and struct.unpack_from("<q", leader.read_bytes().ljust(16, b"\\0"))[0] <= step:
        time.sleep(0.001)  # rank 0 saves, so it must be the first
    step += 1
    struct.pack_into("<qd", slots, 16 * local, step, time.time())
    if step == fail_at and rank == 1:
        sys.exit("rank 1 cannot go on")
    if local == 0 and saved.is_dir():
        target = saved / f"step-{step:04d}"
        target.mkdir(exist_ok=True)
        (target / f"shard-{rank}").write_text(str(step))
        if rank == 0:
            (target / "MANIFEST.json.tmp").write_text(json.dumps({"step": step}))
            (target / "MANIFEST.json.tmp").rename(target / "MANIFEST.json")
            durable = target / "MANIFEST.json.sagemaker-uploaded"
            while "durable" in words and not stop and not durable.exists():
                time.sleep(0.001)
    if rank == 0:
        print(f"seen loss={1 / step:.4f};", flush=True)
        with (state / "metrics.jsonl").open("a") as out:
            out.write(json.dumps({"t": time.time(), "step": step, "epoch": 0, "loss": 1 / step}) + "\\n")
if fail_at and rank == 1 and not stop:  # it came so late that it found rank 0's checkpoints behind that step
    sys.exit("rank 1 cannot go on")
end = {"status": "stopped" if stop else "completed", "step": step}
(state / f"end-rank-{rank}.json").write_text(json.dumps(end))
"""

RunSmall = Callable[..., JobRecord]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name: below pytest's own, trees would move to a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="sl-") as directory:
        yield Path(directory)


@pytest.fixture
def script(place: Path) -> Path:
    path = place / "code" / "small.py"
    path.parent.mkdir()
    path.write_text(RANK)
    return path


@pytest.fixture
def run_small(place: Path, script: Path) -> RunSmall:
    """Run the small job in this process; ``out`` in the test's directory is its output."""

    def run(
        *interruptions: str,
        hosts: int = 2,
        signal: str = "TERM",
        hp: dict[str, str] | None = None,
        options: dict[str, object] | None = None,
        **changes: object,
    ):
        hyperparameters = {"sagemaker_program": script.name, "slipway_profile": "off", **(hp or {})}
        spec = TrainingJobSpec(
            "small",
            hyperparameters=hyperparameters,
            groups=(GroupSpec("homogeneousCluster", "local", hosts),),
            checkpoint=CheckpointSpec(None),
        )
        run_options = RunOptions(
            output=place / "out",
            interruptions=tuple(parse_interruption(text, signal) for text in interruptions),  # type: ignore[arg-type]
            code=script,
        )
        run_options = replace(run_options, **(options or {}))  # type: ignore[arg-type]
        return run_job(replace(spec, **changes), run_options)  # type: ignore[arg-type]

    return run
