"""Tar shards: members with the same name up to the first dot are one sample, as in webdataset.

``train/0001.jpg`` and ``train/0001.cls`` make ``{"__key__": "train/0001", "jpg": ..., "cls": ...}``; extensions are
lower-cased. Read with our own parser of headers: Python's ``tarfile`` makes an object of 20 attributes per member, and
takes ten times the CPU of reading the bytes. ustar, GNU long names, PAX names and sizes, base-256 sizes, several
archives one after another (a raw Pipe channel is that).

What a shard must not hold is an error, not a sample less: links, devices, names that lead out of a directory,
a header whose checksum is wrong, an archive without its end. Directories, hidden files,
and the ``__meta__`` files of other tools are no samples.
"""

import struct
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from runtime.data.formats.errors import FormatError, malformed
from runtime.data.formats.samples import KEY, Sample, only
from runtime.data.formats.window import MOST_BYTES, Window

BLOCK = 512
_ZEROS = bytes(BLOCK)
_FIELDS = struct.Struct("100s24x11sB12x6s2sB")
"""Name, size and its end, checksum, the two bytes behind its digits, and type of a header."""
_ENDS = b"\0 "
"""Behind the checksum's digits, as most tools write them."""
_FILE = 0x30
_REGULAR = (_FILE, 0, 0x37)
_DIRECTORY, _LABEL = 0x35, 0x56
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = 0x4C, 0x4B, 0x78, 0x67
_MOST_NAME_BYTES = 1 << 20
"""Longest extended header that is believed."""
_KINDS = {
    0x31: "a hard link",
    0x32: "a symbolic link",
    0x33: "a device",
    0x34: "a device",
    0x36: "a FIFO",
    0x53: "sparse",
}


@dataclass(frozen=True)
class Member:
    """A file in an archive; its data follow in the window."""

    name: str
    size: int
    offset: int
    """Of its first header, extended ones included."""


class TarShards:
    """The format."""

    name = "tar"

    def samples(self, window: Window) -> Iterator[Sample]:
        """Yield the samples of a shard."""
        return self._samples(window, whole=True)

    def sample(self, window: Window) -> Sample:
        """Read the one sample of a span."""
        return only(self._samples(window, whole=False), window)

    # One loop on purpose: a call per step would cost more than reading the sample's bytes does.
    def _samples(self, window: Window, *, whole: bool) -> Iterator[Sample]:  # noqa: C901
        unpack, adler32 = _FIELDS.unpack_from, zlib.adler32
        sample: Sample = {}
        current = None
        ended = True  # nothing at all is an empty stream, not a cut archive
        while True:
            # A plain member that lies in the buffer as a whole; everything else is left to `_step`, which says why.
            buffer, view, at, end = window.buffer, window.view, window.begin, window.end
            while end - at > BLOCK:
                raw, octal, stop, check, ends, kind = unpack(buffer, at)
                if kind != _FILE or ends != _ENDS or stop not in (0, 32) or buffer[at + 345]:
                    break
                if not (octal.isdigit() and check.isdigit()):
                    break
                try:
                    size, told = int(octal, 8), int(check, 8)
                except ValueError:
                    break
                data = at + BLOCK
                after = data + (size + 511 & ~511)
                if after > end or size < 0:
                    break
                if adler32(view[at:data]) & 0xFFFF != (told + sum(check) + 32 - 255) % 65521:
                    break
                name = raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")
                key, _, extension = name.partition(".")
                if "/" in extension or not (key and extension) or key[0] in "/_" or key[-1] == "/" or "/_" in key:
                    break
                extension = extension.lower()
                if key != current:
                    if sample:
                        yield sample
                    current, sample = key, {KEY: key}
                elif extension in sample:
                    break
                sample[extension] = bytes(view[data : data + size])
                at, ended = after, False
            window.begin = at
            if not window.want(1):
                break
            member = _step(window)
            if not isinstance(member, Member):
                ended = member
                continue
            ended = False
            key, extension = split_name(member.name)
            data = window.take(member.size, "a member")
            window.skip(-member.size & 511, "the padding of a member")
            if key != current:
                if sample:
                    yield sample
                current, sample = key, {KEY: key}
            elif extension in sample:
                raise malformed(window.name, member.offset, f"a second {member.name!r} in one sample")
            sample[extension] = data
        if whole and not ended:
            raise _unended(window)
        if sample:
            yield sample

    def spans(self, window: Window) -> Iterator[tuple[int, int]]:
        """Yield (offset, bytes) of the samples, from the first header to the padding of the last member."""
        begin = end = 0
        current = None
        for member in members(window):
            key, _ = split_name(member.name)
            window.skip(member.size + (-member.size & 511), "a member")
            if key != current:
                if current is not None:
                    yield begin, end - begin
                current, begin = key, member.offset
            end = window.offset
        if current is not None:
            yield begin, end - begin

    def writer(self, stream: BinaryIO) -> "TarWriter":
        """Begin a shard."""
        return TarWriter(stream)


