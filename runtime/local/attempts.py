"""All attempts of one job: which of them is the last, and what the job does between two."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from runtime.base.log import Log
from runtime.local import outputs
from runtime.local.attempt import AttemptEnd, Limit
from runtime.local.interruption import Interruption
from runtime.local.request import JobSpec
from runtime.local.stage import Stage

log = Log("local")

WAIT_LOOK_S = 0.1
"""Between two looks whether the user wants the end while spot capacity is away."""


def time_left(spec: JobSpec, used_s: float, elapsed_s: float) -> Limit | None:
    """Return the nearer limit of an attempt; None: it may take as long as it likes.

    Args:
        spec: the job.
        used_s: seconds that its attempts have taken so far.
        elapsed_s: seconds since the first one began, waits included.
    """
    limits: list[Limit] = []
    if spec.max_run_s is not None:
        limits.append(Limit(max(0.0, spec.max_run_s - used_s), "max_run"))
    if spec.max_wait_s is not None:
        limits.append(Limit(max(0.0, spec.max_wait_s - elapsed_s), "max_wait"))
    return min(limits, key=lambda limit: limit.seconds, default=None)


class Attempts:
    """Plays attempts until the job is over: again after an interruption, and where a retry is due. Used once."""

    def __init__(self, stage: Stage, interruptions: Sequence[Interruption], spot_wait_s: float) -> None:
        """Nothing is started.

        Args:
            stage: what they are played with.
            interruptions: one per attempt, in this order.
            spot_wait_s: how long capacity is away after each.
        """
        self._stage = stage
        self._spec = stage.spec
        self._waiting = list(interruptions)
        self._spot_wait_s = spot_wait_s
        self._began = 0.0

    def run(self) -> AttemptEnd:
        """Play them; return the end of the last one."""
        if self._waiting and self._spec.checkpoint is None:
            log.warning("the request has no CheckpointConfig: after an interruption the job begins from scratch")
        chronicle, retries = self._stage.chronicle, self._spec.retries
        self._began = time.monotonic()
        used_s, number = 0.0, 0
        while True:
            number += 1
            began = time.monotonic()
            interruption = self._waiting[0] if self._waiting else None
            end = self._stage.play(number, interruption, time_left(self._spec, used_s, began - self._began))
            used_s += time.monotonic() - began
            if _all_completed(end):  # before an interruption could act: nothing is to be restarted
                break
            if end.end == "interrupted":
                _tell_of_failures(end)
                self._waiting.pop(0)
                end = self._await_capacity(end)
                if end.end != "interrupted":
                    break
            elif end.end == "ended" and end.lost and retries:
                retries -= 1
                chronicle.clock.enter("interrupted")
                lost = ", ".join(end.lost)
                chronicle.enter("Restarting", f"{lost} was lost; {retries} retries are left after this one")
            else:
                break
        self._stage.faults.note_missed()
        for missed in self._waiting:
            if end.end == "ended":
                log.warning(f"--interrupt-after {missed.after} never came: the job ended after step {end.last_step}")
        return end

    def _await_capacity(self, end: AttemptEnd) -> AttemptEnd:
        """Wait as long as spot capacity is away; return another end when the job may not go on."""
        back_at = time.monotonic() + self._spot_wait_s
        give_up_at = None if self._spec.max_wait_s is None else self._began + self._spec.max_wait_s
        while time.monotonic() < back_at:
            if self._stage.stop.times:
                self._stage.chronicle.enter("Stopping", "Asked by the user")
                return replace(end, end="stopped")
            if give_up_at is not None and time.monotonic() >= give_up_at:
                return replace(end, end="max_wait")
            time.sleep(min(WAIT_LOOK_S, max(0.0, back_at - time.monotonic())))
        return end


def _all_completed(end: AttemptEnd) -> bool:
    return all(
        host.exit_code == 0 and Path(host.paths.success).exists() and not Path(host.paths.stopped).exists()
        for host in end.hosts
    )


def _tell_of_failures(end: AttemptEnd) -> None:
    """Warn of a host that failed while it was interrupted: the restart must not hide it."""
    for host in end.hosts:
        reason = outputs.failure_reason([(host.name, host.paths, 0)])
        if reason is not None:
            log.warning(f"{host.name} failed in the interruption: {reason}")
