"""One run of a job on this machine: claims the output directory, plays attempts, collects what they leave."""

import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from runtime.base.env import process_environ
from runtime.base.errors import PlatformError, UserError, one_line
from runtime.base.log import Log
from runtime.contract.job import natural_key
from runtime.contract.paths import Paths
from runtime.local import outputs
from runtime.local.attempt import GRACE_S, Attempt, AttemptEnd, End, Limit
from runtime.local.channel_flag import limit
from runtime.local.checkpoints.job import JobCheckpoints
from runtime.local.engine import Engine, Host, HostLog, StoppedEarlyError, StopRequest
from runtime.local.faults import LocalFaults, read_faults
from runtime.local.flags import RUNS, RunOptions
from runtime.local.interruption import Interruption
from runtime.local.metric_watch import MetricWatch
from runtime.local.process_engine import ProcessEngine
from runtime.local.record import (
    AttemptRecord,
    HostRecord,
    InterruptionRecord,
    JobRecord,
    PhaseClock,
    read_record,
)
from runtime.local.request import ChannelSpec, JobSpec, ProcessingJobSpec, TrainingJobSpec
from runtime.local.results import results_of
from runtime.local.s3.job import JobS3
from runtime.testing.faults.plan import Fault

log = Log("local")

LONGEST_BASE = 80
"""Characters of a host's root: a socket that a program makes below it must stay within the kernel's 107."""
Show = Callable[[str, str], None]
"""Takes a host's name and a line of its log."""
KEPT = ("tensors", "tensorboard")
"""Of debugger hooks and TensorBoard, where the request asks for them."""
RESULTS = (
    "job.json",
    "metrics.jsonl",
    "model",
    "model.tar.gz",
    "output.tar.gz",
    "outputs",
    "report.html",
    "logs",
    "profiler",
    *KEPT,
)
"""What a run writes, and what a rerun sets aside; checkpoints are the store's own matter."""


LIMITS = ("MaxRuntimeExceeded", "MaxWaitTimeExceeded")
"""Secondary statuses of a job that a limit has stopped."""
WAIT_LOOK_S = 0.1
"""Between two looks whether the user wants the end while spot capacity is away."""


@dataclass
class _Work:
    """Where the trees of all attempts lie."""

    directory: Path

    def base(self, attempt: int, host: str) -> Path:
        return self.directory / f"attempt-{attempt}" / host


def output_directory(spec: JobSpec, options: RunOptions) -> Path:
    """Decide where everything goes."""
    if options.output is not None:
        return options.output
    home = spec.output if isinstance(spec, TrainingJobSpec) else None
    return (home if isinstance(home, Path) else RUNS.absolute()) / spec.name


@dataclass(frozen=True)
class Claim:
    """An output directory that is ours for one run."""

    directory: Path
    earlier: str = ""
    """What became of an earlier run's results, in words; empty when there were none."""
    cut_off: Path | None = None
    """Trees of an earlier run that nobody saw to its end: its checkpoints are still in them."""


