"""A CreateTrainingJob request, in the shape that boto3 sends, read into one frozen value. Pure.

Unknown keys are warned of, wrong shapes are errors that name the path of the key, and what this version of the
local platform cannot do is refused by name: a job that runs here must mean what it means on the service.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from runtime.base.errors import UserError, did_you_mean
from runtime.contract.job import DEFAULT_GROUP, DISTRIBUTIONS, INPUT_MODES

NAME_PATTERN = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
"""Of jobs and instance groups. Source: CreateTrainingJob API."""
CHANNEL_PATTERN = re.compile(r"[A-Za-z0-9.\-_]{1,64}")
MOST_HYPERPARAMETERS = 100
LONGEST_HYPERPARAMETER_VALUE = 2500
LONGEST_ENVIRONMENT_VALUE = 512
"""Limits of the CreateTrainingJob API: a request that breaks one would be refused there, after the upload."""
MOST_HOSTS = 200
"""Addresses of one loopback block; far above what one machine can run."""


@dataclass(frozen=True)
class ChannelSpec:
    """One entry of ``InputDataConfig``."""

    name: str
    source: Path
    """Absolute path of a directory, or of one file."""
    input_mode: str = "File"
    """One of `runtime.contract.job.INPUT_MODES`."""
    distribution: str = "FullyReplicated"
    """One of `runtime.contract.job.DISTRIBUTIONS`."""
    content_type: str = ""
    compression: str = ""
    """Empty when the request says nothing, then the service writes no key."""
    record_wrapper: str = "None"
    shared_file_system: bool = False
    """True for FSx and EFS: the channel appears as File and FullyReplicated."""
    groups: tuple[str, ...] = ()
    """Instance groups whose hosts get it; empty: all."""


@dataclass(frozen=True)
class GroupSpec:
    """One group of equal instances; a homogeneous cluster has one, named as the service names it."""

    name: str
    instance_type: str
    count: int
    """Hosts in the group; at least 1."""


@dataclass(frozen=True)
class MetricDefinition:
    """A metric that the service reads from the log."""

    name: str
    regex: str
    """Its first group is the value."""


@dataclass(frozen=True)
class CheckpointSpec:
    """``CheckpointConfig``."""

    store: Path | None
    """Where checkpoints outlive the containers; None: ``checkpoints`` in the output directory."""
    local_path: str = "/opt/ml/checkpoints"


@dataclass(frozen=True)
class TrainingJobSpec:
    """Everything that the local platform needs to know of a training job."""

    name: str
    hyperparameters: Mapping[str, str] = field(default_factory=dict[str, str])
    channels: tuple[ChannelSpec, ...] = ()
    groups: tuple[GroupSpec, ...] = (GroupSpec(DEFAULT_GROUP, "local", 1),)
    image: str = ""
    container_entrypoint: tuple[str, ...] = ()
    container_arguments: tuple[str, ...] = ()
    metric_definitions: tuple[MetricDefinition, ...] = ()
    max_run_s: float | None = None
    """``MaxRuntimeInSeconds``, over all attempts; None: no limit."""
    max_wait_s: float | None = None
    """``MaxWaitTimeInSeconds`` of a spot job; read, nothing waits here."""
    checkpoint: CheckpointSpec | None = None
    """None: nothing outlives a container, an interrupted job begins from scratch."""
    spot: bool = False
    network_isolation: bool = False
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    output: Path | None = None
    """Directory of ``OutputDataConfig.S3OutputPath``; the service puts ``<job name>/output`` below it."""
    names: tuple[str, ...] = ()
    """Names of all hosts where somebody else gave them, as local mode of SDK v2 does; empty: ``algo-N``."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of all hosts, numbered through the groups in the order of the request."""
        if self.names:
            return self.names
        return tuple(f"algo-{number}" for number in range(1, sum(group.count for group in self.groups) + 1))

    def hosts_of(self, group: GroupSpec) -> tuple[str, ...]:
        """Names of the hosts of one group."""
        before = sum(other.count for other in self.groups[: self.groups.index(group)])
        return self.hosts[before : before + group.count]

    def channels_of(self, host: str) -> tuple[ChannelSpec, ...]:
        """Channels that a host gets."""
        group = self.group_of(host).name
        return tuple(channel for channel in self.channels if not channel.groups or group in channel.groups)

    def sharers(self, channel: ChannelSpec) -> tuple[str, ...]:
        """Names of the hosts that get a channel: ``ShardedByS3Key`` divides it over them."""
        return tuple(host for host in self.hosts if channel in self.channels_of(host))

    def group_of(self, host: str) -> GroupSpec:
        """The group of a host."""
        return next(group for group in self.groups if host in self.hosts_of(group))


