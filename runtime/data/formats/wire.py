"""The wire format of protocol buffers: as much of it as records of tensors and tf.train.Example need.

Our own, 200 lines, because images and users' scripts pin protobuf in versions that exclude each other, and a reader of
data must not take part in that. The library (7.36, upb) decodes a record of two tensors in 5 µs, this in 8; where
records are alike, `recordio_protobuf.Layout` takes 1. Source: protobuf.dev, "Encoding".
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Value = int | tuple[int, int]
"""An integer (raw bits for the fixed types), or the (begin, end) of bytes."""


class WireError(Exception):
    """The bytes are no message; `at` is where."""

    def __init__(self, what: str, at: int) -> None:
        super().__init__(what)
        self.at = at


def fields(data: bytes, begin: int, end: int) -> Iterator[tuple[int, int, Value]]:
    """Yield (field number, wire type, value) of the message in ``data[begin:end]``.

    Raises:
        WireError: it is none.
    """
    at = begin
    while at < end:
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = _varint(data, at - 1, end)
        kind, number = tag & 7, tag >> 3
        if number == 0 or number >= 1 << 29:
            raise WireError(f"field number {number}", at)
        if kind == BYTES:
            if at < end and data[at] < 0x80:
                length = data[at]
                at += 1
            else:
                length, at = _varint(data, at, end)
            if length > end - at:
                raise WireError(f"field {number} claims {length} bytes, {end - at} are left", at)
            yield number, kind, (at, at + length)
            at += length
        elif kind == VARINT:
            value, at = _varint(data, at, end)
            yield number, kind, value
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
            if size > end - at:
                raise WireError(f"field {number} is truncated", at)
            yield number, kind, int.from_bytes(data[at : at + size], "little")
            at += size
        else:
            raise WireError(f"field {number} has wire type {kind}", at)


def span(number: int, kind: int, value: Value, at: int) -> tuple[int, int]:
    """Return the (begin, end) of a field that must be bytes."""
    if kind != BYTES or isinstance(value, int):
        raise WireError(f"field {number} has wire type {kind} in place of bytes", at)
    return value


def numbers(data: bytes, found: Iterable[tuple[int, Value]], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """Join a repeated number, packed or not, to one array.

    Args:
        data: the message's bytes.
        found: (wire type, value) of each occurrence of the field.
        dtype: float32 and float64 are fixed-width on the wire; int32, int64 and uint64 are varints.

    Raises:
        WireError: a wire type that does not fit, or a piece that is cut.
    """
    kind = np.dtype(dtype)
    fixed = {"<f4": FIXED32, "<f8": FIXED64}.get(kind.newbyteorder("<").str, VARINT)
    pieces: list[npt.NDArray[np.generic]] = []
    single: list[int] = []
    for wire, value in found:
        if isinstance(value, tuple):
            if single:
                pieces.append(_single(single, kind, fixed))
                single = []
            begin, end = value
            pieces.append(_packed(data, begin, end, kind, fixed))
        elif wire == fixed:
            single.append(value)
        else:
            raise WireError(f"a number of wire type {wire} in place of {fixed}", 0)
    if single:
        pieces.append(_single(single, kind, fixed))
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if pieces else np.empty(0, kind)


def _single(values: list[int], kind: np.dtype[np.generic], fixed: int) -> npt.NDArray[np.generic]:
    if fixed == FIXED32:
        return np.array(values, dtype="<u4").view("<f4")
    if fixed == FIXED64:
        return np.array(values, dtype="<u8").view("<f8")
    return np.array(values, dtype=np.uint64).astype(kind)


def _packed(data: bytes, begin: int, end: int, kind: np.dtype[np.generic], fixed: int) -> npt.NDArray[np.generic]:
    if fixed != VARINT:
        if (end - begin) % kind.itemsize:
            raise WireError(f"{end - begin} bytes of packed {kind.name} are no whole number of them", begin)
        return np.frombuffer(data, kind.newbyteorder("<"), (end - begin) // kind.itemsize, begin)
    return varints(data, begin, end).astype(kind)


def varints(data: bytes, begin: int, end: int) -> npt.NDArray[np.uint64]:
    """Decode packed varints without a loop over them.

    Raises:
        WireError: the last one is cut, or one has more than 10 bytes.
    """
    raw = np.frombuffer(data, np.uint8, end - begin, begin)
    if not raw.size:
        return np.empty(0, np.uint64)
    if raw[-1] >= 0x80:
        raise WireError("packed integers are truncated", end)
    if raw.max() < 0x80:
        return raw.astype(np.uint64)
    ends = np.flatnonzero(raw < 0x80)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > 10:
        raise WireError("an integer of more than 10 bytes", begin + int(starts[int(lengths.argmax())]))
    result = np.zeros(len(ends), np.uint64)
    for place in range(longest):
        there = lengths > place
        result[there] |= (raw[starts[there] + place] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * place)
    return result


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    result = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise WireError("an integer is truncated" if at >= end else "an integer of more than 10 bytes", at)


def put_varint(value: int) -> bytes:
    """Encode one integer; a negative one takes its 64-bit two's complement, as int32 and int64 do."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def put_bytes(number: int, value: bytes) -> bytes:
    """Encode a field of bytes, text, a message, or packed numbers."""
    return put_varint(number << 3 | BYTES) + put_varint(len(value)) + value


def put_varints(values: Iterable[int]) -> bytes:
    """Encode packed integers."""
    return b"".join(map(put_varint, values))


def put_floats(values: npt.ArrayLike) -> bytes:
    """Encode packed float32 or float64."""
    array = np.asarray(values)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


__all__ = ["WireError", "fields", "numbers", "put_bytes", "put_floats", "put_varint", "put_varints", "span"]
