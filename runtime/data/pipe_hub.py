"""The reader's side of the sockets: consumers that come, ask, take what is queued for them, and leave.

One thread, one ``poll``. At most one batch is queued for each consumer, so that memory is bounded by batches times
consumers; who is slow holds up the reading, and the FIFO's writer in turn.
"""

import os
import pickle
import select
import socket
import struct
import time
from collections import deque
from typing import cast

from runtime.base.log import Log
from runtime.data.pipe_wire import BEAT, BEAT_S, HEADER, Hello, pack

log = Log("data")

_CREDENTIALS = struct.Struct("3i")
MOST_HELLO = 1 << 16


class LeaderGone(Exception):
    """The process that we read for has ended."""


class AllGone(Exception):
    """No consumer of this epoch is left."""


class Peer:
    """One consumer."""

    def __init__(self, connection: socket.socket) -> None:
        """Begin with nothing said."""
        self.socket = connection
        self.hello: Hello | None = None
        self.alive = True
        self.answered = False
        """It wanted the head alone, and has it."""
        self.pending: deque[memoryview] = deque()
        self.incoming = b""


class Hub:
    """All consumers, and whoever else is waited for."""

    def __init__(self, listener: socket.socket, control: int) -> None:
        """Listen.

        Args:
            listener: where consumers connect.
            control: hangs up when the process that we read for ends.
        """
        listener.setblocking(False)
        self._listener = listener
        self._control = control
        self._poll = select.poll()
        self._poll.register(listener.fileno(), select.POLLIN)
        self._poll.register(control, select.POLLIN)
        self._peers: dict[int, Peer] = {}
        self._waited = -1
        self._beat = time.monotonic()
        self.head: tuple[bytes, bytes] | None = None
        """What everybody gets who asks for the head of the stream, once it is known."""
        self.served: list[Peer] = []
        """Consumers of the epoch under way; while there are some, `turn` raises when the last one leaves."""

    def asking(self) -> list[Peer]:
        """Return who has said what it wants, and is not served yet."""
        return [
            peer
            for peer in self._peers.values()
            if peer.hello is not None and peer not in self.served and not peer.answered
        ]

    def wait(self, descriptor: int, seconds: float) -> bool:
        """Serve until a descriptor can be read or time is up; see `runtime.data.pipe_fifo.Waiter`."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            if self.turn(descriptor, max(0.0, left)):
                return True
            if left <= 0:
                return False

    def turn(self, descriptor: int, seconds: float) -> bool:
        """Wait once for anything, and serve it.

        Returns:
            Whether `descriptor` can be read or has hung up; -1 never does.

        Raises:
            LeaderGone: nobody needs us any more.
            AllGone: the consumers of this epoch have left.
        """
        self._watch(descriptor)
        found = False
        for number, event in self._poll.poll(min(seconds, BEAT_S) * 1000):
            if number == self._control:
                if not event & select.POLLIN or not os.read(self._control, 1):
                    raise LeaderGone
            elif number == self._listener.fileno():
                self._accept()
            elif number == descriptor:
                found = True
            else:
                peer = self._peers.get(number)
                if peer is not None:  # it may have left in this very turn
                    self._serve(peer, event)
        self._send_beats()
        if self.served and not any(peer.alive for peer in self.served):
            raise AllGone
        return found

    def _watch(self, descriptor: int) -> None:
        if descriptor != self._waited:
            if self._waited >= 0:
                self._poll.unregister(self._waited)
            if descriptor >= 0:
                self._poll.register(descriptor, select.POLLIN)
            self._waited = descriptor

    def forget(self, descriptor: int) -> None:
        """A descriptor that was waited for is about to be closed."""
        if descriptor == self._waited and descriptor >= 0:
            self._poll.unregister(descriptor)
            self._waited = -1

    def send(self, peer: Peer, message: tuple[bytes, bytes]) -> None:
        """Queue a message as soon as the one before it is on its way; nothing for who has left."""
        while peer.alive and peer.pending:
            self.turn(-1, 1.0)
        if peer.alive:
            peer.pending.extend(map(memoryview, message))
            self._flush(peer)

    def finish(self, peers: list[Peer]) -> None:
        """Wait until all of them have what was queued, or have left, and part."""
        while any(peer.alive and peer.pending for peer in peers):
            self.turn(-1, 1.0)
        for peer in peers:
            self._drop(peer)

    def drop(self, peers: list[Peer]) -> None:
        """Part from some consumers at once."""
        for peer in peers:
            self._drop(peer)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, _ = _CREDENTIALS.unpack(credentials)
        if user != os.getuid():
            connection.close()
            return
        connection.setblocking(False)
        self._peers[connection.fileno()] = Peer(connection)
        self._poll.register(connection.fileno(), select.POLLIN)

    def _serve(self, peer: Peer, event: int) -> None:
        if event & select.POLLOUT:
            self._flush(peer)
        if peer.alive and event & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._listen_to(peer)

    def _listen_to(self, peer: Peer) -> None:
        try:
            data = peer.socket.recv(MOST_HELLO)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
            return
        peer.incoming += data
        if len(peer.incoming) < HEADER.size:
            return
        length, _ = HEADER.unpack_from(peer.incoming)
        if len(peer.incoming) >= HEADER.size + length:
            peer.hello = hello = cast(Hello, pickle.loads(peer.incoming[HEADER.size : HEADER.size + length]))  # noqa: S301 - of our own user, checked

            if hello.epoch < 0 and self.head is not None:
                # At once: who asks in the middle of an epoch may be the one for whose sake it does not go on.
                peer.answered = True
                peer.pending.extend(map(memoryview, self.head))
                self._flush(peer)

    def _flush(self, peer: Peer) -> None:
        try:
            while peer.pending:
                sent = peer.socket.send(peer.pending[0])
                if sent == len(peer.pending[0]):
                    peer.pending.popleft()
                else:
                    peer.pending[0] = peer.pending[0][sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(peer)
            return
        self._poll.modify(peer.socket.fileno(), select.POLLIN | (select.POLLOUT if peer.pending else 0))

    def _drop(self, peer: Peer) -> None:
        if peer.alive:
            peer.alive = False
            peer.pending.clear()
            self._poll.unregister(peer.socket.fileno())
            del self._peers[peer.socket.fileno()]
            peer.socket.close()

    def _send_beats(self) -> None:
        now = time.monotonic()
        if now - self._beat < BEAT_S:
            return
        self._beat = now
        for peer in list(self._peers.values()):
            if peer.hello is not None and not peer.pending:
                peer.pending.extend(map(memoryview, pack(BEAT, None)))
                self._flush(peer)
