"""What lies in a channel's directory: images in label folders, or arrays. Reading gives NumPy arrays."""

import hashlib
import os
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from runtime.base.errors import PlatformError, UserError
from runtime.base.log import Log
from runtime.contract.job import Channel
from runtime.data.formats.errors import FormatError
from runtime.data.formats.probe import parse_content_type
from runtime.data.images import IMAGE_SUFFIXES, Array, BadSample, damage, decode_image, mode_of
from runtime.data.order import Blocks, Positions
from runtime.data.shards import Shards, list_shards, open_shards
from runtime.data.storage import PROBED, spread
from runtime.data.views import view_of

log = Log("data")

VERIFY_S = 2.0
"""Longest time that a rank looks at its share of the images' heads and tails before training starts."""
CAPTION_SUFFIXES = (".txt", ".caption")


@dataclass(frozen=True)
class About:
    """What a channel was taken for, for those who ask."""

    format: str
    reason: str
    view: str
    """What is x and what is y."""
    files: int = 0
    """That hold the samples."""
    median_bytes: float = 0.0
    """Of them."""
    some: tuple[Path, ...] = ()
    """A few of them, spread evenly."""


class Source(Protocol):
    """Samples by number."""

    digest: str
    """Of names and sizes: another digest is other data."""
    images: bool
    """Whether samples are pictures, which are scaled to [0, 1] by default."""
    classes: tuple[str, ...]
    """Names of the labels, in the order of their numbers; empty when labels are no classes."""
    about: About
    blocks: Blocks | None
    """How samples lie together where it matters for reading; None: any order costs the same."""

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def read(self, index: int) -> tuple[Any, Any]:
        """Read one sample.

        Returns:
            The sample (images: [height, width] or [height, width, 3] uint8, or [height, width] uint16; arrays; or a
            whole record as a dict) and its label or caption.

        Raises:
            BadSample: it cannot be read.
        """
        ...

    def name(self, index: int) -> str:
        """Name a sample: its file, or its shard and number therein."""
        ...

    def find_damaged(self, share: range) -> str:
        """Look briefly at some samples' files; name the first damaged one, else return an empty text."""
        ...


def open_source(channel: Channel, *, whole: bool = True) -> Source:
    """Look at what is in a channel and open it.

    Args:
        channel: of the job.
        whole: False: of a damaged shard, the samples before the damage are kept.

    Raises:
        UserError: nothing there, or nothing that we can read.
    """
    if channel.input_mode == "Pipe":
        raise UserError(
            f"Channel {channel.name!r} is in Pipe mode, which is no directory",
            allowed="run.data reads a Pipe channel by itself, not in a mix of channels",
        )
    root = channel.path
    if not root.is_dir():
        raise UserError(f"Channel {channel.name!r}: {root} is not there", fix="check the channel's path")
    told, _ = parse_content_type(channel.content_type)
    if told in ("", "npy") and (any(root.glob("*.npz")) or (root / "x.npy").is_file()):
        return _Arrays(channel)
    if told in ("", "images"):
        images = _images_in_folders(root)
        here = _images_with_captions(root, images)
        if here is not None:
            return here
        if images:
            return _ImageFolders(root, images)
    paths = list_shards(root)
    if paths and told != "images":
        return source_of_shards(open_shards(channel.name, root, paths, channel.content_type, whole=whole), channel)
    found = sorted(path.name for path in root.iterdir())[:5]
    what = f"it holds {', '.join(found)}" if found else "it is empty"
    raise UserError(
        f"Channel {channel.name!r} has no samples: {what} ({root})",
        allowed=f"label folders with images ({', '.join(IMAGE_SUFFIXES)}), images with captions beside them, one .npz "
        "(x, y), x.npy and y.npy, or shards: tar, RecordIO, TFRecord, Parquet, CSV, JSON lines, tokens",
    )


def source_of_shards(shards: Shards, channel: Channel) -> Source:
    """See shards as a channel's samples.

    Raises:
        UserError: they hold none, or none of the first can be read.
    """
    return _ShardSamples(shards, channel)


def _images_with_captions(root: Path, in_folders: Sequence[tuple[str, str, int]]) -> "_Pairs | None":
    """Open the channel as pairs, if its first image has a caption beside it."""
    with os.scandir(root) as entries:
        found = [("", entry.name, _size(entry)) for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES)]
    images = sorted(found) or list(in_folders)
    if not images:
        return None
    for folder, name, _ in images[:16]:
        suffix = next((end for end in CAPTION_SUFFIXES if (root / folder / name).with_suffix(end).is_file()), "")
        if suffix:
            return _Pairs(root, images, suffix)
    if found:
        raise UserError(
            f"{root} holds images without labels: {images[0][1]} and {len(images) - 1} others",
            allowed="a folder for each label, or a caption (.txt) beside each image",
        )
    return None


