"""Which network interface the ranks talk through: named, routed or the only one, but always one that exists. Pure.

NCCL and gloo take the first interface that they like when nobody tells them, such as docker0 or a link-local address;
they fail when they are told a name that does not exist. So a name is exported only after it was found on this host.
"""

from __future__ import annotations

from runtime.base.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

BRIDGES = ("docker", "br-", "veth", "virbr", "cni", "flannel", "podman", "lxc", "ifb", "tunl", "dummy")
"""Interfaces that lead into this machine and not out of it, by the beginnings of their names."""


@frozen
class Route:
    """One line of /proc/net/route."""

    interface: str
    destination: int
    """IPv4 network as a number in host order."""
    mask: int
    metric: int


def parse_routes(text: str) -> tuple[Route, ...]:
    """Read /proc/net/route: hexadecimal, the least significant byte first; routes that are not up are left out."""
    routes: list[Route] = []
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 8 or not int(words[3], 16) & 1:
            continue
        routes.append(Route(words[0], _swapped(words[1]), _swapped(words[7]), int(words[6])))
    return tuple(routes)


def _swapped(text: str) -> int:
    return int.from_bytes(bytes.fromhex(text), "little")


def as_number(address: str) -> int | None:
    """Read a dotted IPv4 address; None for a name.

    >>> as_number("127.0.0.1"), as_number("algo-1")
    (2130706433, None)
    """
    parts = address.split(".")
    if len(parts) != 4 or not all(part.isdigit() and int(part) < 256 for part in parts):
        return None
    return int.from_bytes(bytes(int(part) for part in parts), "big")


def choose_interface(named: str, up: Sequence[str], routes: Sequence[Route], address: str) -> tuple[str, str]:
    """Choose the interface for the traffic between hosts.

    Args:
        named: by the platform; SDK v3's local mode writes ``ethwe``, which no longer exists.
        up: interfaces that exist and are up.
        routes: of this host.
        address: of the coordinator, where it is known as a number; else any text.

    Returns:
        Its name (empty: leave the choice to the libraries) and the reason.
    """
    number = as_number(address)
    if number is not None and number >> 24 == 127:
        # gloo would otherwise ask the name service for this machine's name, which an isolated container lacks.
        return "lo", f"all ranks meet at the loopback address {address}"
    lacking = f"{named!r} of resourceconfig.json does not exist here; " if named and named not in up else ""
    if named and not lacking:
        return named, "named by resourceconfig.json and present on this host"
    if number is not None:
        best = _route(number, routes, up)
        if best:
            return best, f"{lacking}the route to the coordinator {address} goes through it"
    best = _route(0, [route for route in routes if route.mask == 0], up)
    if best:
        return best, f"{lacking}the default route goes through it"
    outward = [name for name in up if name != "lo" and not name.startswith(BRIDGES)]
    if len(outward) == 1:
        return outward[0], f"{lacking}the only interface that is up and leads out"
    what = f"{len(outward)} interfaces could be meant" if outward else "no interface leads out"
    return "", f"{lacking}{what}: left to NCCL and gloo"


def _route(number: int, routes: Sequence[Route], up: Sequence[str]) -> str:
    fitting = [route for route in routes if number & route.mask == route.destination and route.interface in up]
    # As the kernel: the longest prefix, then the smallest metric.
    best = min(fitting, key=lambda route: (-route.mask.bit_count(), route.metric), default=None)
    return best.interface if best is not None else ""
