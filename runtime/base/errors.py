"""How things end: the exception tree, the exit codes, and the one form of an error message.

    Exception
    └── SlipwayError            never raised itself
        ├── UserError           the user can fix it: exit 1, no traceback
        └── PlatformError       machine or service failed: exit 2, traceback kept
    BaseException
    └── Stopped                 a clean stop: exit 0, neither success nor failure is written

``Stopped`` is no ``Exception``, so that an ``except Exception`` in a user's loop cannot swallow a stop.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

FAILURE_REASON_CHARS = 1024
"""Characters of ``/opt/ml/output/failure`` that become ``FailureReason``. Source: CreateTrainingJob API."""


class ExitCode:
    """Exit codes of ``train``; any other value is the user's own code, or 128 + n for death by signal n."""

    COMPLETED = 0
    USER_ERROR = 1
    PLATFORM_ERROR = 2


class SlipwayError(Exception):
    """An error of ours whose text says what happened, what is allowed and what to do, in this order.

    Args:
        happened: the value and where it came from; useful alone, since only the first characters may survive.
        allowed: what would have been right; empty when it says nothing new.
        fix: what to do now; empty when nobody can know.
    """

    exit_code = ExitCode.PLATFORM_ERROR

    def __init__(self, happened: str, *, allowed: str = "", fix: str = "") -> None:
        sentences = [happened.rstrip("."), allowed.rstrip("."), f"Fix: {fix.rstrip('.')}" if fix else ""]
        # A question of did_you_mean ends with its own mark.
        super().__init__(" ".join(s if s.endswith("?") else f"{s}." for s in sentences if s))


class UserError(SlipwayError):
    """The user can fix it."""

    exit_code = ExitCode.USER_ERROR


class PlatformError(SlipwayError):
    """The machine, the network or the service failed."""

    exit_code = ExitCode.PLATFORM_ERROR


class Stopped(BaseException):
    """The job was asked to stop and has saved what it could.

    Args:
        step: last finished step; 0 when no step was finished.
        reason: who asked, in words.
    """

    def __init__(self, *, step: int, reason: str) -> None:
        super().__init__(f"stopped after step {step}: {reason}")
        self.step = step
        self.reason = reason


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Name the choices when they are few, and the nearest one when there is a near one.

    Returns:
        For example ``"Choices: 'epochs', 'lr'. Did you mean 'epochs'?"``; empty without choices.
    """
    import difflib  # costs 8 ms, wanted on the way to an error only

    known = list(choices)
    if not known:
        return ""
    near = difflib.get_close_matches(word, known, n=1)
    listed = f"Choices: {', '.join(map(repr, known))}." if len(known) <= 10 or not near else ""
    guess = f"Did you mean {near[0]!r}?" if near else ""
    return " ".join(part for part in (listed, guess) if part)


def one_line(text: str, limit: int = FAILURE_REASON_CHARS) -> str:
    """Fold a message into one line of at most `limit` characters that can always be written as UTF-8."""
    # The name of a file that is no UTF-8 comes as lone surrogates, which no file and no JSON reader would take.
    folded = " ".join(text.split()).encode("utf-8", "backslashreplace").decode("utf-8")
    return folded if len(folded) <= limit else folded[: limit - 1] + "…"
