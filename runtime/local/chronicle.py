"""job.json while a run writes it: every moment belongs to one phase, every change of status is to be seen at once."""

import time
from pathlib import Path

from runtime.local.record import PHASES, JobRecord


class PhaseClock:
    """Gives every moment of a run to one phase."""

    def __init__(self, phases: dict[str, float]) -> None:
        """Begin in ``preparing``; `phases` is added to."""
        self._phases = phases
        self.phase = PHASES[0]
        self._since = time.monotonic()

    def enter(self, phase: str) -> None:
        """End the phase that runs, and begin another."""
        now = time.monotonic()
        self._phases[self.phase] += now - self._since
        self.phase, self._since = phase, now

    def correct(self, phase: str) -> None:
        """Give what runs since the last `enter` to another phase."""
        self.phase = phase


class Chronicle:
    """Keeps the record of one run, and its file."""

    def __init__(self, record: JobRecord, path: Path) -> None:
        """Begin in the first phase; nothing is written yet."""
        self.record = record
        self.clock = PhaseClock(record.phases)
        self._path = path

    def enter(self, status: str, message: str) -> None:
        """Enter a secondary status, and let a reader of job.json see it at once."""
        self.record.enter(status, message)
        self.write()

    def write(self) -> None:
        """Write job.json as it is now."""
        self.record.write(self._path)
