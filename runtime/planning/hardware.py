"""What this machine has, asked once and without starting a program.

Reads /proc, /sys and /dev under a movable root, so that tests can describe any machine. The tools of the vendors
(nvidia-smi, neuron-ls, rocm-smi) may take seconds each, and not every image has them; NVIDIA's library is asked only
where the kernel has no device nodes to count.
"""

from __future__ import annotations

import os

from runtime.base import kernel
from runtime.base.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.base.env import Environ
    from runtime.planning.fabric import Fabric
    from runtime.planning.interface import Route

NEURON_CORES_PER_DEVICE = 2
"""Of Trainium 1 and Inferentia 2, where the driver does not list them."""


@frozen
class Hardware:
    """One host's machine."""

    cpus: int
    """CPUs that this container may use: affinity, capped by the cgroup's quota; at least 1."""
    memory_bytes: int
    """Memory limit of the cgroup, else of the machine; 0 when unknown."""
    accelerators: int = 0
    """Visible accelerators, as ranks that fill them: GPUs, or NeuronCores."""
    accelerator_kind: str = "none"
    """``nvidia``, ``neuron``, ``amd`` or ``none``."""
    accelerator_source: str = ""
    """How they were counted, for the plan."""
    interfaces: tuple[str, ...] = ()
    """Network interfaces that exist and are up."""
    routes: tuple[Route, ...] = ()
    """IPv4 routes; empty when nobody asked for the network."""
    fabric: Fabric | None = None
    """The fast network; None when nobody asked for it."""
    shm_bytes: int = 0
    """Size of /dev/shm; 0 when there is none."""
    locked_bytes: int = -1
    """Limit of locked memory (memlock); -1: unlimited or unknown."""
    open_files: int = -1
    """Limit of open files (nofile); -1: unlimited or unknown."""

    @property
    def gpus(self) -> int:
        """Visible GPUs."""
        return self.accelerators if self.accelerator_kind in ("nvidia", "amd") else 0

    @property
    def neurons(self) -> int:
        """Visible NeuronCores."""
        return self.accelerators if self.accelerator_kind == "neuron" else 0


def probe(environ: Environ, root: str = "/", *, network: bool = True) -> Hardware:
    """Look at the machine.

    Args:
        environ: ``CUDA_VISIBLE_DEVICES``, ``NEURON_RT_VISIBLE_CORES`` and the like hide accelerators.
        root: where /proc, /sys, /dev and /opt are.
        network: also find routes and the fast network, which a job of one host has no use for.
    """
    root = root.rstrip("/")
    count, kind, source = _accelerators(root, environ)
    routes: tuple[Route, ...] = ()
    fabric: Fabric | None = None
    if network:
        from runtime.planning.fabric import look
        from runtime.planning.interface import parse_routes

        routes, fabric = parse_routes(kernel.text(f"{root}/proc/net/route")), look(root)
    locked, files = _limits(kernel.text(f"{root}/proc/self/limits"))
    return Hardware(
        cpus=_cpus(root),
        memory_bytes=_memory(root),
        accelerators=count,
        accelerator_kind=kind if count else "none",
        accelerator_source=source,
        interfaces=tuple(
            name for name in kernel.names(f"{root}/sys/class/net") if _is_up(f"{root}/sys/class/net/{name}")
        ),
        routes=routes,
        fabric=fabric,
        shm_bytes=_size_of(f"{root}/dev/shm"),  # noqa: S108 - its size only
        locked_bytes=locked,
        open_files=files,
    )


# --- accelerators -------------------------------------------------------------------------------------------------


def _accelerators(root: str, environ: Environ) -> tuple[int, str, str]:
    """Return how many are visible, their kind, and how that is known."""
    nodes = kernel.names(f"{root}/dev")
    gpus = _numbered(nodes, "nvidia")
    if gpus or kernel.names(f"{root}/proc/driver/nvidia/gpus"):
        count, source = _nvidia(root, gpus, environ)
        return count, "nvidia", source
    neurons = _numbered(nodes, "neuron")
    if neurons:
        count, source = _neuron(root, neurons, environ)
        return count, "neuron", source
    if "kfd" in nodes:
        count, source = _amd(root, environ)
        return count, "amd", source
    if "dxg" in nodes:  # Windows' subsystem for Linux has one node for all GPUs
        count = count_by_nvml(_load_nvml)
        return _hidden(count, f"{count} GPUs (NVML)", ("CUDA_VISIBLE_DEVICES",), environ)[0], "nvidia", "NVML"
    return 0, "none", "no /dev/nvidia*, /dev/neuron* or /dev/kfd"


