"""Who is in the world: hosts, ranks and the coordinator, computed in one place, the same on every host. Pure."""

from __future__ import annotations

from runtime.errors import UserError
from runtime.frozen import frozen
from runtime.hyperparameters import unquote
from runtime.jsontext import loads_or

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.job import Job


@frozen
class Topology:
    """The world of ranks, seen from one host."""

    hosts: tuple[str, ...]
    """Hosts of the world in natural order; the first one is the coordinator."""
    current_host: str
    nproc_per_host: int
    """Ranks on every host; at least 1."""
    all_hosts: tuple[str, ...]
    """Hosts of all groups in natural order: all of them begin and end together."""

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


def arrange(job: Job, nproc_per_host: int) -> Topology:
    """Place ranks on hosts.

    In a heterogeneous cluster only the distribution groups (``sagemaker_distribution_instance_groups``) form the
    world; a host outside them runs the program alone. Source: sagemaker-training 5.1.4, environment.py 680-697.

    Raises:
        UserError: a distribution group that the job does not have.
    """
    groups = _distribution_groups(job)
    names = {group.name for group in job.groups}
    for name in groups:
        if name not in names:
            raise UserError(
                f"sagemaker_distribution_instance_groups names {name!r}, which is no instance group of the job",
                allowed=f"groups: {', '.join(sorted(names)) or 'none'}",
            )
    hosts = tuple(host.name for host in job.hosts if not groups or host.group in groups)
    if job.current_host not in hosts:
        hosts = (job.current_host,)
    return Topology(hosts, job.current_host, nproc_per_host, tuple(host.name for host in job.hosts))


def parse_addresses(text: str) -> dict[str, str]:
    """Read ``SLIPWAY_HOST_ADDRESSES``.

    >>> parse_addresses("algo-1=127.0.0.2,algo-2=127.0.0.3")
    {'algo-1': '127.0.0.2', 'algo-2': '127.0.0.3'}
    """
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): address.strip() for name, _, address in pairs}


def _distribution_groups(job: Job) -> Sequence[str]:
    text = unquote(job.hyperparameters.get("sagemaker_distribution_instance_groups", ""))
    if not text:
        return ()
    value = loads_or(text, [text])
    return [str(name) for name in value] if isinstance(value, list) else [str(value)]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
