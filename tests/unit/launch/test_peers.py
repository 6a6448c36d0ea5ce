"""The launchers' side channel on loopback: who is there, who is not, and who is not believed."""

import contextlib
import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from runtime.base.errors import PlatformError
from runtime.contract.job import Host, Job
from runtime.contract.paths import Paths
from runtime.launch.loop import Loop
from runtime.launch.peers import Lost, Message, Peers, job_key
from runtime.planning.topology import parse_addresses
from tests.conftest import free_port, loopback_block


@dataclass
class World:
    """Hosts of one job on loopback, all driven by the test."""

    addresses: dict[str, str]
    port: int
    members: dict[str, Peers]
    loop: Loop
    stack: contextlib.ExitStack

    @property
    def watched(self) -> int:
        """Sockets of all members together."""
        return len(self.loop._calls)

    def join(self, name: str, key: bytes = b"t") -> Peers:
        peers = Peers(self.loop, name, list(self.addresses), self.addresses, self.port, key)
        self.members[name] = peers
        self.stack.callback(peers.close)
        return peers

    def freeze(self, name: str) -> None:
        """Stop a member as SIGSTOP would: its sockets stay open, and nobody turns its loop."""
        for link in self.members.pop(name)._open:
            self.loop.forget(link.sock.fileno())

    def turn(self, silence_s: float = 5.0) -> None:
        self.loop.turn(0.01)
        for peers in list(self.members.values()):
            peers.tick(time.monotonic(), silence_s)

    def until(self, condition: Callable[[], object], what: str, silence_s: float = 5.0) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, what
            self.turn(silence_s)

    def event(self, name: str, silence_s: float = 5.0) -> Lost | Message:
        found: list[Lost | Message] = []

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
            return World(addresses, free_port(f"{block}.1"), {}, Loop(), stack)

        yield make


def test_addresses_are_pairs() -> None:
    assert parse_addresses(" a=1.2.3.4 , b = 5.6.7.8,") == {"a": "1.2.3.4", "b": "5.6.7.8"}
    assert parse_addresses("") == {}


def test_the_key_tells_jobs_apart() -> None:
    def job(name: str, *hosts: str) -> Job:
        return Job(Paths.from_environ({}), name=name, hosts=tuple(Host(host) for host in hosts))

    assert job_key(job("a", "x", "y")) == job_key(job("a", "x", "y"))
    assert len({job_key(job(*words)) for words in (("a", "x"), ("b", "x"), ("a", "x", "y"), ("a", "xy"))}) == 4


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
    peers = Peers(two.loop, "algo-2", ["algo-1", "algo-2"], {"algo-2": two.addresses["algo-2"]}, two.port, b"t")
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
        two.loop.forget(link.sock.fileno())
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
    two.freeze("algo-2")
    event = two.event("algo-1", silence_s=0.3)
    assert event == Lost("algo-2", "no sign for 0.3 s", silent=True)


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


def proof(nonce: str, by: str, to: str, key: bytes) -> str:
    return hashlib.blake2b(f"{nonce} {by} {to}".encode(), key=key, digest_size=32).hexdigest()


def hello_of(stranger: socket.socket, world: World) -> dict[str, str]:
    """Read what a member says first to whoever connects."""
    heard = b""
    stranger.settimeout(0)

    def whole() -> bool:
        nonlocal heard
        with contextlib.suppress(BlockingIOError):
            heard += stranger.recv(4096)
        return b"\n" in heard

    world.until(whole, "no hello")
    return json.loads(heard.split(b"\n")[0])


def refused(stranger: socket.socket) -> bool:
    try:
        return stranger.recv(4096) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "words",
    [
        [{"hello": "algo-9", "nonce": "n"}],
        [{"hello": "algo-1", "nonce": "n"}],
        [{"failed": {"message": "believe me"}}],
        [{"hello": "algo-2", "nonce": "n"}, {"proof": "00"}],
        [{"hello": "algo-2", "nonce": "n"}, {"failed": {"message": "before the proof"}}],
        [{"proof": "00"}],
    ],
)
def test_a_stranger_is_refused_and_never_believed(
    world: Callable[[int], World], words: list[dict[str, object]]
) -> None:
    two = world(2)
    first = two.join("algo-1")
    stranger = two.stranger("algo-1")
    for word in [*words, {"failed": {"message": "x"}}]:
        stranger.sendall(json.dumps(word).encode() + b"\n")
    stranger.settimeout(0)
    two.until(lambda: refused(stranger), "the stranger was kept")
    assert first.missing == ["algo-2"]
    assert first.take_events() == []


