"""CSV by RFC 4180: rows of one width, quotes may hold line ends.

SageMaker's own form has no header and the label in the first column; a header is taken as such when its cells are
names and not numbers, or when told so.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Literal

from runtime.data.formats.errors import malformed
from runtime.data.formats.lines import MOST_LINE_BYTES, read_lines
from runtime.data.formats.samples import Sample, only
from runtime.data.formats.window import Window

Header = Literal["auto", "yes", "no"]


class Csv:
    """The format: a sample is a row, its fields text by the name of the column, or by its number counted from 0."""

    name = "csv"

    def __init__(self, *, delimiter: str = ",", header: Header = "auto", columns: Sequence[str] = ()) -> None:
        """Fix how rows are read.

        Args:
            delimiter: one character.
            header: whether the first row of each file holds names; ``auto``: when no cell of it is a number or empty.
            columns: names, when they are known; needed to read rows that do not begin at the file's start.
        """
        self.delimiter = delimiter
        self.header: Header = header
        self.columns = tuple(columns)

    def samples(self, window: Window) -> Iterator[Sample]:
        """Yield the rows."""
        names = self.columns
        first = window.offset == 0
        for offset, cells in self._rows(window):
            is_header, first = first and self._is_header(cells), False
            if is_header:
                if names and list(names) != cells:
                    raise malformed(window.name, offset, f"the columns are {cells[:8]}, not {list(names)[:8]}")
                names = tuple(cells)
                _refuse_doubles(window.name, offset, names)
                continue
            if not names:
                names = tuple(str(number) for number in range(len(cells)))
            if len(cells) != len(names):
                raise malformed(window.name, offset, f"a row of {len(cells)} cells where {len(names)} are expected")
            yield dict(zip(names, cells, strict=True))

    def sample(self, window: Window) -> Sample:
        """Read the one sample of a span."""
        return only(self.samples(window), window)

    def spans(self, window: Window) -> Iterator[tuple[int, int]]:
        """Yield (offset, bytes) of the rows; a header is none."""
        first = window.offset == 0
        for offset, text in _whole_rows(window):
            is_header, first = first and self._is_header(self._cells(window.name, offset, text)), False
            if not is_header:
                yield offset, len(text)

    def head(self, window: Window) -> "Csv":
        """Return this format with the names of the file's columns, so that rows can be read anywhere in it."""
        for offset, cells in self._rows(window):
            names = tuple(cells) if self._is_header(cells) else tuple(str(number) for number in range(len(cells)))
            _refuse_doubles(window.name, offset, names)
            return Csv(delimiter=self.delimiter, header="yes" if self._is_header(cells) else "no", columns=names)
        return self

    def writer(self, stream: BinaryIO) -> "CsvWriter":
        """Begin a shard."""
        return CsvWriter(stream, self.delimiter, with_header=self.header != "no")

    def _rows(self, window: Window) -> Iterator[tuple[int, list[str]]]:
        return ((offset, self._cells(window.name, offset, text)) for offset, text in _whole_rows(window))

    def _cells(self, file: str, offset: int, text: bytes) -> list[str]:
        try:
            line = text.decode().rstrip("\r\n")
            if '"' not in line and "\r" not in line:
                return line.split(self.delimiter)
            if len(line) > csv.field_size_limit():
                csv.field_size_limit(MOST_LINE_BYTES)  # Python's own limit is 128 KiB; lines have ours
            rows = list(csv.reader([line], delimiter=self.delimiter, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise malformed(file, offset, f"no row of CSV: {error}") from error
        if len(rows) != 1:
            raise malformed(file, offset, "a carriage return outside of quotes")
        return rows[0]

    def _is_header(self, cells: Sequence[str]) -> bool:
        if self.header != "auto":
            return self.header == "yes"
        return not any(cell.strip() == "" or _is_number(cell) for cell in cells)


class CsvWriter:
    """Writes samples as rows; the first one names the columns."""

    def __init__(self, stream: BinaryIO, delimiter: str, *, with_header: bool) -> None:
        """Write nothing yet."""
        self._stream = stream
        self._delimiter = delimiter
        self._columns: tuple[str, ...] = ()
        self._with_header = with_header

    def write(self, sample: Mapping[str, Any]) -> None:
        """Write one row.

        Raises:
            ValueError: other fields than in the first sample, or one that is no text and no number.
        """
        if not self._columns:
            self._columns = tuple(sample)
            if self._with_header:
                self._put(self._columns)
        if tuple(sample) != self._columns:
            raise ValueError(f"a row has the fields {tuple(sample)}, the first one had {self._columns}")
        cells = list(sample.values())
        wrong = [
            name
            for name, cell in sample.items()
            if not isinstance(cell, str | int | float) and hasattr(cell, "__len__")
        ]
        if wrong:
            raise ValueError(f"fields {wrong} are neither text nor numbers")
        self._put(cells)

    def _put(self, cells: Sequence[object]) -> None:
        text = io.StringIO()
        csv.writer(text, delimiter=self._delimiter, lineterminator="\n").writerow(cells)
        self._stream.write(text.getvalue().encode())

    def close(self) -> None:
        """Nothing belongs at the end."""


def _whole_rows(window: Window) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, row); lines are joined while a quote is open. Empty lines are no rows."""
    begin, parts, size = 0, [], 0
    odd = False
    for offset, line in read_lines(window):
        if not parts:
            if line in (b"\n", b"\r\n"):
                continue
            begin = offset
        parts.append(line)
        size += len(line)
        odd ^= line.count(b'"') % 2 == 1
        if odd:
            if size > MOST_LINE_BYTES:
                raise malformed(window.name, begin, f"a quote is open for more than {MOST_LINE_BYTES} bytes")
            continue
        yield begin, parts[0] if len(parts) == 1 else b"".join(parts)
        parts, size = [], 0
    if parts:
        raise malformed(window.name, begin, "a quote that opens here never closes")


def _refuse_doubles(file: str, offset: int, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise malformed(file, offset, f"two columns are called {twice[0]!r}")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
