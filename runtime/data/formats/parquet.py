"""Parquet through pyarrow (extra `parquet`): rows as samples, a row group in memory at a time."""

import bisect
import importlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from runtime.base.errors import PlatformError, UserError
from runtime.data.formats.errors import FormatError, malformed
from runtime.data.formats.samples import Sample
from runtime.data.formats.window import MOST_BYTES

ROWS_PER_GROUP = 4096
HELD_BYTES = 256 << 20
"""Row groups that a reader keeps decoded; the newest one in any case."""


def _pyarrow() -> Any:  # noqa: ANN401 - a module without types
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise UserError(
            "Parquet files need pyarrow, which is not installed", fix="pip install 'slipway[parquet]'"
        ) from error


class ParquetFile:
    """One opened file."""

    def __init__(self, path: Path, columns: tuple[str, ...] = ()) -> None:
        """Read the file's footer.

        Args:
            path: of the file.
            columns: to be read; none: all.

        Raises:
            FormatError: no Parquet, or a row group that does not fit into memory by its own words.
            UserError: pyarrow is missing, or a column is.
        """
        arrow = _pyarrow()
        self.path = path
        self._columns = list(columns) or None
        try:
            self._file: Any = arrow.parquet.ParquetFile(path)
            meta = self._file.metadata
            groups = [meta.row_group(number) for number in range(meta.num_row_groups)]
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from error
        missing = [name for name in columns if name not in self._file.schema_arrow.names]
        if missing:
            raise UserError(f"{path} has no column {missing[0]!r}", allowed=f"columns: {self._file.schema_arrow.names}")
        self._starts = [0]
        for number, group in enumerate(groups):
            if group.total_byte_size > MOST_BYTES or group.num_rows < 0:
                raise malformed(str(path), 0, f"row group {number} claims {group.total_byte_size} bytes")
            self._starts.append(self._starts[-1] + group.num_rows)
        self.close()
        self.largest_group = max((group.total_byte_size for group in groups), default=0)
        """Bytes of the largest row group, decompressed."""
        self._held: OrderedDict[int, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens the file itself, and decodes what it needs."""
        return {**self.__dict__, "_file": None, "_held": OrderedDict()}

    def __len__(self) -> int:
        """Count the rows."""
        return self._starts[-1]

    def __getitem__(self, index: int) -> Sample:
        """Read one row; row groups that were read lately are kept."""
        group = bisect.bisect_right(self._starts, index) - 1
        if group in self._held:
            self._held.move_to_end(group)
        else:
            self._held[group] = self._group(group)
            while len(self._held) > 1 and sum(table.nbytes for table in self._held.values()) > HELD_BYTES:
                self._held.popitem(last=False)
        return self._rows(self._held[group].slice(index - self._starts[group], 1))[0]

    def __iter__(self) -> Iterator[Sample]:
        """Yield all rows."""
        for group in range(len(self._starts) - 1):
            for batch in self._group(group).to_batches(1024):
                yield from self._rows(batch)

    def blocks(self, size: int) -> npt.NDArray[np.int64]:
        """Return the numbers of the first rows of the row groups, whatever their size."""
        del size
        return np.array(self._starts[:-1], dtype=np.int64)

    def close(self) -> None:
        """Close the file; the next row opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rows(self, table: Any) -> list[Sample]:  # noqa: ANN401 - an Arrow table, or a batch of one
        try:
            return table.to_pylist()
        except (_pyarrow().ArrowException, ValueError, OverflowError) as error:  # such as text that is no UTF-8
            raise self._damaged(error) from error

    def _group(self, number: int) -> Any:  # noqa: ANN401 - an Arrow table
        arrow = _pyarrow()
        try:
            if self._file is None:
                self._file = arrow.parquet.ParquetFile(self.path)
            # Arrow's threads do not survive the fork of a loader worker; the workers are the parallel part.
            table = self._file.read_row_group(number, columns=self._columns, use_threads=False)
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from error
        expected = self._starts[number + 1] - self._starts[number]
        if table.num_rows != expected:
            raise malformed(str(self.path), 0, f"row group {number} has {table.num_rows} rows and claims {expected}")
        return table

    def _damaged(self, error: Exception) -> FormatError | PlatformError:
        if isinstance(error, OSError) and error.errno is not None:
            return PlatformError(f"{self.path} cannot be read: {error.strerror}")
        return malformed(
            str(self.path), 0, f"no readable Parquet: {str(error).splitlines()[0] if str(error) else error!r}"
        )


class ParquetWriter:
    """Writes samples as rows, in row groups of `ROWS_PER_GROUP`."""

    def __init__(self, stream: BinaryIO) -> None:
        """Write nothing yet; the first rows fix the columns and their types."""
        self._stream = stream
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None

    def write(self, sample: Mapping[str, Any]) -> None:
        """Write one row.

        Raises:
            ValueError: other columns or types than the first rows had.
        """
        self._rows.append(
            {name: value.tolist() if hasattr(value, "tolist") else value for name, value in sample.items()}
        )
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Write the last row group and the footer."""
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        arrow = _pyarrow()
        try:
            schema = self._writer.schema if self._writer is not None else None
            names = set(self._rows[0]) if schema is None else set(schema.names)
            strange = next((row for row in self._rows if set(row) != names), None)
            if strange is not None:
                raise ValueError(f"a row has the columns {sorted(strange)}, the first one had {sorted(names)}")
            table = arrow.Table.from_pylist(self._rows, schema=schema)
            if self._writer is None:
                self._writer = arrow.parquet.ParquetWriter(self._stream, table.schema, compression="zstd")
            self._writer.write_table(table)
        except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
            raise ValueError(f"rows of different types: {error}") from error
        self._rows = []
