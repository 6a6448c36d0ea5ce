"""Writes the ``/opt/ml`` tree of one host, file by file as the service writes it.

Channel data is linked or mounted, not copied: a run on real data starts at once and takes no room.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from runtime.contract.paths import DEFAULT_BASE, Paths
from runtime.local.inputs.files import files_of, share_of
from runtime.local.request import ChannelSpec, JobSpec, ProcessingJobSpec, TrainingJobSpec, describe_processing

COPIED = ("code", "entrypoint", "sm_drivers")
"""Inputs of the SDKs that their scripts write into: small, copied, and never the user's own files."""


def write_tree(spec: JobSpec, host: str, base: Path, interface: str = "lo", arn: str = "") -> None:
    """Make the tree, all but the data of the channels.

    Args:
        spec: the job.
        host: whose tree this is, one of ``spec.hosts``.
        base: root that stands for ``/opt/ml``; made here, must not exist yet.
        interface: ``network_interface_name``; processes of one machine meet on the loopback interface.
        arn: of the job.
    """
    paths = Paths(str(base))
    base.mkdir(parents=True)
    if isinstance(spec, ProcessingJobSpec):
        _write_processing_tree(spec, host, base, arn)
        return
    for directory in (
        Path(paths.config),
        Path(paths.data),
        Path(paths.code),
        Path(paths.model),
        Path(paths.output_data),
    ):
        directory.mkdir(parents=True)
    metrics = spec.metric_definitions if isinstance(spec, TrainingJobSpec) else ()
    files: dict[str, object] = {
        "hyperparameters.json": dict(spec.hyperparameters),
        "inputdataconfig.json": {channel.name: describe_channel(channel) for channel in spec.channels_of(host)},
        "resourceconfig.json": describe_resources(spec, host, interface),
        "metric-definition-regex.json": {item.name: item.regex for item in metrics},
    }
    if isinstance(spec, TrainingJobSpec):
        files |= spec.config_files
        job = cast("Mapping[str, object]", spec.config_files.get("trainingjobconfig.json") or {})
        files["trainingjobconfig.json"] = {**job, "TrainingJobName": spec.name, "TrainingJobArn": arn}
    if spec.checkpoint is not None:
        files["checkpointconfig.json"] = {"LocalPath": spec.checkpoint.local_path}
        checkpoint_directory(spec, base).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (Path(paths.config) / name).write_text(json.dumps(content), encoding="utf-8")


def _write_processing_tree(spec: ProcessingJobSpec, host: str, base: Path, arn: str) -> None:
    """Write what a processing job finds; its resourceconfig.json is short. Source: the developer guide."""
    config = base / "config"
    config.mkdir()
    (base / "output").mkdir()
    (base / "processing").mkdir()
    for output in spec.outputs:
        if output.local_path:
            inside_tree(base, output.local_path).mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("processingjobconfig.json", describe_processing(spec, arn)),
        ("resourceconfig.json", {"current_host": host, "hosts": sorted(spec.hosts)}),
    ):
        (config / name).write_text(json.dumps(content), encoding="utf-8")


def homes(spec: JobSpec) -> tuple[str, ...]:
    """Name the directories of a container that are a host's own, each the root of a part of its tree.

    Returns:
        Absolute paths; see `inside_tree` for where they lie.
    """
    if isinstance(spec, ProcessingJobSpec):
        fixed = [f"{DEFAULT_BASE}/{name}" for name in ("config", "processing", "output")]
        others = [output.local_path for output in spec.outputs if output.local_path]
        return (*fixed, *(path for path in others if not any(path.startswith(f"{home}/") for home in fixed)))
    return tuple(f"{DEFAULT_BASE}/{name}" for name in ("input", "model", "output"))


