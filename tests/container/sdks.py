"""Unmodified SageMaker SDKs, each installed once in an environment of its own, and driven by small programs.

They cannot live in ours: the two cannot even live together.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

REQUIREMENTS = {2: ["sagemaker==2.257.7"], 3: ["sagemaker-train==1.27.0", "sagemaker-core==2.27.0"]}
CLIENTS = Path(__file__).parent / "clients"
HOME = Path(__file__).parents[2] / ".cache"
INSTALL_S = 1800
"""They bring hundreds of megabytes; a bound for a dead index, not a measure."""
CONFIG = """\
SchemaVersion: '1.0'
SageMaker:
  PythonSDK:
    Modules:
      TelemetryOptOut: true
"""


@cache
def find_sdk(version: int) -> tuple[Path | None, str]:
    """Return the Python of an SDK, installing it on first use; None and the reason where it cannot be had."""
    home = HOME / f"sdk-{'-'.join(REQUIREMENTS[version])}"
    python = home / "bin" / "python"
    HOME.mkdir(exist_ok=True)
    with (HOME / f"sdk-{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (home / "ready").is_file():
            return python, ""
        shutil.rmtree(home, ignore_errors=True)
        steps = (
            [sys.executable, "-m", "venv", str(home)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS[version]],
        )
        for step in steps:
            try:
                done = subprocess.run(step, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            except subprocess.TimeoutExpired:
                return None, f"SDK v{version} could not be installed within {INSTALL_S} s"
            if done.returncode:
                told = [line for line in done.stderr.splitlines() if "rror" in line]
                return None, f"SDK v{version} cannot be installed: {told[-1].strip() if told else done.returncode}"
        (home / "ready").touch()
    return python, ""


def real_compose() -> tuple[Path | None, str]:
    """Find the directory of a real docker-compose 1, as the SDKs take it where there is no plugin of version 2."""
    client = shutil.which("docker-compose")
    if client is None:
        return None, "no docker-compose here. Fix: apt-get install docker-compose"
    told = subprocess.run([client, "version", "--short"], capture_output=True, text=True, check=False).stdout.strip()
    return (Path(client).parent, "") if told.startswith("1.") else (None, f"docker-compose is {told}, not 1.x")


def real_plugin() -> tuple[Path | None, str]:
    """Find the directory of a docker command whose plugin is compose 2, which SDK v2 takes before all others."""
    client = shutil.which("docker")
    told = ""
    if client is not None:
        done = subprocess.run([client, "compose", "version"], capture_output=True, text=True, check=False)
        told = done.stdout.strip()
    if client is None or "v2" not in told:
        return (
            None,
            f"`docker compose version` says {told or 'nothing'!r}, not v2: Debian 12 has no package of the plugin",
        )
    return Path(client).parent, ""


def stand_in(cache: Path) -> Path:
    """Directory of our `docker-compose`."""
    command = [sys.executable, "-m", "runtime", "compose", "--path"]
    environ = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, cwd=HOME.parent, capture_output=True, text=True, check=True, env=environ)
    return Path(done.stdout.strip())


def environ_of(place: Path, path: Path, **more: str) -> dict[str, str]:
    """Compose the environment of a client: no account, no telemetry, our stand-in first on PATH."""
    config = place / "sdk.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    return {
        "PATH": f"{path}:{os.environ['PATH']}",
        "HOME": str(place),
        "LANG": "C.UTF-8",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(config),
        "SAGEMAKER_ADMIN_CONFIG_OVERRIDE": str(config),
        "PYTHONWARNINGS": "ignore",
        **more,
    }


@dataclass(frozen=True)
class Fit:
    """What came of one job."""

    text: str
    """What the client printed while it ran."""
    raised: str
    """``Type: message``; empty when the SDK was content."""
    model: str
    """Where the SDK says that the model is; after a failure, where it would be."""
    root: Path
    """Its ``container_root``."""

    def seen(self, rank: int = 0) -> Any:
        """What the program of the tests told of itself."""
        mark = f"SEEN{rank} "
        line = next((line for line in self.text.splitlines() if mark in line), None)
        assert line is not None, self.text
        return json.JSONDecoder().raw_decode(line.partition(mark)[2])[0]

    def members(self, name: str = "model.tar.gz") -> set[str]:
        """Files of an archive that the SDK made."""
        with tarfile.open(Path(self.model.removeprefix("file://")).with_name(name)) as tar:
            return {member.name.removeprefix("./") for member in tar if member.isfile()}

    def failure(self) -> str:
        """Text of the failure file, as the SDK collected it."""
        with tarfile.open(Path(self.model.removeprefix("file://")).with_name("output.tar.gz")) as tar:
            held = next(member for member in tar if member.name.removeprefix("./") == "failure")
            file = tar.extractfile(held)
            assert file is not None
            return file.read().decode()

    @property
    def record(self) -> Any:
        """job.json, where the stand-in ran it."""
        (path,) = self.root.rglob("slipway/*/job.json")
        return json.loads(path.read_text())


class Client:
    """One SDK, on a real docker-compose or on our stand-in."""

    def __init__(self, version: int, python: Path, place: Path, path: Path) -> None:
        """Nothing is started.

        Args:
            version: of the SDK, 2 or 3.
            python: of its environment.
            place: a directory of the test's.
            path: directory of the ``docker-compose`` to use.
        """
        self.version, self.place = version, place
        self._python, self._path = python, path

    def words(self, jobs: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Command line that runs these jobs one after the other."""
        return [str(self._python), str(CLIENTS / f"v{self.version}.py"), json.dumps(jobs)]

    def environ(self, **more: str) -> dict[str, str]:
        """Environment of that command."""
        return environ_of(self.place, self._path, **more)

    def run(self, jobs: Mapping[str, Mapping[str, Any]], **environ: str) -> dict[str, Fit]:
        """Run jobs one after the other in one process: importing an SDK takes longer than most of them.

        Args:
            jobs: by name; what they leave out is a generic job of one host without anything, its root is named for it.
            environ: beside the usual one.
        """
        whole = {name: {**self.usual(name), **job} for name, job in jobs.items()}
        done = subprocess.run(
            self.words(whole),
            cwd=self.place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1400,
            check=False,
            env=self.environ(**environ),
        )
        assert done.returncode == 0, done.stdout
        ends = json.loads(done.stdout.strip().splitlines()[-1])
        fits: dict[str, Fit] = {}
        for name, job in whole.items():
            text = done.stdout.partition(f"=== {name}\n")[2].partition("\n=== ")[0]
            root = Path(job["root"])
            fits[name] = Fit(text, ends[name]["raised"], ends[name].get("model") or str(self._model(root)), root)
        return fits

    def usual(self, name: str) -> dict[str, Any]:
        """What a job is that says nothing; makes its root."""
        root = self.place / name
        root.mkdir(exist_ok=True)
        assert not self._model(root).exists(), f"job {name} was run before"
        usual: dict[str, Any] = {"kind": "generic", "hosts": 1, "root": str(root), "source": "", "environment": {}}
        return {**usual, "hyperparameters": {}, "channels": {}}

    def _model(self, root: Path) -> Path:
        return root / ("out" if self.version == 2 else "compressed_artifacts") / "model.tar.gz"

    def down(self, compose: str) -> None:
        """Remove what the SDKs leave behind under a real compose: stopped containers, and the network.

        Args:
            compose: ``compose`` for docker-compose 1, ``plugin`` for compose 2.
        """
        for path in self.place.rglob("docker-compose.yaml"):
            words = [str(self._path / "docker-compose")] if compose == "compose" else ["docker", "compose"]
            subprocess.run([*words, "-f", str(path), "down"], capture_output=True, check=False, timeout=600)
