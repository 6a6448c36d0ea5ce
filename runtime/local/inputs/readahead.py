"""Reading from a distant store: large requests ahead of a reader that goes straight on, small ones for others."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from runtime.base.errors import UserError
from runtime.local.inputs.objects import ObjectStore

T = TypeVar("T")
U = TypeVar("U")
AHEAD = 3
"""Requests under way for one stream."""
REQUEST = 4 << 20
"""Bytes of one request of a stream: with `AHEAD` of them 12 MiB of memory for each channel of a host."""
FIRST_WINDOW = 128 << 10
"""Bytes of a file's first request: what the kernel asks for at one time."""
WIDEST_WINDOW = 8 << 20
"""Bytes of the largest request that a straight reader leads to."""
REORDERED = 1 << 20
"""Bytes by which requests of a straight reader may overtake each other: the kernel keeps several under way."""


def begin_ahead(
    items: Iterator[T], is_far: Callable[[T], bool], begin: Callable[[T], U], ahead: int
) -> Generator[tuple[T, U | None]]:
    """Begin distant items before their turn, and yield all in their order.

    Args:
        items: in their order.
        is_far: tells which are worth it; the others come with None.
        begin: what is done before the turn, in threads.
        ahead: how many are begun.

    Raises:
        Exception: what `begin` raised, at the item's turn.
    """
    waiting: deque[tuple[T, Future[U] | None]] = deque()
    pool: ThreadPoolExecutor | None = None
    try:
        for item in items:
            future = None
            if is_far(item):
                pool = pool or ThreadPoolExecutor(ahead, thread_name_prefix="begin-ahead")
                future = pool.submit(begin, item)
            waiting.append((item, future))
            if future is None or len(waiting) > ahead:
                while waiting and (len(waiting) > ahead or waiting[0][1] is None):
                    first, begun = waiting.popleft()
                    yield first, begun.result() if begun is not None else None
        for first, begun in waiting:
            yield first, begun.result() if begun is not None else None
    finally:
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def read_ahead(store: ObjectStore, key: str, size: int, ahead: int, beginning: bytes = b"") -> Iterator[bytes]:
    """Read an object from its beginning to its end with several requests under way.

    Args:
        store: holds it.
        key: of the object.
        size: when it was listed.
        ahead: requests under way.
        beginning: what was read already.

    Raises:
        OSError, UserError, PlatformError: it cannot be read, or has become shorter.
    """
    if beginning:
        yield beginning
    if len(beginning) >= size:
        return
    starts = iter(range(len(beginning), size, REQUEST))
    waiting: deque[tuple[int, Future[bytes]]] = deque()
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="read-ahead")
    try:
        while True:
            while len(waiting) < ahead and (start := next(starts, None)) is not None:
                length = min(REQUEST, size - start)
                waiting.append((length, pool.submit(store.read, key, start, length)))
            if not waiting:
                return
            length, request = waiting.popleft()
            piece = request.result()
            if len(piece) != length:
                raise UserError(
                    f"{key} has become shorter since the job was started",
                    allowed="the data of a job does not change while it runs",
                )
            yield piece
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class FileReader:
    """An open file of a distant store."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        """Nothing is read.

        Args:
            store: holds it.
            key: of the object.
            size: when it was listed.
        """
        self._store = store
        self._key = key
        self._size = size
        self._lock = threading.Lock()
        self._start = 0
        self._window = b""
        self._width = FIRST_WINDOW

    def read(self, offset: int, length: int) -> tuple[bytes, int, int]:
        """Read a part of the file.

        Returns:
            The bytes, fewer than `length` at its end only; how many requests were made; and how many bytes came.

        Raises:
            OSError, UserError, PlatformError: it cannot be read, or has become shorter.
        """
        length = max(0, min(length, self._size - offset))
        if not length:
            return b"", 0, 0
        with self._lock:
            end = self._start + len(self._window)
            if self._start <= offset and offset + length <= end:
                return self._window[offset - self._start : offset - self._start + length], 0, 0
            straight = end <= offset < end + REORDERED or self._start <= offset < end
            if not straight:
                if offset >= end or offset < self._start - REORDERED:
                    # It jumped: from here on it may go straight again.
                    self._width = FIRST_WINDOW
                    self._window, self._start = self._fetch(offset, length), offset
                    return self._window, 1, length
                return self._fetch(offset, length), 1, length
            kept = self._window[offset - self._start :] if offset < end else b""
            start = offset + len(kept)
            width = min(max(self._width, length - len(kept)), self._size - start)
            self._width = min(2 * self._width, WIDEST_WINDOW)
            self._window, self._start = kept + self._fetch(start, width), offset
            return self._window[:length], 1, width

    def _fetch(self, offset: int, length: int) -> bytes:
        data = self._store.read(self._key, offset, length)
        if len(data) != length:
            raise UserError(
                f"{self._key} has become shorter since the job was started",
                allowed="the data of a job does not change while it runs",
            )
        return data
