"""What all formats share: a sample, and how one is read and written."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from runtime.data.formats.errors import malformed
from runtime.data.formats.window import MOST_BYTES, Window

Sample = dict[str, Any]
"""Fields by name: bytes, text, numbers, NumPy arrays, `Sparse`. ``__key__`` is the sample's own name, if it has one."""

KEY = "__key__"


@dataclass(frozen=True)
class Sparse:
    """A sparse tensor of one sample."""

    keys: npt.NDArray[np.uint64]
    """Places of the values in the flattened tensor, [n]."""
    values: npt.NDArray[np.generic]
    """[n]."""
    shape: tuple[int, ...]

    def dense(self) -> npt.NDArray[np.generic]:
        """Return the tensor with its zeros.

        Raises:
            ValueError: it would have more than `MOST_BYTES`.
        """
        size = math.prod(self.shape)
        if size * self.values.itemsize > MOST_BYTES:
            raise ValueError(f"a dense tensor of shape {self.shape} has more than {MOST_BYTES} bytes")
        full = np.zeros(size, self.values.dtype)
        full[self.keys.astype(np.int64)] = self.values
        return full.reshape(self.shape)


def only(samples: Iterator[Sample], window: Window) -> Sample:
    """Return the only sample of a span.

    Raises:
        FormatError: it holds none, or several: the file has changed since its index was made.
    """
    sample = next(samples, None)
    if sample is None or next(samples, None) is not None:
        raise malformed(window.name, window.offset, "not one sample, as the index says: the file has changed")
    return sample


class Format(Protocol):
    """One format of shards."""

    name: str
    """As in messages and flags, such as ``recordio-protobuf``."""

    def samples(self, window: Window) -> Iterator[Sample]:
        """Yield the samples from here to the end of the input.

        Raises:
            FormatError: with file and offset.
        """
        ...

    def spans(self, window: Window) -> Iterator[tuple[int, int]]:
        """Yield (offset, bytes) of each sample; these bytes alone, given to `sample`, are that sample."""
        ...

    def sample(self, window: Window) -> Sample:
        """Read the one sample of a span."""
        ...


class Writer(Protocol):
    """Writes one shard."""

    def write(self, sample: Mapping[str, Any]) -> None:
        """Append one sample.

        Raises:
            ValueError: a field that the format cannot hold.
        """
        ...

    def close(self) -> None:
        """Write what belongs at the end. The stream stays open."""
        ...


class MakesWriter(Protocol):
    """A format that can be written."""

    def writer(self, stream: BinaryIO) -> Writer:
        """Begin a shard."""
        ...


class Reader(Protocol):
    """One opened shard, forward."""

    def __iter__(self) -> Iterator[Sample]:
        """Yield its samples."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class IndexedReader(Reader, Protocol):
    """One opened shard whose samples can be read by number."""

    path: Path

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""
        ...

    def blocks(self, size: int) -> npt.NDArray[np.int64]:
        """Return the numbers of the samples that begin a stretch of about `size` bytes, or what is read as one."""
        ...
