"""What a job leaves: archives merged over the hosts, profiler files, records of rank 0, metrics."""

import contextlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from runtime.base.errors import FAILURE_REASON_CHARS
from runtime.base.log import Log
from runtime.contract.paths import Paths
from runtime.local.links import Rooms, files_in

log = Log("local")

NOT_METRICS = frozenset({"t", "step", "epoch"})
COMPRESSION = 1
"""Of gzip: weights hardly shrink, and a laptop should not wait for it."""


def merged(directories: Sequence[Path], rooms: Sequence[Rooms | None] = ()) -> dict[str, Path]:
    """List the files of the same directory of every host: relative name to path; a later host wins.

    Args:
        directories: in natural order of the hosts.
        rooms: of each host, see `follow`; empty for hosts whose links mean what they mean here.
    """
    found: dict[str, Path] = {}
    for directory, room in zip(directories, rooms or [None] * len(directories), strict=True):
        left_out: list[str] = []
        for name, place in files_in(directory, room):
            if place is None:
                left_out.append(name)
            else:
                found[name] = place
        if left_out:
            shown = ", ".join(left_out[:3]) + (" …" if len(left_out) > 3 else "")
            log.warning(
                f"{len(left_out)} names in {directory} are left out ({shown}): links to what is not in the host's own "
                "directories, circles, or no files"
            )
    return found


def pack(directories: Sequence[Path], archive: Path, rooms: Sequence[Rooms | None] = ()) -> bool:
    """Pack the same directory of every host into one archive; a later host overwrites the same name.

    Args:
        directories: in natural order of the hosts.
        archive: ``.tar.gz``, written under a temporary name first.
        rooms: see `merged`.

    Returns:
        False when there was no file, and so no archive.
    """
    members = merged(directories, rooms)
    if not members:
        return False
    partial = archive.with_name(f".{archive.name}.partial")
    try:
        with tarfile.open(partial, "w:gz", compresslevel=COMPRESSION, dereference=True) as tar:
            for name in sorted(members):
                tar.add(members[name], name, recursive=False)
    except BaseException:
        partial.unlink(missing_ok=True)  # on a full disk, job.json needs its room
        raise
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
        shutil.copytree(Path(paths.profiler), target, symlinks=True, dirs_exist_ok=True)
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


def is_plain(path: str) -> bool:
    """Tell whether a container left a file there: a link of its own means nothing here, and a FIFO has no end."""
    return os.path.isfile(path) and not os.path.islink(path)


def failure_reason(hosts: Sequence[tuple[str, Paths, int]]) -> str | None:
    """Return the reason of the first host that gives one.

    Args:
        hosts: name, tree and exit code, in natural order.
    """
    for _, paths, _ in hosts:
        if not is_plain(paths.failure):
            continue
        with contextlib.suppress(OSError):
            text = Path(paths.failure).read_text(encoding="utf-8", errors="replace")[:FAILURE_REASON_CHARS]
            if text.strip():
                return text
    for name, _, code in hosts:
        if code:
            return f"{name} ended with exit code {code} and left no failure file"
    return None
