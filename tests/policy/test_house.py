"""Rules of the house that no linter knows."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def test_layers() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_module_says_why_it_exists() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "runtime").rglob("*.py"))
        if path.stat().st_size
        and not path.read_text(encoding="utf-8").lstrip("# \n").startswith(('"""', 'r"""'))
        and '"""' not in path.read_text(encoding="utf-8")[:400]
    ]
    assert silent == []


def test_no_wait_is_a_guess() -> None:
    """A sleep in the runtime needs a condition around it: the name service thread and pollers alone may."""
    allowed = {"runtime/launch/peers.py", "runtime/launch/remote.py"}
    sleeping = {
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "runtime").rglob("*.py"))
        if {"local", "testing", "profile", "programs"}.isdisjoint(path.parts)
        and re.search(r"time\.sleep\(", path.read_text(encoding="utf-8"))
    }
    assert sleeping <= allowed


def test_the_wheel_holds_the_workloads_and_the_type_marker(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("slipway-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "runtime/py.typed",
        "runtime/launch/launcher.py",
        "runtime/_entrypoints/image_classification/train.py",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "examples/"))]
    entry_points = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("entry_points.txt")))
    assert all(word in entry_points.decode() for word in ("process =", "slipway ="))
    assert any(name.endswith(".data/scripts/train") for name in names)
    assert "slipway-stacks.pth" in names


def test_no_secret_and_no_binary_is_committed() -> None:
    big = [str(path) for path in _tracked() if path.stat().st_size > 500_000]
    assert big == []
    keys = re.compile(rb"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY")
    assert [str(path) for path in _tracked() if path.suffix != ".png" and keys.search(path.read_bytes())] == []


def test_the_tests_with_several_ranks_are_collected() -> None:
    """Without our setting pytest leaves out folders called "dist" by its own default."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "dist"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "tests/dist/test_exact_resume.py::test_interrupted_mid_epoch_by_step[KILL]" in done.stdout
