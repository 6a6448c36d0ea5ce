"""Job + Hardware -> LaunchPlan: pure, printable, each automatic choice with its reason."""

from __future__ import annotations

from runtime.base.errors import UserError
from runtime.base.frozen import replace
from runtime.planning.groups import group_programs
from runtime.planning.launch_plan import Choice, LaunchPlan, RankPlan
from runtime.planning.styles import choose_style, has_model_parallel, own_ranks
from runtime.planning.toolkit import view
from runtime.planning.topology import Topology, arrange, world_hosts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runtime.base.env import Environ
    from runtime.contract.job import Job
    from runtime.contract.settings import Settings
    from runtime.planning.adapters import Tools
    from runtime.planning.hardware import Hardware
    from runtime.planning.program import Program

__all__ = ["Choice", "LaunchPlan", "RankPlan", "make_plan"]

LEAST_SHM_BYTES = 512 << 20
"""Docker gives 64 MiB unless told otherwise, SageMaker's hosts give half of the memory."""
LEAST_OPEN_FILES = 4096
"""Loader workers hand every tensor over as an open file."""
SHARED_LIMIT = "ranks and loader workers of one host share memory there and die of SIGBUS when it is full"


def make_plan(
    job: Job,
    hardware: Hardware,
    settings: Settings,
    program: Program,
    environ: Environ,
    addresses: Mapping[str, str],
    find_tools: Callable[[Environ], Tools] | None = None,
) -> LaunchPlan:
    """Decide what every rank of this host gets.

    Args:
        job: the contract, as read.
        hardware: this host.
        settings: ours, resolved.
        program: what to run.
        environ: the launcher's environment; what the user set wins over our defaults.
        addresses: host name to address; a host that is not in it is reached by its name.
        find_tools: finds the launchers of others in this image; asked only by the styles that need them.

    Raises:
        UserError: ``slipway_procs_per_host`` is no positive number; hosts of one world would have different numbers of
            ranks; groups are impossible (`runtime.planning.groups`); the image lacks what a launch style needs.
    """
    own_programs = group_programs(job, settings)
    world = world_hosts(job, own_programs)
    in_world = job.current_host in world
    nproc, why = (1, "a host outside of the world runs alone")
    if in_world:
        nproc, why = _procs_per_host(job, hardware, settings, program)
    topology = arrange(job, nproc, own_programs)
    warnings = _check_equal(job, world, settings, program) if in_world else []
    style, style_why = choose_style(job, settings, in_world=in_world, drivers=program.drivers)
    script = view(job, topology, hardware, settings, program, environ)
    command = program.command(script.words)
    choices = [
        Choice("launcher", style, style_why),
        Choice("procs_per_host", str(nproc), why),
        Choice("world_size", str(topology.world_size), _world(job, topology)),
        Choice("program", program.path or program.name, program.origin),
        *(Choice(*note) for note in script.notes),
    ]
    values = dict(environ)
    values |= script.variables
    values |= _torchrun_variables(job, settings, topology, addresses)
    values["PYTHONPATH"] = ":".join(filter(None, (program.cwd, program.packages, environ.get("PYTHONPATH", ""))))
    interface, interface_why = _interface(job, hardware, topology, values["MASTER_ADDR"])
    if interface_why:
        choices.append(Choice("network_interface", interface or "-", interface_why))
    variables = _defaults(hardware, job, topology, interface, interface_why)
    ranks: tuple[RankPlan, ...]
    tools = _tools(style, environ, find_tools)
    if tools is None or (style == "smp" and tools.smp_v2 and has_model_parallel(job)):
        ranks = own_ranks(topology, job.paths.state, style, command, len(script.words))
        variables += _deepspeed(topology) if style == "deepspeed" else []
    else:
        from runtime.planning.adapters import Request, adapt, adapter_process

        for name in ("RANK", "LOCAL_RANK", "ROLE_RANK"):  # of an outer launcher; ours will say it to each rank
            values.pop(name, None)
        options = program.drivers.mpi_options if program.drivers else ()
        request = Request(style, style_why, job, settings, topology, command, values, interface, tools, options)
        adapted = adapt(request)
        command, ranks = adapted.command, (adapter_process(request),)
        variables += adapted.choices
    for choice in variables:
        if choice.name in environ:
            choice = replace(choice, value=environ[choice.name], reason="set by the user")
        values[choice.name] = choice.value
        choices.append(choice)
    warnings += _warnings(hardware, job, topology, environ)
    told = tuple(warnings)
    return LaunchPlan(command, program.cwd, values, ranks, topology, tuple(choices), style, told, script.unfit)


