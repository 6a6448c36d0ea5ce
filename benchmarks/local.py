"""From `slipway run` to the first line of the user's script, against docker's own client and local mode of both SDKs.

All arms start one script in one image on one engine, each with a fresh job. The script itself prints the clock, which
containers share with their machine. Every arm counts from the start of its process; what the SDKs need from the call
of ``fit()`` or ``train()`` alone is told beside it.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, Result, interleave, ratio
from benchmarks.trees import HANG_S, write_tree
from runtime.testing.client import answers, docker, must
from tests.container.sdks import environ_of, find_sdk, real_compose

IMAGE = "slipway-pytorch:cpu"
OVER_GOAL_S = 0.5
SDK_GOAL = 0.35
ROUNDS = 9
QUICK_ROUNDS = 5
SCRIPT = "import time; first = time.monotonic_ns()\nprint('FIRST', first, flush=True)\n"
CLIENTS = Path(__file__).parents[1] / "tests" / "container" / "clients"
SDKS = (2, 3)
SDK_NETWORK = "sagemaker-local"
"""Both SDKs use it for all jobs and never remove it: it is there before every job but the first."""


@dataclass
class Split:
    """Where our time goes, seconds of each round."""

    python: list[float] = field(default_factory=list[float])
    """From exec to the run's first transition: Python, our imports, the request."""
    preparing: list[float] = field(default_factory=list[float])
    """From there to the start of the hosts: engine, image, network, tree, code."""
    starting: list[float] = field(default_factory=list[float])
    """From there to the first line: container, launcher, the user's Python."""

    def told(self) -> str:
        """Tell the medians."""
        parts = {"Python and imports": self.python, "preparing": self.preparing, "container and train": self.starting}
        return ", ".join(f"{name} {statistics.median(seconds):.2f} s" for name, seconds in parts.items())


class Arms:
    """The ways to run the job; each call returns the seconds to the first line."""

    def __init__(self, root: Path) -> None:
        """Write the script and its data.

        Args:
            root: an empty directory of the user's.
        """
        self._root = root
        self._number = 0
        self.split = Split()
        self.calls: dict[int, list[float]] = {version: [] for version in SDKS}
        """By SDK: seconds from the call of ``fit()`` or ``train()``, of all rounds."""
        for name, text in (("src/train.py", SCRIPT), ("data/x", "sample")):
            (root / name).parent.mkdir(parents=True)
            (root / name).write_text(text, encoding="utf-8")

    def ours(self) -> float:
        """Run `slipway run`."""
        out = self._fresh()
        command = [str(Path(sys.executable).with_name("slipway")), "run", "--engine", "docker", "--image", IMAGE]
        words = ["--entrypoint", str(self._root / "src/train.py"), "--channel", f"train={self._root / 'data'}"]
        clock, began = time.time(), time.monotonic()
        done = _run([*command, *words, "--output", str(out)], dict(os.environ))
        seconds = _first(done) - began
        record: dict[str, Any] = json.loads((out / "job.json").read_text(encoding="utf-8"))
        ready, started = record["transitions"][0]["at"] - clock, record["attempts"][0]["started"] - clock
        self.split.python.append(ready)
        self.split.preparing.append(started - ready)
        self.split.starting.append(seconds - started)
        return seconds

    def docker_run(self) -> float:
        """Run the two commands that someone would type who has the tree."""
        name = f"bench-local-{os.getpid()}"
        tree = write_tree(self._fresh(), {"train.py": SCRIPT}, {}, me="algo-1", hosts=("algo-1",))
        hyperparameters = {"sagemaker_program": "train.py", "sagemaker_submit_directory": "/opt/ml/code"}
        (tree / "input/config/hyperparameters.json").write_text(json.dumps(hyperparameters), encoding="utf-8")
        shutil.copytree(self._root / "data", tree / "input/data/train")
        words = ["--rm", "--network", name, "--network-alias", "algo-1", "--hostname", "algo-1"]
        try:
            began = time.monotonic()
            must("network", "create", name)
            done = _run(["docker", "run", *words, "--volume", f"{tree}:/opt/ml", IMAGE, "train"], dict(os.environ))
            return _first(done) - began
        finally:
            docker("network", "rm", name)

    def sdk(self, version: int, python: Path, compose: Path) -> Callable[[], float]:
        """Make the arm of an SDK, whose engine is the real docker-compose."""

        def run() -> float:
            place = self._fresh()
            place.mkdir()
            root = place / "root"
            root.mkdir()
            # The shortest way of each: neither uploads anything, and v3 without source code runs no driver.
            source = {2: str(self._root / "src"), 3: ""}[version]
            code = {"code": str(self._root / "src")} if version == 3 else {}
            program = {"sagemaker_program": "train.py"} if version == 3 else {}
            job = {
                **{"kind": "generic", "hosts": 1, "image": IMAGE, "root": str(root), "environment": {}},
                **{"source": source, "hyperparameters": {"lr": 0.1, **program}},
                **{"channels": {"train": str(self._root / "data"), **code}},
            }
            words = [str(python), str(CLIENTS / f"v{version}.py"), json.dumps({"job": job})]
            try:
                began = time.monotonic()
                done = _run(words, environ_of(place, compose))
                first = _first(done)
            finally:
                for path in root.rglob("docker-compose.yaml"):
                    remove = [str(compose / "docker-compose"), "-f", str(path), "rm", "--force"]
                    subprocess.run(remove, capture_output=True, check=False, timeout=HANG_S)
            called = json.loads(done.strip().splitlines()[-1])["job"]["called"] / 1e9
            self.calls[version].append(first - called)
            return first - began

        return run

    def close(self) -> None:
        """Make what root wrote in containers the user's, so that it can be removed."""
        if os.getuid() != 0:
            owner = f"{os.getuid()}:{os.getgid()}"
            docker("run", "--rm", "--volume", f"{self._root}:/trees", IMAGE, "chown", "-R", owner, "/trees")

    def _fresh(self) -> Path:
        self._number += 1
        return self._root / f"job-{self._number}"


