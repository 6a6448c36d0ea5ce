"""The job as the platform describes it, read once and checked before anything is started.

Reading is pure: it opens the contract's JSON files and changes nothing. Keys that old local modes leave out get the
default noted at the field.
"""

from __future__ import annotations

import os

from runtime.base.errors import UserError, did_you_mean
from runtime.base.frozen import cast, field, frozen
from runtime.base.jsontext import dumps, loads
from runtime.contract.paths import DEFAULT_BASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import TypeAlias

    from runtime.base.env import Environ
    from runtime.contract.paths import Paths

    JsonObject: TypeAlias = Mapping[str, object]

INPUT_MODES = ("File", "FastFile", "Pipe")
DISTRIBUTIONS = ("FullyReplicated", "ShardedByS3Key")
DEFAULT_GROUP = "homogeneousCluster"
"""Name of the only group when the platform names none. Source: sagemaker-training 5.1.4."""


@frozen
class Channel:
    """One named input of the job."""

    name: str
    directory: str
    """Directory of a File or FastFile channel; for Pipe, the prefix of its FIFOs."""
    input_mode: str = "File"
    """One of `INPUT_MODES`."""
    distribution: str = "FullyReplicated"
    """One of `DISTRIBUTIONS`; EFS and FSx channels appear as File and FullyReplicated."""
    content_type: str = ""
    record_wrapper: str = "None"
    """``None`` or ``RecordIO``."""
    compression: str = "None"
    """``None`` or ``Gzip``."""

    @property
    def path(self) -> Path:
        """`directory`, as scripts like it."""
        from pathlib import Path  # 9 ms that the launcher need not pay

        return Path(self.directory)


@frozen
class Host:
    """One container of the job."""

    name: str
    """Such as ``algo-1``, or ``algo-1-x7jf7`` in the SDK's local mode."""
    group: str = DEFAULT_GROUP
    instance_type: str = "local"


@frozen
class InstanceGroup:
    """A part of a heterogeneous cluster."""

    name: str
    instance_type: str
    hosts: tuple[str, ...]
    """In natural order; the platform writes them in any order."""


@frozen
class Job:
    """One training job, seen from one host."""

    paths: Paths
    name: str = "local"
    """``TRAINING_JOB_NAME``, else the hyperparameter ``sagemaker_job_name``, else ``local``."""
    arn: str = ""
    """``TRAINING_JOB_ARN``: the same after a restart, another one for another job; empty outside the service."""
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    """As the file holds them: JSON-encoded by the SDK's framework estimators, plain from everybody else."""
    channels: Mapping[str, Channel] = field(default_factory=dict)
    current_host: str = "algo-1"
    hosts: tuple[Host, ...] = (Host("algo-1"),)
    """All hosts of all groups, in natural order: algo-2 before algo-10."""
    groups: tuple[InstanceGroup, ...] = ()
    """Empty when the platform names none."""
    network_interface: str = ""
    """As the platform names it; nobody has checked that it exists."""
    capacity_units: Mapping[str, str] = field(default_factory=dict)
    """Host to UltraServer, within which hosts share NVLink; empty on every other instance type."""
    checkpoint_path: str | None = None
    """None: the job has no CheckpointConfig, so nothing outlives the container."""
    resource_config: JsonObject = field(default_factory=dict)
    """resourceconfig.json as it is, for ``SM_RESOURCE_CONFIG``; empty when there is none."""
    input_data_config: JsonObject = field(default_factory=dict)
    """inputdataconfig.json as it is, for ``SM_INPUT_DATA_CONFIG``; empty when there is none."""
    under_contract: bool = False
    """False for ``python train.py`` on a laptop: no contract tree was there."""

    @property
    def host(self) -> Host:
        """The host on which we are."""
        return next(host for host in self.hosts if host.name == self.current_host)

    def channel(self, name: str) -> Channel:
        """Return a channel by name.

        Raises:
            UserError: the job has no such channel (names the ones it has).
        """
        if name in self.channels:
            return self.channels[name]
        have = did_you_mean(name, self.channels) or "The job has no channels."
        raise UserError(
            f"Channel {name!r} is not in this job",
            allowed=have.replace("Choices:", "Channels:"),
            fix=f'add it to the job (Estimator.fit(inputs={{"{name}": ...}}), --channel {name}=PATH, or alone '
            f"on a laptop SM_CHANNEL_{name.upper()}=PATH), "
            "or ask for one that is there",
        )


