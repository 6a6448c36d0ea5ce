"""The consumers' side of a Pipe channel: parts from the reader's socket to batches, in a rank or its loader workers."""

# Samples become batches by the same code as those of files.
# pyright: reportPrivateUsage=false

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

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


class Consumer:
    """Makes this rank's batches of one epoch, one after another; in a loader worker, each `workers`-th of them."""

    def __init__(
        self,
        address: bytes,
        channel: str,
        hello: Hello,
        *,
        transform: Transform | None,
        on_bad: OnBad,
        key: str,
        control: int,
    ) -> None:
        """Connect to nobody yet: the process that makes batches does.

        Args:
            address: of the reader.
            channel: its name, for messages.
            hello: what to ask for; the worker's number is filled in.
            transform: as of `Data`.
            on_bad: what an unreadable sample does.
            key: of a transform's randomness.
            control: descriptor that keeps the reader alive, of which a loader worker must hold no copy; -1: none.
        """
        self._address = address
        self._channel = channel
        self._hello = hello
        self._transform = transform
        self._on_bad: OnBad = on_bad
        self._key = key
        self._control = control
        self._connection: Connection | None = None
        self._view: View | None = None
        self._end: tuple[PipePart | None] | None = None

    def __call__(self, number: int) -> Given | None:
        """Make the next batch.

        Args:
            number: of the batch, counted over all workers.

        Returns:
            None at the end of the host's stream, unless other hosts may have more: then padding.

        Raises:
            UserError, PlatformError: what the reader has met, or that it is lost.
        """
        if self._connection is None:
            self._connect(number % self._hello.workers)
        while self._end is None:
            assert self._connection is not None  # noqa: S101 - made above
            kind, value = self._connection.receive()
            if kind == ERROR:
                raise value
            if kind == HEAD:
                self._view = view_in(value)
            elif kind == PART:
                return self._load(value, real=True)
            elif kind == END:
                self._end = (value,)
        (padding,) = self._end
        return None if padding is None else self._load(padding, real=False)

    def close(self) -> None:
        """Tell the reader that no more is wanted."""
        if self._connection is not None:
            self._connection.close()

    def _connect(self, worker: int) -> None:
        if self._control >= 0:
            # A copy from the fork: the reader would live as long as we do.
            with contextlib.suppress(OSError):
                os.close(self._control)
        self._connection = Connection(self._address, self._channel)
        self._connection.send(HELLO, replace(self._hello, worker=worker))

    def _load(self, part: PipePart, *, real: bool) -> Given:
        assert self._view is not None  # noqa: S101 - the head comes first
        source = PartSource(self._view, self._channel, self._hello.epoch, part.positions, part.samples)
        reader = _Reader(source, self._transform, self._on_bad, self._key)
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
