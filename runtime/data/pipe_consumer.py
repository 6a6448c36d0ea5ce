"""The consumers' side of a Pipe channel: parts from the reader's socket to batches, in a rank or its loader workers."""

# Samples become batches by the same code as those of files.
# pyright: reportPrivateUsage=false

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch.utils.data

from runtime.base.errors import SlipwayError
from runtime.data.formats.samples import Sample
from runtime.data.images import BadSample
from runtime.data.loader import Batch, OnBad, Transform, _Reader
from runtime.data.order import BatchSlice, Blocks
from runtime.data.pipe_wire import END, ERROR, HEAD, HELLO, PART, Connection, Head, Hello, PipePart
from runtime.data.sources import About
from runtime.data.views import View, view_of


class Given(NamedTuple):
    """One batch as it comes from the loader."""

    batch: Batch
    more: bool
    """Whether this host has a further one."""
    fingerprint: int
    """Of the samples of the epoch up to its end."""
    real: bool
    """False: this host's stream is over, and it is padding for the sake of others."""


class Decode:
    """What a consumer does with samples."""

    def __init__(self, transform: Transform | None, on_bad: OnBad, key: str) -> None:
        self.transform = transform
        self.on_bad: OnBad = on_bad
        self.key = key


class PartStream(torch.utils.data.IterableDataset[Any]):
    """This rank's batches of one epoch; in a loader worker, each `workers`-th of them."""

    def __init__(self, address: bytes, channel: str, hello: Hello, decode: Decode, control: int) -> None:
        self._address = address
        self._channel = channel
        self._hello = hello
        self._decode = decode
        self._control = control

    def __iter__(self) -> Iterator["Given | SlipwayError"]:
        hello = self._hello
        info = torch.utils.data.get_worker_info()
        if info is not None:
            hello = Hello(hello.epoch, hello.local_rank, info.id, info.num_workers, hello.consumed, hello.fingerprint)
            if self._control >= 0:
                # A copy from the fork: the reader would live as long as we do.
                with contextlib.suppress(OSError):
                    os.close(self._control)
        connection: Connection | None = None
        try:
            connection = Connection(self._address, self._channel)
            connection.send(HELLO, hello)
            yield from self._batches(connection)
        except SlipwayError as error:
            yield error  # as a value: a loader worker would wrap the message in its own traceback
        finally:
            if connection is not None:
                connection.close()

    def _batches(self, connection: Connection) -> Iterator["Given | SlipwayError"]:
        view: View | None = None
        while True:
            kind, value = connection.receive()
            if kind == ERROR:
                yield value
                return
            if kind == HEAD:
                view = view_in(value)
            elif kind == PART:
                assert view is not None  # noqa: S101 - the head comes first
                yield self._load(view, value, real=True)
            elif kind == END:
                # Other hosts may have more: padding for as long as they want it.
                while value is not None and view is not None:
                    yield self._load(view, value, real=False)
                return

    def _load(self, view: View, part: PipePart, *, real: bool) -> Given:
        source = PartSource(view, self._channel, self._hello.epoch, part.positions, part.samples)
        reader = _Reader(source, self._decode.transform, self._decode.on_bad, self._decode.key)
        batch = reader.load(BatchSlice(part.positions[0], part.positions, part.padding))
        return Given(batch, part.more, part.fingerprint, real)


class NoSource:
    """The source of a channel of which nothing is known yet."""

    digest = ""
    images = False
    classes: tuple[str, ...] = ()
    blocks: Blocks | None = None
    about = About("a stream", "its mode is Pipe", "what is in it is known when it is opened")

    def __len__(self) -> int:
        return 0

    def name(self, index: int) -> str:
        """Name a sample by its number."""
        return f"sample {index}"

    def read(self, index: int) -> tuple[Any, Any]:
        """Raise: it has not come yet."""
        raise BadSample(f"sample {index} has not come yet")

    def find_damaged(self, share: range) -> str:
        """Find nothing: what has not come cannot be looked at."""
        del share
        return ""


class PartSource(NoSource):
    """The samples of one part, by their positions in the epoch."""

    def __init__(
        self, view: View, channel: str, epoch: int, positions: Sequence[int], samples: Sequence[Sample]
    ) -> None:
        self.images = view.images
        self._view = view
        self._where = f"channel {channel!r}, epoch {epoch}"
        self._positions = tuple(positions)
        self._samples = dict(zip(positions, samples, strict=True))

    def __len__(self) -> int:
        return len(self._positions)

    def name(self, index: int) -> str:
        """Name a sample by its position in the epoch."""
        return f"{self._where}, sample {index}"

    def read(self, index: int) -> tuple[Any, Any]:
        """Return x and y of the sample at a position."""
        if index not in self._samples:  # a substitute from anywhere: a stream has only what is here
            index = self._positions[index % len(self._positions)]
        return self._view.look(self._samples[index], self.name(index), index)


def view_in(head: Head) -> View:
    """Choose what is x and what is y by the first sample of the stream."""
    form = {"images": "recordio-image", "augmented": "recordio-image"}.get(head.format, head.format)
    return view_of(form, head.samples[0], head.options)


def as_it_is(batch: object) -> object:
    """Pass a batch on; a function with a name, since loader workers may be started anew."""
    return batch