def _world(job: Job, topology: Topology) -> str:
    size = f"{topology.num_hosts} hosts x {topology.nproc_per_host}"
    if not topology.in_world:
        return f"{size}: {topology.current_host} is outside of the distribution groups"
    by_unit = any(host in job.capacity_units for host in topology.hosts)
    order = "natural order, hosts of one capacity unit together" if by_unit else "natural order"
    return f"{size}, coordinator {topology.coordinator} (first in {order})"


def _torchrun_variables(
    job: Job, settings: Settings, topology: Topology, addresses: Mapping[str, str]
) -> dict[str, str]:
    # A single host needs no name service to find itself.
    alone = "127.0.0.1" if topology.num_hosts == 1 else topology.coordinator
    return {
        "WORLD_SIZE": str(topology.world_size),
        "LOCAL_WORLD_SIZE": str(topology.nproc_per_host),
        "GROUP_RANK": str(topology.host_rank),
        "GROUP_WORLD_SIZE": str(topology.num_hosts),
        "ROLE_NAME": "default",
        "ROLE_WORLD_SIZE": str(topology.world_size),
        "MASTER_ADDR": addresses.get(topology.coordinator, alone),
        "MASTER_PORT": str(settings.master_port),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": job.name,
        "SLIPWAY_HOST": job.current_host,
        "SLIPWAY_STATE_DIR": job.paths.state,
        "SLIPWAY_STACKS_DIR": job.paths.stacks,
    }


# --- how many ranks -----------------------------------------------------------------------------------------------


def _asked_for(job: Job, settings: Settings, program: Program) -> tuple[int, str]:
    """Return the number of ranks per host that somebody set, and who; 0 when nobody did."""
    if settings.procs_per_host != "auto":
        if not settings.procs_per_host.isdecimal() or int(settings.procs_per_host) < 1:
            raise UserError(
                f"slipway_procs_per_host is {settings.procs_per_host!r} (from {settings.origin('procs_per_host')})",
                allowed="it is 'auto' or a number of at least 1",
            )
        return int(settings.procs_per_host), settings.origin("procs_per_host")
    asked = job.hyperparameters.get("sagemaker_mpi_num_of_processes_per_host", "").strip('"')
    if asked.isdecimal() and int(asked) > 0:
        return int(asked), "hyperparameter sagemaker_mpi_num_of_processes_per_host"
    drivers = program.drivers
    if drivers is not None and drivers.processes:
        return drivers.processes, "process_count_per_node of the SDK's distributed.json"
    return 0, ""


def _procs_per_host(job: Job, hardware: Hardware, settings: Settings, program: Program) -> tuple[int, str]:
    asked, who = _asked_for(job, settings, program)
    if asked:
        return asked, who
    if hardware.accelerators:
        count, kind = hardware.accelerators, hardware.accelerator_kind
        return count, f"one for each of {count} {kind} accelerators ({hardware.accelerator_source or 'given'})"
    return 1, "no accelerator here, so one process with all CPUs"