def _numbered(nodes: list[str], name: str) -> list[str]:
    """List the numbers of nodes such as nvidia0; nvidiactl and nvidia-uvm are none."""
    return [node[len(name) :] for node in nodes if node.startswith(name) and node[len(name) :].isdecimal()]


def _nvidia(root: str, minors: list[str], environ: Environ) -> tuple[int, str]:
    """Count GPUs that the container was given: device nodes, which the NVIDIA runtime creates for these only."""
    listed = kernel.names(f"{root}/proc/driver/nvidia/gpus")
    source = f"{len(minors)} device nodes /dev/nvidia*" if minors else f"{len(listed)} GPUs of the driver"
    count = len(minors) or len(listed)
    sliced = [minor for minor in minors if _in_mig_mode(root, minor)]
    if sliced and "CUDA_VISIBLE_DEVICES" not in environ:
        # CUDA lists whole GPUs where there are any, else the first MIG instance, never more.
        count = len(minors) - len(sliced) or 1
        source = f"{source}, {len(sliced)} of them in MIG mode: CUDA shows a process one MIG instance at most"
    uuids = [_uuid(kernel.text(f"{root}/proc/driver/nvidia/gpus/{name}/information")) for name in listed]
    return _hidden(count, source, ("CUDA_VISIBLE_DEVICES",), environ, [uuid for uuid in uuids if uuid])


def _in_mig_mode(root: str, minor: str) -> bool:
    home = f"{root}/proc/driver/nvidia/capabilities/gpu{minor}/mig"
    return any(name.startswith("gi") and name[2:].isdecimal() for name in kernel.names(home))


def _uuid(information: str) -> str:
    for line in information.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "GPU UUID":
            return value.strip()
    return ""


def _hidden(
    count: int, source: str, variables: tuple[str, ...], environ: Environ, uuids: list[str] | None = None
) -> tuple[int, str]:
    """Apply the variable by which a user shows some devices only, as the vendor's library reads it."""
    for name in variables:
        if name not in environ:
            continue
        shown = 0
        for entry in (part.strip() for part in environ[name].split(",")):
            if entry.startswith("MIG-"):
                shown += not shown  # one instance for each process, and never beside another device
                break
            if entry.isdecimal():
                possible = int(entry) < count
            else:
                # A beginning that fits one device is enough; without the driver's list we believe it.
                matches = [uuid for uuid in uuids or () if uuid.startswith(entry)]
                possible = entry.startswith("GPU-") and (not uuids or len(matches) == 1)
            if not possible:
                break  # everything from the first impossible entry on is ignored
            shown += 1
        return min(count, shown), f"{source}, {name}={environ[name]}"
    return count, source


def _neuron(root: str, devices: list[str], environ: Environ) -> tuple[int, str]:
    cores = 0
    for device in devices:
        home = f"{root}/sys/devices/virtual/neuron_device/neuron{device}"
        text = kernel.text(f"{home}/core_count").strip()
        listed = [name for name in kernel.names(home) if name.startswith("neuron_core")]
        cores += int(text) if text.isdecimal() else len(listed) or NEURON_CORES_PER_DEVICE
    source = f"{cores} NeuronCores of {len(devices)} devices /dev/neuron*"
    shown = environ.get("NEURON_RT_VISIBLE_CORES")
    if shown is not None:
        return min(cores, _span(shown)), f"{source}, NEURON_RT_VISIBLE_CORES={shown}"
    number = environ.get("NEURON_RT_NUM_CORES", "")
    if number.isdecimal():
        return min(cores, int(number)), f"{source}, NEURON_RT_NUM_CORES={number}"
    return cores, source


