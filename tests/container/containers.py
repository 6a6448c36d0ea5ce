"""Real containers for the tests: started through the docker client, waited for, always removed."""

import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

IMAGE = "slipway-pytorch:cpu"
BASE = "/opt/ml"
PATIENCE_S = 400.0
"""How long a wait for something that should come within seconds may take on a busy machine."""

_numbers = itertools.count(1)


def docker(*words: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
    """Call the docker client; its exit code is the caller's to judge."""
    client = shutil.which("docker") or "docker"
    return subprocess.run([client, *words], capture_output=True, text=True, timeout=timeout_s, check=False)


def must(*words: str) -> str:
    """Call the docker client, which must work."""
    done = docker(*words)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr.strip()}"
    return done.stdout


def wait_until(happened: Callable[[], bool], what: str, deadline_s: float = PATIENCE_S) -> None:
    """Wait for a condition; name it when it does not come."""
    deadline = time.monotonic() + deadline_s
    while not happened():
        assert time.monotonic() < deadline, f"{what}: not within {deadline_s:g} s"
        time.sleep(0.05)


@dataclass(frozen=True)
class Tree:
    """The contract's files of one container, on this machine; mounted as /opt/ml."""

    base: Path

    @property
    def failure(self) -> str:
        """The failure file's text; empty without one."""
        path = self.base / "output" / "failure"
        return path.read_text() if path.exists() else ""

    @property
    def succeeded(self) -> bool:
        """Whether the success file is there."""
        return (self.base / "output" / "success").exists()

    @property
    def stopped(self) -> Mapping[str, object] | None:
        """The record of a clean stop."""
        path = self.base / "output" / "stopped"
        return json.loads(path.read_text()) if path.exists() else None

    def model(self, name: str) -> Path:
        """A file that the script leaves in the model directory."""
        return self.base / "model" / name


def make_tree(
    base: Path,
    script: str = "",
    *,
    host: str = "algo-1",
    hosts: Sequence[str] = ("algo-1",),
    hyperparameters: Mapping[str, str] | None = None,
    channels: Mapping[str, Path] | None = None,
) -> Tree:
    """Write what the service writes; the script travels as the channel ``code``."""
    config = base / "input" / "config"
    config.mkdir(parents=True)
    values = dict(hyperparameters or {})
    channel = {
        "TrainingInputMode": "File",
        "S3DistributionType": "FullyReplicated",
        "RecordWrapperType": "None",
    }
    inputs = dict.fromkeys(channels or {}, channel)
    if script:
        (base / "input" / "data" / "code").mkdir(parents=True)
        (base / "input" / "data" / "code" / "train.py").write_text(script)
        values["sagemaker_program"] = "train.py"
        inputs["code"] = channel
    for name, source in (channels or {}).items():
        shutil.copytree(source, base / "input" / "data" / name)
    resources = {"current_host": host, "hosts": list(hosts), "network_interface_name": "eth0"}
    (config / "hyperparameters.json").write_text(json.dumps(values))
    (config / "inputdataconfig.json").write_text(json.dumps(inputs))
    (config / "resourceconfig.json").write_text(json.dumps(resources))
    for path in (base, *base.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)  # whatever user the container runs as
    return Tree(base)


@dataclass(frozen=True)
class Container:
    """One container that was started."""

    name: str

    def logs(self) -> str:
        """Everything that it printed so far."""
        done = docker("logs", self.name)
        return done.stdout + done.stderr

    def running(self) -> bool:
        """Whether it still runs."""
        return must("inspect", "--format", "{{.State.Running}}", self.name).strip() == "true"

    def exit_code(self, deadline_s: float = PATIENCE_S) -> int:
        """Wait for its end."""
        try:
            done = docker("wait", self.name, timeout_s=deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {deadline_s:g} s:\n{self.logs()}") from None
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def wait_for(self, path: Path, deadline_s: float = PATIENCE_S) -> None:
        """Wait until the script has left a file; a container that ends before fails the test with its log."""

        def there() -> bool:
            if path.exists():
                return True
            assert self.running(), f"{self.name} ended before {path.name} was there:\n{self.logs()}"
            return False

        wait_until(there, f"{self.name}: {path.name}", deadline_s)

    def kill(self) -> None:
        """End it as a lost host ends: SIGKILL for every process."""
        must("kill", self.name)

    def stop(self, grace_s: int = 60) -> float:
        """Ask it to end as the platform does, and return the seconds that it took."""
        began = time.monotonic()
        must("stop", "--time", str(grace_s), self.name)
        return time.monotonic() - began


class Containers:
    """Makes containers and networks with names of their own, and removes what it made."""

    def __init__(self, image: str = IMAGE) -> None:
        self._image = image
        self._prefix = f"slipway-test-{os.getpid()}"
        self._containers: list[str] = []
        self._networks: list[str] = []
        self._trees: list[Tree] = []

    def run(
        self,
        *command: str,
        tree: Tree | None = None,
        host: str = "algo-1",
        network: str = "none",
        options: Sequence[str] = (),
    ) -> Container:
        """Start a container in the background.

        Args:
            command: what to run in the image; none: the image's own command.
            tree: mounted as /opt/ml.
            host: the name under which other containers of the network find it.
            network: ``none``, or one made by `network`.
            options: further options of ``docker run``.
        """
        name = f"{self._prefix}-{next(_numbers)}-{host}"
        words = ["run", "--detach", "--name", name, "--hostname", host, "--network", network]
        if network != "none":
            words += ["--network-alias", host]
        if tree is not None:
            words += ["--volume", f"{tree.base}:{BASE}"]
            self._trees.append(tree)
        self._containers.append(name)
        must(*words, *options, self._image, *command)
        return Container(name)

    def network(self) -> str:
        """Make a private network without a way out."""
        name = f"{self._prefix}-{next(_numbers)}"
        must("network", "create", "--internal", name)
        self._networks.append(name)
        return name

    def close(self) -> None:
        """Remove everything; files that root wrote in a container become the test user's again."""
        for name in self._containers:
            docker("rm", "--force", "--volumes", name)
        for name in self._networks:
            docker("network", "rm", name)
        if os.getuid() != 0:
            for tree in self._trees:
                owner = f"{os.getuid()}:{os.getgid()}"
                docker("run", "--rm", "--volume", f"{tree.base}:{BASE}", self._image, "chown", "-R", owner, BASE)