def _check_equal(job: Job, world: tuple[str, ...], settings: Settings, program: Program) -> list[str]:
    """Refuse a world whose hosts would start different numbers of ranks: they would wait for each other for ever.

    Only instance types can tell, and only where nobody set the number.

    Returns:
        A warning where the types differ and one of them is not known.
    """
    types = sorted({host.instance_type for host in job.hosts if host.name in world})
    if len(types) < 2 or _asked_for(job, settings, program)[0]:
        return []
    from runtime.planning.instances import processes_of

    counts = {name: processes_of(name) for name in types}
    listed = ", ".join(f"{name} {count or 'unknown'}" for name, count in counts.items())
    if len({count for count in counts.values() if count}) > 1:
        raise UserError(
            f"The hosts of the world have different numbers of accelerators ({listed}), so that they would start "
            "different numbers of ranks",
            allowed="every host of a world starts the same number",
            fix="set slipway_procs_per_host, or name the groups that train in sagemaker_distribution_instance_groups",
        )
    unknown = [name for name, count in counts.items() if not count]
    return [f"nobody can tell whether all hosts start the same number of ranks: {listed}"] if unknown else []


# --- variables ----------------------------------------------------------------------------------------------------


def _interface(job: Job, hardware: Hardware, topology: Topology, address: str) -> tuple[str, str]:
    if topology.world_size == 1:
        return "", ""
    from runtime.planning.interface import choose_interface

    return choose_interface(job.network_interface, hardware.interfaces, hardware.routes, address)


def _defaults(hardware: Hardware, job: Job, topology: Topology, interface: str, interface_why: str) -> list[Choice]:
    """Variables that we set only where the user did not."""
    nproc = topology.nproc_per_host
    threads = max(1, hardware.cpus // nproc)
    choices = [
        Choice("OMP_NUM_THREADS", str(threads), f"{hardware.cpus} CPUs / {nproc} ranks on this host"),
        Choice("PYTHONUNBUFFERED", "1", "log lines arrive at once"),
    ]
    if interface:
        # NCCL finds the loopback by itself where all ranks are on one machine.
        names = ("GLOO_SOCKET_IFNAME",) if interface == "lo" else ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
        choices += [Choice(name, interface, interface_why) for name in names]
    if hardware.fabric is not None or hardware.accelerators:
        from runtime.planning.fabric import Fabric, variables

        kind, instance_type = hardware.accelerator_kind, job.host.instance_type
        fabric = hardware.fabric or Fabric()
        choices += [Choice(*row) for row in variables(fabric, kind, instance_type, topology.num_hosts, nproc)]
    return choices


def _deepspeed(topology: Topology) -> list[Choice]:
    """As DeepSpeed's launcher, which needs ssh or one command per host to do the same."""
    why = "as DeepSpeed's launcher sets it"
    return [
        Choice("CROSS_RANK", str(topology.host_rank), why),
        Choice("CROSS_SIZE", str(topology.num_hosts), why),
        Choice("LOCAL_SIZE", str(topology.nproc_per_host), why),
    ]


def _tools(style: str, environ: Environ, find: Callable[[Environ], Tools] | None) -> Tools | None:
    if style in ("own", "deepspeed"):
        return None
    from runtime.planning import adapters

    return (find or adapters.find_tools)(environ)


def _warnings(hardware: Hardware, job: Job, topology: Topology, environ: Environ) -> list[str]:
    told: list[str] = []
    shares = topology.nproc_per_host > 1 or hardware.accelerators > 0
    if shares and 0 < hardware.shm_bytes < LEAST_SHM_BYTES:
        size = f"{hardware.shm_bytes >> 20} MiB"
        told.append(f"shared memory (/dev/shm) has {size}: {SHARED_LIMIT}; Docker: --shm-size or --ipc=host")
    if shares and 0 <= hardware.open_files < LEAST_OPEN_FILES:
        files = f"a process may open {hardware.open_files} files (nofile)"
        told.append(f"{files}: loader workers need more; Docker: --ulimit nofile=65536")
    for name in sorted(environ):
        if name.startswith("RDMAV_"):
            told.append(f"{name} is set by the user: newer kernels can fail with it, and EFA needs none of RDMAV_*")
    if hardware.fabric is not None:
        from runtime.planning.fabric import warnings

        told += warnings(
            hardware.fabric,
            hardware.accelerator_kind,
            job.host.instance_type,
            topology.num_hosts,
            hardware.locked_bytes,
        )
    return told
