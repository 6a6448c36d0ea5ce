"""RecordIO-protobuf: the records of SageMaker's built-in algorithms, dense and sparse.

``Record{features=1: map<string, Value>, label=2: map<string, Value>, uid=3, metadata=4, configuration=5}``;
``Value{float32_tensor=2 | float64_tensor=3 | int32_tensor=7 | bytes=9}``; a tensor is
``{values=1 packed, keys=2 packed u64, shape=3 packed u64}``, sparse when it has keys.
Source: ``recordio_protobuf.proto`` of the SageMaker Python SDK.

In a sample, features keep their names (by convention the one feature is ``values``), the label ``values`` is
``label`` and another label NAME ``label.NAME``; ``__uid__``, ``__metadata__`` and ``__configuration__`` are text.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from runtime.data.formats import recordio
from runtime.data.formats.errors import malformed
from runtime.data.formats.samples import Sample, Sparse, only
from runtime.data.formats.window import Window
from runtime.data.formats.wire import (
    WireError,
    fields,
    numbers,
    put_bytes,
    put_floats,
    put_varints,
    span,
)

_TENSORS = {2: np.dtype("<f4"), 3: np.dtype("<f8"), 7: np.dtype("<i4")}
_BYTES = 9
_MOST_SIDES = 32
_TEXTS = {3: "__uid__", 4: "__metadata__", 5: "__configuration__"}


class RecordIOProtobuf:
    """The format."""

    name = "recordio-protobuf"

    def __init__(self, join: recordio.Join = "dmlc") -> None:
        """Choose how split records are joined."""
        self._join: recordio.Join = join

    def samples(self, window: Window) -> Iterator[Sample]:
        """Yield the samples of a shard."""
        at = window.offset
        layout: Layout | None = None
        for record in recordio.read_records(window, join=self._join):
            sample = layout.decode(record) if layout is not None else None
            if sample is None:
                sample, layout = _decode(record, window.name, at)
            yield sample
            at = window.offset

    def sample(self, window: Window) -> Sample:
        """Read the one sample of a span."""
        return only(self.samples(window), window)

    def spans(self, window: Window) -> Iterator[tuple[int, int]]:
        """Yield (offset, bytes) of the records."""
        return recordio.record_spans(window)

    def writer(self, stream: BinaryIO) -> "RecordIOProtobufWriter":
        """Begin a shard."""
        return RecordIOProtobufWriter(stream)


class RecordIOProtobufWriter:
    """Writes samples as records."""

    def __init__(self, stream: BinaryIO) -> None:
        """Write nothing yet."""
        self._records = recordio.RecordWriter(stream)

    def write(self, sample: Mapping[str, Any]) -> None:
        """Write one sample: arrays of float32, float64 or int32, `Sparse`, bytes."""
        self._records.write(encode(sample))

    def close(self) -> None:
        """Nothing belongs at the end."""


@dataclass(frozen=True)
class Layout:
    """Where the numbers of a dense record lie; records of one data set mostly have the same layout.

    Such a record is decoded in 1 µs where its fields take 8 (and the protobuf library 5): what lies between the numbers
    must be the same, byte by byte.
    """

    size: int
    fixed: tuple[tuple[int, int, bytes], ...]
    """Begin, end and content of what is no number."""
    tensors: tuple[tuple[str, np.dtype[np.generic], int, int, tuple[int, ...]], ...]
    """Name, type, begin, count and shape (empty: as many as there are)."""

    def decode(self, record: bytes) -> Sample | None:
        """Decode a record of this layout; None: it has another."""
        if len(record) != self.size:
            return None
        for begin, end, content in self.fixed:
            if record[begin:end] != content:
                return None
        sample: Sample = {}
        for name, dtype, begin, count, shape in self.tensors:
            values = np.frombuffer(record, dtype, count, begin)
            sample[name] = values.reshape(shape) if shape else values
        return sample


def decode(record: bytes, file: str, offset: int) -> Sample:
    """Decode one record.

    Args:
        record: the message.
        file: for messages.
        offset: of the RecordIO record in it.

    Raises:
        FormatError: no such message, or tensors that contradict themselves.
    """
    return _decode(record, file, offset)[0]


def _decode(record: bytes, file: str, offset: int) -> tuple[Sample, Layout | None]:
    sample: Sample = {}
    places: dict[str, tuple[int, int]] = {}
    try:
        for number, kind, value in fields(record, 0, len(record)):
            if number in (1, 2):
                name, tensor, place = _entry(record, *span(number, kind, value, 0))
                if number == 2:
                    name = "label" if name == "values" else f"label.{name}"
                if name in sample:
                    raise WireError(f"two fields are called {name!r}", 0)
                sample[name] = tensor
                if place is not None:
                    places[name] = place
            elif number in _TEXTS:
                begin, end = span(number, kind, value, 0)
                sample[_TEXTS[number]] = record[begin:end].decode()
    except WireError as error:
        raise malformed(file, offset, f"no protobuf record of tensors: {error}") from error
    except UnicodeDecodeError as error:
        raise malformed(file, offset, "a text of the record is no UTF-8") from error
    return sample, _layout(record, sample, places)


def _layout(record: bytes, sample: Sample, places: dict[str, tuple[int, int]]) -> Layout | None:
    """Return the layout of a record that holds nothing but dense float tensors."""
    if not sample or set(places) != set(sample):
        return None
    tensors: list[tuple[str, np.dtype[np.generic], int, int, tuple[int, ...]]] = []
    fixed: list[tuple[int, int, bytes]] = []
    at = 0
    for name, (begin, end) in sorted(places.items(), key=lambda item: item[1]):
        values = sample[name]
        tensors.append((name, values.dtype, begin, values.size, values.shape if values.ndim > 1 else ()))
        fixed.append((at, begin, record[at:begin]))
        at = end
    fixed.append((at, len(record), record[at:]))
    tensors.sort(key=lambda tensor: list(sample).index(tensor[0]))
    return Layout(len(record), tuple(fixed), tuple(tensors))


def _entry(data: bytes, begin: int, end: int) -> tuple[str, Any, tuple[int, int] | None]:
    """Decode an entry of a map, key=1 and value=2; say where its numbers lie, if a copy of their bytes is all it is."""
    name, inner = "", None
    for number, kind, value in fields(data, begin, end):
        if number == 1:
            a, b = span(number, kind, value, begin)
            name = data[a:b].decode()
        elif number == 2:
            inner = span(number, kind, value, begin)
    if inner is None:
        raise WireError(f"{name!r} has no value", begin)
    found: Any = None
    place: tuple[int, int] | None = None
    for number, kind, value in fields(data, *inner):
        if number in _TENSORS:
            found, place = _tensor(data, *span(number, kind, value, begin), _TENSORS[number], name)
        elif number == _BYTES:
            place = None
            found = _bytes(data, *span(number, kind, value, begin))
    if found is None:
        raise WireError(f"{name!r} holds neither a tensor nor bytes", begin)
    return name, found, place


def _tensor(
    data: bytes, begin: int, end: int, dtype: np.dtype[np.generic], name: str
) -> tuple[npt.NDArray[Any] | Sparse, tuple[int, int] | None]:
    parts: dict[int, list[Any]] = {1: [], 2: [], 3: []}
    for number, kind, value in fields(data, begin, end):
        if number in parts:
            parts[number].append((kind, value))
    values = numbers(data, parts[1], dtype)
    shape = tuple(int(side) for side in numbers(data, parts[3], np.uint64)) if parts[3] else ()
    if len(shape) > _MOST_SIDES or any(side >= 1 << 48 for side in shape):
        raise WireError(f"{name!r} has the impossible shape {shape[:8]}", begin)
    if not parts[2]:
        if shape and math.prod(shape) != len(values):
            raise WireError(f"{name!r} has {len(values)} values for shape {shape}", begin)
        only = parts[1][0][1] if len(parts[1]) == 1 and dtype.kind == "f" else None
        place = only if isinstance(only, tuple) else None
        return values.reshape(shape) if shape else values, place
    keys = numbers(data, parts[2], np.uint64)
    if len(keys) != len(values):
        raise WireError(f"{name!r} has {len(keys)} keys for {len(values)} values", begin)
    if not shape:
        shape = (int(keys.max()) + 1 if len(keys) else 0,)
    if len(keys) and int(keys.max()) >= math.prod(shape):
        raise WireError(f"{name!r} has key {int(keys.max())} outside shape {shape}", begin)
    return Sparse(keys.astype(np.uint64), values, shape), None


def _bytes(data: bytes, begin: int, end: int) -> bytes | list[bytes]:
    found = [data[slice(*span(n, kind, value, begin))] for n, kind, value in fields(data, begin, end) if n == 1]
    return found[0] if len(found) == 1 else found


def encode(sample: Mapping[str, Any]) -> bytes:
    """Encode one sample as a record.

    Raises:
        ValueError: a field of another kind than arrays of float32, float64 or int32, `Sparse`, or bytes.
    """
    texts = {name: number for number, name in _TEXTS.items()}
    out: list[bytes] = []
    for name, value in sample.items():
        if name in texts:
            out.append(put_bytes(texts[name], str(value).encode()))
        elif not name.startswith("__"):
            labels = name == "label" or name.startswith("label.")
            inner = "values" if name == "label" else name.removeprefix("label.")
            entry = put_bytes(1, inner.encode()) + put_bytes(2, _value(name, value))
            out.append(put_bytes(2 if labels else 1, entry))
    return b"".join(out)


def _value(name: str, value: Any) -> bytes:  # noqa: ANN401 - whatever a sample holds; anything strange is refused
    if isinstance(value, bytes | list):
        return put_bytes(
            _BYTES, b"".join(put_bytes(1, item) for item in ([value] if isinstance(value, bytes) else value))
        )
    sparse = value if isinstance(value, Sparse) else None
    array = np.asarray(sparse.values if sparse else value)
    if array.dtype == np.int64 and not sparse and not isinstance(value, np.ndarray):
        array = array.astype(np.int32)  # a plain Python integer
    elif array.dtype == np.float64 and not sparse and not isinstance(value, np.ndarray):
        array = array.astype(np.float32)
    number = {np.dtype("f4"): 2, np.dtype("f8"): 3, np.dtype("i4"): 7}.get(array.dtype)
    if number is None:
        raise ValueError(f"field {name!r} is {array.dtype}: RecordIO-protobuf holds float32, float64, int32 and bytes")
    flat = array.reshape(-1)
    tensor = put_bytes(1, put_varints(map(int, flat)) if number == 7 else put_floats(flat))
    if sparse:
        tensor += put_bytes(2, put_varints(sparse.keys.tolist()))
    shape = sparse.shape if sparse else array.shape
    if sparse or array.ndim > 1:
        tensor += put_bytes(3, put_varints(shape))
    return put_bytes(number, tensor)
