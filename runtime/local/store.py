"""Where checkpoints outlive the containers: plays the service's sync between ``/opt/ml/checkpoints`` and S3.

Before a start every host gets all files; after an end what each host added, changed or removed is taken over.
A checkpoint counts as complete by its MANIFEST.json, so that this file is written last and removed first.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "MANIFEST.json"
"""Commit mark of a checkpoint's directory, see `runtime.checkpoint`."""
PARTIAL_SUFFIXES = (".tmp", ".sagemaker-uploading", ".sagemaker-uploaded", ".sagemaker-ignore")
"""Names that are no content: half-written files, and the markers of the service's agent."""

Snapshot = Mapping[str, tuple[int, int]]
"""Relative path to size in bytes and time of change in ns."""


def is_content(relative: Path) -> bool:
    """Tell whether a file belongs to the checkpoints: no temporary name, no dot-directory above it."""
    return not relative.name.endswith(PARTIAL_SUFFIXES) and not any(
        part.startswith(".") for part in relative.parts[:-1]
    )


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    """List the content of a directory; files that vanish meanwhile are left out."""
    found: dict[str, tuple[int, int]] = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            path = Path(parent) / name
            relative = path.relative_to(directory)
            try:
                status = path.stat()
            except OSError:
                continue
            if is_content(relative):
                found[relative.as_posix()] = (status.st_size, status.st_mtime_ns)
    return found


@dataclass(frozen=True)
class Merge:
    """What one merge changed in the store."""

    written: int = 0
    """Files."""
    removed: int = 0
    """Files."""


class CheckpointStore:
    """One directory on this machine in the part of ``CheckpointConfig.S3Uri``."""

    def __init__(self, directory: Path) -> None:
        """Name the directory; it is made when it is needed."""
        self.directory = directory

    def restore(self, target: Path) -> Snapshot:
        """Copy everything to one host, before it starts.

        Returns:
            What the host begins with, for `merge`.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        for name in commit_order(snapshot(self.directory)):
            _copy(self.directory / name, target / name)
        return snapshot(target)

    def adopt(self, target: Path) -> Merge:
        """Take over what a host left whose run was cut off, so that nobody merged it; nothing is removed."""
        here = snapshot(self.directory)
        found = snapshot(target)
        changed = commit_order([name for name in found if here.get(name) != found[name]])
        for name in changed:
            _copy(target / name, self.directory / name)
        return Merge(len(changed))

    def merge(self, target: Path, before: Snapshot) -> Merge:
        """Take over what one host did, after its end; a later host wins where two changed the same file.

        Args:
            target: the host's directory.
            before: what it began with: a file that it never touched must not undo the work of another host.
        """
        after = snapshot(target)
        changed = [name for name in after if before.get(name) != after[name]]
        for name in commit_order(changed):
            _copy(target / name, self.directory / name)
        gone = [name for name in before if name not in after]
        for name in reversed(commit_order(gone)):
            # The service mirrors removals too: what retention deleted must not come back.
            (self.directory / name).unlink(missing_ok=True)
        for name in gone:
            _remove_empty(self.directory / Path(name).parent, self.directory)
        return Merge(len(changed), len(gone))


def commit_order(names: Mapping[str, object] | list[str]) -> list[str]:
    """Order files so that a manifest comes after all other files.

    >>> commit_order(["step-1/MANIFEST.json", "step-1/b", "a"])
    ['a', 'step-1/b', 'step-1/MANIFEST.json']
    """
    return sorted(names, key=lambda name: (name.rpartition("/")[2] == MANIFEST, name))


def _copy(source: Path, target: Path) -> None:
    """Copy through a temporary name, so that a reader never meets half a file under the final one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.tmp")
    shutil.copy2(source, partial)
    partial.replace(target)


def _remove_empty(directory: Path, root: Path) -> None:
    while directory != root and directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
        directory = directory.parent
