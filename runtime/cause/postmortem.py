"""The record of a failure, beside its reason: enough to run the same failure again.

Written once, after the end, as ``/opt/ml/output/slipway/failure.json``; imported only then. Its reader is a person with
the job's request at hand, so it holds no value of a secret and no copy of the data.
"""

from __future__ import annotations

import os
import sys
import time

from runtime.base.errors import SlipwayError
from runtime.base.frozen import asdict
from runtime.base.jsontext import dumps, loads
from runtime.base.redact import is_secret, redact_values
from runtime.contract.job import read_job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.base.env import Environ
    from runtime.cause.outcome import Outcome
    from runtime.contract.job import Job
    from runtime.contract.paths import Paths

FORMAT = 1
FILE = "failure.json"
PACKAGES = ("torch", "numpy", "transformers", "accelerate", "deepspeed", "datasets")
"""Whose versions are told when they are installed; found by their metadata, never imported."""
SEED_NAMES = ("seed", "random_seed", "random_state", "data_seed")


def write_record(outcome: Outcome, paths: Paths, environ: Environ) -> None:
    """Write the record of a failed job; a place that cannot be written is said in the log.

    Args:
        outcome: with its cause.
        paths: of the job.
        environ: for the job's name only.
    """
    if outcome.cause is None:
        return
    record: dict[str, object] = {"format": FORMAT, "time": time.time(), "exit_code": outcome.exit_code}
    record |= {"reason": outcome.cause.text(), "cause": asdict(outcome.cause.short())}
    record["consequences"] = [asdict(other.short()) for other in outcome.consequences]
    record |= {"versions": versions(), "run": _run_of(outcome, paths)}
    try:
        record["job"] = describe(read_job(paths, environ))
    except SlipwayError:
        record["job"] = {}  # that it cannot be read is the cause, then
    target = f"{paths.state}/{FILE}"
    try:
        os.makedirs(paths.state, exist_ok=True)
        with open(os.open(f"{target}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(dumps(record) + "\n")
        os.rename(f"{target}.tmp", target)
    except OSError as error:
        from runtime.base.log import Log

        Log("outcome").warning(f"{target} cannot be written: {error.strerror}")


def describe(job: Job) -> dict[str, object]:
    """Return what identifies a job, and what it was given, secrets masked."""
    hyperparameters = dict(job.hyperparameters)
    seeds = {name: hyperparameters[name].strip('"') for name in SEED_NAMES if name in hyperparameters}
    return {
        "name": job.name,
        "arn": job.arn,
        "host": job.current_host,
        "hosts": [host.name for host in job.hosts],
        "digest": digest(job),
        "seed": seeds,
        "hyperparameters": redact_values(hyperparameters),
        "channels": {
            name: {"input_mode": channel.input_mode, "distribution": channel.distribution}
            for name, channel in job.channels.items()
        },
    }


def digest(job: Job) -> str:
    """Return a SHA-256 that is the same on every host of a job, and for every job that was given the same.

    Hyperparameters, channels and the shape of the cluster are in it; names of jobs and values of secrets are not.
    """
    import hashlib

    given = {name: "" if is_secret(name, value) else value for name, value in job.hyperparameters.items()}
    given.pop("sagemaker_job_name", None)
    channels = {name: [one.input_mode, one.distribution, one.content_type] for name, one in job.channels.items()}
    shape = [[host.group, host.instance_type] for host in job.hosts]
    text = dumps({"hyperparameters": given, "channels": channels, "hosts": shape}, compact=True, sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def versions() -> dict[str, str]:
    """Return the versions of Python, Slipway and the packages that matter, as installed."""
    from importlib.metadata import PackageNotFoundError, version

    from runtime.version import __version__

    found = {"python": ".".join(map(str, sys.version_info[:3])), "slipway": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _run_of(outcome: Outcome, paths: Paths) -> Mapping[str, object]:
    """Return how far the failing rank was, as it told itself; empty for a plain script and for another host's rank."""
    rank = outcome.cause.rank if outcome.cause is not None else None
    try:
        with open(f"{paths.state}/error-rank-{rank}.json", encoding="utf-8") as stream:
            record = loads(stream.read())
    except (OSError, ValueError):
        return {}
    run: object = record.get("run") if isinstance(record, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return run if isinstance(run, dict) else {}  # pyright: ignore[reportUnknownVariableType]
