"""One epoch of a Pipe channel: the FIFO ``<channel>_<epoch>``, opened without blocking, read with a deadline.

An open FIFO without a writer reads as if it were at its end. ``poll`` tells the two apart: before the first writer it
reports nothing, after the last one a hang-up. So nothing is read before ``poll`` has reported something, and no open
and no read waits for ever.
"""

import contextlib
import fcntl
import os
import select
import time
from pathlib import Path
from typing import Protocol

from runtime.base.errors import PlatformError, UserError
from runtime.base.log import Log

log = Log("data")

LOOK_S = 0.05
"""Between two looks whether the FIFO has been made: directories cannot be waited for without inotify."""
PIPE_BYTES = 1 << 20
"""What the kernel holds between writer and reader: the most that it lets anybody have. Its default of 64 KiB costs a
third of the speed, since the two wake each other all the time."""
WARN_SHARE = 0.1
"""Of the deadline: after it, a writer that does nothing is warned of."""


class Waiter(Protocol):
    """Waits for a descriptor, and meanwhile for whatever else its process serves."""

    def __call__(self, descriptor: int, seconds: float) -> bool:
        """Return whether the descriptor can be read, or has hung up, within some seconds; -1: wait only."""
        ...


def wait_alone(descriptor: int, seconds: float) -> bool:
    """Wait for one descriptor and nothing else."""
    poll = select.poll()
    if descriptor >= 0:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0, round(seconds * 1000))))


class Fifo:
    """The FIFO of one epoch, as a stream with ``readinto``."""

    def __init__(self, prefix: str, epoch: int, *, channel: str, wait_s: float, waiter: Waiter = wait_alone) -> None:
        """Open nothing yet.

        Args:
            prefix: path of the FIFOs without ``_<epoch>``.
            epoch: counted from 0.
            channel: its name in the configuration, for messages: a path does not tell it.
            wait_s: seconds without a byte after which the writer counts as lost.
            waiter: how to wait.
        """
        self.path = self.path_of(prefix, epoch)
        self.epoch = epoch
        self.channel = channel
        self.bytes = 0
        """Read so far."""
        self._wait_s = wait_s
        self._waiter = waiter
        self._descriptor = -1
        self._has_writer = False

    @staticmethod
    def path_of(prefix: str, epoch: int) -> Path:
        """Return where the FIFO of an epoch is."""
        return Path(f"{prefix}_{epoch}")

    @property
    def descriptor(self) -> int:
        """The open FIFO; -1 when it is not open."""
        return self._descriptor

    def open(self) -> None:
        """Open it as soon as it is there, and wait for its writer: the next read finds bytes, or the end.

        Raises:
            UserError: nobody has made it, or nobody writes into it.
        """
        if self._descriptor < 0:
            self._descriptor = self._when_there()
        self._wait()
        self._has_writer = True

    def readinto(self, view: memoryview) -> int:
        """Read some bytes; 0 at the end of the epoch.

        Raises:
            UserError: as `open`, which the first call does.
            PlatformError: the writer stalls, or reading fails.
        """
        if not self._has_writer:
            self.open()
        while True:
            try:
                count = os.readv(self._descriptor, [view])
            except BlockingIOError:
                self._wait()
                continue
            self.bytes += count
            return count

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; none at the end."""
        buffer = bytearray(size)
        return bytes(memoryview(buffer)[: self.readinto(memoryview(buffer))])

    def close(self) -> None:
        """Close it; a writer that is not done learns so, and goes on to the next epoch."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _when_there(self) -> int:
        waiting = _Patience(self)
        while True:
            try:
                descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                with contextlib.suppress(OSError):  # a user's share of such memory may be used up
                    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
                return descriptor
            except FileNotFoundError:
                self._waiter(-1, LOOK_S)
                waiting.check("it is not there")
            except OSError as error:
                raise PlatformError(f"{self._name()}: {self.path} cannot be opened: {error.strerror}") from error

    def _wait(self) -> None:
        waiting = _Patience(self)
        while not self._waiter(self._descriptor, waiting.step):
            waiting.check("it has stalled" if self.bytes else "nothing has come from it")

    def _name(self) -> str:
        return f"Channel {self.channel!r}, epoch {self.epoch}"

    def lost(self, what: str, seconds: float) -> UserError | PlatformError:
        """Say what the writer did not do."""
        if self.bytes:
            return PlatformError(
                f"{self._name()}: the writer of {self.path} has stalled: nothing for {seconds:.0f} s after "
                f"{self.bytes} bytes",
                allowed="the service writes without a break, or closes the FIFO",
                fix="look at the S3 side of the job (throttling, a lost object, permissions); if the writer needs "
                "longer breaks, raise slipway_pipe_wait_s",
            )
        return UserError(
            f"{self._name()}: no writer for {self.path} within {seconds:.0f} s ({what})",
            allowed="inputdataconfig.json says TrainingInputMode Pipe, so that the service writes each epoch into a "
            "FIFO. Is this the local mode of an SDK? It has no Pipe mode",
            fix="use `slipway run`, which writes the FIFOs, or mode File; if the first byte of the channel takes "
            "longer, raise slipway_pipe_wait_s",
        )

    @property
    def wait_s(self) -> float:
        """Seconds without a byte after which the writer counts as lost."""
        return self._wait_s


class _Patience:
    """One wait for the writer: warns once, then raises."""

    def __init__(self, fifo: Fifo) -> None:
        self._fifo = fifo
        self._began = time.monotonic()
        self._warned = False
        self.step = max(0.01, fifo.wait_s * WARN_SHARE)

    def check(self, what: str) -> None:
        fifo = self._fifo
        waited = time.monotonic() - self._began
        if waited >= fifo.wait_s:
            raise fifo.lost(what, waited)
        if waited >= fifo.wait_s * WARN_SHARE and not self._warned:
            self._warned = True
            log.warning(
                f"channel {fifo.channel!r}, epoch {fifo.epoch}: {what} for {waited:.0f} s ({fifo.path}, "
                f"{fifo.bytes} bytes so far); the job ends at {fifo.wait_s:g} s (slipway_pipe_wait_s)"
            )
        self.step = max(0.01, min(fifo.wait_s * WARN_SHARE, fifo.wait_s - waited))
