"""What this machine has, asked once and without starting a program.

Reads /proc, /sys and /dev under a movable root, so that tests can describe any machine.
"""

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from runtime.env import Environ


@dataclass(frozen=True)
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


def probe(environ: Environ, root: Path = Path("/")) -> Hardware:
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
        interfaces=tuple(sorted(_names(root / "sys/class/net"))),
        shm_bytes=_size_of(root / "dev/shm"),
    )


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _nvidia_gpus(root: Path) -> int:
    """Count GPUs that the container was given: device nodes, which the NVIDIA runtime creates for these only."""
    nodes = [name for name in _names(root / "dev") if re.fullmatch(r"nvidia\d+", name)]
    return len(nodes) or len(_names(root / "proc/driver/nvidia/gpus"))


def _visible(gpus: int, environ: Environ) -> int:
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return gpus
    # CUDA ignores everything from the first impossible entry on.
    names = itertools.takewhile(lambda name: name not in {"", "-1"}, (part.strip() for part in shown.split(",")))
    return min(gpus, len(list(names)))


def _cpus(root: Path) -> int:
    allowed = len(os.sched_getaffinity(0))
    quota, _, period = _read(root / "sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit():
        allowed = min(allowed, max(1, -(-int(quota) // int(period))))
    return max(1, allowed)


def _memory(root: Path) -> int:
    limit = _read(root / "sys/fs/cgroup/memory.max").strip()
    total = re.search(r"MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo"))
    machine = int(total.group(1)) * 1024 if total else 0
    return min(int(limit), machine or int(limit)) if limit.isdigit() else machine


def _size_of(directory: Path) -> int:
    try:
        facts = os.statvfs(directory)
    except OSError:
        return 0
    return facts.f_blocks * facts.f_frsize