def _images_in_folders(root: Path) -> list[tuple[str, str, int]]:
    """List (label, file name, bytes) in sorted order, one directory listing per label."""
    found: list[tuple[str, str, int]] = []
    for label in sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")):
        with os.scandir(root / label) as entries:
            found += sorted(
                (label, entry.name, _size(entry)) for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES)
            )
    return found


def _files_of(root: Path, images: Sequence[tuple[str, str, int]]) -> tuple[int, float, tuple[Path, ...]]:
    """Return the last three fields of `About`."""
    some = tuple(root / folder / name for folder, name, _ in spread(images, PROBED))
    return len(images), float(np.median([size for _, _, size in images])), some


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere: reading it will say so, with its name
        return 0


class _ImageFolders:
    """``<label>/<name>.png``: the folder's name is the label."""

    images = True
    blocks: Blocks | None = None

    def __init__(self, root: Path, images: Sequence[tuple[str, str, int]]) -> None:
        self.classes = tuple(sorted({label for label, _, _ in images}))
        numbers = {label: number for number, label in enumerate(self.classes)}
        self._root = root
        why = f"its first image lies in a folder: {images[0][0]}/{images[0][1]}"
        self._names = [f"{label}/{name}" for label, name, _ in images]
        view = "x is the image, y the folder's number"
        self.about = About("label folders with images", why, view, *_files_of(root, images))
        self._labels = np.array([numbers[label] for label, _, _ in images], dtype=np.int64)
        listing = "\n".join(f"{label}/{name} {size}" for label, name, size in images)
        self.digest = hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int) -> tuple[Array, Array]:
        path = self._root / self._names[index]
        return decode_image(path, self._mode, str(path)), self._labels[index]

    def name(self, index: int) -> str:
        return str(self._root / self._names[index])

    @cached_property
    def _mode(self) -> str:
        """How the channel's images are read: as its first readable one, so that all batches have one shape."""
        return next(filter(None, (mode_of(self._root / name) for name in self._names[:16])), "RGB")

    def find_damaged(self, share: range) -> str:
        """Look at heads and tails of some images, for at most `VERIFY_S`; name the first damaged one."""
        deadline = time.monotonic() + VERIFY_S
        for index in share:
            fault = damage(self._root / self._names[index])
            if fault and not self._decodes(index):
                return fault
            if time.monotonic() > deadline:
                break
        return ""

    def label_counts(self) -> Counter[str]:
        """Count the images of each label."""
        return Counter({name: int(count) for name, count in zip(self.classes, np.bincount(self._labels), strict=True)})

    def _decodes(self, index: int) -> bool:
        """A head or tail may look strange, such as bytes behind the end: the decoder has the last word."""
        try:
            self.read(index)
        except BadSample:
            return False
        return True


