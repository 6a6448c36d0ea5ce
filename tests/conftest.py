"""What all tests share: a contract tree to fill, free loopback addresses, and hosts played by real processes."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runtime.base import log
from runtime.contract.paths import Paths
from tests.s3 import _bridge_server, _loopback_server, bridge_s3, s3

__all__ = ["_bridge_server", "_loopback_server", "bridge_s3", "s3"]

GOLDEN = Path(__file__).parent / "golden"
_BLOCKS = itertools.count()


@pytest.fixture(autouse=True)
def _log_as_at_the_start() -> Iterator[None]:
    """What a test says of this process's place in a job is not said of the next one's."""
    log.configure()
    yield
    log.configure()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    """Wait until something holds; a test that waits in vain says for what."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


@dataclass(frozen=True)
class Tree:
    """One host's /opt/ml in a temporary directory."""

    base: Path

    @property
    def paths(self) -> Paths:
        return Paths(str(self.base))

    def config(self, name: str, value: object) -> None:
        Path(self.paths.config).mkdir(parents=True, exist_ok=True)
        text = value if isinstance(value, str) else json.dumps(value)
        (Path(self.paths.config) / f"{name}.json").write_text(text, encoding="utf-8")

    def hyperparameters(self, **values: str) -> None:
        self.config("hyperparameters", values)

    def channel(self, name: str, **files: str | bytes) -> Path:
        """Make a channel's directory; a double underscore in a keyword is a dot in the file's name."""
        directory = Path(self.paths.data) / name
        directory.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            (directory / file.replace("__", ".")).write_bytes(data)
        return directory

    def script(self, text: str, name: str = "train.py") -> None:
        Path(self.paths.code).mkdir(parents=True, exist_ok=True)
        (Path(self.paths.code) / name).write_text(text, encoding="utf-8")

    def drivers(self, distributed: object = None, **source: object) -> None:
        """Write the two files of the driver channel as SDK v3 does: unset fields are null."""
        fields = ("source_dir", "requirements", "entry_script", "command", "args", "ignore_patterns")
        files = {"sourcecode": dict.fromkeys(fields) | source, "distributed": distributed or {}}
        self.channel("sm_drivers", **{f"{name}__json": json.dumps(value) for name, value in files.items()})
        self.channel("code")
        self.config("inputdataconfig", {name: {"TrainingInputMode": "File"} for name in ("code", "sm_drivers")})

    def golden(self, *cases: str) -> None:
        """Take the contract's files from tests/golden: each case is one object of file name to content."""
        for case in cases:
            held = json.loads((GOLDEN / f"{case}.json").read_text(encoding="utf-8"))
            for name, value in held["files"].items():
                self.config(name, value)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "ml")


def loopback_block() -> str:
    """Return the first three numbers of loopback addresses that no other test of this machine uses now."""
    number = next(_BLOCKS)
    return f"127.{1 + os.getpid() % 250}.{(os.getpid() // 250 + number * 7) % 250}"


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


@dataclass
class HostProcess:
    """One container of a job, played by a real `train` process."""

    name: str
    tree: Tree
    process: subprocess.Popen[str] | None = None
    text: str = ""

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = 180.0) -> int:
        """Wait for the end; `text` holds what it printed."""
        assert self.process is not None
        try:
            self.text, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.text, _ = self.process.communicate()
            pytest.fail(f"{self.name} did not end within {seconds:g} s:\n{self.text}")
        return self.process.returncode

    @property
    def failure(self) -> str:
        return Path(self.tree.paths.failure).read_text(encoding="utf-8")

    def marks(self, name: str = "*") -> list[Path]:
        """Files that the scripts left to tell the test something."""
        return sorted((self.tree.base / "marks").glob(name))


MARK = """
import os, pathlib, signal, subprocess, sys, time
MARKS = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "marks")
MARKS.mkdir(exist_ok=True)
RANK, HOST = int(os.environ["RANK"]), os.environ["SLIPWAY_HOST"]
def mark(name, text=""):
    aside = MARKS / f".{name}-{os.getpid()}"
    aside.write_text(str(text))
    aside.rename(MARKS / name)
def linger(seconds=300):
    "Stay until the test, or the death of the launcher, ends us."
    parent, deadline = os.getppid(), time.monotonic() + seconds
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.01)
"""
"""First lines of every script that a test lets the ranks run; it needs neither torch nor our package."""


@dataclass
class Cluster:
    """Hosts of one job on this machine."""

    hosts: Mapping[str, HostProcess]
    environ: dict[str, str]

    def __getitem__(self, number: int) -> HostProcess:
        return self.hosts[f"algo-{number}"]

    def start(self, *numbers: int, launcher: Sequence[str] = ("-m", "runtime.launch.launcher"), **environ: str) -> None:
        """Start these hosts, all when none is named."""
        for host in [self[n] for n in numbers] or list(self.hosts.values()):
            host.process = subprocess.Popen(
                [sys.executable, *launcher],
                env={**self.environ, "SAGEMAKER_BASE_DIR": str(host.tree.base), **environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )


@dataclass
class _Clusters:
    root: Path
    made: list[Cluster] = field(default_factory=list)

    def __call__(self, script: str = "", hosts: int = 1, *, procs: int = 1, **settings: object) -> Cluster:
        block = loopback_block()
        names = [f"algo-{n}" for n in range(1, hosts + 1)]
        home = self.root / f"job{len(self.made)}"
        players: dict[str, HostProcess] = {}
        given = {"procs_per_host": procs, "profile": "off", "silence_s": 10, **settings}
        for name in names:
            tree = Tree(home / name)
            tree.config("resourceconfig", {"current_host": name, "hosts": names, "network_interface_name": "eth0"})
            hyperparameters = {f"slipway_{key}": str(value) for key, value in given.items()}
            tree.hyperparameters(sagemaker_program="train.py", **hyperparameters)
            if script:
                tree.script(MARK + script)
            players[name] = HostProcess(name, tree)
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TRAINING_JOB_NAME": "unit",
            "SLIPWAY_IMAGE_FILE": str(home / "no-image.json"),
            "SLIPWAY_PEER_PORT": str(free_port(f"{block}.1")),
            "SLIPWAY_HOST_ADDRESSES": ",".join(f"{name}={block}.{n}" for n, name in enumerate(names, 1)),
        }
        cluster = Cluster(players, environ)
        self.made.append(cluster)
        return cluster

    def end(self) -> None:
        for cluster in self.made:
            for host in cluster.hosts.values():
                if host.process is not None and host.process.stdout is not None and not host.process.stdout.closed:
                    host.process.kill()
                    host.process.communicate()
                for leftover in host.marks("pid-*"):
                    with contextlib.suppress(ProcessLookupError, ValueError):
                        os.kill(int(leftover.read_text()), signal.SIGKILL)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    clusters = _Clusters(tmp_path)
    yield clusters
    clusters.end()
