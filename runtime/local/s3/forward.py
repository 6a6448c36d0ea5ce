"""Lets the containers of one job reach a service that listens on this machine's loopback only.

A forwarder of bytes on the gateway of the job's private network: nothing in between changes a signed request. It takes
connections from that network alone, and lives as long as the job.
"""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from urllib.parse import urlsplit, urlunsplit

from runtime.base.errors import PlatformError, UserError
from runtime.base.log import Log

log = Log("local")

PIECE = 1 << 16
CONNECT_S = 10.0
END_S = 10.0
"""For open connections to end with the job: a bound for a loop that hangs."""


def is_loopback(url: str) -> bool:
    """Tell whether an endpoint lies on this machine's loopback, so that no container can reach it."""
    host = urlsplit(url).hostname or ""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False  # whoever asks it will say so
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


class Forwarder:
    """Listens on one address and passes everything on to another one."""

    def __init__(self, listen: str, network: str, target: str) -> None:
        """Begin to listen.

        Args:
            listen: address of this machine that the containers see: the gateway of their network.
            network: its addresses, such as ``172.18.0.0/16``; nobody else is let in.
            target: URL of the service.

        Raises:
            UserError: the gateway is no address of this machine, as with an engine that runs elsewhere.
        """
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        self._allowed = ipaddress.ip_network(network)
        try:
            self._listener = socket.create_server(
                (listen, 0), family=socket.AF_INET6 if ":" in listen else socket.AF_INET
            )
        except OSError as error:
            raise UserError(
                f"Containers cannot reach {target}: it is on this machine's loopback, and {listen}, their way here, "
                f"is no address of this machine ({error.strerror})",
                fix="let the service listen on an address that containers reach, and name that one",
            ) from error
        host = f"[{listen}]" if ":" in listen else listen
        port = self._listener.getsockname()[1]
        self.url = urlunsplit((parts.scheme, f"{host}:{port}", parts.path, parts.query, ""))
        """Under which containers find the service."""
        self._loop = asyncio.new_event_loop()
        self._ends = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="forward", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more, and end what is open."""
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._ends.set)
        self._thread.join(END_S)
        if self._thread.is_alive():
            raise PlatformError(f"The forwarder to {self._target[0]}:{self._target[1]} does not end")

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._live())
        finally:
            self._loop.close()

    async def _live(self) -> None:
        server = await asyncio.start_server(self._serve, sock=self._listener, limit=PIECE)
        await self._ends.wait()
        server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str(writer.get_extra_info("peername")[0]).partition("%")[0]
        try:
            if ipaddress.ip_address(peer) not in self._allowed:
                log.warning(f"{peer} is none of this job's containers: it is not let through to S3")
                return
            onward, answers = None, None
            try:
                answers, onward = await asyncio.wait_for(asyncio.open_connection(*self._target, limit=PIECE), CONNECT_S)
            except (OSError, TimeoutError) as error:
                log.warning(f"{self._target[0]}:{self._target[1]} does not answer {peer}: {error}")
                return
            try:
                await asyncio.gather(_pass_on(reader, onward), _pass_on(answers, writer))
            finally:
                await _close(onward)
        finally:
            await _close(writer)


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # either side may leave; the other one learns of it by the end of its stream
        while piece := await source.read(PIECE):
            sink.write(piece)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
        return
    sink.close()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()
