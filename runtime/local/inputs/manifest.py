"""``ManifestFile``: the objects of a channel by name, in one JSON list.

``[{"prefix": "s3://bucket/some/"}, "relative/path", ...]``. Source: S3DataSource, CreateTrainingJob API.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from runtime.base.errors import UserError

LARGEST = 1 << 30
"""Bytes of a manifest that we read; far above what anybody lists by hand."""


@dataclass(frozen=True)
class Manifest:
    """What a manifest says."""

    prefix: str
    """Put before every name as it is: a URI, or a path of this machine."""
    names: tuple[str, ...]

    @property
    def root(self) -> str:
        """The prefix up to its last ``/``: what comes behind it is a file's path in the channel."""
        return self.prefix[: self.prefix.rindex("/") + 1] if "/" in self.prefix else ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths in the channel, one for each name."""
        head = self.prefix[len(self.root) :]
        return tuple(f"{head}{name}".lstrip("/") for name in self.names)


def parse_manifest(text: str, where: str) -> Manifest:
    """Read a manifest.

    Args:
        text: its content.
        where: its URI, for errors.

    Raises:
        UserError: it is malformed (with line and column), names nothing, or names one object twice.
    """
    if text.startswith("\ufeff"):
        text = text[1:]
    elements = _elements(text, where)
    first, at = next(elements, (None, 0))
    if not isinstance(first, dict) or not isinstance(cast("dict[str, object]", first).get("prefix"), str):
        raise _wrong(text, at, where, 'the first element is {"prefix": "s3://BUCKET/PATH/"}')
    prefix = cast("dict[str, str]", first)["prefix"]
    seen: dict[str, None] = {}
    for name, at in elements:
        if not isinstance(name, str) or not name.strip("/"):
            raise _wrong(text, at, where, "after the prefix come names of objects, as strings")
        if ".." in name.split("/"):
            raise _wrong(text, at, where, f"{name!r} leads out of the prefix")
        if name in seen:
            raise _wrong(text, at, where, f"{name!r} is named twice")
        seen[name] = None
    if not seen:
        raise _wrong(text, len(text), where, "it names no object")
    return Manifest(prefix, tuple(seen))


def _elements(text: str, where: str) -> Iterator[tuple[object, int]]:
    """Yield the elements of a JSON list, each with its place: the standard parser keeps no places."""
    decoder = json.JSONDecoder()
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        raise _wrong(text, at, where, "it is a JSON list")
    at = _skip(text, at + 1)
    if text[at : at + 1] == "]":
        return
    while True:
        try:
            value, end = cast("tuple[object, int]", decoder.raw_decode(text, at))
        except json.JSONDecodeError as error:
            raise _wrong(text, error.pos, where, f"{error.msg} (JSON)") from error
        except RecursionError:
            raise _wrong(text, at, where, "it is a flat list") from None
        yield value, at
        at = _skip(text, end)
        mark = text[at : at + 1]
        if mark not in (",", "]"):
            raise _wrong(text, at, where, "elements are separated by ',' and the list ends with ']'")
        at = _skip(text, at + 1)
        if mark == "]":
            if at < len(text):
                raise _wrong(text, at, where, "nothing comes after the list")
            return


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _wrong(text: str, at: int, where: str, what: str) -> UserError:
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    return UserError(
        f"Manifest {where}, line {line}, column {column}: {what}",
        allowed='[{"prefix": "s3://BUCKET/PATH/"}, "name", ...]',
        fix="mend the manifest" if text.strip() else "it is empty",
    )
