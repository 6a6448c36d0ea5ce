"""Where the trees of all attempts of a run lie, and what becomes of them at its end."""

import shutil
import tempfile
from pathlib import Path

from runtime.local.request import JobSpec

LONGEST_BASE = 80
"""Characters of a host's root: a socket that a program makes below it must stay within the kernel's 107."""


class WorkTrees:
    """A directory with a tree for each host of each attempt."""

    def __init__(self, spec: JobSpec, output: Path) -> None:
        """Choose the place: in the output directory, or in a temporary one where paths would become too long there."""
        self._home = output / ".work"
        longest = len(str(_base(self._home, 99, spec.hosts[-1])))
        self.directory = Path(tempfile.mkdtemp(prefix="slipway-")) if longest > LONGEST_BASE else self._home

    def base(self, attempt: int, host: str) -> Path:
        """Return the root of a host's tree; attempts count from 1."""
        return _base(self.directory, attempt, host)

    def drop(self, attempt: int) -> None:
        """Remove the trees of an attempt; no error when there are none."""
        shutil.rmtree(self.directory / f"attempt-{attempt}", ignore_errors=True)

    def bring_home(self) -> Path:
        """Let the trees lie in the output directory: nothing runs in them now, their length is no matter."""
        if self.directory != self._home and self.directory.exists():
            self.directory = Path(shutil.move(self.directory, self._home))
        return self.directory

    def remove(self) -> None:
        """Remove all trees."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _base(directory: Path, attempt: int, host: str) -> Path:
    return directory / f"attempt-{attempt}" / host