_WITHOUT_EFFECT = """
    Tags RoleArn VpcConfig EnableInterContainerTrafficEncryption DebugHookConfig DebugRuleConfigurations
    TensorBoardOutputConfig ExperimentConfig ProfilerConfig ProfilerRuleConfigurations RetryStrategy RemoteDebugConfig
    InfraCheckConfig SessionChainingConfig ServerlessJobConfig MlflowConfig ModelPackageConfig
"""
_KEYS = {
    "": """
        TrainingJobName HyperParameters AlgorithmSpecification InputDataConfig OutputDataConfig ResourceConfig
        StoppingCondition EnableNetworkIsolation EnableManagedSpotTraining CheckpointConfig Environment
    """
    + _WITHOUT_EFFECT,
    "AlgorithmSpecification": """
        TrainingImage AlgorithmName TrainingInputMode MetricDefinitions EnableSageMakerMetricsTimeSeries
        ContainerEntrypoint ContainerArguments TrainingImageConfig
    """,
    "MetricDefinitions": "Name Regex",
    "InputDataConfig": """
        ChannelName DataSource ContentType CompressionType RecordWrapperType InputMode ShuffleConfig
    """,
    "DataSource": "S3DataSource FileSystemDataSource DatasetSource",
    "S3DataSource": """
        S3DataType S3Uri S3DataDistributionType AttributeNames InstanceGroupNames ModelAccessConfig HubAccessConfig
    """,
    "FileSystemDataSource": "FileSystemId FileSystemAccessMode FileSystemType DirectoryPath",
    "OutputDataConfig": "S3OutputPath KmsKeyId CompressionType",
    "ResourceConfig": """
        InstanceType InstanceCount VolumeSizeInGB VolumeKmsKeyId KeepAlivePeriodInSeconds InstanceGroups
        TrainingPlanArn InstancePlacementConfig
    """,
    "InstanceGroups": "InstanceType InstanceCount InstanceGroupName",
    "StoppingCondition": "MaxRuntimeInSeconds MaxWaitTimeInSeconds MaxPendingTimeInSeconds",
    "CheckpointConfig": "S3Uri LocalPath",
}
KNOWN_KEYS: Mapping[str, frozenset[str]] = {kind: frozenset(words.split()) for kind, words in _KEYS.items()}
"""Keys of the API by the object that holds them. Source: botocore's model of CreateTrainingJob."""


