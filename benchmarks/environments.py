"""Python environments of a benchmark's arms: ours as an image holds it, and those of the peers.

All are made from one interpreter, Debian's where it is there, because that is what the images have. Ours is made anew
for every run, from the wheel of this checkout; the peers are kept, since one of them compiles for minutes.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from images import wheels
from images.quiet import StepFailed, run_step

CHECKOUT = Path(__file__).parents[1]
CACHE = CHECKOUT / ".cache"
DEBIAN = Path("/usr/bin/python3")
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


@dataclass(frozen=True)
class Environment:
    """One virtual environment."""

    home: Path

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.home / "bin" / "python")

    def command(self, name: str) -> str:
        """Return one of its executables."""
        return str(self.home / "bin" / name)

    def version(self, distribution: str) -> str:
        """Return the version of a distribution in it; empty when it is not there."""
        words = [self.python, "-c", f"import importlib.metadata as m; print(m.version({distribution!r}))"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""


def debian_python() -> bool:
    """Tell whether `interpreter` is Debian's Python 3.11, which the images have."""
    return interpreter() == str(DEBIAN) and Path("/etc/debian_version").exists() and _version(DEBIAN) == (3, 11)


def interpreter() -> str:
    """Return the interpreter of all arms: the system's where Slipway runs on it, else the one that runs this."""
    if DEBIAN.exists() and _version(DEBIAN) >= (3, 11):
        return str(DEBIAN)
    return str(getattr(sys, "_base_executable", sys.executable))


def interpreter_name() -> str:
    """Name the interpreter for a note, such as ``Debian's Python 3.11.2``."""
    done = subprocess.run([interpreter(), "--version"], capture_output=True, text=True, check=True)
    return f"{'Debian' if debian_python() else interpreter()}'s {done.stdout.strip()}"


def _version(python: Path) -> tuple[int, ...]:
    done = subprocess.run([str(python), "--version"], capture_output=True, text=True, check=False)
    return tuple(int(part) for part in re.findall(r"\d+", done.stdout)[:2])


def bare(home: Path) -> Environment:
    """Make an environment that holds nothing, without pip as in the images."""
    subprocess.run([interpreter(), "-m", "venv", "--without-pip", str(home)], check=True)
    return Environment(home)


def ours(home: Path) -> Environment:
    """Make an environment with the wheel of this checkout, its byte code and its `train` as in an image.

    Args:
        home: an empty or missing directory.

    Raises:
        StepFailed: the wheel cannot be built.
    """
    environment = bare(home)
    house = home / "wheels"
    house.mkdir()
    wheels.build_own(CHECKOUT, house, CACHE, CACHE / "logs")
    words = ["install", "--quiet", "--no-deps", "--no-compile", "--no-index", *map(str, house.glob("*.whl"))]
    _pip(environment, words, "installing our wheel")
    # As our images do, see images/Dockerfile: without the user's PYTHON* variables and without `site`.
    train = home / "bin" / "train"
    _, _, rest = train.read_text(encoding="utf-8").partition("\n")
    train.write_text(f"#!{environment.python} -IS\n{rest}", encoding="utf-8")
    words = [environment.python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(home / "lib")]
    subprocess.run(words, check=True, env={**os.environ, "PYTHONHASHSEED": "0"})
    return environment


def peer(name: str, installs: Sequence[Sequence[str]]) -> tuple[Environment | None, str]:
    """Return the environment of a peer, made on first use and kept.

    Args:
        name: of its directory.
        installs: what is installed, in this order.

    Returns:
        None and the reason where it cannot be had.
    """
    home = CACHE / "bench" / name
    home.parent.mkdir(parents=True, exist_ok=True)
    key = f"{interpreter_name()} {installs}"
    with (home.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = home / "ready"
        if ready.is_file() and ready.read_text(encoding="utf-8") == key:
            return Environment(home), ""
        shutil.rmtree(home, ignore_errors=True)
        try:
            environment = bare(home)
            for requirements in installs:
                _pip(environment, ["install", "--quiet", *requirements], f"installing {' '.join(requirements)}")
        except (StepFailed, OSError, subprocess.CalledProcessError) as error:
            return None, f"{error} (it needs a package index, gcc and the headers of Python)"
        ready.write_text(key, encoding="utf-8")
    return environment, ""


def _pip(environment: Environment, words: Sequence[str], what: str) -> None:
    run_step(what, [*_PIP, "--python", environment.python, *words], CACHE / "logs" / "bench.log")


def clean_environ(environment: Environment, more: Mapping[str, str]) -> dict[str, str]:
    """Return what a container would have around it: PATH and what is given, nothing of ours."""
    return {"PATH": f"{environment.home}/bin:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **more}
