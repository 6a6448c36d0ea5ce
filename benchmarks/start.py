"""From exec to the first line of the user's script, and what the launcher holds of the machine meanwhile.

All arms run one script, on one interpreter, in turn; it writes down the monotonic clock in its first line, so that
nobody's log relay is measured. The peers are asked to run it from the same contract tree.
"""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import environments
from benchmarks.environments import Environment, clean_environ
from benchmarks.measure import Figure, Result, interleave, ratio
from benchmarks.trees import HANG_S, memory, wait_until, write_tree

TOOLKIT = "sagemaker-training==5.1.4"
TORCH = "torch==2.13.0"
PYTORCH_TOOLKIT = "sagemaker-pytorch-training==3.0.0"
GOAL = 3.0
DEBIAN_RSS = 15e6
OTHER_RSS = 8e6
"""Above what the bare interpreter holds, where it is not Debian's."""
MOST_ROUNDS = 200
PEER_ROUNDS = 9
WATCHED_S = 4.0
"""How long the memory is looked at, once the rank runs: the watch looks every second."""

FIRST_LINE = """import time; now = time.monotonic_ns()
with open("{mark}", "w") as stream:
    stream.write(str(now))
"""
SLEEPS = """import time
open("{mark}", "w").write("1")
time.sleep(3600)
"""


