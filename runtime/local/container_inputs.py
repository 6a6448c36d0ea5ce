"""The channels of a host that is a container: mounts of what is the user's own, links and copies in its tree."""

from pathlib import Path

from runtime.contract.paths import DEFAULT_BASE
from runtime.local.containers import Mount
from runtime.local.inputs.files import Files, files_of, share_of
from runtime.local.inputs.service import Inputs
from runtime.local.request import ChannelSpec, JobSpec
from runtime.local.tree import COPIED, copy_channel, inside_tree

CODE = f"{DEFAULT_BASE}/input/source/sourcedir.tar.gz"
"""Where a host finds the packed code that the service would fetch from S3."""
SHARDS = f"{DEFAULT_BASE}/input/shards"
"""Where the whole channel lies of which ``ShardedByS3Key`` gives a host some links."""


class ContainerInputs:
    """The inputs of all hosts of one attempt, the packed code among them."""

    def __init__(self, code: Path | None = None) -> None:
        """Nothing is served yet; `code` is the packed code that every host gets."""
        self._code = code
        self.service = Inputs()
        """Streams and mounts what does not lie on the disk."""
        self._files: dict[str, Files | None] = {}
        """Of every channel, as they were found for this attempt."""

    def mounts(self, spec: JobSpec, host: str) -> list[Mount]:
        """Mount what is the user's own, so that nothing can change it there; the rest lies in the tree."""
        mounts: list[Mount] = []
        if self._code is not None:
            mounts.append(Mount(self._code, CODE, read_only=True))
        for channel in spec.channels_of(host):
            inside = channel.target
            source = channel.source.resolve()
            if channel.name in COPIED or channel.streamed:
                continue
            if channel.mounted:
                mounts.append(Mount(self.service.path_of(host, channel), inside, read_only=True))
                continue
            files = self._files_of(channel)
            if files is not None:
                mounts.append(Mount(files.root.resolve(), f"{SHARDS}/{channel.name}", read_only=True))
            elif source.is_dir():
                mounts.append(Mount(source, inside, read_only=channel.read_only))
            elif channel.distribution == "FullyReplicated" or host == spec.sharers(channel)[0]:
                mounts.append(Mount(source, f"{inside}/{channel.source.name}", read_only=True))
        return mounts

    def lay_out(self, spec: JobSpec, host: str, base: Path) -> None:
        """Fill a host's tree: a place for every mount, so that nothing of it is made by root; links; copies."""
        for mount in self.mounts(spec, host):
            inside = inside_tree(base, mount.target)
            if mount.source.is_dir():
                inside.mkdir(parents=True, exist_ok=True)
            else:
                inside.parent.mkdir(parents=True, exist_ok=True)
                inside.touch()
        for channel in spec.channels_of(host):
            if not channel.on_disk:
                continue
            target = inside_tree(base, channel.target)
            files = self._files_of(channel)
            if files is not None:
                # Also where there are fewer files than hosts.
                target.mkdir(parents=True, exist_ok=True)
                for name, key in files.of(share_of(channel, spec.sharers(channel), host)):
                    link = target / name
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(Path(SHARDS, channel.name, key))
            elif channel.name in COPIED:
                copy_channel(channel.source, target)

    def _files_of(self, channel: ChannelSpec) -> Files | None:
        if channel.name not in self._files:
            self._files[channel.name] = files_of(channel)
        return self._files[channel.name]
