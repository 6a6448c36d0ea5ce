"""The manifest of a conversion: what there is, how it was made, and whether it is still that."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.base.errors import PlatformError, UserError
from runtime.data.convert.options import FORMAT, digest_of

MANIFEST = "_manifest.json"
"""Its name begins so that no reader takes it for a shard."""
BAD = "_bad.jsonl"
"""Samples that were left out: name and reason."""
LISTS = ".slipway"
"""Directory of the lists of files of trees."""
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class FileFacts:
    """One file of the output."""

    name: str
    """Relative to the output's directory."""
    bytes: int
    blake2b: str
    """Of 128 bits, in hexadecimal digits."""


@dataclass(frozen=True)
class ShardFacts:
    """One shard: a file with what belongs to it, or many files of a tree with the list of them."""

    number: int
    """In the whole output, from 0."""
    split: str
    label: str
    """Of all of its samples, with ``--by-label``; else empty."""
    samples: int
    bad: int
    """Samples that were left out."""
    bytes: int
    """Of the samples' files."""
    files: tuple[FileFacts, ...]
    lists: bool = False
    """The one file is a list of those of the tree."""


@dataclass(frozen=True)
class Manifest:
    """What a conversion has made."""

    to: str
    request: str
    """Digest of source and options."""
    options: Mapping[str, Any]
    source: Mapping[str, Any]
    labels: Mapping[str, int]
    share: tuple[int, int]
    """Part, from 0, of how many."""
    shards: tuple[ShardFacts, ...]
    planned: int
    """Shards of all parts together."""
    left_out: int = 0
    """Samples that belong to no split."""
    unread: int = 0
    """Files, or ends of files, of the source that could not be read."""
    files: tuple[FileFacts, ...] = field(default=())
    """Of no shard."""

    @property
    def samples(self) -> int:
        """Count the samples."""
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Count the bytes of shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def bad(self) -> int:
        """Count the samples that were left out because they could not be converted."""
        return sum(shard.bad for shard in self.shards)

    def as_json(self) -> dict[str, Any]:
        """Return what is written; the same for the same output, whenever and by whomever it was made."""
        splits: dict[str, dict[str, int]] = {}
        for shard in self.shards:
            one = splits.setdefault(shard.split, {"shards": 0, "samples": 0, "bytes": 0})
            one["shards"] += 1
            one["samples"] += shard.samples
            one["bytes"] += shard.bytes
        value = {"format": FORMAT, "tool": "slipway convert", **asdict(self)}
        value |= {"samples": self.samples, "bytes": self.bytes, "bad": self.bad, "splits": splits}
        value = json.loads(json.dumps(value))  # tuples as lists, so that the digest is that of what is read
        return value | {"digest": digest_of(value)}


def part_name(share: tuple[int, int]) -> str:
    """Return the name of the manifest of a part, or of the whole."""
    return MANIFEST if share[1] == 1 else f"_manifest.{share[0] + 1}-of-{share[1]}.json"


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is either there as a whole, or not."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8", errors="surrogatepass") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write it; a conversion is complete when its manifest is there."""
    write_atomically(directory / part_name(manifest.share), json.dumps(manifest.as_json(), indent=1) + "\n")


def shard_from_json(value: Mapping[str, Any]) -> ShardFacts:
    """Read what `asdict` of a shard gave."""
    files = tuple(FileFacts(**file) for file in value["files"])
    held: dict[str, Any] = {**value, "files": files}
    return ShardFacts(**held)


def read_manifest(path: Path) -> Manifest:
    """Read one.

    Raises:
        UserError: there is none, it is damaged, or of a newer version.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        told = value.get("format")
        if isinstance(told, int) and told > FORMAT:
            raise UserError(
                f"{path} has format {told}", allowed=f"this version reads up to {FORMAT}", fix="use a newer Slipway"
            )
        digest = value.pop("digest")
        if digest != digest_of(value):
            raise UserError(f"{path} was changed: its own digest does not fit", fix="convert again")
        shards = tuple(shard_from_json(shard) for shard in value["shards"])
        return Manifest(
            **{name: value[name] for name in ("to", "request", "options", "source", "labels", "planned")},
            **{name: value[name] for name in ("left_out", "unread")},
            share=(value["share"][0], value["share"][1]),
            shards=shards,
            files=tuple(FileFacts(**file) for file in value["files"]),
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent} holds no manifest of a conversion",
            fix="make one: slipway convert SOURCE --to FORM --out DIR",
        ) from error
    except OSError as error:
        raise PlatformError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no manifest of a conversion: {error}", fix="convert again") from error


def labels_of(directory: Path) -> Mapping[str, int]:
    """Return the names of labels that a conversion left there, or above one of its splits; none, when it left none."""
    inside = ""
    for here in (directory, *directory.resolve().parents[:2]):
        if (here / MANIFEST).is_file():
            manifest = read_manifest(here / MANIFEST)
            names = (f"{shard.split}/{shard.label}/".lstrip("/") for shard in manifest.shards)
            return manifest.labels if not inside or any(name.startswith(inside) for name in names) else {}
        inside = f"{directory.resolve().name if here == directory else here.name}/{inside}"
    return {}


