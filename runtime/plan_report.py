"""The whole plan of a host as JSON and as a page of text, with secrets masked: what ``slipway plan`` prints."""

from __future__ import annotations

from runtime.base import redact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.contract.job import Job
    from runtime.planning.launch_plan import LaunchPlan

FORMAT = 1
"""Of the JSON object; it rises when a key changes its meaning or goes."""


def as_json(job: Job, plan: LaunchPlan) -> dict[str, Any]:
    """Return everything that would be done on this host.

    Keys: ``format, job, host, launcher, in_world, coordinator, hosts`` (of the world, in rank order), ``world`` (the
    same with group, instance type and ranks), ``all_hosts, world_size, procs_per_host, command, cwd, processes`` (rank,
    local rank, ranks that it stands for, command, environment of its own), ``environment`` (what all of them share),
    ``choices`` (name, value, reason) and ``warnings``.
    """
    topology = plan.topology
    homes = {host.name: host for host in job.hosts}
    here = list(topology.ranks_of(topology.current_host))
    return {
        "format": FORMAT,
        "job": job.name,
        "host": job.current_host,
        "launcher": plan.style,
        "in_world": topology.in_world,
        "coordinator": topology.coordinator,
        "hosts": list(topology.hosts),
        "world": [
            {
                "name": name,
                "group": homes[name].group,
                "instance_type": homes[name].instance_type,
                "ranks": list(topology.ranks_of(name)),
            }
            for name in topology.hosts
        ],
        "all_hosts": list(topology.all_hosts),
        "world_size": topology.world_size,
        "procs_per_host": topology.nproc_per_host,
        "command": redact.redact_words(plan.command),
        "cwd": plan.cwd,
        "processes": [
            {
                "rank": rank.rank,
                "local_rank": rank.local_rank,
                "ranks": here if rank.adapter else [rank.rank],
                "command": redact.redact_words(rank.command or plan.command),
                "environment": redact.redact_values(rank.environ),
            }
            for rank in plan.ranks
        ],
        "environment": dict(sorted(redact.redact_values(plan.environ).items())),
        "choices": [{"name": name, "value": value, "reason": reason} for name, value, reason in choices(plan)],
        "warnings": [redact.redact(warning) for warning in plan.warnings],
    }


def choices(plan: LaunchPlan) -> list[tuple[str, str, str]]:
    """Return name, value and reason of every decision, fit to be shown."""
    shown = redact.redact_values({choice.name: choice.value for choice in plan.choices})
    return [(choice.name, shown[choice.name], redact.redact(choice.reason)) for choice in plan.choices]


def headline(job: Job, plan: LaunchPlan) -> list[str]:
    """Say in a few lines who starts what; the table of choices follows it."""
    topology = plan.topology
    lines = [f"job {job.name}, host {job.current_host} of {', '.join(topology.all_hosts)}"]
    for host in topology.hosts if topology.num_hosts > 1 else ():
        ranks = topology.ranks_of(host)
        what = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}-{ranks[-1]}"
        lines.append(f"  {what}: {host}{' (coordinator)' if host == topology.coordinator else ''}")
    here = topology.ranks_of(topology.current_host)
    command = " ".join(redact.redact_words(plan.ranks[0].command or plan.command))
    if plan.ranks[0].adapter:
        lines.append(f"{plan.style} for ranks {here[0]}-{here[-1]} in {plan.cwd}: {command}")
    else:
        lines.append(f"each of ranks {here[0]}-{here[-1]} in {plan.cwd}: {command}")
    return lines
