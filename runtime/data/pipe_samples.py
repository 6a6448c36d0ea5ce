"""From the bytes of a Pipe channel to samples: raw objects one after another, wrapped objects, augmented manifests.

Raw: the service writes object after object with no border, so a reader goes on behind the end of an archive or a
member of gzip. Wrapped (``RecordWrapperType=RecordIO``): each object is one record. Augmented manifests: each line is
as many records as it has attributes, in their order.
Source: "How Amazon SageMaker AI Provides Training Information" and "Augmented manifest files", developer guide.
"""

import gzip
import io
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from runtime.base.errors import UserError
from runtime.base.log import Log
from runtime.data.formats.errors import malformed
from runtime.data.formats.probe import HEAD_BYTES, SPAN_FORMATS, Found, parse_content_type, probe_window
from runtime.data.formats.recordio import Join, read_records
from runtime.data.formats.samples import Sample, Sparse
from runtime.data.formats.window import MIB, MOST_UNPACKED_BYTES, Readable, Window
from runtime.data.formats.wrapped import first_bytes, wrapped_objects
from runtime.data.images import SIGNATURES

log = Log("data")

GZIP = b"\x1f\x8b\x08"
TEXT_LIMIT = 1 << 20
"""Bytes of an attribute's text that are looked at for a number."""


@dataclass(frozen=True)
class PipeFormat:
    """What the configuration says about the bytes of a Pipe channel."""

    channel: str
    content_type: str = ""
    wrapped: bool = False
    """``RecordWrapperType`` is ``RecordIO``."""
    attributes: tuple[str, ...] = ()
    """Of an augmented manifest, in the order of the stream; empty: the channel is none."""


@dataclass
class PipeSamples:
    """The samples of one epoch, and what was found to be in it."""

    format: str = ""
    """As `runtime.data.formats.probe` names it; ``images`` and ``npy``: each object is a sample; ``augmented``."""
    reason: str = ""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    empty_objects: int = 0
    """Wrapped objects without a byte, which are no samples."""


def read_samples(stream: Readable, told: PipeFormat, name: str, found: PipeSamples) -> Iterator[Sample]:
    """Yield the samples of one epoch.

    Args:
        stream: of the FIFO.
        told: by the configuration.
        name: of the stream, for messages.
        found: is filled in before the first sample.

    Raises:
        UserError: what is told does not fit what is there, or no format that can be read forward.
        FormatError: with the byte of the (unpacked) stream.
    """
    window = _window(stream, name)
    _, options = parse_content_type(told.content_type)
    found.options = options
    if options.get("join", "concat") not in ("concat", "dmlc"):
        raise UserError(f"join={options['join']!r} in the content type of {told.channel!r}", allowed="concat or dmlc")
    join = cast(Join, options.get("join", "concat"))
    if told.attributes:
        return _groups(window, told, join, found)
    if told.wrapped:
        return _wrapped(window, told, join, found)
    return _raw(window, told, found)


def _window(stream: Readable, name: str) -> Window:
    """Open a stream; one that begins with a member of gzip is unpacked, member after member."""
    head = b""
    while len(head) < len(GZIP) and (more := stream.read(len(GZIP) - len(head))):
        head += more
    joined = _Joined(head, stream)
    if head != GZIP:
        return Window(joined, name)
    packed = io.BufferedReader(cast(io.RawIOBase, joined), MIB)
    window = Window(gzip.GzipFile(fileobj=packed), name)
    window.most = MOST_UNPACKED_BYTES
    return window


