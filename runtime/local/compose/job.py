"""Runs the job of a compose file, with what ``SLIPWAY_RUN_FLAGS`` adds to it."""

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import cast

from runtime.base.env import Environ
from runtime.base.errors import UserError
from runtime.base.log import Log
from runtime.contract.job import DEFAULT_GROUP
from runtime.local.compose.file import Composition, read_composition
from runtime.local.compose.hosts import ComposeEngine
from runtime.local.flags import RunOptions, add_flags, read_flags
from runtime.local.request import CheckpointSpec, GroupSpec, TrainingJobSpec
from runtime.local.request.training import place
from runtime.local.runner import run_job
from runtime.local.summary import describe

log = Log("compose")

USED_FLAGS = {
    *("--checkpoints", "--checkpoint-sync", "--interrupt-after", "--interrupt-signal", "--max-run"),
    *("--network-isolation", "--output", "--shm-size", "--memory", "--fault", "--spot-wait"),
}
"""Flags of ``slipway run`` that say something about a job which an SDK describes."""
SUCCESS_OF_SDKS = 130
"""An exit code that both SDKs take for success, as if every Ctrl-C ended a job well."""


def run_flags(environ: Environ) -> tuple[RunOptions, TrainingJobSpec]:
    """Read ``SLIPWAY_RUN_FLAGS``.

    Returns:
        Options of the run, and a job of which only what the flags say is of interest.

    Raises:
        UserError: a flag says what the SDK says already.
    """
    words = shlex.split(environ.get("SLIPWAY_RUN_FLAGS", ""))
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in USED_FLAGS:
            raise UserError(
                f"SLIPWAY_RUN_FLAGS has {flag}", allowed=f"with an SDK it takes {', '.join(sorted(USED_FLAGS))}"
            )
    parser = argparse.ArgumentParser(prog="SLIPWAY_RUN_FLAGS")
    add_flags(parser)
    flags = parser.parse_args(["--engine=docker", *words])
    request, options = read_flags(flags, environ)
    store = cast("dict[str, str]", request.get("CheckpointConfig") or {}).get("S3Uri")
    stopping = cast("dict[str, float]", request.get("StoppingCondition") or {})
    spec = TrainingJobSpec(
        "flags",
        # The SDKs know no checkpoints in local mode: without a directory of the user's there are none.
        checkpoint=CheckpointSpec(place(store, "--checkpoints", "name a directory")) if store else None,
        max_run_s=stopping.get("MaxRuntimeInSeconds"),
        network_isolation=bool(request.get("EnableNetworkIsolation")),
    )
    return options, spec


def results_of(composition: Composition) -> Path:
    """Where logs and job.json go when no flag says otherwise: beside the compose file."""
    return composition.path.absolute().parent / "slipway" / composition.job


def up(path: Path, environ: Environ) -> int:
    """Run the hosts of a compose file to their end.

    Returns:
        Exit code of the first host that failed; 0 when all did well; 1 for a job that was stopped.
    """
    composition = read_composition(path, environ)
    options, flags = run_flags(environ)
    images = {service.image for service in composition.services}
    if len(images) > 1:
        raise UserError(f"The services of {path} have images {', '.join(sorted(images))}", allowed="a job has one")
    names = tuple(service.name for service in composition.services)
    spec = replace(
        flags,
        name=composition.job,
        image=images.pop(),
        groups=(GroupSpec(DEFAULT_GROUP, "local", len(names)),),
        names=names,
    )
    output = options.output or results_of(composition)
    width = max(len(name) for name in names)

    def show(host: str, line: str) -> None:
        print(f"{host.ljust(width)} | {line}", flush=True)

    engine = ComposeEngine(composition, options.docker)
    record = run_job(spec, replace(options, output=output, archives=False), engine, show)
    print(describe(record), flush=True)
    if record.status == "Completed":
        return 0
    code = record.exit_code or 1
    if code == SUCCESS_OF_SDKS:
        log.warning(f"exit code {code} is told as 1: the SDK would take it for success")
        return 1
    return code
