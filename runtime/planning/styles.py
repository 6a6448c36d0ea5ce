"""Who starts the ranks: our own launcher, or one of the field's that a job asks for. Pure.

    own        ranks with torchrun's environment, started by `runtime.launch.supervisor` itself
    deepspeed  the same, with what DeepSpeed's launcher adds; no ssh, no hostfile
    torchrun   one agent per host, static rendezvous
    mpi        mpirun on the coordinator; the others start its daemon when it asks (`runtime.launch.remote`)
    smddp      mpi with SageMaker's data parallel library
    smp        SageMaker's model parallel library: version 1 through mpi, version 2 as own

The adapters of the last four stand in `runtime.planning.adapters`, which the others never import.
"""

from __future__ import annotations

from runtime.contract.hyperparameters import unquote
from runtime.planning.groups import switched_on
from runtime.planning.launch_plan import RankPlan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.contract.drivers import Drivers
    from runtime.contract.job import Job
    from runtime.contract.settings import Settings
    from runtime.planning.topology import Topology

STYLES = ("own", "torchrun", "mpi", "deepspeed", "smddp", "smp")


def has_model_parallel(job: Job) -> bool:
    """Whether the SDK's ``distribution={"smdistributed": {"modelparallel": ...}}`` is on."""
    return unquote(job.hyperparameters.get("mp_parameters", "")).strip() not in ("", "{}", "null")


def choose_style(job: Job, settings: Settings, *, in_world: bool, drivers: Drivers | None = None) -> tuple[str, str]:
    """Decide who starts the ranks: our setting, else the SDK's switches in the order of the PyTorch toolkit.

    Args:
        job: its hyperparameters hold the switches.
        settings: ``slipway_launcher``.
        in_world: whether this host is one of the world; one outside runs the program alone.
        drivers: what SDK v3 asked for; it has no switches.

    Returns:
        One of `STYLES`, and the reason.
    """
    if not in_world:
        return "own", "this host is outside of the world: it runs its program alone, as under the toolkit"
    if settings.origin("launcher") != "default":
        return settings.launcher, settings.origin("launcher")
    parallel = has_model_parallel(job)
    if switched_on(job, "sagemaker_mpi_enabled"):
        return ("smp", "mp_parameters and sagemaker_mpi_enabled") if parallel else ("mpi", "sagemaker_mpi_enabled")
    for switch in ("sagemaker_pytorch_ddp_enabled", "sagemaker_torch_distributed_enabled"):
        if switched_on(job, switch):
            if parallel:
                return "smp", f"mp_parameters and {switch}"
            return (
                "own",
                f"{switch}: own gives torchrun's environment without its start; slipway_launcher=torchrun is there",
            )
    if switched_on(job, "sagemaker_distributed_dataparallel_enabled"):
        return "smddp", "sagemaker_distributed_dataparallel_enabled"
    if drivers is not None and drivers.launcher == "mpi":
        return "mpi", "distributed.json of SDK v3"
    if drivers is not None and drivers.launcher == "torchrun":
        return "own", "distributed.json of SDK v3: own gives torchrun's environment without its start"
    return "own", "default"


def own_ranks(
    topology: Topology, state: str, style: str, command: tuple[str, ...], arguments: int
) -> tuple[RankPlan, ...]:
    """Plan one process for each rank of this host.

    Args:
        topology: of the world.
        state: directory of the error records.
        style: ``own`` or ``deepspeed``.
        command: that all of them share.
        arguments: how many of its last words are the program's arguments.
    """
    ranks: list[RankPlan] = []
    for local, rank in enumerate(topology.ranks_of(topology.current_host)):
        environ = {
            "RANK": str(rank),
            "LOCAL_RANK": str(local),
            "ROLE_RANK": str(rank),
            "TORCHELASTIC_ERROR_FILE": f"{state}/error-rank-{rank}.json",
        }
        own: tuple[str, ...] = ()
        if style == "deepspeed":
            # As DeepSpeed's launcher: scripts written for it declare this argument.
            cut = len(command) - arguments
            own = (*command[:cut], f"--local_rank={local}", *command[cut:])
        ranks.append(RankPlan(rank, local, environ, own))
    return tuple(ranks)