def link_channels(spec: JobSpec, host: str, base: Path, mounted: Callable[[str, ChannelSpec], Path]) -> None:
    """Put links to the data of all channels into a host's tree; FIFOs are somebody else's work.

    Args:
        spec: the job.
        host: one of its hosts.
        base: root of its tree.
        mounted: tells where a mounted channel of a host lies.
    """
    for channel in spec.channels_of(host):
        target = inside_tree(base, channel.target)
        if isinstance(spec, ProcessingJobSpec) and channel.name in COPIED:
            copy_channel(channel.source, target)
        elif channel.mounted:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(mounted(host, channel), target_is_directory=True)
        elif not channel.streamed:
            link_channel(channel, target, spec.sharers(channel), host)


def inside_tree(base: Path, path: str) -> Path:
    """Return where a path of a container lies in a host's tree; what is not below ``/opt/ml`` is put apart."""
    if Path(path).is_relative_to(DEFAULT_BASE):
        return base / Path(path).relative_to(DEFAULT_BASE)
    return base / "elsewhere" / path.lstrip("/")


def directory_of(spec: JobSpec, base: Path, path: str) -> Path | None:
    """Return where a directory of a container lies in a host's tree; None when it is none of the host's own."""
    if spec.checkpoint is not None:
        local = spec.checkpoint.local_path
        if path == local or path.startswith(f"{local}/"):
            return checkpoint_directory(spec, base) / path.removeprefix(local).lstrip("/")
    written = [home for home in homes(spec) if not home.endswith(("/input", "/config"))]
    inside = any(path == home or path.startswith(f"{home}/") for home in written)
    return inside_tree(base, path) if inside else None


def checkpoint_directory(spec: JobSpec, base: Path) -> Path:
    """Return where a host keeps its checkpoints: ``LocalPath`` below the moved root."""
    local = spec.checkpoint.local_path if spec.checkpoint is not None else f"{DEFAULT_BASE}/checkpoints"
    if not local.startswith(f"{DEFAULT_BASE}/"):
        return base / "checkpoints"  # of a container, which has it mounted elsewhere
    return base / Path(local).relative_to(DEFAULT_BASE)


def describe_channel(channel: ChannelSpec) -> dict[str, str]:
    """Return the channel's entry of inputdataconfig.json."""
    entry = {
        "TrainingInputMode": channel.input_mode,
        "S3DistributionType": channel.distribution,
        "RecordWrapperType": channel.record_wrapper,
    }
    if channel.content_type:
        entry["ContentType"] = channel.content_type
    if channel.compression:
        entry["CompressionType"] = channel.compression
    return entry


def describe_resources(spec: JobSpec, host: str, interface: str) -> dict[str, object]:
    """Return resourceconfig.json, its hosts in the service's order: algo-10 before algo-2."""
    group = spec.group_of(host)
    return {
        "current_host": host,
        "current_instance_type": group.instance_type,
        "current_group_name": group.name,
        "hosts": sorted(spec.hosts),
        "instance_groups": [
            {
                "instance_group_name": group.name,
                "instance_type": group.instance_type,
                "hosts": sorted(spec.hosts_of(group)),
            }
            for group in spec.groups
        ],
        "network_interface_name": interface,
    }


def open_to_all(base: Path) -> None:
    """Let any user write to a tree that was just made: an image may run as another one than us."""
    for parent, directories, names in os.walk(base):
        os.chmod(parent, 0o777)  # noqa: S103 - it lies in a directory of the user's own
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o666)
        directories[:] = [name for name in directories if not Path(parent, name).is_symlink()]


def link_channel(channel: ChannelSpec, target: Path, hosts: tuple[str, ...], host: str) -> None:
    """Put a channel's data, or this host's share of it, where the job finds it.

    Args:
        channel: that is neither streamed nor mounted.
        target: where the job finds it.
        hosts: that share it.
        host: one of them.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    files = files_of(channel)
    if files is not None:
        target.mkdir()
        for name, key in files.of(share_of(channel, hosts, host)):
            link = target / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(files.root / key)
    elif channel.source.is_dir():
        target.symlink_to(channel.source, target_is_directory=True)
    else:
        target.mkdir()
        if channel.distribution == "FullyReplicated" or host == hosts[0]:
            (target / channel.source.name).symlink_to(channel.source)


def copy_channel(source: Path, target: Path) -> None:
    """Copy a file or a directory to where the job finds it, and may write to it."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target / source.name)
