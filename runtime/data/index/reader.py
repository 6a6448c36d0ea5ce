"""Reads an index: rows by number, through mmap, so that neither a process nor a worker of a loader holds a copy."""

import contextlib
import importlib
import mmap
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, cast, overload

import orjson

from runtime.base.errors import UserError
from runtime.data.index.rows import Options
from runtime.data.index.sidecar import Header, open_offsets, read_header

Row = Mapping[str, Any]


class Rows:
    """``STEM.jsonl`` and ``STEM.idx``: bytes of rows by number. Pickles as its path."""

    def __init__(self, stem: str) -> None:
        """Map both files; nothing is read.

        Raises:
            UserError: they are damaged, or do not belong together.
        """
        self.stem = stem
        lines = Path(f"{stem}.jsonl")
        self.header: Header = read_header(Path(f"{stem}.idx"), lines)
        self._offsets = open_offsets(Path(f"{stem}.idx"), self.header)
        self._text: mmap.mmap | bytes = b""
        if self.header.size:
            with lines.open("rb") as stream:
                self._text = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    @classmethod
    def open(cls, stem: str) -> "Rows":
        """Open the rows of an index or of a spool, which has lengths instead of an index."""
        return cls(stem) if os.path.exists(f"{stem}.idx") else _Spool(stem)

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._text, mmap.mmap):
            self._text.close()

    def __reduce__(self) -> tuple[type["Rows"], tuple[str]]:
        return type(self), (self.stem,)

    def __len__(self) -> int:
        return self.header.rows

    def line(self, number: int) -> bytes:
        """Return the bytes of a row, with its newline.

        Args:
            number: in [0, len).
        """
        begin = int(self._offsets[number])
        end = int(self._offsets[number + 1]) if number + 1 < len(self._offsets) else self.header.size
        return self._text[begin:end]

    def by_name(self, first: int, count: int, low: str = "", high: str = "") -> dict[str, bytes]:
        """Return rows of one directory, by the name of the file.

        Args:
            first: number of the directory's first row.
            count: its rows, which are sorted by name.
            low: the first name that is wanted; empty: from the first.
            high: the last name that is wanted; empty: to the last.
        """
        end = first + count
        if low:
            first = self._bisect(first, end, low)
        if first == end:
            return {}
        last = int(self._offsets[end]) if end < len(self._offsets) else self.header.size
        found: dict[str, bytes] = {}
        for line in self._text[int(self._offsets[first]) : last].splitlines(keepends=True):
            name = _name(line)
            if high and name > high:
                break
            found[name] = line
        return found

    def _bisect(self, low: int, high: int, name: str) -> int:
        while low < high:
            middle = (low + high) // 2
            if _name(self.line(middle)) < name:
                low = middle + 1
            else:
                high = middle
        return low


class _Spool(Rows):
    """Rows of a build that goes on, or was cut off."""

    def __init__(self, stem: str) -> None:
        import numpy as np

        self.stem = stem
        lengths = np.fromfile(f"{stem}.len", dtype="<u4")
        ends = np.cumsum(lengths, dtype=np.uint64)
        self._offsets = ends - lengths
        self.header = Header(len(lengths), int(ends[-1]) if len(ends) else 0, b"")
        self._text = b""
        if self.header.size:
            with open(f"{stem}.jsonl", "rb") as stream:
                self._text = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


@contextlib.contextmanager
def _written(path: Path) -> Generator[Path]:
    """Give a name to write to, which becomes `path` when all went well."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _name(line: bytes) -> str:
    """Return the name of a row's file, without its directory."""
    quoted = line[14 : line.index(b'"', 14)]  # behind {"file_name":"
    if b"\\" in quoted:
        quoted = cast(str, orjson.loads(line)["file_name"]).encode()
    return quoted.rpartition(b"/")[2].decode()


