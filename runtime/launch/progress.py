"""How far each rank is, and whether one stands still. The ranks write, the launcher reads; no message, no lock."""

from __future__ import annotations

import struct

from runtime.base.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRESS = struct.Struct("<qd")
"""One slot per local rank in the progress file: last finished step of this attempt's count, and unix seconds of the
last sign of progress. The seconds are 0 until a rank that uses `Run` has reported for the first time, with step 0."""
PATIENCE = 20
"""Median steps that one step may take."""
_KEPT = 101
"""Step times that the median is taken from; odd, so that it is one of them."""


def read_slots(path: str) -> list[tuple[int, float]]:
    """Return (step, unix seconds) of each local rank; empty when the file cannot be read."""
    try:
        with open(path, "rb") as stream:
            return list(PROGRESS.iter_unpack(stream.read()))
    except (OSError, struct.error):
        return []


@frozen
class Stall:
    """Ranks that have stood still for too long."""

    local_ranks: tuple[int, ...]
    """Those that are furthest behind."""
    step: int
    """Their last finished step."""
    seconds: float
    """How long they have shown no progress."""
    limit_s: float
    median_step_s: float = 0.0
    """0 before the second step."""
    by_output: bool = False
    """Judged by what they print, since they report nothing."""


class ProgressWatch:
    """Judges the slots of one host; it knows no clock but the one it is given."""

    def __init__(self, ranks: int, progress_s: float, first_step_s: float, now: float) -> None:
        """Begin to watch.

        Args:
            ranks: local ranks.
            progress_s: seconds without progress that are always allowed after the first step.
            first_step_s: the same before it.
            now: monotonic seconds, as in all calls.
        """
        self._progress_s = progress_s
        self._first_step_s = first_step_s
        self._seen: list[tuple[int, float]] = [(0, 0.0)] * ranks
        self._moved = [now] * ranks
        self._stepped = [now] * ranks
        self._step_s: list[float] = []

    @property
    def reports(self) -> bool:
        """Whether any rank has ever reported."""
        return any(at for _, at in self._seen)

    @property
    def median_step_s(self) -> float:
        """Median over the last steps of all local ranks; 0 before there is one."""
        return sorted(self._step_s)[len(self._step_s) // 2] if self._step_s else 0.0

    def observe(self, slots: Sequence[tuple[int, float]], now: float) -> None:
        """Take in what the ranks have written since the last call."""
        for index, (slot, before) in enumerate(zip(slots, self._seen, strict=False)):
            if slot == before:
                continue
            steps = slot[0] - before[0]
            if steps > 0:
                if before[0] > 0:
                    self._step_s.append((now - self._stepped[index]) / steps)
                    del self._step_s[:-_KEPT]
                self._stepped[index] = now
            self._seen[index] = slot
            self._moved[index] = now

    def stall(self, running: Sequence[int], now: float) -> Stall | None:
        """Say which ranks stand still, of the local ranks that still run; None while all is well."""
        late: list[tuple[int, int, float, float]] = []
        for index in running:
            step, at = self._seen[index]
            if not at:
                continue  # it may be a script that never reports
            limit = max(PATIENCE * self.median_step_s, self._progress_s) if step else self._first_step_s
            still = now - self._moved[index]
            if still > limit:
                late.append((step, index, still, limit))
        if not late:
            return None
        behind = min(step for step, *_ in late)
        ranks = [(index, still, limit) for step, index, still, limit in late if step == behind]
        return Stall(
            tuple(index for index, *_ in ranks),
            behind,
            max(still for _, still, _ in ranks),
            ranks[0][2],
            self.median_step_s,
        )
