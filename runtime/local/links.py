"""Symbolic links that a container made, as that container meant them.

Its absolute links begin at its own root. Followed from here they would lead to files of this machine: of another
content, or none of the job's business. What a link leads to is therefore looked for in the host's directories alone.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from runtime.local.request import JobSpec
from runtime.local.tree import checkpoint_directory, homes, inside_tree

Rooms = Mapping[str, Path]
"""Directories that a host has of its own: as the container names them, to where they lie here."""

MOST_LINKS = 40
"""In one path. Source: the kernel's own limit, path_resolution(7)."""


def rooms_of(spec: JobSpec, base: Path) -> Rooms:
    """Name the directories of one container that are its own.

    Args:
        spec: the job.
        base: root of the host's tree.
    """
    rooms = {home: inside_tree(base, home) for home in homes(spec)}
    if spec.checkpoint is not None:
        rooms[spec.checkpoint.local_path.rstrip("/")] = checkpoint_directory(spec, base)
    return rooms


def follow(path: Path, rooms: Rooms | None) -> Path | None:
    """Follow every link of a path.

    Args:
        path: here, in one of the rooms.
        rooms: None: links mean what they mean here, since a process made them.

    Returns:
        Where its content lies here; None when that is nowhere, or not the host's own.
    """
    if rooms is None:
        try:
            return path.resolve(strict=True)
        except (OSError, RuntimeError):
            return None
    inside = next((f"{room}/{path.relative_to(here)}" for room, here in rooms.items() if path.is_relative_to(here)), "")
    todo = [part for part in reversed(inside.split("/")) if part]
    done: list[str] = []
    links = 0
    here: Path | None = None
    while todo:
        part = todo.pop()
        if part in {".", ".."}:
            done = done[:-1] if part == ".." else done
            continue
        here = _place("/".join(["", *done, part]), rooms)
        if here is not None and here.is_symlink():
            links += 1
            if links > MOST_LINKS:
                return None
            target = os.readlink(here)
            done = [] if target.startswith("/") else done
            todo += [piece for piece in reversed(target.split("/")) if piece]
            continue
        done.append(part)
    here = _place("/".join(["", *done]), rooms)
    return here if here is not None and here.exists() else None


def _place(inside: str, rooms: Rooms) -> Path | None:
    """Return where a path of the container lies here; the deepest room that holds it counts."""
    held = [room for room in rooms if inside == room or inside.startswith(f"{room}/")]
    if not held:
        return None
    room = max(held, key=len)
    return rooms[room] / inside[len(room) :].lstrip("/")


def files_in(directory: Path, rooms: Rooms | None) -> Iterator[tuple[str, Path | None]]:
    """List the files of a directory as a reader in the container sees them, links followed.

    Args:
        directory: in one of the rooms.
        rooms: see `follow`.

    Yields:
        Relative name, and where the content lies; None for what has none: a link that leads out of the host's
        directories, nowhere or back to a directory that holds it, a FIFO, a socket or a device.
    """
    start = follow(directory, rooms)
    if start is not None and start.is_dir():
        yield from _files_in(start, "", rooms, (start,))


def _files_in(
    directory: Path, prefix: str, rooms: Rooms | None, above: tuple[Path, ...]
) -> Iterator[tuple[str, Path | None]]:
    for path in sorted(directory.iterdir()):
        name = prefix + path.name
        place = follow(path, rooms) if path.is_symlink() else path
        if place is not None and place.is_dir():
            if any(parent.is_relative_to(place) for parent in above):
                yield name, None
            else:
                yield from _files_in(place, f"{name}/", rooms, (*above, place))
        else:
            yield name, place if place is not None and place.is_file() else None
