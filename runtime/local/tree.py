"""Writes the ``/opt/ml`` tree of one host, file by file as the service writes it.

Channel data is linked or mounted, not copied: a run on real data starts at once and takes no room.
"""

import json
import os
import shutil
from pathlib import Path

from runtime.contract.paths import DEFAULT_BASE, Paths
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


def link_channels(spec: JobSpec, host: str, base: Path) -> None:
    """Put links to the data of all channels into a host's tree."""
    for channel in spec.channels_of(host):
        if isinstance(spec, ProcessingJobSpec) and channel.name in COPIED:
            copy_channel(channel.source, inside_tree(base, channel.target))
            continue
        hosts = spec.sharers(channel)
        link_channel(channel, inside_tree(base, channel.target), hosts.index(host), len(hosts))


def inside_tree(base: Path, path: str) -> Path:
    """Return where a path of a container lies in a host's tree; what is not below ``/opt/ml`` is put apart."""
    if Path(path).is_relative_to(DEFAULT_BASE):
        return base / Path(path).relative_to(DEFAULT_BASE)
    return base / "elsewhere" / path.lstrip("/")


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


def keys_of(source: Path) -> list[str]:
    """List the files below a directory as S3 would: relative keys in the order of their UTF-8 bytes."""
    found: list[str] = []
    for directory, _, names in os.walk(source, followlinks=True):
        inside = Path(directory).relative_to(source)
        found += [(inside / name).as_posix() for name in names]
    return sorted(found, key=str.encode)


def share_of(keys: list[str], host_index: int, num_hosts: int) -> list[str]:
    """Return one host's share under ShardedByS3Key.

    The service promises no more than about 1/n of the objects for each host; we deal sorted keys out in turn, so
    that every host gets a share of every class of a tree by labels.
    """
    return keys[host_index::num_hosts]


def link_channel(channel: ChannelSpec, target: Path, host_index: int, num_hosts: int) -> None:
    """Put a channel's data, or this host's share of it, where the job finds it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if channel.source.is_file():
        target.mkdir()
        if channel.distribution == "FullyReplicated" or host_index == 0:
            (target / channel.source.name).symlink_to(channel.source)
        return
    if channel.distribution == "FullyReplicated":
        target.symlink_to(channel.source, target_is_directory=True)
        return
    target.mkdir()
    for key in share_of(keys_of(channel.source), host_index, num_hosts):
        link = target / key
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(channel.source / key)


def copy_channel(source: Path, target: Path) -> None:
    """Copy a file or a directory to where the job finds it, and may write to it."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target / source.name)
