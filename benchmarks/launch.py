"""From the start of two hosts to their first all-reduce, against torchrun; and the side channel as jobs grow.

Two containers of the image on a private network of their own; all arms run one script in them. Without an engine, or
with ``--engine process``, the same with processes on loopback addresses, and the note says so.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import growth
from benchmarks.crowd import ports
from benchmarks.measure import Figure, Result, interleave, ratio
from benchmarks.trees import HANG_S, wait_until, write_tree
from runtime.testing.client import answers, docker, must

IMAGE = "slipway-pytorch:cpu"
HOSTS = ("algo-1", "algo-2")
STOCK = f"""FROM {IMAGE}
RUN find /opt/venv -name '*.pyc' -delete
ENV PYTHONDONTWRITEBYTECODE=1
"""
"""The same image as existing suites make theirs: packages without byte code, compiled anew by every process."""
STATIC_GOAL = 0.45
BARE_GOAL = 1.15
ROUNDS = 7
QUICK_ROUNDS = 5

SCRIPT = """import time; first = time.monotonic_ns()
import json, os
import torch, torch.distributed as dist
imported = time.monotonic_ns()
dist.init_process_group("gloo")
ones = torch.ones(1)
dist.all_reduce(ones)
done = time.monotonic_ns()
assert ones.item() == dist.get_world_size() == 2, ones
aside = f"{os.environ['BENCH_MARKS']}/.{dist.get_rank()}"
with open(aside, "w") as stream:
    json.dump([first, imported, done], stream)