def test_who_knows_the_key_is_believed_and_a_proof_serves_once(world: Callable[[int], World]) -> None:
    two = world(2)
    first = two.join("algo-1")
    member = two.stranger("algo-1")
    nonce = hello_of(member, two)["nonce"]
    answer = json.dumps({"proof": proof(nonce, "algo-2", "algo-1", b"t")}).encode() + b"\n"
    member.sendall(b'{"hello": "algo-2", "nonce": "n"}\n' + answer + b'{"failed": {"message": "x"}}\n')
    assert two.event("algo-1") == Message("algo-2", {"failed": {"message": "x"}})
    again = two.stranger("algo-1")
    hello_of(again, two)
    again.sendall(b'{"hello": "algo-2", "nonce": "n"}\n' + answer)
    two.until(lambda: refused(again), "an old proof was believed")
    assert first.missing == []


def test_a_silent_stranger_is_put_out(world: Callable[[int], World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.launch.peers.PROOF_S", 0.2)
    two = world(2)
    two.join("algo-1")
    stranger = two.stranger("algo-1")
    hello_of(stranger, two)
    two.until(lambda: refused(stranger), "the stranger was kept")


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\n", b"[]\n", b"x" * 70000])
def test_noise_on_the_port_is_dropped(world: Callable[[int], World], noise: bytes) -> None:
    two = world(2)
    first = two.join("algo-1")
    stranger = two.stranger("algo-1")
    sockets = two.watched
    two.until(lambda: two.watched > sockets, "not accepted")
    stranger.sendall(noise)
    two.until(lambda: two.watched == sockets, "the noise was kept")
    second = two.join("algo-2")
    two.until(lambda: not first.missing and not second.missing, "the real host was kept out")


def test_another_jobs_launcher_does_not_join(world: Callable[[int], World]) -> None:
    two = world(2)
    first, second = two.join("algo-1", b"job a"), two.join("algo-2", b"job b")
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        two.turn()
    assert (first.missing, second.missing) == (["algo-2"], ["algo-1"])


def test_the_end_of_a_stale_connection_does_not_take_the_host_with_it(world: Callable[[int], World]) -> None:
    """A host that had to dial twice: its first connection may end after the second has proven itself."""
    two = world(2)
    first = two.join("algo-1")
    stale = two.stranger("algo-1")
    stale.sendall(b'{"hello": "algo-2", "nonce": "n"}\n')
    hello_of(stale, two)
    second = two.join("algo-2")
    two.until(lambda: not second.missing and not first.missing, "not met")
    assert len(first._open) == 2
    stale.close()
    two.until(lambda: len(first._open) == 1, "the end of the stale connection was not noticed")
    assert first.missing == []
    assert first.take_events() == []


def test_who_comes_late_is_told_what_was_said(world: Callable[[int], World]) -> None:
    two = world(2)
    first = two.join("algo-1")
    first.send(stop="SIGTERM")
    two.join("algo-2")
    assert two.event("algo-2") == Message("algo-1", {"stop": "SIGTERM"})


def test_only_neighbours_watch_each_other_and_all_know_each_other(world: Callable[[int], World]) -> None:
    """The signs of life of a host do not grow with the job."""
    six = world(6)
    members = {name: six.join(name) for name in six.addresses}
    six.until(lambda: not any(peers.missing for peers in members.values()), "not all met")
    assert {name: peers._neighbours for name, peers in members.items()} == {
        f"algo-{n}": sorted({f"algo-{(n - 2) % 6 + 1}", f"algo-{n % 6 + 1}"}) for n in range(1, 7)
    }
    six.freeze("algo-4")
    assert isinstance(six.event("algo-3", silence_s=0.4), Lost)
    assert isinstance(six.event("algo-5", silence_s=0.4), Lost)
    assert members["algo-1"].take_events() == []
    assert not members["algo-3"].deaf


def test_who_hears_nobody_is_deaf(world: Callable[[int], World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.launch.peers.SUSPECT_S", 0.4)
    four = world(4)
    members = {name: four.join(name) for name in four.addresses}
    four.until(lambda: not any(peers.missing for peers in members.values()), "not all met")
    for name in ("algo-1", "algo-3", "algo-4"):  # as if the cable of algo-2 had been pulled
        four.freeze(name)
    event = four.event("algo-2", silence_s=0.8)
    assert isinstance(event, Lost)
    assert members["algo-2"].deaf


def test_a_neighbour_that_is_heard_again_is_not_lost(
    world: Callable[[int], World], capsys: pytest.CaptureFixture[str]
) -> None:
    two = world(2)
    first, second = two.join("algo-1"), two.join("algo-2")
    two.until(lambda: not first.missing and not second.missing, "not met")
    paused = two.members.pop("algo-2")
    said: list[str] = []

    def says(words: str) -> bool:
        said.append(capsys.readouterr().err)
        return words in "".join(said)

    two.until(lambda: says("algo-2 has been silent for"), "not suspected", silence_s=60.0)
    two.members["algo-2"] = paused
    two.until(lambda: says("algo-2 is heard again"), "not heard again", silence_s=60.0)
    assert first.take_events() == []


def test_closing_gives_every_socket_back(world: Callable[[int], World]) -> None:
    two = world(2)
    first = two.join("algo-1")
    two.stranger("algo-1")
    two.until(lambda: two.watched > 1, "not accepted")
    first.close()
    assert two.watched == 0
