"""Plays the hosts of a job as containers of a Docker engine on this machine, each with a tree of its own.

A host is ``docker run IMAGE train`` on a private network of the job, where it is known as algo-N. Nothing of it is
left running, whatever the end; see `runtime.local.guard` for the end of this very process.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from runtime.base import env
from runtime.base.errors import UserError
from runtime.base.log import Log
from runtime.local import leftovers
from runtime.local.container_inputs import CODE, ContainerInputs
from runtime.local.container_plan import Shared, own_mounts, plan_container, share_gpus
from runtime.local.containers import ContainerSpec, Docker, Mount
from runtime.local.docker_options import DockerOptions
from runtime.local.engine import Host
from runtime.local.environment import arn_of
from runtime.local.guard import Guard
from runtime.local.host_container import HostContainer
from runtime.local.host_log import HostLog
from runtime.local.record import InputRecord
from runtime.local.request import JobSpec
from runtime.local.s3.grant import S3Grant
from runtime.local.tree import open_to_all, write_tree
from runtime.planning.hardware import probe
from runtime.testing.faults.disk import put_away_left

if TYPE_CHECKING:
    from runtime.local.s3.forward import Forwarder

log = Log("local")

END_S = 60.0
"""For a container to end after SIGKILL: a bound for an engine that hangs."""

Act = Callable[[Docker, str], None]
"""Does something to one container."""


class DockerEngine:
    """Makes hosts of containers."""

    interface = "eth0"

    def __init__(self, options: DockerOptions | None = None) -> None:
        """Nothing is connected."""
        self._options = options or DockerOptions()
        self._shared = Shared(f"{os.getpid()}-{time.time_ns():x}", self._options)
        self._docker: Docker | None = None
        self._guard: Guard | None = None
        self._code: Path | None = None
        self._attempt = 0
        self._made: list[str] = []
        """Containers that are not removed yet."""
        self._forwarder: Forwarder | None = None
        self._directory = Path()
        self._inputs = ContainerInputs()

    @property
    def docker(self) -> Docker:
        """The connection; made on first use."""
        if self._docker is None:
            self._docker = Docker()
        return self._docker

    def open(self, spec: JobSpec, directory: Path) -> None:
        """Find the image, make the job's network, and set the guard."""
        if not spec.image:
            raise UserError(
                "The request names no image", allowed="engine docker runs AlgorithmSpecification.TrainingImage",
                fix="add --image, such as --image slipway-pytorch:cpu",
            )  # fmt: skip
        self._directory = directory
        _refuse_remote_engine(spec)
        self._join(spec)

    def _join(self, spec: JobSpec) -> None:
        """Make what all attempts share, once it is known that the job can run."""
        run = self._shared.run
        image = self.docker.image(spec.image)
        hardware = probe(env.process_environ())
        self._shared = replace(
            self._shared,
            image=image,
            labels=leftovers.labels_of(spec.name, run),
            owner=f"{os.getuid()}:{os.getgid()}",
            cpus=hardware.cpus,
            gpus=self._share_gpus(spec, hardware.gpus),
        )
        self._guard = Guard(run)
        network = f"slipway-{spec.name}-{run}"
        self.docker.create_network(network, self._shared.labels, internal=spec.network_isolation)
        self._shared = replace(self._shared, network=network)

    def grant(self, grant: S3Grant) -> None:
        """Let hosts use S3; an endpoint on this machine's loopback is forwarded to their network, and to no other."""
        from runtime.local.s3.forward import Forwarder, is_loopback  # asyncio costs 40 ms, wanted by few

        endpoint = grant.endpoint
        if endpoint and is_loopback(endpoint):
            self._forwarder = Forwarder(*self.docker.gateway(self._shared.network), endpoint)
            endpoint = self._forwarder.url
            log.info(f"S3 at {grant.endpoint} is on this machine's loopback: the hosts find it at {endpoint}")
        self._shared = replace(self._shared, granted=grant.variables(endpoint))

    def submit(self, archive: Path) -> str:
        """Hosts get the archive as a file of their own."""
        self._code = archive
        return f"file://{CODE}"

    def await_earlier(self, trees: Sequence[Path], seconds: float) -> None:
        """See the containers of an earlier run to their end: its guard has told them to save and leave."""
        names = {str(tree) for tree in trees}
        containers = self.docker.containers(leftovers.TREE)
        mine = [item for item in containers if item.labels.get(leftovers.TREE) in names]
        leftovers.end(self.docker, mine, seconds)
        for tree in trees:
            put_away_left(tree)
        leftovers.hand_back_all(self.docker, mine)
        for item in mine:
            self.docker.remove(item.id)

    def begin(self, spec: JobSpec) -> None:
        """Count the attempts: a container's name is used once."""
        self._attempt += 1
        self._inputs = ContainerInputs(self._code)
        self._inputs.service.mount(spec, self._directory, other_users=True)

    def lay_out(self, spec: JobSpec, host: str, base: Path) -> None:
        """Write a host's tree."""
        write_tree(spec, host, base, self.interface, arn_of(spec, self._shared.run))
        self._inputs.lay_out(spec, host, base)
        open_to_all(base)
        self._inputs.service.feed(spec, host, base)

    def start(self, spec: JobSpec, host: str, base: Path, log: HostLog) -> HostContainer:
        """Begin to bring a container up; the hosts of a job come up at one time."""
        started = HostContainer(host, base, self.docker)
        started.follow(self._container(spec, host, base), log.sink, self._made)
        return started

    def kill(self, hosts: Sequence[Host]) -> None:
        """Kill all containers at one time: machines that vanish do not talk about each other."""
        running = [host for host in cast("Sequence[HostContainer]", hosts) if not host.killed]
        for host in running:
            host.up.wait()
            host.killed = True
        self._at_once(
            [host.container for host in running if host.container],
            lambda docker, container: docker.kill(container, "KILL"),
        )

    def finish(self, hosts: Sequence[Host]) -> None:
        """End and remove the containers, after all that they printed was read."""
        containers = cast("Sequence[HostContainer]", hosts)
        self.kill([host for host in containers if host.exit_code is None])
        for host in containers:
            if host.thread is not None:
                host.thread.join(END_S)
            if host.thread is not None and host.thread.is_alive():
                log.warning(f"container of {host.name} does not end {END_S:g} s after SIGKILL")
            elif host.exit_code is None and host.lost is None:
                host.poll()
            if host.exit_code == 137 and self.docker.out_of_memory(host.container):
                limit = self._options.memory_bytes
                log.warning(f"{host.name} ran out of memory" + (f": its limit is {limit} bytes" if limit else ""))
        self._hand_back(self._trees(hosts))
        self._remove_containers()
        self._inputs.service.close()

    def check(self) -> None:
        """Raise what keeps a channel from being read."""
        self._inputs.service.check()

    def inputs(self) -> list[InputRecord]:
        """Return what the channels of the attempt delivered."""
        return self._inputs.service.delivered

    def close(self) -> None:
        """Remove the network, and dismiss the guard."""
        self._inputs.service.close()
        if self._forwarder is not None:
            self._forwarder.close()
            self._forwarder = None
        if self._docker is None:
            return
        try:
            self._remove_containers()
            if self._shared.network:
                self._docker.remove_network(self._shared.network)
            if self._guard is not None:
                self._guard.dismiss()
        finally:
            self._docker.close()

    # --- parts ----------------------------------------------------------------------------------------------

    def _container(self, spec: JobSpec, host: str, base: Path) -> ContainerSpec:
        return plan_container(self._shared, spec, host, base, self._mounts(spec, host, base), self._attempt)

    def _mounts(self, spec: JobSpec, host: str, base: Path) -> tuple[Mount, ...]:
        return (*own_mounts(spec, base), *self._inputs.mounts(spec, host))

    def _share_gpus(self, spec: JobSpec, count: int) -> dict[str, tuple[str, ...]]:
        """Deal the machine's GPUs out, equally many to each host."""
        if not count:
            return {}
        if "nvidia" not in self.docker.runtimes():
            log.warning(f"{count} GPUs are here, but the Docker engine cannot give them away: no runtime 'nvidia'")
            return {}
        visible = env.process_environ().get("CUDA_VISIBLE_DEVICES", "")
        return share_gpus(spec.hosts, visible.split(",") if visible else [str(gpu) for gpu in range(count)])

    def _trees(self, hosts: Sequence[Host]) -> list[Path]:
        """Directories that containers wrote to."""
        return [host.base for host in hosts]

    def _hand_back(self, trees: Sequence[Path]) -> None:
        if self._made and os.getuid() != 0:
            leftovers.hand_back(self.docker, self._made[-1], trees, self._shared.owner)

    def _remove_containers(self) -> None:
        made, self._made = self._made, []
        self._at_once(made, lambda docker, container: docker.remove(container))

    def _at_once(self, containers: Sequence[str], act: Act) -> None:
        if len(containers) == 1:
            act(self.docker, containers[0])
            return

        def one(container: str) -> None:
            other = self.docker.again()
            try:
                act(other, container)
            finally:
                other.close()

        if containers:
            with ThreadPoolExecutor(min(len(containers), 16)) as pool:
                list(pool.map(one, containers))


def _refuse_remote_engine(spec: JobSpec) -> None:
    """Refuse FIFOs and mounts where the engine is on another machine, or in a virtual one."""
    names = [channel.name for channel in spec.channels if not channel.on_disk]
    where = env.process_environ().get("DOCKER_HOST", "")
    if names and (not sys.platform.startswith("linux") or not (where == "" or where.startswith("unix://"))):
        raise UserError(
            f"Channel {names[0]!r} is streamed or mounted, and the Docker engine runs elsewhere "
            f"({where or sys.platform})",
            allowed="FIFOs and mounts need an engine on this kernel",
            fix="use File mode, an engine on this machine (unix://), or --engine process",
        )
