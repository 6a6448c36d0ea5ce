"""RecordIO of dmlc and MXNet: files of records, and the wrapping of Pipe channels with ``RecordWrapperType=RecordIO``.

A record is, in little-endian words: the magic, ``cflag << 29 | length``, the payload, zeros up to a multiple of 4.
`cflag` is 0 for a whole record; 1, 2, 3 for the first, a middle and the last part of a split one. The writer of dmlc
splits wherever the payload holds the magic at a place that is a multiple of 4, and leaves these 4 bytes out: whoever
joins the parts must put them back (``join="dmlc"``). An object of 512 MiB or more that the service wraps does not fit
into one part either; whether it is escaped the same way is nowhere written, so that ``join="concat"`` is there too.

Source: dmlc-core ``include/dmlc/recordio.h``; the reader of sagemaker-tensorflow-extensions joins without the magic.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from runtime.data.formats.errors import malformed
from runtime.data.formats.window import MOST_BYTES, Window

MAGIC = 0xCED7230A
MAGIC_BYTES = b"\x0a\x23\xd7\xce"
LONGEST_PART = (1 << 29) - 1
"""Bytes: the length has 29 bits."""
WHOLE, FIRST, MIDDLE, LAST = 0, 1, 2, 3

Join = Literal["dmlc", "concat"]
_HEADER = struct.Struct("<II")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def read_records(window: Window, *, join: Join = "dmlc") -> Iterator[bytes]:
    """Yield the payloads of all records.

    Args:
        window: at the beginning of a record.
        join: how the parts of a split record become one: ``dmlc`` with the magic between them, ``concat`` without.

    Raises:
        FormatError: no magic where a record should begin, parts in a wrong order, a truncated record.
    """
    unpack = _HEADER.unpack_from
    while True:
        buffer, view, at, end = window.buffer, window.view, window.begin, window.end
        while end - at >= 8:
            magic, word = unpack(buffer, at)
            if word > LONGEST_PART or magic != MAGIC:
                break
            stop = at + 8 + word
            after = stop + (-word & 3)
            if after > end:
                break
            payload = bytes(view[at + 8 : stop])
            at = window.begin = after
            yield payload
        # What does not lie in the buffer as a whole, is split, or is wrong.
        if not window.want(8):
            return
        yield _read_slowly(window, join)


def record_spans(window: Window) -> Iterator[tuple[int, int]]:
    """Yield (offset, bytes) of every record with headers and padding; files are seeked over, not read.

    Raises:
        FormatError: as `read_records`.
    """
    while window.want(8):
        begin = window.offset
        flag, length = _read_header(window)
        window.skip(length + (-length & 3), "a record")
        while flag not in (WHOLE, LAST):
            if not window.want(8):
                raise malformed(window.name, begin, "truncated: the last part of a split record is missing")
            flag, length = _read_part(window, flag)
            window.skip(length + (-length & 3), "a part of a record")
        yield begin, window.offset - begin


def read_index(path: Path) -> list[tuple[int, int]]:
    """Read an ``.idx`` file of MXNet: lines of ``key<TAB>offset``.

    Returns:
        (key, offset) in the order of the file; offsets are those of the records' headers.

    Raises:
        FormatError: a line is something else.
    """
    entries: list[tuple[int, int]] = []
    offset = 0
    for line in path.read_bytes().splitlines(keepends=True):
        key, _, place = line.strip().partition(b"\t")
        if not (key.isdigit() and place.isdigit()):
            raise malformed(str(path), offset, f"{line[:40]!r} is no line of key, tab and offset")
        entries.append((int(key), int(place)))
        offset += len(line)
    return entries


class RecordWriter:
    """Writes records; read back by every RecordIO reader that restores the magic."""

    def __init__(self, stream: BinaryIO, *, escape: bool = True) -> None:
        """Write nothing yet.

        Args:
            stream: where to.
            escape: split a payload at each aligned magic, as dmlc does; then files can be cut by scanning for the
                magic. False: only what is too long for one part is split, without loss (``join="concat"``).
        """
        self._stream = stream
        self._escape = escape
        self.offset = 0
        """Bytes written: the offset of the next record, for an ``.idx`` file."""

    def write(self, payload: bytes) -> None:
        """Write one record.

        Raises:
            ValueError: a payload of 512 MiB or more that must be escaped: its parts would not say how to join them.
        """
        cuts = _aligned_magics(payload) if self._escape else []
        if self._escape and len(payload) > LONGEST_PART:
            raise ValueError(f"a record of {len(payload)} bytes: RecordIO holds at most {LONGEST_PART}")
        if not cuts and len(payload) <= LONGEST_PART:
            frame = _HEADER.pack(MAGIC, len(payload))
            self._put(b"".join((frame, payload, _PADDING[len(payload) & 3])))
            return
        if not cuts:
            begin = 0
            for head, length, padding in part_frames(len(payload)):
                self._put(b"".join((head, payload[begin : begin + length], padding)))
                begin += length
            return
        begin = 0
        for number, cut in enumerate([*cuts, len(payload)]):
            flag = FIRST if number == 0 else MIDDLE if number < len(cuts) else LAST
            part = payload[begin:cut]
            self._put(b"".join((_HEADER.pack(MAGIC, flag << 29 | len(part)), part, _PADDING[len(part) & 3])))
            begin = cut + 4

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self.offset += len(data)


def part_frames(size: int) -> Iterator[tuple[bytes, int, bytes]]:
    """Frame an object of `size` bytes whose content is copied through: header, bytes that follow, padding behind them.

    One part below 512 MiB, else several to be joined by ``concat``; the magic is not looked for.
    """
    longest = LONGEST_PART & ~3
    count = max(1, -(-size // longest)) if size > LONGEST_PART else 1
    for number in range(count):
        length = size if count == 1 else min(longest, size - number * longest)
        flag = WHOLE if count == 1 else FIRST if number == 0 else LAST if number == count - 1 else MIDDLE
        yield _HEADER.pack(MAGIC, flag << 29 | length), length, _PADDING[length & 3]


def _aligned_magics(payload: bytes) -> list[int]:
    found: list[int] = []
    at = payload.find(MAGIC_BYTES)
    while at >= 0:
        if at % 4 == 0:
            found.append(at)
        at = payload.find(MAGIC_BYTES, at + (4 if at % 4 == 0 else 1))
    return found


def _read_header(window: Window) -> tuple[int, int]:
    """Consume the header of a record or of its first part; return flag and length."""
    offset = window.offset
    window.expect(8, "the header of a record")
    magic, word = _HEADER.unpack_from(window.buffer, window.begin)
    if magic != MAGIC:
        raise malformed(window.name, offset, f"no RecordIO record: it begins with 0x{magic:08x}, not 0x{MAGIC:08x}")
    flag, length = word >> 29, word & LONGEST_PART
    if flag not in (WHOLE, FIRST):
        words = "in the middle" if flag in (MIDDLE, LAST) else f"with the unknown flag {flag}"
        raise malformed(window.name, offset, f"a record begins {words}")
    window.begin += 8
    return flag, length


def _read_part(window: Window, before: int) -> tuple[int, int]:
    """Consume the header of a further part."""
    offset = window.offset
    window.expect(8, "the header of a part")
    magic, word = _HEADER.unpack_from(window.buffer, window.begin)
    flag, length = word >> 29, word & LONGEST_PART
    if magic != MAGIC or flag not in (MIDDLE, LAST):
        raise malformed(
            window.name,
            offset,
            f"the part of a record after a {'first' if before == FIRST else 'middle'} one is missing",
        )
    window.begin += 8
    return flag, length


def _read_payload(window: Window, length: int) -> bytes:
    padding = -length & 3
    window.expect(length + padding, "a record")
    payload = bytes(window.view[window.begin : window.begin + length])
    window.begin += length + padding
    return payload


def _read_slowly(window: Window, join: Join) -> bytes:
    begin = window.offset
    flag, length = _read_header(window)
    payload = _read_payload(window, length)
    if flag == WHOLE:
        return payload
    parts, total = [payload], length
    while flag != LAST:
        if not window.want(8):
            raise malformed(window.name, begin, "truncated: the last part of a split record is missing")
        flag, length = _read_part(window, flag)
        parts.append(_read_payload(window, length))
        total += length + 4
        if total > MOST_BYTES:
            raise malformed(window.name, begin, f"a split record has more than {MOST_BYTES} bytes")
    return (MAGIC_BYTES if join == "dmlc" else b"").join(parts)
