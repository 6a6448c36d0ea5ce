"""What lies in a channel's directory: images in label folders, or arrays. Reading gives NumPy arrays."""

import hashlib
import os
import time
import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from runtime.base.errors import UserError
from runtime.contract.job import Channel

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*")
VERIFY_S = 2.0
"""Longest time that a rank looks at its share of the images' heads and tails before training starts."""

Array = npt.NDArray[Any]


class BadSample(Exception):
    """One sample cannot be read; says which file and why."""


class Source(Protocol):
    """Samples by number."""

    digest: str
    """Of names and sizes: another digest is other data."""
    images: bool
    """Whether samples are pictures, which are scaled to [0, 1] by default."""
    classes: tuple[str, ...]
    """Names of the labels, in the order of their numbers; empty when labels are no classes."""

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def read(self, index: int) -> tuple[Array, Array]:
        """Read one sample.

        Returns:
            The sample (images: [height, width] or [height, width, 3] uint8, or [height, width] uint16) and its label.

        Raises:
            BadSample: it cannot be read.
        """
        ...

    def find_damaged(self, share: range) -> str:
        """Look briefly at some samples' files; name the first damaged one, else return an empty text."""
        ...


def open_source(channel: Channel) -> Source:
    """Look at what is in a channel and open it.

    Raises:
        UserError: nothing there, or nothing that we can read.
    """
    if channel.input_mode == "Pipe":
        raise UserError(
            f"Channel {channel.name!r} is in Pipe mode",
            allowed="this version of run.data reads File and FastFile",
        )
    root = channel.path
    if not root.is_dir():
        raise UserError(f"Channel {channel.name!r}: {root} is not there", fix="check the channel's path")
    if any(root.glob("*.npz")) or (root / "x.npy").is_file():
        return _Arrays(channel)
    images = _images_in_folders(root)
    if images:
        return _ImageFolders(root, images)
    found = sorted(path.name for path in root.iterdir())[:5]
    what = f"it holds {', '.join(found)}" if found else "it is empty"
    raise UserError(
        f"Channel {channel.name!r} has no samples: {what} ({root})",
        allowed=f"label folders with images ({', '.join(IMAGE_SUFFIXES)}), one .npz (x, y), or x.npy and y.npy",
    )


def _images_in_folders(root: Path) -> list[tuple[str, str, int]]:
    """List (label, file name, bytes) in sorted order, one directory listing per label."""
    found: list[tuple[str, str, int]] = []
    for label in sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")):
        with os.scandir(root / label) as entries:
            found += sorted(
                (label, entry.name, _size(entry)) for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES)
            )
    return found


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere: reading it will say so, with its name
        return 0


class _ImageFolders:
    """``<label>/<name>.png``: the folder's name is the label."""

    images = True

    def __init__(self, root: Path, images: Sequence[tuple[str, str, int]]) -> None:
        self.classes = tuple(sorted({label for label, _, _ in images}))
        numbers = {label: number for number, label in enumerate(self.classes)}
        self._root = root
        self._names = [f"{label}/{name}" for label, name, _ in images]
        self._labels = np.array([numbers[label] for label, _, _ in images], dtype=np.int64)
        listing = "\n".join(f"{label}/{name} {size}" for label, name, size in images)
        self.digest = hashlib.sha256(listing.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int) -> tuple[Array, Array]:
        from PIL import Image, UnidentifiedImageError

        path = self._root / self._names[index]
        try:
            with Image.open(path) as image:
                pixels = np.asarray(_in_mode(image, self._mode, path))
        except (
            OSError,
            ValueError,
            SyntaxError,
            UnidentifiedImageError,
            Image.DecompressionBombError,
        ) as error:
            raise BadSample(f"{path} is no readable image: {error}") from error
        return pixels, self._labels[index]

    @cached_property
    def _mode(self) -> str:
        """How the channel's images are read: as its first readable one, so that all batches have one shape."""
        from PIL import Image

        for name in self._names[:16]:
            try:
                with Image.open(self._root / name) as image:
                    return _MODES.get(image.mode, "RGB")
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                continue
        return "RGB"

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

    def _decodes(self, index: int) -> bool:
        """A head or tail may look strange, such as bytes behind the end: the decoder has the last word."""
        try:
            self.read(index)
        except BadSample:
            return False
        return True


_MODES = {"1": "L", "L": "L", "I;16": "I;16", "I;16B": "I;16", "I;16L": "I;16"}
"""Pillow's modes to ours: grey with 8 or 16 bits; everything else is colour."""


def _in_mode(image: "Image.Image", mode: str, path: Path) -> "Image.Image":
    """Convert one image where nothing is lost.

    Raises:
        BadSample: the channel is grey and the image is not, or their depths differ (Pillow would clip to white).
    """
    own = _MODES.get(image.mode, "RGB")
    if own != mode and not (mode == "RGB" and own == "L"):
        words = {"L": "grey", "I;16": "grey with 16 bits", "RGB": "in colour"}
        raise BadSample(
            f"{path} is {words[own]}, but the first image of the channel is {words[mode]}; bring them to one form"
        )
    return image if image.mode == mode else image.convert(mode)


def damage(path: Path) -> str:
    """Say what is wrong with an image file's head or tail; empty when both look right.

    A cheap look at the two places that a broken copy or a wrong file shows first; pixels are decoded later.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(12)
            if not head:
                return f"{path} is empty"
            if not head.startswith(SIGNATURES):
                return f"{path} is no image: it begins with {head[:4]!r}"
            stream.seek(-min(12, stream.seek(0, os.SEEK_END)), os.SEEK_END)
            tail = stream.read(12)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if head.startswith(SIGNATURES[0]) and b"IEND" not in tail:
        return f"{path} is a truncated PNG file: its end is missing"
    return ""


class _Arrays:
    """Arrays on disk: ``x.npy`` and ``y.npy`` (opened by mmap), or one ``.npz`` with ``x`` and ``y``."""

    images = False
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

    def find_damaged(self, share: range) -> str:
        del share  # NumPy has checked the header and the length
        return ""
