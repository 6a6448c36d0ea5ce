"""What a job leaves: archives merged over the hosts, profiler files, records of rank 0, metrics."""

import contextlib
import json
import shutil
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from runtime.base.errors import FAILURE_REASON_CHARS
from runtime.contract.paths import Paths

NOT_METRICS = frozenset({"t", "step", "epoch"})
COMPRESSION = 1
"""Of gzip: weights hardly shrink, and a laptop should not wait for it."""


def merged(directories: Sequence[Path]) -> dict[str, Path]:
    """List the files of the same directory of every host: relative name to path; a later host wins."""
    return {
        path.relative_to(directory).as_posix(): path
        for directory in directories
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def pack(directories: Sequence[Path], archive: Path) -> bool:
    """Pack the same directory of every host into one archive; a later host overwrites the same name.

    Args:
        directories: in natural order of the hosts.
        archive: ``.tar.gz``, written under a temporary name first.

    Returns:
        False when there was no file, and so no archive.
    """
    members = merged(directories)
    if not members:
        return False
    partial = archive.with_name(f".{archive.name}.partial")
    with tarfile.open(partial, "w:gz", compresslevel=COMPRESSION, dereference=True) as tar:
        for name in sorted(members):
            tar.add(members[name], name, recursive=False)
    partial.replace(archive)
    return True


def pack_source(source: Path, archive: Path, leave_out: Iterable[Path]) -> None:
    """Pack the user's code as the SDK does before it uploads it.

    Args:
        source: a directory, or one file.
        archive: ``sourcedir.tar.gz``.
        leave_out: directories that are none of the code, such as the output of this very run.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    skipped = {path.resolve() for path in leave_out}
    with tarfile.open(archive, "w:gz", compresslevel=COMPRESSION, dereference=True) as tar:
        if source.is_file():
            tar.add(source, source.name)
            return

        def add(directory: Path, inside: str) -> None:
            for path in sorted(directory.iterdir()):
                if path.name in {".git", "__pycache__", ".venv"} or path.resolve() in skipped:
                    continue
                if path.is_dir():
                    add(path, f"{inside}{path.name}/")
                elif path.is_file():
                    tar.add(path, f"{inside}{path.name}")

        add(source, "")


def put(source: Path, target: Path) -> None:
    """Copy one file, so that a reader of the target never meets half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)


def collect_profiler(paths: Paths, target: Path) -> None:
    """Move what was measured on one host out of its tree, with the metrics of its ranks."""
    if Path(paths.profiler).is_dir():
        shutil.copytree(Path(paths.profiler), target, dirs_exist_ok=True)
    metrics = Path(paths.state) / "metrics.jsonl"
    if metrics.is_file():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(metrics, target / "metrics.jsonl")


def read_record(paths: Paths, name: str) -> Mapping[str, Any] | None:
    """Read a JSON object that a rank left, such as ``resumed.json``; None when none can be read."""
    try:
        value: object = json.loads((Path(paths.state) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return cast(Mapping[str, Any], value) if isinstance(value, dict) else None


def last_metrics(paths: Paths) -> dict[str, float]:
    """Return the last value of every metric that rank 0 wrote; a line that was cut by a kill is skipped."""
    try:
        lines = (Path(paths.state) / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found: dict[str, float] = {}
    for line in lines:
        with contextlib.suppress(ValueError):
            value: object = json.loads(line)
            if isinstance(value, dict):
                found |= _numbers(cast(Mapping[str, object], value))
    return found


def _numbers(line: Mapping[str, object]) -> dict[str, float]:
    return {
        name: value
        for name, value in line.items()
        if name not in NOT_METRICS and isinstance(value, int | float) and not isinstance(value, bool)
    }


def failure_reason(hosts: Sequence[tuple[str, Paths, int]]) -> str | None:
    """Return the reason of the first host that gives one.

    Args:
        hosts: name, tree and exit code, in natural order.
    """
    for _, paths, _ in hosts:
        with contextlib.suppress(OSError):
            text = Path(paths.failure).read_text(encoding="utf-8", errors="replace")[:FAILURE_REASON_CHARS]
            if text.strip():
                return text
    for name, _, code in hosts:
        if code:
            return f"{name} ended with exit code {code} and left no failure file"
    return None
