"""Where the samples of one shard go: files under a name of their own, which get their final names when all is there."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np

from runtime.base.errors import UserError
from runtime.data.convert.manifest import LISTS, FileFacts, digest_file, sync_directory
from runtime.data.convert.options import SUFFIXES, TREES, Options
from runtime.data.convert.pictures import suffix_of
from runtime.data.formats.probe import SPAN_FORMATS
from runtime.data.formats.samples import KEY, MakesWriter, Sample, Writer
from runtime.data.formats.tables import Csv
from runtime.data.images import BadSample

ROWS_PER_GROUP = 4096
GROUP_BYTES = 32 << 20
"""Rows of a group are decoded together by every reader, however many of them it wants."""
HEADER_BYTES = 256
"""Of a .npy, whose number of rows is known at the end only."""


class Sink(Protocol):
    """Takes the samples of one shard."""

    def add(self, sample: Sample) -> None:
        """Take one.

        Raises:
            BadSample: it does not go with the others; nothing of it was written.
        """
        ...

    def finish(self) -> tuple[tuple[FileFacts, ...], int]:
        """Give the files their names.

        Returns:
            The files, and the bytes of samples.
        """
        ...

    def abandon(self) -> None:
        """Close what is open; what was written is removed when the conversion goes on."""
        ...


def open_sink(options: Options, name: str, out: Path, work: Path, about: "About", number: int) -> Sink:
    """Begin a shard.

    Args:
        options: of the conversion.
        name: of the shard, without suffix, relative to `out`.
        out: the output's directory.
        work: on the same file system, for what is not whole.
        about: what is the same for all shards.
        number: of the shard in the output.
    """
    if options.to in TREES:
        return TreeSink(options, name, out, work, about, number)
    if options.to == "npy":
        return ArraySink(name, out, work)
    return FileSink(options, name, out, work, about)


class About:
    """What is the same for all shards."""

    def __init__(
        self,
        columns: Sequence[str] = (),
        schema: bytes = b"",
        folders: Mapping[int, str] | None = None,
        width: int = 1,
        *,
        header: bool = True,
    ) -> None:
        """Fix it.

        Args:
            columns: of tables.
            schema: of Parquet, serialized by Arrow.
            folders: names of numbered labels.
            width: digits of a folder that is called by its number.
            header: whether tables begin with the names of columns.
        """
        self.columns = columns
        self.schema = schema
        self.folders = folders or {}
        self.width = width
        self.header = header

    def folder(self, label: int | str) -> str:
        """Return the folder of a label.

        Raises:
            BadSample: its name is none that a folder can have, or that readers would see.
        """
        if isinstance(label, int):
            return self.folders.get(label) or f"{label:0{self.width}d}"
        if not label or "/" in label or "\0" in label or label.startswith((".", "_")) or len(label.encode()) > 200:
            raise BadSample(f"the label {label[:60]!r} cannot be the name of a folder")
        return label


class FileSink:
    """One file of samples, with ``.idx`` and ``.lst`` beside image records."""

    def __init__(self, options: Options, name: str, out: Path, work: Path, about: About) -> None:
        self._options = options
        self._name = name
        self._out = out
        self._suffix = SUFFIXES[options.to]
        # With the process in its name: what a killed conversion leaves may live on for a moment.
        self._partial = work / f"{name.replace('/', '!')}{self._suffix}.{os.getpid()}.partial"
        self._stream = self._partial.open("wb")
        self._writer = _writer(options, self._stream, about)
        self._index: dict[int, int] = {}
        self._list: list[str] = []
        self._keys: set[str] = set()

    def add(self, sample: Sample) -> None:
        """Take one sample."""
        options = self._options
        if options.to == "recordio-image":
            if sample["id"] in self._index:
                raise UserError(
                    f"Two samples have the number {sample['id']}, which an .idx cannot tell apart",
                    fix="number them anew: --names number",
                )
            self._index[sample["id"]] = self._stream.tell()
            self._list.append(list_line(sample["id"], sample["label"], sample[KEY]))
        elif options.to == "tar":
            sample = _with_own_key(sample, self._keys)
        try:
            self._writer.write(sample)
        except ValueError as error:
            raise BadSample(str(error)) from error

    def finish(self) -> tuple[tuple[FileFacts, ...], int]:
        """Give the files their names."""
        self._writer.close()
        _close_safely(self._stream)
        files = [_settle(self._partial, self._out, f"{self._name}{self._suffix}")]
        if self._options.to == "recordio-image":
            index = "".join(f"{number}\t{offset}\n" for number, offset in self._index.items())
            for suffix, text in ((".idx", index), (".lst", "".join(self._list))):
                partial = self._partial.with_suffix(suffix)
                with partial.open("w", encoding="utf-8", errors="surrogateescape") as stream:
                    stream.write(text)
                    _close_safely(stream)
                files.append(_settle(partial, self._out, f"{self._name}{suffix}"))
        return tuple(files), files[0].bytes

    def abandon(self) -> None:
        """Close the file."""
        self._stream.close()


class TreeSink:
    """Many files: an image each, with its caption where there is one."""

    def __init__(self, options: Options, name: str, out: Path, work: Path, about: About, number: int) -> None:
        self._options, self._out, self._work, self._about = options, out, work, about
        self._number = number
        self._before, _, _ = name.rpartition("/")
        self._stem = work / f"tree-{number:05d}-{os.getpid()}"
        self._names: set[str] = set()
        self._files: list[tuple[Path, str]] = []

    def add(self, sample: Sample) -> None:
        """Take one sample."""
        directories, _, base = str(sample[KEY]).rpartition("/")
        folder, base = self._place(sample, directories, base)
        suffix = suffix_of(sample["image"])
        stem = "/".join(part for part in (self._before, folder, base) if part)
        # Pairs share one name but for the suffix; of labels only the whole name must be its own.
        taken = f"{stem}.{suffix}" if self._options.to == "folders" else stem
        if taken in self._names:
            stem = f"{stem}-{len(self._names):08d}"
            taken = f"{stem}.{suffix}" if self._options.to == "folders" else stem
        self._names.add(taken)
        self._write(f"{stem}.{suffix}", sample["image"])
        if self._options.to == "pairs":
            self._write(f"{stem}.txt", sample["text"].encode("utf-8", "surrogatepass"))

    def _place(self, sample: Sample, directories: str, base: str) -> tuple[str, str]:
        """Return folder and name of a file; readers look for both one level deep."""
        if self._options.to == "pairs":
            return directories.replace("/", "-") or f"{self._number:05d}", base
        folder = self._about.folder(sample["label"])
        rest = [part for part in directories.split("/") if part]
        if rest[-1:] in ([folder], [str(sample["label"])]):
            rest.pop()
        return folder, "-".join([*rest, base])

    def _write(self, name: str, data: bytes) -> None:
        partial = self._work / f"{self._stem.name}-{len(self._files):07d}"
        with partial.open("wb", buffering=0) as stream:
            _write_all(stream, data)
        self._files.append((partial, name))

    def finish(self) -> tuple[tuple[FileFacts, ...], int]:
        """Give the files their names."""
        facts: list[FileFacts] = []
        made: set[Path] = set()
        for partial, name in self._files:
            target = self._out / name
            if target.parent not in made:
                target.parent.mkdir(parents=True, exist_ok=True)
                made.add(target.parent)
            size, digest = digest_file(partial)
            partial.replace(target)
            facts.append(FileFacts(name, size, digest))
        listed = self._work / f"{self._stem.name}.list"
        with listed.open("w", encoding="utf-8", errors="surrogateescape") as stream:
            for fact in facts:
                # Field by field: `asdict` costs more than writing a small file does.
                line = {"name": fact.name, "bytes": fact.bytes, "blake2b": fact.blake2b}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            _close_safely(stream)
        name = f"{LISTS}/files-{self._number:05d}.jsonl"
        return (_settle(listed, self._out, name),), sum(fact.bytes for fact in facts)

    def abandon(self) -> None:
        """Nothing is open between two samples."""


class ArraySink:
    """``x.npy`` and ``y.npy``, row by row: neither is ever in memory as a whole."""

    def __init__(self, name: str, out: Path, work: Path) -> None:
        self._before = name.rpartition("/")[0]
        self._out = out
        self._partial = {part: work / f"{name.replace('/', '!')}.{part}.{os.getpid()}.partial" for part in ("x", "y")}
        self._streams: dict[str, Any] = {}
        self._kinds: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._rows = 0

    def add(self, sample: Sample) -> None:
        """Take one sample."""
        arrays = {part: np.asarray(value) for part, value in sample.items()}
        for part, array in arrays.items():
            kind = self._kinds.get(part)
            if self._rows and (kind is None or array.shape != kind[0] or not np.can_cast(array.dtype, kind[1])):
                told = "no such field" if kind is None else f"{kind[1]} of shape {kind[0]}"
                raise BadSample(f"{part!r} is {array.dtype} of shape {array.shape}, the first sample had {told}")
        if set(self._kinds) - set(arrays):
            raise BadSample("it has no label, and the first sample had one")
        for part, array in arrays.items():
            if part not in self._kinds:
                self._kinds[part] = (array.shape, array.dtype.newbyteorder("<"))
                self._streams[part] = self._partial[part].open("wb")
                self._streams[part].write(bytes(HEADER_BYTES))
            self._streams[part].write(array.astype(self._kinds[part][1]).tobytes())
        self._rows += 1

    def finish(self) -> tuple[tuple[FileFacts, ...], int]:
        """Give the files their names."""
        files: list[FileFacts] = []
        for part, (shape, dtype) in self._kinds.items():
            stream = self._streams[part]
            stream.seek(0)
            stream.write(_npy_header((self._rows, *shape), dtype))
            _close_safely(stream)
            name = f"{self._before}/{part}.npy" if self._before else f"{part}.npy"
            files.append(_settle(self._partial[part], self._out, name))
        return tuple(files), sum(file.bytes for file in files)

    def abandon(self) -> None:
        """Close the files."""
        for stream in self._streams.values():
            stream.close()


class ParquetRows:
    """Rows of one schema in row groups that fit into anybody's memory."""

    def __init__(self, stream: BinaryIO, schema: bytes) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._pa = pa
        self._schema = pa.ipc.read_schema(pa.py_buffer(schema))
        self._fits = {item.name: _fits(item.type) for item in self._schema}
        self._writer = pq.ParquetWriter(stream, self._schema, compression="zstd")
        self._rows: list[Mapping[str, Any]] = []
        self._bytes = 0

    def write(self, sample: Mapping[str, Any]) -> None:
        """Write one row.

        Raises:
            ValueError: it does not fit the columns.
        """
        size = 0
        for name, value in sample.items():
            fits = self._fits.get(name)
            if fits is None:
                raise ValueError(f"the column {name!r} is new: others have {', '.join(self._schema.names[:8])}")
            if value is None:
                continue
            try:
                size += fits(value)
            except (self._pa.ArrowInvalid, self._pa.ArrowTypeError, TypeError, OverflowError, ValueError) as error:
                raise ValueError(f"{name!r} is {value!r:.60}, which does not fit its column: {error}") from error
        self._rows.append(sample)
        self._bytes += size
        if len(self._rows) >= ROWS_PER_GROUP or self._bytes >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            # A column at a time: an Arrow array for each cell would cost ten times as much.
            columns = [
                self._pa.array([row.get(item.name) for row in self._rows], type=item.type) for item in self._schema
            ]
            table = self._pa.Table.from_arrays(columns, schema=self._schema)
            self._writer.write_table(table, row_group_size=len(table))
            self._rows, self._bytes = [], 0


