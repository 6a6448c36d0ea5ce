"""One host of a job as a container: brought up, followed to its end, and hit by faults."""

import os
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from runtime.base.errors import PlatformError, UserError
from runtime.contract.paths import Paths
from runtime.local.containers import ContainerSpec, Docker
from runtime.testing.container import RANKS, top_of_rank
from runtime.testing.faults.network import ContainerNetwork

HANDLER_S = 5.0
"""After its start, for a first process to set its handler of SIGTERM; one that never does is not waited for longer."""


@dataclass
class HostContainer:
    """One host of an attempt, brought up and followed by a thread of its own."""

    name: str
    base: Path
    docker: Docker = field(repr=False)
    started: float = 0.0
    exit_code: int | None = None
    seconds: float = 0.0
    container: str = ""
    """Its id; empty until it is made."""
    up: threading.Event = field(default_factory=threading.Event, repr=False)
    """Set when it runs, or never will."""
    thread: threading.Thread | None = field(default=None, repr=False)
    ended: tuple[int, float] | None = field(default=None, repr=False)
    """Exit code, and monotonic seconds of the end."""
    lost: PlatformError | None = field(default=None, repr=False)
    killed: bool = False
    network_name: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def paths(self) -> Paths:
        """Its tree."""
        return Paths(str(self.base))

    @property
    def running(self) -> bool:
        """Whether its container has been started."""
        return self.up.is_set()

    def follow(self, spec: ContainerSpec, sink: int, made: list[str]) -> None:
        """Let a thread make the container, attach to it, start it, write what it prints, and wait for its end.

        Args:
            spec: of the container.
            sink: takes what it prints.
            made: takes its id, so that it is removed whatever happens.
        """
        self.started = time.monotonic()
        self.network_name, self.aliases = spec.network, spec.aliases
        self.thread = threading.Thread(
            target=self._live, args=(spec, sink, made), name=f"follow {self.name}", daemon=True
        )
        self.thread.start()

    def _live(self, spec: ContainerSpec, sink: int, made: list[str]) -> None:
        try:
            other = self.docker.again()
            try:
                self.container = other.create(spec)
                made.append(self.container)
                pieces = other.attach(self.container)
                self.started = time.monotonic()
                other.start(self.container)
                self.up.set()
                self._write_down(pieces, sink)
                self.ended = (other.wait(self.container), time.monotonic())
            finally:
                other.close()
        except PlatformError as error:
            self.lost = error
        except UserError as error:
            self.lost = PlatformError(str(error))
        finally:
            self.up.set()

    def _write_down(self, pieces: Iterable[bytes], sink: int) -> None:
        """Write what it prints; when that is not possible any more, still read it: else it could not be ended."""
        for piece in pieces:
            if self.lost is None:
                try:
                    _write(sink, piece)
                except OSError as error:
                    self.lost = PlatformError(
                        f"The log of {self.name} cannot be written: {error.strerror}",
                        fix="make room in the output directory, or choose another --output",
                    )

    def poll(self) -> bool:
        """Look whether it has ended."""
        if self.lost is not None:
            raise self.lost
        if self.ended is None:
            return False
        self.exit_code, at = self.ended
        self.seconds = at - self.started
        return True

    def terminate(self) -> None:
        """Send SIGTERM to its first process, as ``docker stop`` does; one that is just coming up is waited for.

        The kernel drops SIGTERM for a first process that has no handler for it yet: Ctrl-C at a job that has only just
        started would be heard by some hosts, and the others would run on until they are killed.
        """
        self.up.wait()
        if not self.container:
            return
        status = Path(f"/proc/{self.pid}/status")
        while time.monotonic() < self.started + HANDLER_S and not _hears_sigterm(status):
            time.sleep(0.01)  # the kernel tells nobody
        self.docker.kill(self.container, "SIGTERM")

    # --- faults ---------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of its first process, on the engine's machine."""
        return self.docker.pid(self.container)

    def freeze(self) -> None:
        """Stop all of its processes where they are."""
        self.docker.pause(self.container, on=True)

    def unfreeze(self) -> None:
        """Let them go on."""
        self.docker.pause(self.container, on=False)

    def signal_rank(self, rank: int, number: int) -> bool:
        """Send a signal to one rank; tell whether it is here."""
        code, text = self.docker.execute(self.container, ["sh", "-c", RANKS, str(rank)])
        pid = top_of_rank(text) if code == 0 else None
        if pid is None:
            return False
        return self.docker.execute(self.container, ["sh", "-c", f"kill -{number} {pid}"])[0] == 0

    def unplug(self) -> None:
        """Take its network interface away."""
        self.docker.unplug(self.network_name, self.container)

    def plug(self) -> None:
        """Give it back."""
        self.docker.plug(self.network_name, self.container, self.aliases)

    def network(self) -> ContainerNetwork:
        """Reach into its network name space."""
        return ContainerNetwork(self.pid, self.name)


def _write(sink: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(sink, view) :]


def _hears_sigterm(status: Path) -> bool:
    """Tell by ``/proc/PID/status`` whether a process catches or ignores SIGTERM; True where nobody can know."""
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return True  # it has ended, or runs on another machine
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigCgt:", "SigIgn:"))]
    return any(mask >> (signal.SIGTERM - 1) & 1 for mask in masks)
