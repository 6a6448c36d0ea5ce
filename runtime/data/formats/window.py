"""A window that moves forward over binary input: files, FIFOs, sockets, archives in memory.

Plain reads of 1 MiB, no mmap: a file that shrinks, or a network mount that fails, is then an error with a name, where
a mapped page would kill the process by SIGBUS. Copying from the page cache costs what faulting its pages in would.
"""

import gzip
import io
import os
import stat
import zlib
from pathlib import Path
from typing import Protocol, Self

from runtime.base.errors import PlatformError
from runtime.data.formats.errors import FormatError, malformed

MIB = 1 << 20
MOST_BYTES = 1 << 31
"""Longest record that is believed; no batch holds anything bigger, and a broken length usually is."""


MOST_UNPACKED_BYTES = 1 << 28
"""The same for input that is unpacked on the way: a few kilobytes of it may claim anything, and keep the claim."""


class Readable(Protocol):
    """The least that input must offer. ``readinto`` and ``seek`` are used where they are there."""

    def read(self, size: int, /) -> bytes | None:
        """Return up to `size` bytes; fewer is no end, none is."""
        ...


class Window:
    """The bytes that were read and not yet consumed, and their place in the input.

    Readers of formats work on `buffer[begin:end]` and move `begin`; `want` brings more. The content of `buffer` moves
    whenever `want` reads.
    """

    def __init__(
        self, stream: Readable, name: str, *, offset: int = 0, size: int | None = None, capacity: int = MIB
    ) -> None:
        """Read nothing yet.

        Args:
            stream: where bytes come from; partial reads are fine, non-blocking streams are not.
            name: for messages.
            offset: of the stream's next byte in the file.
            size: of the whole file in bytes, where it is known; then no length beyond it is believed.
            capacity: bytes per read; the buffer grows beyond it only as fast as a longer record's bytes arrive.
        """
        self.name = name
        self.size = size
        self.most = MOST_BYTES
        """Longest record that is believed."""
        self.begin = 0
        self.end = 0
        self.buffer: bytearray | bytes = bytearray(capacity)
        self.view = memoryview(self.buffer)
        self._base = offset
        self._stream = stream
        self._below: Readable | None = None
        self._readinto = getattr(stream, "readinto", None)
        self._capacity = capacity
        self._over = False

    @classmethod
    def open(cls, path: Path, *, capacity: int = MIB) -> Self:
        """Open a file or a FIFO; ``.gz`` by its magic, members one after another.

        Raises:
            PlatformError: it cannot be opened.
        """
        try:
            raw = path.open("rb", buffering=0)
            found = os.fstat(raw.fileno())
            regular = stat.S_ISREG(found.st_mode)
            head = os.pread(raw.fileno(), 3, 0) if regular else b""
        except OSError as error:
            raise PlatformError(f"{path} cannot be opened: {error.strerror}") from error
        if head == b"\x1f\x8b\x08":
            packed = io.BufferedReader(raw, MIB)
            window = cls(gzip.GzipFile(fileobj=packed), str(path), capacity=capacity)
            window._below = packed
            window.most = MOST_UNPACKED_BYTES
            return window
        return cls(raw, str(path), size=found.st_size if regular else None, capacity=capacity)

    @classmethod
    def of(cls, data: bytes, name: str, offset: int = 0) -> Self:
        """Look at bytes in memory, without a copy."""
        window = cls(_NOTHING, name, offset=offset, size=offset + len(data), capacity=0)
        window.buffer, window.view, window.end, window._over = data, memoryview(data), len(data), True
        return window

    def close(self) -> None:
        """Close the stream."""
        for stream in (self._stream, self._below):  # a GzipFile leaves open what it was given
            close = getattr(stream, "close", None)
            if close is not None:
                close()

    def __enter__(self) -> Self:
        """Use as a context manager: it closes the stream."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    @property
    def offset(self) -> int:
        """Place of `begin` in the input."""
        return self._base + self.begin

    @property
    def left(self) -> int | None:
        """Bytes from `begin` to the end of the file; None when nobody knows."""
        return None if self.size is None else self.size - self.offset

    def want(self, count: int) -> int:
        """Have `count` bytes in the buffer if the input has them; return how many there are from `begin` on.

        Raises:
            PlatformError: reading fails.
            FormatError: compressed input is damaged.
        """
        have = self.end - self.begin
        if have >= count or self._over:
            return have
        self._move_to_front(have, count)
        while self.end < count:
            if self.end == len(self.buffer):
                self._resize(2 * len(self.buffer))
            got = self._fill()
            if not got:
                self._over = True
                break
            self.end += got
        return self.end

    def take(self, count: int, what: str) -> bytes:
        """Consume exactly `count` bytes.

        Args:
            count: at most `most`.
            what: they are, for the message.

        Raises:
            FormatError: the input ends before, or the length is absurd.
        """
        self.expect(count, what)
        begin = self.begin
        self.begin = begin + count
        return bytes(self.view[begin : self.begin])

    def expect(self, count: int, what: str) -> None:
        """Have `count` bytes in the buffer, or say that the input is truncated."""
        if self.end - self.begin >= count:
            return
        if count > self.most:
            raise malformed(self.name, self.offset, f"{what} claims {count} bytes, more than {self.most}")
        left = self.left
        if left is None or left >= count:
            left = self.want(count)
        if left < count:
            raise malformed(self.name, self.offset, f"truncated: {what} needs {count} bytes, {left} are left")

    def skip(self, count: int, what: str) -> None:
        """Pass over `count` bytes, without reading them where the input can seek.

        Raises:
            FormatError: the input ends before.
        """
        have = self.end - self.begin
        if count <= have:
            self.begin += count
            return
        left = self.left
        if left is not None and left < count:
            raise malformed(self.name, self.offset, f"truncated: {what} needs {count} bytes, {left} are left")
        if self.size is not None and not self._over:
            self._base = self.offset + count
            self.begin = self.end = 0
            self._seek(self._base)
            return
        while count:
            step = min(count, self._capacity or MIB)
            self.expect(step, what)
            self.begin += step
            count -= step

    def _seek(self, offset: int) -> None:
        try:
            self._stream.seek(offset)  # pyright: ignore[reportAttributeAccessIssue] - a size is known of files only
        except OSError as error:
            raise PlatformError(f"{self.name} cannot be read at byte {offset}: {error.strerror}") from error

    def _fill(self) -> int:
        """Read once into the free end of the buffer."""
        try:
            if self._readinto is not None:
                got = self._readinto(self.view[self.end :])
            else:
                chunk = self._stream.read(len(self.buffer) - self.end)
                got = None if chunk is None else len(chunk)
                self.view[self.end : self.end + len(chunk or b"")] = chunk or b""
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise malformed(self.name, self._base + self.end, f"damaged gzip data: {error}") from error
        except OSError as error:
            where = self._base + self.end
            raise PlatformError(f"{self.name} cannot be read at byte {where}: {error.strerror or error}") from error
        if got is None:
            raise PlatformError(f"{self.name} is open without blocking, and has no bytes yet", fix="open it blocking")
        return got

    def _move_to_front(self, have: int, count: int) -> None:
        if len(self.buffer) > self._capacity >= max(have, count):
            tail = bytes(self.view[self.begin : self.end])
            self.buffer = bytearray(self._capacity)  # one long record is no reason to hold its memory for ever
            self.view = memoryview(self.buffer)
            self.view[:have] = tail
        elif self.begin:
            self.view[:have] = self.view[self.begin : self.end]
        self._base += self.begin
        self.begin, self.end = 0, have

    def _resize(self, size: int) -> None:
        bigger = bytearray(size)
        bigger[: self.end] = self.view[: self.end]
        self.buffer = bigger
        self.view = memoryview(bigger)


class _Nothing:
    def read(self, size: int, /) -> bytes:
        del size
        return b""


_NOTHING = _Nothing()

__all__ = ["MIB", "MOST_BYTES", "FormatError", "Readable", "Window"]