def digest_file(path: Path) -> tuple[int, str]:
    """Return size and digest of a file."""
    digest, size = hashlib.blake2b(digest_size=16), 0
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def files_of(directory: Path, shard: ShardFacts) -> Iterator[FileFacts]:
    """Yield all files of a shard.

    Raises:
        UserError: the list of a tree's files is damaged.
    """
    yield from shard.files
    if shard.lists:
        path = directory / shard.files[0].name
        try:
            for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
                yield FileFacts(**json.loads(line))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is no list of files: {error}") from error


def verify(directory: Path, executor: Executor | None = None) -> tuple[Manifest, list[str]]:
    """Check every file against the manifest.

    Returns:
        The manifest and what is wrong, sorted; nothing: all is as it was made.

    Raises:
        UserError: no manifest, or a damaged one.
    """
    manifest = read_manifest(directory / MANIFEST)
    problems: list[str] = []
    run = map if executor is None else executor.map
    for found in run(_check_shard, [directory] * len(manifest.shards), manifest.shards):
        problems += found
    for file in manifest.files:
        problems += _check(directory, file)
    known = {file.name for shard in manifest.shards for file in shard.files} | {file.name for file in manifest.files}
    if manifest.to not in ("folders", "pairs"):
        problems += [f"{name} is not in the manifest" for name in _shard_names(directory) if name not in known]
    return manifest, sorted(problems)


def _check_shard(directory: Path, shard: ShardFacts) -> list[str]:
    found: list[str] = []
    try:
        for file in files_of(directory, shard):
            found += _check(directory, file)
    except UserError as error:
        found.append(str(error))
    return found


def _check(directory: Path, file: FileFacts) -> list[str]:
    try:
        size = (directory / file.name).stat().st_size
        if size != file.bytes:
            return [f"{file.name} has {size} bytes, not {file.bytes}"]
        if digest_file(directory / file.name)[1] != file.blake2b:
            return [f"{file.name} was changed: its digest does not fit"]
    except FileNotFoundError:
        return [f"{file.name} is missing"]
    except OSError as error:
        return [f"{file.name} cannot be read: {error.strerror}"]
    return []


def _shard_names(directory: Path) -> Iterator[str]:
    for here, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        for name in names:
            if not name.startswith((".", "_")) and not name.endswith(".lst"):
                yield str((Path(here) / name).relative_to(directory))


def merge(parts: Sequence[Path], out: Path) -> Manifest:
    """Make one output of the parts that hosts or jobs have made.

    Args:
        parts: their directories; one directory when all have written to the same.
        out: gets the files (as hard links where that works) and the manifest.

    Raises:
        UserError: a part is missing, comes twice, is not whole, or is of another conversion.
    """
    found = _parts(parts)
    whole = next(iter(found.values()))[1]
    shards = sorted((shard for _, part in found.values() for shard in part.shards), key=lambda shard: shard.number)
    if [shard.number for shard in shards] != list(range(whole.planned)):
        raise UserError(f"The parts hold {len(shards)} of {whole.planned} shards", fix="convert the parts again")
    out.mkdir(parents=True, exist_ok=True)
    bad: list[str] = []
    for _, (directory, manifest) in sorted(found.items()):
        for shard in manifest.shards:
            for file in files_of(directory, shard):
                _bring(directory / file.name, out / file.name, file)
        note = directory / f"{BAD}.{manifest.share[0] + 1}"
        bad += note.read_text(encoding="utf-8").splitlines(keepends=True) if note.is_file() else []
    if bad:
        write_atomically(out / BAD, "".join(sorted(bad)))
    manifest = Manifest(
        whole.to, whole.request, whole.options, whole.source, whole.labels, (0, 1), tuple(shards), whole.planned,
        whole.left_out, whole.unread,
    )  # fmt: skip
    return manifest


def _parts(parts: Sequence[Path]) -> dict[int, tuple[Path, Manifest]]:
    found: dict[int, tuple[Path, Manifest]] = {}
    for directory in parts:
        names = sorted(directory.glob("_manifest.*-of-*.json"))
        if not names:
            raise UserError(f"{directory} holds no part of a conversion", fix="make it: slipway convert --share K/N")
        for name in names:
            manifest = read_manifest(name)
            if manifest.share[0] in found:
                raise UserError(
                    f"{directory} and {found[manifest.share[0]][0]} hold the same part {manifest.share[0] + 1}"
                )
            found[manifest.share[0]] = (directory, manifest)
    whole = next(iter(found.values()))[1]
    for directory, manifest in found.values():
        if (manifest.request, manifest.share[1], manifest.planned) != (whole.request, whole.share[1], whole.planned):
            raise UserError(f"{directory} is part of another conversion: its source or options differ")
    missing = sorted(set(range(whole.share[1])) - set(found))
    if missing:
        told = ", ".join(str(number + 1) for number in missing)
        raise UserError(f"Of {whole.share[1]} parts these are missing: {told}", fix="make them, then merge")
    return found


def _bring(source: Path, target: Path, file: FileFacts) -> None:
    import shutil

    if source.resolve() == target.resolve():
        return
    problems = _check(source.parent, FileFacts(source.name, file.bytes, file.blake2b))
    if problems:
        raise UserError(f"A part is not whole: {source.parent / problems[0]}", fix="make that part again")
    if target.exists():
        if not _check(target.parent, FileFacts(target.name, file.bytes, file.blake2b)):
            return
        raise UserError(f"{target} is there already, and is another file", fix="choose an empty --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(source, partial)
        partial.replace(target)
