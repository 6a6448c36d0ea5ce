"""Files of samples as one source: every sample by its number, read with one request to its place."""

import bisect
import hashlib
import itertools
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from runtime.base.errors import PlatformError, UserError
from runtime.base.log import Log
from runtime.data.formats.errors import FormatError, malformed
from runtime.data.formats.parquet import HELD_BYTES, ParquetFile
from runtime.data.formats.probe import SPAN_FORMATS, SUFFIXES, Found, parse_content_type, probe
from runtime.data.formats.samples import Format, IndexedReader, Sample
from runtime.data.formats.tables import Csv
from runtime.data.formats.tokens import TokenFile
from runtime.data.formats.window import MIB, Window
from runtime.data.order import Blocks, Positions

log = Log("data")

LONG_SAMPLE = 16 << 10
"""Bytes; from here on it is cheaper to read headers only, `HEADER_BYTES` at a time, than to read everything."""
HEADER_BYTES = 4096
BLOCK_BYTES = 4 << 20
"""Stretch of a mounted shard that is worth reading as one."""
BLOCKS_MIXED = 64
"""Such stretches whose samples are mixed: 256 MiB, which a page cache holds."""
OPEN_FILES = 64
"""Shards that a process holds open; a channel may have more than a process may open."""
LEFT_OUT = (".idx", ".lst", ".index", ".crc", ".md5", ".md", "license", "readme")
"""Ends of names of side files, which are no shards."""


class SpanFile:
    """One shard whose samples are pieces of the file."""

    def __init__(self, path: Path, form: Format, *, whole: bool = True) -> None:
        """Find the samples.

        Args:
            path: of the file.
            form: its format.
            whole: False: what lies before the first damage is kept, and a warning says what happened.

        Raises:
            FormatError: with file and offset.
            UserError: the file is compressed as a whole.
        """
        with Window.open(path, capacity=1 << 16) as window:
            if window.size is None:
                raise UserError(
                    f"{path} is compressed as a whole: nothing in it can be reached without reading all before it",
                    fix="unpack the channel's files, or convert them to shards whose samples are compressed",
                )
            if isinstance(form, Csv):
                form = form.head(window)
        with Window.open(path, capacity=1 << 16) as window:
            first = list(itertools.islice(_until_damage(form.spans(window), quietly=True), 8))
        long = bool(first) and sum(size for _, size in first) / len(first) > LONG_SAMPLE
        self.path = path
        self.damage: list[str] = []
        """Why what follows the last sample is left out; empty when nothing is."""
        self._form = form
        with Window.open(path, capacity=HEADER_BYTES if long else MIB) as window:
            found = form.spans(window) if whole else _until_damage(form.spans(window), told=self.damage)
            spans = np.fromiter(itertools.chain.from_iterable(found), dtype=np.int64).reshape(-1, 2)
        self._begins = spans[:, 0].copy()
        self._sizes = (
            spans[:, 1].astype(np.uint32) if spans.size and spans[:, 1].max() < 1 << 32 else spans[:, 1].copy()
        )
        self._file: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens the file itself."""
        return {**self.__dict__, "_file": None}

    def __len__(self) -> int:
        """Count the samples."""
        return len(self._begins)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""
        begin, size = int(self._begins[index]), int(self._sizes[index])
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            data = os.pread(self._file, size, begin)
            while len(data) < size and (more := os.pread(self._file, size - len(data), begin + len(data))):
                data += more  # a network mount may give less than was asked
        except OSError as error:
            raise PlatformError(f"{self.path} cannot be read at byte {begin}: {error.strerror}") from error
        if len(data) < size:
            raise malformed(str(self.path), begin, f"truncated: a sample needs {size} bytes, {len(data)} are left")
        return self._form.sample(Window.of(data, str(self.path), begin))

    @property
    def sizes(self) -> Positions:
        """Bytes of each sample."""
        return self._sizes.astype(np.int64)

    def blocks(self, size: int) -> Positions:
        """Return the number of the first sample in each stretch of about `size` bytes."""
        stretches = self._begins // size
        return np.flatnonzero(np.diff(stretches, prepend=-1))

    def close(self) -> None:
        """Close the file; the next sample opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _until_damage(
    spans: Iterator[tuple[int, int]], *, quietly: bool = False, told: list[str] | None = None
) -> Iterator[tuple[int, int]]:
    count = 0
    try:
        for span in spans:
            yield span
            count += 1
    except FormatError as error:
        if not quietly:
            log.warning(f"{count} samples of a damaged shard are used, the rest is left out: {error}")
        if told is not None:
            told.append(f"{error}")


