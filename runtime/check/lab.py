"""Trials on an image: each starts a container or two, waits for their end, and keeps what they left.

Several clauses are judged by one trial; whoever asks first starts it, the others wait for the same result.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from runtime.base.errors import PlatformError
from runtime.check.facts import Facts
from runtime.contract.paths import DEFAULT_BASE
from runtime.local.leftovers import labels_of
from runtime.testing import Container, ContractTree, docker, must

T = TypeVar("T")

PROGRAMS = Path(__file__).parent / "programs"
PROGRAM = "job.py"
"""Name of our programs inside a job."""
CODE = f"{DEFAULT_BASE}/input/data/code"
PROCESSING_CODE = f"{DEFAULT_BASE}/processing/input/code"
LABEL = "slipway.check"
TAIL_CHARS = 300
BASE_CHANNELS: Mapping[str, Mapping[str, str]] = {"training": {"part-1.csv": "1,2\n3,4\n", "deep/part-2.csv": "5,ü\n"}}
"""Channel to its files, in every job of ours."""


@dataclass(frozen=True)
class OwnJob:
    """The job of an image that runs an algorithm of its own, as the caller describes it."""

    hyperparameters: Mapping[str, str] = field(default_factory=dict[str, str])
    channels: Mapping[str, Path] = field(default_factory=dict[str, Path])
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    entrypoint: tuple[str, ...] = ()
    """``ContainerEntrypoint``; empty: the image's."""
    arguments: tuple[str, ...] = ()
    """``ContainerArguments``."""
    failing: Mapping[str, str] = field(default_factory=dict[str, str])
    """Hyperparameters with which it must fail."""


