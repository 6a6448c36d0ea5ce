"""Ranks' output to ours, line by line, at once, with a bounded memory, and never in the way of the watch.

A line is passed on exactly as it was written. Two things are not lines: a progress bar, which writes its line anew
after each carriage return, is shown as one line a second and always with its last state; and a last line without its
end gets one. A reader of ours who stops reading (a stuck log driver) stops the ranks when their pipes are full, as it
would without us, but not this process: it never waits for a write.
"""

from __future__ import annotations

import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.launch.loop import Loop

LONGEST_LINE_BYTES = 1 << 20
"""A longer line is passed on in pieces."""
PIECE_BYTES = 1 << 16
"""Of one read: what a pipe holds by default."""
PIECES_AT_THE_END = 256
"""More than any pipe holds, and a bound for a grandchild that writes for ever."""
PENDING_BYTES = 1 << 18
"""What waits for a slow reader before the ranks have to; twice that with what their ends leave behind."""
SAFE_BYTES = select.PIPE_BUF
"""A pipe that can be written takes so many bytes without making the writer wait. Source: POSIX, write()."""
TAIL_BYTES = 1 << 16
"""End of standard error that is kept, to explain a rank that left no record: some 600 lines."""
FOLD_S = 1.0
"""Seconds between two lines of one progress bar; log services charge by volume and show no carriage returns."""
STUCK_S = 2.0
"""How long the end waits for a reader who takes nothing."""
CURSOR_UP = b"\x1b[A"
"""What nested progress bars end their lines with, to come back to the bar above."""


class Sink:
    """One of our own outputs: written without waiting, in order, from a bounded store."""

    def __init__(self, fd: int, loop: Loop | None = None) -> None:
        """Write to a descriptor.

        Args:
            fd: 1 or 2; stays open.
            loop: tells when a reader goes on reading; without one, what could not be written goes with the next write.
        """
        self.fd = fd
        self._loop = loop
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._paused: list[Relay] = []
        self._gone = False
        self._stuck = False
        self._room = select.poll()
        kind = os.fstat(fd).st_mode & 0o170000
        self._waits = kind in (0o010000, 0o140000) or os.isatty(fd)  # a pipe, a socket or a terminal
        if self._waits:
            self._room.register(fd, select.POLLOUT)

    @property
    def full(self) -> bool:
        """Whether those who write must wait."""
        return self._pending_bytes >= PENDING_BYTES

    def send(self, data: bytes) -> None:
        """Write these bytes after those that still wait."""
        if not self._pending:
            data = self._push(data)
        if data and not self._gone:
            if not self._pending and self._loop is not None:
                self._loop.on_write(self.fd, self.flush)
            self._pending.append(data)
            self._pending_bytes += len(data)

    def flush(self) -> None:
        """Write what waits, as far as the reader takes it."""
        while self._pending:
            first = self._pending[0]
            rest = self._push(first)
            self._pending_bytes -= len(first) - len(rest)
            if rest:
                self._pending[0] = rest
                break
            del self._pending[0]
        if self._loop is None:
            return
        if not self._pending:
            self._loop.forget(self.fd)
        if self._pending_bytes <= PENDING_BYTES // 2:
            paused, self._paused = self._paused, []
            for relay in paused:
                relay.resume(self._loop)

    def pause(self, relay: Relay) -> None:
        """Remember whom to wake."""
        self._paused.append(relay)

    def write(self, text: str) -> None:
        """Write a text of our own, so that our log lines stay in order with those of the ranks."""
        if not self.full:  # a log that nobody reads must not grow; the failure file tells the cause
            self.send(text.encode("utf-8", "backslashreplace"))
        if self._loop is None and not self._stuck:
            self.finish()

    def finish(self, stuck_s: float = STUCK_S) -> None:
        """Write everything that waits, as long as the reader takes something within `stuck_s` seconds; then for good.

        What is written later is waited for in the same way, unless the reader was stuck now.
        """
        self.detach()
        before = -1
        while self._pending and self._pending_bytes != before:
            before = self._pending_bytes
            self._room.poll(stuck_s * 1000)
            self.flush()
        self._stuck = bool(self._pending)

    def detach(self) -> None:
        """Use the loop no longer."""
        if self._loop is not None:
            self._loop.forget(self.fd)
            self._loop = None

    def _push(self, data: bytes) -> bytes:
        """Write what can be written now; return the rest."""
        view = memoryview(data)
        try:
            while view:
                if self._waits and not self._room.poll(0):
                    break
                view = view[os.write(self.fd, view[:SAFE_BYTES] if self._waits else view) :]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads our log any more; the job goes on
            self._gone = True
            self._pending, self._pending_bytes = [], 0
            return b""
        return bytes(view)


