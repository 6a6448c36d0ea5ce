"""Lines of text files, however long the file, and JSON lines."""

import codecs
import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from runtime.data.formats.errors import malformed
from runtime.data.formats.samples import Sample, only
from runtime.data.formats.window import MIB, Window

MOST_LINE_BYTES = 64 * MIB


def read_lines(window: Window) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) with its end; a byte-order mark at the beginning of the file is left out.

    Raises:
        FormatError: a line of more than `MOST_LINE_BYTES`.
    """
    if window.offset == 0 and window.want(3) >= 3 and bytes(window.view[:3]) == codecs.BOM_UTF8:
        window.begin += 3
    ahead = 0
    while True:
        at = window.begin
        stop = window.buffer.find(b"\n", at + ahead, window.end)
        if stop < 0:
            have = window.end - at
            if have > MOST_LINE_BYTES:
                raise malformed(window.name, window.offset, f"a line of more than {MOST_LINE_BYTES} bytes")
            if window.want(have + 1) > have:
                ahead = have
                continue
            if not have:
                return
            stop = window.end - 1
        ahead = 0
        at = window.begin
        offset = window.offset
        line = bytes(window.view[at : stop + 1])
        window.begin = stop + 1
        yield offset, line


class JsonLines:
    """The format: one JSON object per line is one sample; empty lines are none."""

    name = "jsonlines"

    def samples(self, window: Window) -> Iterator[Sample]:
        """Yield the samples of a shard."""
        for offset, line in read_lines(window):
            text = line.strip()
            if not text:
                continue
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise malformed(window.name, offset, f"no line of JSON: {error}") from error
            if not isinstance(value, dict):
                raise malformed(window.name, offset, f"a line holds {type(value).__name__}, not an object")
            yield value

    def sample(self, window: Window) -> Sample:
        """Read the one sample of a span."""
        return only(self.samples(window), window)

    def spans(self, window: Window) -> Iterator[tuple[int, int]]:
        """Yield (offset, bytes) of the lines that are not empty."""
        return ((offset, len(line)) for offset, line in read_lines(window) if not line.isspace())

    def writer(self, stream: BinaryIO) -> "JsonLinesWriter":
        """Begin a shard."""
        return JsonLinesWriter(stream)


class JsonLinesWriter:
    """Writes samples as lines."""

    def __init__(self, stream: BinaryIO) -> None:
        """Write nothing yet."""
        self._stream = stream

    def write(self, sample: Mapping[str, Any]) -> None:
        """Write one sample of JSON values; arrays become lists.

        Raises:
            ValueError: bytes, or something else that JSON does not hold.
        """
        try:
            text = json.dumps(dict(sample), ensure_ascii=False, separators=(",", ":"), default=_plain)
        except TypeError as error:
            raise ValueError(str(error)) from error
        self._stream.write(text.encode("utf-8", "surrogatepass") + b"\n")

    def close(self) -> None:
        """Nothing belongs at the end."""


def _plain(value: Any) -> Any:  # noqa: ANN401 - what json cannot write
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"JSON lines hold no {type(value).__name__}")
