"""The mount of a job's channels, from the side of the run: its process is started, listened to, and ended."""

import contextlib
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
from runtime.local.environment import package_path
from runtime.local.inputs.mounts import check_fuse, detach, label
from runtime.local.request import ChannelSpec, JobSpec

log = Log("local")

READY_S = 600.0
"""For the mount to be there: it lists all objects first. A bound for a store that does not answer."""
END_S = 10.0
"""For the mount to go; what takes longer is killed."""


class Mount:
    """The process that serves the mounted channels of a job; see `runtime.local.inputs.fastfile`."""

    def __init__(self, spec: JobSpec, channels: Sequence[ChannelSpec], path: Path, *, other_users: bool) -> None:
        """Mount them.

        Args:
            spec: the job.
            channels: those to be mounted.
            path: where; below it comes a directory for each host, in it one for each channel.
            other_users: a Docker engine has to see it.

        Raises:
            UserError: this machine cannot, or a channel cannot be listed.
        """
        check_fuse(other_users=other_users)
        self.path = path
        self.modes = {channel.name: channel.input_mode for channel in channels}
        """Channel to its input mode."""
        self.counts: Mapping[str, Mapping[str, Mapping[str, int]]] = {}
        """Host to channel to `runtime.local.inputs.fastfile.Count`; known after `close`."""
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
                    "endpoint": channel.endpoint,
                    "sharded": channel.distribution == "ShardedByS3Key",
                    "hosts": spec.sharers(channel),
                }
                for channel in channels
            ],
        }
        self._write(told)

    def _write(self, fact: Mapping[str, object]) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        with contextlib.suppress(BrokenPipeError):  # it has ended; what it said says why
            self._process.stdin.write(json.dumps(fact) + "\n")
            self._process.stdin.flush()

    def keep_for(self, tree: Path) -> None:
        """Keep the mount for the processes of a host, should this process be killed before they have left.

        Args:
            tree: root of the host's tree.
        """
        self._write({"tree": str(tree)})

    def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        for line in self._process.stdout:
            try:
                fact = cast("dict[str, Any]", json.loads(line))
            except ValueError:
                self._errors.append(line.strip())  # of libfuse
                continue
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
        self._write({"end": True})
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