os.rename(aside, f"{os.environ['BENCH_MARKS']}/mark-{dist.get_rank()}")
dist.destroy_process_group()
"""


class Engine(ABC):
    """Starts the two hosts of one arm, and ends them."""

    name: str

    def __init__(self, root: Path, python: str, train: str) -> None:
        """Prepare.

        Args:
            root: an empty directory.
            python: the interpreter that has torch.
            train: our command.
        """
        self.root, self.python, self.train = root, python, train
        self._port = 29_000 + os.getpid() % 500

    @abstractmethod
    def addresses(self) -> Sequence[str]:
        """Return how the hosts reach each other."""

    @abstractmethod
    def environ(self) -> Mapping[str, str]:
        """Return what all arms but ours have to be told of the network."""

    @abstractmethod
    def run(
        self, commands: Sequence[Sequence[str]], environs: Sequence[Mapping[str, str]], *, stock: bool
    ) -> tuple[float, Path]:
        """Run a command on each host to its end.

        Args:
            commands: of each host.
            environs: what each host is told.
            stock: run where no package has byte code, see `STOCK`.

        Returns:
            The monotonic seconds of the start of the first, and the directory of the marks.
        """

    @abstractmethod
    def close(self) -> None:
        """Remove what was made."""

    def fresh_port(self) -> str:
        """Return a port that no earlier run of this engine has used."""
        self._port += 1
        return str(self._port)


class Containers(Engine):
    """Two containers."""

    name = "containers"

    def __init__(self, root: Path) -> None:
        """Make the network and the trees."""
        super().__init__(root, "/opt/venv/bin/python", "train")
        self._prefix = f"bench-{os.getpid()}"
        self._trees = [
            write_tree(
                root / host, {"user.py": SCRIPT}, {}, me=host, hosts=HOSTS, submit_directory=Path("/opt/ml/code")
            )
            for host in HOSTS
        ]
        for tree in self._trees:
            (tree / "code" / "user.py").write_text(SCRIPT, encoding="utf-8")
        must("network", "create", "--internal", self._prefix)
        self._stock = f"{self._prefix}:stock"
        context = root / "stock"
        context.mkdir()
        (context / "Dockerfile").write_text(STOCK, encoding="utf-8")
        must("build", "--quiet", "--tag", self._stock, str(context))

    def addresses(self) -> Sequence[str]:
        """Return the names that the engine resolves."""
        return HOSTS

    def environ(self) -> Mapping[str, str]:
        """Return nothing: a container has one interface."""
        return {}

    def run(
        self, commands: Sequence[Sequence[str]], environs: Sequence[Mapping[str, str]], *, stock: bool
    ) -> tuple[float, Path]:
        """Make both first, so that only their start counts."""
        marks = self.root / "marks"
        marks.mkdir(exist_ok=True)
        for mark in marks.iterdir():
            mark.unlink()
        names = [f"{self._prefix}-{host}" for host in HOSTS]
        try:
            for name, host, tree, command, environ in zip(names, HOSTS, self._trees, commands, environs, strict=True):
                told = [f"--env={key}={value}" for key, value in environ.items()]
                words = ["--name", name, "--hostname", host, "--network", self._prefix, "--network-alias", host]
                words += ["--user", f"{os.getuid()}:0", f"--volume={tree}:/opt/ml", f"--volume={marks}:/marks"]
                must("create", *words, "--env=BENCH_MARKS=/marks", *told, self._stock if stock else IMAGE, *command)
            began = time.monotonic()
            with ThreadPoolExecutor(len(names)) as pool:  # the platform starts all hosts at once
                list(pool.map(_start, names))
            for name in names:
                code = must("wait", name).strip()
                if code != "0":
                    log = docker("logs", "--tail", "30", name)
                    raise RuntimeError(f"{commands[0]} ended with {code} in {name}:\n{log.stdout}{log.stderr}")
        finally:
            docker("rm", "--force", *names)
        return began, marks

    def close(self) -> None:
        """Remove the network and the image."""
        docker("network", "rm", self._prefix)
        docker("rmi", self._stock)


def _start(name: str) -> None:
    must("start", name)


class Processes(Engine):
    """Two processes on loopback addresses."""

    name = "processes on one machine"

    def __init__(self, root: Path) -> None:
        """Write the trees; the interpreter is the one that runs this."""
        super().__init__(root, sys.executable, str(Path(sys.executable).with_name("train")))
        self._code = root / "code"
        self._code.mkdir()
        (self._code / "user.py").write_text(SCRIPT, encoding="utf-8")
        self._trees = [
            write_tree(root / host, {"user.py": SCRIPT}, ports(), me=host, hosts=HOSTS, submit_directory=self._code)
            for host in HOSTS
        ]

    def addresses(self) -> Sequence[str]:
        """Return two of the loopback network, which other benchmarks leave alone."""
        return [f"127.{50 + os.getpid() % 50}.1.{host}" for host in (1, 2)]

    def environ(self) -> Mapping[str, str]:
        """Return the loopback interface: a host name of this machine may resolve elsewhere."""
        return {"GLOO_SOCKET_IFNAME": "lo"}

    def run(
        self, commands: Sequence[Sequence[str]], environs: Sequence[Mapping[str, str]], *, stock: bool
    ) -> tuple[float, Path]:
        """Start both at once."""
        marks = Path(tempfile.mkdtemp(dir=self.root))
        # An empty cache that is never written to: the standard library is compiled too, about a tenth more.
        cold = {"PYTHONPYCACHEPREFIX": str(marks), "PYTHONDONTWRITEBYTECODE": "1"} if stock else {}
        told = ",".join(f"{host}={address}" for host, address in zip(HOSTS, self.addresses(), strict=True))
        base = {"PATH": os.environ["PATH"], "BENCH_MARKS": str(marks), "SLIPWAY_HOST_ADDRESSES": told}
        processes: list[subprocess.Popen[str]] = []
        began = time.monotonic()
        try:
            for tree, command, environ in zip(self._trees, commands, environs, strict=True):
                words = [str(self._code / "user.py") if word == "/opt/ml/code/user.py" else word for word in command]
                whole = {**base, "SAGEMAKER_BASE_DIR": str(tree), **environ, **cold}
                with (tree / "log").open("w") as log:
                    # A session each, as containers have it: the kernel shares the CPUs out by session.
                    processes.append(
                        subprocess.Popen(words, env=whole, stdout=log, stderr=log, text=True, start_new_session=True)
                    )
            for process, tree in zip(processes, self._trees, strict=True):
                if process.wait(HANG_S) != 0:
                    text = (tree / "log").read_text(encoding="utf-8", errors="replace")
                    raise RuntimeError(f"{commands[0]} ended with {process.returncode}:\n{text[-3000:]}")
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait(HANG_S)
        return began, marks

    def close(self) -> None:
        """Leave nothing: the directory is the caller's."""