class TarWriter:
    """Writes samples as members ``KEY.EXTENSION``, with fixed owners and dates: equal samples give equal files."""

    def __init__(self, stream: BinaryIO) -> None:
        """Write nothing yet."""
        self._stream = stream
        self._count = 0
        self._last = ""

    def write(self, sample: Mapping[str, Any]) -> None:
        """Write one sample of bytes and text; without ``__key__`` it is numbered.

        Raises:
            ValueError: a name that would not come back, a second sample of the same key, or a field that is neither
                bytes nor text.
        """
        key = str(sample.get(KEY, f"{self._count:09}"))
        if key == self._last:
            raise ValueError(f"two samples with the key {key!r} would become one")
        for extension, value in sample.items():
            if extension == KEY:
                continue
            name = f"{key}.{extension}"
            if split_name(name) != (key, extension) or not is_safe(name) or _is_meta(name):
                raise ValueError(f"the member {name!r} would not come back as key {key!r} and field {extension!r}")
            if not isinstance(value, bytes | str):
                raise ValueError(f"field {extension!r} is {type(value).__name__}: a tar shard holds bytes and text")
            self._put(name, value.encode() if isinstance(value, str) else value)
        self._last = key
        self._count += 1

    def _put(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o644
        self._stream.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        self._stream.write(data)
        self._stream.write(bytes(-len(data) & 511))

    def close(self) -> None:
        """Write the end of the archive."""
        self._stream.write(_ZEROS * 2)


def split_name(name: str) -> tuple[str, str]:
    """Split a member's name into the sample's key and the field, at the first dot of its last part.

    >>> split_name("a.b/0001.seg.PNG")
    ('a.b/0001', 'seg.png')
    """
    dot = name.find(".", name.rfind("/") + 1)
    return (name, "") if dot < 0 else (name[:dot], name[dot + 1 :].lower())


def is_safe(name: str) -> bool:
    """Tell whether a name stays inside a directory into which somebody unpacks it."""
    return not name.startswith("/") and ".." not in name.split("/") and "\0" not in name and name != ""


def members(window: Window) -> Iterator[Member]:
    """Yield the files of all archives up to the end of the input; the caller consumes data and padding of each.

    Raises:
        FormatError: see the module.
    """
    ended = True
    while window.want(1):
        found = _step(window)
        ended = found is True
        if isinstance(found, Member):
            yield found
    if not ended:
        raise _unended(window)


def _step(window: Window) -> Member | bool:
    """Consume a header with the extended ones before it.

    Returns:
        The file that it belongs to; True for a block of zeros, which ends an archive; False for what is no sample's.
    """
    first = window.offset
    header = _read_header(window, first)
    if header is None:
        return True
    kind, name, size = header
    if kind not in _REGULAR:
        _pass_over(window, first, kind, name, size)
        return False
    name = _checked(window, first, name, size)
    if not _is_meta(name) and not name.endswith("/"):  # with a slash: a directory of the oldest form
        return Member(name, size, first)
    window.skip(size + (-size & 511), "a member")
    return False


def _unended(window: Window) -> FormatError:
    return malformed(window.name, window.offset, "truncated: the end of the archive is missing")


def _checked(window: Window, first: int, name: str, size: int) -> str:
    if size > MOST_BYTES:
        raise malformed(window.name, first, f"{name!r} claims {size} bytes, more than {MOST_BYTES}")
    while name.startswith("./"):
        name = name[2:]
    if not is_safe(name):
        raise malformed(window.name, first, f"the name {name!r} leads out of the directory")
    return name


def _pass_over(window: Window, first: int, kind: int, name: str, size: int) -> None:
    """Pass over what is neither a file nor a fault."""
    if kind == _LABEL:
        window.skip(size + (-size & 511), "a label")
    elif kind != _DIRECTORY:
        what = _KINDS.get(kind, f"of the unknown type {chr(kind)!r}")
        raise malformed(window.name, first, f"{name!r} is {what}: a shard holds files only")


def _read_header(window: Window, first: int) -> tuple[int, str, int] | None:
    """Consume a header with the extended ones before it; return type, name and size, or None for a block of zeros."""
    long_name, long_size = "", -1
    while True:
        window.expect(BLOCK, "a header")
        at = window.begin
        window.begin = at + BLOCK
        if not window.buffer[at]:
            if long_name or long_size >= 0 or bytes(window.view[at : at + BLOCK]) != _ZEROS:
                raise malformed(window.name, window.offset - BLOCK, "no tar header: the name is missing")
            return None
        kind, size = _check(window, at)
        if kind not in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            return kind, long_name or _name(window, at), size if long_size < 0 else long_size
        if size > _MOST_NAME_BYTES:
            raise malformed(window.name, first, f"an extended header claims {size} bytes")
        data = window.take(size, "an extended header")
        window.skip(-size & 511, "an extended header")
        if kind == _LONG_NAME:
            long_name = _text(data.rstrip(b"\0"))
        elif kind == _PAX:
            long_name, long_size = _pax(window.name, first, data, long_name, long_size)


def _check(window: Window, at: int) -> tuple[int, int]:
    """Check the header at `at` of the buffer, just consumed; return its type and size."""
    buffer, view = window.buffer, window.view
    header = view[at : at + BLOCK]
    try:
        told = _octal(bytes(view[at + 148 : at + 156]))
    except ValueError:
        told = -1
    # The sum of the bytes with spaces for the checksum itself. The low half of Adler-32 is that sum plus 1, modulo
    # 65521: C at 30 times the speed of sum(), and no byte can change without changing it.
    total = told + sum(header[148:156]) - 256
    if told < 0 or zlib.adler32(header) & 0xFFFF != (total + 1) % 65521:
        raise malformed(window.name, window.offset - BLOCK, "no tar header: its checksum is wrong")
    field = bytes(view[at + 124 : at + 136])
    try:
        return buffer[at + 156], _octal(field)
    except ValueError as error:
        raise malformed(window.name, window.offset - BLOCK, f"a size that is no number: {field!r}") from error


def _octal(raw: bytes) -> int:
    """Read a number field: octal text, or GNU's base-256.

    Raises:
        ValueError: it is neither, or negative.
    """
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    if raw[0] > 0x80:
        raise ValueError("negative")
    text = raw.partition(b"\0")[0].strip()
    if text and not text.isdigit():
        raise ValueError("no octal number")
    return int(text or b"0", 8)


def _name(window: Window, at: int) -> str:
    buffer = window.buffer
    stop = buffer.find(0, at, at + 100)
    name = _text(bytes(window.view[at : stop if stop >= 0 else at + 100]))
    # Only POSIX archives have a prefix; GNU's header has times at its place.
    if buffer[at + 345] and buffer[at + 262] == 0 and bytes(window.view[at + 257 : at + 262]) == b"ustar":
        stop = buffer.find(0, at + 345, at + 500)
        return f"{_text(bytes(window.view[at + 345 : stop if stop >= 0 else at + 500]))}/{name}"
    return name


def _pax(file: str, offset: int, data: bytes, name: str, size: int) -> tuple[str, int]:
    """Read path and size from an extended header: lines of ``LENGTH KEY=VALUE``."""
    at = 0
    while at < len(data):
        digits, space, _ = data[at : at + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        if not space or length <= len(digits) + 1 or at + length > len(data) or data[at + length - 1] != 0x0A:
            raise malformed(file, offset, "a damaged extended header")
        key, equals, value = data[at + len(digits) + 1 : at + length - 1].partition(b"=")
        if not equals:
            raise malformed(file, offset, "a damaged extended header")
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 19:
                raise malformed(file, offset, f"a size that is no number: {value[:40]!r}")
            size = int(value)
        elif key.startswith(b"GNU.sparse."):
            raise malformed(file, offset, "a sparse file: a shard holds plain files only")
        at += length
    return name, size


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _is_meta(name: str) -> bool:
    """Files of other tools, such as ``__index__.json`` and macOS's ``._1.jpg``, as webdataset leaves them out."""
    base = name[name.rfind("/") + 1 :]
    if base.startswith("."):
        return True
    return base.startswith("__") and base.partition(".")[0].endswith("__") and len(base.partition(".")[0]) > 4


__all__ = ["BLOCK", "Member", "TarShards", "TarWriter", "is_safe", "members", "split_name"]
