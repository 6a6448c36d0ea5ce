"""Open MPI's remote start without ssh: a worker's half, which waits, and mpirun's half, which asks.

``mpirun`` starts one daemon (``orted``) on each other host through whatever ``plm_rsh_agent`` names, usually ssh. Here
it is ``python -m runtime.launch.remote HOST COMMAND...``, which connects to that host's
``python -m runtime.launch.remote serve``: the launcher there has started it in the place of ranks. No sshd, no keys in
the image, nothing left running.

The asking side proves that it belongs to the job: an HMAC over a nonce and the command, keyed as the launchers' side
channel is. Only MPI's own daemon is ever started, by an argument list and without a shell. The daemon lives as long as
its connection: when mpirun goes, it goes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

from runtime.base import env, log
from runtime.base.errors import ExitCode, PlatformError, SlipwayError
from runtime.base.jsontext import dumps, loads
from runtime.contract.job import Job, read_job
from runtime.contract.paths import Paths
from runtime.contract.settings import Settings, resolve
from runtime.launch.peers import job_key
from runtime.launch.signals import Signals
from runtime.planning.topology import parse_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DAEMONS = ("orted", "prted")
"""What Open MPI 4 and 5 start on other hosts; nothing else is started."""
RETRY_S = 0.05
"""Between two attempts to connect: the other launcher is up, its process for us is about to be."""
LEAVE_S = 5.0
"""From SIGTERM to SIGKILL for a daemon whose mpirun has gone."""
LONGEST_REQUEST_BYTES = 1 << 20

_log = log.Log("mpi")


def proof(key: bytes, nonce: str, command: Sequence[str]) -> str:
    """Return what only a process of this job can compute for this request."""
    return hmac.new(key, dumps([nonce, *command]).encode(), hashlib.sha256).hexdigest()


def daemon_command(words: Sequence[str]) -> list[str]:
    """Read what Open MPI would have given to a remote shell; assignments before the last ``;`` are left out.

    >>> daemon_command(["PATH=/x:$PATH", ";", "export", "PATH", ";", "/x/orted", "-mca", "ess", '"env"'])
    ['/x/orted', '-mca', 'ess', 'env']

    Raises:
        PlatformError: it is not one of MPI's daemons.
    """
    given = shlex.split(" ".join(words))
    last = max((i for i, word in enumerate(given) if word == ";"), default=-1)
    command = given[last + 1 :]
    if not command or os.path.basename(command[0]) not in DAEMONS:
        raise PlatformError(
            f"mpirun asks for {' '.join(command)[:80]!r} on another host", allowed=f"it starts {' or '.join(DAEMONS)}"
        )
    return command


def request(sock: socket.socket, key: bytes, command: Sequence[str]) -> int:
    """Ask the other side to run the daemon, and wait for its end.

    Returns:
        Its exit code.

    Raises:
        PlatformError: it refused, or went away.
    """
    lines = sock.makefile("rb")
    greeting = _object(lines.readline(LONGEST_REQUEST_BYTES))
    nonce = str(greeting.get("nonce", ""))
    sock.sendall(dumps({"command": list(command), "proof": proof(key, nonce, command)}).encode() + b"\n")
    answer = _object(lines.readline(LONGEST_REQUEST_BYTES))
    status = answer.get("status")
    if not isinstance(status, int):
        raise PlatformError(str(answer.get("refused") or "The other host closed the connection of mpirun's daemon"))
    return status


def ask(job: Job, settings: Settings, environ: env.Environ, host: str, words: Sequence[str]) -> int:
    """Have a host run MPI's daemon: the whole of what ssh would do.

    Raises:
        PlatformError: the host cannot be reached within ``slipway_host_wait_s``, or refused.
    """
    command = daemon_command(words)
    if host == job.current_host:  # a name that does not resolve here looks like another host to mpirun
        return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    address = parse_addresses(environ.get("SLIPWAY_HOST_ADDRESSES", "")).get(host, host)
    deadline = time.monotonic() + settings.host_wait_s
    while True:
        try:
            with socket.create_connection((address, settings.remote_port), timeout=settings.host_wait_s) as sock:
                sock.settimeout(None)  # a job may take days; a host that dies is noticed by the launchers
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                return request(sock, job_key(job), command)
        except OSError as error:
            if time.monotonic() > deadline:
                raise PlatformError(
                    f"Host {host!r} ({address} port {settings.remote_port}) does not take mpirun's request: {error}",
                    fix="allow traffic inside the security group; slipway_remote_port moves the port",
                ) from error
            time.sleep(RETRY_S)


class Worker:
    """The half that waits: one authenticated request, one daemon, then the end."""

    def __init__(self, address: str, port: int, key: bytes, signals: Signals) -> None:
        """Listen.

        Args:
            address: of this host; empty for all.
            port: the same on every host.
            key: of the job.
            signals: of this process.

        Raises:
            PlatformError: the port is taken.
        """
        self._key = key
        self._signals = signals
        try:
            self._listener = socket.create_server((address, port))
        except OSError as error:
            raise PlatformError(
                f"Port {port} ({address or 'all addresses'}) cannot be used: {error.strerror}",
                fix="set slipway_remote_port to a free port",
            ) from error

    def serve(self, wait_s: float) -> int:
        """Wait for mpirun, run its daemon.

        Returns:
            0 when the daemon ended by itself, whatever its exit code: mpirun on the coordinator knows what that means;
            128+n when a signal ended it, or us while there was none.

        Raises:
            PlatformError: nobody asked in time.
        """
        deadline = time.monotonic() + wait_s
        while not self._signals.stop_asked:
            if not self._ready(self._listener, deadline):
                raise PlatformError(f"mpirun on the coordinator asked for nothing within {wait_s:g} s")
            if self._signals.stop_asked:
                break
            sock, _ = self._listener.accept()
            with sock:
                command = self._asked(sock, deadline)
                if command is not None:
                    self._listener.close()
                    return self._run(sock, command)
        return 128 + signal.SIGTERM

    def _ready(self, sock: socket.socket, deadline: float) -> bool:
        """Wait for a socket or a signal; False when neither came in time."""
        left = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([sock, self._signals.wake], [], [], left)
        if self._signals.wake in ready:
            self._signals.drain()
        return bool(ready)

    def _asked(self, sock: socket.socket, deadline: float) -> list[str] | None:
        nonce = secrets.token_hex(16)
        sock.settimeout(max(0.1, min(10.0, deadline - time.monotonic())))
        try:
            sock.sendall(dumps({"nonce": nonce}).encode() + b"\n")
            asked = _object(sock.makefile("rb").readline(LONGEST_REQUEST_BYTES))
            command = [str(word) for word in asked.get("command") or ()]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownArgumentType, reportUnknownVariableType]
            if not hmac.compare_digest(str(asked.get("proof", "")), proof(self._key, nonce, command)):
                _log.warning("refused a request that does not come from this job")
                sock.sendall(dumps({"refused": "The other host says that this is not its job"}).encode() + b"\n")
                return None
            if not command or os.path.basename(command[0]) not in DAEMONS:
                sock.sendall(dumps({"refused": f"Only {' or '.join(DAEMONS)} is started"}).encode() + b"\n")
                return None
        except OSError as error:
            _log.warning(f"a connection ended before it had asked for anything: {error}")
            return None
        return command

    def _run(self, sock: socket.socket, command: list[str]) -> int:
        path = shutil.which(command[0])
        if path is None:
            sock.sendall(dumps({"refused": f"{command[0]} is not on PATH of this host"}).encode() + b"\n")
            raise PlatformError(
                f"{command[0]} is not on PATH", fix="use the same image on every host: Open MPI is in that of mpirun"
            )
        _adopt_orphans()
        _log.info(f"starting {path} for mpirun")
        process = subprocess.Popen([path, *command[1:]], stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
        sock.settimeout(None)
        leave_at = 0.0
        while process.poll() is None:
            # SIGTERM for a stop reaches the ranks through mpirun; what we must not do is take the daemon from it.
            watched = [self._signals.wake] if leave_at else [self._signals.wake, sock.fileno()]
            ready, _, _ = select.select(watched, [], [], 1.0 if leave_at else None)
            if self._signals.wake in ready:
                self._signals.drain()
            if sock.fileno() in ready and not _peek(sock):
                leave_at = time.monotonic() + LEAVE_S
                process.terminate()
            if leave_at and time.monotonic() > leave_at:
                process.kill()
        _end_children()
        try:
            sock.sendall(dumps({"status": process.returncode}).encode() + b"\n")
        except OSError:
            _log.debug("mpirun had gone before its daemon")
        return 128 - process.returncode if process.returncode < 0 and not leave_at else 0


def _peek(sock: socket.socket) -> bool:
    """Whether the other side is still there; it never says a word more."""
    try:
        return bool(sock.recv(1))
    except OSError:
        return False


def _object(line: bytes) -> dict[str, object]:
    try:
        value = loads(line.decode("utf-8", "replace"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


# --- what Linux offers so that nothing stays behind ---------------------------------------------------------------

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _adopt_orphans() -> None:
    """The daemon's ranks have process groups of their own; when it dies they become our children."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _die_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _end_children(kill: Callable[[int, int], None] = os.kill) -> None:
    """End what the daemon left, and what those left in turn."""
    while children := _children():
        for pid in children:
            kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of both halves.

    Returns:
        The daemon's exit code (asking), 0 or 128+n (waiting); 2 after a fault of the platform.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    environ = env.process_environ()
    try:
        job = read_job(Paths.from_environ(environ), environ)
        settings = resolve(job.hyperparameters, environ)
        log.configure(host=job.current_host, level=settings.log_level, as_json=settings.log_json)
        if words == ["serve"]:
            address = parse_addresses(environ.get("SLIPWAY_HOST_ADDRESSES", "")).get(job.current_host, "")
            worker = Worker(address, settings.remote_port, job_key(job), Signals())
            return _verdict(worker.serve(settings.host_wait_s), job)
        if len(words) < 2:
            raise PlatformError("runtime.launch.remote takes 'serve', or a host and a command")
        return ask(job, settings, environ, words[0], words[1:])
    except SlipwayError as error:
        _log.error(str(error))
        return int(ExitCode.PLATFORM_ERROR)


def _verdict(status: int, job: Job) -> int:
    """A rank of this host that failed makes this host fail, so that its record is told to the others."""
    records = [name for name in os.listdir(job.paths.state) if name.startswith("error-rank-")]
    return status or (1 if records else 0)


if __name__ == "__main__":
    sys.exit(main())
