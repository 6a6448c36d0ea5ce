"""The files of a File channel that is not simply a directory: a host's shard, or what a manifest names."""

import os
from dataclasses import dataclass
from pathlib import Path

from runtime.base.errors import UserError
from runtime.local.inputs.content import list_items
from runtime.local.inputs.objects import Stores
from runtime.local.inputs.order import Share
from runtime.local.request import ChannelSpec


@dataclass(frozen=True)
class Files:
    """Files by name."""

    root: Path
    """A directory that holds them all."""
    names: tuple[tuple[str, str], ...]
    """Path in the channel, and path below `root`."""

    def of(self, share: Share) -> list[tuple[str, str]]:
        """Return what one host gets."""
        return [self.names[number] for number in share.of_epoch(len(self.names), 0)]


def files_of(channel: ChannelSpec) -> Files | None:
    """List the files of a channel that has to be put together file by file.

    Returns:
        None for a channel that is one directory or one file as it is.

    Raises:
        UserError: a manifest is malformed, or names a file that is not there or lies too far apart.
    """
    manifest = channel.data_type == "ManifestFile"
    if not manifest and (channel.distribution == "FullyReplicated" or channel.source.is_file()):
        return None
    items = list_items(str(channel.source), channel.data_type, Stores())
    if not manifest:
        return Files(channel.source, tuple((item.path, item.path) for item in items))
    if any(item.bucket for item in items):
        raise UserError(
            f"Channel {channel.name!r}: manifest {channel.source} is a file and names objects of S3",
            fix="put the manifest into S3 as well",
        )
    root = Path(os.path.commonpath([os.path.dirname(item.key) for item in items]))
    if root == Path(root.anchor):
        # All of this machine would be mounted into the containers.
        raise UserError(
            f"Channel {channel.name!r}: the files of manifest {channel.source} have no directory in common",
            fix="bring them below one directory",
        )
    return Files(root, tuple((item.path, os.path.relpath(item.key, root)) for item in items))


def share_of(channel: ChannelSpec, hosts: tuple[str, ...], host: str) -> Share:
    """Return which part of a channel a host gets on its disk, where every epoch finds the same."""
    return Share(hosts.index(host), len(hosts), channel.distribution == "ShardedByS3Key")
