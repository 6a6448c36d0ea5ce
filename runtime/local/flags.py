"""The flags of ``slipway run``: they build the same request that a REQUEST.json holds, or change one."""

import argparse
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from runtime.base.env import Environ
from runtime.base.errors import UserError, did_you_mean
from runtime.local.changes import absolute, pair, section, variable
from runtime.local.channel_flag import OPTIONS, Limits, put_channel, put_file_systems
from runtime.local.checkpoints.plan import SyncPlan, parse_sync
from runtime.local.docker_options import DockerOptions
from runtime.local.interruption import Interruption, parse_interruption
from runtime.local.processing_flags import apply_to_processing
from runtime.local.request import NAME_PATTERN, is_processing
from runtime.local.s3 import is_s3
from runtime.planning.program import workloads

if TYPE_CHECKING:
    from runtime.testing.s3_faults import S3Faults

RUNS = Path("slipway-runs")
"""Home of the output directories of jobs that name none."""
ENGINES = ("process", "docker")
SETTING_FLAGS = {
    "procs_per_host": "slipway_procs_per_host",
    "sample": "slipway_sample",
    "max_steps": "slipway_max_steps",
}


@dataclass(frozen=True)
class RunOptions:
    """What concerns this run and not the job."""

    output: Path | None = None
    """None: below ``OutputDataConfig.S3OutputPath``, or `RUNS`."""
    interruptions: tuple[Interruption, ...] = ()
    """One per attempt, in this order."""
    as_json: bool = False
    """Print job.json at the end and nothing else."""
    code: Path | None = None
    """File or directory to submit as the job's code; None: the request names its own."""
    sample: int | None = None
    """Samples of every channel that are used; None: all, and no projection."""
    engine: str = "process"
    """One of `ENGINES`."""
    docker: DockerOptions = field(default_factory=DockerOptions)
    """Of engine docker."""
    sync: SyncPlan = field(default_factory=SyncPlan)
    """How the agents behave that sync checkpoints."""
    s3_faults: "S3Faults | None" = None
    """What happens to requests to S3; None: nothing."""
    faults: tuple[str, ...] = ()
    """See `runtime.testing.faults.plan`."""
    spot_wait_s: float = 0.0
    """How long capacity is away after each interruption."""
    spot_price: float = 1.0
    """Of a spot instance, as a fraction of the price on demand; 1: only waits are saved."""
    limits: Mapping[str, Limits] = field(default_factory=dict[str, Limits])
    """How slow the reads of each channel are."""
    archives: bool = True
    """Whether ``model.tar.gz`` and ``output.tar.gz`` are made; an SDK that runs the job makes its own."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    add(
        "request",
        nargs="?",
        metavar="REQUEST.json",
        help="a CreateTrainingJob or CreateProcessingJob request, as boto3 sends it",
    )
    add("--image", help="image to run; engine process runs this machine's Python instead and says so")
    add(
        "--engine",
        default="process",
        choices=ENGINES,
        help="hosts are processes of this Python, or containers of --image (default process)",
    )
    add("--hosts", type=_count, metavar="N", help="containers of the job (default 1)")
    add("--procs-per-host", metavar="N", help="ranks per host (default auto)")
    add(
        "--entrypoint",
        metavar="NAME|FILE.py",
        help="one of our workloads, or your script: only this file is submitted",
    )
    add("--source-dir", metavar="DIR", help="submit this directory; FILE.py is a path inside it")
    add(
        "--channel",
        action="append",
        default=[],
        metavar="NAME=PATH[,KEY=VALUE...]",
        help="data of a channel: a directory, a file or s3://...; then "
        + ", ".join(f"{key}= {what}" for key, what in OPTIONS.items()),
    )
    add(
        "--file-system",
        action="append",
        default=[],
        metavar="ID=DIR",
        help="directory that plays the EFS or FSx file system ID of the request (repeatable)",
    )
    add(
        "--sample",
        type=_count,
        metavar="N",
        help="use N samples of each channel, and project the full run's time",
    )
    add("--max-steps", type=_count, metavar="N", help="end after N steps")
    add("--hp", action="append", default=[], metavar="KEY=VALUE", help="hyperparameter (repeatable)")
    add(
        "--env",
        action="append",
        default=[],
        metavar="KEY[=VALUE]",
        help="container's environment; KEY alone: as here",
    )
    add(
        "--group",
        action="append",
        default=[],
        metavar="NAME=HOSTS",
        help="instance group, instead of --hosts (repeatable)",
    )
    add(
        "--interrupt-after",
        action="append",
        default=[],
        metavar="step:N|Ns",
        help="interrupt and restart (repeatable)",
    )
    add(
        "--interrupt-signal",
        default="TERM",
        choices=("TERM", "KILL"),
        help="how (default TERM, 120 s to leave)",
    )
    add(
        "--fault",
        action="append",
        default=[],
        metavar="VERB:HOST[=VALUE][@step:N|@Ns][+Ns]",
        help="kill, freeze, disconnect, drop, latency, loss, full-disk, slow-disk, random=SEED/COUNT (repeatable)",
    )
    add("--spot-wait", type=_seconds, default=0.0, metavar="S", help="seconds without capacity after an interruption")
    add(
        "--spot-price",
        type=_percent,
        default=1.0,
        metavar="P%",
        help="price of a spot instance in percent of the price on demand, for the savings (default 100%%)",
    )
    add("--max-wait", type=_seconds, metavar="S", help="spot job: seconds of waits and attempts together")
    add("--max-run", type=_seconds, metavar="S", help="seconds after which the job is stopped")
    add("--network-isolation", action="store_true", help="hosts reach each other only (engine docker)")
    add("--shm-size", type=_size, metavar="SIZE", help="shared memory of a host, such as 2g (engine docker)")
    add("--memory", type=_size, metavar="SIZE", help="memory limit of a host, such as 8g (engine docker)")
    add(
        "--checkpoints",
        metavar="DIR|s3://...",
        help="where checkpoints are kept and found (default: in the output directory)",
    )
    add(
        "--checkpoint-sync",
        metavar="SETTINGS",
        help="how badly they are synced: lag=30s, rate=50m, order=small-first, stop-after=FILES, die-at=step:N|Ns",
    )
    add(
        "--s3-faults",
        metavar="SETTINGS",
        help="make S3 slow or failing: latency=200ms~50ms, bandwidth=10m, slow-down=5%%, reset=2%%, truncate=1%%",
    )
    add("--output", metavar="DIR", help="where everything goes (default ./slipway-runs/<job name>)")
    add("--json", action="store_true", help="print job.json at the end and nothing else")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?", text.lower())
    size = int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " ")) if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of at least 1 byte, such as 512m or 2g")
    return size


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage above 0 and up to 100")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text.removesuffix("s"))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def read_flags(flags: argparse.Namespace, environ: Environ) -> tuple[dict[str, Any], RunOptions]:
    """Turn parsed flags into a request and the options of this run.

    Args:
        flags: of `add_flags`.
        environ: for ``--env KEY`` without a value.

    Raises:
        UserError: a flag is malformed, or asks for what this version cannot do.
    """
    if flags.engine == "process" and (flags.shm_size or flags.memory):
        raise UserError("--shm-size and --memory limit containers", fix="add --engine docker, or leave them out")
    code, hyperparameters = _program(flags)
    request: dict[str, Any] = {"CheckpointConfig": {}} if flags.request is None else _load(Path(flags.request))
    limits = _apply(request, flags, hyperparameters, environ)
    output = absolute(flags.output) if flags.output else None
    name = "ProcessingJobName" if is_processing(request) else "TrainingJobName"
    request.setdefault(name, _job_name(output, flags.entrypoint))
    interruptions = tuple(parse_interruption(text, flags.interrupt_signal) for text in flags.interrupt_after)
    docker = DockerOptions(flags.shm_size, flags.memory)
    sync = parse_sync(flags.checkpoint_sync) if flags.checkpoint_sync else SyncPlan()
    options = RunOptions(
        output=output,
        interruptions=interruptions,
        as_json=flags.json,
        code=code,
        sample=flags.sample,
        engine=flags.engine,
        docker=docker,
        sync=sync,
        s3_faults=_s3_faults(flags.s3_faults),
        faults=tuple(flags.fault),
        spot_wait_s=flags.spot_wait,
        spot_price=flags.spot_price,
        limits=limits,
    )
    return request, options


def _s3_faults(text: str | None) -> "S3Faults | None":
    if text is None:
        return None
    from runtime.testing.s3_faults import parse_s3_faults  # its HTTP server costs 20 ms, wanted by few

    return parse_s3_faults(text)


def _load(path: Path) -> dict[str, Any]:
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Request {path} cannot be read: {error.strerror}", fix="name a JSON file") from error
    except ValueError as error:
        raise UserError(f"Request {path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"Request {path} holds {type(value).__name__}", allowed="a request is a JSON object")
    return cast(dict[str, Any], value)


def _program(flags: argparse.Namespace) -> tuple[Path | None, dict[str, str]]:
    """Decide what ``--entrypoint`` names: a file to submit, or a workload of ours."""
    name: str | None = flags.entrypoint
    if name is None:
        if flags.source_dir:
            raise UserError("--source-dir without --entrypoint", fix="add --entrypoint FILE.py, a path inside it")
        return None, {}
    if flags.source_dir:
        root = absolute(flags.source_dir)
        if not (root / name).is_file():
            raise UserError(f"--entrypoint {name} is not in --source-dir {root}", fix="name a file inside it")
        return root, {"sagemaker_program": name}
    path = absolute(name)
    if name not in workloads() and path.is_file():
        return path, {"sagemaker_program": path.name}
    if name.endswith((".py", ".sh")) or "/" in name:
        raise UserError(f"--entrypoint {name}: {path} is not there", fix="name a script, or one of our workloads")
    if name not in workloads():
        raise UserError(
            f"--entrypoint {name} is neither a file nor one of our workloads",
            allowed=did_you_mean(name, workloads()) or "this installation has no workloads",
        )
    return None, {"slipway_entrypoint": name}


def _apply(
    request: dict[str, Any], flags: argparse.Namespace, program: Mapping[str, str], environ: Environ
) -> dict[str, Limits]:
    """Write the flags into the request; it keeps its own words where no flag speaks. Returns limits of channels."""
    if is_processing(request):
        apply_to_processing(request, flags, environ)
        return {}
    _apply_hyperparameters(section(request, "HyperParameters"), flags, program)
    if flags.env:
        section(request, "Environment").update(dict(variable(text, environ) for text in flags.env))
    if flags.image:
        section(request, "AlgorithmSpecification")["TrainingImage"] = flags.image
    if flags.hosts is not None or flags.group:
        _apply_hosts(section(request, "ResourceConfig"), flags)
    if flags.network_isolation:
        request["EnableNetworkIsolation"] = True
    if flags.max_run is not None:
        section(request, "StoppingCondition")["MaxRuntimeInSeconds"] = flags.max_run
    if flags.checkpoints:
        place = flags.checkpoints if is_s3(flags.checkpoints) else str(absolute(flags.checkpoints))
        section(request, "CheckpointConfig")["S3Uri"] = place
    if flags.output:
        # Where the request would upload to is moot, and may be an s3:// that we could not use.
        request.pop("OutputDataConfig", None)
    limits = dict(put_channel(request, text) for text in flags.channel)
    put_file_systems(request, flags.file_system)
    return limits


def _apply_hyperparameters(
    hyperparameters: dict[str, Any], flags: argparse.Namespace, program: Mapping[str, str]
) -> None:
    if program:
        for name in ("sagemaker_program", "sagemaker_submit_directory", "slipway_entrypoint"):
            hyperparameters.pop(name, None)
    hyperparameters.update(program)
    for flag, name in SETTING_FLAGS.items():
        if getattr(flags, flag) is not None:
            hyperparameters[name] = str(getattr(flags, flag))
    hyperparameters.update(dict(pair(text, "--hp") for text in flags.hp))


def _apply_hosts(resources: dict[str, Any], flags: argparse.Namespace) -> None:
    if flags.hosts is not None:
        other = f"--group {flags.group[0]}" if flags.group else "ResourceConfig.InstanceGroups"
        if flags.group or "InstanceGroups" in resources:
            raise UserError(f"--hosts {flags.hosts} meets {other}", fix="keep one of them")
        resources["InstanceCount"] = flags.hosts
        return
    groups: list[dict[str, Any]] = []
    for text in flags.group:
        name, count = pair(text, "--group", "NAME=HOSTS")
        if not count.isdigit() or int(count) < 1:
            raise UserError(f"--group {text}: {count!r} hosts", allowed="it is an integer of at least 1")
        groups.append({"InstanceGroupName": name, "InstanceType": "local", "InstanceCount": int(count)})
    for key in ("InstanceCount", "InstanceType"):
        resources.pop(key, None)
    resources["InstanceGroups"] = groups


def _job_name(output: Path | None, entrypoint: str | None) -> str:
    """Name a job whose request names none.

    An output directory that was asked for names it, so that the same command line means the same job; else
    the program and the time do, as in the SDK.
    """
    if output is not None:
        name = re.sub(r"[^a-zA-Z0-9]+", "-", output.name).strip("-")[:63].strip("-")
        if NAME_PATTERN.fullmatch(name):
            return name
    base = re.sub(r"[^a-zA-Z0-9]+", "-", Path(entrypoint or "job").stem).strip("-")[:39].strip("-") or "job"
    now = time.time()
    return f"{base}-{time.strftime('%Y-%m-%d-%H-%M-%S', time.gmtime(now))}-{int(now * 1000) % 1000:03d}"
