"""The launchers' side channel on loopback: who is there, who is not, and who is not believed."""

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from runtime.errors import PlatformError
from runtime.job import Host, Job
from runtime.paths import Paths
from runtime.peers import Event, Lost, Message, Peers, job_token, parse_addresses
from tests.conftest import free_port, loopback_block


@dataclass
class World:
    """Hosts of one job on loopback, all driven by the test."""

    addresses: dict[str, str]
    port: int
    members: dict[str, Peers]
    selector: selectors.BaseSelector
    stack: contextlib.ExitStack

    def join(self, name: str, token: str = "t") -> Peers:  # noqa: S107
        peers = Peers(self.selector, name, list(self.addresses), self.addresses, self.port, token)
        self.members[name] = peers
        self.stack.callback(peers.close)
        return peers

    def turn(self, silence_s: float = 5.0) -> None:
        for key, _ in self.selector.select(0.01):
            key.data()
        for peers in list(self.members.values()):
            peers.tick(time.monotonic(), silence_s)

    def until(self, condition: Callable[[], object], what: str, silence_s: float = 5.0) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, what
            self.turn(silence_s)

    def event(self, name: str, silence_s: float = 5.0) -> Event:
        found: list[Event] = []

        def looked() -> bool:
            found.extend(self.members[name].take_events())
            return bool(found)

        self.until(looked, f"no event at {name}", silence_s)
        return found[0]

    def stranger(self, name: str) -> socket.socket:
        """Connect to a member without being one."""
        return self.stack.enter_context(socket.create_connection((self.addresses[name], self.port), timeout=5))


@pytest.fixture
def world() -> Iterator[Callable[[int], World]]:
    with contextlib.ExitStack() as stack:

        def make(count: int) -> World:
            block = loopback_block()
            addresses = {f"algo-{n}": f"{block}.{n}" for n in range(1, count + 1)}
            selector = stack.enter_context(selectors.DefaultSelector())
            return World(addresses, free_port(f"{block}.1"), {}, selector, stack)

        yield make


def test_addresses_are_pairs() -> None:
    assert parse_addresses(" a=1.2.3.4 , b = 5.6.7.8,") == {"a": "1.2.3.4", "b": "5.6.7.8"}
    assert parse_addresses("") == {}


def test_the_token_tells_jobs_apart() -> None:
    def job(name: str, *hosts: str) -> Job:
        return Job(Paths.from_environ({}), name=name, hosts=tuple(Host(host) for host in hosts))

    assert job_token(job("a", "x", "y")) == job_token(job("a", "x", "y"))
    assert len({job_token(job(*words)) for words in (("a", "x"), ("b", "x"), ("a", "x", "y"), ("a", "xy"))}) == 4


def test_a_world_of_one_opens_no_socket(world: Callable[[int], World]) -> None:
    alone = world(1)
    peers = alone.join("algo-1")
    assert len(alone.selector.get_map()) == 0
    assert (peers.missing, peers.others) == ([], [])
    peers.send(x=1)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_all_meet_in_whatever_order_they_come(world: Callable[[int], World], order: tuple[int, ...]) -> None:
    three = world(3)
    for number in order:
        three.join(f"algo-{number}")
        three.turn()
    three.until(lambda: not any(peers.missing for peers in three.members.values()), "not all met")


def test_messages_reach_everybody_once(world: Callable[[int], World]) -> None:
    three = world(3)
    members = [three.join(name) for name in three.addresses]
    three.until(lambda: not any(peers.missing for peers in members), "not all met")
    members[1].send(failed={"text": "ü" * 500})
    for name in ("algo-1", "algo-3"):
        assert three.event(name) == Message("algo-2", {"failed": {"text": "ü" * 500}})
        assert three.members[name].take_events() == []
    assert members[1].take_events() == []


def test_why_a_host_is_missing(world: Callable[[int], World]) -> None:
    two = world(2)
    second = two.join("algo-2")
    assert second.missing == ["algo-1"]
    assert second.why_missing("algo-1") == f"{two.addresses['algo-1']} port {two.port} does not answer"
    other = world(2)
    first = other.join("algo-1")
    assert first.why_missing("algo-2") == f"it did not connect to port {other.port} of algo-1"


