"""Where several hosts meet: what is said when one does not come, or when the place is taken."""

from __future__ import annotations

import socket

from runtime.base.errors import PlatformError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.launch.peers import Peers


def hosts_missing(peers: Peers, waited_s: float) -> PlatformError:
    """Name the hosts that did not come, and those that did."""
    missing = peers.missing
    return PlatformError(
        f"{'Hosts' if len(missing) > 1 else 'Host'} {', '.join(map(repr, missing))} did not come within "
        f"{waited_s:g} s: {peers.why_missing(missing[0])}",
        allowed=f"{', '.join(peers.present)} did" if peers.present else "",
        fix="allow traffic inside the security group; slipway_host_wait_s moves the limit",
    )


def require_free(host: str, address: str, port: str) -> None:
    """Find a taken port before the ranks do, each in its own words.

    Args:
        host: this one.
        address: its own, where the ranks are to meet.
        port: TCP port.

    Raises:
        PlatformError: somebody listens there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, int(port)))
        except OSError as error:
            raise PlatformError(
                f"Port {port} of {host} ({address}), where the ranks are to meet, cannot be used: {error.strerror}",
                fix="end the process that listens there, or set slipway_master_port to a free port",
            ) from error
