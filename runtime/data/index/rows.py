"""Images of one directory to rows of bytes: captions read, headers looked at. What an index costs is spent here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import orjson

from runtime.data.index.files import Files
from runtime.data.index.headers import HEAD_BYTES, MORE_BYTES, BadHeader, NeedMore, image_size

Kind = Literal["pairs", "labels", "images"]
LONGEST_CAPTION = 1 << 16
"""Bytes. A longer one is hardly a caption, and would be read by every reader of the row."""
CAPTION_READ = 448
"""Bytes of the first read: most captions are shorter, and a buffer of this size costs no allocation of its own."""
_ESCAPED = bytes(range(32)) + b'"\\'
"""What a JSON string cannot hold as it is."""


@dataclass(frozen=True)
class Options:
    """What goes into the rows; equal options make equal rows."""

    kind: Kind
    caption_suffix: str = ".txt"
    """``pairs``: the caption of ``a.jpg`` is in ``a.txt``."""
    headers: bool = False
    """Look at every image's first bytes, and give its width and height."""

    @property
    def costs_requests(self) -> int:
        """Requests (open, read, close) that a row costs beside its share of the listing."""
        return 3 * ((self.kind == "pairs") + self.headers)


@dataclass(frozen=True)
class Problem:
    """A file that got no row."""

    path: str
    """Relative to the root; bytes that are no UTF-8 are shown escaped."""
    why: str

    @classmethod
    def of(cls, path: str, why: str) -> "Problem":
        """Name a file by the path that the file system gave."""
        return cls(path.encode(errors="surrogateescape").decode(errors="backslashreplace"), why)


Made = bytes | Problem
"""A row, with its newline, or why there is none."""


class RowMaker:
    """Makes the rows of one tree. For any number of threads."""

    def __init__(self, files: Files, options: Options) -> None:
        """Prepare.

        Args:
            files: the tree.
            options: of the rows.
        """
        self._files = files
        self._options = options

    def make(self, handle: int, directory: str, names: Sequence[str]) -> list[Made]:
        """Make the row of each image.

        Args:
            handle: the open directory.
            directory: its path relative to the root; empty: the root.
            names: of the images in it.

        Returns:
            For each name its row or its problem.
        """
        before = f"{directory}/" if directory else ""
        tails: Sequence[bytes | str] = self._sizes(handle, names) if self._options.headers else [b""] * len(names)
        if self._options.kind == "pairs":
            return self._pairs(handle, before, names, tails)
        label = orjson.dumps(directory.rpartition("/")[2] or ".") if self._options.kind == "labels" else b""
        middle = b',"label":' + label if label else b""
        made: list[Made] = []
        for name, tail in zip(names, tails, strict=True):
            try:
                if isinstance(tail, str):
                    made.append(Problem.of(before + name, tail))
                else:
                    made.append(b'{"file_name":%b%b%b}\n' % (_quoted((before + name).encode()), middle, tail))
            except UnicodeError:
                made.append(Problem.of(before + name, "its name is no UTF-8 text"))
        return made

    def _pairs(self, handle: int, before: str, names: Sequence[str], tails: Sequence[bytes | str]) -> list[Made]:
        suffix = self._options.caption_suffix
        captions = [name[: name.rindex(".")] + suffix for name in names]
        made: list[Made] = []
        add = made.append
        for at, raw in enumerate(self._files.read(handle, captions, CAPTION_READ)):
            path, tail = before + names[at], tails[at]
            try:
                if isinstance(raw, OSError):
                    missing = f"no caption: no {suffix} of that name"
                    add(Problem.of(path, missing if isinstance(raw, FileNotFoundError) else _why(raw)))
                    continue
                text = (raw if len(raw) < CAPTION_READ else self._long_caption(handle, captions[at])).strip()
                if not text:
                    add(Problem.of(path, "its caption is empty"))
                elif isinstance(tail, str):
                    add(Problem.of(path, tail))
                else:
                    add(b'{"file_name":%b,"text":%b%b}\n' % (_quoted(path.encode()), _quoted(text), tail))
            except UnicodeError:
                add(Problem.of(path, "its caption, or its name, is no UTF-8 text"))
            except BadHeader as error:
                add(Problem.of(path, str(error)))
        return made

    def _long_caption(self, handle: int, name: str) -> bytes:
        raw = self._files.read(handle, [name], LONGEST_CAPTION + 1)[0]
        if isinstance(raw, OSError):
            raise BadHeader(_why(raw))
        if len(raw) > LONGEST_CAPTION:
            raise BadHeader(f"its caption is longer than {LONGEST_CAPTION} bytes")
        return raw

    def _sizes(self, handle: int, names: Sequence[str]) -> list[bytes | str]:
        """Return for each image the end of its row, or what is wrong with it."""
        found: list[bytes | str] = []
        for name, head in zip(names, self._files.read(handle, names, HEAD_BYTES), strict=True):
            try:
                found.append(b',"width":%d,"height":%d' % self._size(handle, name, head))
            except BadHeader as error:
                found.append(str(error))
        return found

    def _size(self, handle: int, name: str, head: bytes | OSError) -> tuple[int, int]:
        if isinstance(head, OSError):
            raise BadHeader(_why(head))
        try:
            return image_size(head)
        except NeedMore:
            more = self._files.read(handle, [name], MORE_BYTES)[0]
            if isinstance(more, OSError):
                raise BadHeader(_why(more)) from None
        try:
            return image_size(more)
        except NeedMore:
            raise BadHeader("a JPEG that is truncated, or without a frame in its first bytes") from None


def _quoted(raw: bytes) -> bytes:
    r"""Return a JSON string.

    >>> _quoted(b"plain"), _quoted('"größer"\n'.encode())
    (b'"plain"', b'"\\"gr\xc3\xb6\xc3\x9fer\\"\\n"')

    Raises:
        UnicodeError: it is no UTF-8 text.
    """
    if raw.isascii() and len(raw.translate(None, _ESCAPED)) == len(raw):
        return b'"%b"' % raw
    return orjson.dumps(raw.decode())


def _why(error: OSError) -> str:
    return error.strerror or str(error)