class Relay:
    """One pipe of one rank."""

    def __init__(self, source: int, sink: Sink, prefix: bytes = b"", *, tail_bytes: int = 0, raw: bool = False) -> None:
        """Take over a pipe.

        Args:
            source: file descriptor of the pipe's reading end; made non-blocking and closed by us.
            sink: where its lines go.
            prefix: put before each line; may be empty.
            tail_bytes: how much of its end is kept.
            raw: pass on bytes as they come, half lines and carriage returns too; for a person at a terminal.
        """
        os.set_blocking(source, False)
        self.source = source
        self.ended = False
        self.heard_at = time.monotonic()
        """Monotonic seconds of the last output; of the beginning before there is any."""
        self._sink = sink
        self._prefix = prefix
        self._raw = raw
        self._rest = bytearray()
        self._tail = bytearray()
        self._tail_bytes = tail_bytes
        self._shown: bytes = b""
        self._shown_at = float("-inf")
        self._held = False

    # --- with a loop --------------------------------------------------------------------------------------------

    def resume(self, loop: Loop) -> None:
        """Read whenever there is something, as long as our reader takes it."""

        def ready() -> None:
            self.pump()
            if self.ended:
                loop.forget(self.source)
            elif self._sink.full:
                loop.forget(self.source)
                self._sink.pause(self)

        if not self.ended and self.source >= 0:
            loop.on_read(self.source, ready)

    # --- by hand ------------------------------------------------------------------------------------------------

    def pump(self) -> bool:
        """Pass on one piece; False when there is nothing more to read now.

        `ended` tells whether the stream is over.
        """
        try:
            piece = os.read(self.source, PIECE_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            piece = b""
        if not piece:
            self.ended = True
            self._end_line()
            return False
        self.heard_at = time.monotonic()
        if self._raw:
            self._keep(piece)
            self._sink.send(piece)
        elif b"\r" in piece or self._held:
            self._take_bars(piece)
        else:
            self._take(piece)
        if len(self._rest) > LONGEST_LINE_BYTES:
            self._end_line()
        return True

    def drain(self) -> None:
        """Pass on what is in the pipe now, without waiting for those who still hold its other end."""
        for _ in range(PIECES_AT_THE_END):
            # What a stuck reader of ours cannot take is bounded too; the tail must still hear the last words.
            if self.ended or self._sink.full or not self.pump():
                break
        if self._sink.full and not self.ended:
            self.pump()
        self._end_line()

    def tick(self, now: float) -> None:
        """Show the state of a progress bar that has been held back long enough."""
        if self._held and now - self._shown_at >= FOLD_S:
            self._show(_state(self._rest), now)

    @property
    def tail(self) -> list[str]:
        """The last lines, oldest first; the first one may be cut."""
        return bytes(self._tail).decode("utf-8", "replace").splitlines()

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.source)
        self.source = -1

    # --- lines --------------------------------------------------------------------------------------------------

    def _take(self, piece: bytes) -> None:
        cut = piece.rfind(b"\n") + 1
        if not cut:
            self._rest += piece
            return
        self._emit(bytes(self._rest) + piece[:cut] if self._rest else piece[:cut])
        self._rest[:] = piece[cut:]
        self._held = b"\r" in self._rest

    def _take_bars(self, piece: bytes) -> None:
        *lines, rest = (bytes(self._rest) + piece).split(b"\n")
        for line in lines:
            body = line[:-1] if line.endswith(b"\r") else line  # the line ends of another system are exact
            if b"\r" in body or self._shown:
                self._end_bar(body)
            else:
                self._emit(line + b"\n")
        self._rest[:] = rest
        self._held = b"\r" in rest
        if b"\r" in rest[:-1]:
            state = _state(rest)
            self._rest[:] = b"\r" + state + (b"\r" if rest.endswith(b"\r") else b"")
            now = time.monotonic()
            if now - self._shown_at >= FOLD_S:
                self._show(state, now)

    def _end_bar(self, body: bytes) -> None:
        """Show the last state of a bar whose line has ended; nested bars end theirs with every state."""
        state = _state(body)
        now = time.monotonic()
        if CURSOR_UP in state and now - self._shown_at < FOLD_S:
            return
        self._show(state.replace(CURSOR_UP, b""), now)
        self._shown = b""

    def _show(self, state: bytes, now: float) -> None:
        if state.strip() and state != self._shown:
            self._emit(state + b"\n")
            self._shown, self._shown_at = state, now

    def _end_line(self) -> None:
        """Pass on what has no line end."""
        if self._rest and b"\r" in self._rest[:-1]:
            self._show(_state(self._rest), time.monotonic())
        elif self._rest:
            self._emit(bytes(self._rest) + b"\n")
        self._rest.clear()
        self._held = False
        self._shown = b""

    def _emit(self, block: bytes) -> None:
        """Pass on whole lines."""
        self._keep(block)
        if self._prefix:
            block = self._prefix + block[:-1].replace(b"\n", b"\n" + self._prefix) + b"\n"
        self._sink.send(block)

    def _keep(self, block: bytes) -> None:
        if self._tail_bytes:
            self._tail += block[-self._tail_bytes :]
            if len(self._tail) > self._tail_bytes * 5 // 4:
                del self._tail[: -self._tail_bytes]


def _state(line: bytes | bytearray) -> bytes:
    """Return what a terminal would show of a line with carriage returns: the last thing written, blanks aside."""
    parts = [part for part in bytes(line).split(b"\r") if part.strip()]
    return parts[-1] if parts else b""


def open_sinks(loop: Loop | None = None) -> tuple[Sink, Sink]:
    """Return our standard output and standard error; one and the same when both are one pipe or terminal."""
    out = Sink(1, loop)
    first, second = os.fstat(1), os.fstat(2)
    same = (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino) and first.st_mode & 0o170000 != 0o100000
    return out, out if same else Sink(2, loop)
