"""The launchers' side channel: who is there, who failed, who is done. TCP, one JSON object per line, no collectives.

Every launcher listens; a host dials those before it in natural order, so that each pair shares one connection. All
sockets live in the supervisor's selector: no threads but those that wait for a name service.
"""

import contextlib
import errno
import hashlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from runtime.errors import PlatformError
from runtime.job import Job
from runtime.log import Log

log = Log("peers")

CONNECT_S = 1.0
"""An attempt without any answer is given up after this and made anew."""
RETRY_S = 0.1
"""Between two attempts to resolve or reach a host; flat, so that a host is seen as soon as it is there."""
LONGEST_MESSAGE_BYTES = 1 << 16


@dataclass(frozen=True)
class Message:
    """Something that another host said."""

    host: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Lost:
    """A host that went."""

    host: str
    why: str
    said_goodbye: bool = False
    """True when it left in good order, but perhaps before the end of the job."""


Event = Message | Lost


def parse_addresses(text: str) -> dict[str, str]:
    """Read ``SLIPWAY_HOST_ADDRESSES``.

    >>> parse_addresses("algo-1=127.0.0.2,algo-2=127.0.0.3")
    {'algo-1': '127.0.0.2', 'algo-2': '127.0.0.3'}
    """
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): address.strip() for name, _, address in pairs}


def job_token(job: Job) -> str:
    """Tell jobs apart: another job's launcher on the same address is refused, not believed."""
    facts = json.dumps([job.name, [host.name for host in job.hosts]])
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


class _Link:
    """One connection; `host` is known after its hello."""

    def __init__(self, sock: socket.socket, host: str = "") -> None:
        self.sock = sock
        self.host = host
        self.heard = time.monotonic()
        self.rest = b""


