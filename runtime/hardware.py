"""What this machine has, asked once and without starting a program.

Reads /proc, /sys and /dev under a movable root, so that tests can describe any machine.
"""

from __future__ import annotations

import os

from runtime.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.env import Environ


@frozen
class Hardware:
    """One host's machine."""

    cpus: int
    """CPUs that this container may use: affinity, capped by the cgroup's quota; at least 1."""
    memory_bytes: int
    """Memory limit of the cgroup, else of the machine; 0 when unknown."""
    accelerators: int = 0
    """Visible NVIDIA GPUs."""
    accelerator_kind: str = "none"
    """``nvidia`` or ``none``."""
    interfaces: tuple[str, ...] = ()
    """Network interfaces that exist."""
    shm_bytes: int = 0
    """Size of /dev/shm; 0 when there is none."""


def probe(environ: Environ, root: str = "/") -> Hardware:
    """Look at the machine.

    Args:
        environ: ``CUDA_VISIBLE_DEVICES`` hides GPUs.
        root: where /proc, /sys and /dev are.
    """
    gpus = _visible(_nvidia_gpus(root), environ)
    return Hardware(
        cpus=_cpus(root),
        memory_bytes=_memory(root),
        accelerators=gpus,
        accelerator_kind="nvidia" if gpus else "none",
        interfaces=tuple(sorted(_names(f"{root}/sys/class/net"))),
        shm_bytes=_size_of(f"{root}/dev/shm"),  # noqa: S108 - only its size is asked,
    )


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        with open(path) as stream:
            return stream.read()
    except OSError:
        return ""


def _nvidia_gpus(root: str) -> int:
    """Count GPUs that the container was given: device nodes, which the NVIDIA runtime creates for these only."""
    nodes = [name for name in _names(f"{root}/dev") if name.startswith("nvidia") and name[6:].isdecimal()]
    return len(nodes) or len(_names(f"{root}/proc/driver/nvidia/gpus"))


def _visible(gpus: int, environ: Environ) -> int:
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return gpus
    # CUDA ignores everything from the first impossible entry on.
    names = [part.strip() for part in shown.split(",")]
    possible = next((i for i, name in enumerate(names) if name in {"", "-1"}), len(names))
    return min(gpus, possible)


def _cpus(root: str) -> int:
    allowed = len(os.sched_getaffinity(0))
    quota, _, period = _read(f"{root}/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit():
        allowed = min(allowed, max(1, -(-int(quota) // int(period))))
    return max(1, allowed)


def _memory(root: str) -> int:
    limit = _read(f"{root}/sys/fs/cgroup/memory.max").strip()
    total = _read(f"{root}/proc/meminfo").partition("MemTotal:")[2].split(maxsplit=1)
    machine = int(total[0]) * 1024 if total else 0
    return min(int(limit), machine or int(limit)) if limit.isdigit() else machine


def _size_of(directory: str) -> int:
    try:
        facts = os.statvfs(directory)
    except OSError:
        return 0
    return facts.f_blocks * facts.f_frsize
