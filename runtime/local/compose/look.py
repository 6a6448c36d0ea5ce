"""What other terminals ask of a job that ``slipway compose up`` runs: its hosts, their logs, its end."""

import json
from collections.abc import Sequence

from runtime.local import leftovers
from runtime.local.compose.file import Composition
from runtime.local.compose.hosts import FILE
from runtime.local.compose.job import results_of
from runtime.local.containers import Docker, Found

END_S = 10.0
"""From SIGTERM to SIGKILL. Source: ``docker compose down``."""


def running(docker: Docker, composition: Composition) -> list[Found]:
    """Find the containers of a compose file's job."""
    return docker.containers(f"{FILE}={composition.path.absolute()}")


def down(composition: Composition) -> None:
    """End the hosts of a job that still runs; its ``up`` then cleans up, and tells of it."""
    docker = Docker()
    try:
        leftovers.end(docker, running(docker, composition), END_S)
    finally:
        docker.close()


def ps(composition: Composition, words: Sequence[str]) -> None:
    """Print the hosts of a job that runs, as docker-compose does: a table, ids alone, or JSON lines."""
    docker = Docker()
    try:
        found = running(docker, composition)
    finally:
        docker.close()
    rows = [(item.labels[leftovers.HOST], item.name, "running" if item.running else "exited") for item in found]
    if {"-q", "--quiet"} & set(words):
        print("".join(f"{item.id}\n" for item in found), end="")
    elif "--services" in words:
        print("".join(f"{host}\n" for host, _, _ in rows), end="")
    elif "json" in words or "--format=json" in words:
        for host, name, state in rows:
            print(json.dumps({"Service": host, "Name": name, "State": state}))
    else:
        for host, name, state in [("SERVICE", "NAME", "STATE"), *rows]:
            print(f"{host:12} {name:60} {state}".rstrip())


def logs(composition: Composition, hosts: Sequence[str]) -> None:
    """Print what the hosts of a job said so far, host by host.

    Args:
        composition: the job.
        hosts: names; none: all.
    """
    names = [service.name for service in composition.services]
    width = max(len(name) for name in names)
    for name in hosts or names:
        path = results_of(composition) / "logs" / f"{name}.log"
        if path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                print(f"{name.ljust(width)} | {line}")
