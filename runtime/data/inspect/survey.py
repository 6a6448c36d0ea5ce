"""The files of a tree: how many and how large, within a bound of time."""

import os
import time
from collections import Counter
from collections.abc import Iterable
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
    walk = _Walk(root, time.monotonic() + seconds)
    complete = walk.go()
    return Survey(
        root,
        Sizes.of(np.array(walk.sizes, dtype=np.int64)),
        walk.directories,
        dict(walk.suffixes.most_common(12)),
        tuple(map(Path, sorted(walk.kept))),
        complete,
        walk.unreadable,
    )


class _Walk:
    def __init__(self, root: Path, deadline: float) -> None:
        self._deadline = deadline
        self._waiting = [str(root)]
        self._trees = [os.path.realpath(root)]
        self._stride = 1
        self.sizes: list[int] = []
        self.suffixes: Counter[str] = Counter()
        self.kept: list[str] = []
        self.directories = 0
        self.unreadable = ""

    def go(self) -> bool:
        """Walk; return whether all was seen in time."""
        while self._waiting:
            if self.directories and time.monotonic() > self._deadline:
                return False
            here = self._waiting.pop()
            self.directories += 1
            try:
                with os.scandir(here) as entries:
                    if not self._take(entries):
                        return False
            except OSError as error:
                self.unreadable = self.unreadable or f"{here}: {error.strerror}"
        return True

    def _take(self, entries: Iterable["os.DirEntry[str]"]) -> bool:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=True):
                if not entry.is_symlink() or _is_new(entry.path, self._trees):
                    self._waiting.append(entry.path)
                continue
            if len(self.sizes) % self._stride == 0:
                self.kept.append(entry.path)
                if len(self.kept) >= SAMPLE_FILES:
                    self.kept, self._stride = self.kept[::2], self._stride * 2
            self.sizes.append(_size(entry))
            self.suffixes[os.path.splitext(entry.name)[1].lower()] += 1
            if len(self.sizes) % 4096 == 0 and time.monotonic() > self._deadline:
                return False
        return True


def _is_new(link: str, seen: list[str]) -> bool:
    """Whether a linked directory lies outside of every tree that is walked already; then it is one of them."""
    real = os.path.realpath(link)
    if any(real == tree or real.startswith(tree.rstrip("/") + "/") for tree in seen):
        return False
    seen.append(real)
    return True


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere
        return 0