def test_a_name_that_does_not_resolve_is_said_to_be_so(
    world: Callable[[int], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    two = world(2)
    two.addresses = {"algo-1": "", "algo-2": two.addresses["algo-2"]}
    peers = Peers(two.selector, "algo-2", ["algo-1", "algo-2"], {"algo-2": two.addresses["algo-2"]}, two.port, "t")
    two.stack.callback(peers.close)
    peers.tick(time.monotonic(), 5.0)
    assert peers.why_missing("algo-1") == "its name does not resolve"


def test_a_taken_port_is_named_with_the_way_out(world: Callable[[int], World]) -> None:
    two = world(2)
    two.join("algo-1")
    with pytest.raises(PlatformError) as caught:
        two.join("algo-1")
    assert f"Port {two.port} of algo-1 ({two.addresses['algo-1']}) cannot be used" in str(caught.value)
    assert "Fix: set slipway_peer_port to a free port" in str(caught.value)


def test_a_closed_connection_is_a_loss_and_is_told_once(world: Callable[[int], World]) -> None:
    two = world(2)
    first, second = two.join("algo-1"), two.join("algo-2")
    two.until(lambda: not first.missing and not second.missing, "not met")
    for link in second._links.values():  # as the kernel does for a process that was killed
        two.selector.unregister(link.sock)
        link.sock.close()
    del two.members["algo-2"]
    event = two.event("algo-1")
    assert isinstance(event, Lost)
    assert (event.host, event.said_goodbye) == ("algo-2", False)
    assert "closed" in event.why or "reset" in event.why
    two.turn()
    assert first.take_events() == []


def test_a_silent_host_is_lost(world: Callable[[int], World]) -> None:
    two = world(2)
    first, second = two.join("algo-1"), two.join("algo-2")
    two.until(lambda: not first.missing and not second.missing, "not met")
    del two.members["algo-2"]  # frozen: its sockets are open, nobody turns its loop
    event = two.event("algo-1", silence_s=0.3)
    assert event == Lost("algo-2", "no sign for 0.3 s")


def test_a_beating_host_is_not_lost(world: Callable[[int], World]) -> None:
    two = world(2)
    first, second = two.join("algo-1"), two.join("algo-2")
    two.until(lambda: not first.missing and not second.missing, "not met", silence_s=0.4)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        two.turn(silence_s=0.4)
    assert (first.take_events(), second.take_events()) == ([], [])


def test_a_goodbye_is_no_loss(world: Callable[[int], World]) -> None:
    two = world(2)
    first, second = two.join("algo-1"), two.join("algo-2")
    two.until(lambda: not first.missing and not second.missing, "not met")
    second.close()
    del two.members["algo-2"]
    event = two.event("algo-1")
    assert isinstance(event, Lost)
    assert event.said_goodbye


@pytest.mark.parametrize(
    "words",
    [
        {"hello": "algo-2", "token": "another job"},
        {"hello": "algo-9", "token": "t"},
        {"hello": "algo-1", "token": "t"},
        {"failed": {"message": "believe me"}},
        {"hello": "algo-2"},
    ],
)
def test_a_stranger_is_refused_and_never_believed(world: Callable[[int], World], words: dict[str, object]) -> None:
    two = world(2)
    first = two.join("algo-1")
    stranger = two.stranger("algo-1")
    stranger.sendall(json.dumps(words).encode() + b"\n" + b'{"failed": {"message": "x"}}\n')
    stranger.settimeout(0)

    def refused() -> bool:
        try:
            return stranger.recv(4096) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    two.until(refused, "the stranger was kept")
    assert first.missing == ["algo-2"]
    assert first.take_events() == []


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\n", b"[]\n", b"x" * 70000])
def test_noise_on_the_port_is_dropped(world: Callable[[int], World], noise: bytes) -> None:
    two = world(2)
    first = two.join("algo-1")
    stranger = two.stranger("algo-1")
    sockets = len(two.selector.get_map())
    two.until(lambda: len(two.selector.get_map()) > sockets, "not accepted")
    stranger.sendall(noise)
    two.until(lambda: len(two.selector.get_map()) == sockets, "the noise was kept")
    second = two.join("algo-2")
    two.until(lambda: not first.missing and not second.missing, "the real host was kept out")


def test_another_jobs_launcher_does_not_join(world: Callable[[int], World]) -> None:
    two = world(2)
    first, second = two.join("algo-1", "job a"), two.join("algo-2", "job b")
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        two.turn()
    assert (first.missing, second.missing) == (["algo-2"], ["algo-1"])


def test_the_end_of_a_stale_connection_does_not_take_the_host_with_it(world: Callable[[int], World]) -> None:
    """A host that had to dial twice: its first connection may end after the second has said hello."""
    two = world(2)
    first = two.join("algo-1")
    stale = two.stranger("algo-1")
    stale.sendall(json.dumps({"hello": "algo-2", "token": "t"}).encode() + b"\n")
    two.until(lambda: not first.missing, "not accepted")
    second = two.join("algo-2")
    two.until(lambda: not second.missing and len(first._open) == 2, "not met")
    two.turn()
    stale.close()
    two.until(lambda: len(first._open) == 1, "the end of the stale connection was not noticed")
    assert first.missing == []
    assert first.take_events() == []


def test_closing_gives_every_socket_back(world: Callable[[int], World]) -> None:
    two = world(2)
    first = two.join("algo-1")
    two.stranger("algo-1")
    two.until(lambda: len(two.selector.get_map()) > 1, "not accepted")
    first.close()
    assert len(two.selector.get_map()) == 0
