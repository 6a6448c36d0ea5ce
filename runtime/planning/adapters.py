"""The field's own launchers as one process per host: torchrun, mpirun, SMDDP and SMP. Pure but for `find_tools`.

What the stock chain needs around mpirun and we do not: sshd on any host (`runtime.launch.remote` starts the daemon), a
sleep, a marker file, ``-x`` for every variable (each host's launcher has made the environment of its own ranks), a
wrong SM_CURRENT_HOST on every other host, and a library that lies about the host's name.
"""

from __future__ import annotations

import os
import sys

from runtime.base.errors import UserError
from runtime.base.frozen import frozen
from runtime.planning.launch_plan import Choice, RankPlan
from runtime.planning.styles import has_model_parallel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runtime.base.env import Environ
    from runtime.contract.job import Job
    from runtime.contract.settings import Settings
    from runtime.planning.topology import Topology

SMDDP_PORT = "7592"
"""Source: sagemaker-training 5.1.4, smdataparallel.py."""


@frozen
class Tools:
    """What of the launchers this image has."""

    mpirun: str = ""
    """Path; empty when there is none, as below."""
    smddprun: str = ""
    torch: bool = False
    mpi4py: bool = False
    smp_v1: bool = False
    """``smdistributed.modelparallel``."""
    smp_v2: bool = False
    """``torch.sagemaker``."""


def find_tools(environ: Environ, packages: Sequence[str] | None = None) -> Tools:
    """Look for launchers on PATH and for packages by their directories; nothing is imported or started.

    Args:
        environ: its PATH.
        packages: directories with installed Python packages; default: those of this Python.
    """
    places = [place for place in (sys.path if packages is None else packages) if place.endswith("-packages")]

    def has(package: str) -> bool:
        return any(os.path.isdir(f"{place}/{package}") for place in places)

    return Tools(
        mpirun=_on_path("mpirun", environ),
        smddprun=_on_path("smddprun", environ),
        torch=has("torch"),
        mpi4py=has("mpi4py"),
        smp_v1=has("smdistributed/modelparallel"),
        smp_v2=has("torch/sagemaker"),
    )


@frozen
class Adapted:
    """How a style starts its ranks on this host."""

    command: tuple[str, ...]
    choices: tuple[Choice, ...]
    """Environment variables, which the user's own override."""


@frozen
class Request:
    """What an adapter is told."""

    style: str
    reason: str
    """Who asked for the style."""
    job: Job
    settings: Settings
    topology: Topology
    program: tuple[str, ...]
    """Argument list of one rank."""
    environ: Mapping[str, str]
    """As planned so far."""
    interface: str
    """Between hosts; empty when nobody knows."""
    tools: Tools
    options: tuple[str, ...] = ()
    """Of mpirun, as SDK v3 passes them: words already."""


def adapt(request: Request) -> Adapted:
    """Plan the one process of this host for any style but ``own`` and ``deepspeed``.

    Raises:
        UserError: the image lacks what the style needs.
    """
    if request.style == "torchrun":
        return _torchrun(request)
    if request.style == "smddp":
        return _smddp(request)
    if request.style == "smp":
        return _smp(request)
    return _mpi(request, ())


def adapter_process(request: Request) -> RankPlan:
    """Return the process that stands for all ranks of this host."""
    import signal

    topology, state = request.topology, request.job.paths.state
    records = tuple(f"{state}/error-rank-{rank}.json" for rank in topology.ranks_of(topology.current_host))
    # mpirun kills its ranks a second after it was told to end, but passes SIGUSR1 on; the keeper makes SIGTERM of it.
    is_mpirun = request.style != "torchrun" and topology.current_host == topology.coordinator
    stop = signal.SIGUSR1 if is_mpirun else signal.SIGTERM
    return RankPlan(topology.first_rank, 0, {}, adapter=True, records=records, stop_signal=int(stop))


def _kept(request: Request, program: Sequence[str]) -> tuple[str, ...]:
    prefix = ("--prefix",) if request.settings.prefixes_lines(request.topology.world_size) else ()
    return (sys.executable, "-I", "-m", "runtime.launch.keeper", *prefix, *program)


def _lacks(request: Request, what: str, fix: str) -> UserError:
    return UserError(
        f"The launch style {request.style!r} (from {request.reason}) needs {what}, which this image lacks", fix=fix
    )


def _torchrun(request: Request) -> Adapted:
    if not request.tools.torch:
        raise _lacks(request, "torch", "use an image with PyTorch, or slipway_launcher=own")
    topology, environ = request.topology, request.environ
    command = (
        sys.executable,
        "-P",  # else a file of the user's beside the script could hide a module from the agent
        "-m",
        "torch.distributed.run",
        f"--nnodes={topology.num_hosts}",
        f"--nproc-per-node={topology.nproc_per_host}",
        f"--node-rank={topology.host_rank}",
        f"--master-addr={environ['MASTER_ADDR']}",
        f"--master-port={environ['MASTER_PORT']}",
        f"--rdzv-id={request.job.name}",
        "--max-restarts=0",
        "--no-python",
        *_kept(request, request.program),
    )
    grace = f"{max(1.0, request.settings.stop_grace_s):.0f}"
    why = "torchrun's agent would kill the ranks after 30 s, while the platform gives 120"
    return Adapted(command, (Choice("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", grace, why),))


