"""Size of an image from its first bytes: enough to know that it is one, without decoding a pixel."""

import struct

HEAD_BYTES = 1024
"""Read from each image. A JPEG with a preview in front of its frame needs `MORE_BYTES`."""
MORE_BYTES = 1 << 18

_SIZE = struct.Struct(">HH")
_NO_FRAME = frozenset({0xC4, 0xC8, 0xCC})
"""Markers of a JPEG between C0 and CF that begin no frame."""


class BadHeader(ValueError):
    """The first bytes are of no image that we know, or say what cannot be."""


class NeedMore(Exception):
    """The size lies behind the bytes that were given."""


def image_size(head: bytes) -> tuple[int, int]:
    """Return width and height in pixels.

    Args:
        head: of the file, from its first byte.

    Raises:
        BadHeader: it is no PNG, JPEG, GIF, WebP or BMP, or damaged.
        NeedMore: of a JPEG, more bytes are needed.
    """
    if head.startswith(b"\xff\xd8"):
        size = _jpeg(head)
    elif head.startswith(b"\x89PNG\r\n\x1a\n"):
        if head[12:16] != b"IHDR" or len(head) < 24:
            raise BadHeader("a PNG without its first chunk")
        size = struct.unpack_from(">II", head, 16)
    elif head[:6] in (b"GIF87a", b"GIF89a") and len(head) >= 10:
        size = struct.unpack_from("<HH", head, 6)
    elif head.startswith(b"BM") and len(head) >= 26:
        width, height = struct.unpack_from("<ii", head, 18)
        size = (width, abs(height))
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        size = _webp(head)
    elif not head:
        raise BadHeader("the file is empty")
    else:
        raise BadHeader(f"no image: it begins with {head[:8]!r}")
    if size[0] < 1 or size[1] < 1:
        raise BadHeader(f"its size is {size[0]} x {size[1]}")
    return int(size[0]), int(size[1])


def _jpeg(head: bytes) -> tuple[int, int]:
    at, end = 2, len(head)
    while at + 9 <= end:
        if head[at] != 0xFF:
            raise BadHeader(f"a JPEG without a marker at byte {at}")
        marker = head[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = _SIZE.unpack_from(head, at + 5)
            return width, height
        if marker in (0xD9, 0xDA):
            raise BadHeader("a JPEG without a frame")
        at += 2 + (head[at + 2] << 8) + head[at + 3]
    raise NeedMore


def _webp(head: bytes) -> tuple[int, int]:
    kind = head[12:16]
    if kind == b"VP8 " and len(head) >= 30:
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and len(head) >= 25:
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X" and len(head) >= 30:
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    raise BadHeader("a WebP without its first chunk")
