"""What the local platform needs to know of a job: frozen values, made of a request or of a client's files. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.contract.job import DEFAULT_GROUP
from runtime.contract.paths import DEFAULT_BASE
from runtime.local.s3.uri import S3Uri

NOWHERE = Path("/nonexistent")
"""Source of a channel in S3 that is not here yet."""


@dataclass(frozen=True)
class ChannelSpec:
    """One input: an entry of ``InputDataConfig`` or of ``ProcessingInputs``."""

    name: str
    source: Path
    """Absolute path of a directory, or of one file; `NOWHERE` before `remote` is here."""
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
    local_path: str = ""
    """Where a processing job has it; empty: ``/opt/ml/input/data/<name>``, as training jobs have all."""
    remote: S3Uri | None = None
    """Where it lies in S3; None: on this machine."""
    data_type: str = "S3Prefix"
    """What `uri` names: ``S3Prefix``, ``ManifestFile`` or ``AugmentedManifestFile``."""
    attributes: tuple[str, ...] = ()
    """``AttributeNames`` of an augmented manifest, in the order of the stream."""
    shuffle_seed: int | None = None
    """``ShuffleConfig.Seed``; None: the order of the keys."""
    read_only: bool = True
    """False for a file system with ``FileSystemAccessMode`` rw."""
    latency_s: float = 0.0
    """Seconds that every read of a stream or a mount waits."""
    bytes_per_s: float | None = None
    """Of every read of a stream or a mount; None: no limit."""
    endpoint: str = ""
    """Where a stream or a mount finds S3; empty: where the environment says."""

    @property
    def target(self) -> str:
        """Absolute path in a container."""
        return self.local_path or f"{DEFAULT_BASE}/input/data/{self.name}"

    @property
    def uri(self) -> str:
        """Where the data, or the manifest, lies: ``s3://...`` or a path of this machine."""
        return str(self.remote or self.source)

    @property
    def slow(self) -> bool:
        """Whether reads are slowed down."""
        return bool(self.latency_s or self.bytes_per_s)

    @property
    def mounted(self) -> bool:
        """Whether a file system of ours shows it."""
        return self.input_mode == "FastFile" or (self.shared_file_system and self.slow)

    @property
    def streamed(self) -> bool:
        """Whether it comes through FIFOs."""
        return self.input_mode == "Pipe"

    @property
    def on_disk(self) -> bool:
        """Whether all of it lies on the disk before the job starts; else it is read from where it is."""
        return not (self.streamed or self.mounted)


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

    store: Path | S3Uri | None
    """Where checkpoints outlive the containers; None: ``checkpoints`` in the output directory."""
    local_path: str = "/opt/ml/checkpoints"


@dataclass(frozen=True)
class JobSpec:
    """What every job has, whatever it is for: all that an engine of hosts needs to know."""

    name: str
    hyperparameters: Mapping[str, str] = field(default_factory=dict[str, str])
    channels: tuple[ChannelSpec, ...] = ()
    groups: tuple[GroupSpec, ...] = (GroupSpec(DEFAULT_GROUP, "local", 1),)
    image: str = ""
    container_entrypoint: tuple[str, ...] = ()
    container_arguments: tuple[str, ...] = ()
    max_run_s: float | None = None
    """``MaxRuntimeInSeconds``, over all attempts; None: no limit."""
    checkpoint: CheckpointSpec | None = None
    """None: nothing outlives a container, an interrupted job begins from scratch."""
    max_wait_s: float | None = None
    """``MaxWaitTimeInSeconds`` of a spot job: waits for capacity and attempts together; None: no limit."""
    retries: int = 0
    """``MaximumRetryAttempts``: how often the job is started again after a host was lost."""
    spot: bool = False
    network_isolation: bool = False
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    names: tuple[str, ...] = ()
    """Names of all hosts where somebody else gave them, as local mode of SDK v2 does; empty: ``algo-N``."""
    without_effect: Mapping[str, str] = field(default_factory=dict[str, str])
    """Path of every key of the request that does nothing on one machine, to the reason."""

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


@dataclass(frozen=True)
class TrainingJobSpec(JobSpec):
    """A training job."""

    metric_definitions: tuple[MetricDefinition, ...] = ()
    config_files: Mapping[str, object] = field(default_factory=dict[str, object])
    """Further files of ``/opt/ml/input/config``, see `runtime.local.request.files`."""
    packed_model: bool = True
    """``OutputDataConfig.CompressionType`` GZIP; NONE: the model's files go as they are to ``output/model/``."""
    output: Path | S3Uri | None = None
    """``OutputDataConfig.S3OutputPath``; the service puts ``<job name>/output`` below it."""


@dataclass(frozen=True)
class OutputSpec:
    """One entry of ``ProcessingOutputConfig.Outputs``."""

    name: str
    local_path: str
    """Absolute path of a directory in a container; empty: the job brings its results away itself."""
    target: Path | S3Uri | None = None
    """Where the files of all hosts go; None when `local_path` is empty."""
    continuous: bool = False
    """``S3UploadMode`` Continuous: files are taken while the job runs, and also when it fails."""


@dataclass(frozen=True)
class ProcessingJobSpec(JobSpec):
    """A processing job; its inputs are `channels` that lie where the request says."""

    outputs: tuple[OutputSpec, ...] = ()
    request: Mapping[str, object] = field(default_factory=dict[str, object])
    """As it was sent: the containers get it as processingjobconfig.json."""
