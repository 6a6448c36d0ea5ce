"""Tells the other hosts of a failure that came before there was anything to supervise."""

from __future__ import annotations

import time

from runtime.base.errors import PlatformError
from runtime.base.frozen import asdict
from runtime.launch.loop import Loop
from runtime.launch.peers import Message, Peers, job_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.cause.outcome import Cause
    from runtime.contract.job import Job
    from runtime.contract.settings import Settings
    from runtime.launch.signals import Signals

ANNOUNCE_S = 30.0
"""How long a host that cannot even start tries to tell the others: cheaper than to let them all wait for it."""


def announce_failure(
    cause: Cause,
    job: Job,
    settings: Settings,
    addresses: Mapping[str, str],
    signals: Signals,
    took_s: float,
) -> None:
    """Tell the other hosts of a failure that came before there was anything to supervise.

    Bounded by `ANNOUNCE_S`: hosts that are not up by then find us missing. Where we failed after a longer installation,
    the others may be at the same for as long as it is allowed to take.

    Args:
        cause: what happened.
        job: whom to tell.
        settings: port and limits.
        addresses: host to address, where that is known without a name service.
        signals: a stop ends this too.
        took_s: seconds from our start to the failure.
    """
    loop = Loop()
    hosts = [host.name for host in job.hosts]
    key = job_key(job)
    try:
        peers = Peers(loop, job.current_host, hosts, addresses, settings.peer_port, key)
    except PlatformError:  # that may be what has failed
        peers = Peers(loop, job.current_host, hosts, addresses, settings.peer_port, key, listens=False)
    peers.send(failed=asdict(cause.short()))
    peers.send(ended=True)
    told: set[str] = set()
    deadline = time.monotonic() + (ANNOUNCE_S if took_s < ANNOUNCE_S else settings.install_s)
    while set(peers.missing) - told and time.monotonic() < deadline and not signals.stop_asked:
        loop.turn(0.05)
        peers.tick(time.monotonic(), settings.silence_s)
        for event in peers.take_events():
            if isinstance(event, Message):
                told.update(event.body.get("told", ()))
    peers.close()
