"""What a folder of checkpoints holds: which are complete, and why the others are not; by manifests and sizes alone."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from runtime.base.errors import UserError
from runtime.checkpoint.layout import MANIFEST, checkpoint_step, directories, read_manifest


@dataclass(frozen=True)
class Listed:
    """One checkpoint, or what is left of one."""

    name: str
    step: int
    num_bytes: int
    """On disk."""
    written: float
    """Unix seconds of its last change."""
    complete: bool
    why: str
    """What is wrong with it; empty when nothing is."""
    world_size: int = 0
    job: str = ""
    runtime: str = ""


def list_checkpoints(root: Path) -> list[Listed]:
    """List checkpoints, the highest step first.

    Contents are not read: that takes as long as a resume, which checks every digest.

    Args:
        root: a folder of checkpoints, or one checkpoint.
    """
    if (root / MANIFEST).is_file():
        return [_one(root)]
    found = [_one(root / name) for name in directories(root)]
    return sorted(found, key=lambda one: (one.step, one.written), reverse=True)


def _one(directory: Path) -> Listed:
    sizes: dict[str, int] = {}
    written = 0.0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                status = entry.stat()
                sizes[entry.name] = status.st_size
                written = max(written, status.st_mtime)
    except OSError as error:
        return Listed(directory.name, checkpoint_step(directory.name), 0, 0.0, False, f"unreadable: {error.strerror}")
    total = sum(sizes.values())
    step = checkpoint_step(directory.name)
    try:
        manifest = read_manifest(directory)
    except UserError as error:
        return Listed(directory.name, step, total, written, False, str(error).partition(". ")[0])
    if manifest is None:
        age = max(0.0, time.time() - written)
        why = (
            f"{MANIFEST} is unreadable"
            if MANIFEST in sizes
            else f"no {MANIFEST}: being written, or cut {age:.0f} s ago"
        )
        return Listed(directory.name, step, total, written, False, why)
    faults = [
        f"{file.name} is missing"
        if file.name not in sizes
        else f"{file.name} has {sizes[file.name]} bytes instead of {file.num_bytes}"
        for file in manifest.files
        if sizes.get(file.name) != file.num_bytes
    ]
    return Listed(
        directory.name,
        manifest.step,
        total,
        written,
        not faults,
        "; ".join(faults[:3]),
        manifest.world_size,
        manifest.job,
        manifest.runtime,
    )