def _run(words: Sequence[str], environ: dict[str, str]) -> str:
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ, timeout=HANG_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def _first(text: str) -> float:
    found = re.search(r"FIRST (\d+)", text)
    if found is None:
        raise RuntimeError(f"the script never ran:\n{text[-3000:]}")
    return int(found[1]) / 1e9


def _sdks(arms: Arms) -> tuple[dict[str, Callable[[], float]], str]:
    """Find the SDKs and the docker-compose that they start; the text says what is missing."""
    compose, why = real_compose()
    if compose is None:
        return {}, why
    found: dict[str, Callable[[], float]] = {}
    for version in SDKS:
        python, missing = find_sdk(version)
        if python is None:
            why = f"{why}; {missing}" if why else missing
        else:
            found[f"sdk v{version}"] = arms.sdk(version, python, compose)
    return found, why


def measure(*, quick: bool) -> list[Figure]:
    """Compare with docker's own client (quick), and with the SDKs too (full)."""
    if not answers() or docker("image", "inspect", IMAGE).returncode != 0:
        raise RuntimeError(f"it needs a Docker engine that has {IMAGE}: make image/pytorch FLAVOUR=cpu")
    network_is_new = docker("network", "inspect", SDK_NETWORK).returncode != 0
    with tempfile.TemporaryDirectory(prefix="slipway-bench-local-") as name:
        arms = Arms(Path(name))
        chosen: dict[str, Callable[[], float]] = {"ours": arms.ours, "docker run": arms.docker_run}
        peers, why = ({}, "") if quick else _sdks(arms)
        try:
            costs = interleave(chosen | peers, rounds=QUICK_ROUNDS if quick else ROUNDS)
        finally:
            arms.close()
            if peers and network_is_new:
                docker("network", "rm", SDK_NETWORK)
    over = [one - other for one, other in zip(costs["ours"], costs["docker run"], strict=True)]
    low, median, high = statistics.quantiles(over, n=4, method="inclusive")
    note = f"{len(over)} rounds; {arms.split.told()}" + (f"; left out: {why}" if why else "")
    figures = [Figure("local_over_docker_s", median, "s", OVER_GOAL_S, spread=(low, high), note=note)]
    for peer in peers:
        against = ratio(costs["ours"], costs[peer])
        key = f"local_ratio_{peer.replace(' ', '_')}"
        figures.append(Figure(key, against.median, "ratio", SDK_GOAL, spread=(against.low, against.high)))
        called = arms.calls[int(peer[-1])][-len(over) :]  # the warm-up came first
        against = ratio(costs["ours"], called)
        figures.append(Figure(f"{key}_call", against.median, "ratio", spread=(against.low, against.high)))
    low, median, high = statistics.quantiles(costs["ours"], n=4, method="inclusive")
    seconds = {name: statistics.median(values) for name, values in costs.items() if name != "ours"}
    calls = {f"sdk v{version} call": statistics.median(values) for version, values in arms.calls.items() if values}
    return [*figures, Figure("local_s", median, "s", spread=(low, high), peers=seconds | calls)]


def run(*, quick: bool) -> Result:
    """Measure the start of a local job."""
    return Result("local", measure(quick=quick), ("docker",))
