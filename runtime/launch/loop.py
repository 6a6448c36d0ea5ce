"""One thread waits for everything: pipes of the ranks, sockets of the other launchers, signals.

A small table over ``epoll``, whose cost does not grow with what is silent, as a launcher among many hosts needs it;
`selectors` would cost 2 ms and gives us nothing more.
"""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


MOST_AT_ONCE = 64
"""Of what is ready; the next turn has the rest."""


class Loop:
    """File descriptors, each with what to do when it is ready."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._poll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}

    def on_read(self, fd: int, call: Callable[[], None]) -> None:
        """Call this whenever `fd` can be read, or is at its end."""
        self._watch(fd, select.EPOLLIN, call)

    def on_write(self, fd: int, call: Callable[[], None]) -> None:
        """Call this whenever `fd` can be written."""
        self._watch(fd, select.EPOLLOUT, call)

    def forget(self, fd: int) -> None:
        """Watch `fd` no longer; one that is not watched is no error."""
        if self._calls.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def turn(self, timeout_s: float) -> None:
        """Wait until something is ready, at most so long, and call what belongs to it."""
        for fd, _ in self._poll.poll(max(0.0, timeout_s), MOST_AT_ONCE):
            call = self._calls.get(fd)  # an earlier call of this turn may have ended it
            if call is not None:
                call()

    def _watch(self, fd: int, what: int, call: Callable[[], None]) -> None:
        if fd in self._calls:
            self._poll.modify(fd, what)
        else:
            self._poll.register(fd, what)
        self._calls[fd] = call
