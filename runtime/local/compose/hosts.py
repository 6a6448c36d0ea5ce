"""The hosts of a compose file as containers of ours: own trees, own network, results where the SDK looks."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.contract.job import DEFAULT_GROUP
from runtime.contract.paths import DEFAULT_BASE
from runtime.local.compose.file import Composition
from runtime.local.container_plan import checkpoint_mounts
from runtime.local.containers import ContainerSpec, Mount
from runtime.local.docker_engine import DockerEngine
from runtime.local.docker_options import DockerOptions
from runtime.local.engine import Host
from runtime.local.request import JobSpec
from runtime.local.tree import open_to_all

USERS_OWN = (f"{DEFAULT_BASE}/code", f"{DEFAULT_BASE}/input/data")
"""Where the SDKs mount what is the user's, or a colleague's: its owner is none of our business."""


FILE = "slipway.compose"
"""Label of the containers of a compose file: its absolute path. Jobs of several files may have one name."""


class ComposeEngine(DockerEngine):
    """Makes the hosts of a compose file, with model and output directories of their own."""

    def __init__(self, composition: Composition, options: DockerOptions) -> None:
        """Nothing is connected."""
        super().__init__(options)
        self._file = str(composition.path.absolute())
        self._services = {service.name: service for service in composition.services}
        self._ended: Sequence[Host] = ()
        """Hosts of the last attempt."""

    def lay_out(self, spec: JobSpec, host: str, base: Path) -> None:
        """Make what a host writes to, and see that everything is there that the file mounts."""
        for name in ("model", "output/data", "checkpoints"):
            (base / name).mkdir(parents=True)
        open_to_all(base)
        service = self._services[host]
        for mount in service.mounts:
            if not mount.source.exists():
                mount.source.mkdir(parents=True)
            if mount.target == f"{DEFAULT_BASE}/input":
                mend(mount.source / "config", self.interface, spec)
                mount.source.chmod(0o777)  # scripts of SDK v3 write there, whatever user the image has

    def _container(self, spec: JobSpec, host: str, base: Path) -> ContainerSpec:
        service = self._services[host]
        made = super()._container(spec, host, base)
        return replace(
            made,
            labels={**made.labels, FILE: self._file},
            environ={**_threads(made.environ), **service.environ},
            entrypoint=service.entrypoint,
            command=service.command,
            aliases=service.aliases,
            shm_bytes=self._options.shm_bytes or service.shm_bytes or made.shm_bytes,
            memory_bytes=self._options.memory_bytes or service.memory_bytes,
            user=service.user,
            gpus=made.gpus if service.all_gpus else (),
        )

    def _mounts(self, spec: JobSpec, host: str, base: Path) -> tuple[Mount, ...]:
        own = {f"{DEFAULT_BASE}/model", f"{DEFAULT_BASE}/output", f"{DEFAULT_BASE}/output/data"}
        given = self._services[host].mounts
        return (
            *(mount for mount in given if mount.target not in own),
            *(Mount(base / name, f"{DEFAULT_BASE}/{name}") for name in ("model", "output")),
            *checkpoint_mounts(spec, base),
        )

    def _trees(self, hosts: Sequence[Host]) -> list[Path]:
        given = {
            mount.source
            for host in hosts
            for mount in self._services[host.name].mounts
            if not mount.read_only and mount.source.is_dir() and not mount.target.startswith(USERS_OWN)
        }
        return [*super()._trees(hosts), *sorted(given)]

    def finish(self, hosts: Sequence[Host]) -> None:
        """End an attempt."""
        super().finish(hosts)
        self._ended = hosts

    def close(self) -> None:
        """Put what the last attempt left where the SDK looks for it; a later host wins, as on the service."""
        super().close()
        for host in self._ended:
            for mount in self._services[host.name].mounts:
                if mount.target in (f"{DEFAULT_BASE}/model", f"{DEFAULT_BASE}/output"):
                    put(host.base / Path(mount.target).name, mount.source)


def _threads(environ: Mapping[str, str]) -> dict[str, str]:
    """Of what a host of ours has, the one thing that no SDK gives: its share of the CPUs that all hosts use."""
    return {name: value for name, value in environ.items() if name == "OMP_NUM_THREADS"}


def mend(config: Path, interface: str, spec: JobSpec) -> None:
    """Complete what an SDK wrote: the interface that is there, the groups, the files that it leaves out."""
    path = config / "resourceconfig.json"
    if path.is_file():
        resources: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = str(resources.get("current_instance_type") or "local")
        group: dict[str, Any] = {
            "instance_group_name": DEFAULT_GROUP,
            "instance_type": kind,
            "hosts": resources.get("hosts") or [],
        }
        resources = {  # in this order: what the SDK wrote wins, but for the interface
            "current_instance_type": kind,
            "current_group_name": DEFAULT_GROUP,
            "instance_groups": [group],
            **resources,
            "network_interface_name": interface,
        }
        path.write_text(json.dumps(resources), encoding="utf-8")
    if spec.checkpoint is not None and config.is_dir():
        content = json.dumps({"LocalPath": spec.checkpoint.local_path})
        (config / "checkpointconfig.json").write_text(content, encoding="utf-8")


def put(source: Path, target: Path) -> None:
    """Put the files of a tree into another one, over equal names; no bytes are copied where links can do it."""
    for parent, directories, names in os.walk(source):
        inside = target / Path(parent).relative_to(source)
        inside.mkdir(parents=True, exist_ok=True)
        links = [name for name in directories if Path(parent, name).is_symlink()]
        for name in (*names, *links):
            place = inside / name
            place.unlink(missing_ok=True)
            try:
                os.link(Path(parent, name), place, follow_symlinks=False)
            except OSError:  # another file system
                shutil.copy2(Path(parent, name), place, follow_symlinks=False)
