"""Packets that come late or never: a queue of netfilter whose packets we let go in time, or drop.

The socket is opened inside the container's network name space and stays there; a thread of ours serves it. Packets keep
their order. When nobody serves the queue any more they pass at once.
Source of the messages: linux/netfilter/nfnetlink_queue.h.
"""

import contextlib
import ctypes
import os
import random
import select
import socket
import struct
import threading
import time
from collections import deque
from pathlib import Path

from runtime.base.errors import UserError

_NETLINK_NETFILTER = 12
_CLONE_NEWNET = 0x40000000
_SUBSYSTEM = 3 << 8
_PACKET, _VERDICT, _CONFIG = _SUBSYSTEM, _SUBSYSTEM | 1, _SUBSYSTEM | 2
_CFG_CMD, _CFG_PARAMS, _CFG_MAXLEN, _CFG_MASK, _CFG_FLAGS = 1, 2, 3, 4, 5
_CMD_BIND = 1
_FAIL_OPEN, _GSO = 1, 4
_PACKET_HDR, _VERDICT_HDR = 1, 2
_DROP, _ACCEPT = 0, 1
_ERROR = 2
_REQUEST, _ACK = 1, 4
MOST = 65536
"""Packets that may wait; more pass at once."""
ANSWER_S = 10.0
"""For the kernel to say whether it takes a setting."""


class PacketQueue:
    """Serves one queue until it is closed."""

    def __init__(
        self, pid: int, number: int, *, delay_s: float = 0.0, jitter_s: float = 0.0, share: float = 0.0, seed: int = 0
    ) -> None:
        """Begin to serve.

        Args:
            pid: a process in the network name space.
            number: of the queue.
            delay_s: seconds that a packet waits.
            jitter_s: seconds around it.
            share: of the packets that are lost, in 0..1.
            seed: of the jitter and of the losses.

        Raises:
            UserError: the kernel has no such queues, or we may not use them.
        """
        self._number = number
        self._delay_s, self._jitter_s, self._share = delay_s, jitter_s, share
        self._draw = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._held: deque[tuple[float, int]] = deque()
        """Monotonic seconds at which a packet may go, and its number."""
        self._socket = _socket_in(pid)
        self._wake, self._sleeper = os.pipe()
        try:
            self._configure()
        except OSError as error:
            self._socket.close()
            raise UserError(
                f"This kernel has no netfilter queues: {error}",
                fix="load the module nfnetlink_queue, or use another machine",
            ) from error
        self._thread = threading.Thread(target=self._serve, name="delay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let all packets go and end."""
        if self._sleeper >= 0:
            os.close(self._sleeper)
            self._sleeper = -1
            self._thread.join()
            os.close(self._wake)
            self._socket.close()

    def _configure(self) -> None:
        self._ask(_attribute(_CFG_CMD, struct.pack(">BxH", _CMD_BIND, 0)))
        self._ask(_attribute(_CFG_PARAMS, struct.pack(">IB", 0, 1)))  # no content of a packet, its number alone
        self._ask(_attribute(_CFG_MAXLEN, struct.pack(">I", MOST)))
        flags = _FAIL_OPEN | _GSO
        self._ask(_attribute(_CFG_FLAGS, struct.pack(">I", flags)) + _attribute(_CFG_MASK, struct.pack(">I", flags)))

    def _ask(self, attributes: bytes) -> None:
        self._socket.settimeout(ANSWER_S)
        self._socket.send(self._message(_CONFIG, attributes, _REQUEST | _ACK))
        while True:
            for kind, body in _messages(self._socket.recv(1 << 16)):
                if kind == _ERROR:
                    code = struct.unpack_from("=i", body)[0]
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return

    def _message(self, kind: int, attributes: bytes, flags: int) -> bytes:
        body = struct.pack(">BBH", socket.AF_UNSPEC, 0, self._number) + attributes
        return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body

    def _serve(self) -> None:
        self._socket.setblocking(False)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            wait_ms = None if not self._held else max(0.0, (self._held[0][0] - time.monotonic()) * 1000)
            ready = {descriptor for descriptor, _ in poll.poll(wait_ms)}
            if self._wake in ready:
                break
            if self._socket.fileno() in ready:
                self._take()
            self._release(time.monotonic())
        self._release(float("inf"))

    def _take(self) -> None:
        try:
            data = self._socket.recv(1 << 18)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # ENOBUFS: more came than we read; they passed
            return
        now = time.monotonic()
        for kind, body in _messages(data):
            if kind == _PACKET:
                number = _packet_number(body)
                if number is not None and self._draw.random() < self._share:
                    self._judge(number, _DROP)
                elif number is not None:
                    at = now + self._delay_s + self._draw.uniform(-self._jitter_s, self._jitter_s)
                    # A packet never overtakes another one: what jitter would reorder, the network does not.
                    self._held.append((max(at, self._held[-1][0]) if self._held else at, number))

    def _release(self, until: float) -> None:
        while self._held and self._held[0][0] <= until:
            _, number = self._held.popleft()
            self._judge(number, _ACCEPT)

    def _judge(self, number: int, verdict: int) -> None:
        told = _attribute(_VERDICT_HDR, struct.pack(">II", verdict, number))
        # An error means that the name space is gone, and its packets with it.
        with contextlib.suppress(OSError):
            self._socket.send(self._message(_VERDICT, told, _REQUEST))


def _socket_in(pid: int) -> socket.socket:
    """Open a netlink socket inside the network name space of a process: a thread goes there, and ends there."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            with Path(f"/proc/{pid}/ns/net").open("rb") as space:
                if libc.setns(space.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            opened.bind((0, 0))
            made.append(opened)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=enter, name="enter network")
    thread.start()
    thread.join()
    if failed:
        raise UserError(f"The network of process {pid} cannot be entered: {failed[0]}", fix="run as root")
    return made[0]


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _messages(data: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if length < 16:
            break
        found.append((kind, data[offset + 16 : offset + length]))
        offset += (length + 3) & ~3
    return found


def _packet_number(body: bytes) -> int | None:
    offset = 4
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if length < 4:
            return None
        if kind & 0x7FFF == _PACKET_HDR:
            return int(struct.unpack_from(">I", body, offset + 4)[0])
        offset += (length + 3) & ~3
    return None
