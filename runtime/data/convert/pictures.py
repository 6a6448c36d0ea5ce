"""Images to the size and encoding that the output asks for; bytes that need no change are not touched."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.data.convert.options import Options
from runtime.data.images import BadSample
from runtime.data.index.headers import BadHeader, NeedMore, image_size

if TYPE_CHECKING:
    from PIL import Image

_SIGNATURES = (
    (b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM", "bmp"), (b"II*\0", "tif"), (b"MM\0*", "tif"),
)  # fmt: skip
_ENCODED_AS = {"jpg": "jpg", "webp": "webp"}
"""What is encoded anew keeps its kind where that is lossy anyway; all others become PNG, without loss."""


def suffix_of(image: bytes) -> str:
    """Tell an image's kind by its first bytes; empty: none that we know."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    return next((name for head, name in _SIGNATURES if image.startswith(head)), "")


def fitted(image: bytes, options: Options) -> bytes:
    """Return an image in the wanted size and encoding.

    Raises:
        BadSample: it is no image, or cannot be decoded where that is needed.
    """
    kind = suffix_of(image)
    if not kind:
        raise BadSample("its image is empty" if not image else f"no image: it begins with {image[:8]!r}")
    width, height = _size(image, kind)
    short = min(width, height)
    resize = 0 < options.short_edge < short or (options.center_crop and (width, height) != (options.short_edge,) * 2)
    recode = options.image_format not in ("keep", kind)
    if not (resize or recode):
        if options.decode:
            _decode(image)
        return image
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(image)) as opened:
            if resize and kind == "jpg":
                # The decoder itself halves as often as twice the wanted size allows: less work, same picture.
                opened.draft(None, (2 * options.short_edge * width // short, 2 * options.short_edge * height // short))
            profile = opened.info.get("icc_profile")
            # The orientation is a tag of the file, which the new one does not have.
            picture = ImageOps.exif_transpose(opened)
            picture = _resized(picture, options) if resize else picture
            target = _ENCODED_AS.get(kind, "png") if options.image_format == "keep" else options.image_format
            return _encoded(picture, target, options.quality, profile)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BadSample(f"its image cannot be decoded: {error}") from error


def encoded_array(array: Any, options: Options) -> bytes:  # noqa: ANN401 - an array of any type
    """Encode pixels, [height, width] or [height, width, 3] uint8, as PNG or as the options say.

    Raises:
        BadSample: the array is no picture.
    """
    from PIL import Image

    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or not array.size:
        raise BadSample(
            f"an array of {array.dtype} and shape {array.shape} is no picture: [height, width(, 3)] uint8 is"
        )
    target = "png" if options.image_format == "keep" else options.image_format
    return _encoded(Image.fromarray(np.ascontiguousarray(array)), target, options.quality, None)


def _size(image: bytes, kind: str) -> tuple[int, int]:
    try:
        return image_size(image) if kind != "tif" else _decode(image)
    except NeedMore as error:
        raise BadSample("a JPEG that is truncated, or without a frame") from error
    except BadHeader as error:
        raise BadSample(str(error)) from error


def _decode(image: bytes) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
            return opened.size
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BadSample(f"its image cannot be decoded: {error}") from error


def _resized(picture: "Image.Image", options: Options) -> "Image.Image":
    from PIL import Image

    side = options.short_edge
    width, height = picture.size
    short = min(width, height)
    if options.center_crop:
        left, top = (width - short) // 2, (height - short) // 2
        picture = picture.crop((left, top, left + short, top + short))
        size = (side, side)
    else:
        size = (max(side, round(width * side / short)), max(side, round(height * side / short)))
        size = (side, size[1]) if width <= height else (size[0], side)
    if picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    return picture.resize(size, Image.Resampling.LANCZOS)


def _encoded(picture: "Image.Image", target: str, quality: int, profile: bytes | None) -> bytes:
    from PIL import Image

    if target == "jpg" and picture.mode not in ("L", "RGB"):
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            clear = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", clear.size, (255, 255, 255, 255)), clear).convert("RGB")
        elif picture.mode.startswith("I"):
            raise BadSample(f"an image with more than 8 bits ({picture.mode}) would lose them as JPEG")
        else:
            profile = None if picture.mode == "CMYK" else profile
            picture = picture.convert("RGB")
    out = io.BytesIO()
    more = {"icc_profile": profile} if profile and picture.mode != "CMYK" else {}
    if target == "png":
        picture.save(out, "PNG", **more)
    elif target == "webp":
        picture.save(out, "WEBP", quality=quality, **more)
    else:
        picture.save(out, "JPEG", quality=quality, **more)
    return out.getvalue()
