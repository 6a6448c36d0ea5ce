"""The launchers' side channel: who is there, who failed, who is done. TCP, one JSON object per line, no collectives.

Every launcher listens; a host dials those before it in natural order, so that each pair shares one connection: a
death closes it, and everybody knows at once. Signs of life go round a ring instead, to the two neighbours in natural
order, which tell everybody of a silence: their number does not grow with the job. No host is special, so none can
take the channel down with it (see docs/adr).
"""

from __future__ import annotations

import errno
import os
import socket
import time

from runtime.base.env import apply, process_environ
from runtime.base.errors import PlatformError
from runtime.base.frozen import cast, frozen
from runtime.base.jsontext import dumps, loads_or
from runtime.base.log import Log
from runtime.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeAlias

    from runtime.contract.job import Job
    from runtime.launch.loop import Loop

log = Log("peers")

CONNECT_S = 1.0
"""An attempt without any answer is given up after this and made anew."""
SOON_S = 0.01
RETRY_S = 0.1
"""Between two attempts to resolve or reach a host: `SOON_S` at first, since the hosts of a job mostly come up at one
time, then a tenth of the wait so far, at most this."""
BEAT_S = 0.5
"""Between two signs of life."""
SUSPECT_S = 2.0
"""A neighbour that has been silent for this long is named in the log, well before it counts as lost."""
PROOF_S = 5.0
"""In which a connection must have proven whose it is."""
RESOLVERS = 8
"""Threads that ask the name service; a name that is not there yet may hold one for seconds."""
LONGEST_MESSAGE_BYTES = 1 << 16


@frozen
class Message:
    """Something that another host said."""

    host: str
    body: Mapping[str, Any]


@frozen
class Lost:
    """A host that went."""

    host: str
    why: str
    said_goodbye: bool = False
    """True when it left in good order, but perhaps before the end of the job."""
    silent: bool = False
    """True when nothing came from it any more; else something told us, so that packets do arrive here."""


if TYPE_CHECKING:
    Event: TypeAlias = Message | Lost


def job_key(job: Job) -> bytes:
    """Make the key with which the hosts of one job know each other.

    The platform gives its containers no common secret. What they all have, and a stranger on the network has not, is
    the job's description, hyperparameters and ARN included.
    """
    facts = dumps([job.name, job.arn, [host.name for host in job.hosts], dict(job.hyperparameters)], sort_keys=True)
    return _digest(facts.encode())


def _digest(data: bytes, key: bytes = b"") -> bytes:
    try:
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b  # brings OpenSSL with it: 3 MB of memory for the whole job
    return blake2b(data, key=key, digest_size=32).digest()


class _Link:
    """One connection; `host` is claimed at first, and sure once `proven`."""

    def __init__(self, sock: socket.socket, host: str = "") -> None:
        self.sock = sock
        self.host = host
        self.nonce = os.urandom(16).hex()
        self.proven = False
        self.heard = time.monotonic()
        self.suspected = False
        self.rest = b""


