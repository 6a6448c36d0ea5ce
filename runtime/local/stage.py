"""What surrounds one attempt: trees, disks and checkpoints before it, and after it what outlives the containers."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.local import outputs
from runtime.local.attempt import GRACE_S, Attempt, AttemptEnd, End, Limit
from runtime.local.checkpoints.job import JobCheckpoints
from runtime.local.chronicle import Chronicle
from runtime.local.engine import Engine
from runtime.local.faults import LocalFaults
from runtime.local.host_log import HostLog
from runtime.local.interruption import Interruption
from runtime.local.record import AttemptRecord, HostRecord, InterruptionRecord
from runtime.local.request import JobSpec, ProcessingJobSpec
from runtime.local.results import Results
from runtime.local.stop_request import StopRequest
from runtime.local.work import WorkTrees


@dataclass(frozen=True)
class Stage:
    """What all attempts of a job are played with."""

    spec: JobSpec
    """The job, its inputs on this machine."""
    engine: Engine
    work: WorkTrees
    faults: LocalFaults
    checkpoints: JobCheckpoints
    results: Results
    chronicle: Chronicle
    logs: Mapping[str, HostLog]
    """Of every host."""
    profiler: Path
    """Directory that gets what was measured in each attempt."""
    stop: StopRequest

    def play(self, number: int, interruption: Interruption | None, limit: Limit | None) -> AttemptEnd:
        """Prepare an attempt, see it to its end, and collect what it leaves.

        Args:
            number: counts from 1.
            interruption: to play in it.
            limit: how long it may take; None: as long as it likes.

        Raises:
            UserError, PlatformError: it cannot be prepared, or the engine lost sight of it.
        """
        bases = self._prepare(number)
        started = time.time()
        self.chronicle.clock.enter("starting")
        end = Attempt(self.engine, self.logs, self.stop).run(
            self.spec,
            bases,
            interruption=interruption,
            limit=limit,
            player=self.faults,
            on_running=lambda: self._on_running(number),
            on_training=lambda: self.chronicle.clock.enter("training"),
            on_ending=lambda why: self._on_ending(why, interruption),
        )
        self._note(number, end, started, interruption)
        self._finish_sync(number, end)
        self.chronicle.write()
        if number > 1:
            # Two trees at most: data of an attempt that is over is in the store, the profiler and the logs.
            self.work.drop(number - 1)
        return end

    def _prepare(self, number: int) -> dict[str, Path]:
        """Lay out the trees of all hosts; return their roots."""
        self.chronicle.clock.enter("preparing")
        if number > 1:
            self.chronicle.enter("Starting", f"Attempt {number}")
        if self.chronicle.record.transitions[-1].status != "Downloading":
            self.chronicle.enter("Downloading", "Laying out input data and checkpoints")
        self.engine.begin(self.spec)
        bases: dict[str, Path] = {}
        for host in self.spec.hosts:
            bases[host] = base = self.work.base(number, host)
            self.engine.lay_out(self.spec, host, base)
            self.logs[host].mark(f"{self.spec.name} attempt {number} on {host}")
        self.faults.prepare(self.spec, bases)
        if self.spec.checkpoint is not None:
            self.chronicle.clock.enter("downloading")
            self.checkpoints.begin(bases)
        self.results.begin(bases)
        return bases

    def _on_running(self, number: int) -> None:
        self.chronicle.enter("Training", f"{len(self.spec.hosts)} hosts run, attempt {number}")
        if isinstance(self.spec, ProcessingJobSpec):
            self.chronicle.clock.enter("training")  # nothing will tell us more

    def _on_ending(self, why: End, interruption: Interruption | None) -> None:
        if why == "interrupted" and interruption is not None:
            self.chronicle.clock.enter("interrupted")
            self.chronicle.enter("Interrupted", f"{interruption.signal} after {interruption.after}")
            if interruption.signal == "KILL":
                self.checkpoints.vanish()
        elif why == "max_run":
            self.chronicle.enter("Stopping", f"MaxRuntimeExceeded: {self.spec.max_run_s:g} s are used up")
        elif why == "max_wait":
            self.chronicle.enter("Stopping", f"MaxWaitTimeExceeded: {self.spec.max_wait_s:g} s are used up")
        else:
            self.chronicle.enter("Stopping", "Asked by the user")

    def _note(self, number: int, end: AttemptEnd, started: float, interruption: Interruption | None) -> None:
        """Take what was measured out of the trees, and note what happened."""
        record, clock = self.chronicle.record, self.chronicle.clock
        if clock.phase == "starting" and not any(Path(host.paths.state).exists() for host in end.hosts):
            clock.correct("training")  # a program that is none of ours has no start that we could see
        for host in end.hosts:
            outputs.collect_profiler(host.paths, self.profiler / f"attempt-{number}" / host.name)
        first = end.hosts[0].paths
        resumed = outputs.read_record(first, "resumed.json")
        step = resumed.get("step") if resumed is not None else None
        interrupted = None
        if end.end == "interrupted" and interruption is not None and end.interrupted_at is not None:
            interrupted = InterruptionRecord(interruption.signal, interruption.after, end.interrupted_at)
        record.attempts.append(
            AttemptRecord(
                attempt=number,
                started=started,
                ended=time.time(),
                interrupted=interrupted,
                resumed_step=step if isinstance(step, int) else None,
                last_step=end.last_step,
                hosts=[HostRecord(host.name, host.exit_code or 0, round(host.seconds, 3)) for host in end.hosts],
                inputs=self.engine.inputs(),
            )
        )
        record.metrics |= outputs.last_metrics(first)

    def _finish_sync(self, number: int, end: AttemptEnd) -> None:
        """Sync the rest of the checkpoints: all of them, or what a machine that is reclaimed has time for.

        A second stop of the user's is a wish for a quick end, here as well.
        """
        left_s = float("inf")
        if end.end == "interrupted" and end.interrupted_at is not None:
            left_s = max(0.0, GRACE_S - (time.time() - end.interrupted_at))
        else:
            self.chronicle.clock.enter("uploading")
        for report in self.checkpoints.finish(left_s, lambda: self.stop.times > 1):
            self.chronicle.record.checkpoint_sync.append({"attempt": number, **asdict(report)})