class _Node:
    """One object of the request, with the path that leads to it, for error texts."""

    def __init__(self, value: object, path: str, kind: str, warnings: list[str]) -> None:
        if not isinstance(value, Mapping):
            raise _wrong(path or "the request", value, "an object")
        self.value = cast(Mapping[str, object], value)
        self.path = path
        self._warnings = warnings
        known = KNOWN_KEYS.get(kind, frozenset[str]())
        for key in self.value:
            if known and key not in known:
                guess = did_you_mean(key, sorted(known)).partition("Did you mean")
                hint = f" Did you mean{guess[2]}" if guess[2] else ""
                warnings.append(f"Unknown key {self.at(key)} is ignored.{hint}")

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def text(self, key: str, default: str | None = None, choices: Iterable[str] = ()) -> str:
        value = self.value.get(key, default)
        if value is None and key not in self.value:
            raise UserError(f"The request lacks {self.at(key)}", allowed="it is a string")
        if not isinstance(value, str):
            raise _wrong(self.at(key), value, "a string")
        if choices and value not in choices:
            raise UserError(f"{self.at(key)} is {value!r}", allowed=f"it is one of {', '.join(choices)}")
        return value

    def whole(self, key: str, default: int | None, least: int = 1) -> int:
        value = self.value.get(key, default)
        if value is None and key not in self.value:
            raise UserError(f"The request lacks {self.at(key)}", allowed=f"it is an integer of at least {least}")
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise _wrong(self.at(key), value, f"an integer of at least {least}")
        return value

    def seconds(self, key: str) -> float | None:
        value = self.value.get(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise _wrong(self.at(key), value, "a number of seconds above 0")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.value.get(key, False)
        if not isinstance(value, bool):
            raise _wrong(self.at(key), value, "true or false")
        return value

    def child(self, key: str) -> "_Node":
        return _Node(self.value.get(key, {}), self.at(key), key, self._warnings)

    def children(self, key: str) -> list["_Node"]:
        return [
            _Node(item, f"{self.at(key)}[{index}]", key, self._warnings) for index, item in enumerate(self._list(key))
        ]

    def texts(self, key: str) -> tuple[str, ...]:
        for index, item in enumerate(self._list(key)):
            if not isinstance(item, str):
                raise _wrong(f"{self.at(key)}[{index}]", item, "a string")
        return tuple(cast(list[str], self._list(key)))

    def strings(self, key: str, longest: int) -> dict[str, str]:
        node = self.child(key)
        for name, value in node.value.items():
            if not isinstance(value, str):
                raise _wrong(node.at(name), value, "a string, as the API wants them")
            if len(value) > longest:
                raise UserError(
                    f"{node.at(name)} has {len(value)} characters", allowed=f"the API takes at most {longest}"
                )
        return cast(dict[str, str], dict(node.value))

    def _list(self, key: str) -> list[object]:
        value = self.value.get(key, [])
        if not isinstance(value, list):
            raise _wrong(self.at(key), value, "a list")
        return cast(list[object], value)


def _wrong(path: str, value: object, wanted: str) -> UserError:
    return UserError(f"{path} is {value!r} ({type(value).__name__})", allowed=f"it is {wanted}")


def local_path(uri: str, where: str, fix: str = "copy it here and name its directory") -> Path:
    """Turn a ``file://`` URI or a plain path into an absolute path.

    Args:
        uri: as in the request.
        where: path of the key, for the error.
        fix: what to do about another scheme.

    Raises:
        UserError: another scheme; the path is not checked.
    """
    scheme, found, rest = uri.partition("://")
    if not found:
        rest = uri
    elif scheme != "file":
        raise UserError(f"{where} is {uri!r}", allowed="this version's local platform takes file:// only", fix=fix)
    if not rest:
        raise UserError(f"{where} is {uri!r}", allowed="it is file:// and a path, or a path")
    return Path(rest).expanduser().absolute()


def parse_request(request: object, engine: str = "process") -> tuple[TrainingJobSpec, list[str]]:
    """Read a request.

    Args:
        request: the decoded JSON.
        engine: ``process`` or ``docker``; one can do less than the other.

    Returns:
        The job, and warnings for the user.

    Raises:
        UserError: a key is missing or has the wrong shape, or asks for what this version cannot do.
    """
    warnings: list[str] = []
    root = _Node(request, "", "", warnings)
    if "ProcessingJobName" in root.value:
        raise UserError("The request is a CreateProcessingJob", allowed="this version runs training jobs only")
    name = root.text("TrainingJobName")
    if not NAME_PATTERN.fullmatch(name):
        raise UserError(
            f"TrainingJobName is {name!r}",
            allowed="the API takes 1 to 63 letters, digits and '-', no '-' at an end",
        )
    algorithm = root.child("AlgorithmSpecification")
    default_mode = algorithm.text("TrainingInputMode", "File", INPUT_MODES)
    stopping = root.child("StoppingCondition")
    hyperparameters = root.strings("HyperParameters", LONGEST_HYPERPARAMETER_VALUE)
    if len(hyperparameters) > MOST_HYPERPARAMETERS:
        raise UserError(
            f"HyperParameters has {len(hyperparameters)} entries",
            allowed=f"the API takes {MOST_HYPERPARAMETERS}",
        )
    spec = TrainingJobSpec(
        name=name,
        hyperparameters=hyperparameters,
        channels=_channels(root, default_mode),
        groups=_groups(root.child("ResourceConfig")),
        image=algorithm.text("TrainingImage", ""),
        container_entrypoint=algorithm.texts("ContainerEntrypoint"),
        container_arguments=algorithm.texts("ContainerArguments"),
        metric_definitions=_metrics(algorithm),
        max_run_s=stopping.seconds("MaxRuntimeInSeconds"),
        max_wait_s=stopping.seconds("MaxWaitTimeInSeconds"),
        checkpoint=_checkpoint(root, engine),
        spot=root.flag("EnableManagedSpotTraining"),
        network_isolation=root.flag("EnableNetworkIsolation"),
        environment=root.strings("Environment", LONGEST_ENVIRONMENT_VALUE),
        output=_output(root.child("OutputDataConfig")),
    )
    known = [group.name for group in spec.groups]
    for channel in spec.channels:
        for group in channel.groups:
            if group not in known:
                raise UserError(
                    f"Channel {channel.name!r} is for the instance group {group!r}",
                    allowed=f"ResourceConfig.InstanceGroups has {', '.join(known)}",
                )
    _refuse_what_is_missing(spec, engine)
    return spec, warnings


def _channels(root: _Node, default_mode: str) -> tuple[ChannelSpec, ...]:
    channels = tuple(_channel(node, default_mode) for node in root.children("InputDataConfig"))
    names = [channel.name for channel in channels]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"InputDataConfig names channel {name!r} {names.count(name)} times")
    return channels


