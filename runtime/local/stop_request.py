"""The user's wish to end a run: Ctrl-C, SIGTERM, a closed terminal."""

import signal


class StoppedEarlyError(Exception):
    """The user stopped the job before its hosts were started."""


class StopRequest:
    """Turns SIGINT, SIGTERM and SIGHUP of ``slipway run`` into facts, and puts the old handlers back."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        """Nothing is taken over yet."""
        self.signal_name = ""
        self.times = 0
        self._old: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in self.NUMBERS:
            self._old[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType] - it came from signal.signal

    def check(self) -> None:
        """Raise when somebody wants no more.

        Raises:
            StoppedEarlyError: a signal came.
        """
        if self.times:
            raise StoppedEarlyError(self.signal_name)

    def _on_signal(self, number: int, _frame: object) -> None:
        self.times += 1
        self.signal_name = self.signal_name or signal.Signals(number).name