@dataclass(frozen=True)
class Trial:
    """What one container left."""

    exit_code: int | None
    """None: it had not ended by the deadline and was killed. 125 to 127: it did not start."""
    log: str
    tree: ContractTree
    seconds: float
    told: str = ""
    """What a trial saw while the container ran, in words of that trial."""

    @property
    def seen(self) -> Mapping[str, Any] | None:
        """What our program wrote down; None when it did not come so far."""
        return self.record("seen.json")

    def record(self, name: str) -> Mapping[str, Any] | None:
        """Read a JSON file of the model directory; None when it is not there or not whole."""
        try:
            value = json.loads(self.tree.model(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return cast("Mapping[str, Any]", value) if isinstance(value, dict) else None

    @property
    def failure(self) -> str:
        """The failure file, whatever bytes it holds; empty without one."""
        path = self.tree.base / "output" / "failure"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    @property
    def ending(self) -> str:
        """How it ended, with its last words."""
        how = "had not ended by the deadline" if self.exit_code is None else f"exit code {self.exit_code}"
        tail = " ".join(self.log[-TAIL_CHARS:].split())
        told = f"{how}; last words: {tail!r}" if tail else f"{how}; it printed nothing"
        failure = " ".join(self.failure.split())
        return f"{told}; failure file: {failure[:TAIL_CHARS]!r}" if failure else told


@dataclass(frozen=True)
class Setup:
    """One host of one trial."""

    program: str = ""
    """One of ours, the name of a file in ``programs``; empty: the first job's. A job of the image's own has none."""
    command: tuple[str, ...] | None = None
    """None: what the kind of job starts."""
    hyperparameters: Mapping[str, str] = field(default_factory=dict[str, str])
    encode: bool = False
    """Write each hyperparameter as JSON, as the framework estimators of SDK v2 do."""
    channels: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    """Beside the usual ones."""
    usual: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: BASE_CHANNELS)
    """Channels of every job of ours; none for a job whose only channel is a Pipe."""
    host: str = "algo-1"
    hosts: tuple[str, ...] = ("algo-1",)
    broken: bool = False
    """Write hyperparameters.json so that no JSON reader accepts it."""
    resources: Mapping[str, object] | None = None
    """Instead of the service's resourceconfig.json."""
    inputs: Mapping[str, object] | None = None
    """Instead of the service's inputdataconfig.json."""
    network: str = "bridge"
    options: tuple[str, ...] = ()
    """Of ``docker run``."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    deadline_s: float | None = None
    """None: the laboratory's."""
    prepare: Callable[[Path], None] | None = None
    """Does more to the tree, given its root, before the container starts."""


class Running:
    """A container of a trial that may still run."""

    def __init__(self, lab: Lab, name: str, tree: ContractTree, deadline_s: float, refused: str, code: int) -> None:
        self.container = Container(name)
        self.tree = tree
        self.refused = refused
        """What the engine said when it could not start; empty when it could."""
        self._lab = lab
        self._deadline = time.monotonic() + deadline_s
        self._began = time.monotonic()
        self._code = code

    def wait_for(self, happened: Callable[[], bool], deadline_s: float | None = None) -> bool:
        """Wait until something is there; False when the container ended first, or the deadline came."""
        deadline = self._deadline if deadline_s is None else time.monotonic() + deadline_s
        while not happened():
            if self.refused or time.monotonic() > deadline or not self.container.running():
                return happened()
            self._lab.pause()
        return True

    def finish(self, told: str = "", within_s: float | None = None) -> Trial:
        """Wait for the end, kill it when it does not come, and take everything down.

        Args:
            told: kept in the trial.
            within_s: from now; None: until the deadline that was set at the start.
        """
        if within_s is not None:
            self._deadline = time.monotonic() + within_s
        code: int | None = self._code
        if not self.refused:
            try:
                done = docker("wait", self.container.name, timeout_s=max(1.0, self._deadline - time.monotonic()))
                code = int(done.stdout) if done.returncode == 0 else None
            except PlatformError:
                code = None
                docker("kill", self.container.name)
        log = self.refused or self.container.logs()
        docker("rm", "--force", "--volumes", self.container.name)
        return Trial(code, log, self.tree, time.monotonic() - self._began, told)


class Lab:
    """Starts the containers of one check, and removes them."""

    def __init__(
        self,
        image: str,
        home: Path,
        *,
        kind: str = "training",
        job: OwnJob | None = None,
        deadline_s: float = 60.0,
        grace_s: int = 30,
        max_gb: float = 20.0,
    ) -> None:
        """Ask the engine about the image; no container is started yet.

        Args:
            image: what to check; the engine must have it.
            home: an empty directory for the jobs' files.
            kind: ``training`` or ``processing``.
            job: of an image with an algorithm of its own.
            deadline_s: for the end of every container.
            grace_s: between SIGTERM and SIGKILL; the platform gives 120.
            max_gb: how big the image may be, gigabytes.
        """
        self.image = image
        self.kind = kind
        self.job = job
        self.deadline_s = deadline_s
        self.grace_s = grace_s
        self.max_gb = max_gb
        self._home = home
        self._numbers = itertools.count(1)
        self._prefix = f"slipway-check-{os.getpid()}-{id(self):x}"
        # Also what `slipway clean` looks for, should this process be killed.
        labels = {LABEL: self._prefix} | labels_of(f"check {image}", self._prefix)
        self._labels = [word for name, value in labels.items() for word in ("--label", f"{name}={value}")]
        self._lock = threading.Lock()
        self._trials: dict[str, Future[Any]] = {}
        self._networks: list[str] = []
        self._closing = threading.Event()
        self.facts = Facts.read(image)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return the result under this name, made by the first who asks."""
        with self._lock:
            future: Future[T] | None = self._trials.get(name)
            mine = future is None
            if future is None:
                future = Future()
                self._trials[name] = future
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()

    def pause(self) -> None:
        """Let a moment pass between two looks."""
        self._closing.wait(0.05)

    @property
    def own(self) -> bool:
        """Whether the image runs an algorithm of its own; asks the first trial."""
        if self.job is not None:
            return True
        first = self.base()
        return first.seen is None and first.exit_code == 0 and has_files(first.tree.base / "model")

    def base(self) -> Trial:
        """The first trial, on which most clauses rest: a usual job of one host."""
        return self.once("base", lambda: self.run(Setup()))

    def run(self, setup: Setup) -> Trial:
        """Run one container to its end."""
        return self.start(setup).finish()

    def start(self, setup: Setup) -> Running:
        """Write one host's files and start its container."""
        if self._closing.is_set():
            raise PlatformError("the check was ended")
        number = next(self._numbers)
        name = f"{self._prefix}-{number}"
        tree = self._write(self._home / str(number), setup)
        if setup.prepare is not None:
            setup.prepare(tree.base)
        words = ["run", "--detach", "--name", name, *self._labels, "--network", setup.network]
        words += ["--volume", f"{tree.base}:{DEFAULT_BASE}"]
        if setup.network in ("bridge", "none"):
            # The platform's name service knows every host; a host that is alone is all of its network.
            words += ["--add-host", f"{setup.host}:127.0.0.1"]
        else:
            words += ["--hostname", setup.host, "--network-alias", setup.host]
        # The hosts of one job share its name, and a network.
        shared = setup.network.rpartition("-")[2] if setup.network.startswith(self._prefix) else str(number)
        environ = {"TRAINING_JOB_NAME": f"slipway-check-{shared}", "AWS_REGION": "eu-central-1"}
        environ["WANDB_API_KEY"] = SECRET_VARIABLE
        environ |= dict(self.job.environment if self.job else {}) | dict(setup.environment)
        for key, value in environ.items():
            words += ["--env", f"{key}={value}"]
        entrypoint, command = self._command(setup)
        done = docker(*words, *entrypoint, *setup.options, self.image, *command)
        refused = done.stderr.strip() if done.returncode else ""
        deadline_s = self.deadline_s if setup.deadline_s is None else setup.deadline_s
        return Running(self, name, tree, deadline_s, refused, done.returncode)

    def new_directory(self) -> Path:
        """Make a directory that goes with the laboratory."""
        path = self._home / f"more-{next(self._numbers)}"
        path.mkdir(parents=True)
        return path

    def network(self) -> str:
        """Make a private network without a way out; it goes with the laboratory."""
        name = f"{self._prefix}-net-{next(self._numbers)}"
        must("network", "create", "--internal", *self._labels, name)
        self._networks.append(name)
        return name

    def close(self) -> None:
        """End what runs and remove what was made; files that root wrote in a container become removable."""
        self._closing.set()
        left = docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={self._prefix}").stdout.split()
        if left:
            docker("rm", "--force", "--volumes", *left)
        for name in self._networks:
            docker("network", "rm", name)
        if os.getuid() != 0 and self._home.exists():
            words = ("--user=0", "--network=none", "--volume", f"{self._home}:/trees", "--entrypoint=chmod")
            docker("run", "--rm", *words, self.image, "-R", "a+rwX", "/trees")

    def _command(self, setup: Setup) -> tuple[list[str], list[str]]:
        """Options that replace the entrypoint, and what follows the image's name."""
        if setup.command is not None:
            return [], list(setup.command)
        if self.kind == "training":
            if self.job and self.job.entrypoint:
                first, *rest = self.job.entrypoint
                return ["--entrypoint", first], [*rest, *self.job.arguments]
            return [], ["train", *(self.job.arguments if self.job else ())]
        if self.job:
            first, *rest = self.job.entrypoint or ("",)
            return (["--entrypoint", first] if first else []), [*rest, *self.job.arguments]
        words = [f"{PROCESSING_CODE}/{PROGRAM}", *PROCESSING_ARGUMENTS]
        return ["--entrypoint", "python3"], words

    def _write(self, base: Path, setup: Setup) -> ContractTree:
        usual = "look" if self.kind == "training" else "process"
        program = "" if self.job else setup.program or usual
        text = (PROGRAMS / f"{program}.py").read_text(encoding="utf-8") if program else ""
        own: Mapping[str, Path] = self.job.channels if self.job else {}
        if self.kind == "processing":
            tree = ContractTree.write(base, host=setup.host, hosts=setup.hosts)
            shutil.rmtree(base / "input")
            told = self._processing_files(setup)
            config, files = base / "config", {f"processing/input/code/{PROGRAM}": text}
        else:
            script = {PROGRAM: text} if program else {}
            tree = ContractTree.write(base, script, host=setup.host, hosts=setup.hosts, channels=own)
            told = self._training_files(setup, bool(program), tuple(own))
            config = base / "input" / "config"
            channels = {} if self.job else {**setup.usual, **setup.channels}
            files = {
                f"input/data/{name}/{file}": each for name, held in channels.items() for file, each in held.items()
            }
        files |= {str((config / f"{name}.json").relative_to(base)): json.dumps(value) for name, value in told.items()}
        if setup.broken:
            files["input/config/hyperparameters.json"] = '{"lr": '
        for name, each in files.items():
            path = base / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(each, encoding="utf-8")
        for path in (base, *base.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)  # whatever user the container runs as
        return tree

    def _training_files(self, setup: Setup, program: bool, own: tuple[str, ...]) -> dict[str, object]:
        values = dict(self.job.hyperparameters if self.job else BASE_HYPERPARAMETERS) | dict(setup.hyperparameters)
        if program:
            values = {"sagemaker_program": PROGRAM, "sagemaker_submit_directory": CODE} | values
        if setup.encode:
            values = {name: json.dumps(value) if _is_text(value) else value for name, value in values.items()}
        channels = own if self.job else (*setup.usual, *setup.channels, *(["code"] if program else []))
        group = {"instance_group_name": GROUP, "instance_type": INSTANCE, "hosts": sorted(setup.hosts)}
        resources = {
            "current_host": setup.host,
            "current_instance_type": INSTANCE,
            "current_group_name": GROUP,
            "hosts": sorted(setup.hosts),
            "instance_groups": [group],
            "network_interface_name": "eth0",
        }
        return {
            "hyperparameters": values,
            "inputdataconfig": setup.inputs or dict.fromkeys(channels, SERVICE_CHANNEL),
            "resourceconfig": setup.resources or resources,
        }

    def _processing_files(self, setup: Setup) -> dict[str, object]:
        job = self.job or OwnJob(arguments=PROCESSING_ARGUMENTS)
        image = {"ImageUri": self.image, "ContainerEntrypoint": job.entrypoint or None}
        return {
            "resourceconfig": {"current_host": setup.host, "hosts": sorted(setup.hosts)},
            "processingjobconfig": {
                "ProcessingJobName": PROCESSING_JOB,
                "Environment": dict(job.environment),
                "AppSpecification": image | {"ContainerArguments": job.arguments or None},
                "ProcessingInputs": [],
                "ProcessingOutputConfig": {"Outputs": []},
                "ProcessingResources": {
                    "ClusterConfig": {"InstanceCount": 1, "InstanceType": INSTANCE, "VolumeSizeInGB": 30}
                },
            },
        }


GROUP = "homogeneousCluster"
INSTANCE = "ml.m5.xlarge"
PROCESSING_JOB = "slipway-check"
SERVICE_CHANNEL = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
SECRET_HYPERPARAMETER = "d1e5" + "90ab3c7f2468e1d7c9b0"
SECRET_VARIABLE = "c0ffee" + "7b1e5d2a9f4c8e3b6a1d"
"""Values that no image can know, so that finding one in a log proves something."""
BASE_HYPERPARAMETERS = {"lr": "0.1", "epochs": "3", "optimizer": "adam", "db_password": SECRET_HYPERPARAMETER}
PROCESSING_ARGUMENTS = ("--name", "two words", "--text", 'a "quoted" $HOME; *', "--empty", "")
"""What a list must carry and a shell would not."""


def has_files(directory: Path) -> bool:
    """Tell whether anything but directories lies below."""
    return any(path.is_file() for path in directory.rglob("*"))


def _is_text(value: str) -> bool:
    """Whether SDK v2 would have had a string to encode, and not a number, a truth or a list."""
    try:
        json.loads(value)
    except ValueError:
        return True
    return False
