"""Instance groups: which of them form the world, and which program each one runs. Pure.

In a heterogeneous cluster some hosts train and others feed them. The contract names the training ones
(``sagemaker_distribution_instance_groups``); our setting ``slipway_group_programs`` gives others their own program.
"""

from __future__ import annotations

from runtime.base.env import flag
from runtime.base.errors import UserError
from runtime.base.frozen import cast
from runtime.base.jsontext import loads, loads_or
from runtime.contract.hyperparameters import unquote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.contract.job import Job
    from runtime.contract.settings import Settings

SWITCHES = (
    "sagemaker_mpi_enabled",
    "sagemaker_pytorch_ddp_enabled",
    "sagemaker_torch_distributed_enabled",
    "sagemaker_distributed_dataparallel_enabled",
)
"""The SDK's ``distribution=...``, in the order in which the PyTorch toolkit looks at them."""


def switched_on(job: Job, name: str) -> bool:
    """Whether one of the SDK's switches is on."""
    return bool(flag(unquote(job.hyperparameters.get(name, ""))))


def group_programs(job: Job, settings: Settings) -> Mapping[str, str]:
    """Read ``slipway_group_programs``: a JSON object of group name to program.

    Raises:
        UserError: no such object, or a group that the job does not have.
    """
    text = settings.group_programs
    if not text:
        return {}
    origin = settings.origin("group_programs")
    value = loads_or(text, None)
    programs = cast("dict[str, str]", value) if isinstance(value, dict) else {"": ""}
    if not all(isinstance(item, str) and item for item in programs.values()):
        raise UserError(
            f"slipway_group_programs is {text!r} (from {origin})",
            allowed='it is a JSON object of group to program, such as {"feeders": "feed.py"}',
        )
    for name in programs:
        _known(job, name, f"slipway_group_programs (from {origin})")
    return programs


def world_groups(job: Job, programs: Mapping[str, str]) -> tuple[str, ...]:
    """Name the groups whose hosts form the world; empty when all hosts do.

    The contract's hyperparameter decides. Without it, and with one of the SDK's switches on, each group is a world of
    its own (Source: sagemaker-training 5.1.4, environment.py 886-985). Else a group with a program of its own stands
    outside.

    Raises:
        UserError: a group that the job does not have, groups of one world with different programs, or no group left.
    """
    named = _distribution_groups(job)
    for name in named:
        _known(job, name, "sagemaker_distribution_instance_groups")
    if named:
        different = {programs.get(name, "") for name in named}
        if len(different) > 1:
            raise UserError(
                f"The groups of one world ({', '.join(named)}) have different programs in slipway_group_programs",
                allowed="all ranks of a world run the same program",
                fix="give a program of its own only to groups outside of sagemaker_distribution_instance_groups",
            )
        return named
    if len(job.groups) > 1 and any(switched_on(job, name) for name in SWITCHES):
        return (job.host.group,)
    if not programs:
        return ()
    left = tuple(group.name for group in job.groups if group.name not in programs)
    if not left:
        raise UserError(
            "Every group has a program of its own in slipway_group_programs, so that none is left to form the world",
            fix="name the groups that train together in sagemaker_distribution_instance_groups",
        )
    return left


def _known(job: Job, name: str, where: str) -> None:
    names = sorted(group.name for group in job.groups)
    if name not in names:
        raise UserError(
            f"{where} names {name!r}, which is no instance group of the job",
            allowed=f"groups: {', '.join(names) or 'none'}",
        )


def _distribution_groups(job: Job) -> tuple[str, ...]:
    text = unquote(job.hyperparameters.get("sagemaker_distribution_instance_groups", ""))
    if not text:
        return ()
    try:
        value = loads(text)
    except ValueError:
        value = text
    return tuple(map(str, cast("list[object]", value))) if isinstance(value, list) else (str(value),)
