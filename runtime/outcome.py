"""How the job ended and why: rank records in, one cause out, then the files that the platform reads."""

from __future__ import annotations

import os
import time

from runtime.errors import FAILURE_REASON_CHARS, ExitCode, SlipwayError, one_line
from runtime.frozen import asdict, cast, frozen, replace
from runtime.jsontext import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Literal

    from runtime.paths import Paths

PEER_LOSS_SIGNS = (
    "gloo/transport",
    "Connection reset by peer",
    "Connection closed by peer",
    "Socket Timeout",
    "Connection refused",
    "ncclRemoteError",
    "NCCL error",
    "DistNetworkError",
    "DistStoreError",
    "DistBackendError",
    "recvValue failed",
    "Broken pipe",
)
"""Words of torch.distributed that tell what a survivor feels when another rank has died. They never name a cause."""


@frozen
class Cause:
    """One thing that went wrong."""

    host: str
    message: str
    """What happened, in words that are useful alone."""
    exit_code: int
    time: float
    """Unix seconds."""
    rank: int | None = None
    where: str = ""
    """``file:line`` of the user's code; empty when unknown."""
    consequence: bool = False
    """True for what a survivor feels (a closed connection, a lost peer): never reported while a cause is known."""

    def short(self) -> Cause:
        """Cut the message to what `text` shows, so that it fits into one message to another host."""
        return replace(self, message=one_line(self.message, FAILURE_REASON_CHARS))

    def text(self) -> str:
        """Compose the failure reason: one line, cause first, at most 1,024 characters."""
        who = self.host if self.rank is None else f"{self.host} rank {self.rank}"
        where = f" at {self.where}" if self.where else ""
        return one_line(f"{who}: {self.message}{where}", FAILURE_REASON_CHARS)


@frozen
class Outcome:
    """The end of the job on this host."""

    status: Literal["completed", "failed", "stopped"]
    exit_code: int = 0
    cause: Cause | None = None
    step: int = 0
    """Last finished step, for a stop."""
    reason: str = ""
    """Who asked for the stop."""
    consequences: tuple[Cause, ...] = ()


def first_cause(causes: Iterable[Cause]) -> Cause:
    """Choose what to report: causes before consequences, then the first in time."""
    return min(causes, key=lambda cause: (cause.consequence, cause.time))


def cause_from_error(error: BaseException, host: str, rank: int | None = None) -> Cause:
    """Describe an error that we caught ourselves."""
    if isinstance(error, SlipwayError):
        return Cause(host, str(error), int(error.exit_code), time.time(), rank)
    return Cause(host, f"{type(error).__name__}: {error}", int(ExitCode.PLATFORM_ERROR), time.time(), rank)


def feels_like_peer_loss(text: str) -> bool:
    """Tell whether an error text is what a survivor sees, rather than a cause."""
    return any(sign in text for sign in PEER_LOSS_SIGNS)


def write_rank_error(path: str, cause: Cause) -> None:
    """Leave a rank's error record; the fields of torchelastic's form are there too, for other readers.

    A full disk must not hide the error that it caused, so that failing to write is silent.
    """
    record = {
        "slipway": asdict(cause),
        "message": {"message": cause.message, "extraInfo": {"timestamp": int(cause.time)}},
    }
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(dumps(record))
    except OSError:
        return


def read_rank_error(path: str) -> Cause | None:
    """Read what a rank left: our form, or torchelastic's; None when there is nothing readable."""
    try:
        with open(path, encoding="utf-8") as stream:
            record = loads(stream.read())
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict):
        return None
    values = cast("Mapping[str, Any]", record)
    try:
        if "slipway" in values:
            return Cause(**values["slipway"])
        # torchelastic writes an object in general, and plain text for errors of its own.
        message: Any = values["message"]
        told = cast("Mapping[str, Any]", message if isinstance(message, dict) else {"message": message})
        text, at = str(told["message"]), float(told.get("extraInfo", {}).get("timestamp", time.time()))
        return Cause("", text, 1, at, consequence=feels_like_peer_loss(text))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def cause_of_exit(
    host: str,
    rank: int,
    status: int,
    record: Cause | None,
    tail: Iterable[str],
    at: float,
    *,
    told: str = "",
    ended_by_us: bool = False,
) -> Cause:
    """Explain the end of a rank.

    Args:
        host: where it ran.
        rank: its global rank.
        status: exit code, or -n for death by signal n.
        record: the error record that the rank left, if any.
        tail: last lines of its standard error, oldest first.
        at: unix seconds at which it ended.
        told: what the user's script wrote to the failure file itself.
        ended_by_us: we had signalled it already, so that its status says nothing of its own reason.
    """
    code = 128 - status if status < 0 else status
    if record is not None:
        return replace(record, host=host, rank=rank, exit_code=record.exit_code if ended_by_us else code)
    if told.strip():
        return Cause(host, told.strip(), code, at, rank)
    if status < 0:
        import signal

        name = signal.Signals(-status).name if -status in {int(s) for s in signal.Signals} else f"signal {-status}"
        return Cause(host, f"killed by {name} (exit code {code}){_HINTS.get(name, '')}", code, at, rank)
    lines = list(tail)
    raised = last_traceback(lines)
    if raised is not None:
        message, where = raised
        return Cause(host, message, code, at, rank, where, consequence=feels_like_peer_loss(message))
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    says = f": {last}" if last else " without a word on standard error"
    return Cause(
        host,
        f"the program ended with exit code {code}{says}",
        code,
        at,
        rank,
        consequence=feels_like_peer_loss(last),
    )


def last_traceback(lines: Sequence[str]) -> tuple[str, str] | None:
    """Find what the last traceback in a rank's standard error says, whatever was printed after it.

    Returns:
        The exception with its message, and ``file:line`` of the last frame outside of installed packages (empty when
        there is none); None without a whole traceback.
    """
    begin = max((i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")), default=-1)
    if begin < 0:
        return None
    body = lines[begin + 1 :]
    end = next((i for i, line in enumerate(body) if line and not line[0].isspace()), None)
    if end is None:
        return None
    import re
    from itertools import takewhile

    frames = re.findall(r'File "([^"]+)", line (\d+)', "\n".join(body[:end]))
    own = [f"{name}:{line}" for name, line in frames if "-packages" not in name and not name.startswith("<")]
    # A message of several lines goes on indented, or in a list; what is printed at exit begins at the margin.
    more = takewhile(lambda line: line[:1].isspace() and line.strip(), body[end + 1 :])
    return " ".join([body[end].strip(), *(line.strip() for line in more)]), own[-1] if own else ""


_HINTS = {
    "SIGKILL": "; often out of memory, or killed from outside",
    "SIGBUS": "; often /dev/shm is full",
    "SIGSEGV": "; a fault in native code",
    "SIGABRT": "; native code gave up, see the lines before in the log",
}


def write_outcome(outcome: Outcome, paths: Paths) -> None:
    """Write what the platform reads; a failure file that the user's script wrote is kept."""
    try:
        os.makedirs(paths.output, exist_ok=True)
        if outcome.status == "completed":
            _write(paths.success, "")
        elif outcome.status == "stopped":
            _write(paths.stopped, dumps({"step": outcome.step, "reason": outcome.reason}) + "\n")
        elif outcome.cause is not None and not os.path.exists(paths.failure):
            _write(paths.failure, outcome.cause.text())
    except OSError as error:
        from runtime.log import Log

        Log("outcome").error(f"cannot write to {paths.output}: {error}")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
