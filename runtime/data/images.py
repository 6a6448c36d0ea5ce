"""Images: which files are some, what is wrong with one, and their pixels in the one form of a channel."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*")

Array = npt.NDArray[Any]


class BadSample(Exception):
    """One sample cannot be read; says which file and why."""


def decode_image(image: Path | bytes, mode: str, name: str) -> Array:
    """Decode one image.

    Args:
        image: its file, or its bytes.
        mode: of the channel, from `mode_of`.
        name: for messages.

    Returns:
        [height, width] or [height, width, 3] uint8, or [height, width] uint16.

    Raises:
        BadSample: it cannot be decoded, or not into this mode without loss.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return np.array(_in_mode(opened, mode, name))  # a copy: a transform may write into it
    except BadSample:
        raise
    except Exception as error:  # damaged bytes make the decoders of Pillow raise anything
        raise BadSample(f"{name} is no readable image: {error}") from error


def mode_of(image: Path | bytes) -> str:
    """Return an image's form: ``L`` (grey), ``I;16`` (grey, 16 bits) or ``RGB``; empty when it is unreadable."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return _MODES.get(opened.mode, "RGB")
    except Exception:
        return ""


_MODES = {"1": "L", "L": "L", "I;16": "I;16", "I;16B": "I;16", "I;16L": "I;16"}
"""Pillow's modes to ours: grey with 8 or 16 bits; everything else is colour."""


def _in_mode(image: "Image.Image", mode: str, name: str) -> "Image.Image":
    """Convert one image where nothing is lost.

    Raises:
        BadSample: the channel is grey and the image is not, or their depths differ (Pillow would clip to white).
    """
    own = _MODES.get(image.mode, "RGB")
    if own != mode and not (mode == "RGB" and own == "L"):
        words = {"L": "grey", "I;16": "grey with 16 bits", "RGB": "in colour"}
        raise BadSample(
            f"{name} is {words[own]}, but the first image of the channel is {words[mode]}; bring them to one form"
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
