"""Segments: the rows of one directory as they lie in some file, and how many of them become one index.

An index is never changed in place. A new one is written under names of its own, from segments of spools, of an
earlier index, or of the indexes of other hosts; ``index.json`` is replaced last, and names the others.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import orjson

from runtime.base.errors import UserError
from runtime.data.index.rows import Options, Problem
from runtime.data.index.sidecar import Header, open_offsets, read_header
from runtime.version import __version__

FORMAT = 1
INDEX = "index.json"
LENGTHS_AT_ONCE = 1 << 22
"""Rows whose lengths are in memory at one time: 32 MB."""

Lengths = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Segment:
    """The rows of one directory, or of a part of a huge one."""

    directory: str
    """Relative to the root; empty: the root."""
    part: int
    changed_ns: int
    """Time of change of the directory; 0: not to be relied on."""
    rows: int
    size: int
    """Bytes."""
    digest: str
    directories: tuple[str, ...]
    problems: tuple[Problem, ...]
    source: str
    """Path of the file that holds the rows, without its suffix."""
    offset: int
    """First byte in the source."""
    first: int
    """Number of the first row in the source."""

    @property
    def key(self) -> tuple[str, int]:
        """Its place among all segments."""
        return self.directory, self.part

    def as_json(self) -> bytes:
        """Return one line. A directory's name that is no UTF-8 comes back as it was, which only `json` does."""
        return json.dumps(asdict(self)).encode() + b"\n"


def segment_from_json(line: bytes, source: str | None = None) -> Segment:
    """Read a line of `Segment.as_json`; `source` moves it."""
    value = cast(dict[str, Any], json.loads(line))
    problems = tuple(Problem(**problem) for problem in value.pop("problems"))
    directories = tuple(value.pop("directories"))
    segment = Segment(**value, directories=directories, problems=problems)
    return segment if source is None else replace(segment, source=source)


class Source:
    """A file of rows, with their lengths."""

    def __init__(self, stem: str) -> None:
        """Open ``STEM.jsonl`` with ``STEM.idx`` (an index) or ``STEM.len`` (a spool)."""
        self._handle = os.open(f"{stem}.jsonl", os.O_RDONLY | os.O_CLOEXEC)
        self._lengths: Lengths | npt.NDArray[np.uint32]
        index = Path(f"{stem}.idx")
        if index.exists():
            header = read_header(index, Path(f"{stem}.jsonl"))
            self._offsets = open_offsets(index, header)
            self._end = header.size
        else:
            self._offsets = None
            spooled = Path(f"{stem}.len")
            self._lengths = (
                np.memmap(spooled, dtype="<u4", mode="r") if spooled.stat().st_size else np.zeros(0, dtype="<u4")
            )

    def lengths(self, first: int, count: int) -> Lengths:
        """Return the bytes of each of some rows."""
        if self._offsets is None:
            return np.asarray(self._lengths[first : first + count], dtype=np.uint64)
        last = first + count
        ends = self._offsets[first + 1 : last + 1]
        if last == len(self._offsets):
            ends = np.append(ends, np.uint64(self._end))
        return ends - self._offsets[first:last]

    def copy(self, target: int, offset: int, size: int) -> None:
        """Append some bytes to a file, inside the kernel where it can."""
        while size:
            try:
                done = os.copy_file_range(self._handle, target, size, offset)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                done = os.write(target, os.pread(self._handle, min(size, 1 << 20), offset))
            if not done:
                raise UserError(f"Rows are missing at byte {offset} of an index that this one is made from")
            offset += done
            size -= done

    def close(self) -> None:
        """Close it."""
        os.close(self._handle)


@dataclass(frozen=True)
class Built:
    """What ``index.json`` says."""

    rows: int
    size: int
    digest: str
    directories: int
    problems: int
    stem: str
    """Of the files beside it: ``STEM.jsonl``, ``STEM.idx``, ``STEM.segments.jsonl``, ``STEM.problems.jsonl``."""
    root: str
    options: Options
    share: tuple[int, int]
    """Which part of how many this is: (0, 1) is the whole."""


