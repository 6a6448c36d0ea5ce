"""The feeders and the mount of one attempt of a job: made before its hosts, gone after them."""

import contextlib
import functools
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from runtime.base.env import process_environ
from runtime.base.errors import PlatformError, UserError
from runtime.base.log import Log
from runtime.contract.paths import Paths
from runtime.local.environment import package_path
from runtime.local.inputs.mounts import check_fuse, detach, label
from runtime.local.inputs.objects import Stores
from runtime.local.inputs.order import Share
from runtime.local.inputs.pipe import PipeFeeder
from runtime.local.inputs.stream import PipeContent, PipeSource, PipeStream
from runtime.local.record import InputRecord
from runtime.local.request import ChannelSpec, JobSpec

log = Log("local")

READY_S = 600.0
"""For the mount to be there: it lists all objects first. A bound for a store that does not answer."""
END_S = 10.0
"""For the mount to go; what takes longer is killed."""


def stores_of(channel: ChannelSpec) -> Stores:
    """Return the stores of a channel, as slow as it was asked for."""
    return Stores(channel.latency_s, channel.bytes_per_s)


class _Mount:
    """The process that serves the FastFile channels."""

    def __init__(self, spec: JobSpec, channels: Sequence[ChannelSpec], path: Path, *, other_users: bool) -> None:
        check_fuse(other_users=other_users)
        self.path = path
        self.modes = {channel.name: channel.input_mode for channel in channels}
        self.counts: Mapping[str, Mapping[str, Mapping[str, int]]] = {}
        detach(str(path))  # of a run that was killed together with its mount
        path.mkdir(parents=True, exist_ok=True)
        here = process_environ()
        package = os.pathsep.join(part for part in (package_path(), here.get("PYTHONPATH", "")) if part)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "runtime.local.inputs.fastfile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C is ours to handle
            env={**here, **({"PYTHONPATH": package} if package else {})},
        )
        self._told: queue.Queue[str | None] = queue.Queue()
        """None: it serves. Else why it does not."""
        self._errors: list[str] = []
        self._threads = [
            threading.Thread(target=target, name="fastfile", daemon=True) for target in (self._listen, self._gather)
        ]
        for thread in self._threads:
            thread.start()
        self._tell(spec, channels, other_users=other_users)
        try:
            failure = self._told.get(timeout=READY_S)
        except queue.Empty:
            failure = f"it is not there after {READY_S:g} s"
        if failure is not None:
            self.close()
            raise UserError(f"FastFile: {failure}")

    def _tell(self, spec: JobSpec, channels: Sequence[ChannelSpec], *, other_users: bool) -> None:
        told = {
            "mountpoint": str(self.path),
            "label": label(),
            "allow_other": other_users,
            "channels": [
                {
                    "name": channel.name,
                    "uri": channel.uri,
                    "data_type": channel.data_type,
                    "latency_s": channel.latency_s,
                    "bytes_per_s": channel.bytes_per_s,
                    "sharded": channel.distribution == "ShardedByS3Key",
                    "hosts": spec.sharers(channel),
                }
                for channel in channels
            ],
        }
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        with contextlib.suppress(BrokenPipeError):  # it has ended; what it said says why
            self._process.stdin.write(json.dumps(told) + "\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        for line in self._process.stdout:
            fact = cast("dict[str, Any]", json.loads(line))
            if "ready" in fact:
                self._told.put(None)
            elif "error" in fact:
                self._told.put(str(fact["error"]))
            elif "warning" in fact:
                log.warning(str(fact["warning"]))
            elif "counts" in fact:
                self.counts = fact["counts"]
        self._threads[1].join()
        self._told.put("; ".join(self._errors[-3:]) or f"the mount ended with exit code {self._process.wait()}")

    def _gather(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - it was asked for
        self._errors += [line.strip() for line in self._process.stderr if line.strip()]

    def check(self) -> None:
        """See that it is still there.

        Raises:
            PlatformError: it is not.
        """
        code = self._process.poll()
        if code is not None:
            raise PlatformError(f"The FastFile mount ended with exit code {code}: the channels cannot be read any more")

    def close(self) -> None:
        """Unmount, and see the process go."""
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            log.warning(f"the FastFile mount is still in use {END_S:g} s after the end: it is taken away")
            self._process.kill()
            self._process.wait()
        if not detach(str(self.path)):
            log.warning(f"{self.path} is still mounted: `slipway clean` tries again")
        for thread in self._threads:
            thread.join(END_S)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        with contextlib.suppress(OSError):
            self.path.rmdir()


class Inputs:
    """What streams and mounts of one attempt; used once, and closed whatever happens."""

    def __init__(self) -> None:
        """Nothing is made."""
        self._mount: _Mount | None = None
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
            self._mount = _Mount(spec, channels, directory / ".mount", other_users=other_users)

    def path_of(self, host: str, channel: ChannelSpec) -> Path:
        """Return where a FastFile channel of a host lies on this machine."""
        assert self._mount is not None  # noqa: S101 - `mount` comes first
        return self._mount.path / host / channel.name

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
            if not channel.streamed:
                continue
            if channel.name not in self._contents:
                self._contents[channel.name] = PipeContent(_source_of(channel), stores_of(channel))
            hosts = spec.sharers(channel)
            sharded = channel.distribution == "ShardedByS3Key"
            share = Share(hosts.index(host), len(hosts), sharded, channel.shuffle_seed)
            stream = PipeStream(self._contents[channel.name], share)
            feeder = PipeFeeder(
                channel.name, Path(Paths(str(base)).data), stream.epoch, functools.partial(getattr, stream, "objects")
            )
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
            feeder.stop()
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


def _source_of(channel: ChannelSpec) -> PipeSource:
    return PipeSource(
        uri=channel.uri,
        data_type=channel.data_type,
        attributes=channel.attributes,
        recordio=channel.record_wrapper == "RecordIO",
        gzip=channel.compression == "Gzip",
    )
