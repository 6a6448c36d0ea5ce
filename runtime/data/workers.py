"""Processes that make batches ahead, in order; each batch comes over in anonymous memory.

torch's own loader passes batches through /dev/shm: 64 MiB in a container that nobody told otherwise, where a full one
kills the worker that writes (SIGBUS), and files of names stay there when everything is killed at the wrong moment.
Here a worker writes a batch into a memfd and sends the descriptor over a socket: no name in any file system, no limit
but memory, and nothing is left behind however anybody ends. See docs/adr/0013.
"""

import contextlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar, cast

import torch

from runtime.base.errors import PlatformError, UserError
from runtime.data.parcels import put, take

Item = TypeVar("Item")
Value = TypeVar("Value")

AHEAD = 2
"""Batches that each worker makes ahead: one under way, one ready. It bounds the memory of what waits."""
ORPHAN_S = 5.0
"""How often an idle worker looks whether its parent still lives, should somebody else hold our end of its socket."""
LEAVE_S = 5.0
"""From SIGTERM to SIGKILL for a worker that is not wanted any more."""
_REQUEST = struct.Struct("<Q")
_REPLY = struct.Struct("<QQdd")
"""Bytes in all, where the pickled body begins, seconds of work, seconds of CPU."""


@dataclass(frozen=True)
class Made(Generic[Value]):
    """What became of one item."""

    value: Value
    seconds: float
    """That making it took."""
    cpu_s: float
    """Of them, on a CPU; the rest is waiting for storage, or for a CPU."""


class Workers(Generic[Item, Value]):
    """Makes values of items, in the order of the items."""

    def __init__(self, make: Callable[[Item], Value], items: Iterator[Item], count: int, what: str) -> None:
        """Start the processes, and give each its first items.

        Args:
            make: is called in the workers; they are forked, so it may hold whatever it likes.
            items: taken as far ahead as there are places.
            count: processes, at least 1.
            what: whose they are, for messages, such as ``channel 'train'``.
        """
        self._items = items
        self._what = what
        self._waiting: deque[_Worker] = deque()
        self._workers: list[_Worker] = []
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()  # what lies in a buffer would be printed once more by each worker
        try:
            for _ in range(count):
                self._workers.append(_start(make, [worker.socket for worker in self._workers]))
            for _ in range(AHEAD):
                for worker in self._workers:
                    self._ask(worker)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> "Workers[Item, Value]":
        """Return itself."""
        return self

    def __next__(self) -> Made[Value]:
        """Return the next value.

        Raises:
            Exception: what `make` raised, with the worker's traceback as its cause.
            PlatformError: a worker died.
        """
        if not self._waiting:
            self.close()
            raise StopIteration
        worker = self._waiting.popleft()
        try:
            reply = _receive(worker.socket)
        except (OSError, EOFError):
            reply = None
        if reply is None:
            self._mourn(worker)
        made = cast("Made[Value | _Raised]", reply)
        if isinstance(made.value, _Raised):
            raise made.value.error from made.value.cause
        self._ask(worker)
        return cast("Made[Value]", made)

    def close(self) -> None:
        """End the processes, whatever they do."""
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.socket.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                os.kill(worker.pid, signal.SIGTERM)
        deadline = time.monotonic() + LEAVE_S
        for worker in self._workers:
            _reap(worker, deadline)
        self._workers.clear()
        self._waiting.clear()

    def __del__(self) -> None:
        if getattr(self, "_workers", None):
            self.close()

    def _ask(self, worker: "_Worker") -> None:
        try:
            item = next(self._items)
        except StopIteration:
            return
        data = pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)
        # A worker that has died tells why when its answer is wanted.
        with contextlib.suppress(OSError):
            worker.socket.sendall(_REQUEST.pack(len(data)) + data)
        self._waiting.append(worker)

    def _mourn(self, worker: "_Worker") -> NoReturn:
        status = _reap(worker, time.monotonic() + LEAVE_S)
        self._workers = [other for other in self._workers if other is not worker]
        self.close()
        ended = "ended"
        if status is not None and os.WIFSIGNALED(status):
            ended = f"was ended by {signal.Signals(os.WTERMSIG(status)).name}"
        elif status is not None:
            ended = f"ended with exit code {os.waitstatus_to_exitcode(status)}"
        memory = status is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        raise PlatformError(
            f"A loader worker (pid {worker.pid}) of {self._what} {ended}"
            + (", as the kernel does when memory is used up" if memory else ""),
            fix="use fewer workers or smaller batches" if memory else "set workers=0 to see why, in this process",
        )


