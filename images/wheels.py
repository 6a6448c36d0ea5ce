"""Wheels on the host: the locked ones by `pip download`, ours by `pip wheel`. The build needs no network.

pip is used as the user has configured it (pip.conf, PIP_*): mirrors, extra indexes, certificates.
"""

import hashlib
import platform
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from images.catalog import BuildTools, Flavour
from images.quiet import run_step

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
_MARKER = ".complete"


def platforms(glibc_minor: int, machine: str) -> list[str]:
    """List the platform tags that run on the base, newest first.

    >>> platforms(18, "x86_64")
    ['manylinux_2_18_x86_64', 'manylinux_2_17_x86_64', 'manylinux2014_x86_64']
    """
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc_minor, 16, -1)]
    return [*tags, f"manylinux2014_{machine}"]


def download_command(flavour: Flavour, tools: BuildTools, target: Path, machine: str) -> list[str]:
    """Return the pip call that fetches exactly the lock, for the base's Python and not for the host's."""
    version = tools.python.replace(".", "")
    words = ["--python-version", tools.python, "--implementation", "cp"]
    for abi in (f"cp{version}", "abi3", "none"):
        words += ["--abi", abi]
    for tag in platforms(tools.glibc_minor, machine):
        words += ["--platform", tag]
    wanted = ["-r", str(flavour.lock), f"pip=={tools.pip}"]
    return [*_PIP, "download", "--no-deps", "--only-binary=:all:", "--dest", str(target), *words, *wanted]


def ensure_wheelhouse(flavour: Flavour, tools: BuildTools, cache: Path, log_dir: Path) -> tuple[Path, bool]:
    """Download the locked wheels unless they are here.

    Returns:
        Their directory, and whether they were downloaded now.

    Raises:
        StepFailed: pip does not find one of them.
    """
    house = cache / "wheelhouse" / flavour.name
    machine = platform.machine()
    inputs = f"{flavour.lock.read_text(encoding='utf-8')}\n{tools}\n{machine}"
    key = hashlib.sha256(inputs.encode()).hexdigest()
    marker = house / _MARKER
    if marker.is_file() and marker.read_text(encoding="utf-8") == key:
        return house, False
    house.parent.mkdir(parents=True, exist_ok=True)
    # Downloaded beside it and moved at the end: an interrupted download never looks like a complete one.
    with tempfile.TemporaryDirectory(prefix=f"{flavour.name}-", dir=house.parent) as scratch:
        fresh = Path(scratch) / "wheels"
        run_step(
            f"downloading the wheels of {flavour.lock.name}",
            download_command(flavour, tools, fresh, machine),
            log_dir / f"wheels-{flavour.name}.log",
            fix="give pip an index that has them, such as PIP_EXTRA_INDEX_URL; CPU builds of torch have"
            " one of their own, see docs/06-images.md",
        )
        (fresh / _MARKER).write_text(key, encoding="utf-8")
        shutil.rmtree(house, ignore_errors=True)
        fresh.rename(house)
    return house, True


def build_requirements(checkout: Path) -> list[str]:
    """Read what pyproject.toml wants for building our wheel."""
    table = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    return list(table["build-system"]["requires"])


def build_own(checkout: Path, target: Path, cache: Path, log_dir: Path) -> None:
    """Build our wheel into an empty directory.

    The build backend is installed once and kept: pip's isolation would fetch it at every build.

    Raises:
        StepFailed: the backend cannot be had, or the checkout does not build.
    """
    requires = build_requirements(checkout)
    backend = _ensure_backend(requires, cache, log_dir)
    words = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(checkout)]
    run_step("building our wheel", [*_PIP, *words], log_dir / "own.log", environ={"PYTHONPATH": str(backend)})


def _ensure_backend(requires: Sequence[str], cache: Path, log_dir: Path) -> Path:
    key = hashlib.sha256("\n".join([*requires, platform.python_version()]).encode()).hexdigest()[:16]
    backend = cache / "backend" / key
    if not backend.is_dir():
        backend.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=backend.parent) as scratch:
            fresh = Path(scratch) / "packages"
            words = ["install", "--no-compile", "--target", str(fresh), *requires]
            run_step("installing the build backend", [*_PIP, *words], log_dir / "backend.log")
            fresh.rename(backend)
    return backend
