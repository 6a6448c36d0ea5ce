"""How the job ended and why: rank records in, one cause out, then the files that the platform reads."""

from __future__ import annotations

import os
import time

from runtime.base.errors import FAILURE_REASON_CHARS, ExitCode, SlipwayError, one_line
from runtime.base.frozen import asdict, cast, frozen, replace
from runtime.base.jsontext import dumps, loads
from runtime.base.redact import redact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Literal

    from runtime.cause.explain import Facts
    from runtime.contract.paths import Paths

MEANS_CHARS, FIX_CHARS, WHERE_CHARS = 260, 260, 160
"""How much of the failure reason the parts after the message may take; the message has at least the rest."""


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
    means: str = ""
    """What the message means, with facts of the machine; empty when it says enough."""
    fix: str = ""
    """What to do; empty when nobody can know, or the message says it."""

    def short(self) -> Cause:
        """Cut and mask the texts to what `text` shows, so that they fit into one message to another host."""
        return replace(
            self,
            message=one_line(redact(self.message), FAILURE_REASON_CHARS),
            where=_end_of(self.where, WHERE_CHARS),
            means=one_line(redact(self.means), MEANS_CHARS),
            fix=one_line(self.fix, FIX_CHARS),
        )

    def text(self) -> str:
        """Compose the failure reason: one line, cause first, at most 1,024 characters, secrets masked."""
        cut = self.short()
        who = self.host if self.rank is None else f"{self.host} rank {self.rank}"
        rest = f" at {cut.where}" if cut.where else ""
        rest += f" ({cut.means})" if cut.means else ""
        rest += f". Fix: {cut.fix}" if cut.fix else ""
        message = one_line(f"{who}: {cut.message}", FAILURE_REASON_CHARS - len(rest))
        return (message.removesuffix(".") if rest.startswith(".") else message) + rest


def _end_of(place: str, limit: int) -> str:
    return place if len(place) <= limit else f"…{place[1 - limit :]}"


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
    from runtime.cause.signatures import feels_like_peer_loss as known

    return known(text)


def write_rank_error(path: str, cause: Cause, run: Mapping[str, object] | None = None) -> None:
    """Leave a rank's error record; the fields of torchelastic's form are there too, for other readers.

    A full disk must not hide the error that it caused, so that failing to write is silent.

    Args:
        path: where; its directory is made.
        cause: what happened; secrets in it are masked.
        run: how far the rank was (step, epoch, data), so that the failure can be run again.
    """
    masked = replace(cause, message=redact(cause.message), means=redact(cause.means))
    record = {
        "slipway": asdict(masked),
        "run": dict(run or {}),
        "message": {"message": masked.message, "extraInfo": {"timestamp": int(cause.time)}},
    }
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # A message may hold what our masks do not know: it is nobody else's to read.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
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


def cause_of_exit(  # noqa: PLR0913 - all that is known of one end
    host: str,
    rank: int,
    status: int,
    record: Cause | None,
    tail: Sequence[str],
    at: float,
    *,
    told: str = "",
    ended_by_us: bool = False,
    out: Sequence[str] = (),
    facts: Facts | None = None,
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
        out: last lines of its standard output, oldest first.
        facts: what the machine knew before the ranks were started.
    """
    from runtime.cause.explain import Facts, explain_exit, explain_text

    code = 128 - status if status < 0 else status
    facts = facts or Facts()
    if record is not None:
        said = explain_text(record.message, facts)
        ours = "Fix: " in record.message  # an error of ours says all itself
        return replace(
            record,
            host=host,
            rank=rank,
            exit_code=record.exit_code if ended_by_us else code,
            means="" if ours else record.means or said.means,
            fix="" if ours else record.fix or said.fix,
        )
    if told.strip():
        return Cause(host, told.strip(), code, at, rank)
    said = explain_exit(status, tail, out, facts)
    return Cause(host, said.message, code, at, rank, said.where, said.consequence, said.means, said.fix)


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
        from runtime.base.log import Log

        Log("outcome").error(f"cannot write to {paths.output}: {error}")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
