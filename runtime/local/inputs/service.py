"""The feeders and the mount of one attempt of a job: made before its hosts, gone after them."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.base.log import Log
from runtime.contract.paths import Paths
from runtime.local.inputs.objects import Stores
from runtime.local.inputs.order import Share
from runtime.local.record import InputRecord
from runtime.local.request import ChannelSpec, JobSpec

if TYPE_CHECKING:
    from runtime.local.inputs.mount import Mount
    from runtime.local.inputs.pipe import PipeFeeder
    from runtime.local.inputs.stream import PipeContent

log = Log("local")

END_S = 10.0
"""For all feeders to end; they do at once, but for a store that does not answer."""


class Inputs:
    """What streams and mounts of one attempt; used once, and closed whatever happens."""

    def __init__(self) -> None:
        """Nothing is made."""
        self._mount: Mount | None = None
        self._feeders: list[tuple[str, PipeFeeder]] = []
        self._contents: dict[str, PipeContent] = {}
        self.delivered: list[InputRecord] = []
        """Known after `close`."""

    def mount(self, spec: JobSpec, directory: Path, *, other_users: bool) -> None:
        """Mount the FastFile channels of all hosts.

        Args:
            spec: the job.
            directory: output directory of the run; the mount lies in it until `close`.
            other_users: a Docker engine has to see it.

        Raises:
            UserError: this machine cannot, or a channel cannot be listed.
        """
        channels = [channel for channel in spec.channels if channel.mounted]
        if channels:
            # Most jobs have none, and every start would pay for the import.
            from runtime.local.inputs.mount import Mount

            self._mount = Mount(spec, channels, directory / ".mount", other_users=other_users)

    def path_of(self, host: str, channel: ChannelSpec) -> Path:
        """Return where a FastFile channel of a host lies on this machine."""
        assert self._mount is not None  # noqa: S101 - `mount` comes first
        return self._mount.path / host / channel.name

    def keep_for(self, base: Path) -> None:
        """Keep the mount for a host that is processes, should this process be killed before they have left."""
        if self._mount is not None:
            self._mount.keep_for(base)

    def feed(self, spec: JobSpec, host: str, base: Path) -> None:
        """Make the first FIFOs of a host's Pipe channels, and wait for their readers.

        Args:
            spec: the job.
            host: one of its hosts.
            base: root of its tree.

        Raises:
            UserError: a channel cannot be listed.
        """
        for channel in spec.channels_of(host):
            if channel.streamed:
                self._feed(spec, host, base, channel)

    def _feed(self, spec: JobSpec, host: str, base: Path, channel: ChannelSpec) -> None:
        from runtime.local.inputs.pipe import PipeFeeder
        from runtime.local.inputs.stream import PipeContent, PipeStream, source_of

        if channel.name not in self._contents:
            stores = Stores(channel.latency_s, channel.bytes_per_s, channel.endpoint)
            self._contents[channel.name] = PipeContent(source_of(channel), stores)
            if channel.attributes and channel.record_wrapper != "RecordIO":
                log.warning(
                    f"channel {channel.name!r} is an augmented manifest without RecordIO: its stream has no borders, "
                    "as on the service"
                )
        hosts = spec.sharers(channel)
        sharded = channel.distribution == "ShardedByS3Key"
        share = Share(hosts.index(host), len(hosts), sharded, channel.shuffle_seed)
        stream = PipeStream(self._contents[channel.name], share)
        feeder = PipeFeeder(channel.name, Path(Paths(str(base)).data), stream.epoch, lambda: stream.objects)
        feeder.start()
        self._feeders.append((host, feeder))

    def check(self) -> None:
        """Raise what keeps the channels from being read.

        Raises:
            UserError: the data of a Pipe channel cannot be read.
            PlatformError: the FastFile mount is gone.
        """
        if self._mount is not None:
            self._mount.check()
        for _, feeder in self._feeders:
            feeder.check()

    def close(self) -> None:
        """End all that streams and mounts; does nothing the second time."""
        feeders, self._feeders = self._feeders, []
        for _, feeder in feeders:
            feeder.tell()
        deadline = time.monotonic() + END_S
        for _, feeder in feeders:
            feeder.stop(max(0.0, deadline - time.monotonic()))
        self.delivered += [InputRecord(host, feeder.channel, "Pipe", feeder.epochs) for host, feeder in feeders]
        for content in self._contents.values():
            content.close()
        self._contents.clear()
        mount, self._mount = self._mount, None
        if mount is not None:
            mount.close()
            self.delivered += [
                InputRecord(host, name, mount.modes[name], mount=dict(counts))
                for host, channels in mount.counts.items()
                for name, counts in channels.items()
            ]