def natural_key(host: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts algo-2 before algo-10 and accepts suffixes such as algo-1-x7jf7.

    >>> sorted(["algo-10", "algo-2", "algo-1-zz"], key=natural_key)
    ['algo-1-zz', 'algo-2', 'algo-10']
    """
    parts: list[str] = []
    for letter in host:
        if parts and parts[-1][-1].isdecimal() == letter.isdecimal():
            parts[-1] += letter
        else:
            parts.append(letter)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


def read_job(paths: Paths, environ: Environ) -> Job:
    """Read the contract's files, or describe a world of one where there are none.

    Args:
        paths: the tree to read.
        environ: for the job's name only.

    Raises:
        UserError: a file is unreadable or malformed, a host or channel is impossible.

    Source: "Amazon SageMaker AI Training Toolkit" and "How Amazon SageMaker AI Provides Training Information",
    developer guide.
    """
    if not os.path.isdir(paths.config):
        return Job(paths, name=environ.get("TRAINING_JOB_NAME") or "local", channels=_local_channels(paths))
    hyperparameters = _read_hyperparameters(f"{paths.config}/hyperparameters.json")
    resources = read_object(f"{paths.config}/resourceconfig.json", missing={})
    groups = _read_groups(resources, f"{paths.config}/resourceconfig.json")
    hosts, current = _read_hosts(resources, groups, f"{paths.config}/resourceconfig.json")
    checkpoint = read_object(f"{paths.config}/checkpointconfig.json", missing={})
    inputs = read_object(f"{paths.config}/inputdataconfig.json", missing={})
    return Job(
        paths=paths,
        name=environ.get("TRAINING_JOB_NAME") or hyperparameters.get("sagemaker_job_name", "").strip('"') or "local",
        arn=environ.get("TRAINING_JOB_ARN", ""),
        hyperparameters=hyperparameters,
        channels=_read_channels(inputs, paths),
        current_host=current,
        hosts=hosts,
        groups=groups,
        network_interface=str(resources.get("network_interface_name") or ""),
        capacity_units=_capacity_units(resources),
        checkpoint_path=_checkpoint_path(checkpoint, paths),
        resource_config=resources,
        input_data_config=inputs,
        under_contract=True,
    )


def _checkpoint_path(config: JsonObject, paths: Paths) -> str | None:
    if not config:
        return None
    local = os.path.normpath(str(config.get("LocalPath") or f"{DEFAULT_BASE}/checkpoints"))
    # A moved root moves the default with it; a path that the user chose elsewhere stays where it is.
    inside = local == DEFAULT_BASE or local.startswith(DEFAULT_BASE + "/")
    return paths.base + local.removeprefix(DEFAULT_BASE) if inside else local


def read_object(path: str, missing: JsonObject | None = None) -> JsonObject:
    """Read a JSON object; `missing` is returned for an absent file (None: absence is an error).

    Raises:
        UserError: the file cannot be read, or holds no JSON object.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise UserError(f"{path} is missing", fix="start the container through the platform or `slipway run`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", fix="check its owner, mode and encoding (UTF-8)") from error
    try:
        value: object = loads(text)
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON: {error}",
            fix="write it anew; `slipway run` writes the files that the service writes",
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {type(value).__name__}, not an object", fix='its text must begin with "{"')
    return cast("JsonObject", value)


def _read_hyperparameters(path: str) -> dict[str, str]:
    values = read_object(path, missing={})
    # The service writes strings only; a hand-written file may hold numbers, which lose nothing as JSON.
    return {key: value if isinstance(value, str) else dumps(value) for key, value in values.items()}


def _read_groups(resources: JsonObject, path: str) -> tuple[InstanceGroup, ...]:
    raw = cast(object, resources.get("instance_groups") or [])
    try:
        return tuple(
            InstanceGroup(
                name=str(group["instance_group_name"]),
                instance_type=str(group.get("instance_type", "")),
                hosts=tuple(sorted(cast(list[str], group["hosts"]), key=natural_key)),
            )
            for group in cast(list[dict[str, object]], raw)
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: 'instance_groups' is malformed ({type(error).__name__}: {error})",
            allowed="each group has 'instance_group_name', 'instance_type' and 'hosts'",
        ) from error


def _read_hosts(resources: JsonObject, groups: tuple[InstanceGroup, ...], path: str) -> tuple[tuple[Host, ...], str]:
    raw: object = resources.get("hosts", ["algo-1"])
    if not isinstance(raw, list) or not raw or not all(isinstance(host, str) for host in cast(list[object], raw)):
        raise UserError(f"{path}: 'hosts' is {raw!r}", allowed="it is a list of host names with at least one")
    names = sorted(set(cast(list[str], raw)), key=natural_key)
    current = resources.get("current_host", names[0] if len(names) == 1 else None)
    if not isinstance(current, str) or current not in names:
        raise UserError(
            f"{path}: 'current_host' is {current!r}, which is not in 'hosts'",
            allowed=f"hosts: {', '.join(names)}",
            fix="current_host names this container as one of the hosts",
        )
    home = {host: group for group in groups for host in group.hosts}
    local_type = str(resources.get("current_instance_type") or "local")
    hosts = tuple(
        Host(name, home[name].name, home[name].instance_type)
        if name in home
        else Host(name, str(resources.get("current_group_name") or DEFAULT_GROUP), local_type)
        for name in names
    )
    return hosts, current


def _capacity_units(resources: JsonObject) -> dict[str, str]:
    """Read ``topology``; it only orders the ranks, so that a form we do not know is no reason to stop a job."""
    entries = resources.get("topology")
    units: dict[str, str] = {}
    for entry in cast("list[object]", entries) if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            host, unit = (cast("JsonObject", entry).get(key) for key in ("hostName", "capacityUnitId"))
            if isinstance(host, str) and isinstance(unit, str) and unit:
                units[host] = unit
    return units


def _read_channels(inputs: JsonObject, paths: Paths) -> dict[str, Channel]:
    path = f"{paths.config}/inputdataconfig.json"
    channels: dict[str, Channel] = {}
    for name, raw in sorted(inputs.items()):
        if not isinstance(raw, dict):
            raise UserError(f"{path}: channel {name!r} is {raw!r}", allowed="each channel is an object")
        value = cast("JsonObject", raw)

        def choice(key: str, default: str, choices: tuple[str, ...], of: JsonObject = value, name: str = name) -> str:
            given = str(of.get(key) or default)
            if given not in choices:
                raise UserError(
                    f"{path}: channel {name!r} has {key} {given!r}",
                    allowed=f"{key} is one of {', '.join(choices)}",
                )
            return given

        channels[name] = Channel(
            name=name,
            directory=f"{paths.data}/{name}",
            input_mode=choice("TrainingInputMode", "File", INPUT_MODES),
            distribution=choice("S3DistributionType", "FullyReplicated", DISTRIBUTIONS),
            content_type=str(value.get("ContentType") or ""),
            record_wrapper=choice("RecordWrapperType", "None", ("None", "RecordIO")),
            compression=choice("CompressionType", "None", ("None", "Gzip")),
        )
    return channels


def _local_channels(paths: Paths) -> dict[str, Channel]:
    """Without a contract tree, every directory under input/data is a File channel."""
    try:
        with os.scandir(paths.data) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return {}
    return {name: Channel(name, f"{paths.data}/{name}") for name in names}