class Start:
    """One way to start the script."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], mark: Path) -> None:
        """Prepare.

        Args:
            command: argument list.
            environ: the whole environment.
            mark: where the script writes its clock.
        """
        self._command = list(command)
        self._environ = dict(environ)
        self._mark = mark

    def __call__(self) -> float:
        """Start it once; returns the seconds from here to its first line.

        Raises:
            RuntimeError: it did not run the script to a good end.
        """
        self._mark.unlink(missing_ok=True)
        began = time.monotonic_ns()
        try:
            done = subprocess.run(
                self._command,
                env=self._environ,
                capture_output=True,
                text=True,
                timeout=HANG_S,
                check=False,
                start_new_session=True,  # the kernel shares the CPUs out by session, and ours makes one for its rank
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{self._command} did not end within {HANG_S:g} s: {error.stderr!r}") from error
        if done.returncode or not self._mark.exists():
            raise RuntimeError(f"{self._command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return (int(self._mark.read_text(encoding="utf-8")) - began) / 1e9


def _job(root: Path, script: str) -> tuple[Path, Path]:
    mark = root / "mark"
    return write_tree(root / "ml", {"user.py": script.format(mark=mark)}, {}), mark


def _train(environment: Environment, tree: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    return clean_environ(environment, {"SAGEMAKER_BASE_DIR": str(tree), **(more or {})})


def first_line(root: Path, ours: Environment, bare: Environment, *, seconds: float) -> list[Figure]:
    """Compare ours with the bare interpreter."""
    tree, mark = _job(root / "first", FIRST_LINE)
    user = str(tree / "code" / "user.py")
    arms = {
        "bare": Start([bare.python, user], clean_environ(bare, {}), mark),
        "ours": Start([ours.command("train")], _train(ours, tree), mark),
    }
    costs = interleave(arms, rounds=MOST_ROUNDS, warm_up=3, seconds=seconds)
    against = ratio(costs["ours"], costs["bare"])
    low, median, high = statistics.quantiles(costs["ours"], n=4, method="inclusive")
    return [
        Figure(
            "first_line_ratio_bare",
            against.median,
            "ratio",
            GOAL,
            spread=(against.low, against.high),
            note=f"{len(costs['ours'])} rounds on {environments.interpreter_name()}",
        ),
        Figure(
            "first_line_s",
            median,
            "s",
            spread=(low, high),
            peers={"bare python": statistics.median(costs["bare"])},
        ),
    ]


def against_peers(root: Path, ours: Environment, bare: Environment) -> list[Figure]:
    """Compare ours with the toolkit: plain, and as the framework containers have it, with its module and torch."""
    found = {
        "sagemaker-training": environments.peer("toolkit", [[TOOLKIT]]),
        "with the PyTorch toolkit and torch": environments.peer(
            "toolkit-torch", [[TOOLKIT, TORCH], [PYTORCH_TOOLKIT, TORCH]]
        ),
    }
    absent = [f"{name} is left out: {why}" for name, (environment, why) in found.items() if environment is None]
    tree, mark = _job(root / "peers", FIRST_LINE)
    arms: dict[str, Callable[[], float]] = {
        "bare": Start([bare.python, str(tree / "code" / "user.py")], clean_environ(bare, {}), mark),
        "ours": Start([ours.command("train")], _train(ours, tree), mark),
    }
    for name, (environment, _) in found.items():
        if environment is not None:
            module = {"SAGEMAKER_TRAINING_MODULE": "sagemaker_pytorch_container.training:main"}
            environ = _train(environment, tree, module if "torch" in name else None)
            arms[name] = Start([environment.command("train")], environ, mark)
    peers = [name for name in arms if name not in ("bare", "ours")]
    if not peers:
        return [Figure("first_line_ratio_toolkit", float("nan"), "ratio", note="; ".join(absent))]
    costs = interleave(arms, rounds=PEER_ROUNDS)
    over = {name: ratio(costs[name], costs["bare"]).median for name in peers}
    seconds = ", ".join(f"{name} {statistics.median(costs[name]):.3f} s" for name in costs)
    figures: list[Figure] = []
    for key, name in zip(("first_line_ratio_toolkit", "first_line_ratio_toolkit_torch"), found, strict=True):
        if name in over:
            against = ratio(costs["ours"], costs[name])
            peer = {f"{name}, against bare": over[name]}
            figures.append(Figure(key, against.median, "ratio", peers=peer, spread=(against.low, against.high)))
    return [*figures[:-1], _noted(figures[-1], "; ".join([f"medians: {seconds}", *absent]))]


def _noted(figure: Figure, note: str) -> Figure:
    return Figure(
        figure.key, figure.value, figure.unit, figure.goal, peers=figure.peers, spread=figure.spread, note=note
    )


def watching(root: Path, ours: Environment, bare: Environment) -> list[Figure]:
    """Look at the memory of the launcher while its rank runs, and of a bare interpreter beside it."""
    tree, mark = _job(root / "memory", SLEEPS)
    program = str(tree / "code" / "user.py")
    alone = _held([bare.python, program], clean_environ(bare, {}), mark, 0.0)
    held = _held([ours.command("train")], _train(ours, tree), mark, WATCHED_S)
    goal = DEBIAN_RSS if environments.debian_python() else alone[0] + OTHER_RSS
    peers = {"bare python": float(alone[0])}
    return [
        Figure("supervisor_rss_bytes", float(held[0]), "bytes", goal, peers=peers),
        Figure("supervisor_private_bytes", float(held[1]), "bytes", peers={"bare python": float(alone[1])}),
    ]


def _held(command: Sequence[str], environ: Mapping[str, str], mark: Path, seconds: float) -> tuple[int, int]:
    """Return the most that a process held, resident and private, from the mark of its script on."""
    mark.unlink(missing_ok=True)
    process = subprocess.Popen(list(command), env=dict(environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: mark.exists() or process.poll() is not None, f"the first line under {command}")
        most = (0, 0)
        end = time.monotonic() + seconds
        while True:
            now = memory(process.pid)
            most = (max(most[0], now[0]), max(most[1], now[1]))
            if time.monotonic() >= end:
                return most
            time.sleep(0.2)
    finally:
        process.terminate()
        process.wait(HANG_S)


def run(*, quick: bool) -> Result:
    """Measure against the bare interpreter (quick), and against the peers too (full)."""
    with tempfile.TemporaryDirectory(prefix="slipway-bench-", dir=os.path.realpath(tempfile.gettempdir())) as name:
        root = Path(name)
        ours, bare = environments.ours(root / "ours"), environments.bare(root / "bare")
        figures = first_line(root, ours, bare, seconds=15.0 if quick else 60.0)
        figures += watching(root, ours, bare)
        if not quick:
            figures += against_peers(root, ours, bare)
    return Result("start", figures)
