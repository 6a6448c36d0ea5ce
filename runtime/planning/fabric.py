"""The fast network between hosts: what of it is here, and which variables it needs, each with its reason.

Facts come from this host's devices and from versions that the image's own files name; the instance type says only what
ought to be there. The rules are a table: a row is a variable, its value and when it holds. What the user set is never
overridden (`runtime.planning.plan` sees to that), ``RDMAV_*`` is never set, and NCCL keeps the choice of its protocol
wherever the plugin is not known to be one that needs help.

Source: AWS's EFA cheat sheet (awsome-distributed-training, 1.architectures/efa-cheatsheet.md); aws-ofi-nccl issue 174
for a plugin without EFA; Neuron's guide to multi-node training for Trainium.
"""

from __future__ import annotations

import os
import sys

from runtime.base import kernel
from runtime.base.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.planning.instances import Instance

    Version = tuple[int, ...]

PLUGIN_PLACES = (
    "opt/amazon/ofi-nccl/lib64",
    "opt/amazon/ofi-nccl/lib/x86_64-linux-gnu",
    "opt/amazon/ofi-nccl/lib/aarch64-linux-gnu",
    "opt/amazon/ofi-nccl/lib",
    "opt/aws-ofi-nccl/lib",
    "opt/aws-ofi-nccl/install/lib",
)
"""Where AWS's installers (before and from 1.44) and the Deep Learning Containers put the plugin."""
PLUGIN_FILES = ("libnccl-net.so", "libnccl-net-ofi.so")


@frozen
class Fabric:
    """What this host and image have; an empty version is an unknown one."""

    efa_devices: int = 0
    """RDMA devices that the driver ``efa`` serves."""
    efa_usable: bool = False
    """Whether this container was given their device nodes."""
    other_rdma: int = 0
    """RDMA devices of other drivers, such as InfiniBand cards."""
    plugin: str = ""
    """File of aws-ofi-nccl, NCCL's way to EFA; empty when the image has none."""
    installer: Version = ()
    """aws-efa-installer."""
    libfabric: Version = ()
    ofi_nccl: Version = ()
    nccl: Version = ()
    kernel: Version = ()


@frozen
class Rule:
    """One row: the variable holds where every condition does."""

    variable: str
    value: str
    reason: str
    kind: str = "nvidia"
    needs_efa: bool = True
    """With EFA devices and more than one host."""
    needs_gpudirect: bool = False
    families: tuple[str, ...] = ()
    """Beginnings of instance families; empty for all."""
    older: str = ""
    """A version of `Fabric` that must be below `than`."""
    than: Version = ()
    unknown_is_old: bool = False
    newer: str = ""
    """A version of `Fabric` that must be known and at least `at_least`."""
    at_least: Version = ()


_RDMA = "NCCL would copy through the host's memory"

RULES = (
    Rule("FI_PROVIDER", "efa", "aws-ofi-nccl up to 1.5.0 does not choose it", older="ofi_nccl", than=(1, 5, 1)),
    Rule(
        "FI_PROVIDER",
        "efa",
        "EFA devices are here, and a plugin of unknown version might take TCP",
        older="ofi_nccl",
        than=(0,),
        unknown_is_old=True,
    ),
    Rule(
        "NCCL_PROTO",
        "simple",
        "aws-ofi-nccl up to 1.5.0 is not safe with the others on p4 and p5; newer ones choose themselves",
        families=("p4", "p5"),
        older="ofi_nccl",
        than=(1, 5, 1),
    ),
    Rule(
        "FI_EFA_USE_DEVICE_RDMA",
        "1",
        f"without it aws-ofi-nccl before 1.7 (or of unknown version) asks for no RDMA: {_RDMA}",
        needs_gpudirect=True,
        older="ofi_nccl",
        than=(1, 7),
        unknown_is_old=True,
    ),
    Rule(
        "FI_EFA_USE_DEVICE_RDMA",
        "1",
        f"without it libfabric before 1.18 offers no RDMA: {_RDMA}",
        needs_gpudirect=True,
        older="libfabric",
        than=(1, 18),
    ),
    Rule(
        "FI_EFA_FORK_SAFE",
        "1",
        "loader workers fork, which kernels before 5.15 do not survive",
        older="kernel",
        than=(5, 15),
    ),
    Rule(
        "FI_EFA_USE_HUGE_PAGE",
        "0",
        "loader workers fork, which fails with 'Cannot allocate memory' while EFA holds huge pages; it costs little",
    ),
    Rule(
        "FI_EFA_SET_CUDA_SYNC_MEMOPS",
        "0",
        "aws-efa-installer before 1.29.1 fails with NCCL 2.19 and newer otherwise",
        older="installer",
        than=(1, 29, 1),
        newer="nccl",
        at_least=(2, 19),
    ),
    Rule(
        "NCCL_SHM_USE_CUDA_MEMCPY",
        "1",
        "GPUs of g5 and g6 have no NVLink: copies through shared memory are twice as fast so",
        needs_efa=False,
        families=("g5", "g6"),
    ),
    Rule("FI_PROVIDER", "efa", "Neuron's collectives run on EFA between hosts", kind="neuron"),
    Rule("FI_EFA_USE_DEVICE_RDMA", "1", "Neuron's collectives use RDMA between hosts", kind="neuron"),
    Rule("FI_EFA_FORK_SAFE", "1", "Neuron's runtime forks", kind="neuron", older="kernel", than=(5, 15)),
)
"""The first row of a variable that holds wins."""

