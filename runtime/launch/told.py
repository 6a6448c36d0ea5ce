"""What the other hosts tell, or cannot tell any more, as causes."""

from __future__ import annotations

import os
import time

from runtime.base.errors import ExitCode, UserError
from runtime.cause.outcome import Cause, cause_from_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.launch.peers import Lost, Message
    from runtime.planning.topology import Topology


def told_cause(event: Message) -> Cause:
    """Read a cause that another host tells."""
    try:
        return Cause(**event.body["failed"])
    except TypeError:  # another version of Slipway
        return Cause(event.host, f"failed: {event.body['failed']}", ExitCode.PLATFORM_ERROR, time.time())


def cause_of_another_world(event: Message, ours: Topology) -> Cause | None:
    """Compare what another host plans; the ranks would wait for each other until torch's own limit."""
    theirs = event.body["world"], event.body["ranks"]
    if event.host not in ours.hosts or theirs == (ours.world_size, ours.nproc_per_host):
        return None
    host = ours.current_host
    error = UserError(
        f"{host} plans {ours.nproc_per_host} ranks for each host and a world of {ours.world_size}, "
        f"{event.host} {theirs[1]} and {theirs[0]}",
        allowed="all hosts of a world have equally many ranks",
        fix="set slipway_procs_per_host, or use one instance type with one setting for all hosts",
    )
    return cause_from_error(error, host)


def cause_of_loss(event: Lost, topology: Topology, *, deaf: bool) -> Cause:
    """Say who was lost: the other host, or we ourselves when nobody can be heard.

    Args:
        event: what was seen.
        topology: of the job.
        deaf: no other host is heard.
    """
    here, code = topology.current_host, ExitCode.PLATFORM_ERROR
    if event.silent and (deaf or not _has_network()):
        message = f"host {here}{_ranks_of(topology, here)} is cut off from all other hosts"
        return Cause(here, f"{message}: {event.why} from {event.host}", code, time.time())
    message = f"host {event.host}{_ranks_of(topology, event.host)} was lost: {event.why}"
    # A closed connection is seen by everybody at once, a silence by the two neighbours only.
    return Cause(event.host, message, code, time.time(), consequence=event.said_goodbye)


def _ranks_of(topology: Topology, host: str) -> str:
    ranks = topology.ranks_of(host)
    if not ranks:
        return ""
    return f" (rank {ranks[0]})" if len(ranks) == 1 else f" (ranks {ranks[0]}-{ranks[-1]})"


def _has_network() -> bool:
    """Whether any interface but the loopback is up; True where the kernel does not tell."""
    try:
        names = os.listdir("/sys/class/net")
    except OSError:
        return True
    for name in names:
        try:
            with open(f"/sys/class/net/{name}/operstate") as stream:
                if name != "lo" and stream.read().strip() != "down":
                    return True
        except OSError:
            continue
    return not names