def _fits(kind: Any) -> Callable[[Any], int]:  # noqa: ANN401 - a type of Arrow
    """Return what checks that a value fits a type, and tells its size; anything else than that it raises."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        return lambda value: len(_of(value, str).encode())
    if pa.types.is_binary(kind):
        return lambda value: len(_of(value, bytes))
    if pa.types.is_int64(kind):
        return lambda value: 8 * (-(1 << 63) <= _of(value, int) < 1 << 63) or _refuse_long()
    if pa.types.is_float64(kind):
        return lambda value: 8 if value.__class__ is float else int(pa.array([value], type=kind).nbytes)
    return lambda value: int(pa.array([value], type=kind).nbytes)


def _of(value: Any, kind: type[Any]) -> Any:  # noqa: ANN401 - whatever a field holds
    if value.__class__ is not kind:
        raise TypeError(f"{kind.__name__} is expected")
    return value


def _refuse_long() -> int:
    raise OverflowError("more than 64 bits")


def list_line(number: int, label: Any, name: str) -> str:  # noqa: ANN401 - a number, or several
    """Return a line of a ``.lst``: number, label or labels, name."""
    labels = np.atleast_1d(np.asarray(label, dtype=np.float64)).tolist()
    told = "\t".join(str(int(value)) if value.is_integer() else repr(value) for value in labels)
    return f"{number}\t{told}\t{name.translate(_NO_BREAKS)}\n"


_NO_BREAKS = str.maketrans("\t\n\r", "   ")


def _writer(options: Options, stream: BinaryIO, about: About) -> Writer:
    if options.to == "parquet":
        return ParquetRows(stream, about.schema)
    if options.to in ("csv", "tsv"):
        delimiter = "," if options.to == "csv" else "\t"
        return Csv(delimiter=delimiter, header="yes" if about.header else "no").writer(stream)
    return cast(MakesWriter, SPAN_FORMATS[options.to]()).writer(stream)


def _with_own_key(sample: Sample, keys: set[str]) -> Sample:
    key = sample[KEY]
    if key in keys:
        key = f"{key}-{len(keys):08d}"
        sample = {**sample, KEY: key}
    keys.add(key)
    return sample


def _npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    text = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    room = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + text.encode().ljust(room - 1) + b"\n"


def _write_all(stream: Any, data: bytes) -> None:  # noqa: ANN401 - an unbuffered file
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


def _close_safely(stream: Any) -> None:  # noqa: ANN401 - any file
    stream.flush()
    os.fsync(stream.fileno())
    stream.close()


def _settle(partial: Path, out: Path, name: str) -> FileFacts:
    """Give a whole file its name."""
    target = out / name
    target.parent.mkdir(parents=True, exist_ok=True)
    size, digest = digest_file(partial)
    partial.replace(target)
    sync_directory(target.parent)
    return FileFacts(name, size, digest)