def read_built(directory: Path) -> Built | None:
    """Read ``index.json``; None when there is none.

    Raises:
        UserError: it is damaged, or of a newer format.
    """
    path = directory / INDEX
    try:
        value = cast(dict[str, Any], orjson.loads(path.read_bytes()))
        if value["format"] > FORMAT:
            raise UserError(f"{path} has format {value['format']}", allowed=f"this version reads up to {FORMAT}")
        options = Options(**value["options"])
        names = ("rows", "size", "digest", "directories", "problems", "stem", "root")
        return Built(**{name: value[name] for name in names}, options=options, share=tuple(value["share"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no index of Slipway: {error}", fix="choose another --out") from error


def segments_of(directory: Path, built: Built) -> Iterator[Segment]:
    """Read the segments of an index."""
    stem = str(directory / built.stem)
    with Path(f"{stem}.segments.jsonl").open("rb") as lines:
        for line in lines:
            yield segment_from_json(line, stem)


def assemble(segments: Sequence[Segment], out: Path, *, root: str, options: Options, share: tuple[int, int]) -> Built:
    """Write an index from segments, then make it the current one, and remove the one before.

    Args:
        segments: in any order; no two of the same key.
        out: the index's directory.
        root: of the tree, for those who open the files that the rows name.
        options: of all the segments.
        share: which part of how many this is.
    """
    ordered = sorted(segments, key=lambda segment: segment.key)
    digest = blake2b(orjson.dumps(options), digest_size=32)
    for segment in ordered:
        digest.update(f"{segment.directory}\0{segment.part}\0{segment.digest}\n".encode(errors="surrogateescape"))
    stem = f"rows-{digest.hexdigest()[:16]}"
    rows, size = sum(segment.rows for segment in ordered), sum(segment.size for segment in ordered)
    built = Built(
        rows,
        size,
        digest.hexdigest(),
        len({segment.directory for segment in ordered}),
        sum(len(segment.problems) for segment in ordered),
        stem,
        root,
        options,
        share,
    )
    before = read_built(out)
    partial = f".{stem}.{os.getpid()}"
    try:
        if before is None or before.stem != stem:
            _write_rows(ordered, out, partial, Header(rows, size, digest.digest()))
        _write_segments(ordered, out, partial, stem)
        for suffix in (".jsonl", ".idx", ".segments.jsonl", ".problems.jsonl"):
            with contextlib.suppress(FileNotFoundError):
                (out / f"{partial}{suffix}").replace(out / f"{stem}{suffix}")
        about: Mapping[str, object] = {"format": FORMAT, "slipway": __version__, **_fields(built)}
        new = out / f"{partial}.json"
        new.write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2))
        new.replace(out / INDEX)
    finally:
        for left in out.glob(f"{partial}*"):
            left.unlink()
    if before is not None and before.stem != stem:
        for old in out.glob(f"{before.stem}.*"):
            old.unlink()  # whoever reads it keeps it, by the file that is open
    return built


def _fields(built: Built) -> dict[str, object]:
    return {name: getattr(built, name) for name in Built.__dataclass_fields__}


def _write_rows(ordered: Sequence[Segment], out: Path, partial: str, header: Header) -> None:
    sources: dict[str, Source] = {}
    target = os.open(out / f"{partial}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        with (out / f"{partial}.idx").open("wb") as index:
            index.write(header.pack())
            at = 0
            for stem, offset, size, first, count in _runs(ordered):
                source = sources.get(stem) or sources.setdefault(stem, Source(stem))
                source.copy(target, offset, size)
                for begin in range(first, first + count, LENGTHS_AT_ONCE):
                    lengths = source.lengths(begin, min(LENGTHS_AT_ONCE, first + count - begin))
                    ends = np.cumsum(lengths, dtype=np.uint64) + np.uint64(at)
                    index.write(np.concatenate([np.array([at], dtype="<u8"), ends[:-1]]).tobytes())
                    at = int(ends[-1])
            index.flush()
            os.fsync(index.fileno())
        os.fsync(target)
    finally:
        os.close(target)
        for source in sources.values():
            source.close()


def _runs(ordered: Sequence[Segment]) -> Iterator[tuple[str, int, int, int, int]]:
    """Join neighbours that lie side by side in one source: what has not changed is copied in one go."""
    stem, offset, size, first, count = "", 0, 0, 0, 0
    for segment in ordered:
        if not segment.rows:
            continue
        if (stem, offset + size, first + count) == (segment.source, segment.offset, segment.first):
            size, count = size + segment.size, count + segment.rows
            continue
        if count:
            yield stem, offset, size, first, count
        stem, offset, size, first, count = segment.source, segment.offset, segment.size, segment.first, segment.rows
    if count:
        yield stem, offset, size, first, count


def _write_segments(ordered: Sequence[Segment], out: Path, partial: str, stem: str) -> None:
    with (
        (out / f"{partial}.segments.jsonl").open("wb") as segments,
        (out / f"{partial}.problems.jsonl").open("wb") as problems,
    ):
        offset = first = 0
        for segment in ordered:
            moved = replace(segment, source=stem, offset=offset, first=first)
            segments.write(moved.as_json())
            problems.writelines(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in segment.problems)
            offset, first = offset + segment.size, first + segment.rows
