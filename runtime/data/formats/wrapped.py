"""Objects that the service has wrapped, each into one RecordIO record, as streams with the memory of one buffer.

Walked by headers: whether the service escapes the magic inside of an object is nowhere written, so nothing is scanned.
"""

# The parser of headers is that of RecordIO files.
# pyright: reportPrivateUsage=false

import struct
from collections.abc import Iterator

from runtime.data.formats.errors import malformed
from runtime.data.formats.recordio import (
    LAST,
    LONGEST_PART,
    MAGIC,
    MAGIC_BYTES,
    WHOLE,
    Join,
    _read_header,
    _read_part,
)
from runtime.data.formats.window import Window

HEADER = struct.Struct("<II")
"""Magic, and flag and length."""


def first_bytes(window: Window, count: int) -> bytes:
    """Look at the beginning of the first wrapped object that is not empty, and consume nothing of it.

    Empty objects before it are passed over: S3 consoles make one for every folder.

    Args:
        window: at the header of a record.
        count: bytes to look at; fewer when the first part of the object has no more.

    Raises:
        FormatError: no RecordIO, or a truncated record.
    """
    while window.want(8):
        magic, word = HEADER.unpack_from(window.buffer, window.begin)
        length = word & LONGEST_PART
        if magic != MAGIC or word == 0:
            flag, length = _read_header(window)  # says what is wrong
            if flag == WHOLE and not length:
                continue
        have = window.want(8 + min(length, count)) - 8
        return bytes(window.view[window.begin + 8 : window.begin + 8 + min(length, count, have)])
    return b""


class WrappedObject:
    """One object: a stream with ``readinto`` that ends with the object."""

    def __init__(self, window: Window, join: Join, number: int) -> None:
        """Begin at the header of the record."""
        self.number = number
        """In the epoch, from 0."""
        self._window = window
        self._join: Join = join
        self._begin = window.offset
        self._flag, self._left = _read_header(window)
        self._padding = -self._left & 3
        self._magic = b""
        self.size = self._left if self._flag == WHOLE else None
        """Bytes; None of a split one, whose length nobody tells before its end."""

    def readinto(self, view: memoryview) -> int:
        """Read some bytes; 0 at the end of the object.

        Raises:
            FormatError: the stream ends within the object.
        """
        window = self._window
        while not self._left and not self._magic:
            window.skip(self._padding, "the padding of a record")
            self._padding = 0
            if self._flag in (WHOLE, LAST):
                return 0
            if not window.want(8):
                raise malformed(window.name, self._begin, "truncated: the last part of a split object is missing")
            self._flag, self._left = _read_part(window, self._flag)
            self._padding = -self._left & 3
            self._magic = MAGIC_BYTES if self._join == "dmlc" else b""
        if self._magic:
            count = min(len(view), len(self._magic))
            view[:count], self._magic = self._magic[:count], self._magic[count:]
            return count
        have = window.end - window.begin or window.want(1)
        if not have:
            raise malformed(
                window.name, window.offset, f"truncated: the object that begins at byte {self._begin} is not complete"
            )
        count = min(len(view), self._left, have)
        view[:count] = window.view[window.begin : window.begin + count]
        window.begin += count
        self._left -= count
        return count

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; none at the end."""
        buffer = bytearray(size)
        return bytes(memoryview(buffer)[: self.readinto(memoryview(buffer))])

    def drain(self) -> None:
        """Pass over what nobody has read."""
        buffer = memoryview(bytearray(1 << 16))
        while self.readinto(buffer):
            pass


def wrapped_objects(window: Window, *, join: Join = "concat") -> Iterator[WrappedObject]:
    """Yield the objects of a stream, one after another; each is to be read before the next one.

    Args:
        window: at the header of a record.
        join: how the parts of an object of 512 MiB or more become one.

    Raises:
        FormatError: as `read_records`.
    """
    number = 0
    while window.want(8):
        one = WrappedObject(window, join, number)
        yield one
        one.drain()
        number += 1
