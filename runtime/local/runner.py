"""One run of a job on this machine: everything made ready, its attempts played, what they leave judged and kept."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from runtime.base.env import process_environ
from runtime.base.errors import PlatformError, UserError, one_line
from runtime.base.log import Log
from runtime.contract.job import natural_key
from runtime.local import outputs
from runtime.local.attempt import LIMIT_STATUS, AttemptEnd
from runtime.local.attempts import Attempts
from runtime.local.channel_flag import limit
from runtime.local.checkpoints.job import JobCheckpoints
from runtime.local.chronicle import Chronicle
from runtime.local.claim import Claim, claimed, output_directory
from runtime.local.engine import Engine
from runtime.local.faults import LocalFaults, read_faults
from runtime.local.flags import RUNS, RunOptions
from runtime.local.host_log import HostLog
from runtime.local.metric_watch import MetricWatch
from runtime.local.process_engine import ProcessEngine
from runtime.local.record import JobRecord
from runtime.local.request import JobSpec, ProcessingJobSpec, TrainingJobSpec
from runtime.local.results import results_of
from runtime.local.s3.job import JobS3, to_fetch
from runtime.local.stage import Stage
from runtime.local.stop_request import StoppedEarlyError, StopRequest
from runtime.local.work import WorkTrees
from runtime.testing.faults.plan import Fault

log = Log("local")

Show = Callable[[str, str], None]
"""Takes a host's name and a line of its log."""


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
        self._spec = spec
        self._options = options
        self._claim = claim
        self._directory = directory = claim.directory
        self._engine = engine
        self._show = show
        kind = "processing" if isinstance(spec, ProcessingJobSpec) else "training"
        self.record = JobRecord(spec.name, kind, without_effect=dict(spec.without_effect))
        self._chronicle = Chronicle(self.record, directory / "job.json")
        self._s3 = JobS3(process_environ(), options.s3_faults)
        self._results = results_of(spec, options, self._s3)
        definitions = spec.metric_definitions if isinstance(spec, TrainingJobSpec) else ()
        self._metrics = MetricWatch(definitions, directory / "metrics.jsonl")
        self._faults = LocalFaults(faults, engine, self.record.faults)
        self._work = WorkTrees(spec, directory)
        self._checkpoints = JobCheckpoints(spec, directory / "checkpoints", lambda: self._s3.client, options.sync)
        self._logs: dict[str, HostLog] = {}

    def run(self) -> JobRecord:
        """Run the job to its end; every error becomes a failed job, and nothing is left running."""
        record = self.record
        _tell_without_effect(record.without_effect)
        record.paths["work"] = str(self._work.directory)
        self._chronicle.enter("Starting", "Preparing the hosts")
        end: AttemptEnd | None = None
        try:
            with StopRequest() as stop:
                stage = self._prepare(stop)
                end = Attempts(stage, self._options.interruptions, self._options.spot_wait_s).run()
                self._chronicle.clock.enter("uploading")
                self._results.judge(record, end)
                self._results.upload(record, self._directory, end)
                self._s3.upload_results(stage.spec, record)
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
            for host_log in self._logs.values():
                host_log.close()
        try:
            self._conclude(LIMIT_STATUS.get(end.end) if end is not None else None)
        except PlatformError as error:  # a full disk: job.json stays as it was, and says that the job is running
            log.error(str(error))
            if record.status == "Completed":
                record.status, record.exit_code = "Failed", 1
                record.failure_reason = one_line(f"local platform: {error}")
        return record

    # --- before the first attempt -------------------------------------------------------------------------------

    def _prepare(self, stop: StopRequest) -> Stage:
        """Make ready what all attempts share."""
        (self._directory / "logs").mkdir(exist_ok=True)
        for host in self._spec.hosts:
            self._logs[host] = HostLog(self._directory / "logs" / f"{host}.log", *self._watchers(host))
        self._s3.prepare(self._spec)
        self._chronicle.clock.enter("image")
        self._engine.open(self._spec, self._directory)
        self._chronicle.clock.enter("preparing")
        spec = self._fetch(stop)
        self._recover()
        spec = self._submit_code(spec)
        return Stage(
            spec=spec,
            engine=self._engine,
            work=self._work,
            faults=self._faults,
            checkpoints=self._checkpoints,
            results=self._results,
            chronicle=self._chronicle,
            logs=self._logs,
            profiler=self._directory / "profiler",
            stop=stop,
        )

    def _watchers(self, host: str) -> list[Callable[[str], None]]:
        """Name who looks at every line of a host's log."""
        watchers = [self._show] if self._show is not None else []
        watchers += [self._metrics.see] if self._metrics.wanted else []
        return [functools.partial(watcher, host) for watcher in watchers]

    def _fetch(self, stop: StopRequest) -> JobSpec:
        """Bring inputs from S3, and let the hosts use it."""
        spec = self._s3.routed(self._spec)
        if to_fetch(spec):
            self._chronicle.clock.enter("downloading")
            self._chronicle.enter("Downloading", "Downloading input data")
            spec = self._s3.fetch(spec, stop.check)
            self._chronicle.clock.enter("preparing")
        grant = self._s3.grant(spec)
        if grant is not None:
            self._engine.grant(grant)
        return spec

    def _recover(self) -> None:
        """Save the checkpoints of an earlier run that was cut off before it could do so itself."""
        if self._claim.cut_off is None or self._spec.checkpoint is None:
            return
        trees = self._claim.cut_off.glob("attempt-*/*")
        self._checkpoints.adopt(sorted(trees, key=lambda base: (natural_key(base.parent.name), natural_key(base.name))))

    def _submit_code(self, spec: JobSpec) -> JobSpec:
        """Pack the user's code as the SDK does, and name it in the request."""
        source = self._options.code or _code_of(spec)
        if source is None:
            return spec
        if source.is_file() and self._options.code is None:
            archive = source
        else:
            archive = self._work.directory / "source" / "sourcedir.tar.gz"
            outputs.pack_source(source, archive, (self._directory, RUNS.absolute()))
        hyperparameters = {**spec.hyperparameters, "sagemaker_submit_directory": self._engine.submit(archive)}
        return replace(spec, hyperparameters=hyperparameters)

    # --- the end ------------------------------------------------------------------------------------------------

    def _conclude(self, limit_status: str | None) -> None:
        """Write the last word of job.json; `limit_status` is the secondary status of a job that a limit has stopped."""
        record, directory = self.record, self._directory
        secondary = limit_status if record.status == "Stopped" and limit_status else record.status
        record.enter(secondary, record.failure_reason or "")
        record.final_metrics = self._metrics.final
        record.metrics |= {point.name: point.value for point in record.final_metrics}
        kept = self._work.bring_home() if record.status == "Failed" else None
        profiler = directory / "profiler"
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
            "work": str(kept) if kept is not None else None,
        }
        self._write_with_bill()
        record.paths["report"] = _report(directory)  # it reads job.json
        if kept is None:
            self._work.remove()
        self._write_with_bill()

    def _write_with_bill(self) -> None:
        self._chronicle.clock.enter("uploading")
        self.record.bill(spot=self._spec.spot, price=self._options.spot_price)
        self._chronicle.write()


def _tell_without_effect(keys: Mapping[str, str]) -> None:
    for path, reason in keys.items():
        if path.endswith("EnableInterContainerTrafficEncryption"):
            log.warning(f"{path} has no effect: {reason}")
    if keys:
        log.info(f"without effect on one machine: {', '.join(keys)} (reasons in job.json)")


def _code_of(spec: JobSpec) -> Path | None:
    """Return the archive or the directory of this machine that the request itself names as its code."""
    scheme, _, path = spec.hyperparameters.get("sagemaker_submit_directory", "").strip('"').partition("://")
    code = Path(path)
    # One that is not here is the image's own, or a mistake that the launcher explains.
    return code if scheme == "file" and code.is_absolute() and code.exists() else None


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


def _engine(options: RunOptions) -> Engine:
    if options.engine == "process":
        return ProcessEngine()
    from runtime.local.docker_engine import DockerEngine

    return DockerEngine(options.docker)


def _print_line(_host: str, line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)
