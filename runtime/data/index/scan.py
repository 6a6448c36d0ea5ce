"""One directory to rows: names paired with captions, checked, encoded. Runs in any process; changes nothing."""

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

from runtime.base.errors import UserError
from runtime.data.index.files import Files, Listing
from runtime.data.index.rows import Made, Options, Problem, RowMaker

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_SUFFIXES = (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES))
"""To make every name small costs more than to compare it with twice as many."""
SLOW_S = 150e-6
"""A request that takes longer was not answered from memory: then many are sent at one time."""
TRIED = 12
"""Requests that are timed before that is decided."""
IN_FLIGHT = 96
"""Requests at one time and process when they are slow."""
AT_ONCE = 16
"""Files that one thread takes at one time, at most: few, so that all threads have some."""
CHUNK = 100_000
"""Images of one directory that a process takes at one time; the rest of a huge one is for others."""


@dataclass(frozen=True)
class Scanned:
    """What one look at a directory, or at a part of a huge one, gave."""

    directory: str
    """Relative to the root; empty: the root."""
    part: int
    """Counts from 0; more than 0 only in huge directories."""
    changed_ns: int
    rows: list[bytes]
    """Each ends with a newline; sorted by name."""
    directories: tuple[str, ...] = ()
    """Names of the subdirectories."""
    problems: tuple[Problem, ...] = ()
    more: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    """Sorted names of images in further parts, which nobody has looked at yet."""


@dataclass(frozen=True)
class _Listed:
    """A directory that is open, and what is to be made of it."""

    directory: str
    handle: int
    listing: Listing
    parts: list[list[str]]
    """Names of images; all but the first part are for others."""
    old: Mapping[str, bytes]
    problems: tuple[Problem, ...]

    @cached_property
    def fresh(self) -> list[str]:
        """Names whose rows must be made."""
        return [name for name in self.parts[0] if name not in self.old] if self.old else self.parts[0]

    def scanned(self, made: Iterable[Made]) -> Scanned:
        """Put rows that were made among those that were not."""
        if self.old:
            new = iter(made)
            made = [self.old[name] if name in self.old else next(new) for name in self.parts[0]]
        rows, problems = _split(made)
        return Scanned(
            self.directory,
            0,
            self.listing.changed_ns,
            rows,
            tuple(sorted(self.listing.directories)),
            (*self.problems, *problems),
            tuple(map(tuple, self.parts[1:])),
        )


