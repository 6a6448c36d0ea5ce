"""Image records of MXNet's im2rec in RecordIO, the ``application/x-recordio`` of SageMaker's image algorithms.

A record begins with 24 bytes: u32 flag, f32 label, u64 id, u64 id2; with ``flag > 0``, `flag` more float32 labels
follow before the image. Source: mxnet ``python/mxnet/recordio.py``, IRHeader.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from runtime.data.formats import recordio
from runtime.data.formats.errors import malformed
from runtime.data.formats.samples import Sample, only
from runtime.data.formats.window import Window

_HEADER = struct.Struct("<IfQQ")


class ImageRecords:
    """The format: samples with ``image`` (bytes), ``label`` (a float, or an array [flag] float32), ``id``, ``id2``."""

    name = "recordio-image"

    def __init__(self, join: recordio.Join = "dmlc") -> None:
        """Choose how split records are joined."""
        self._join: recordio.Join = join

    def samples(self, window: Window) -> Iterator[Sample]:
        """Yield the samples of a shard."""
        at = window.offset
        for record in recordio.read_records(window, join=self._join):
            yield decode(record, window.name, at)
            at = window.offset

    def sample(self, window: Window) -> Sample:
        """Read the one sample of a span."""
        return only(self.samples(window), window)

    def spans(self, window: Window) -> Iterator[tuple[int, int]]:
        """Yield (offset, bytes) of the records."""
        return recordio.record_spans(window)

    def writer(self, stream: BinaryIO) -> "ImageRecordWriter":
        """Begin a shard."""
        return ImageRecordWriter(stream)


class ImageRecordWriter:
    """Writes samples as image records."""

    def __init__(self, stream: BinaryIO) -> None:
        """Write nothing yet."""
        self._records = recordio.RecordWriter(stream)
        self._count = 0

    def write(self, sample: Mapping[str, Any]) -> None:
        """Write one sample: ``image`` bytes, ``label`` a number or several; without ``id`` it is numbered."""
        label = np.asarray(sample.get("label", 0.0), dtype=np.float32)
        flag = 0 if label.ndim == 0 else label.size
        first = float(label) if label.ndim == 0 else 0.0
        head = _HEADER.pack(flag, first, int(sample.get("id", self._count)), int(sample.get("id2", 0)))
        self._records.write(b"".join((head, label.astype("<f4").tobytes() if flag else b"", sample["image"])))
        self._count += 1

    def close(self) -> None:
        """Nothing belongs at the end."""


def decode(record: bytes, file: str, offset: int) -> Sample:
    """Take an image record apart.

    Raises:
        FormatError: it is shorter than its header and labels.
    """
    if len(record) < _HEADER.size:
        raise malformed(file, offset, f"an image record of {len(record)} bytes: its header has {_HEADER.size}")
    flag, label, number, number2 = _HEADER.unpack_from(record)
    begin = _HEADER.size + 4 * flag
    if begin > len(record):
        raise malformed(file, offset, f"an image record claims {flag} labels and has {len(record)} bytes")
    labels: Any = label if not flag else np.frombuffer(record, "<f4", flag, _HEADER.size)
    return {"image": record[begin:], "label": labels, "id": number, "id2": number2}