class Peers:
    """All connections of one launcher."""

    def __init__(
        self,
        loop: Loop,
        me: str,
        hosts: Sequence[str],
        addresses: Mapping[str, str],
        port: int,
        key: bytes,
        *,
        listens: bool = True,
    ) -> None:
        """Listen, and start to dial.

        Args:
            loop: the supervisor's.
            me: this host.
            hosts: all hosts of the job in natural order.
            addresses: host to address; others are asked from the name service, again and again.
            port: the same on every host.
            key: of the job, see `job_key`.
            listens: False dials every host instead, for a host whose own port may be the trouble.

        Raises:
            PlatformError: the port is taken.
        """
        self._loop = loop
        self._me = me
        self._port = port
        self._key = key
        self._links: dict[str, _Link] = {}
        self._open: set[_Link] = set()
        self._unproven: set[_Link] = set()
        self._events: list[Event] = []
        self._gone: set[str] = set()
        self._refused: set[str] = set()
        self._kept: list[bytes] = []
        self._hosts = list(hosts)
        self._expected = [host for host in hosts if host != me]
        index = self._hosts.index(me)
        around = {self._hosts[index - 1], self._hosts[(index + 1) % len(self._hosts)]} - {me}
        self._neighbours = [host for host in self._expected if host in around]
        self._addresses = dict(addresses)
        self._dialing: dict[str, float] = {host: 0.0 for host in (self._hosts[:index] if listens else self._expected)}
        self._knocking: dict[str, socket.socket] = {}
        self._listener = self._listen(addresses.get(me, "")) if listens else None
        self._closed = False
        self._began = time.monotonic()
        self._beat = 0.0
        self.clock_offset_s = 0.0
        """Added to this host's clock it gives the coordinator's, so that times of all hosts can be compared."""
        self._unresolved = [host for host in self._dialing if host not in self._addresses]
        self._start_resolvers()

    # --- what the supervisor asks -------------------------------------------------------------------------------

    @property
    def missing(self) -> list[str]:
        """Hosts that have not been heard yet."""
        return [host for host in self._expected if host not in self._links and host not in self._gone]

    @property
    def others(self) -> list[str]:
        """All hosts but this one."""
        return self._expected

    @property
    def present(self) -> list[str]:
        """Other hosts that are connected now."""
        return [host for host in self._expected if host in self._links]

    @property
    def retry_s(self) -> float:
        """Seconds until the next attempt to find a host that is not there is worth it."""
        return min(RETRY_S, max(SOON_S, (time.monotonic() - self._began) / 10))

    def address_of(self, host: str) -> str:
        """Return the address under which a host was reached, our own seen from the others; empty when unknown."""
        if host == self._me and host in self._addresses:  # given: what we dial from may be another one
            return self._addresses[host]
        link = self._links.get(host) or (next(iter(self._links.values()), None) if host == self._me else None)
        if link is None:
            return ""
        try:
            name = link.sock.getsockname() if host == self._me else link.sock.getpeername()
        except OSError:  # it has gone this moment, which the next turn tells
            return ""
        return cast("tuple[str, int]", name)[0]

    def why_missing(self, host: str) -> str:
        """Say how far we got with a host."""
        if host in self._refused:
            return "what calls itself so is not of this job: another job, or other hyperparameters"
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
        """Tell every host; one that comes later is told when it comes."""
        line = dumps(body).encode() + b"\n"
        self._kept.append(line)
        for link in list(self._links.values()):
            self._write(link, line)

    def tick(self, now: float, silence_s: float) -> None:
        """Do what time demands: dial, say that we live, notice who is silent.

        Args:
            now: monotonic seconds.
            silence_s: limit after which a silent neighbour is lost.
        """
        for host, due in list(self._dialing.items()):
            if now >= due and host in self._addresses:
                self._dialing[host] = now + self.retry_s
                self._dial(host)
        for link in [link for link in self._unproven if now - link.heard > PROOF_S]:
            self._lose(link, "it did not prove that it is of this job")
        if now >= self._beat:
            self._beat = now + min(BEAT_S, silence_s / 4)
            for host in self._neighbours:
                if host in self._links:
                    self._write(self._links[host], b'{"beat":true}\n')
        for host in self._neighbours:
            link = self._links.get(host)
            if link is not None:
                self._judge(link, now - link.heard, silence_s)

    def close(self) -> None:
        """Say goodbye, so that nobody takes our end for a loss."""
        self._closed = True
        self.send(bye=True)
        for link in list(self._open):
            self._forget(link)
        self._links.clear()
        self._unresolved.clear()
        for host in list(self._knocking):
            self._give_up(host)
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None

    # --- silence ------------------------------------------------------------------------------------------------

    def _judge(self, link: _Link, silent_s: float, silence_s: float) -> None:
        if silent_s > silence_s:
            self._lose(link, f"no sign for {silence_s:g} s", silent=True)
        elif silent_s > min(SUSPECT_S, silence_s / 2) and not link.suspected:
            link.suspected = True
            log.warning(f"{link.host} has been silent for {silent_s:.1f} s: lost after {silence_s:g} s")
            # Whoever answers tells us that it is the neighbour that is silent, and not we who are deaf.
            for other in list(self._links.values()):
                self._write(other, b'{"ask":true}\n')

    @property
    def deaf(self) -> bool:
        """Whether none of the hosts that are connected has answered when they were all asked: then we are cut off."""
        now = time.monotonic()
        return bool(self._links) and all(now - link.heard > SUSPECT_S / 2 for link in self._links.values())

    # --- sockets ------------------------------------------------------------------------------------------------

    def _listen(self, address: str) -> socket.socket | None:
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
        listener.listen(max(128, len(self._hosts)))
        listener.setblocking(False)
        self._loop.on_read(listener.fileno(), self._accept)
        return listener

    def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101 - registered only while it is open
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        self._adopt(_Link(sock))

    def _start_resolvers(self) -> None:
        if not self._unresolved:
            return
        import threading  # getaddrinfo blocks, and nothing else here does

        # A name that is not there yet must not hold a thread for the resolver's 10 s; the ranks do not inherit this.
        if "RES_OPTIONS" not in process_environ():
            apply({"RES_OPTIONS": "timeout:1 attempts:2"})

        waiting = self._unresolved
        for _ in range(min(RESOLVERS, len(waiting))):
            threading.Thread(target=self._resolve, args=(waiting,), daemon=True).start()

    def _resolve(self, waiting: list[str]) -> None:
        while waiting:
            try:
                host = waiting.pop(0)
            except IndexError:  # another thread took the last one
                return
            try:
                found = socket.getaddrinfo(host, self._port, socket.AF_INET, socket.SOCK_STREAM)
                self._addresses[host] = cast("str", found[0][4][0])
            except OSError:
                time.sleep(self.retry_s)
                if not self._closed:
                    waiting.append(host)

    def _dial(self, host: str) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        if sock.connect_ex((self._addresses[host], self._port)) not in (0, errno.EINPROGRESS):
            sock.close()
            return
        self._dialing[host] = time.monotonic() + CONNECT_S

        def connected() -> None:
            self._loop.forget(sock.fileno())
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
                sock.close()  # nobody listens there yet
                self._dialing[host] = time.monotonic() + self.retry_s
                return
            self._dialing.pop(host, None)
            self._knocking.pop(host, None)
            self._adopt(_Link(sock, host))

        self._give_up(host)
        self._knocking[host] = sock
        self._loop.on_write(sock.fileno(), connected)

    def _give_up(self, host: str) -> None:
        """Forget an attempt that got no answer: packets to a machine that is not up yet are lost, not refused."""
        sock = self._knocking.pop(host, None)
        if sock is not None and sock.fileno() >= 0:
            self._loop.forget(sock.fileno())
            sock.close()

    def _adopt(self, link: _Link) -> None:
        link.sock.setblocking(False)
        link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.on_read(link.sock.fileno(), self._reader(link))
        self._open.add(link)
        self._unproven.add(link)
        hello = {"hello": self._me, "nonce": link.nonce, "now": time.time(), "slipway": __version__}
        self._write(link, dumps(hello).encode() + b"\n")

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
        if link.suspected:
            link.suspected = False
            log.info(f"{link.host} is heard again")
        *lines, link.rest = (link.rest + piece).split(b"\n")
        if len(link.rest) > LONGEST_MESSAGE_BYTES:
            self._forget(link)
            return
        for line in lines:
            if link in self._open:
                self._take(link, line)

    def _take(self, link: _Link, line: bytes) -> None:
        if line == b'{"beat":true}':
            return
        body = loads_or(line.decode("utf-8", "replace"), None)
        if not isinstance(body, dict):
            self._forget(link)
            return
        message = cast("dict[str, Any]", body)
        if "hello" in message:
            self._greet(link, message)
        elif "proof" in message:
            self._check(link, str(message["proof"]))
        elif not link.proven:
            self._forget(link)
        elif "bye" in message:
            self._gone.add(link.host)
            self._events.append(Lost(link.host, "it left before the end of the job", said_goodbye=True))
            del self._links[link.host]
            self._forget(link)
        elif "ask" in message:
            self._write(link, b'{"beat":true}\n')
        else:
            self._events.append(Message(link.host, message))

    def _greet(self, link: _Link, hello: Mapping[str, Any]) -> None:
        host = str(hello["hello"])
        if host not in self._expected or (link.host and host != link.host):
            self._refuse(link, host)
            return
        link.host = host
        if host == self._hosts[0]:
            self.clock_offset_s = float(hello.get("now", time.time())) - time.time()
        if hello.get("slipway") != __version__:
            log.warning(f"{host} runs Slipway {hello.get('slipway')}, this host {__version__}: use one image")
        proof = self._proof(str(hello.get("nonce", "")), self._me, host)
        self._write(link, dumps({"proof": proof}).encode() + b"\n")

    def _check(self, link: _Link, proof: str) -> None:
        if not link.host or link.proven or proof != self._proof(link.nonce, link.host, self._me):
            self._refuse(link, link.host or "nobody")
            return
        link.proven = True
        self._unproven.discard(link)
        self._links[link.host] = link
        self._dialing.pop(link.host, None)
        log.debug(f"{link.host} is there")
        for line in self._kept:
            self._write(link, line)

    def _proof(self, nonce: str, by: str, to: str) -> str:
        """Show that we know the job's key, to one host, once: the nonce is the other side's."""
        return _digest(f"{nonce} {by} {to}".encode(), self._key).hex()

    def _refuse(self, link: _Link, host: str) -> None:
        if host not in self._refused:
            self._refused.add(host)
            log.warning(f"refused a connection that calls itself {host!r}: another job's launcher?")
        self._forget(link)
        again = link.host if link.host in self._hosts[: self._hosts.index(self._me)] else ""
        if again and again not in self._links:
            self._dialing[again] = time.monotonic() + 1.0

    def _write(self, link: _Link, line: bytes) -> None:
        try:
            link.sock.sendall(line)
        except BlockingIOError:
            return  # a full buffer of unread messages: the host does not read, its silence will tell
        except OSError as error:
            self._lose(link, error.strerror or str(error))

    def _lose(self, link: _Link, why: str, *, silent: bool = False) -> None:
        self._forget(link)
        if link.host and self._links.get(link.host) is link:
            del self._links[link.host]
            self._gone.add(link.host)
            self._events.append(Lost(link.host, why, silent=silent))
        elif link.host in self.missing and self._hosts.index(link.host) < self._hosts.index(self._me):
            self._dialing[link.host] = time.monotonic() + self.retry_s

    def _forget(self, link: _Link) -> None:
        self._open.discard(link)
        self._unproven.discard(link)
        if link.sock.fileno() >= 0:
            self._loop.forget(link.sock.fileno())
            link.sock.close()