class Shards:
    """All shards of a channel."""

    def __init__(self, root: Path, paths: Sequence[Path], found: Found, *, whole: bool = True) -> None:
        """Find the samples of every shard.

        Args:
            root: the channel's directory.
            paths: of the shards, in order.
            found: their format, with parameters of the content type such as ``length`` and ``dtype`` of tokens.
            whole: False: of a damaged shard, the samples before the damage are kept.

        Raises:
            FormatError: with file and offset.
        """
        began = time.monotonic()
        self.format = found.format
        self.reason = found.reason
        self.paths = tuple(paths)
        options = self.options = found.parameters
        opener = _opener(found.format, options, whole=whole)
        self._files = [opener(path) for path in paths]
        self._starts = [0]
        facts = hashlib.sha256(f"{found.format} {sorted(options.items())}\n".encode())
        for path, file in zip(paths, self._files, strict=True):
            self._starts.append(self._starts[-1] + len(file))
            facts.update(
                f"{path.relative_to(root)} {path.stat().st_size} {len(file)}\n".encode("utf-8", "surrogateescape")
            )
            file.close()
        self.digest = facts.hexdigest()
        self._open: OrderedDict[int, None] = OrderedDict()
        log.info(
            f"{len(paths)} {found.format} shards because {found.reason}: {len(self)} samples found in "
            f"{time.monotonic() - began:.1f} s"
        )

    def __len__(self) -> int:
        """Count the samples."""
        return self._starts[-1]

    def blocks(self, *, mounted: bool) -> Blocks | None:
        """Say which samples should be read together: rows of a row group, and stretches of shards that are mounted.

        Args:
            mounted: bytes come over a network, where single samples at random places are slow.
        """
        if self.format != "parquet" and not mounted:
            return None
        pieces = [start + file.blocks(BLOCK_BYTES) for start, file in zip(self._starts, self._files, strict=False)]
        starts = np.concatenate([*pieces, np.array([len(self)])]).astype(np.int64)
        if self.format != "parquet":
            return Blocks(starts, BLOCKS_MIXED)
        groups = max((cast(ParquetFile, file).largest_group for file in self._files), default=1)
        return Blocks(starts, max(1, min(BLOCKS_MIXED, HELD_BYTES // max(1, groups))))

    def damaged(self) -> list[str]:
        """Name the shards whose ends are left out, each with its damage."""
        return [text for file in self._files if isinstance(file, SpanFile) for text in file.damage]

    def sample_bytes(self) -> Positions | None:
        """Return the bytes of each sample; None for formats whose samples share bytes, as rows of Parquet do."""
        if not all(isinstance(file, SpanFile) for file in self._files):
            return None
        return np.concatenate([cast(SpanFile, file).sizes for file in self._files]).astype(np.int64)

    def name(self, index: int) -> str:
        """Name a sample, for messages: its file, and its number in it."""
        number = bisect.bisect_right(self._starts, index) - 1
        return f"{self._files[number].path}, sample {index - self._starts[number]}"

    def sample(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            FormatError: with file and offset.
            PlatformError: the file cannot be read.
        """
        number = bisect.bisect_right(self._starts, index) - 1
        if number in self._open:
            self._open.move_to_end(number)
        else:
            self._open[number] = None
            if len(self._open) > OPEN_FILES:
                self._files[self._open.popitem(last=False)[0]].close()
        return self._files[number][index - self._starts[number]]


def list_shards(root: Path) -> list[Path]:
    """List the files below a directory in the order of their names, without hidden and side files."""
    found: list[Path] = []
    for directory, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        here = Path(directory)
        found += [
            here / name for name in names if not name.startswith((".", "_")) and not name.lower().endswith(LEFT_OUT)
        ]
    return sorted(found)


def open_shards(name: str, root: Path, paths: Sequence[Path], content_type: str, *, whole: bool = True) -> Shards:
    """Open shards of one format.

    Args:
        name: the channel's.
        root: its directory.
        paths: at least one.
        content_type: of the channel; empty: by the bytes of the first shard that has any.
        whole: False: of a damaged shard, the samples before the damage are kept.

    Raises:
        UserError: a format that cannot be told, or several.
    """
    told, _ = parse_content_type(content_type)
    wanted = told or ("tar" if any(path.suffix.lower() == ".tar" for path in paths) else "")
    # Tools put tables, captions and figures beside their shards, by other ends of the name.
    shards = [path for path in paths if SUFFIXES.get(path.suffix.lower()) == wanted] or list(paths)
    if len(shards) < len(paths):
        others = sorted({path.suffix for path in paths} - {path.suffix for path in shards})
        what = f"{len(paths) - len(shards)} files ({', '.join(others)}) beside the shards are left out"
        log.info(f"channel {name!r}: {what}")
    found = probe(next((path for path in shards if path.stat().st_size), shards[0]), content_type)
    suffixes = {path.suffix.lower() for path in shards}
    if len(suffixes) > 1 and not told:
        forms = {probe(next(path for path in shards if path.suffix.lower() == suffix)).format for suffix in suffixes}
        if len(forms) > 1:
            raise UserError(
                f"Channel {name!r} holds files of several formats: {', '.join(sorted(forms))}",
                allowed="one format in a channel",
                fix="give each its own channel",
            )
    return Shards(root, shards, found, whole=whole)


def _opener(form: str, options: Mapping[str, str], *, whole: bool) -> Callable[[Path], IndexedReader]:
    if form in SPAN_FORMATS:
        return lambda path: cast(IndexedReader, SpanFile(path, SPAN_FORMATS[form](), whole=whole))
    if form == "parquet":
        return lambda path: cast(IndexedReader, ParquetFile(path))
    if form in ("tokens", "npy"):
        if not options.get("length", "").isdigit():
            raise UserError(
                f"The length of sequences of tokens is {options.get('length', '')!r}",
                fix="set the content type to application/x-tokens;dtype=uint16;length=1024, with your numbers",
            )
        dtype = _token_type(options.get("dtype", "uint16"))
        return lambda path: cast(IndexedReader, TokenFile(path, length=int(options["length"]), dtype=dtype))
    raise UserError(f"{form} is no format of shards")


def _token_type(name: str) -> np.dtype[Any]:
    allowed = ("uint8", "uint16", "uint32", "int16", "int32", "int64", "uint64")
    if name not in allowed:
        raise UserError(f"Tokens of type {name!r}", allowed=f"one of {', '.join(allowed)}")
    return np.dtype(name)
