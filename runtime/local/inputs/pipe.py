"""Feeds the FIFOs of one Pipe channel of one host: ``/opt/ml/input/data/<channel>_<epoch>``.

The FIFO of an epoch is made, opened when a reader opens it, filled, and closed; then comes the next one. A reader that
closes early gets the next epoch. Source: "How Amazon SageMaker AI Provides Training Information", developer guide.
"""

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Generator, Iterator
from itertools import count
from pathlib import Path
from typing import Literal

from runtime.base.errors import PlatformError, UserError
from runtime.base.log import Log
from runtime.local.record import EpochRecord

log = Log("local")

LEAVE_S = 10.0
"""For the feeder's thread to end: a bound for a store that does not answer, whose thread ends with the process."""
LOOK_S = 0.05
"""Between two attempts to wake a thread that waits for a reader."""

End = Literal["complete", "closed early", "never opened", "not read to the end", "failed"]
"""What became of an epoch's FIFO; "never opened" and "not read to the end" are found when the job is over."""


class _ReaderLeft(Exception):
    """The last reader closed its end."""


class _Stopped(Exception):
    """The job is over."""


class PipeFeeder:
    """The writer of one channel's FIFOs; used once."""

    def __init__(
        self, channel: str, directory: Path, pieces: Callable[[int], Iterator[bytes]], objects: Callable[[], int]
    ) -> None:
        """Nothing is made.

        Args:
            channel: its name.
            directory: holds the FIFOs.
            pieces: yields the bytes of an epoch.
            objects: counts the objects of which it has yielded something.
        """
        self.channel = channel
        self.epochs: list[EpochRecord] = []
        self.error: UserError | None = None
        """Why it cannot go on. The FIFO stays open: a reader that saw its end would take a part for the whole."""
        self._directory = directory
        self._pieces = pieces
        self._objects = objects
        self._stopping = threading.Event()
        self._wake_read, self._wake = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._feed, name=f"pipe {channel}", daemon=True)
        self._kept = -1
        """The descriptor of a FIFO whose epoch failed."""

    def start(self) -> None:
        """Make the first FIFO, and wait for its reader in a thread."""
        self._make(0)
        self._thread.start()

    def check(self) -> None:
        """Raise what ended the feeding.

        Raises:
            UserError: the data cannot be read, or is not what the request says.
        """
        if self.error is not None:
            raise self.error

    def tell(self) -> None:
        """Say that the job is over, without waiting."""
        self._stopping.set()
        if self._wake >= 0:
            os.write(self._wake, b".")

    def stop(self, seconds: float = LEAVE_S) -> None:
        """End the feeding, wherever it stands, and remove the FIFO.

        Args:
            seconds: how long it is waited for, at most.
        """
        self.tell()
        deadline = time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < deadline:
            with self._reader():
                self._thread.join(LOOK_S)
        if self._thread.is_alive():
            log.warning(f"the feeder of channel {self.channel!r} still waits for its data after the end of the job")
        else:
            self._close()
        # The others are gone already, and a pattern would meet those of a channel with a longer name.
        self._path().unlink(missing_ok=True)

    @contextlib.contextmanager
    def _reader(self) -> Generator[None]:
        """Be a reader for a moment: a thread that waits for one in `open` cannot be woken otherwise."""
        try:
            descriptor = os.open(self._path(), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:  # between two epochs: it sees for itself that the job is over
            descriptor = -1
        try:
            yield
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _path(self) -> Path:
        return self._directory / f"{self.channel}_{self.epochs[-1].epoch}"

    def _make(self, epoch: int) -> None:
        path = self._directory / f"{self.channel}_{epoch}"
        self.epochs.append(EpochRecord(epoch))
        os.mkfifo(path)
        path.chmod(0o666)  # the reader may be any user of an image

    def _close(self) -> None:
        for descriptor in (self._wake, self._wake_read, self._kept):
            if descriptor >= 0:
                os.close(descriptor)
        self._wake = self._wake_read = self._kept = -1

    def _feed(self) -> None:
        try:
            for epoch in count():
                if self._stopping.is_set():
                    return  # nobody may be left to wake a thread that waits for a reader
                if epoch:
                    self._make(epoch)
                self._fill(self.epochs[-1])
        except _Stopped:
            pass
        except Exception as error:
            # Whatever it is: a thread that ends in silence would leave a reader that waits for ever.
            self.epochs[-1].end = "failed"
            told = str(error) if isinstance(error, UserError | PlatformError | OSError) else repr(error)
            self.error = UserError(f"Channel {self.channel!r} cannot be streamed: {told}")

    def _fill(self, epoch: EpochRecord) -> None:
        path = self._path()
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # waits for a reader
        try:
            if self._stopping.is_set():
                raise _Stopped
            os.set_blocking(descriptor, False)
            epoch.end = "not read to the end"
            try:
                for piece in self._pieces(epoch.epoch):
                    self._write(descriptor, piece, epoch)
                epoch.end = "complete"
            except _ReaderLeft:
                epoch.end = "closed early"
            # Before its end is seen: who opens it later would wait for a writer that never comes.
            path.unlink(missing_ok=True)
        except _Stopped:
            raise
        except Exception:
            self._kept, descriptor = descriptor, -1
            raise
        finally:
            if epoch.end != "never opened":
                epoch.objects = self._objects()
            if descriptor >= 0:
                os.close(descriptor)

    def _write(self, descriptor: int, piece: bytes, epoch: EpochRecord) -> None:
        view = memoryview(piece)
        while view:
            if self._stopping.is_set():
                raise _Stopped
            try:
                written = os.write(descriptor, view)
            except BlockingIOError:
                poll = select.poll()
                poll.register(descriptor, select.POLLOUT)
                poll.register(self._wake_read, select.POLLIN)
                poll.poll()
                continue
            except BrokenPipeError:
                raise _ReaderLeft from None
            epoch.bytes += written
            view = view[written:]