def _channel(node: _Node, default_mode: str) -> ChannelSpec:
    name = node.text("ChannelName")
    if not CHANNEL_PATTERN.fullmatch(name):
        raise UserError(
            f"{node.at('ChannelName')} is {name!r}",
            allowed="the API takes 1 to 64 of letters, digits, '.', '-', '_'",
        )
    source = node.child("DataSource")
    shared = "FileSystemDataSource" in source.value
    if shared:
        system = source.child("FileSystemDataSource")
        uri, where, distribution = system.text("DirectoryPath"), system.at("DirectoryPath"), "FullyReplicated"
        groups = ()
    else:
        s3 = source.child("S3DataSource")
        groups = s3.texts("InstanceGroupNames")
        uri, where = s3.text("S3Uri"), s3.at("S3Uri")
        distribution = s3.text("S3DataDistributionType", "FullyReplicated", DISTRIBUTIONS)
        kind = s3.text("S3DataType", "S3Prefix", ("S3Prefix", "ManifestFile", "AugmentedManifestFile", "Converse"))
        if kind != "S3Prefix":
            raise UserError(
                f"{s3.at('S3DataType')} is {kind!r}",
                allowed="this version's local platform takes S3Prefix only",
            )
    path = local_path(uri, where, fix=f"copy it here and pass --channel {name}=DIRECTORY")
    if not path.exists():
        raise UserError(f"{where} is {uri!r}, and {path} is not there", fix=f"pass --channel {name}=DIRECTORY")
    return ChannelSpec(
        name=name,
        source=path,
        input_mode=node.text("InputMode", "File" if shared else default_mode, INPUT_MODES),
        distribution=distribution,
        content_type=node.text("ContentType", ""),
        compression=node.text("CompressionType", "", ("", "None", "Gzip")),
        record_wrapper=node.text("RecordWrapperType", "None", ("None", "RecordIO")),
        shared_file_system=shared,
        groups=groups,
    )


