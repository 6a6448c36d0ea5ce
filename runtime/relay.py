"""Ranks' output to ours, line by line, at once, with a bounded memory."""

from __future__ import annotations

import os

LONGEST_LINE_BYTES = 1 << 20
"""A longer line is passed on in pieces."""
PIECES_AT_THE_END = 256
"""Of 64 KiB: more than a pipe holds, and a bound for a grandchild that writes for ever."""
TAIL_LINES = 40
"""Lines of standard error that are kept, to explain a rank that left no record."""


class Relay:
    """One pipe of one rank."""

    def __init__(self, source: int, sink: int, prefix: bytes) -> None:
        """Take over a pipe.

        Args:
            source: file descriptor of the pipe's reading end; made non-blocking and closed by us.
            sink: 1 or 2.
            prefix: put before each line; may be empty.
        """
        os.set_blocking(source, False)
        self.source = source
        self.tail: list[str] = []
        self._sink = sink
        self._prefix = prefix
        self._rest = b""
        self.ended = False

    def pump(self) -> bool:
        """Pass on one piece; False when there is nothing more to read now.

        `ended` tells whether the stream is over.
        """
        try:
            piece = os.read(self.source, 1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            piece = b""
        if not piece:
            self.ended = True
            self._flush()
            return False
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if lines:
            self._emit(b"\n".join(lines))
        if len(self._rest) > LONGEST_LINE_BYTES:
            self._flush()
        return True

    def drain(self) -> None:
        """Pass on what is in the pipe now, without waiting for those who still hold its other end."""
        for _ in range(PIECES_AT_THE_END):
            if self.ended or not self.pump():
                break
        self._flush()

    def _flush(self) -> None:
        if self._rest:
            self._emit(self._rest)
            self._rest = b""

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.source)

    def _emit(self, block: bytes) -> None:
        lines = block.split(b"\n")
        if self._sink == 2:
            self.tail += [line[-2000:].decode("utf-8", "replace") for line in lines[-TAIL_LINES:]]
            del self.tail[:-TAIL_LINES]
        _write_all(self._sink, b"".join(self._prefix + line + b"\n" for line in lines))


def _write_all(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(sink, view) :]
        except BlockingIOError:
            continue
        except OSError:  # nobody reads our log any more; the job goes on
            return
