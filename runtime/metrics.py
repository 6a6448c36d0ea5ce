"""Metric lines that a CloudWatch regex can find, and the same as JSON lines for the local platform. Rank 0 only."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import SupportsFloat

from runtime.base.log import Log

log = Log("metrics")


class MetricLog:
    """Writes ``step=50 epoch=2 loss=0.1234 ...``; a regex such as ``loss=([0-9.e+-]+)`` finds each value."""

    def __init__(self, file: Path | None, every_s: float, *, speaks: bool) -> None:
        """Prepare.

        Args:
            file: JSON lines go here; None: the log alone.
            every_s: seconds between the lines of `maybe`.
            speaks: True on rank 0 only.
        """
        self._file = file
        self._every_s = every_s
        self._speaks = speaks
        self._due = 0.0
        self._latest: tuple[int, int, Mapping[str, SupportsFloat]] | None = None
        self._last: tuple[float, int] | None = None

    def maybe(self, step: int, epoch: int, values: Mapping[str, SupportsFloat]) -> None:
        """Write when a line is due; values on a GPU are read only then."""
        now = time.monotonic()
        self._latest = (step, epoch, values) if self._speaks else None
        if not self._speaks or now < self._due:
            return
        self._latest = None
        self._due = now + self._every_s
        speed: dict[str, SupportsFloat] = {}
        if self._last is not None and step > self._last[1]:
            speed["steps_per_s"] = (step - self._last[1]) / (now - self._last[0])
        self._last = (now, step)
        self.write(step, epoch, {**values, **speed})

    def close(self) -> None:
        """Write the values of the last step, unless a line has told them."""
        if self._latest is not None:
            self.write(*self._latest)
            self._latest = None

    def write(self, step: int, epoch: int, values: Mapping[str, SupportsFloat]) -> None:
        """Write now."""
        if not self._speaks:
            return
        numbers = {name: float(value) for name, value in values.items()}
        words = " ".join(f"{name}={value:.6g}" for name, value in numbers.items())
        log.info(f"step={step} epoch={epoch} {words}".rstrip())
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"t": time.time(), "step": step, "epoch": epoch} | numbers) + "\n")
        except OSError:
            return  # the log line has it