def _mpi(request: Request, wrap: tuple[str, ...], extra: tuple[Choice, ...] = ()) -> Adapted:
    topology = request.topology
    if not request.tools.mpirun:
        raise _lacks(
            request,
            "Open MPI (mpirun is not on PATH)",
            "install it in the image (Debian: openmpi-bin), or slipway_launcher=own, which needs no MPI",
        )
    choices = (*_mpi_variables(request), *extra)
    if topology.current_host != topology.coordinator:
        return Adapted((sys.executable, "-I", "-m", "runtime.launch.remote", "serve"), choices)
    hosts = topology.hosts if topology.num_hosts > 1 else ("localhost",)
    program = request.program
    if request.tools.mpi4py and program[0] == sys.executable:
        # An exception that nobody catches then ends the whole MPI job, instead of leaving the others in a collective.
        program = (program[0], "-m", "mpi4py", *program[1:])
    command = (
        request.tools.mpirun,
        "--host",
        ",".join(f"{host}:{topology.nproc_per_host}" for host in hosts),
        "-np",
        str(topology.world_size),
        *_custom_options(request.job),
        *request.options,
        *_kept(request, (*wrap, *program)),
    )
    return Adapted(command, choices)


def _mpi_variables(request: Request) -> tuple[Choice, ...]:
    """Give mpirun its parameters as variables, so that the user's own win."""
    topology = request.topology
    choices = [
        Choice(
            "OMPI_MCA_hwloc_base_binding_policy", "none", "ranks share the CPUs; binding would starve loader workers"
        ),
        Choice("OMPI_MCA_rmaps_base_mapping_policy", "slot", "ranks of one host follow each other, as everywhere here"),
        Choice("OMPI_MCA_orte_abort_on_non_zero_status", "1", "a rank that fails ends the others"),
        Choice("OMPI_MCA_btl_vader_single_copy_mechanism", "none", "containers forbid process_vm_readv"),
        Choice(
            "OMPI_MCA_rtc_hwloc_vmhole", "none", "a daemon that shares its map of the machine may write over itself"
        ),
        Choice("OMPI_MCA_pml", "ob1", "TCP between hosts; NCCL carries the tensors"),
        Choice("OMPI_MCA_btl", "^openib", "it forks badly, and EFA is none of its devices"),
    ]
    if os.getuid() == 0:
        why = "containers run as root, which Open MPI refuses unless told twice"
        choices += [Choice(f"OMPI_ALLOW_RUN_AS_ROOT{end}", "1", why) for end in ("", "_CONFIRM")]
    if topology.num_hosts == 1:
        return tuple(choices)
    agent = f"{sys.executable} -I -m runtime.launch.remote"
    choices += [
        Choice(
            "OMPI_MCA_plm_rsh_agent", agent, "starts the daemons of other hosts through their launchers, without ssh"
        ),
        Choice("OMPI_MCA_plm_rsh_no_tree_spawn", "1", "the coordinator asks every host itself"),
        Choice("OMPI_MCA_if_base_do_not_resolve", "1", "the launchers know where the hosts are"),
        Choice(
            "OMPI_MCA_orte_leave_session_attached", "1", "a daemon stays a child of its launcher, which sees its end"
        ),
    ]
    if request.interface:
        why = "the interface between hosts"
        choices += [Choice(f"OMPI_MCA_{name}_tcp_if_include", request.interface, why) for name in ("oob", "btl")]
    return tuple(choices)


def _custom_options(job: Job) -> list[str]:
    import shlex

    from runtime.contract.hyperparameters import unquote

    text = unquote(job.hyperparameters.get("sagemaker_mpi_custom_mpi_options", ""))
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(
            f"sagemaker_mpi_custom_mpi_options is {text!r}, which is no list of words: {error}",
            allowed="options of mpirun, quoted as for a shell",
        ) from error


def _smddp(request: Request) -> Adapted:
    if not request.tools.smddprun:
        raise _lacks(
            request,
            "SageMaker's data parallel library (smddprun is not on PATH)",
            "build on an image of AWS that has it, or use slipway_launcher=own: DDP over NCCL",
        )
    topology = request.topology
    single = topology.num_hosts == 1
    why = "as smddprun's own launcher sets it"
    extra = (
        Choice("SMDATAPARALLEL_USE_SINGLENODE" if single else "SMDATAPARALLEL_USE_HOMOGENEOUS", "1", why),
        Choice("SMDATAPARALLEL_SERVER_ADDR", request.environ["MASTER_ADDR"], "the coordinator"),
        Choice("SMDATAPARALLEL_SERVER_PORT", SMDDP_PORT, why),
        Choice("SAGEMAKER_INSTANCE_TYPE", request.job.host.instance_type, "smddprun chooses its algorithms by it"),
    )
    return _mpi(request, (request.tools.smddprun,), extra)


def _smp(request: Request) -> Adapted:
    """Start version 1 of the library by mpirun; version 2 needs torchrun's environment only (see `plan`)."""
    if not has_model_parallel(request.job):
        raise UserError(
            "The launch style 'smp' needs the hyperparameter mp_parameters",
            fix='set distribution={"smdistributed": {"modelparallel": {...}}}, or slipway_launcher=own',
        )
    if not request.tools.smp_v1:
        raise _lacks(
            request,
            "SageMaker's model parallel library (neither smdistributed.modelparallel nor torch.sagemaker is installed)",
            "build on an image of AWS that has it, or use FSDP2 under slipway_launcher=own",
        )
    return _mpi(request, ())


def _on_path(name: str, environ: Environ) -> str:
    for directory in environ.get("PATH", "/usr/local/bin:/usr/bin:/bin").split(":"):
        path = f"{directory}/{name}"
        if directory and os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return ""