def _groups(resources: _Node) -> tuple[GroupSpec, ...]:
    groups = tuple(
        GroupSpec(
            node.text("InstanceGroupName"),
            node.text("InstanceType", "local"),
            node.whole("InstanceCount", None),
        )
        for node in resources.children("InstanceGroups")
    )
    if groups and "InstanceCount" in resources.value:
        raise UserError(
            f"{resources.path} has InstanceCount and InstanceGroups",
            allowed="the API takes one of them",
            fix="drop one",
        )
    if not groups:
        count = resources.whole("InstanceCount", 1)
        groups = (GroupSpec(DEFAULT_GROUP, resources.text("InstanceType", "local"), count),)
    names = [group.name for group in groups]
    for name in names:
        if not NAME_PATTERN.fullmatch(name) or names.count(name) > 1:
            raise UserError(
                f"{resources.at('InstanceGroups')} has a group {name!r}",
                allowed="each has a name of its own, of letters, digits and '-'",
            )
    total = sum(group.count for group in groups)
    if total > MOST_HOSTS:
        raise UserError(f"The request asks for {total} hosts", allowed=f"this machine can play at most {MOST_HOSTS}")
    return groups


def _metrics(algorithm: _Node) -> tuple[MetricDefinition, ...]:
    definitions = tuple(
        MetricDefinition(node.text("Name"), node.text("Regex")) for node in algorithm.children("MetricDefinitions")
    )
    for index, definition in enumerate(definitions):
        where = f"{algorithm.at('MetricDefinitions')}[{index}].Regex"
        try:
            groups = re.compile(definition.regex).groups
        except re.error as error:
            raise UserError(f"{where} is {definition.regex!r}, which is no regular expression: {error}") from error
        if groups < 1:
            raise UserError(f"{where} is {definition.regex!r}", allowed="its first group (...) is the value")
    return definitions


def _checkpoint(root: _Node, engine: str) -> CheckpointSpec | None:
    if "CheckpointConfig" not in root.value:
        return None
    node = root.child("CheckpointConfig")
    uri = node.text("S3Uri", "")
    store = local_path(uri, node.at("S3Uri"), fix="pass --checkpoints DIRECTORY") if uri else None
    local = node.text("LocalPath", "/opt/ml/checkpoints")
    if engine == "process" and not local.startswith("/opt/ml/"):
        # On the service it is a directory of the container; a process would write to this machine's own.
        raise UserError(
            f"{node.at('LocalPath')} is {local!r}",
            allowed="engine process can only move paths inside /opt/ml",
            fix="use --engine docker",
        )
    if not local.startswith("/"):
        raise UserError(f"{node.at('LocalPath')} is {local!r}", allowed="it is an absolute path")
    return CheckpointSpec(store, local)


def _output(node: _Node) -> Path | None:
    uri = node.text("S3OutputPath", "")
    return local_path(uri, node.at("S3OutputPath"), fix="pass --output DIRECTORY") if uri else None


def _refuse_what_is_missing(spec: TrainingJobSpec, engine: str) -> None:
    docker = engine == "docker"
    modes = ("File", "FastFile") if docker else ("File",)
    nowhere = [
        f"{channel.input_mode} mode (channel {channel.name!r})"
        for channel in spec.channels
        if channel.input_mode not in modes
    ]
    only_docker: list[str] = []
    if spec.network_isolation and not docker:
        only_docker.append("network isolation (EnableNetworkIsolation, --network-isolation)")
    if (spec.container_entrypoint or spec.container_arguments) and not docker:
        only_docker.append("another command than `train` (ContainerEntrypoint, ContainerArguments)")
    if nowhere:
        raise UserError(
            f"The request asks for {', '.join(nowhere)}",
            allowed=f"engine {engine} has {' and '.join(modes)} mode",
            fix="use File mode for the local run",
        )
    if only_docker:
        raise UserError(
            f"The request asks for {', '.join(only_docker)}",
            allowed="engine process cannot do it",
            fix="use --engine docker, or leave it out for the local run",
        )