class Peers:
    """All connections of one launcher."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        me: str,
        hosts: Sequence[str],
        addresses: Mapping[str, str],
        port: int,
        token: str,
    ) -> None:
        """Listen, and start to dial.

        Args:
            selector: the supervisor's; callbacks stand in its data.
            me: this host.
            hosts: all hosts of the world in natural order.
            addresses: host to address; others are asked from the name service, again and again.
            port: the same on every host.
            token: of the job, see `job_token`.

        Raises:
            PlatformError: the port is taken.
        """
        self._selector = selector
        self._me = me
        self._port = port
        self._token = token
        self._links: dict[str, _Link] = {}
        self._open: set[_Link] = set()
        self._events: list[Event] = []
        self._gone: set[str] = set()
        self._expected = [host for host in hosts if host != me]
        self._addresses = dict(addresses)
        self._dialing: dict[str, float] = {host: 0.0 for host in hosts[: hosts.index(me)]}
        self._listener = self._listen(addresses.get(me, "")) if self._expected else None
        self._beat = 0.0
        self._knocking: dict[str, socket.socket] = {}
        for host in self._dialing:
            if host not in self._addresses:
                threading.Thread(target=self._resolve, args=(host,), daemon=True).start()

    # --- what the supervisor asks -------------------------------------------------------------------------------

    @property
    def missing(self) -> list[str]:
        """Hosts that have not been heard yet."""
        return [host for host in self._expected if host not in self._links and host not in self._gone]

    @property
    def others(self) -> list[str]:
        """All hosts but this one."""
        return list(self._expected)

    def why_missing(self, host: str) -> str:
        """Say how far we got with a host."""
        if host in self._dialing and host not in self._addresses:
            return "its name does not resolve"
        if host in self._dialing:
            return f"{self._addresses[host]} port {self._port} does not answer"
        return f"it did not connect to port {self._port} of {self._me}"

    def take_events(self) -> list[Event]:
        """Return what happened since the last call."""
        events, self._events = self._events, []
        return events

    def send(self, **body: object) -> None:
        """Tell every host that is there, also one that we have just dialed: our hello precedes this on its way."""
        line = json.dumps(body).encode() + b"\n"
        for link in [link for link in self._open if link.host]:
            self._write(link, line)

    def tick(self, now: float, silence_s: float) -> None:
        """Do what time demands: dial, say that we live, notice who is silent.

        Args:
            now: monotonic seconds.
            silence_s: limit after which a silent host is lost.
        """
        for host, due in list(self._dialing.items()):
            if now >= due and host in self._addresses:
                self._dialing[host] = now + RETRY_S
                self._dial(host)
        if now >= self._beat:
            self._beat = now + min(1.0, silence_s / 4)
            self.send(beat=True)
        for link in list(self._links.values()):
            if now - link.heard > silence_s:
                self._lose(link, f"no sign for {silence_s:g} s")

    def close(self) -> None:
        """Say goodbye, so that nobody takes our end for a loss."""
        self.send(bye=True)
        for link in list(self._open):
            self._forget(link)
        self._links.clear()
        for host in list(self._knocking):
            self._give_up(host)
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    # --- sockets ------------------------------------------------------------------------------------------------

    def _listen(self, address: str) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, self._port))
        except OSError as error:
            listener.close()
            raise PlatformError(
                f"Port {self._port} of {self._me} ({address or 'all addresses'}) cannot be used: {error.strerror}",
                fix="set slipway_peer_port to a free port",
            ) from error
        listener.listen(128)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        return listener

    def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101 - registered only while it is open
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        self._adopt(_Link(sock))

    def _resolve(self, host: str) -> None:
        while True:
            try:
                found = socket.getaddrinfo(host, self._port, socket.AF_INET, socket.SOCK_STREAM)
                self._addresses[host] = cast(str, found[0][4][0])
                return
            except OSError:
                time.sleep(RETRY_S)

    def _dial(self, host: str) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        if sock.connect_ex((self._addresses[host], self._port)) not in (0, errno.EINPROGRESS):
            sock.close()
            return
        self._dialing[host] = time.monotonic() + CONNECT_S

        def connected() -> None:
            self._selector.unregister(sock)
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
                sock.close()  # nobody listens there yet
                self._dialing[host] = time.monotonic() + RETRY_S
                return
            self._dialing.pop(host, None)
            self._knocking.pop(host, None)
            self._adopt(_Link(sock, host))

        self._give_up(host)
        self._knocking[host] = sock
        self._selector.register(sock, selectors.EVENT_WRITE, connected)

    def _give_up(self, host: str) -> None:
        """Forget an attempt that got no answer: packets to a machine that is not up yet are lost, not refused."""
        sock = self._knocking.pop(host, None)
        if sock is not None and sock.fileno() >= 0:
            with contextlib.suppress(KeyError):
                self._selector.unregister(sock)
                sock.close()

    def _adopt(self, link: _Link) -> None:
        link.sock.setblocking(False)
        link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(link.sock, selectors.EVENT_READ, self._reader(link))
        self._open.add(link)
        self._write(link, json.dumps({"hello": self._me, "token": self._token}).encode() + b"\n")

    def _reader(self, link: _Link) -> Callable[[], None]:
        return lambda: self._read(link)

    def _read(self, link: _Link) -> None:
        try:
            piece = link.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(link, error.strerror or str(error))
            return
        if not piece:
            self._lose(link, "its connection was closed")
            return
        link.heard = time.monotonic()
        *lines, link.rest = (link.rest + piece).split(b"\n")
        if len(link.rest) > LONGEST_MESSAGE_BYTES:
            self._forget(link)
            return
        for line in lines:
            self._take(link, line)

    def _take(self, link: _Link, line: bytes) -> None:
        try:
            body: object = json.loads(line)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            self._forget(link)
            return
        message = cast(dict[str, Any], body)
        if "hello" in message:
            host = str(message["hello"])
            if message.get("token") != self._token or host not in self._expected or (link.host and host != link.host):
                log.warning(f"refused a connection that calls itself {host!r}: another job's launcher?")
                self._forget(link)
                if host in self._dialing or link.host:
                    self._dialing[link.host or host] = time.monotonic() + 1.0
                return
            link.host = host
            self._links[host] = link
            log.debug(f"{host} is there")
        elif not link.host or link.host not in self._links:
            self._forget(link)
        elif "bye" in message:
            self._gone.add(link.host)
            self._events.append(Lost(link.host, "it left before the end of the job", said_goodbye=True))
            del self._links[link.host]
            self._forget(link)
        elif "beat" not in message:
            self._events.append(Message(link.host, message))

    def _write(self, link: _Link, line: bytes) -> None:
        try:
            link.sock.sendall(line)
        except BlockingIOError:
            return  # 64 KiB of unread messages: the host does not read, its silence will tell
        except OSError as error:
            self._lose(link, error.strerror or str(error))

    def _lose(self, link: _Link, why: str) -> None:
        self._forget(link)
        if link.host and self._links.get(link.host) is link:
            del self._links[link.host]
            self._gone.add(link.host)
            self._events.append(Lost(link.host, why))
        elif link.host in self.missing:
            self._dialing[link.host] = time.monotonic() + RETRY_S

    def _forget(self, link: _Link) -> None:
        self._open.discard(link)
        if link.sock.fileno() >= 0:
            self._selector.unregister(link.sock)
            link.sock.close()
