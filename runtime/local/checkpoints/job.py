"""The checkpoints of one job: restored to all hosts, synced while they run, saved from runs that were cut off."""

import errno
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from runtime.base.log import Log
from runtime.contract.paths import Paths
from runtime.local.attempt import last_step_in
from runtime.local.checkpoints.agent import SyncAgent, SyncReport, adopt, restore
from runtime.local.checkpoints.plan import SyncPlan
from runtime.local.checkpoints.stores import CheckpointStore, DirectoryStore, S3Store
from runtime.local.links import Rooms, rooms_of
from runtime.local.request import JobSpec
from runtime.local.s3.client import S3Client
from runtime.local.s3.uri import S3Uri
from runtime.local.tree import checkpoint_directory, open_to_all

log = Log("local")


class JobCheckpoints:
    """What outlives the containers of a job; does nothing for a job without ``CheckpointConfig``."""

    def __init__(self, spec: JobSpec, home: Path, client: Callable[[], S3Client], plan: SyncPlan) -> None:
        """Find the store; nothing is read yet.

        Args:
            spec: the job.
            home: where checkpoints are kept when the request names no place.
            client: connects to S3, when the request names a place there.
            plan: how the agents of the first attempt behave; later ones are healthy.
        """
        self._spec = spec
        self._plan = plan
        self._agents: list[SyncAgent] = []
        self._store: CheckpointStore | None = None
        if spec.checkpoint is not None:
            place = spec.checkpoint.store or home
            self._store = S3Store(client(), place) if isinstance(place, S3Uri) else DirectoryStore(place)

    @property
    def uri(self) -> str | None:
        """Where they are kept; None: nowhere."""
        return self._store.uri if self._store is not None else None

    def adopt(self, trees: Iterable[Path]) -> None:
        """Save what hosts of a run left that was cut off; `trees` are their roots, the later host last."""
        if self._store is None:
            return
        count = sum(adopt(self._store, checkpoint_directory(self._spec, base), self._rooms(base)) for base in trees)
        if count:
            log.info(f"{count} files of checkpoints of the run that was cut off are saved to {self._store.uri}")

    def begin(self, bases: Mapping[str, Path]) -> None:
        """Give all hosts of an attempt what is stored, and begin to sync what they do.

        Args:
            bases: host to the root of its tree; hosts are not started yet.

        Raises:
            UserError, PlatformError: the store cannot be read, or the disk is full.
        """
        if self._store is None:
            return
        if isinstance(self._store, DirectoryStore):
            self._store.require_writable()  # hours later it would be too late to say so
        directories = {host: checkpoint_directory(self._spec, base) for host, base in bases.items()}
        restored = restore(self._store, list(directories.values()))
        for (host, directory), state in zip(directories.items(), restored, strict=True):
            share(directory)
            paths = Paths(str(bases[host]))
            agent = SyncAgent(
                host, directory, self._store, state, self._plan,
                lambda paths=paths: last_step_in(paths),
                self._rooms(bases[host]),
            )  # fmt: skip
            self._agents.append(agent)
        self._plan = self._plan.healthy()

    def _rooms(self, base: Path) -> Rooms:
        """Name a host's directories as a container does, and as a process does."""
        return {**rooms_of(self._spec, base), str(base): base}

    def vanish(self) -> None:
        """Let the agents be gone with their machines."""
        for agent in self._agents:
            agent.vanish()

    def finish(self, seconds: float = float("inf"), give_up: Callable[[], bool] = lambda: False) -> list[SyncReport]:
        """Sync the rest after the end of an attempt.

        Args:
            seconds: after which the machines are gone.
            give_up: asked often; True when somebody does not want to wait for the rest.

        Raises:
            UserError, PlatformError: the store does not take it.
        """
        agents, self._agents = self._agents, []
        try:
            return [agent.finish(seconds, give_up) for agent in agents]
        except BaseException:
            for agent in agents:
                agent.vanish()
            raise

    def close(self) -> None:
        """End agents that nobody has finished; called whatever the end."""
        self.vanish()
        self.finish(0.0)


_ACL_VERSION: Final = 2
_UNDEFINED: Final = 0xFFFFFFFF
_OWNER, _GROUP, _OTHER = 0x01, 0x04, 0x20
"""Tags of the kernel's form of an access control list. Source: linux/posix_acl_xattr.h."""


def share(directory: Path) -> None:
    """Let the users of an image and our agent both read and write here, whoever makes a file.

    An image mostly runs as root, whose files would be closed to an agent that does not; a default access control list
    is inherited by whatever is made below, in place of the umask.
    """
    open_to_all(directory)
    if os.getuid() == 0:
        return
    entries = b"".join(struct.pack("<HHI", tag, 7, _UNDEFINED) for tag in (_OWNER, _GROUP, _OTHER))
    value = struct.pack("<I", _ACL_VERSION) + entries
    for parent, _, _ in os.walk(directory):
        try:
            os.setxattr(parent, "system.posix_acl_default", value)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            log.debug(f"{directory} lies on a file system without access control lists")
            return
