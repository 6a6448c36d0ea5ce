"""One line per event: time, level, host, rank, component, message.

Our own small writer and not ``logging``: it never touches the root logger or a handler of the user's, and it does
not cost the launcher the 11 ms of that import. Nothing is configured at import; whoever owns the process calls
``configure`` once.
"""

from __future__ import annotations

import sys
import time

from runtime.base.redact import redact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Stream(Protocol):
        """What takes our lines."""

        def write(self, text: str, /) -> object:
            """Take a text."""

        def flush(self) -> object:
            """Pass it on."""


LEVELS = ("debug", "info", "warning", "error")


class _Sink:
    """Where lines go in this process, and who speaks."""

    host: str = "-"
    rank: int | None = None
    threshold: int = LEVELS.index("info")
    as_json: bool = False
    stream: Stream | None = None  # None: whatever sys.stderr is at the time


def configure(
    *,
    host: str = "-",
    rank: int | None = None,
    level: str = "info",
    as_json: bool = False,
    stream: Stream | None = None,
) -> None:
    """Say who this process is and what to print.

    Args:
        host: SageMaker's name of this host, such as ``algo-1``; empty when the launcher's prefix tells it.
        rank: global rank; None in the launcher.
        level: one of `LEVELS`; ranks above 0 print warnings and errors only, whatever the level.
        as_json: one JSON object per line instead of text.
        stream: default: ``sys.stderr`` at the time of writing.
    """
    _Sink.host, _Sink.rank, _Sink.as_json, _Sink.stream = host, rank, as_json, stream
    _Sink.threshold = LEVELS.index(level)
    if rank:
        _Sink.threshold = max(_Sink.threshold, LEVELS.index("warning"))


def send_to(stream: Stream) -> None:
    """Write to this from now on, if we write to the standard error of the process now."""
    try:
        if _Sink.stream is None and sys.stderr.fileno() == 2:
            _Sink.stream = stream
    except (OSError, ValueError):  # a test has put something else in its place
        return


def write(level: str, component: str, message: str) -> None:
    """Write one line; a closed stream is never an error of the job."""
    if LEVELS.index(level) < _Sink.threshold:
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if _Sink.as_json:
        import json  # keeps the letters of other languages readable

        line = json.dumps(
            {"time": now, "level": level, "host": _Sink.host, "rank": _Sink.rank, "component": component}
            | {"message": message},
            ensure_ascii=False,
        )
    else:
        who = _Sink.host if _Sink.rank is None else f"{_Sink.host} r{_Sink.rank}"
        speaker = f"{who} {component}" if _Sink.host else component
        line = f"{now} {level.upper()} {speaker}: {message}"
    line = redact(line)
    try:
        stream = _Sink.stream or sys.stderr
        stream.write(line + "\n")
        stream.flush()
    except (OSError, ValueError):
        return


class Log:
    """The voice of one component.

    >>> log = Log("checkpoint")
    >>> log.debug("not shown by default")
    """

    def __init__(self, component: str) -> None:
        self._component = component

    def debug(self, message: str) -> None:
        """For someone who looks for a fault in Slipway itself."""
        write("debug", self._component, message)

    def info(self, message: str) -> None:
        """A decision with its reason, or progress."""
        write("info", self._component, message)

    def warning(self, message: str) -> None:
        """Something that the user configured is not as they think."""
        write("warning", self._component, message)

    def error(self, message: str) -> None:
        """The job, or a part of it, failed."""
        write("error", self._component, message)