@contextlib.contextmanager
def claimed(directory: Path, name: str, engine: Engine | None = None) -> Generator[Claim]:
    """Take an output directory for one run.

    What an earlier run of the same job left there is set aside, never removed.

    Args:
        directory: made if need be.
        name: of the job.
        engine: knows how to wait for hosts of an earlier run that may still be saving; None: there are none.

    Raises:
        UserError: it holds something else, or another run is at work in it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(
            f"Output {directory} cannot be used: {error.strerror}", fix="choose another --output"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"Output {directory} is in use by another `slipway run`",
                fix="wait for it, or choose another --output",
            ) from None
        yield _set_aside(directory, name, engine)
    finally:
        os.close(handle)


def _set_aside(directory: Path, name: str, engine: Engine | None) -> Claim:
    earlier = read_record(directory / "job.json")
    if earlier is None:
        held = sorted(entry.name for entry in directory.iterdir() if entry.name != "checkpoints")
        if held:
            raise UserError(
                f"Output {directory} holds files that are of no job: {', '.join(held[:5])}",
                fix="choose another --output, or an empty directory",
            )
        return Claim(directory)
    if earlier["name"] != name:
        raise UserError(
            f"Output {directory} holds job {earlier['name']!r}, this one is {name!r}",
            fix="choose another --output, or remove it",
        )
    number = 1
    while (directory / f"earlier-{number}").exists():
        number += 1
    aside = directory / f"earlier-{number}"
    aside.mkdir()
    status = earlier.get("status")
    paths = cast(Mapping[str, str | None], earlier.get("paths") or {})
    work = Path(paths.get("work") or directory / ".work")
    if engine is not None:
        engine.await_earlier(sorted(work.glob("attempt-*/*")), GRACE_S)
    for result in (*RESULTS, *(["checkpoints"] if status == "Completed" else [])):
        if (directory / result).exists():
            (directory / result).rename(aside / result)
    if work.exists():
        shutil.move(work, aside / "work")
    then = "this one begins anew" if status == "Completed" else "this one continues from its checkpoints"
    message = f"an earlier run of {name!r} ended {status}: its results are in {aside.name}/, {then}"
    cut_off = aside / "work" if status == "InProgress" and (aside / "work").exists() else None
    return Claim(directory, message, cut_off)


class Runner:
    """Runs one job; used once."""

    def __init__(
        self,
        spec: JobSpec,
        options: RunOptions,
        claim: Claim,
        engine: Engine,
        show: Show | None,
        faults: Sequence[Fault] = (),
    ) -> None:
        """Prepare; nothing is written yet.

        Args:
            spec: the job.
            options: of this run.
            claim: the output directory.
            engine: makes the hosts.
            show: takes the lines of the hosts' logs; None: nobody watches.
            faults: to be played.
        """
        self._options = options
        self._claim = claim
        self._engine = engine
        self._directory = directory = claim.directory
        self._show = show
        self._spec = spec
        self._s3 = JobS3(process_environ(), options.s3_faults)
        self._results = results_of(spec, options, self._s3)
        kind = "processing" if isinstance(spec, ProcessingJobSpec) else "training"
        self.record = JobRecord(spec.name, kind, without_effect=dict(spec.without_effect))
        definitions = spec.metric_definitions if isinstance(spec, TrainingJobSpec) else ()
        self._metrics = MetricWatch(definitions, directory / "metrics.jsonl")
        self._faults = LocalFaults(faults, engine, self.record.faults)
        self._clock = PhaseClock(self.record.phases)
        in_output = directory / ".work"
        longest = len(str(in_output / "attempt-99" / spec.hosts[-1]))
        temporary = longest > LONGEST_BASE
        self._work = _Work(Path(tempfile.mkdtemp(prefix="slipway-")) if temporary else in_output)
        self._checkpoints = JobCheckpoints(spec, directory / "checkpoints", lambda: self._s3.client, options.sync)
        self._last: AttemptEnd | None = None

    def run(self) -> JobRecord:
        """Run the job to its end; every error becomes a failed job, and nothing is left running."""
        record = self.record
        _tell_without_effect(record.without_effect)
        record.enter("Starting", "Preparing the hosts")
        record.paths["work"] = str(self._work.directory)
        record.write(self._directory / "job.json")
        logs: dict[str, HostLog] = {}
        try:
            with StopRequest() as stop:
                (self._directory / "logs").mkdir(exist_ok=True)
                for host in self._spec.hosts:
                    logs[host] = HostLog(self._directory / "logs" / f"{host}.log", *self._watchers(host))
                self._s3.prepare(self._spec)
                self._clock.enter("image")
                self._engine.open(self._spec, self._directory)
                self._clock.enter("preparing")
                self._fetch(stop)
                self._recover()
                self._stage_code()
                end = self._attempts(logs, stop)
                self._clock.enter("uploading")
                self._results.judge(record, end)
                self._results.upload(record, self._directory, end)
                self._s3.upload_results(self._spec, record)
                record.s3_faults = self._s3.played()
        except StoppedEarlyError as error:
            record.status = "Stopped"
            log.info(f"{error} to slipway run: stopped before any host was started")
        except (OSError, PlatformError, UserError) as error:
            record.status, record.exit_code = "Failed", record.exit_code or 1
            record.failure_reason = one_line(f"local platform: {error}")
        finally:
            self._checkpoints.close()
            self._results.close()
            self._faults.close()
            self._engine.close()
            self._s3.close()
            for host_log in logs.values():
                host_log.close()
        self._conclude()
        return record

    def _watchers(self, host: str) -> list[Callable[[str], None]]:
        """Name who looks at every line of a host's log."""
        watchers = [self._show] if self._show is not None else []
        watchers += [self._metrics.see] if self._metrics.wanted else []
        return [functools.partial(watcher, host) for watcher in watchers]

    # --- attempts -------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Save the checkpoints of an earlier run that was cut off before it could do so itself."""
        if self._claim.cut_off is None or self._spec.checkpoint is None:
            return
        trees = self._claim.cut_off.glob("attempt-*/*")
        self._checkpoints.adopt(sorted(trees, key=lambda base: (natural_key(base.parent.name), natural_key(base.name))))

    def _fetch(self, stop: StopRequest) -> None:
        """Bring inputs from S3, and let the hosts use it."""
        self._spec = self._s3.routed(self._spec)
        if any(channel.remote is not None and downloaded(channel) for channel in self._spec.channels):
            self._clock.enter("downloading")
            self._enter("Downloading", "Downloading input data")
            self._spec = self._s3.fetch(self._spec, downloaded, stop.check)
            self._clock.enter("preparing")
        grant = self._s3.grant(self._spec)
        if grant is not None:
            self._engine.grant(grant)

    def _stage_code(self) -> None:
        if self._options.code is None:
            return
        archive = self._work.directory / "source" / "sourcedir.tar.gz"
        outputs.pack_source(self._options.code, archive, (self._directory, RUNS.absolute()))
        hyperparameters = {**self._spec.hyperparameters, "sagemaker_submit_directory": self._engine.submit(archive)}
        self._spec = replace(self._spec, hyperparameters=hyperparameters)

    def _attempts(self, logs: dict[str, HostLog], stop: StopRequest) -> AttemptEnd:
        waiting = list(self._options.interruptions)
        if waiting and self._spec.checkpoint is None:
            log.warning("the request has no CheckpointConfig: after an interruption the job begins from scratch")
        retries = self._spec.retries
        since, used_s = time.monotonic(), 0.0
        while True:
            began = time.monotonic()
            interruption = waiting[0] if waiting else None
            limit = self._limit(used_s, began - since)
            end = self._attempt(len(self.record.attempts) + 1, logs, stop, interruption, limit)
            used_s += time.monotonic() - began
            if end.end == "interrupted" and not _all_completed(end):
                self._tell_of_failures(end)
                waiting.pop(0)
                if not self._await_capacity(end, stop, since):
                    break
            elif end.end == "ended" and end.lost and retries and not _all_completed(end):
                retries -= 1
                self._clock.enter("interrupted")
                self._enter("Restarting", f"{', '.join(end.lost)} was lost; {retries} retries are left after this one")
            else:
                break
        self._faults.note_missed()
        for missed in waiting:
            if end.end == "ended":
                log.warning(f"--interrupt-after {missed.after} never came: the job ended after step {end.last_step}")
        return end

    def _enter(self, status: str, message: str) -> None:
        """Enter a secondary status, and let a reader of job.json see it at once."""
        self.record.enter(status, message)
        self.record.write(self._directory / "job.json")

    def _limit(self, used_s: float, elapsed_s: float) -> Limit | None:
        """Return what is left to an attempt: of the time to run, and of the time to wait and run."""
        limits: list[Limit] = []
        if self._spec.max_run_s is not None:
            limits.append(Limit(max(0.0, self._spec.max_run_s - used_s), "max_run"))
        if self._spec.max_wait_s is not None:
            limits.append(Limit(max(0.0, self._spec.max_wait_s - elapsed_s), "max_wait"))
        return min(limits, key=lambda limit: limit.seconds, default=None)

    def _await_capacity(self, end: AttemptEnd, stop: StopRequest, since: float) -> bool:
        """Wait as long as spot capacity is away; tell whether the job may go on."""
        back_at = time.monotonic() + self._options.spot_wait_s
        give_up_at = None if self._spec.max_wait_s is None else since + self._spec.max_wait_s
        while time.monotonic() < back_at:
            if stop.times:
                end.end = "stopped"
                self._enter("Stopping", "Asked by the user")
                return False
            if give_up_at is not None and time.monotonic() >= give_up_at:
                end.end = "max_wait"
                return False
            time.sleep(min(WAIT_LOOK_S, max(0.0, back_at - time.monotonic())))
        return True

    def _tell_of_failures(self, end: AttemptEnd) -> None:
        """Warn of a host that failed while it was interrupted: the restart must not hide it."""
        for host in end.hosts:
            reason = outputs.failure_reason([(host.name, host.paths, 0)])
            if reason is not None:
                log.warning(f"{host.name} failed in the interruption: {reason}")

    def _attempt(
        self,
        number: int,
        logs: dict[str, HostLog],
        stop: StopRequest,
        interruption: Interruption | None,
        limit: Limit | None,
    ) -> AttemptEnd:
        self._clock.enter("preparing")
        if number > 1:
            self._enter("Starting", f"Attempt {number}")
        if self.record.transitions[-1].status != "Downloading":
            self._enter("Downloading", "Laying out input data and checkpoints")
        self._engine.begin(self._spec)
        bases: dict[str, Path] = {}
        for host in self._spec.hosts:
            bases[host] = base = self._work.base(number, host)
            self._engine.lay_out(self._spec, host, base)
            logs[host].mark(f"{self._spec.name} attempt {number} on {host}")
        self._faults.prepare(self._spec, bases)
        if self._spec.checkpoint is not None:
            self._clock.enter("downloading")
            self._checkpoints.begin(bases)
        self._results.begin(bases)
        started = time.time()
        self._clock.enter("starting")
        end = Attempt(self._engine, logs, stop).run(
            self._spec,
            bases,
            interruption=interruption,
            limit=limit,
            player=self._faults,
            on_running=lambda: self._on_running(number),
            on_training=lambda: self._clock.enter("training"),
            on_ending=lambda why: self._on_ending(why, interruption),
        )
        self._collect(number, end, started, interruption, stop)
        return end

    def _on_running(self, number: int) -> None:
        self._enter("Training", f"{len(self._spec.hosts)} hosts run, attempt {number}")
        if isinstance(self._spec, ProcessingJobSpec):
            self._clock.enter("training")  # nothing will tell us more

    def _on_ending(self, why: End, interruption: Interruption | None) -> None:
        if why == "interrupted" and interruption is not None:
            self._clock.enter("interrupted")
            self._enter("Interrupted", f"{interruption.signal} after {interruption.after}")
            if interruption.signal == "KILL":
                self._checkpoints.vanish()
        elif why == "max_run":
            self._enter("Stopping", f"MaxRuntimeExceeded: {self._spec.max_run_s:g} s are used up")
        elif why == "max_wait":
            self._enter("Stopping", f"MaxWaitTimeExceeded: {self._spec.max_wait_s:g} s are used up")
        else:
            self._enter("Stopping", "Asked by the user")

    def _collect(
        self, number: int, end: AttemptEnd, started: float, interruption: Interruption | None, stop: StopRequest
    ) -> None:
        """Save what outlives the containers, then note what happened."""
        if self._clock.phase == "starting" and not any(Path(host.paths.state).exists() for host in end.hosts):
            self._clock.correct("training")  # a program that is none of ours has no start that we could see
        for host in end.hosts:
            target = self._directory / "profiler" / f"attempt-{number}" / host.name
            outputs.collect_profiler(host.paths, target)
        first = end.hosts[0].paths
        resumed = outputs.read_record(first, "resumed.json")
        step = resumed.get("step") if resumed is not None else None
        interrupted = None
        if end.end == "interrupted" and interruption is not None and end.interrupted_at is not None:
            interrupted = InterruptionRecord(interruption.signal, interruption.after, end.interrupted_at)
        self.record.attempts.append(
            AttemptRecord(
                attempt=number,
                started=started,
                ended=time.time(),
                interrupted=interrupted,
                resumed_step=step if isinstance(step, int) else None,
                last_step=end.last_step,
                hosts=[HostRecord(host.name, host.exit_code or 0, round(host.seconds, 3)) for host in end.hosts],
                inputs=self._engine.inputs(),
            )
        )
        self.record.metrics |= outputs.last_metrics(first)
        self._last = end
        self._finish_sync(number, end, stop)
        self.record.write(self._directory / "job.json")
        if number > 1:
            # Two trees at most: data of an attempt that is over is in the store, the profiler and the logs.
            shutil.rmtree(self._work.directory / f"attempt-{number - 1}", ignore_errors=True)

    def _finish_sync(self, number: int, end: AttemptEnd, stop: StopRequest) -> None:
        """Sync the rest of the checkpoints: all of them, or what a machine that is reclaimed has time for.

        A second stop of the user's is a wish for a quick end, here as well.
        """
        left_s = float("inf")
        if end.end == "interrupted" and end.interrupted_at is not None:
            left_s = max(0.0, GRACE_S - (time.time() - end.interrupted_at))
        else:
            self._clock.enter("uploading")
        for report in self._checkpoints.finish(left_s, lambda: stop.times > 1):
            self.record.checkpoint_sync.append({"attempt": number, **asdict(report)})

    # --- the end --------------------------------------------------------------------------------------------

    def _conclude(self) -> None:
        record, directory = self.record, self._directory
        final = record.status
        limit = (record.failure_reason or "").partition(":")[0]
        secondary = limit if final == "Stopped" and limit in LIMITS else final
        record.enter(secondary, record.failure_reason or "")
        record.final_metrics = self._metrics.final
        record.metrics |= {point.name: point.value for point in record.final_metrics}
        profiler = directory / "profiler"
        keep_trees = final == "Failed"
        kept = self._work.directory
        if keep_trees and kept.exists() and kept != directory / ".work":
            kept = Path(shutil.move(kept, directory / ".work"))  # nothing runs in it now, its length is no matter
        record.paths = {
            "output_dir": str(directory),
            "job": str(directory / "job.json"),
            "model": record.paths.get("model"),
            "output": record.paths.get("output"),
            "outputs": record.paths.get("outputs"),
            "logs": str(directory / "logs"),
            "profiler": str(profiler) if profiler.is_dir() else None,
            "checkpoints": self._checkpoints.uri,
            "report": None,
            "work": str(kept) if keep_trees else None,
        }
        self._clock.enter("uploading")
        record.bill(spot=self._spec.spot, price=self._options.spot_price)
        record.write(directory / "job.json")
        record.paths["report"] = _report(directory)
        if not keep_trees:
            shutil.rmtree(self._work.directory, ignore_errors=True)
        self._clock.enter("uploading")
        record.bill(spot=self._spec.spot, price=self._options.spot_price)
        record.write(directory / "job.json")


