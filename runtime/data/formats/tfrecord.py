"""TFRecord: records with a masked CRC-32C of the length and of the data; both are always checked.

u64 length, u32 masked CRC of these 8 bytes, data, u32 masked CRC of the data, all little-endian. The mask is
``((crc >> 15) | (crc << 17)) + 0xa282ead8`` modulo 2^32. Source: tensorflow/core/lib/io/record_writer.h.
"""

import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, BinaryIO

from runtime.base.errors import UserError
from runtime.data.formats.errors import malformed
from runtime.data.formats.window import MOST_BYTES, Window

if TYPE_CHECKING:
    from typing_extensions import Buffer

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_MOST_KNOWN = 4096


@cache
def crc32c() -> "Callable[[Buffer], int]":
    """Return the checksum function.

    Of fastcrc: 0.5 µs for 25 kB where google-crc32c and crc32c take 0.9, in place on any buffer, typed, MIT; wheels for
    x86 and ARM, and never a pure Python form, which nobody could read data with.

    Raises:
        UserError: it is not installed.
    """
    try:
        from fastcrc import crc32
    except ImportError as error:
        raise UserError(
            "TFRecord files need the checksum library fastcrc, which is not installed",
            fix="pip install 'slipway[data]'",
        ) from error
    return crc32.iscsi


def mask(crc: int) -> int:
    """Mask a checksum as TFRecord does."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def looks_like_tfrecord(head: bytes) -> bool:
    """Tell whether a file begins with a length and its checksum; False where checksums cannot be had."""
    if len(head) < _HEADER.size:
        return False
    try:
        crc = crc32c()(head[:8])
    except UserError:
        return False
    return mask(crc) == _HEADER.unpack_from(head)[1]


def read_records(window: Window) -> Iterator[bytes]:
    """Yield the data of all records.

    Raises:
        FormatError: a checksum that does not fit, a truncated record.
    """
    checksum, unpack, crc_at = crc32c(), _HEADER.unpack_from, _CRC.unpack_from
    known: dict[int, int] = {}  # checksums of lengths, which repeat
    while True:
        buffer, view, at, end = window.buffer, window.view, window.begin, window.end
        while end - at >= 16:
            length, head_crc = unpack(buffer, at)
            stop = at + 12 + length
            if stop + 4 > end:
                break
            head = known.get(length)
            if head is None:
                head = mask(checksum(view[at : at + 8]))
                if len(known) < _MOST_KNOWN:
                    known[length] = head
            if head != head_crc:
                break
            data = bytes(view[at + 12 : stop])
            crc = checksum(data)  # masked in place: a call of `mask` costs a tenth of reading the record
            if (crc >> 15 | (crc & 0x7FFF) << 17) + 0xA282EAD8 & 0xFFFFFFFF != crc_at(buffer, stop)[0]:
                break
            at = window.begin = stop + 4
            yield data
        if not window.want(12):
            return
        yield _read_slowly(window)


def record_spans(window: Window) -> Iterator[tuple[int, int]]:
    """Yield (offset, bytes) of every record; checks the lengths, and leaves the data to whoever reads it."""
    while window.want(12):
        begin = window.offset
        length = _read_length(window)
        window.skip(length + 4, "a record")
        yield begin, length + 16


def _read_length(window: Window) -> int:
    window.expect(12, "the header of a record")
    length, crc = _HEADER.unpack_from(window.buffer, window.begin)
    if mask(crc32c()(window.view[window.begin : window.begin + 8])) != crc:
        raise malformed(window.name, window.offset, "no TFRecord record: the checksum of its length is wrong")
    if length > MOST_BYTES:
        raise malformed(window.name, window.offset, f"a record claims {length} bytes, more than {MOST_BYTES}")
    window.begin += 12
    return length


def _read_slowly(window: Window) -> bytes:
    begin = window.offset
    length = _read_length(window)
    window.expect(length + 4, "a record")
    data = bytes(window.view[window.begin : window.begin + length])
    (crc,) = _CRC.unpack_from(window.buffer, window.begin + length)
    if mask(crc32c()(data)) != crc:
        raise malformed(window.name, begin, f"the data of a record ({length} bytes) do not fit their checksum")
    window.begin += length + 4
    return data


class TFRecordWriter:
    """Writes records."""

    def __init__(self, stream: BinaryIO) -> None:
        """Write nothing yet."""
        self._stream = stream

    def write(self, data: bytes) -> None:
        """Write one record."""
        length = struct.pack("<Q", len(data))
        checksum = crc32c()
        crcs = _CRC.pack(mask(checksum(length))), _CRC.pack(mask(checksum(data)))
        self._stream.write(b"".join((length, crcs[0], data, crcs[1])))