@dataclass(frozen=True)
class _Worker:
    pid: int
    socket: socket.socket


@dataclass(frozen=True)
class _Raised:
    error: Exception
    cause: BaseException


class WorkerTraceback(Exception):
    """Where an error happened in a loader worker."""

    def __str__(self) -> str:
        """Return the traceback, as Python prints it."""
        return f"\n{self.args[0]}"


def _start(make: Callable[[Any], Any], siblings: list[socket.socket]) -> _Worker:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return _Worker(pid, ours)
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends us
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever the parent does then is not ours to do
        for held in (ours, *siblings):
            held.close()  # or nobody would see that the parent has gone
        torch.set_num_threads(1)
        _work(make, theirs, parent)
        code = 0
    except (OSError, EOFError):  # the parent has gone
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # never back into the parent's program


def _work(make: Callable[[Any], Any], link: socket.socket, parent: int) -> None:
    while True:
        while not select.select([link], [], [], ORPHAN_S)[0]:
            if os.getppid() != parent:
                return
        item = pickle.loads(_exactly(link, _REQUEST.unpack(_exactly(link, _REQUEST.size))[0]))  # noqa: S301 - our parent's
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            value = make(item)
        except Exception as error:
            value = _as_raised(error)
        _send(link, value, time.perf_counter() - wall, time.thread_time() - cpu)


def _as_raised(error: Exception) -> _Raised:
    text = WorkerTraceback("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own; some errors can be pickled and not made again
    except Exception:
        return _Raised(RuntimeError(f"{type(error).__name__}: {error}"), text)
    return _Raised(error, text)


def _send(link: socket.socket, value: object, seconds: float, cpu_s: float) -> None:
    try:
        handle, size, begin = put(value)
    except Exception as error:  # a lambda in a sample, for one
        told = UserError(
            f"What a loader worker made cannot be sent to its rank: {type(error).__name__}: {error}",
            allowed="tensors, arrays, numbers, text, and lists and dicts of them",
            fix="change what transform= returns, or use workers=0",
        )
        handle, size, begin = put(_as_raised(told))
    try:
        socket.send_fds(link, [_REPLY.pack(size, begin, seconds, cpu_s)], [handle])
    finally:
        os.close(handle)


def _receive(link: socket.socket) -> Made[Any] | None:
    head, handles, _, _ = socket.recv_fds(link, _REPLY.size, 1, socket.MSG_CMSG_CLOEXEC)
    if not head:
        return None
    if len(head) < _REPLY.size:
        head += _exactly(link, _REPLY.size - len(head))
    size, begin, seconds, cpu_s = _REPLY.unpack(head)
    return Made(take(handles[0], size, begin), seconds, cpu_s)


def _exactly(link: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = link.recv(min(size - len(data), 1 << 20))
        if not more:
            raise EOFError
        data += more
    return bytes(data)


def _has_left(worker: _Worker, deadline: float) -> bool:
    """Wait until a worker has closed its end, as its death does; a wait with a deadline, which waitpid has not."""
    while (left := deadline - time.monotonic()) > 0 and select.select([worker.socket], [], [], left)[0]:
        try:
            if not worker.socket.recv(1 << 16):  # what it had sent is not wanted any more
                return True
        except OSError:
            return True
    return False


def _reap(worker: _Worker, deadline: float) -> int | None:
    """Wait for a worker that is to end, kill it at the deadline; return its status, None when it cannot be told."""
    left = _has_left(worker, deadline)
    if not left:
        with contextlib.suppress(OSError):
            os.kill(worker.pid, signal.SIGKILL)
        left = _has_left(worker, time.monotonic() + LEAVE_S)
    worker.socket.close()
    try:
        # One that hangs in the kernel, on a mount that is gone, is not waited for: it ends with the container.
        done, status = os.waitpid(worker.pid, 0 if left else os.WNOHANG)
    except ChildProcessError:
        return None
    return status if done else None
