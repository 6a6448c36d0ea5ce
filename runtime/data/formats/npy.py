"""NumPy's ``.npy`` from bytes, with the header checked against what follows before anything is made of it."""

import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt


class NpyError(Exception):
    """The bytes are no array that we read."""


def read_header(head: bytes) -> tuple[int, tuple[int, ...], np.dtype[Any], bool]:
    """Read the header.

    Returns:
        Where the data begin, shape, type, and whether they lie in Fortran's order.

    Raises:
        NpyError: it is none, or the array holds Python objects.
    """
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise NpyError(f"no readable .npy header: {error}") from error
    if dtype.hasobject:
        raise NpyError("an array of Python objects")
    return stream.tell(), shape, dtype, fortran


def read_array(data: bytes) -> npt.NDArray[Any]:
    """Read a whole array; it is a view of the bytes, read-only.

    Raises:
        NpyError: header and length contradict each other.
    """
    begin, shape, dtype, fortran = read_header(data)
    size = math.prod(shape) * dtype.itemsize
    if size != len(data) - begin:
        raise NpyError(f"the header tells {shape} of {dtype}, {len(data) - begin} bytes follow")
    flat = np.frombuffer(data, dtype, math.prod(shape), begin) if size else np.empty(math.prod(shape), dtype)
    return flat.reshape(shape, order="F" if fortran else "C")
