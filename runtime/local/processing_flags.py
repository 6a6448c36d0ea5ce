"""The flags of ``slipway run`` for a CreateProcessingJob request."""

import argparse
from pathlib import Path
from typing import Any, cast

from runtime.base.env import Environ
from runtime.base.errors import UserError, did_you_mean
from runtime.local.changes import absolute, pair, section, variable

_TRAINING_ONLY = (
    *("entrypoint", "source_dir", "procs_per_host", "sample", "max_steps", "hp", "group"),
    *("interrupt_after", "checkpoints", "checkpoint_sync", "max_wait"),
)


def apply_to_processing(request: dict[str, Any], flags: argparse.Namespace, environ: Environ) -> None:
    """Write the flags into a CreateProcessingJob request; it keeps its own words where no flag speaks.

    Raises:
        UserError: a flag has no meaning for it.
    """
    for name in _TRAINING_ONLY:
        if getattr(flags, name):
            raise UserError(
                f"--{name.replace('_', '-')} with a CreateProcessingJob request",
                allowed="a processing job has its command, its inputs and its environment",
                fix="leave it out, or change the request",
            )
    if flags.env:
        section(request, "Environment").update(dict(variable(text, environ) for text in flags.env))
    if flags.image:
        section(request, "AppSpecification")["ImageUri"] = flags.image
    if flags.hosts is not None:
        section(section(request, "ProcessingResources"), "ClusterConfig")["InstanceCount"] = flags.hosts
    if flags.network_isolation:
        section(request, "NetworkConfig")["EnableNetworkIsolation"] = True
    if flags.max_run is not None:
        section(request, "StoppingCondition")["MaxRuntimeInSeconds"] = flags.max_run
    for text in flags.channel:
        _put_input(request, text)
    if flags.output:
        _put_outputs(request, absolute(flags.output) / "outputs")


def _put_outputs(request: dict[str, Any], home: Path) -> None:
    """Let all outputs go to directories: where the request would upload to is moot."""
    outputs: object = section(request, "ProcessingOutputConfig").get("Outputs") or []
    for output in cast("list[dict[str, Any]]", outputs):
        if isinstance(output.get("S3Output"), dict):
            output["S3Output"] = {**output["S3Output"], "S3Uri": str(home / str(output.get("OutputName")))}


def _put_input(request: dict[str, Any], text: str) -> None:
    name, path = pair(text, "--channel", "NAME=PATH")
    inputs = cast("list[dict[str, Any]]", request.get("ProcessingInputs") or [])
    names = [str(item.get("InputName")) for item in inputs]
    if name not in names:
        raise UserError(
            f"--channel {text}: the request has no input {name!r}",
            allowed=did_you_mean(name, names) or "it has no inputs",
            fix="add it to ProcessingInputs, with its LocalPath",
        )
    item = inputs[names.index(name)]
    uri = path if "://" in path else str(absolute(path))
    item["S3Input"] = {**cast("dict[str, Any]", item.get("S3Input") or {}), "S3Uri": uri}
