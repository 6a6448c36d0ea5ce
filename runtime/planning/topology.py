"""Who is in the world: hosts, ranks and the coordinator, computed in one place, the same on every host. Pure."""

from __future__ import annotations

from runtime.base.frozen import frozen
from runtime.contract.job import natural_key
from runtime.planning.groups import world_groups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.contract.job import Job


@frozen
class Topology:
    """The world of ranks, seen from one host."""

    hosts: tuple[str, ...]
    """Hosts of the world in rank order; the first one is the coordinator. Of a host outside of it: that host alone."""
    current_host: str
    nproc_per_host: int
    """Ranks on every host; at least 1."""
    all_hosts: tuple[str, ...]
    """Hosts of all groups in natural order: all of them begin and end together."""
    in_world: bool = True
    """False on a host outside of the distribution groups, which runs its program alone."""

    @property
    def host_rank(self) -> int:
        """Index of this host in the world."""
        return self.hosts.index(self.current_host)

    @property
    def num_hosts(self) -> int:
        """Hosts in the world."""
        return len(self.hosts)

    @property
    def coordinator(self) -> str:
        """The host on which the ranks meet."""
        return self.hosts[0]

    @property
    def world_size(self) -> int:
        """Ranks over all hosts."""
        return self.num_hosts * self.nproc_per_host

    @property
    def first_rank(self) -> int:
        """Global rank of local rank 0."""
        return self.host_rank * self.nproc_per_host

    def ranks_of(self, host: str) -> range:
        """Global ranks of a host; empty for one outside of this host's world."""
        if host not in self.hosts:
            return range(0)
        first = self.hosts.index(host) * self.nproc_per_host
        return range(first, first + self.nproc_per_host)


def world_hosts(job: Job, programs: Mapping[str, str]) -> tuple[str, ...]:
    """List the hosts of the world in rank order, the same on every host of it.

    The order is natural (algo-2 before algo-10); where the platform names capacity units (UltraServers), the hosts of
    one unit follow each other, since only they share NVLink.

    Args:
        job: its hosts and groups.
        programs: of groups that have one of their own, see `runtime.planning.groups.group_programs`.

    Raises:
        UserError: as `runtime.planning.groups.world_groups`.
    """
    groups = world_groups(job, programs)
    names = [host.name for host in job.hosts if not groups or host.group in groups]
    first: dict[str, int] = {}
    for place, name in enumerate(names):
        first.setdefault(job.capacity_units.get(name, name), place)
    return tuple(sorted(names, key=lambda name: (first[job.capacity_units.get(name, name)], natural_key(name))))


def arrange(job: Job, nproc_per_host: int, programs: Mapping[str, str] | None = None) -> Topology:
    """Place ranks on hosts.

    In a heterogeneous cluster only the distribution groups form the world; a host outside them runs its program alone.

    Raises:
        UserError: as `world_hosts`.
    """
    hosts = world_hosts(job, programs or {})
    inside = job.current_host in hosts
    everybody = tuple(host.name for host in job.hosts)
    return Topology(hosts if inside else (job.current_host,), job.current_host, nproc_per_host, everybody, inside)


def parse_addresses(text: str) -> dict[str, str]:
    """Read ``SLIPWAY_HOST_ADDRESSES``.

    >>> parse_addresses("algo-1=127.0.0.2,algo-2=127.0.0.3")
    {'algo-1': '127.0.0.2', 'algo-2': '127.0.0.3'}
    """
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): address.strip() for name, _, address in pairs}