def _span(text: str) -> int:
    """Count the numbers of a list such as ``0-3,8``."""
    count = 0
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if first.isdecimal() and (last.isdecimal() or not dash):
            count += max(0, int(last) - int(first) + 1) if dash else 1
    return count


def _amd(root: str, environ: Environ) -> tuple[int, str]:
    home = f"{root}/sys/class/kfd/kfd/topology/nodes"
    gpus = [node for node in kernel.names(home) if kernel.text(f"{home}/{node}/gpu_id").strip() not in ("", "0")]
    nodes = [name for name in kernel.names(f"{root}/dev/dri") if name.startswith("renderD")]
    # The topology lists the whole machine, the nodes what the container was given.
    count = min(len(gpus), len(nodes)) if gpus else len(nodes)
    source = f"{count} GPUs of /dev/kfd with nodes /dev/dri/renderD*"
    return _hidden(count, source, ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"), environ)


def _load_nvml() -> object:
    import ctypes

    return ctypes.CDLL("libnvidia-ml.so.1")


def count_by_nvml(load: Callable[[], object]) -> int:
    """Ask NVIDIA's management library; 0 when it is not there or does not answer.

    Args:
        load: returns the library, or raises OSError.
    """
    try:
        library: Any = load()
    except OSError:
        return 0
    import ctypes

    count = ctypes.c_uint(0)
    if library.nvmlInit_v2() != 0:
        return 0
    answered = library.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
    library.nvmlShutdown()
    return count.value if answered else 0


# --- CPUs and memory ----------------------------------------------------------------------------------------------


def _groups(root: str, controller: str) -> list[str]:
    """List the directories whose limits hold for us: our control group and those above it, in both generations.

    In a container its own group is usually mounted as the root, and the path of /proc/self/cgroup leads nowhere.
    """
    base = f"{root}/sys/fs/cgroup"
    own = {"": "", controller: ""}
    for line in kernel.text(f"{root}/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        for name in names.split(","):
            if name in own:
                own[name] = path
    found: list[str] = []
    for mount, path in ((base, own[""]), (f"{base}/{controller}", own[controller])):
        parts = [part for part in path.split("/") if part and part != ".."]
        found += ["/".join((mount, *parts[:end])) for end in range(len(parts), -1, -1)]
    return found


def _cpus(root: str) -> int:
    allowed = len(os.sched_getaffinity(0))
    for directory in _groups(root, "cpu"):
        quota, _, period = kernel.text(f"{directory}/cpu.max").strip().partition(" ")
        if not quota:  # the first generation
            quota = kernel.text(f"{directory}/cpu.cfs_quota_us").strip()
            period = kernel.text(f"{directory}/cpu.cfs_period_us").strip()
        if quota.isdecimal() and period.isdecimal() and int(period):
            allowed = min(allowed, -(-int(quota) // int(period)))
    return max(1, allowed)


def _memory(root: str) -> int:
    least = 0
    for line in kernel.text(f"{root}/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            least = int(line.split()[1]) * 1024
    for directory in _groups(root, "memory"):
        limit = (kernel.text(f"{directory}/memory.max") or kernel.text(f"{directory}/memory.limit_in_bytes")).strip()
        if limit.isdecimal():  # without a limit: "max", or a number far beyond the machine's memory
            least = min(least or int(limit), int(limit))
    return least


# --- the rest -----------------------------------------------------------------------------------------------------


def _is_up(interface: str) -> bool:
    if not os.path.isdir(interface):  # bonding_masters is a file among them
        return False
    # Not operstate: it lags a second behind, which is when containers start.
    flags = kernel.text(f"{interface}/flags").strip()
    return not flags or bool(int(flags, 16) & 1)


def _limits(text: str) -> tuple[int, int]:
    """Read the soft limits of locked memory (bytes) and of open files."""
    found = {"Max locked memory": -1, "Max open files": -1}
    for line in text.splitlines():
        for name in found:
            if line.startswith(name):
                soft = line[len(name) :].split()[0]
                found[name] = int(soft) if soft.isdecimal() else -1
    return found["Max locked memory"], found["Max open files"]


def _size_of(directory: str) -> int:
    try:
        facts = os.statvfs(directory)
    except OSError:
        return 0
    return facts.f_blocks * facts.f_frsize
