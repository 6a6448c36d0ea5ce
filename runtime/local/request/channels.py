"""The inputs of a training job: ``InputDataConfig``. Pure but for one look whether the data is there."""

import re
from pathlib import Path

from runtime.base.errors import UserError
from runtime.contract.job import DISTRIBUTIONS, INPUT_MODES
from runtime.local.request.modes import S3_DATA_TYPES, attributes_of, check_channels
from runtime.local.request.node import Node, local_path
from runtime.local.request.spec import NOWHERE, ChannelSpec
from runtime.local.s3 import S3Uri, is_s3, parse_s3_uri

CHANNEL_PATTERN = re.compile(r"[A-Za-z0-9.\-_]{1,64}")
MOST_CHANNELS = 20


def read_channels(root: Node, default_mode: str) -> tuple[ChannelSpec, ...]:
    """Read ``InputDataConfig``.

    Args:
        root: the request.
        default_mode: ``TrainingInputMode`` of the algorithm, for channels that say nothing.

    Raises:
        UserError: it names the key.
    """
    channels = tuple(_channel(node, default_mode) for node in root.children("InputDataConfig"))
    if len(channels) > MOST_CHANNELS:
        raise UserError(f"InputDataConfig has {len(channels)} channels", allowed=f"the API takes {MOST_CHANNELS}")
    names = [channel.name for channel in channels]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"InputDataConfig names channel {name!r} {names.count(name)} times")
    check_channels(channels)
    return channels


def _channel(node: Node, default_mode: str) -> ChannelSpec:
    name = node.text("ChannelName")
    if not CHANNEL_PATTERN.fullmatch(name):
        raise UserError(
            f"{node.at('ChannelName')} is {name!r}",
            allowed="the API takes 1 to 64 of letters, digits, '.', '-', '_'",
        )
    source = node.child("DataSource")
    if "DatasetSource" in source.value:
        raise UserError(
            f"{source.at('DatasetSource')}: datasets of the service's catalogue are not here",
            fix=f"copy it here and pass --channel {name}=DIRECTORY",
        )
    shared = "FileSystemDataSource" in source.value
    data_type, attributes, read_only = "S3Prefix", (), True
    if shared:
        system = source.child("FileSystemDataSource")
        distribution, groups = "FullyReplicated", ()
        read_only = system.text("FileSystemAccessMode", "ro", ("ro", "rw")) == "ro"
        system.text("FileSystemType", "EFS", ("EFS", "FSxLustre"))
        path, remote = _there(system.text("DirectoryPath"), system.at("DirectoryPath"), name), None
    else:
        s3 = source.child("S3DataSource")
        groups = s3.texts("InstanceGroupNames")
        distribution = s3.text("S3DataDistributionType", "FullyReplicated", DISTRIBUTIONS)
        data_type = s3.text("S3DataType", "S3Prefix", S3_DATA_TYPES)
        attributes = attributes_of(s3, data_type)
        path, remote = source_of(s3, name, S3_DATA_TYPES, ("S3Prefix", "ManifestFile", "AugmentedManifestFile"))
    shuffle = node.child("ShuffleConfig")
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
        remote=remote,
        data_type=data_type,
        attributes=attributes,
        shuffle_seed=shuffle.whole("Seed", None, least=-(2**63)) if shuffle.value else None,
        read_only=read_only,
    )


def source_of(
    s3: Node, name: str, kinds: tuple[str, ...], here: tuple[str, ...] = ("S3Prefix",)
) -> tuple[Path, S3Uri | None]:
    """Find the data of an ``S3DataSource`` or an ``S3Input``.

    Args:
        s3: the object with ``S3Uri`` and ``S3DataType``.
        name: of the channel.
        kinds: what the API takes as ``S3DataType``.
        here: what of that this version can do.

    Returns:
        `ChannelSpec.source` and `ChannelSpec.remote`.

    Raises:
        UserError: it is not there, or of a kind that this version cannot do.
    """
    kind = s3.text("S3DataType", "S3Prefix", kinds)
    if kind not in here:
        raise UserError(
            f"{s3.at('S3DataType')} is {kind!r}", allowed=f"this version's local platform takes {', '.join(here)}"
        )
    uri, where = s3.text("S3Uri"), s3.at("S3Uri")
    if is_s3(uri):
        return NOWHERE, parse_s3_uri(uri, where)
    return _there(uri, where, name), None


def _there(uri: str, where: str, name: str) -> Path:
    path = local_path(uri, where, fix=f"copy it here and pass --channel {name}=DIRECTORY")
    if not path.exists():
        raise UserError(f"{where} is {uri!r}, and {path} is not there", fix=f"pass --channel {name}=DIRECTORY")
    return path
