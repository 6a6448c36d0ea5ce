"""The interface between hosts: one that exists, with the reason."""

import pytest

from runtime.planning.interface import Route, as_number, choose_interface, parse_routes

TABLE = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	100	00000000	0	0	0
docker0	000011AC	00000000	0001	0	0	0	0000FFFF	0	0	0
eth1	0000000A	00000000	0001	0	0	0	000000FF	0	0	0
down0	0000000A	00000000	0000	0	0	0	00FFFFFF	0	0	0
"""
UP = ("docker0", "eth0", "eth1", "lo")
ROUTES = parse_routes(TABLE)


def test_the_kernels_table_is_read_in_its_byte_order() -> None:
    assert ROUTES[0] == Route("eth0", 0, 0, 100)
    assert (ROUTES[1].destination, ROUTES[1].mask) == (as_number("172.17.0.0"), as_number("255.255.0.0"))
    assert [route.interface for route in ROUTES] == ["eth0", "docker0", "eth1"]
    assert parse_routes("") == ()


def test_the_named_interface_is_taken_when_it_exists() -> None:
    name, why = choose_interface("eth1", UP, ROUTES, "algo-1")
    assert (name, why) == ("eth1", "named by resourceconfig.json and present on this host")


@pytest.mark.parametrize(
    ("address", "interface", "why"),
    [
        ("10.1.2.3", "eth1", "the route to the coordinator 10.1.2.3"),
        ("54.1.2.3", "eth0", "the route to the coordinator"),
        ("algo-1", "eth0", "the default route"),
        ("", "eth0", "the default route"),
    ],
)
def test_a_name_that_does_not_exist_is_replaced_by_a_route(address: str, interface: str, why: str) -> None:
    name, reason = choose_interface("ethwe", UP, ROUTES, address)
    assert name == interface
    assert reason.startswith("'ethwe' of resourceconfig.json does not exist here; ")
    assert why in reason


def test_the_longest_prefix_wins_then_the_smallest_metric() -> None:
    ten, wide, narrow = as_number("10.0.0.0"), as_number("255.0.0.0"), as_number("255.255.0.0")
    assert ten is not None and wide is not None and narrow is not None  # noqa: PT018
    routes = [Route("wide", ten, wide, 0), Route("slow", ten, narrow, 9), Route("fast", ten, narrow, 1)]
    assert choose_interface("", ("wide", "slow", "fast"), routes, "10.0.1.1")[0] == "fast"


def test_a_route_through_an_interface_that_is_gone_does_not_count() -> None:
    assert choose_interface("", ("lo", "eth1"), ROUTES, "54.1.2.3")[0] == "eth1"


def test_without_any_route_the_only_interface_that_leads_out() -> None:
    """A network without a gateway, such as docker's internal ones."""
    assert choose_interface("ethwe", ("docker0", "eth0", "lo"), (), "algo-1")[0] == "eth0"


@pytest.mark.parametrize("up", [("lo",), ("lo", "docker0"), ("eth0", "eth1", "lo")])
def test_without_a_clear_answer_nothing_is_exported(up: tuple[str, ...]) -> None:
    name, why = choose_interface("", up, (), "algo-1")
    assert name == ""
    assert "left to NCCL and gloo" in why


def test_loopback_addresses_need_the_loopback_interface() -> None:
    assert choose_interface("eth0", UP, ROUTES, "127.3.4.5")[0] == "lo"


@pytest.mark.parametrize("text", ["algo-1", "1.2.3", "1.2.3.256", "a.b.c.d", ""])
def test_names_are_no_addresses(text: str) -> None:
    assert as_number(text) is None
