"""Addresses and ports by which several hosts live on one machine, apart from every other run on it."""

import random
import socket
from collections.abc import Sequence
from pathlib import Path

from runtime.base.errors import PlatformError

PORT_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST_PORT = 20000
"""Above the ports that common servers listen on."""
ATTEMPTS = 200


def loopback_addresses(hosts: Sequence[str], run_id: int) -> dict[str, str]:
    """Give every host an address of its own in 127.0.0.0/8.

    Args:
        hosts: at most `runtime.local.request.MOST_HOSTS`.
        run_id: the process id of the run; two runs at one time get different blocks.

    >>> loopback_addresses(["algo-1", "algo-2"], 0)
    {'algo-1': '127.1.0.2', 'algo-2': '127.1.0.3'}
    """
    block = f"127.{1 + (run_id >> 8) % 254}.{run_id % 256}"
    return {host: f"{block}.{2 + index}" for index, host in enumerate(hosts)}


def free_ports(count: int) -> tuple[int, ...]:
    """Find ports that are free on every address of this machine.

    They lie below the range from which the kernel takes the ports of outgoing connections, so that none of these
    can come between our look and the job's bind.

    Raises:
        PlatformError: none was found.
    """
    try:
        highest = int(PORT_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        highest = 32768
    lowest = min(LOWEST_PORT, max(1024, highest // 2))
    found: list[int] = []
    for _ in range(ATTEMPTS):
        # A fixed start would make two runs of one moment choose the same.
        port = random.SystemRandom().randrange(lowest, max(lowest + 1000, highest))
        with socket.socket() as sock:
            try:
                sock.bind(("", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
        if len(found) == count:
            return tuple(found)
    raise PlatformError(f"No {count} free TCP ports in {lowest}-{highest} after {ATTEMPTS} looks")
