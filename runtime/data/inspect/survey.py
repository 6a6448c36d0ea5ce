"""The files of a tree: how many and how large, within a bound of time."""

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

SAMPLE_FILES = 4096
"""Paths that are kept to be looked into; a stride doubles when there are more, so that they stay spread."""


@dataclass(frozen=True)
class Sizes:
    """Of files or samples, in bytes."""

    count: int
    total: int
    median: float
    p95: float
    largest: int

    @classmethod
    def of(cls, sizes: npt.NDArray[np.integer]) -> "Sizes":
        """Summarise; all zero for none."""
        if not sizes.size:
            return cls(0, 0, 0.0, 0.0, 0)
        median, p95 = np.percentile(sizes, (50, 95)).tolist()
        return cls(int(sizes.size), int(sizes.sum(dtype=np.int64)), median, p95, int(sizes.max()))


@dataclass(frozen=True)
class Survey:
    """What lies below a directory."""

    root: Path
    files: Sizes
    directories: int
    suffixes: dict[str, int] = field(default_factory=dict[str, int])
    some: tuple[Path, ...] = ()
    """Up to `SAMPLE_FILES` files, spread over the order in which they were met."""
    complete: bool = True
    """False: the bound of time ended the walk, and there is more."""
    unreadable: str = ""
    """The first directory that could not be listed."""


def survey(root: Path, seconds: float) -> Survey:
    """Walk a tree, hidden files left out.

    Args:
        root: a directory, or one file.
        seconds: bound of the walk.
    """
    if root.is_file():
        return Survey(root, Sizes.of(np.array([root.stat().st_size])), 0, {root.suffix.lower(): 1}, (root,))
    deadline = time.monotonic() + seconds
    sizes: list[int] = []
    suffixes: Counter[str] = Counter()
    kept: list[str] = []
    stride, met, directories, unreadable = 1, 0, 0, ""
    waiting = [str(root)]
    complete = True
    while waiting and complete:
        here = waiting.pop()
        directories += 1
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=True):
                        waiting.append(entry.path)
                        continue
                    sizes.append(_size(entry))
                    suffixes[os.path.splitext(entry.name)[1].lower()] += 1
                    if met % stride == 0:
                        kept.append(entry.path)
                        if len(kept) >= SAMPLE_FILES:
                            kept, stride = kept[::2], stride * 2
                    met += 1
                    if met % 4096 == 0 and time.monotonic() > deadline:
                        complete = False
                        break
        except OSError as error:
            unreadable = unreadable or f"{here}: {error.strerror}"
        complete = complete and (not waiting or time.monotonic() <= deadline)
    return Survey(
        root,
        Sizes.of(np.array(sizes, dtype=np.int64)),
        directories,
        dict(suffixes.most_common(12)),
        tuple(map(Path, sorted(kept))),
        complete,
        unreadable,
    )


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere
        return 0