class Arms:
    """The ways to start the two ranks; each call returns the seconds to the later first all-reduce."""

    def __init__(self, engine: Engine) -> None:
        """Prepare."""
        self._engine = engine
        self.phases: dict[str, list[tuple[float, float]]] = {}
        """By arm, for each round: seconds to the first line and to the end of ``import torch``, of the later host."""

    def ours(self) -> float:
        """Run ``train``."""
        return self._timed("ours", [[self._engine.train]] * 2, [{}, {}])

    def bare(self) -> float:
        """Run the script by itself, told by variables where it is: nothing can be faster."""
        port, first = self._engine.fresh_port(), self._engine.addresses()[0]
        told = {"MASTER_ADDR": first, "MASTER_PORT": port, "WORLD_SIZE": "2", **self._engine.environ()}
        environs = [{**told, "RANK": str(rank), "LOCAL_RANK": "0"} for rank in range(2)]
        return self._timed("bare", [[self._engine.python, "/opt/ml/code/user.py"]] * 2, environs)

    def static(self) -> float:
        """Run torchrun with a fixed coordinator, in our image."""
        return self._static("torchrun static, our image", stock=False)

    def stock(self) -> float:
        """Run the same as existing images have it, see `STOCK`."""
        return self._static("torchrun static", stock=True)

    def _static(self, name: str, *, stock: bool) -> float:
        port, first = self._engine.fresh_port(), self._engine.addresses()[0]
        words = [["--node_rank", str(rank), "--master_addr", first, "--master_port", port] for rank in range(2)]
        return self._torchrun(name, words, stock=stock)

    def c10d(self) -> float:
        """Run torchrun with its own rendezvous."""
        end = f"{self._engine.addresses()[0]}:{self._engine.fresh_port()}"
        words = [
            ["--rdzv_backend", "c10d", "--rdzv_id", "job", "--rdzv_endpoint", end, "--rdzv_conf", f"is_host={host}"]
            for host in ("true", "false")
        ]
        return self._torchrun("torchrun c10d", words, stock=True)

    def _torchrun(self, name: str, words: Sequence[Sequence[str]], *, stock: bool) -> float:
        start = [self._engine.python, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
        where = [["--local_addr", address] for address in self._engine.addresses()]
        commands = [[*start, *own, *at, "/opt/ml/code/user.py"] for own, at in zip(words, where, strict=True)]
        return self._timed(name, commands, [self._engine.environ()] * 2, stock=stock)

    def _timed(
        self,
        name: str,
        commands: Sequence[Sequence[str]],
        environs: Sequence[Mapping[str, str]],
        *,
        stock: bool = False,
    ) -> float:
        began, marks = self._engine.run(commands, environs, stock=stock)
        files = [marks / f"mark-{rank}" for rank in range(2)]
        wait_until(lambda: all(file.exists() for file in files), f"the marks of {name}", limit_s=5.0)
        times = [[at / 1e9 - began for at in json.loads(file.read_text(encoding="utf-8"))] for file in files]
        self.phases.setdefault(name, []).append((max(t[0] for t in times), max(t[1] for t in times)))
        return max(t[2] for t in times)

    def told(self) -> str:
        """Tell the medians of the phases."""
        return "; ".join(
            f"{name}: first line {statistics.median(first for first, _ in rounds):.2f} s,"
            f" torch imported {statistics.median(imported for _, imported in rounds):.2f} s"
            for name, rounds in self.phases.items()
        )


@contextlib.contextmanager
def engine_for(wanted: str) -> Generator[tuple[Engine, str]]:
    """Choose the engine; the text says why it is not the usual one."""
    why = ""
    if wanted != "process":
        if not answers():
            why = "no Docker engine answers"
        elif docker("image", "inspect", IMAGE).returncode != 0:
            why = f"{IMAGE} is not built"
        if why and wanted == "docker":
            raise RuntimeError(why)
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as name:
        engine = Processes(Path(name)) if why or wanted == "process" else Containers(Path(name))
        try:
            yield engine, why
        finally:
            engine.close()


def first_all_reduce(wanted: str, *, quick: bool) -> list[Figure]:
    """Compare with the bare script (quick), and with torchrun too (full)."""
    with engine_for(wanted) as (engine, why):
        arms = Arms(engine)
        chosen = {"ours": arms.ours, "bare": arms.bare}
        if not quick:
            chosen |= {
                "torchrun static": arms.stock,
                "torchrun static, our image": arms.static,
                "torchrun c10d": arms.c10d,
            }
        costs = interleave(chosen, rounds=QUICK_ROUNDS if quick else ROUNDS)
        where = f"2 {engine.name}{f' because {why}' if why else ''}"
    seconds = {name: statistics.median(values) for name, values in costs.items()}
    low, median, high = statistics.quantiles(costs["ours"], n=4, method="inclusive")
    bare = ratio(costs["ours"], costs["bare"])
    figures = [
        Figure(
            "launch_ratio_bare",
            bare.median,
            "ratio",
            BARE_GOAL,
            spread=(bare.low, bare.high),
            note=f"{where}, {len(costs['ours'])} rounds; {arms.told()}",
        ),
        Figure(
            "launch_s",
            median,
            "s",
            spread=(low, high),
            peers={name: value for name, value in seconds.items() if name != "ours"},
        ),
    ]
    if not quick:
        compared: list[Figure] = []
        for key, arm, goal in (
            ("launch_ratio_torchrun_static", "torchrun static", STATIC_GOAL),
            ("launch_ratio_torchrun_c10d", "torchrun c10d", None),
            ("launch_ratio_torchrun_static_our_image", "torchrun static, our image", None),
        ):
            against = ratio(costs["ours"], costs[arm])
            compared.append(Figure(key, against.median, "ratio", goal, spread=(against.low, against.high)))
        figures = [*compared, *figures]
    return figures


def run(*, quick: bool, engine: str = "") -> Result:
    """Measure the first all-reduce and the growth, of each the named subset in `quick`.

    Args:
        quick: a subset, within a minute.
        engine: ``docker``, ``process``, or empty for the first that is there.
    """
    return Result("launch", [*first_all_reduce(engine, quick=quick), *growth.figures(quick=quick)], ("torch",))