class _Joined(io.RawIOBase):
    """Some bytes that were read already, and the stream behind them."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head = head
        self._stream: Any = stream

    def readable(self) -> bool:
        return True

    def readinto(self, view: Any) -> int:  # noqa: ANN401 - a writable buffer
        target = memoryview(view)
        if self._head:
            count = min(len(target), len(self._head))
            target[:count], self._head = self._head[:count], self._head[count:]
            return count
        return self._stream.readinto(target)


def _raw(window: Window, told: PipeFormat, found: PipeSamples) -> Iterator[Sample]:
    kind = _probe(window, told)
    if kind is None:
        return
    found.format, found.reason = kind.format, kind.reason
    if kind.format not in SPAN_FORMATS:
        raise UserError(
            f"Channel {told.channel!r} is {kind.format}, which has no borders in a raw stream",
            allowed=f"raw Pipe streams of {', '.join(SPAN_FORMATS)}",
            fix="set RecordWrapperType to RecordIO, so that each object is one record, or use mode File or FastFile",
        )
    yield from _rows(kind.format, SPAN_FORMATS[kind.format]().samples(window))


def _rows(form: str, samples: Iterator[Sample]) -> Iterator[Sample]:
    """Leave out the header lines of further CSV files: behind the first one they are cells like others."""
    if form not in ("csv", "tsv"):
        return samples
    return (sample for sample in samples if any(name != value for name, value in sample.items()))


def _wrapped(window: Window, told: PipeFormat, join: Join, found: PipeSamples) -> Iterator[Sample]:
    head = first_bytes(window, HEAD_BYTES)
    if not head:
        return
    field_name = _whole(head, told, found)
    if field_name:
        for payload in read_records(window, join=join):
            if payload:
                yield {field_name: payload}
            else:
                found.empty_objects += 1
        return
    if head.startswith(GZIP):
        head = _unpacked(head, f"{window.name}, its first object")
    kind = _probe(Window.of(head, f"{window.name}, its first object"), told)
    if kind is None:
        return
    found.format, found.reason = kind.format, f"of its first wrapped object, {kind.reason}"
    if kind.format not in SPAN_FORMATS:
        raise UserError(
            f"Channel {told.channel!r} holds wrapped objects of {kind.format}, which are not read from a stream",
            allowed=f"wrapped images, .npy, {', '.join(SPAN_FORMATS)}",
            fix="use mode File or FastFile",
        )
    for one in wrapped_objects(window, join=join):
        if one.size == 0:
            found.empty_objects += 1
            continue
        inner = _window(one, f"{window.name}, object {one.number}")
        yield from SPAN_FORMATS[kind.format]().samples(inner)


def _whole(head: bytes, told: PipeFormat, found: PipeSamples) -> str:
    """Say under which name each wrapped object is a sample of its own; empty when it holds several."""
    form, _ = parse_content_type(told.content_type)
    if form == "images":
        found.format, found.reason = "images", f"its content type is {told.content_type}"
        return "image"
    if form == "" and is_image(head):
        found.format, found.reason = "images", "each wrapped object begins as an image does"
        return "image"
    if form in ("", "npy") and head.startswith(b"\x93NUMPY"):
        found.format, found.reason = "npy", "each wrapped object begins as .npy files do"
        return "npy"
    return ""


def is_image(head: bytes) -> bool:
    """Whether some bytes begin as an image does, and not as a text such as ``BMW,1``."""
    if head.startswith(b"BM"):
        return head[6:10] == bytes(4)
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    return head.startswith(SIGNATURES)


def _groups(window: Window, told: PipeFormat, join: Join, found: PipeSamples) -> Iterator[Sample]:
    if not told.wrapped:
        raise UserError(
            f"Channel {told.channel!r} has attributes of an augmented manifest and RecordWrapperType None: nothing "
            "tells where one attribute ends",
            fix="set RecordWrapperType to RecordIO",
        )
    found.format = "augmented"
    found.reason = f"slipway_attribute_names names its attributes: {', '.join(told.attributes)}"
    records = read_records(window, join=join)
    number = 0
    names: Sequence[str] = ()
    while group := list(itertools.islice(records, len(told.attributes))):
        if len(group) < len(told.attributes):
            raise malformed(
                window.name,
                window.offset,
                f"group {number} has {len(group)} of {len(told.attributes)} attributes ({', '.join(told.attributes)})",
                fix="name exactly the channel's AttributeNames, in their order",
            )
        names = names or _field_names(told.attributes, group)
        yield dict(zip(names, group, strict=True))
        number += 1


def _field_names(attributes: Sequence[str], first: Sequence[bytes]) -> tuple[str, ...]:
    """Name the fields so that views know them: the first image, and the first other attribute as its label or text."""
    names = list(attributes)
    image = next((at for at, value in enumerate(first) if is_image(value)), None)
    if image is None:
        return tuple(names)
    names[image] = "image"
    other = next((at for at in range(len(first)) if at != image), None)
    if other is not None:
        names[other] = "label" if _is_number(first[other]) else "text"
    if len(set(names)) < len(names):  # another attribute is called so already
        return tuple(attributes)
    return tuple(names)


def _is_number(value: bytes) -> bool:
    try:
        float(value[:TEXT_LIMIT])
    except ValueError:
        return False
    return True


def _unpacked(head: bytes, name: str) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(head, HEAD_BYTES)
    except zlib.error as error:
        raise malformed(name, 0, f"damaged gzip data: {error}") from error


def _probe(window: Window, told: PipeFormat) -> Found | None:
    """Say which format a stream has; None: nothing is in it."""
    if not window.want(1):
        return None
    return probe_window(window, Path(told.channel), told.content_type)


def fingerprint(sample: Sample, before: int) -> int:
    """Carry on a checksum over samples: sizes, and heads and tails of the fields. 32 bits."""
    total = before
    for name, value in sample.items():
        if isinstance(value, bytes):
            data = value if len(value) <= 128 else b"".join((value[:64], value[-64:], len(value).to_bytes(8, "little")))
        elif isinstance(value, np.ndarray):
            data = np.ascontiguousarray(value.reshape(-1)[:16]).tobytes() + repr(value.shape).encode()
        elif isinstance(value, Sparse):
            data = value.keys[:16].tobytes() + value.values[:16].tobytes() + repr(value.shape).encode()
        else:
            data = repr(value).encode("utf-8", "surrogatepass")
        total = zlib.crc32(data, zlib.crc32(name.encode("utf-8", "surrogateescape"), total))
    return total


def weigh(sample: Sample) -> int:
    """Estimate a sample's bytes in memory."""
    total = 200
    for value in sample.values():
        if isinstance(value, bytes | str):
            total += 60 + len(value)
        elif isinstance(value, np.ndarray):
            total += 120 + value.nbytes
        elif isinstance(value, Sparse):
            total += 240 + value.keys.nbytes + value.values.nbytes
        else:
            total += 60
    return total


__all__ = ["PipeFormat", "PipeSamples", "fingerprint", "read_samples", "weigh"]