def _tell_without_effect(keys: Mapping[str, str]) -> None:
    for path, reason in keys.items():
        if path.endswith("EnableInterContainerTrafficEncryption"):
            log.warning(f"{path} has no effect: {reason}")
    if keys:
        log.info(f"without effect on one machine: {', '.join(keys)} (reasons in job.json)")


def _all_completed(end: AttemptEnd) -> bool:
    """Tell whether the job was complete before the interruption could act: nothing is to be restarted."""
    return all(host.exit_code == 0 and _succeeded(host) for host in end.hosts)


def _succeeded(host: Host) -> bool:
    paths = Paths(str(host.base))
    return Path(paths.success).exists() and not Path(paths.stopped).exists()


def _report(directory: Path) -> str | None:
    """Make the profile report; a job never fails for it."""
    try:
        from runtime.profile.report import build_report

        path = directory / "report.html"
        path.write_text(build_report(directory), encoding="utf-8")
    except Exception as error:
        log.warning(f"no report: {type(error).__name__}: {error}")
        return None
    return str(path)


def run_job(spec: JobSpec, options: RunOptions, engine: Engine | None = None, show: Show | None = None) -> JobRecord:
    """Run a job on this machine.

    Args:
        spec: the job.
        options: of this run.
        engine: makes the hosts; None: the one that the options name.
        show: takes the lines of the hosts' logs; None: they are printed, unless the options want JSON only.

    Raises:
        UserError: the output directory cannot be used, or this is no Linux.
    """
    spec = limit(spec, options.limits)
    directory = output_directory(spec, options)
    if show is None and not options.as_json:
        show = _print_line
    engine = engine or _engine(options)
    faults = read_faults(options.faults, spec, options.engine)
    with claimed(directory, spec.name, engine) as claim:
        if claim.earlier:
            log.info(claim.earlier)
        return Runner(spec, options, claim, engine, show, faults).run()


def downloaded(channel: ChannelSpec) -> bool:
    """Tell whether a channel lies on the disk before the job starts; else it is read from where it is."""
    return not (channel.streamed or channel.mounted)


def _engine(options: RunOptions) -> Engine:
    if options.engine == "process":
        return ProcessEngine()
    from runtime.local.docker_engine import DockerEngine

    return DockerEngine(options.docker)


def _print_line(_host: str, line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)
