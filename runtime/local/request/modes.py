"""What the API allows of input modes, manifests, wrapping and file systems, and what would collide here. Pure.

Source: Channel and S3DataSource, CreateTrainingJob API.
"""

from runtime.base.errors import UserError
from runtime.local.request.node import Node
from runtime.local.request.spec import ChannelSpec

S3_DATA_TYPES = ("S3Prefix", "ManifestFile", "AugmentedManifestFile", "Converse")
MOST_ATTRIBUTES = 16


def attributes_of(s3: Node, data_type: str) -> tuple[str, ...]:
    """Read ``AttributeNames``, which an augmented manifest needs and nothing else has.

    Raises:
        UserError: they are missing, or too many, or of no use.
    """
    names, where = s3.texts("AttributeNames"), s3.at("AttributeNames")
    augmented = data_type == "AugmentedManifestFile"
    if augmented and not 1 <= len(names) <= MOST_ATTRIBUTES:
        raise UserError(
            f"{where} has {len(names)} names",
            allowed=f"an AugmentedManifestFile needs 1 to {MOST_ATTRIBUTES}, in the order of the stream",
            fix="add them: --channel NAME=FILE,attributes=image-ref:class",
        )
    if names and not augmented:
        raise UserError(
            f"{where} is {', '.join(names)}, and S3DataType is {data_type}",
            allowed="only an AugmentedManifestFile has attributes",
        )
    return names


def check_channels(channels: tuple[ChannelSpec, ...]) -> None:
    """Refuse what the API refuses, and what would collide.

    Raises:
        UserError: it names the channel and what is allowed.
    """
    for channel in channels:
        _check(channel)
    names = {channel.name: channel for channel in channels}
    for channel in channels:
        stem, _, epoch = channel.name.rpartition("_")
        other = names.get(stem)
        if epoch.isdigit() and other is not None and other.input_mode == "Pipe":
            raise UserError(
                f"Channel {channel.name!r} lies where channel {stem!r} has its FIFO of epoch {epoch}",
                fix="rename one of them",
            )


def _check(channel: ChannelSpec) -> None:
    name, mode = channel.name, channel.input_mode
    if channel.shared_file_system and mode != "File":
        raise UserError(
            f"Channel {name!r} is a file system, with InputMode {mode}", allowed="EFS and FSx are mounted: File"
        )
    for key, value in (("CompressionType", channel.compression), ("RecordWrapperType", channel.record_wrapper)):
        if mode != "Pipe" and value not in ("", "None"):
            raise UserError(
                f"Channel {name!r} has {key} {value} in {mode} mode",
                allowed=f"the service uses {key} in Pipe mode only; in {mode} mode it is None",
                fix="use Pipe mode, or leave it out",
            )
    if channel.data_type == "AugmentedManifestFile":
        if mode != "Pipe":
            raise UserError(
                f"Channel {name!r} is an AugmentedManifestFile in {mode} mode",
                allowed="the service takes augmented manifests in Pipe mode only",
                fix="use Pipe mode and RecordWrapperType RecordIO",
            )
        if channel.compression == "Gzip":
            raise UserError(
                f"Channel {name!r} is an AugmentedManifestFile with CompressionType Gzip",
                allowed="what the service makes of that is not documented",
                fix="leave the compression out",
            )
    if channel.data_type != "S3Prefix" and channel.remote is None and channel.source.is_dir():
        raise UserError(
            f"Channel {name!r}: {channel.source} is a directory", allowed=f"a {channel.data_type} is one file"
        )
    if channel.remote is not None and channel.data_type != "S3Prefix" and channel.remote.key[-1:] in ("", "/"):
        raise UserError(f"Channel {name!r}: {channel.remote} is a prefix", allowed=f"a {channel.data_type} is one key")


def check_limits(channel: ChannelSpec) -> None:
    """Refuse latency and bandwidth where nothing of ours reads.

    Raises:
        UserError: it names the channel and what is allowed.
    """
    if not channel.slow:
        return
    if channel.input_mode == "File" and not (channel.shared_file_system and channel.read_only):
        kind = "a file system that may be written to" if channel.shared_file_system else "a File channel"
        raise UserError(
            f"Channel {channel.name!r} has latency or bandwidth, and is {kind}",
            allowed="they slow down FastFile, Pipe and read-only file systems (access=ro)",
        )
