"""The bytes of one epoch of a Pipe channel, as the service writes them into a FIFO."""

import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from runtime.base.errors import UserError
from runtime.local.inputs.augmented import AugmentedManifest, pieces_of
from runtime.local.inputs.content import Item, list_items
from runtime.local.inputs.objects import PIECE, Stores, split_uri
from runtime.local.inputs.order import Share
from runtime.local.inputs.readahead import AHEAD, read_ahead

MAGIC = 0xCED7230A
"""First word of a RecordIO record."""
LONGEST_RECORD = (1 << 29) - 4
"""Bytes in one record: its length has 29 bits; a multiple of 4, so that no part needs padding but the last."""
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
        """Yield the bytes of one epoch, in pieces of about a megabyte.

        Raises:
            OSError, UserError, PlatformError: the data cannot be read, or is not what the request says.
        """
        self.objects = 0
        lines = self._content.lines
        for index in self._share.of_epoch(len(self._content), number):
            self.objects += 1
            if lines is None:
                yield from self._object(self._content.items[index])
                continue
            for part in lines.parts(index):
                if part.uri:
                    bucket, key = split_uri(part.uri)
                    yield from self._object(Item("", bucket, key, self._stores.of(bucket).stat(key).size))
                else:
                    yield from wrap(iter((part.text,)), len(part.text)) if self._source.recordio else (part.text,)

    def _object(self, item: Item) -> Iterator[bytes]:
        store = self._stores.of(item.bucket)
        far = bool(item.bucket) or self._stores.slow
        pieces = read_ahead(store, item.key, item.size, AHEAD) if far else pieces_of(store, item.key, item.size)
        if self._source.gzip:
            pieces = unpack(pieces, item.key)
        if not self._source.recordio:
            yield from pieces
        elif not self._source.gzip:
            yield from wrap(pieces, item.size)
        else:
            with tempfile.SpooledTemporaryFile(IN_MEMORY) as spool:
                for piece in pieces:
                    spool.write(piece)
                size = spool.tell()
                spool.seek(0)
                yield from wrap(_read(spool), size)


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
    if size <= LONGEST_RECORD:
        yield struct.pack("<II", MAGIC, size)
        yield from pieces
        if size % 4:
            yield bytes(-size % 4)
        return
    left, room, flag = size, 0, 1
    for piece in pieces:
        view = memoryview(piece)
        while view:
            if not room:
                room = min(left, LONGEST_RECORD)
                yield struct.pack("<II", MAGIC, (3 if room == left else flag) << 29 | room)
                flag, left = 2, left - room
            yield bytes(view[:room])
            taken = min(room, len(view))
            view, room = view[taken:], room - taken
    if size % 4:
        yield bytes(-size % 4)


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
