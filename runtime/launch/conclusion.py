"""What became of the job on this host, once its ranks have ended."""

from __future__ import annotations

import os
import time

from runtime.base.errors import ExitCode
from runtime.base.frozen import cast
from runtime.base.jsontext import loads_or
from runtime.cause.outcome import Cause, Outcome, first_cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Any

    from runtime.planning.topology import Topology


def read_end_records(state_dir: str) -> list[Mapping[str, Any]]:
    """Read what ranks that use `Run` left at their end; a script that does not leaves nothing."""
    records: list[Mapping[str, Any]] = []
    for name in os.listdir(state_dir):
        if not (name.startswith("end-rank-") and name.endswith(".json")):
            continue
        with open(f"{state_dir}/{name}", encoding="utf-8") as stream:
            record: Any = loads_or(stream.read(), None)
        if isinstance(record, dict):
            records.append(cast("Mapping[str, Any]", record))
    return records


def stopped_step(records: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the step at which the ranks agreed to stop; None when none said so."""
    steps = [record["step"] for record in records if record.get("status") == "stopped"]
    return max((step for step in steps if isinstance(step, int)), default=None)


def conclude_failure(causes: Sequence[Cause], early: Cause | None) -> Outcome:
    """Choose the cause to report.

    Args:
        causes: all that is known, at least one.
        early: who left before the others, where all else is what survivors felt.
    """
    known = [*causes, early] if early is not None else causes
    cause = first_cause(known)
    rest = tuple(other for other in known if other is not cause)
    return Outcome("failed", cause.exit_code or ExitCode.PLATFORM_ERROR, cause, consequences=rest)


def conclude_well(records: Sequence[Mapping[str, Any]], ranks: int, last_step: int, stop_reason: str) -> Outcome:
    """Tell a stop from a completed job: one that was complete when the stop came is not stopped.

    Args:
        records: see `read_end_records`.
        ranks: on this host.
        last_step: that any of them has finished; 0 when none reports.
        stop_reason: who asked for a stop; empty: nobody.
    """
    step = stopped_step(records)
    completed = [record for record in records if record.get("status") == "completed"]
    all_completed = bool(completed) and len(completed) == ranks
    if step is not None or (stop_reason and not all_completed):
        return Outcome("stopped", step=last_step if step is None else step, reason=stop_reason or "the ranks")
    return Outcome("completed", step=last_step)


def cause_of_leaving(topology: Topology, gone: Sequence[int], done_hosts: Collection[str]) -> Cause | None:
    """Find who left in good order before the others, when all that is known is what those felt of it.

    Args:
        topology: of the job.
        gone: ranks of this host that ended with exit code 0.
        done_hosts: hosts whose ranks all did.
    """
    hosts = [topology.current_host] if gone else sorted(done_hosts, key=topology.all_hosts.index)
    if not hosts:
        return None
    ranks = gone or topology.ranks_of(hosts[0])
    which = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}-{ranks[-1]}"
    message = f"{which} ended with exit code 0 while other ranks were still at work and lost it"
    return Cause(hosts[0], message, ExitCode.USER_ERROR, time.time())