LEAST_FOR_P5 = (("nccl", (2, 18)), ("ofi_nccl", (1, 7, 2)))
"""Versions below which p5 is slow or fails."""


def look(root: str = "/", packages: Sequence[str] | None = None) -> Fabric:
    """Find the devices, and what the image's files say of the libraries.

    Args:
        root: where /sys, /dev, /proc and /opt are.
        packages: directories with installed Python packages; default: those of this Python.
    """
    drivers = [_driver(f"{root}/sys/class/infiniband/{name}") for name in kernel.names(f"{root}/sys/class/infiniband")]
    efa = drivers.count("efa")
    plugin = _plugin(root)
    if not efa and not plugin:
        return Fabric(other_rdma=len(drivers))
    listed = kernel.text(f"{root}/opt/amazon/efa_installed_packages")
    return Fabric(
        efa_devices=efa,
        efa_usable=any(name.startswith("uverbs") for name in kernel.names(f"{root}/dev/infiniband")),
        other_rdma=len(drivers) - efa,
        plugin=plugin,
        installer=version(_after(listed, "EFA installer version:")),
        libfabric=_package(listed, "libfabric") or version(_after(_pkgconfig(root), "Version:")),
        ofi_nccl=_package(listed, "libnccl-ofi") or _package(listed, "aws-ofi-nccl"),
        nccl=_nccl(sys.path if packages is None else packages),
        kernel=version(kernel.text(f"{root}/proc/sys/kernel/osrelease")),
    )


def variables(
    fabric: Fabric, kind: str, instance_type: str, num_hosts: int, nproc_per_host: int
) -> list[tuple[str, str, str]]:
    """Apply the table.

    Args:
        fabric: of this host.
        kind: of its accelerators.
        instance_type: such as ``ml.p5.48xlarge``, or ``local``.
        num_hosts: of the world.
        nproc_per_host: ranks on each.

    Returns:
        Name, value and reason of each variable.
    """
    found: dict[str, tuple[str, str, str]] = {}
    instance = _instance(instance_type)
    for rule in RULES:
        if rule.variable not in found and _holds(
            rule, fabric, kind, instance_type, instance, num_hosts, nproc_per_host
        ):
            row = f" [{instance_type}, {_versions(fabric)}]" if rule.needs_efa else f" [{instance_type}]"
            found[rule.variable] = (rule.variable, rule.value, rule.reason + row)
    if kind == "nvidia" and fabric.plugin and not fabric.efa_devices and not fabric.other_rdma and num_hosts > 1:
        why = f"the image has {fabric.plugin}, but this host no EFA: the plugin would end the job or hang"
        found["NCCL_NET"] = ("NCCL_NET", "Socket", why)
    return list(found.values())


