"""Whatever is converted, as samples by number, in the neutral shape."""

import gzip
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from runtime.base.errors import PlatformError, UserError
from runtime.contract.job import Channel
from runtime.data.convert.fields import neutral
from runtime.data.convert.manifest import labels_of
from runtime.data.convert.options import Options
from runtime.data.formats.errors import FormatError
from runtime.data.formats.probe import parse_content_type
from runtime.data.formats.samples import KEY, Sample
from runtime.data.images import IMAGE_SUFFIXES, BadSample
from runtime.data.order import Blocks
from runtime.data.shards import list_shards, open_shards

GZIP = b"\x1f\x8b\x08"


class Source(Protocol):
    """Samples by number."""

    form: str
    """As in messages and the manifest."""
    digest: str
    """Of names and sizes of files: another digest is another source."""
    labels: Mapping[str, int]
    """Names of labels with their numbers, as an earlier conversion left them."""
    blocks: Blocks | None
    """What is cheap to read together, where that matters."""

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def name(self, index: int) -> str:
        """Name a sample, for messages."""
        ...

    def read(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            BadSample, FormatError, PlatformError: it cannot be read.
        """
        ...

    def facts(self, index: int) -> Sample:
        """Read what is known of a sample without its image, where that is cheaper."""
        ...


@dataclass(frozen=True)
class Opened:
    """A source, and what had to be left out of it."""

    source: Source
    problems: tuple[tuple[str, str], ...] = ()
    """Name and reason; with ``--on-bad skip`` only."""
    notes: tuple[str, ...] = field(default=())
    """Decisions with their reasons, for the log."""


def open_source(path: Path, options: Options, work: Path, *, root: str | None = None, processes: int = 1) -> Opened:
    """Look at what a path holds, and open it.

    Args:
        path: a directory of label folders, pairs, shards or arrays; one file of them; a ``.lst``; or an index.
        options: of the conversion.
        work: directory for an index of a tree, and for what must be unpacked.
        root: where the images of an index or a ``.lst`` lie.
        processes: for the index of a tree.

    Raises:
        UserError: nothing that we can read.
    """
    if not path.exists():
        raise UserError(f"{path} is not there", fix="name a directory, a file, or an index")
    if path.suffix == ".lst" and path.is_file():
        return Opened(_Listed(path, Path(root) if root else path.parent))
    if (path / "index.json").is_file():
        return Opened(_Indexed(path, root, options.roles), notes=(f"source: index of {root or 'its tree'}",))
    told, _ = parse_content_type(options.content_type)
    if path.is_file():
        return _open_shards(path.parent, [path], options, work)
    if told in ("", "npy") and (any(path.glob("*.npz")) or (path / "x.npy").is_file()):
        return Opened(_Arrays(path))
    if told in ("", "images") and _holds_images(path):
        return _open_tree(path, options, work, processes)
    shards = list_shards(path)
    if not shards:
        found = ", ".join(sorted(item.name for item in path.iterdir())[:5]) or "nothing"
        raise UserError(f"{path} has no samples: it holds {found}", allowed="see docs/03-data.md for what is read")
    return _open_shards(path, shards, options, work)


def _holds_images(root: Path) -> bool:
    """Tell whether the first directory that holds any file holds images."""
    waiting = [root]
    while waiting:
        here = waiting.pop()
        names = sorted(entry for entry in here.iterdir() if not entry.name.startswith((".", "_")))
        files = [entry for entry in names if not entry.is_dir()]
        if any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in files):
            return True
        if any(not entry.name.lower().endswith((".txt", ".md", ".lst")) for entry in files):
            return False
        waiting += [entry for entry in reversed(names) if entry.is_dir()]
    return False


def _open_tree(path: Path, options: Options, work: Path, processes: int) -> Opened:
    from runtime.data.index.build import Request, build
    from runtime.data.index.guess import guess_kind
    from runtime.data.index.reader import Index
    from runtime.data.index.rows import Options as IndexOptions

    kind, why = guess_kind(path)
    out = work / "index"
    built, _ = build(Request(path, out, IndexOptions(kind), processes=processes))
    with Index(out) as index:
        problems = tuple((str(row["path"]), str(row["why"])) for row in index.problems())
    if problems and options.on_bad == "raise":
        name, reason = problems[0]
        raise UserError(
            f"{len(problems)} images cannot be used, the first is {path / name}: {reason}",
            fix="mend them, or leave them out: --on-bad skip",
        )
    if not built.rows:
        raise UserError(f"{path} has no images that can be used")
    source = _Indexed(out, str(path), options.roles)
    source.labels = labels_of(path)
    return Opened(source, problems, (f"source: {kind} because {why}",))


def _open_shards(root: Path, paths: Sequence[Path], options: Options, work: Path) -> Opened:
    unpacked = [_unpacked(path, root, work) for path in paths]
    problems: list[tuple[str, str]] = []
    if options.on_bad == "skip":
        unpacked = (
            [path for path in unpacked if _opens(path, root, options, problems)] if len(unpacked) > 1 else unpacked
        )
    if not unpacked:
        raise UserError(f"No shard of {root} can be read: {problems[0][1]}")
    shards = _Sharded(root, unpacked, options, problems)
    if not len(shards):
        why = problems[0][1] if problems else f"its {shards.form} files are empty"
        raise UserError(f"{root} has no samples that can be read: {why}")
    return Opened(shards, tuple(problems))


def _opens(path: Path, root: Path, options: Options, problems: list[tuple[str, str]]) -> bool:
    """Tell whether a shard has a head that can be read."""
    from runtime.data.formats.probe import probe

    try:
        probe(path, options.content_type)
    except (FormatError, PlatformError) as error:
        problems.append((str(path.name), f"the whole file is left out: {error}"))
        return False
    except UserError as error:
        if path.stat().st_size:
            problems.append((str(path.relative_to(root) if path.is_relative_to(root) else path.name), str(error)))
        return False
    return True


def _unpacked(path: Path, root: Path, work: Path) -> Path:
    """Unpack a file that is compressed as a whole: nothing in it could be reached by number."""
    try:
        with path.open("rb") as stream:
            if stream.read(3) != GZIP:
                return path
    except OSError as error:
        raise PlatformError(f"{path} cannot be read: {error.strerror}") from error
    relative = path.relative_to(root)
    name = relative.name.removesuffix(".gz")
    name = f"{name.removesuffix('.tgz')}.tar" if name.endswith(".tgz") else name
    target = work / "unpacked" / relative.with_name(name)
    if target.exists() and target.stat().st_mtime_ns == path.stat().st_mtime_ns:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{name}.partial")
    try:
        with gzip.open(path) as packed, partial.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
    except (EOFError, gzip.BadGzipFile, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be unpacked: {error}", fix="replace the file from its source") from error
    shutil.copystat(path, partial)
    partial.replace(target)
    return target


def _renamed(sample: Sample, roles: Sequence[tuple[str, str]]) -> Sample:
    for new, old in roles:
        if old not in sample:
            raise BadSample(
                f"it has no field {old!r}: it has {', '.join(sample) or 'none'}. Fix: name one that all samples have"
            )
        if new in sample and new != old:
            raise BadSample(f"{old!r} is to be called {new!r}, which is there already: --drop one")
        sample = {(new if name == old else name): value for name, value in sample.items()}
    return sample


class _Sharded:
    """Shards of one form."""

    def __init__(self, root: Path, paths: Sequence[Path], options: Options, problems: list[tuple[str, str]]) -> None:
        self._root = root
        self._roles = options.roles
        here = root if all(path.is_relative_to(root) for path in paths) else _common(paths)
        try:
            self._shards = open_shards(str(root), here, paths, options.content_type)
        except FormatError as error:
            if options.on_bad != "skip":
                raise
            problems.append((Path(error.file).name, f"the rest of the file is left out: {error}"))
            self._shards = open_shards(str(root), here, paths, options.content_type, whole=False)
        self.form = self._shards.format
        self.digest = self._shards.digest
        self.blocks = self._shards.blocks(mounted=False)
        self.labels = labels_of(root)
        self._arrays = _array_columns(paths[0]) if self.form == "parquet" else {}

    def __len__(self) -> int:
        return len(self._shards)

    def name(self, index: int) -> str:
        return self._shards.name(index)

    def read(self, index: int) -> Sample:
        sample = self._shards.sample(index)
        for name, dtype in self._arrays.items():
            value = sample.get(name)
            if value is not None and None not in value:
                sample[name] = np.array(value, dtype)
        return _renamed(neutral(self.form, sample), self._roles)

    def facts(self, index: int) -> Sample:
        return self.read(index)


def _array_columns(path: Path) -> Mapping[str, Any]:
    """Return the columns of lists of numbers with the types of these, which rows as Python values do not have."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: dict[str, Any] = {}
    for item in pq.read_schema(path):
        if pa.types.is_list(item.type) or pa.types.is_large_list(item.type) or pa.types.is_fixed_size_list(item.type):
            inner = item.type.value_type
            if pa.types.is_integer(inner) or pa.types.is_floating(inner):
                found[item.name] = inner.to_pandas_dtype()
    return found


def _common(paths: Sequence[Path]) -> Path:
    import os

    return Path(os.path.commonpath([str(path.parent) for path in paths]))


class _Indexed:
    """A tree of images, through its index."""

    blocks: Blocks | None = None

    def __init__(self, directory: Path, root: str | None, roles: Sequence[tuple[str, str]]) -> None:
        from runtime.data.index.reader import Index

        self._index = Index(directory, root)
        self._roles = roles
        self.form = {"pairs": "pairs", "labels": "folders", "images": "images"}[self._index.options.kind]
        # Rows know neither size nor time of the files; names, captions and labels are what the output depends on.
        self.digest = self._index.digest
        self.labels: Mapping[str, int] = {}
        if not self._index.root.is_dir():
            raise UserError(f"{self._index.root} is not there, where the index found its images", fix="give --root DIR")

    def __len__(self) -> int:
        return len(self._index)

    def name(self, index: int) -> str:
        return str(self._index.path(self._index[index]))

    def read(self, index: int) -> Sample:
        row = self._index[index]
        return _renamed(_with_image(self._facts(row), self._index.path(row)), self._roles)

    def facts(self, index: int) -> Sample:
        return self._facts(self._index[index])

    def _facts(self, row: Mapping[str, Any]) -> Sample:
        sample: Sample = {KEY: str(row["file_name"]).rpartition(".")[0]}
        return sample | {name: row[name] for name in ("label", "text") if name in row}


class _Listed:
    """Images of a ``.lst``: number, label or labels, path; separated by tabs."""

    form = "lst"
    blocks: Blocks | None = None

    def __init__(self, path: Path, root: Path) -> None:
        self._path, self._root = path, root
        try:
            text = path.read_bytes()
        except OSError as error:
            raise PlatformError(f"{path} cannot be read: {error.strerror}") from error
        self._lines = [line for line in text.decode("utf-8", "surrogateescape").splitlines() if line.strip()]
        self.digest = hashlib.sha256(text).hexdigest()
        self.labels = labels_of(root)
        if not self._lines:
            raise UserError(f"{path} is empty")

    def __len__(self) -> int:
        return len(self._lines)

    def name(self, index: int) -> str:
        return f"{self._path}, line {index + 1}"

    def read(self, index: int) -> Sample:
        return _with_image(self.facts(index), self._root / self._lines[index].split("\t")[-1].strip())

    def facts(self, index: int) -> Sample:
        cells = self._lines[index].split("\t")
        try:
            number, labels = int(cells[0]), [float(cell) for cell in cells[1:-1]]
        except ValueError as error:
            raise BadSample(f"{self._lines[index][:80]!r} is no line of number, label and path") from error
        if not labels:
            raise BadSample(f"{self._lines[index][:80]!r} is no line of number, label and path")
        whole = int(labels[0]) if labels[0].is_integer() else labels[0]
        label: Any = whole if len(labels) == 1 else np.array(labels, np.float32)
        return {KEY: cells[-1].strip().rpartition(".")[0], "label": label, "id": number}


def _with_image(facts: Sample, path: Path) -> Sample:
    try:
        image = path.read_bytes()
    except OSError as error:
        raise BadSample(f"{path} cannot be read: {error.strerror}") from error
    key = {KEY: facts[KEY]} if KEY in facts else {}
    return key | {"image": image} | {name: value for name, value in facts.items() if name != KEY}


class _Arrays:
    """``x.npy`` and ``y.npy``, or one ``.npz``."""

    form = "npy"
    blocks: Blocks | None = None

    def __init__(self, root: Path) -> None:
        from runtime.data.sources import open_source as open_channel

        self._root = root
        self._source = open_channel(Channel("source", str(root)))
        self.digest = self._source.digest
        self.labels = labels_of(root)
        self._labelled = (root / "y.npy").is_file() or any("y" in np.load(path).files for path in root.glob("*.npz"))

    def __reduce__(self) -> tuple[type["_Arrays"], tuple[Path]]:
        return _Arrays, (self._root,)  # the arrays stay on the disk

    def __len__(self) -> int:
        return len(self._source)

    def name(self, index: int) -> str:
        return f"{self._root}, row {index}"

    def read(self, index: int) -> Sample:
        x, y = self._source.read(index)
        label = np.array(y)
        found: Sample = {"values": np.atleast_1d(np.array(x))}
        return found | ({"label": label.item() if label.size == 1 else label} if self._labelled else {})

    def facts(self, index: int) -> Sample:
        return self.read(index)
