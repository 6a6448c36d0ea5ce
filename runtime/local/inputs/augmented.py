"""``AugmentedManifestFile``: JSON Lines whose attributes are streamed one after the other, in Pipe mode.

Source: "Augmented manifest file format for Pipe mode training", developer guide.
"""

import json
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from runtime.base.errors import UserError
from runtime.local.inputs.objects import PIECE, ObjectStore

REFERENCE = "-ref"
"""End of the name of an attribute that holds the URI of an object, whose content is streamed."""
MOST_ATTRIBUTES = 16
"""Source: S3DataSource.AttributeNames, CreateTrainingJob API."""
LONGEST_LINE = 16 << 20
"""Bytes; a longer one is a file of another kind."""
CHECKED_LINES = 1000
"""Lines that are looked at before the job starts; the rest is met when it is streamed."""


@dataclass(frozen=True)
class Part:
    """One attribute of one line: the text itself, or an object whose content is meant."""

    text: bytes = b""
    uri: str = ""
    """Empty: `text` is meant."""


class AugmentedManifest:
    """The lines of a manifest, by number: some bytes of memory for each, and a copy on the disk."""

    def __init__(self, store: ObjectStore, key: str, attributes: Sequence[str], where: str) -> None:
        """Copy the manifest, find the lines, and look at the first ones.

        Args:
            store: holds the manifest.
            key: of the manifest.
            attributes: names, in the order in which they are streamed.
            where: its URI, for errors.

        Raises:
            UserError: it holds no line, or a malformed one.
        """
        # One request for each line of a manifest in S3 would be slower than the data itself.
        self._copy = tempfile.TemporaryFile(prefix="slipway-manifest-")  # noqa: SIM115 - as long as this object
        self._attributes = tuple(attributes)
        self._where = where
        self._starts = array("Q")
        self._ends = array("Q")
        self._numbers = array("Q")
        try:
            self._find_lines(pieces_of(store, key, store.stat(key).size))
            if not self._starts:
                raise UserError(f"Augmented manifest {where} holds no line", allowed="each line is a JSON object")
            for index in range(min(len(self), CHECKED_LINES)):
                self.parts(index)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Count the lines that are not blank."""
        return len(self._starts)

    def _find_lines(self, pieces: Iterator[bytes]) -> None:
        start, number = 0, 1
        rest = b""
        for piece in pieces:
            self._copy.write(piece)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._add(line, start, number)
                start, number = start + len(line) + 1, number + 1
            if len(rest) > LONGEST_LINE:
                raise self._wrong(number, 1, f"it has more than {LONGEST_LINE} bytes")
        self._add(rest, start, number)
        self._copy.flush()

    def close(self) -> None:
        """Remove the copy."""
        self._copy.close()

    def _add(self, line: bytes, start: int, number: int) -> None:
        if line.strip():
            self._starts.append(start)
            self._ends.append(start + len(line))
            self._numbers.append(number)

    def parts(self, index: int) -> list[Part]:
        """Return what is streamed of one line.

        Raises:
            UserError: it is malformed or lacks an attribute; says where.
        """
        start, end, number = self._starts[index], self._ends[index], self._numbers[index]
        raw = os.pread(self._copy.fileno(), end - start, start)
        try:
            text = raw.decode("utf-8-sig" if start == 0 else "utf-8")
            value: object = json.loads(text)
        except json.JSONDecodeError as error:
            raise self._wrong(number, error.colno, f"{error.msg} (JSON)") from error
        except (UnicodeDecodeError, RecursionError) as error:
            raise self._wrong(number, 1, f"it is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise self._wrong(number, 1, f"it holds {type(value).__name__}, not an object")
        return [self._part(cast("dict[str, object]", value), name, number) for name in self._attributes]

    def _part(self, line: dict[str, object], name: str, number: int) -> Part:
        if name not in line:
            raise self._wrong(number, 1, f"attribute {name!r} is missing; it has {', '.join(sorted(line)) or 'none'}")
        value = line[name]
        if name.endswith(REFERENCE):
            if not isinstance(value, str) or not value:
                raise self._wrong(number, 1, f"attribute {name!r} is {value!r}, not the URI of an object")
            return Part(uri=value)
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        return Part(text=text.encode())

    def _wrong(self, number: int, column: int, what: str) -> UserError:
        return UserError(
            f"Augmented manifest {self._where}, line {number}, column {column}: {what}",
            allowed=f"each line is a JSON object with {', '.join(self._attributes)}",
        )


def pieces_of(store: ObjectStore, key: str, size: int) -> Iterator[bytes]:
    """Read an object from its beginning to its end.

    Raises:
        UserError: it is shorter than it was when it was listed.
    """
    at = 0
    while at < size:
        piece = store.read(key, at, min(PIECE, size - at))
        if not piece:
            raise UserError(
                f"{key} has {at} bytes, and had {size} when the job was started",
                allowed="the data of a job does not change while it runs",
            )
        at += len(piece)
        yield piece
