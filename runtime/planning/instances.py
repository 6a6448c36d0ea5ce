"""What SageMaker's accelerated instance types hold. Data only: nothing is decided from a type that the host can tell.

Used for what one host cannot see: what the *other* types of a job hold, and what is missing on this one. A type that is
not here is no error; it is simply not known.

Source: EC2 user guide, "Elastic Fabric Adapter" (supported types, network cards), and the pages of the instance
families; the lists of sagemaker-training 5.1.4 and of SDK v3 lack p5e, p5en, p6, g6, g6e, trn2 (both), p6e-gb200 (v3).
"""

from __future__ import annotations

from runtime.base.frozen import frozen


@frozen
class Instance:
    """One instance type."""

    processes: int
    """Ranks that fill it: GPUs, or NeuronCores in the driver's default grouping."""
    kind: str
    """``nvidia`` or ``neuron``."""
    efa: int = 0
    """EFA devices that a job needs for its full bandwidth; 0 = sockets are what this type is used with, or unknown."""
    gpudirect: bool = False
    """Whether EFA reads and writes the accelerator's memory itself (Nitro 4 and later)."""


def _same(names: str, processes: int, kind: str = "nvidia", efa: int = 0, gpudirect: bool = False) -> list[Pair]:
    return [(f"ml.{name}", Instance(processes, kind, efa, gpudirect)) for name in names.split()]


TYPE_CHECKING = False
if TYPE_CHECKING:
    Pair = tuple[str, Instance]

INSTANCES: dict[str, Instance] = dict(
    [
        *_same("p3.2xlarge", 1),
        *_same("p3.8xlarge", 4),
        *_same("p3.16xlarge", 8),
        *_same("p3dn.24xlarge", 8, efa=1),
        *_same("p4d.24xlarge p4de.24xlarge", 8, efa=4, gpudirect=True),
        *_same("p5.4xlarge", 1, efa=1, gpudirect=True),
        *_same("p5.48xlarge p5e.48xlarge", 8, efa=32, gpudirect=True),
        *_same("p5en.48xlarge", 8, efa=16, gpudirect=True),
        *_same("p6-b200.48xlarge", 8, efa=8, gpudirect=True),
        *_same("p6-b300.48xlarge", 8, efa=16, gpudirect=True),
        *_same("p6e-gb200.36xlarge", 4, efa=1, gpudirect=True),
        *_same("g4dn.xlarge g4dn.2xlarge g4dn.4xlarge g4dn.8xlarge g4dn.16xlarge", 1),
        *_same("g4dn.12xlarge", 4),
        *_same("g5.xlarge g5.2xlarge g5.4xlarge g5.8xlarge g5.16xlarge", 1),
        *_same("g5.12xlarge g5.24xlarge", 4),
        *_same("g5.48xlarge", 8),
        *_same("g6.xlarge g6.2xlarge g6.4xlarge g6.8xlarge g6.16xlarge", 1),
        *_same("g6.12xlarge g6.24xlarge", 4),
        *_same("g6.48xlarge", 8),
        *_same("g6e.xlarge g6e.2xlarge g6e.4xlarge g6e.8xlarge g6e.16xlarge", 1),
        *_same("g6e.12xlarge g6e.24xlarge", 4),
        *_same("g6e.48xlarge", 8),
        *_same("trn1.2xlarge", 2, "neuron"),
        *_same("trn1.32xlarge", 32, "neuron", efa=8, gpudirect=True),
        *_same("trn1n.32xlarge", 32, "neuron", efa=16, gpudirect=True),
        *_same("trn2.48xlarge", 64, "neuron", efa=16, gpudirect=True),
    ]
)


def family(instance_type: str) -> str:
    """Return the family of a type.

    >>> family("ml.p6-b200.48xlarge"), family("local")
    ('p6-b200', '')
    """
    parts = instance_type.split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "ml" else ""


def processes_of(instance_type: str) -> int:
    """Return how many ranks fill a type: its accelerators, 1 for one that computes on CPUs; 0 when it is not known.

    >>> processes_of("ml.p5.48xlarge"), processes_of("ml.c5.18xlarge"), processes_of("ml.x9.large")
    (8, 1, 0)
    """
    if instance_type in INSTANCES:
        return INSTANCES[instance_type].processes
    name = family(instance_type)
    return int(len(name) > 1 and name[0] in "cmrt" and name[1].isdecimal())
