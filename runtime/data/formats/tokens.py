"""Raw tokens: a file of integers, cut into sequences; as language models are trained on.

``.bin`` holds nothing but little-endian integers, so their type must be told; the header of llm.c (256 int32, the
first one 20240520) is known. ``.npy`` says its type itself. A sample is ``tokens``, `length` + 1 integers, so that
inputs and targets are ``tokens[:-1]`` and ``tokens[1:]``; sequences share one token with the next.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.base.errors import PlatformError, UserError
from runtime.data.formats.errors import malformed
from runtime.data.formats.npy import NpyError, read_header
from runtime.data.formats.samples import Sample

_LLMC_MAGIC, _LLMC_BYTES = 20240520, 1024


class TokenFile:
    """One opened file."""

    def __init__(self, path: Path, *, length: int, dtype: npt.DTypeLike = np.uint16) -> None:
        """Look at the file's header.

        Args:
            path: of the file.
            length: tokens of a sample, at least 1; the tail that is shorter is left out, and counted in `rest`.
            dtype: of a ``.bin`` file without header.

        Raises:
            FormatError: its size is no whole number of tokens, or contradicts its header.
            UserError: an impossible length or type.
        """
        self.path = path
        self._length = length
        if length < 1:
            raise UserError(f"Sequences of {length} tokens", allowed="length is at least 1")
        self._file: int | None = None
        try:
            size = path.stat().st_size
            head = self._read(0, _LLMC_BYTES)
        except OSError as error:
            raise PlatformError(f"{path} cannot be opened: {error.strerror}") from error
        finally:
            self.close()
        self._begin, self._dtype, count = _layout(str(path), head, size, np.dtype(dtype))
        self.tokens = count
        self.rest = (count - 1) % length if count else 0

    def __len__(self) -> int:
        """Count the samples."""
        return max(0, (self.tokens - 1) // self._length)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        width = self._dtype.itemsize
        want = (self._length + 1) * width
        at = self._begin + index * self._length * width
        try:
            raw = self._read(at, want)
        except OSError as error:
            raise PlatformError(f"{self.path} cannot be read at byte {at}: {error.strerror}") from error
        if len(raw) < want:
            raise malformed(str(self.path), at, f"truncated: a sample needs {want} bytes, {len(raw)} are left")
        return {"tokens": np.frombuffer(raw, self._dtype)}

    def __iter__(self) -> Iterator[Sample]:
        """Yield all samples."""
        return (self[index] for index in range(len(self)))

    def blocks(self, size: int) -> npt.NDArray[np.int64]:
        """Return the numbers of the samples that begin a stretch of about `size` bytes."""
        return np.arange(0, len(self), max(1, size // (self._length * self._dtype.itemsize)))

    def close(self) -> None:
        """Close the file; the next sample opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _read(self, at: int, size: int) -> bytes:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._file, size, at)


def _layout(file: str, head: bytes, size: int, dtype: np.dtype[np.generic]) -> tuple[int, np.dtype[np.generic], int]:
    """Return where tokens begin, their type, and how many there are."""
    if head.startswith(b"\x93NUMPY"):
        begin, dtype, count = _npy(file, head)
        if size - begin != count * dtype.itemsize:
            raise malformed(file, begin, f"{size - begin} bytes follow where {count} tokens of {dtype.name} are told")
    elif len(head) == _LLMC_BYTES and int.from_bytes(head[:4], "little") == _LLMC_MAGIC:
        count = int.from_bytes(head[8:12], "little")
        begin, dtype = _LLMC_BYTES, np.dtype("<u2" if int.from_bytes(head[4:8], "little") == 1 else "<u4")
        if size - begin != count * dtype.itemsize:
            raise malformed(file, 8, f"the header tells {count} tokens, {size - begin} bytes follow")
    else:
        begin, dtype = 0, dtype.newbyteorder("<")
        count, rest = divmod(size, dtype.itemsize)
        if rest:
            raise malformed(file, size - rest, f"{size} bytes are no whole number of {dtype.name}")
    if dtype.kind not in "iu":
        raise UserError(f"{file} holds {dtype.name}", allowed="tokens are integers")
    return begin, dtype, count


def _npy(file: str, head: bytes) -> tuple[int, np.dtype[np.generic], int]:
    try:
        begin, shape, dtype, _ = read_header(head)
    except NpyError as error:
        raise malformed(file, 0, str(error)) from error
    if len(shape) != 1:
        raise malformed(file, 0, f"an array of shape {shape}: tokens have one dimension")
    return begin, dtype, shape[0]
