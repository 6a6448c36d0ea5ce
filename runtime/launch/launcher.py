"""The command ``train``: Job -> Plan -> processes -> Outcome, on one host. Standard library only."""

from __future__ import annotations

import gc
import os
import sys
import time

from runtime.base import env, log, redact
from runtime.base.errors import ExitCode, SlipwayError, Stopped
from runtime.contract.job import read_job
from runtime.contract.paths import Paths
from runtime.contract.settings import resolve
from runtime.install.provision import provision
from runtime.launch.preflight import check, warn
from runtime.launch.signals import Signals
from runtime.launch.starting import Started, clear_state, start_ranks
from runtime.planning.hardware import probe
from runtime.planning.plan import make_plan
from runtime.planning.program import find_program
from runtime.planning.toolkit import write_unfit
from runtime.planning.topology import parse_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.cause.outcome import Outcome
    from runtime.contract.job import Job
    from runtime.contract.settings import Settings
    from runtime.planning.plan import LaunchPlan
    from runtime.planning.program import Program

_log = log.Log("launch")


def prepare(paths: Paths, environ: env.Environ) -> tuple[Job, Settings, LaunchPlan]:
    """Read the job and plan its launch, changing nothing: what ``slipway plan`` shows.

    Raises:
        UserError: the job cannot run as it is described.
    """
    job = read_job(paths, environ)
    settings = resolve(job.hyperparameters, environ)
    return job, settings, _plan(job, settings, environ, find_program(job, settings, environ))


def _plan(job: Job, settings: Settings, environ: env.Environ, program: Program) -> LaunchPlan:
    addresses = parse_addresses(environ.get("SLIPWAY_HOST_ADDRESSES", ""))
    hardware = probe(environ, network=len(job.hosts) > 1)
    return make_plan(job, hardware, settings, program, environ, addresses)


def train(paths: Paths, environ: env.Environ, signals: Signals) -> Outcome:
    """Run one training job on this host, to its end.

    Every error becomes an Outcome; other hosts of the job are told of it.
    """
    job: Job | None = None
    settings: Settings | None = None
    started: Started | None = None
    began = time.monotonic()
    addresses = parse_addresses(environ.get("SLIPWAY_HOST_ADDRESSES", ""))
    try:
        # Before anything can fail: an earlier run's failure file would be taken for the script's own, and kept.
        for stale in (paths.success, paths.failure, paths.stopped, f"{paths.state}/failure.json"):
            if os.path.exists(stale):
                os.unlink(stale)
        redact.learn(environ)
        job = read_job(paths, environ)
        redact.learn(job.hyperparameters)
        log.configure(host=job.current_host)
        settings = resolve(job.hyperparameters, environ)
        log.configure(host=job.current_host, level=settings.log_level, as_json=settings.log_json)
        program = find_program(job, settings, environ)
        in_model = check(job)
        program = provision(program, job, settings, environ, signals.pause)
        plan = _plan(job, settings, environ, program)
        write_unfit(job, plan.unfit)
        clear_state(paths.state, plan.topology.nproc_per_host)
        if len(job.hosts) == 1 and not signals.stop_asked:
            # Nobody to wait for: all the rest is imported and said once the ranks are up.
            started = start_ranks(plan, {})
            started.let_run(signals.wake)
        gc.enable()  # the command `train` starts without
        from runtime.launch.supervisor import Supervisor

        supervisor = Supervisor(plan, settings, job, signals)
        warn(job, environ, in_model)
        for warning in plan.warnings:
            _log.warning(warning)
        return supervisor.run(addresses, started)
    except Stopped as stopped:
        from runtime.cause.outcome import Outcome

        return Outcome("stopped", step=stopped.step, reason=stopped.reason)
    except Exception as error:
        if not isinstance(error, SlipwayError):
            import traceback

            traceback.print_exc()
        if started is not None:
            started.kill()
        from runtime.cause.outcome import Outcome, cause_from_error

        cause = cause_from_error(error, job.current_host if job else "-")
        if job is not None and settings is not None and len(job.hosts) > 1:
            from runtime.launch.announce import announce_failure

            announce_failure(cause, job, settings, addresses, signals, time.monotonic() - began)
        return Outcome("failed", cause.exit_code, cause)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the executable ``train``; arguments are ignored, as the contract is in files.

    Returns:
        The exit code of the job: see `runtime.base.errors.ExitCode`.
    """
    del argv
    began = time.monotonic()
    signals = Signals()
    environ = env.process_environ()
    paths = Paths.from_environ(environ)
    outcome = train(paths, environ, signals)
    from runtime.cause.outcome import write_outcome

    write_outcome(outcome, paths)
    if outcome.cause is not None:
        from runtime.cause.postmortem import write_record

        write_record(outcome, paths, environ)
    seconds = f"{time.monotonic() - began:.1f} s"
    if outcome.cause is not None:
        for other in outcome.consequences:
            _log.info(f"also: {other.text()}")
        _log.error(f"failed after {seconds} with exit code {outcome.exit_code}: {outcome.cause.text()}")
    elif outcome.status == "stopped":
        _log.info(f"stopped after step {outcome.step}, {seconds}: {outcome.reason}")
    else:
        _log.info(f"completed in {seconds}")
    return outcome.exit_code if outcome.status == "failed" else int(ExitCode.COMPLETED)


if __name__ == "__main__":
    sys.exit(main())
