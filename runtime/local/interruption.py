"""When and how a spot interruption is played. Pure."""

import re
from dataclasses import dataclass
from typing import Literal

from runtime.base.errors import UserError

Kind = Literal["TERM", "KILL"]


@dataclass(frozen=True)
class Interruption:
    """One reclaim of all hosts."""

    signal: Kind
    """TERM: 120 s to save and leave, as a stop; KILL: the machines are gone at once."""
    step: int | None = None
    """Comes as soon as any rank has finished this step."""
    seconds: float | None = None
    """Comes this long after the start of the attempt."""

    @property
    def after(self) -> str:
        """As the user wrote it."""
        return f"step:{self.step}" if self.step is not None else f"{self.seconds:g}s"

    def due(self, last_step: int, elapsed_s: float) -> bool:
        """Tell whether it comes now.

        Args:
            last_step: last step that any rank has finished in this attempt; 0 before the first.
            elapsed_s: seconds since the hosts of this attempt were started.
        """
        if self.step is not None:
            return last_step >= self.step
        return self.seconds is not None and elapsed_s >= self.seconds


def parse_interruption(text: str, signal: Kind) -> Interruption:
    """Read ``step:N`` or ``Ns``.

    >>> parse_interruption("step:50", "KILL").step, parse_interruption("1.5s", "TERM").seconds
    (50, 1.5)

    Raises:
        UserError: it is neither.
    """
    step = re.fullmatch(r"step:(\d+)", text)
    if step and int(step[1]) > 0:
        return Interruption(signal, step=int(step[1]))
    seconds = re.fullmatch(r"(\d+(?:\.\d+)?)s", text)
    if seconds:
        return Interruption(signal, seconds=float(seconds[1]))
    raise UserError(
        f"--interrupt-after {text}",
        allowed="it is step:N with N of at least 1, or Ns, such as step:50 or 20s",
    )
