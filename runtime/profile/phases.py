"""Where the time of each step goes: data, compute (forward and backward), optimizer, checkpoint, other.

Always on, a few clock readings per step, and never able to hurt the job: when its file cannot be written, it stops
writing. One JSON line per step; the first line names the fields.
"""

import json
import statistics
import time
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TextIO

from runtime.base.log import Log

log = Log("profile")

Phase = Literal["data", "compute", "optimizer", "checkpoint", "other"]
PHASES: tuple[Phase, ...] = ("data", "compute", "optimizer", "checkpoint", "other")
FIELDS = ("step", "epoch", "begin", "data", "compute", "optimizer", "checkpoint", "total")
FLUSH_S = 1.0
"""Seconds of records that a killed process may lose."""
RECENT_STEPS = 10_000
"""Steps over which the median is taken: a bound for the memory of a month-long job."""
FORMAT = 1


class StepTimer:
    """A clock that is always in exactly one phase."""

    def __init__(self, file: Path | None, header: Mapping[str, object]) -> None:
        """Start in the phase ``other``.

        Args:
            file: where the lines go; None: nothing is measured or written.
            header: who we are (host, rank, world_size).
        """
        self._stream: TextIO | None = None
        self._lines: list[str] = []
        self._phase: Phase = "other"
        self._in_steps = False
        self._spent = dict.fromkeys(PHASES, 0.0)
        self._zero = self._mark = self._begin = time.perf_counter()
        self._flushed = self._zero
        self._totals: deque[float] = deque(maxlen=RECENT_STEPS)
        self._hooks: list[Any] = []
        if file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._stream = file.open("a", encoding="utf-8")
        except OSError as error:
            log.warning(f"no phase times: {error}")
            return
        self._lines.append(json.dumps({"format": FORMAT, **header, "started": time.time(), "fields": FIELDS}))
        self._flush()

    @property
    def on(self) -> bool:
        """Whether anything is recorded."""
        return self._stream is not None

    def watch_optimizers(self) -> None:
        """Let every torch optimizer tell when its step begins and ends."""
        if not self.on:
            return
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        def begin(*_: object) -> None:
            self.enter("optimizer")

        def end(*_: object) -> None:
            self.enter("other")

        self._hooks = [register_optimizer_step_pre_hook(begin), register_optimizer_step_post_hook(end)]

    def enter(self, phase: Phase) -> None:
        """From now on the time is this phase's."""
        if self._stream is None:
            return
        now = time.perf_counter()
        if phase == "data" and not self._in_steps:
            # What came before the first batch (imports, joining, resuming) is start-up, not a slow step.
            self._in_steps = True
            self._mark = now
            self._restart()
        self._spent[self._phase] += now - self._mark
        self._mark = now
        self._phase = phase

    def step(self, step: int, epoch: int) -> None:
        """Close a step: its record is complete, the next one begins."""
        if self._stream is None:
            return
        self.enter("other")
        total = self._mark - self._begin
        spent = self._spent
        self._lines.append(
            f"[{step},{epoch},{self._begin - self._zero:.6f},{spent['data']:.6f},{spent['compute']:.6f},"
            f"{spent['optimizer']:.6f},{spent['checkpoint']:.6f},{total:.6f}]"
        )
        self._totals.append(total)
        self._restart()
        if self._mark - self._flushed > FLUSH_S:
            self._flush()

    @contextmanager
    def span(self, name: str) -> Generator[None]:
        """Time something that belongs to no step, such as validation; the step under way goes on afterwards."""
        before, in_steps = self._phase, self._in_steps
        self.enter(before)
        kept = dict(self._spent)
        started = self._mark
        try:
            yield
        finally:
            self.enter(before)
            self._spent, self._in_steps = kept, in_steps
            self._begin += self._mark - started  # the pause is no part of the step
            self.event("span", name=name, seconds=round(self._mark - started, 6))

    def event(self, event: str, **facts: object) -> None:
        """Record something that happened once."""
        if self._stream is not None:
            self._lines.append(json.dumps({"event": event, "t": time.time(), **facts}))

    def median_step_s(self) -> float:
        """Median seconds of the recent steps, without the first (warm-up) when there are others; 0 without steps."""
        totals = list(self._totals)
        return statistics.median(totals[1:] or totals or [0.0])

    def seconds(self) -> float:
        """Seconds since the start of this timer."""
        return time.perf_counter() - self._zero

    def close(self) -> None:
        """Write what is left."""
        for hook in self._hooks:
            hook.remove()
        self._flush()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _restart(self) -> None:
        self._begin = self._mark
        for phase in PHASES:
            self._spent[phase] = 0.0

    def _flush(self) -> None:
        self._flushed = self._mark
        if self._stream is None or not self._lines:
            return
        try:
            self._stream.write("\n".join(self._lines) + "\n")
            self._stream.flush()
        except OSError as error:
            log.warning(f"phase times end here: {error}")
            with suppress(OSError):  # closing tries to write once more
                self._stream.close()
            self._stream = None
        self._lines.clear()