class Scanner:
    """Scans directories of one tree; keeps threads only when the file system is slow."""

    def __init__(self, files: Files, options: Options, owns: Callable[[str, int], bool] | None = None) -> None:
        """Prepare.

        Args:
            files: the tree.
            options: of the rows.
            owns: whether a directory, or a part of a huge one, is ours; others are only listed. None: all are.
        """
        self._files = files
        self._options = options
        self._maker = RowMaker(files, options)
        self._owns = owns or _all
        self._pool: ThreadPoolExecutor | None = None
        self._times: list[float] = []

    @property
    def slow(self) -> bool:
        """Whether requests are sent many at one time."""
        return self._pool is not None

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def scan(self, directories: Sequence[str], old: Callable[[str], Mapping[str, bytes]]) -> Iterator[Scanned]:
        """List directories and make their rows; of a huge one the first part, with the names of the others.

        Args:
            directories: relative to the root.
            old: gives for a directory the rows, by file name, that need not be made again.

        Raises:
            UserError: a directory cannot be listed.
        """
        for at, directory in enumerate(directories):
            if self._pool is not None:
                for first in range(at, len(directories), IN_FLIGHT):
                    yield from self._scan_at_once(self._pool, directories[first : first + IN_FLIGHT], old)
                return
            listed = self._list(directory, old(directory))
            try:
                yield listed.scanned(self._make_timed(listed.handle, directory, listed.fresh))
            finally:
                os.close(listed.handle)

    def scan_part(self, directory: str, part: int, names: Sequence[str], old: Mapping[str, bytes]) -> Scanned:
        """Make the rows of a further part of a huge directory."""
        handle = self._files.open_directory(directory)
        try:
            listed = _Listed(directory, handle, Listing([], [], 0), [list(names)], old, ())
            made = listed.scanned(self._make_timed(handle, directory, listed.fresh))
        finally:
            os.close(handle)
        return replace(made, part=part)

    def changed_ns(self, directories: Sequence[str]) -> list[int]:
        """Return when directories changed; 0 for one that is not there any more."""
        found: list[int] = []
        while self._pool is None and len(found) < len(directories):
            began = time.perf_counter()
            found.append(self._changed_ns(directories[len(found)]))
            self._note(time.perf_counter() - began)
        if self._pool is not None:
            found += self._pool.map(self._changed_ns, directories[len(found) :])
        return found

    def _changed_ns(self, directory: str) -> int:
        try:
            return self._files.changed_ns(directory)
        except OSError:
            return 0

    # --- parts ----------------------------------------------------------------------------------------------

    def _scan_at_once(
        self, pool: ThreadPoolExecutor, directories: Sequence[str], old: Callable[[str], Mapping[str, bytes]]
    ) -> Iterator[Scanned]:
        """Send the requests of all directories at one time: first the listings, then the files."""
        listed = list(pool.map(self._list, directories, map(old, directories)))
        try:
            width = _width(sum(len(one.fresh) for one in listed))
            tasks: list[tuple[int, str, list[str]]] = [
                (one.handle, one.directory, one.fresh[at : at + width])
                for one in listed
                for at in range(0, len(one.fresh), width)
            ]
            made = (
                itertools.chain.from_iterable(pool.map(self._maker.make, *zip(*tasks, strict=True)))
                if tasks
                else iter(())
            )
            for one in listed:
                yield one.scanned(list(itertools.islice(made, len(one.fresh))))
        finally:
            for one in listed:
                os.close(one.handle)

    def _list(self, directory: str, old: Mapping[str, bytes]) -> _Listed:
        began = time.perf_counter()
        try:
            handle = self._files.open_directory(directory)
        except OSError as error:
            raise _unlistable(self._files.root, directory, error) from error
        try:
            listing = self._files.look(handle)
            self._note((time.perf_counter() - began) / 3)
            images = sorted([name for name in listing.names if name.endswith(_SUFFIXES) and name[0] != "."])
            missing: tuple[Problem, ...] = ()
            if not self._owns(directory, 0) and len(images) <= CHUNK:
                images = []
            if self._options.kind == "pairs":
                images, missing = self._with_captions(directory, images, frozenset(listing.names))
        except OSError as error:
            os.close(handle)
            raise _unlistable(self._files.root, directory, error) from error
        parts = [images[at : at + CHUNK] for at in range(0, len(images), CHUNK)] or [[]]
        if not self._owns(directory, 0):
            parts[0], missing = [], ()
        return _Listed(directory, handle, listing, parts, old, missing)

    def _note(self, seconds: float) -> None:
        """Decide by the first requests whether the file system is slow: by their median, as one may have waited."""
        if self._pool is None and len(self._times) < TRIED:
            self._times.append(seconds)
            if len(self._times) == TRIED and sorted(self._times)[TRIED // 2] > SLOW_S:
                self._pool = ThreadPoolExecutor(IN_FLIGHT)

    def _with_captions(
        self, directory: str, images: Sequence[str], names: frozenset[str]
    ) -> tuple[list[str], tuple[Problem, ...]]:
        """Leave out images without a caption, which costs no request as long as some are known to have none."""
        if len(names) >= 2 * len(images):
            return list(images), ()  # most likely all have one: whoever opens it will tell
        suffix = self._options.caption_suffix
        paired = [name for name in images if name[: name.rindex(".")] + suffix in names]
        if len(paired) == len(images):
            return paired, ()
        have = frozenset(paired)
        why = f"no caption: no {suffix} of that name"
        return paired, tuple(Problem.of(_join(directory, name), why) for name in images if name not in have)

    def _make_timed(self, handle: int, directory: str, names: Sequence[str]) -> list[Made]:
        made: list[Made] = []
        while len(self._times) < TRIED and self._options.costs_requests and len(made) < len(names):
            began = time.perf_counter()
            made += self._maker.make(handle, directory, names[len(made) : len(made) + 1])
            self._note((time.perf_counter() - began) / self._options.costs_requests)
        rest = names[len(made) :] if made else names
        if self._pool is None:
            return made + self._maker.make(handle, directory, rest)
        width = _width(len(rest))
        chunks = [rest[at : at + width] for at in range(0, len(rest), width)]
        more = self._pool.map(self._maker.make, itertools.repeat(handle), itertools.repeat(directory), chunks)
        return made + list(itertools.chain.from_iterable(more))


def _split(made: Iterable[Made]) -> tuple[list[bytes], list[Problem]]:
    items = made if isinstance(made, list) else list(made)
    problems = [item for item in items if item.__class__ is not bytes]
    if not problems:
        return cast("list[bytes]", items), []
    return [item for item in items if isinstance(item, bytes)], cast("list[Problem]", problems)


def _all(directory: str, part: int) -> bool:
    del directory, part
    return True


def _width(files: int) -> int:
    """Return how many files a thread takes at one time."""
    return max(1, min(AT_ONCE, files // IN_FLIGHT))


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _unlistable(root: str, directory: str, error: OSError) -> UserError:
    return UserError(
        f"{os.path.join(root, directory)} cannot be listed: {error.strerror}",
        fix="see that this user may read and enter it, or leave it out of the tree",
    )