class Index(Sequence[Row]):
    """An index that was built by ``slipway index``: a sequence of rows.

    A row is a mapping: ``file_name`` relative to `root`; ``text`` (pairs) or ``label`` (label folders); ``width`` and
    ``height`` when headers were looked at. Opening reads nothing but two small headers; rows are read where they lie.
    Processes that are forked from this one, or get it pickled, share all of it.
    """

    def __init__(self, directory: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> None:
        """Open it.

        Args:
            directory: where ``slipway index --out`` wrote it.
            root: where the tree lies now; None: where it lay.

        Raises:
            UserError: there is none, or it is damaged.
        """
        from runtime.data.index.segments import read_built

        self.directory = Path(directory)
        built = read_built(self.directory)
        if built is None:
            raise UserError(f"{directory} holds no index", fix="build it: slipway index TREE --out DIRECTORY")
        self.root = Path(root if root is not None else built.root)
        self.options: Options = built.options
        self.digest = built.digest
        self.share = built.share
        self._rows = Rows(str(self.directory / built.stem))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, number: int) -> Row: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Row]: ...
    def __getitem__(self, number: int | slice) -> Row | Sequence[Row]:
        """Return a row, or a list of rows."""
        if isinstance(number, slice):
            return [self[at] for at in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"row {number} of an index of {len(self)}")
        return cast(Row, orjson.loads(self._rows.line(number % len(self))))

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))

    def path(self, row: Row) -> Path:
        """Return where a row's file lies."""
        return self.root / str(row["file_name"])

    def problems(self) -> Iterator[Row]:
        """Return the files that got no row: ``path`` and ``why``."""
        from runtime.data.index.segments import read_built

        built = read_built(self.directory)
        if built is not None:
            with (self.directory / f"{built.stem}.problems.jsonl").open("rb") as lines:
                yield from (cast(Row, orjson.loads(line)) for line in lines)

    def to_parquet(self, path: str | os.PathLike[str], rows_at_once: int = 100_000) -> None:
        """Write all rows to a Parquet file, zstd-compressed; needs pyarrow.

        Args:
            path: written under a temporary name first.
            rows_at_once: size of a row group: what is in memory at one time.
        """
        import pyarrow.parquet as pq

        with _written(Path(path)) as partial, pq.ParquetWriter(partial, self._schema, compression="zstd") as writer:
            for batch in self._batches(rows_at_once):
                writer.write_batch(batch)

    @property
    def _schema(self) -> Any:  # noqa: ANN401 - pyarrow, which is imported on use
        import pyarrow as pa

        text, number = pa.string(), pa.int32()
        types = {"file_name": text, "text": text, "label": text, "width": number, "height": number}
        return pa.schema([(name, types[name]) for name in self.columns])

    def _batches(self, rows_at_once: int) -> Iterator[Any]:
        import pyarrow as pa

        for begin in range(0, len(self), rows_at_once):
            yield pa.RecordBatch.from_pylist([dict(row) for row in self[begin : begin + rows_at_once]], self._schema)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what every row holds."""
        kind = {"pairs": ("text",), "labels": ("label",), "images": ()}[self.options.kind]
        return ("file_name", *kind, *(("width", "height") if self.options.headers else ()))

    def dataset_dict(self, validation: float = 0.0, seed: int = 0) -> Any:  # noqa: ANN401 - a DatasetDict, which is imported on use
        """Return a Hugging Face ``DatasetDict`` with an ``image`` column that opens the files; needs datasets.

        The rows lie in one Arrow file beside the index, made on first use and mapped by `datasets`: no process holds
        a copy.

        Args:
            validation: share of the rows in a split of that name, in [0, 1); 0: there is only ``train``.
            seed: of that split.
        """
        import pyarrow as pa

        hf: Any = importlib.import_module("datasets")
        root = str(self.root)
        place = blake2b(root.encode(errors="surrogateescape"), digest_size=4).hexdigest()
        held = self.directory / f"rows-{self.digest[:16]}.{place}.arrow"
        if not held.exists():
            schema = self._schema.append(pa.field("image", pa.string()))
            with (
                _written(held) as partial,
                pa.OSFile(str(partial), "wb") as sink,
                pa.ipc.new_stream(sink, schema) as stream,
            ):
                for batch in self._batches(10_000):
                    paths = [os.path.join(root, name) for name in batch.column("file_name").to_pylist()]
                    stream.write_batch(pa.RecordBatch.from_arrays([*batch.columns, pa.array(paths)], schema=schema))
        whole = hf.Dataset.from_file(str(held)).cast_column("image", hf.Image())
        if not validation:
            return hf.DatasetDict({"train": whole})
        split = whole.train_test_split(test_size=validation, seed=seed)
        return hf.DatasetDict({"train": split["train"], "validation": split["test"]})

    def __reduce__(self) -> tuple[type["Index"], tuple[str, str]]:
        return type(self), (str(self.directory), str(self.root))

    def close(self) -> None:
        """Unmap the rows."""
        self._rows.__exit__()

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
