"""The work of a build, cut into pieces that processes, hosts and jobs take without asking each other. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from zlib import crc32

from runtime.base.errors import UserError
from runtime.data.index.segments import Segment

DEEPEST = 32
"""Directories inside each other; deeper means a link that leads back. The kernel itself gives up at 40 links."""
MOST_DIRECTORIES = 256
"""That a process takes at one time."""


@dataclass(frozen=True)
class Share:
    """Which part of the tree: directories are dealt out by their names, so that nobody has to ask anybody."""

    index: int = 0
    count: int = 1

    def owns(self, directory: str, part: int) -> bool:
        """Tell whether a directory, or a part of a huge one, is of this share."""
        return (
            self.count == 1 or crc32(f"{directory}\0{part}".encode(errors="surrogateescape")) % self.count == self.index
        )


WHOLE = Share()
"""All of the tree."""


@dataclass(frozen=True)
class Known:
    """What an earlier look found in a directory."""

    changed_ns: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Task:
    """What a process takes at one time: directories, or a further part of a huge one."""

    directories: tuple[str, ...]
    known: Mapping[str, Known] = field(default_factory=dict[str, Known])
    part: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """What became of a task."""

    segments: list[Segment]
    more: list[Task]


def children(segment: Segment) -> Iterator[str]:
    """Name the directories in a directory.

    Raises:
        UserError: it lies too deep.
    """
    if segment.directory.count("/") >= DEEPEST:
        raise UserError(
            f"{segment.directory[:200]}... lies {DEEPEST} directories deep",
            fix="look for a link that leads back to a directory above it",
        )
    before = f"{segment.directory}/" if segment.directory else ""
    return (before + name for name in segment.directories)


def next_task(waiting: list[str], known: Mapping[str, Known], at_one_time: int) -> Task:
    """Take as many directories as leave work for the other processes."""
    count = max(1, min(MOST_DIRECTORIES, len(waiting) // at_one_time))
    taken, waiting[-count:] = tuple(waiting[-count:]), []
    return Task(taken, {directory: known[directory] for directory in taken if directory in known})
