"""What the container of a host is made of: image, names, variables, mounts, its part of the machine. Pure."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.base.errors import UserError
from runtime.local import leftovers
from runtime.local.containers import ContainerSpec, ImageFacts, Mount
from runtime.local.docker_options import DockerOptions
from runtime.local.environment import job_environ, threads_per_rank
from runtime.local.request import JobSpec, TrainingJobSpec
from runtime.local.tree import checkpoint_directory, homes, inside_tree

NO_IMAGE = ImageFacts("", {})


@dataclass(frozen=True)
class Shared:
    """What all containers of one run have in common."""

    run: str
    """Tells runs of one name apart."""
    options: DockerOptions
    image: ImageFacts = NO_IMAGE
    network: str = ""
    """Name of the job's own; empty until it is made."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    owner: str = ""
    """``uid:gid`` who shall own what they write."""
    cpus: int = 1
    """Of this machine."""
    gpus: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Of each host."""
    granted: Mapping[str, str] = field(default_factory=dict[str, str])
    """Variables that let the hosts use S3."""


def plan_container(
    shared: Shared, spec: JobSpec, host: str, base: Path, mounts: tuple[Mount, ...], attempt: int
) -> ContainerSpec:
    """Plan the container of one host.

    Args:
        shared: of the run.
        spec: the job.
        host: one of its hosts.
        base: root of its tree, which is there.
        mounts: what it sees of this machine.
        attempt: counts from 1; a container's name is used once.
    """
    entrypoint, command = spec.container_entrypoint or None, spec.container_arguments or None
    if entrypoint is None and command is None and isinstance(spec, TrainingJobSpec):
        command = ("train",)
    return ContainerSpec(
        name=f"slipway-{spec.name}-{host}-{shared.run}-{attempt}",
        image=shared.image.id,
        environ=_environ(shared, spec),
        mounts=mounts,
        labels={
            **shared.labels,
            leftovers.HOST: host,
            leftovers.TREE: str(base),
            leftovers.OWNER: shared.owner,
        },
        entrypoint=entrypoint,
        command=command,
        hostname=host,
        network=shared.network,
        aliases=(host,),
        isolated=spec.network_isolation,
        shm_bytes=shared.options.shm_bytes or default_shm_bytes(),
        memory_bytes=shared.options.memory_bytes,
        gpus=shared.gpus.get(host, ()),
    )


def _environ(shared: Shared, spec: JobSpec) -> dict[str, str]:
    values: dict[str, str] = {}
    if len(spec.hosts) > 1 and "OMP_NUM_THREADS" not in shared.image.environ:
        # Each host believes that the whole machine is its own.
        values["OMP_NUM_THREADS"] = str(threads_per_rank(spec, shared.cpus))
    values |= shared.granted
    values |= dict(spec.environment)
    values |= job_environ(spec, shared.run)
    return values


def own_mounts(spec: JobSpec, base: Path) -> list[Mount]:
    """Mount the directories of a host that are its own."""
    return [*(Mount(inside_tree(base, home), home) for home in homes(spec)), *checkpoint_mounts(spec, base)]


def checkpoint_mounts(spec: JobSpec, base: Path) -> list[Mount]:
    """Mount the checkpoints of a host, if the job has any."""
    if spec.checkpoint is None:
        return []
    return [Mount(checkpoint_directory(spec, base), spec.checkpoint.local_path)]


def share_gpus(hosts: Sequence[str], gpus: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Deal GPUs out, equally many neighbours to each host.

    >>> share_gpus(["algo-1", "algo-2"], ["0", "1", "2", "3", "4"])
    {'algo-1': ('0', '1'), 'algo-2': ('2', '3')}

    Raises:
        UserError: there are fewer GPUs than hosts.
    """
    each = len(gpus) // len(hosts)
    if not each:
        raise UserError(
            f"{len(hosts)} hosts want a GPU each, this machine has {len(gpus)}",
            fix="ask for fewer hosts with more ranks, or hide the GPUs: CUDA_VISIBLE_DEVICES=",
        )
    return {host: tuple(gpus[index * each : (index + 1) * each]) for index, host in enumerate(hosts)}


def default_shm_bytes() -> int:
    """Return half of the machine's memory: what /dev/shm is outside of containers."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
