"""SIGTERM and SIGINT as facts that the loop looks at, SIGCHLD as a wake-up."""

from __future__ import annotations

import os

from runtime.base.errors import Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    # The module `signal` wraps these very functions in enums, for 3 ms; until there are handlers, PID 1 loses SIGTERM.
    import _signal as signal

_NAMES: dict[int, str] = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "SIGINT"}


def _only_wake(_number: int, _frame: object) -> None:
    """Handle SIGCHLD: a handler must exist for the wake-up descriptor to be written."""


class Signals:
    """The signals of this process, taken over for its whole life."""

    def __init__(self) -> None:
        """Install the handlers."""
        self.stop_asked: str = ""
        """Name of the first signal that asked us to stop."""
        self.interrupts = 0
        """Ctrl-C by a person; the second one means at once. A platform may well repeat its SIGTERM."""
        self.wake, self._writer = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in _NAMES:
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, _only_wake)

    def _on_stop(self, number: int, _frame: object) -> None:
        self.interrupts += number == signal.SIGINT
        self.stop_asked = self.stop_asked or _NAMES[number]

    def pause(self, seconds: float) -> None:
        """Wait, before there is anything to supervise.

        Raises:
            Stopped: we were asked to stop, before or meanwhile.
        """
        if not self.stop_asked and seconds > 0:
            import select

            select.select([self.wake], [], [], seconds)
            self.drain()
        if self.stop_asked:
            raise Stopped(step=0, reason=self.stop_asked)

    def drain(self) -> None:
        """Empty the wake-up pipe."""
        try:
            os.read(self.wake, 4096)
        except BlockingIOError:
            return