def warnings(fabric: Fabric, kind: str, instance_type: str, num_hosts: int, locked_bytes: int) -> list[str]:
    """Name what is missing for the bandwidth that the instance type has; nothing for a job of one host.

    Args:
        fabric: of this host.
        kind: of its accelerators.
        instance_type: such as ``ml.p5.48xlarge``, or ``local``.
        num_hosts: of the world.
        locked_bytes: limit of locked memory (memlock); -1 = unlimited.
    """
    if num_hosts == 1:
        return []
    instance = _instance(instance_type)
    wanted = instance.efa if instance is not None else 0
    told: list[str] = []
    if fabric.efa_devices < wanted:
        told.append(
            f"{instance_type} has at least {wanted} EFA devices, {fabric.efa_devices} are visible here: "
            "the ranks of different hosts will talk over slower sockets"
        )
    if not fabric.efa_devices:
        return told
    if not fabric.efa_usable:
        told.append(
            "EFA devices exist, but /dev/infiniband has none: start the container with --device=/dev/infiniband/..."
        )
    if kind == "nvidia" and not fabric.plugin:
        told.append(
            "EFA devices exist, but the image has no aws-ofi-nccl plugin: NCCL falls back to sockets without a word"
        )
    if 0 <= locked_bytes < 1 << 30:
        told.append(
            f"EFA needs locked memory, the limit (memlock) is {locked_bytes >> 10} KiB: use --ulimit memlock=-1"
        )
    if instance_type.startswith("ml.p5"):
        for name, least in LEAST_FOR_P5:
            have: Version = getattr(fabric, name)
            if have and have < least:
                told.append(f"{name} {_text(have)} is too old for {instance_type}: {_text(least)} is the least")
    return told


def _holds(
    rule: Rule,
    fabric: Fabric,
    kind: str,
    instance_type: str,
    instance: Instance | None,
    num_hosts: int,
    nproc_per_host: int,
) -> bool:
    if rule.kind != kind:
        return False
    if rule.needs_efa and not (fabric.efa_devices and num_hosts > 1):
        return False
    if not rule.needs_efa and nproc_per_host == 1:
        return False
    if rule.needs_gpudirect and not (instance is not None and instance.gpudirect):
        return False
    if rule.families and not instance_type.removeprefix("ml.").startswith(rule.families):
        return False
    if rule.older:
        have: Version = getattr(fabric, rule.older)
        if not (have < rule.than if have else rule.unknown_is_old):
            return False
    if not rule.newer:
        return True
    known: Version = getattr(fabric, rule.newer)
    return bool(known) and known >= rule.at_least


def _instance(instance_type: str) -> Instance | None:
    if not instance_type.startswith("ml."):
        return None
    from runtime.planning.instances import INSTANCES  # a job on a laptop has no use for the table

    return INSTANCES.get(instance_type)


def _versions(fabric: Fabric) -> str:
    return f"aws-ofi-nccl {_text(fabric.ofi_nccl)}, libfabric {_text(fabric.libfabric)}"


def _text(numbers: Version) -> str:
    return ".".join(map(str, numbers)) or "unknown"


def version(text: str) -> Version:
    """Read the numbers at the beginning of a text.

    >>> version("1.22.0amzn4.0"), version("6.1.0-18-cloud"), version("none")
    ((1, 22, 0), (6, 1, 0), ())
    """
    numbers: list[int] = []
    for part in text.strip().split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if digits:
            numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def _package(listed: str, name: str) -> Version:
    """Find ``NAME..._VERSION_ARCH`` (Debian) or ``NAME...-VERSION.ARCH`` (RPM) in the installer's list."""
    for word in listed.split():
        if word.startswith(name):
            for mark in "_-":
                for part in word.split(mark)[1:]:
                    if part[:1].isdigit() and "." in part:
                        return version(part)
    return ()


def _after(text: str, label: str) -> str:
    _, _, rest = text.partition(label)
    return rest.lstrip().split("\n", 1)[0]


def _pkgconfig(root: str) -> str:
    for place in ("lib", "lib64"):
        text = kernel.text(f"{root}/opt/amazon/efa/{place}/pkgconfig/libfabric.pc")
        if text:
            return text
    return ""


def _plugin(root: str) -> str:
    for place in PLUGIN_PLACES:
        for file in PLUGIN_FILES:
            if os.path.exists(f"{root}/{place}/{file}"):
                return f"/{place}/{file}"
    return ""


def _nccl(directories: Sequence[str]) -> Version:
    """Read NCCL's version from the name of its installed wheel."""
    for directory in directories:
        if directory.endswith("-packages"):
            for name in kernel.names(directory):
                if name.startswith("nvidia_nccl_") and name.endswith(".dist-info"):
                    return version(name.removesuffix(".dist-info").rpartition("-")[2])
    return ()


def _driver(device: str) -> str:
    try:
        return os.path.basename(os.readlink(f"{device}/device/driver"))
    except OSError:
        return ""
