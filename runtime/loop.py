"""One thread waits for everything: pipes of the ranks, sockets of the other launchers, signals.

A small table over ``poll``: `selectors` would cost 2 ms and gives us nothing more.
"""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Loop:
    """File descriptors, each with what to do when it is ready."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._poll = select.poll()
        self._calls: dict[int, Callable[[], None]] = {}

    def on_read(self, fd: int, call: Callable[[], None]) -> None:
        """Call this whenever `fd` can be read, or is at its end."""
        self._calls[fd] = call
        self._poll.register(fd, select.POLLIN)

    def on_write(self, fd: int, call: Callable[[], None]) -> None:
        """Call this whenever `fd` can be written."""
        self._calls[fd] = call
        self._poll.register(fd, select.POLLOUT)

    def forget(self, fd: int) -> None:
        """Watch `fd` no longer; one that is not watched is no error."""
        if self._calls.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def turn(self, timeout_s: float) -> None:
        """Wait until something is ready, at most so long, and call what belongs to it."""
        for fd, _ in self._poll.poll(max(0.0, timeout_s) * 1000):
            call = self._calls.get(fd)  # an earlier call of this turn may have ended it
            if call is not None:
                call()
