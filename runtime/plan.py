"""Job + Hardware -> LaunchPlan: pure, printable, each automatic choice with its reason."""

from __future__ import annotations

from runtime.errors import UserError
from runtime.frozen import frozen, replace
from runtime.toolkit import arguments, sm_variables
from runtime.topology import Topology, arrange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.env import Environ
    from runtime.hardware import Hardware
    from runtime.job import Job
    from runtime.program import Program
    from runtime.settings import Settings


@frozen
class Choice:
    """One decision of the plan."""

    name: str
    value: str
    reason: str


@frozen
class RankPlan:
    """One process to start."""

    rank: int
    local_rank: int
    environ: Mapping[str, str]
    """Added to `LaunchPlan.environ`."""


@frozen
class LaunchPlan:
    """Everything that the supervisor needs; it decides nothing itself."""

    command: tuple[str, ...]
    """Argument list, the same for every rank of this host."""
    cwd: str
    environ: Mapping[str, str]
    """Whole environment of the ranks, without their own part."""
    ranks: tuple[RankPlan, ...]
    topology: Topology
    choices: tuple[Choice, ...]


def make_plan(
    job: Job,
    hardware: Hardware,
    settings: Settings,
    program: Program,
    environ: Environ,
    addresses: Mapping[str, str],
) -> LaunchPlan:
    """Decide what every rank of this host gets.

    Args:
        job: the contract, as read.
        hardware: this host.
        settings: ours, resolved.
        program: what to run.
        environ: the launcher's environment; what the user set wins over our defaults.
        addresses: host name to address; a host that is not in it is reached by its name.

    Raises:
        UserError: ``slipway_procs_per_host`` is no positive number.
    """
    nproc, why = _procs_per_host(job, hardware, settings)
    topology = arrange(job, nproc)
    choices = [Choice("procs_per_host", str(nproc), why)]
    choices.append(
        Choice(
            "world_size",
            str(topology.world_size),
            f"{topology.num_hosts} hosts x {nproc}, coordinator {topology.coordinator} (first in natural order)",
        )
    )
    words = arguments(job, settings.argv_dialect)
    choices.append(Choice("program", program.path, program.origin))
    values = dict(environ)
    values |= sm_variables(job, topology, hardware, program.name, words)
    values |= {
        "WORLD_SIZE": str(topology.world_size),
        "LOCAL_WORLD_SIZE": str(nproc),
        "GROUP_RANK": str(topology.host_rank),
        "GROUP_WORLD_SIZE": str(topology.num_hosts),
        "ROLE_NAME": "default",
        "ROLE_WORLD_SIZE": str(topology.world_size),
        "MASTER_ADDR": addresses.get(topology.coordinator, _alone(topology)),
        "MASTER_PORT": str(settings.master_port),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": job.name,
        "SLIPWAY_HOST": job.current_host,
        "SLIPWAY_STATE_DIR": job.paths.state,
    }
    values["PYTHONPATH"] = ":".join(part for part in (program.cwd, environ.get("PYTHONPATH", "")) if part)
    for choice in _defaults(hardware, job, topology, values["MASTER_ADDR"]):
        if choice.name in environ:
            choice = replace(choice, value=environ[choice.name], reason="set by the user")
        values[choice.name] = choice.value
        choices.append(choice)
    ranks = tuple(
        RankPlan(
            rank,
            local,
            {
                "RANK": str(rank),
                "LOCAL_RANK": str(local),
                "ROLE_RANK": str(rank),
                "TORCHELASTIC_ERROR_FILE": f"{job.paths.state}/error-rank-{rank}.json",
            },
        )
        for local, rank in enumerate(topology.ranks_of(job.current_host))
    )
    return LaunchPlan(program.command(words), program.cwd, values, ranks, topology, tuple(choices))


def _alone(topology: Topology) -> str:
    # A single host needs no name service to find itself.
    return "127.0.0.1" if topology.num_hosts == 1 else topology.coordinator


def _procs_per_host(job: Job, hardware: Hardware, settings: Settings) -> tuple[int, str]:
    if settings.procs_per_host != "auto":
        if not settings.procs_per_host.isdigit() or int(settings.procs_per_host) < 1:
            raise UserError(
                f"slipway_procs_per_host is {settings.procs_per_host!r} (from {settings.origin('procs_per_host')})",
                allowed="it is 'auto' or a number of at least 1",
            )
        return int(settings.procs_per_host), settings.origin("procs_per_host")
    asked = job.hyperparameters.get("sagemaker_mpi_num_of_processes_per_host", "").strip('"')
    if asked.isdigit() and int(asked) > 0:
        return int(asked), "hyperparameter sagemaker_mpi_num_of_processes_per_host"
    if hardware.accelerators:
        return (
            hardware.accelerators,
            f"one for each of {hardware.accelerators} {hardware.accelerator_kind} accelerators",
        )
    return 1, "no accelerator here, so one process with all CPUs"


def _defaults(hardware: Hardware, job: Job, topology: Topology, coordinator: str) -> list[Choice]:
    """Variables that we set only where the user did not."""
    nproc = topology.nproc_per_host
    threads = max(1, hardware.cpus // nproc)
    choices = [
        Choice("OMP_NUM_THREADS", str(threads), f"{hardware.cpus} CPUs / {nproc} ranks on this host"),
        Choice("PYTHONUNBUFFERED", "1", "log lines arrive at once"),
    ]
    if topology.world_size == 1:
        return choices
    if coordinator.startswith("127."):
        # gloo would otherwise ask the name service for this machine's name, which an isolated container lacks.
        choices.append(Choice("GLOO_SOCKET_IFNAME", "lo", f"all ranks meet at the loopback address {coordinator}"))
    elif job.network_interface in hardware.interfaces:
        why = "named by resourceconfig.json and present on this host"
        choices += [Choice(name, job.network_interface, why) for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")]
    return choices
