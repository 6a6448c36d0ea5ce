"""A value in anonymous memory: tensors and arrays as they lie, everything else pickled behind them."""

import io
import mmap
import os
import pickle
from typing import Any

import numpy as np
import torch

ALIGN = 64
"""Bytes: a cache line, and more than any type asks for."""


def put(value: object) -> tuple[int, int, int]:
    """Write a value.

    Returns:
        A descriptor of the memory, which the caller closes; its bytes; where the pickled part begins.

    Raises:
        Exception: it cannot be pickled, or there is no memory.
    """
    body = io.BytesIO()
    packer = _Packer(body)
    packer.dump(value)
    size = packer.size + body.tell()
    handle = os.memfd_create("slipway-batch", os.MFD_CLOEXEC)
    try:
        os.ftruncate(handle, size)
        for offset, part in packer.parts:
            _write(handle, part, offset)
        _write(handle, body.getbuffer(), packer.size)
    except BaseException:
        os.close(handle)
        raise
    return handle, size, packer.size


def take(handle: int, size: int, begin: int) -> Any:  # noqa: ANN401 - what was put
    """Read a value that our own process or its parent has put, and close the descriptor.

    Its tensors and arrays are views of the memory, writable, and keep it alive.
    """
    try:
        held = mmap.mmap(handle, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    finally:
        os.close(handle)
    return _Unpacker(io.BytesIO(held[begin:]), held).load()


class _Packer(pickle.Pickler):
    """Leaves the contents of tensors and arrays out of the pickle; they lie before it, aligned."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self.parts: list[tuple[int, memoryview]] = []
        self.size = 0

    def persistent_id(self, obj: Any) -> Any:  # noqa: ANN401 - whatever a sample holds
        if type(obj) is torch.Tensor and _is_plain(obj):
            whole = obj.contiguous()
            return "tensor", whole.dtype, tuple(whole.shape), self._keep(whole.reshape(-1).view(torch.uint8).numpy())
        if type(obj) is np.ndarray and obj.size and not obj.dtype.hasobject:
            whole = np.ascontiguousarray(obj)
            return "array", whole.dtype, obj.shape, self._keep(whole.reshape(-1).view(np.uint8))
        return None

    def _keep(self, data: Any) -> int:  # noqa: ANN401 - an array of bytes
        offset = -(-self.size // ALIGN) * ALIGN
        self.parts.append((offset, memoryview(data)))
        self.size = offset + data.nbytes
        return offset


def _is_plain(tensor: torch.Tensor) -> bool:
    plain = tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor.requires_grad
    return plain and tensor.numel() > 0 and not tensor.is_complex() and not tensor.is_quantized


class _Unpacker(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, held: mmap.mmap) -> None:
        super().__init__(stream)
        self._held = held

    def persistent_load(self, pid: Any) -> Any:  # noqa: ANN401 - see `_Packer`
        kind, dtype, shape, offset = pid
        count = int(np.prod(shape, dtype=np.int64))
        if kind == "tensor":  # it keeps the memory alive as long as it lives itself
            return torch.frombuffer(self._held, dtype=dtype, count=count, offset=offset).reshape(shape)
        return np.frombuffer(self._held, dtype, count, offset).reshape(shape)


def _write(handle: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(handle, data, offset)
        data, offset = data[count:], offset + count
