"""tf.train.Example in TFRecord files.

``Example{features=1: Features{feature=1: map<string, Feature>}}``;
``Feature{bytes_list=1 | float_list=2 | int64_list=3}``, each ``{value=1 repeated}``.
Source: tensorflow/core/example/feature.proto.

In a sample, floats are float32 arrays, integers int64 arrays, and one byte string is ``bytes``, several a list.
"""

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from runtime.data.formats import tfrecord
from runtime.data.formats.errors import malformed
from runtime.data.formats.samples import Sample, only
from runtime.data.formats.window import Window
from runtime.data.formats.wire import WireError, fields, numbers, put_bytes, put_floats, put_varints, span

_BYTES, _FLOATS, _INTEGERS = 1, 2, 3


class TFExample:
    """The format."""

    name = "tfrecord"

    def samples(self, window: Window) -> Iterator[Sample]:
        """Yield the samples of a shard."""
        at = window.offset
        for record in tfrecord.read_records(window):
            yield decode(record, window.name, at)
            at = window.offset

    def sample(self, window: Window) -> Sample:
        """Read the one sample of a span."""
        return only(self.samples(window), window)

    def spans(self, window: Window) -> Iterator[tuple[int, int]]:
        """Yield (offset, bytes) of the records."""
        return tfrecord.record_spans(window)

    def writer(self, stream: BinaryIO) -> "TFExampleWriter":
        """Begin a shard."""
        return TFExampleWriter(stream)


class TFExampleWriter:
    """Writes samples as examples."""

    def __init__(self, stream: BinaryIO) -> None:
        """Write nothing yet."""
        self._records = tfrecord.TFRecordWriter(stream)

    def write(self, sample: Mapping[str, Any]) -> None:
        """Write one sample: bytes, text, and arrays of floats or integers of at most one dimension."""
        self._records.write(encode(sample))

    def close(self) -> None:
        """Nothing belongs at the end."""


def decode(record: bytes, file: str, offset: int) -> Sample:
    """Decode one example.

    Raises:
        FormatError: it is none.
    """
    sample: Sample = {}
    try:
        for number, kind, value in fields(record, 0, len(record)):
            if number != 1:
                continue
            for inner, inner_kind, entry in fields(record, *span(number, kind, value, 0)):
                if inner == 1:
                    name, feature = _entry(record, *span(inner, inner_kind, entry, 0))
                    if name in sample:
                        raise WireError(f"two features are called {name!r}", 0)
                    sample[name] = feature
    except WireError as error:
        raise malformed(file, offset, f"no tf.train.Example: {error}") from error
    except UnicodeDecodeError as error:
        raise malformed(file, offset, "the name of a feature is no UTF-8") from error
    return sample


def _entry(data: bytes, begin: int, end: int) -> tuple[str, Any]:
    name, feature = "", None
    for number, kind, value in fields(data, begin, end):
        if number == 1:
            a, b = span(number, kind, value, begin)
            name = data[a:b].decode()
        elif number == 2:
            feature = span(number, kind, value, begin)
    if feature is None:
        raise WireError(f"feature {name!r} has no value", begin)
    found: Any = []  # a feature without any list is valid: it is missing in this example
    for number, kind, value in fields(data, *feature):
        a, b = span(number, kind, value, begin)
        values = [(k, v) for n, k, v in fields(data, a, b) if n == 1]
        if number == _BYTES:
            texts = [data[slice(*span(1, k, v, a))] for k, v in values]
            found = texts[0] if len(texts) == 1 else texts
        elif number == _FLOATS:
            found = numbers(data, values, np.dtype("<f4"))
        elif number == _INTEGERS:
            found = numbers(data, values, np.int64)
    return name, found


def encode(sample: Mapping[str, Any]) -> bytes:
    """Encode one sample as an example.

    Raises:
        ValueError: a field that is neither bytes, text nor numbers of at most one dimension.
    """
    entries: list[bytes] = []
    for name, value in sample.items():
        entries.append(put_bytes(1, put_bytes(1, name.encode()) + put_bytes(2, _feature(name, value))))
    return put_bytes(1, b"".join(entries))


def _feature(name: str, value: Any) -> bytes:  # noqa: ANN401 - whatever a sample holds; anything strange is refused
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        value = [value]
    if isinstance(value, list) and all(isinstance(item, bytes) for item in value):
        return put_bytes(_BYTES, b"".join(put_bytes(1, item) for item in value)) if value else b""
    array = np.asarray(value)
    if array.ndim > 1 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"field {name!r} is {array.dtype} of shape {array.shape}: an Example holds flat numbers and bytes"
        )
    flat = array.reshape(-1)
    if array.dtype.kind == "f":
        return put_bytes(_FLOATS, put_bytes(1, put_floats(flat.astype(np.float32))))
    return put_bytes(_INTEGERS, put_bytes(1, put_varints(flat.tolist())))
