"""What the reader of a Pipe channel and its consumers say to each other over a Unix socket.

The socket's name is abstract: nothing lies in the file system, and nothing is left of it when everybody is killed.
A message is its length (8 bytes), its kind (1 byte) and a pickle; both ends are our own processes of one user, which
the reader checks (SO_PEERCRED).
"""

import os
import pickle
import secrets
import socket
import struct
from dataclasses import dataclass
from typing import Any

from runtime.base.errors import PlatformError
from runtime.data.formats.samples import Sample

HEADER = struct.Struct("<QB")
HELLO, HEAD, PART, END, ERROR, BEAT = range(1, 7)
HEAD_SAMPLES = 8
"""Samples that are shown to who asks for the head of the stream."""
BEAT_S = 10.0
"""Between two signs of life of a reader that has nothing to send."""
SILENCE_S = 120.0
"""Without any sign for so long, a consumer gives its reader up: it is stopped, or its machine is."""


@dataclass(frozen=True)
class Hello:
    """A consumer's first and only message."""

    epoch: int = -1
    """-1: only the head of the stream is wanted."""
    local_rank: int = 0
    worker: int = 0
    workers: int = 1
    """Consumers of this rank: batch k of the rank goes to number ``k % workers``."""
    consumed: int = 0
    """Samples of the epoch that were given out before."""
    fingerprint: int | None = None
    """Checksum over these, as the checkpoint has it; None: not checked."""


@dataclass(frozen=True)
class Head:
    """What is in the stream."""

    format: str
    reason: str
    options: dict[str, str]
    samples: tuple[Sample, ...]
    """The first few of the first epoch that was opened."""


@dataclass(frozen=True)
class PipePart:
    """One rank's part of one global batch."""

    positions: tuple[int, ...]
    """Of each sample in the epoch."""
    samples: tuple[Sample, ...]
    padding: int
    """How many of the last `samples` are repeats."""
    more: bool
    """Whether this host has a further batch."""
    fingerprint: int
    """Checksum over the samples of the epoch, up to the end of this global batch."""


def pack(kind: int, value: object) -> tuple[bytes, bytes]:
    """Write a message, in two pieces: to join them would copy a whole batch."""
    body = pickle.dumps(value, protocol=5)
    return HEADER.pack(len(body), kind), body


def listen() -> socket.socket:
    """Open a socket for consumers, under a name of its own."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind(f"\0slipway-pipe-{os.getpid()}-{secrets.token_hex(16)}")
    listener.listen(1024)
    return listener


class Connection:
    """A consumer's end."""

    def __init__(self, address: bytes, channel: str) -> None:
        """Connect.

        Raises:
            PlatformError: the reader is gone.
        """
        self._channel = channel
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(SILENCE_S)
        try:
            self._socket.connect(address)
        except OSError as error:
            self._socket.close()
            raise self._gone("it has ended, nobody listens any more") from error

    def send(self, kind: int, value: object) -> None:
        """Send one message."""
        try:
            self._socket.sendall(b"".join(pack(kind, value)))
        except OSError as error:
            raise self._gone("it has ended in the middle of a message") from error

    def receive(self) -> tuple[int, Any]:
        """Wait for the next message that says something.

        Raises:
            PlatformError: the reader died, or gives no sign of life for `SILENCE_S`.
        """
        while True:
            length, kind = HEADER.unpack(self._exactly(HEADER.size))
            value = pickle.loads(self._exactly(length))  # noqa: S301 - of our own reader
            if kind != BEAT:
                return kind, value

    def close(self) -> None:
        """Close it; the reader takes it that no more is wanted."""
        self._socket.close()

    def _exactly(self, count: int) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            try:
                got = self._socket.recv_into(view)
            except TimeoutError as error:
                raise self._gone(f"it has given no sign of life for {SILENCE_S:g} s") from error
            except OSError as error:
                raise self._gone("it has ended in the middle of a message") from error
            if not got:
                raise self._gone("it has ended without a word; it may have been killed (out of memory?)")
            view = view[got:]
        return data

    def _gone(self, what: str) -> PlatformError:
        return PlatformError(
            f"The reader of Pipe channel {self._channel!r}, a process of local rank 0, is lost: {what}",
            fix="look at the log of this host's first rank",
        )
