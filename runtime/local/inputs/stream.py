"""The bytes of one epoch of a Pipe channel, as the service writes them into a FIFO."""

import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import IO

from runtime.base.errors import UserError
from runtime.data.formats.recordio import part_frames
from runtime.local.inputs.augmented import AugmentedManifest, pieces_of
from runtime.local.inputs.content import Item, list_items
from runtime.local.inputs.objects import PIECE, Stores, split_uri
from runtime.local.inputs.order import Share
from runtime.local.inputs.readahead import AHEAD, begin_ahead, read_ahead
from runtime.local.request import ChannelSpec

OBJECTS_AHEAD = 8
"""Distant objects whose beginning is fetched before their turn: small ones would cost a round trip each."""
BEGINNING = 512 << 10
"""Bytes of it."""
IN_MEMORY = 8 << 20
"""Bytes of unpacked data that wait in memory for their length to be known; more lies on the disk."""


@dataclass(frozen=True)
class PipeSource:
    """What a Pipe channel delivers."""

    uri: str
    data_type: str = "S3Prefix"
    """``S3Prefix``, ``ManifestFile`` or ``AugmentedManifestFile``."""
    attributes: tuple[str, ...] = ()
    """Of an augmented manifest, in the order of the stream."""
    recordio: bool = False
    """Each object becomes one RecordIO record."""
    gzip: bool = False
    """Objects are gzip files; the service unpacks them."""


def source_of(channel: ChannelSpec) -> PipeSource:
    """Return what a channel delivers."""
    return PipeSource(
        uri=channel.uri,
        data_type=channel.data_type,
        attributes=channel.attributes,
        recordio=channel.record_wrapper == "RecordIO",
        gzip=channel.compression == "Gzip",
    )


class PipeContent:
    """The objects of a channel, or the lines of its augmented manifest; found once for all hosts."""

    def __init__(self, source: PipeSource, stores: Stores) -> None:
        """Find them.

        Raises:
            UserError: there is none, or a manifest is malformed.
        """
        self.source = source
        self.stores = stores
        self.lines: AugmentedManifest | None = None
        self.items: list[Item] = []
        if source.data_type == "AugmentedManifestFile":
            bucket, key = split_uri(source.uri)
            self.lines = AugmentedManifest(stores.of(bucket), key, source.attributes, source.uri)
        else:
            self.items = list_items(source.uri, source.data_type, stores)

    def close(self) -> None:
        """Give back what was copied."""
        if self.lines is not None:
            self.lines.close()

    def __len__(self) -> int:
        """Count what is shuffled and shared out."""
        return len(self.lines) if self.lines is not None else len(self.items)


class PipeStream:
    """Makes the bytes of each epoch for one host; one reader at a time."""

    def __init__(self, content: PipeContent, share: Share) -> None:
        """Begin with nothing read."""
        self._content = content
        self._share = share
        self._stores = content.stores
        self._source = content.source
        self.objects = 0
        """Objects, or lines, whose stream has begun in this epoch."""

    def epoch(self, number: int) -> Iterator[bytes]:
        """Yield the bytes of one epoch, in pieces of some megabytes at most.

        Raises:
            OSError, UserError, PlatformError: the data cannot be read, or is not what the request says.
        """
        self.objects = 0
        with closing(begin_ahead(self._parts(number), self._is_far, self._begin, OBJECTS_AHEAD)) as parts:
            for part, begun in parts:
                self.objects += part.first
                if part.item is None:
                    yield from wrap(iter((part.text,)), len(part.text)) if self._source.recordio else (part.text,)
                else:
                    yield from self._object(part.item, begun)

    def _parts(self, number: int) -> Iterator["_Part"]:
        """Name what flows, in its order."""
        lines = self._content.lines
        for index in self._share.of_epoch(len(self._content), number):
            if lines is None:
                yield _Part(True, self._content.items[index])
                continue
            for place, part in enumerate(lines.parts(index)):
                bucket, key = split_uri(part.uri) if part.uri else ("", "")
                yield _Part(place == 0, Item("", bucket, key, -1) if part.uri else None, part.text)

    def _is_far(self, part: "_Part") -> bool:
        return part.item is not None and (bool(part.item.bucket) or self._stores.slow)

    def _begin(self, part: "_Part") -> tuple[int, bytes]:
        """Return size and beginning of a distant object."""
        assert part.item is not None  # noqa: S101 - it is far
        store = self._stores.of(part.item.bucket)
        size = part.item.size if part.item.size >= 0 else store.stat(part.item.key).size
        return size, store.read(part.item.key, 0, min(size, BEGINNING)) if size else b""

    def _object(self, item: Item, begun: tuple[int, bytes] | None) -> Iterator[bytes]:
        store = self._stores.of(item.bucket)
        if begun is not None:
            size, beginning = begun
            pieces = read_ahead(store, item.key, size, AHEAD, beginning)
        else:
            size = item.size if item.size >= 0 else store.stat(item.key).size
            pieces = pieces_of(store, item.key, size)
        if self._source.gzip:
            pieces = unpack(pieces, item.key)
        if not self._source.recordio:
            yield from pieces
        elif not self._source.gzip:
            yield from wrap(pieces, size)
        else:
            with tempfile.SpooledTemporaryFile(IN_MEMORY) as spool:
                for piece in pieces:
                    spool.write(piece)
                unpacked = spool.tell()
                spool.seek(0)
                yield from wrap(_read(spool), unpacked)


@dataclass(frozen=True)
class _Part:
    """A piece of the stream: an object, or the text of an attribute."""

    first: bool
    """It is the first of an object or a line."""
    item: Item | None
    text: bytes = b""
    """Without `item`."""


def _read(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(PIECE):
        yield piece


def wrap(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Make one RecordIO record of some bytes, of several parts where its length needs it.

    The bytes stay as they are: a magic number inside them is not taken out, since the readers that AWS ships do not
    put it back.

    Args:
        pieces: the bytes.
        size: how many they are.
    """
    held = b""
    for header, length, padding in part_frames(size):
        yield header
        left = length
        while left:
            held = held or next(pieces)
            yield held if len(held) <= left else held[:left]
            left, held = max(0, left - len(held)), held[left:]
        if padding:
            yield padding


def unpack(pieces: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Unpack a gzip file of one or several members.

    Raises:
        UserError: it is no gzip file, or a damaged or truncated one.
    """
    inflate, begun, held, more = zlib.decompressobj(31), False, b"", False
    for piece in pieces:
        held += piece
        while held or more:
            if inflate.eof:
                held = held.lstrip(b"\0")  # some writers pad the file
                if not held:
                    break
                inflate = zlib.decompressobj(31)
            try:
                out = inflate.decompress(held, PIECE)
            except zlib.error as error:
                raise _no_gzip(name, str(error)) from error
            begun = True
            held = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            more = len(out) == PIECE and not inflate.eof
            if out:
                yield out
    if not begun or not inflate.eof:
        raise _no_gzip(name, "it ends too early" if begun else "it is empty")


def _no_gzip(name: str, why: str) -> UserError:
    return UserError(
        f"{name} is no whole gzip file: {why}",
        allowed="CompressionType Gzip says that every object of the channel is one",
    )