class _Arrays:
    """Arrays on disk: ``x.npy`` and ``y.npy`` (opened by mmap), or one ``.npz`` with ``x`` and ``y``."""

    images = False
    blocks: Blocks | None = None
    classes: tuple[str, ...] = ()

    def __init__(self, channel: Channel) -> None:
        root = channel.path
        archives = sorted(root.glob("*.npz"))
        files = archives[:1] or [path for path in (root / "x.npy", root / "y.npy") if path.is_file()]
        try:
            if archives:
                with archives[0].open("rb") as stream:  # NumPy would leave it open when it is no archive
                    held = np.load(stream, allow_pickle=False)
                    self._x, self._y = cast(Array, held["x"]), cast("Array | None", held.get("y"))
            else:
                self._x = np.load(root / "x.npy", mmap_mode="r", allow_pickle=False)
                has_y = (root / "y.npy").is_file()
                self._y = np.load(root / "y.npy", mmap_mode="r", allow_pickle=False) if has_y else None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"Channel {channel.name!r}: {files[0]} cannot be read: {error}",
                allowed="arrays named 'x' and 'y', without pickled objects",
            ) from error
        self._file = files[0]
        y = "x, y the row number" if self._y is None else "x, y"
        self.about = About("arrays", f"there is {files[0].name}", y)
        if len(archives) > 1:
            raise UserError(f"Channel {channel.name!r} holds {len(archives)} .npz files", allowed="one is read")
        if self._y is not None and len(self._y) != len(self._x):
            raise UserError(f"Channel {channel.name!r}: x has {len(self._x)} samples, y has {len(self._y)}")
        if not len(self._x):
            raise UserError(f"Channel {channel.name!r} is empty: its array 'x' has no samples")
        facts = " ".join(f"{path.name} {path.stat().st_size}" for path in files)
        self.digest = hashlib.sha256(f"{facts} {self._x.shape} {self._x.dtype}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._x)

    def read(self, index: int) -> tuple[Array, Array]:
        label = np.asarray(index if self._y is None else self._y[index])
        return np.asarray(self._x[index]), label

    def name(self, index: int) -> str:
        return f"{self._file}, row {index}"

    def find_damaged(self, share: range) -> str:
        del share  # NumPy has checked the header and the length
        return ""


class _Pairs:
    """Images with a caption beside each: ``0001.jpg`` and ``0001.txt``."""

    images = True
    blocks: Blocks | None = None
    classes: tuple[str, ...] = ()

    def __init__(self, root: Path, images: Sequence[tuple[str, str, int]], suffix: str) -> None:
        self._root = root
        self._names = [f"{folder}/{name}" if folder else name for folder, name, _ in images]
        why, view = f"an image has a {suffix} beside it", "x is the image, y the text"
        self.about = About("images with captions", why, view, *_files_of(root, images))
        self._suffix = suffix
        listing = "\n".join(f"{folder}/{name} {size}" for folder, name, size in images)
        self.digest = hashlib.sha256(f"pairs {suffix}\n{listing}".encode("utf-8", "surrogateescape")).hexdigest()

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int) -> tuple[Any, Any]:
        path = self._root / self._names[index]
        caption = path.with_suffix(self._suffix)
        try:
            text = caption.read_text(encoding="utf-8").strip()
        except FileNotFoundError as error:
            raise BadSample(f"{path} has no caption {caption.name} beside it") from error
        except (OSError, UnicodeDecodeError) as error:
            raise BadSample(f"{caption} cannot be read: {error}") from error
        return decode_image(path, self._mode, str(path)), text

    def name(self, index: int) -> str:
        return str(self._root / self._names[index])

    @cached_property
    def _mode(self) -> str:
        return next(filter(None, (mode_of(self._root / name) for name in self._names[:16])), "RGB")

    def find_damaged(self, share: range) -> str:
        deadline = time.monotonic() + VERIFY_S
        for index in share:
            path = self._root / self._names[index]
            fault = damage(path) or (
                "" if path.with_suffix(self._suffix).is_file() else f"{path} has no caption beside it"
            )
            if fault:
                try:
                    self.read(index)  # the decoder has the last word
                except BadSample:
                    return fault
            if time.monotonic() > deadline:
                break
        return ""


class _ShardSamples:
    """Samples of shards, seen as x and y."""

    classes: tuple[str, ...] = ()

    def __init__(self, shards: Shards, channel: Channel) -> None:
        if not len(shards):
            raise UserError(f"Channel {channel.name!r} is empty: its {shards.format} shards have no samples")
        self._shards = shards
        self.digest = shards.digest
        self._view = view_of(shards.format, self._first(), shards.options)
        view, paths = self._view.said, shards.paths
        sizes = [path.stat().st_size for path in paths]
        some = tuple(spread(paths, PROBED))
        self.about = About(
            f"{shards.format} shards", shards.reason, view, len(paths), float(np.median(sizes)) if sizes else 0.0, some
        )
        self.images = self._view.images
        self.blocks = shards.blocks(mounted=channel.input_mode == "FastFile")
        log.info(f"channel {channel.name!r}: {self._view.said}")

    def _first(self) -> dict[str, Any]:
        """Return the first sample that can be read: a few damaged ones may be the policy's to skip."""
        for index in range(min(16, len(self._shards))):
            try:
                return self._shards.sample(index)
            except FormatError as error:
                if index == min(16, len(self._shards)) - 1:
                    raise UserError(f"None of the first {index + 1} samples can be read: {error}") from error
        raise AssertionError

    def __len__(self) -> int:
        return len(self._shards)

    def read(self, index: int) -> tuple[Any, Any]:
        try:
            sample = self._shards.sample(index)
        except (FormatError, PlatformError) as error:
            raise BadSample(str(error)) from error
        return self._view.look(sample, self._shards.name(index), index)

    def name(self, index: int) -> str:
        return self._shards.name(index)

    def damaged_shards(self) -> list[str]:
        """Name the shards whose ends are left out, each with its damage."""
        return self._shards.damaged()

    def sample_bytes(self) -> Positions | None:
        """Return the bytes of each sample in its shard; None where they share bytes."""
        return self._shards.sample_bytes()

    def find_damaged(self, share: range) -> str:
        """Look at a few samples, spread over this rank's share."""
        deadline = time.monotonic() + VERIFY_S
        for index in share[:: max(1, len(share) // 64)]:
            try:
                self.read(index)
            except BadSample as error:
                return str(error)
            if time.monotonic() > deadline:
                break
        return ""
