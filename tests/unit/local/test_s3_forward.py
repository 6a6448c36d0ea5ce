"""The forwarder: bytes go both ways unchanged, to one network, until the job ends."""

import socket
import threading
from collections.abc import Iterator

import pytest

from runtime.base.errors import UserError
from runtime.local.s3.forward import Forwarder, is_loopback


@pytest.fixture
def service() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        yield listener


@pytest.fixture
def forwarder(service: socket.socket) -> Iterator[Forwarder]:
    made = Forwarder("127.0.0.1", "127.0.0.0/8", f"http://127.0.0.1:{service.getsockname()[1]}/base?x=1")
    yield made
    made.close()


def connect(forwarder: Forwarder) -> socket.socket:
    port = int(forwarder.url.partition("//")[2].partition("/")[0].rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), 60)
    connection.settimeout(60)
    return connection


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_which_endpoints_no_container_can_reach():
    assert is_loopback("http://127.0.0.1:5000")
    assert is_loopback("https://localhost")
    assert is_loopback("http://[::1]:1/")
    assert is_loopback("http://127.9.8.7")
    assert not is_loopback("http://10.0.0.1:5000")
    assert not is_loopback("https://s3.invalid")


def test_the_url_keeps_everything_but_the_place(forwarder: Forwarder):
    assert forwarder.url.startswith("http://127.0.0.1:")
    assert forwarder.url.endswith("/base?x=1")


def test_much_in_both_directions_and_the_end_of_each(service: socket.socket, forwarder: Forwarder):
    sent, answered = b"q" * 3_000_000, b"a" * 2_000_000
    got: list[bytes] = []

    def serve() -> None:
        connection, _ = service.accept()
        connection.settimeout(60)
        with connection:
            got.append(read_all(connection))  # ends when the client has said all
            connection.sendall(answered)

    thread = threading.Thread(target=serve)
    thread.start()
    with connect(forwarder) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == answered
    thread.join(60)
    assert got == [sent]


def test_a_service_that_is_down_ends_the_connection(forwarder: Forwarder, service: socket.socket, capfd):
    service.close()
    with connect(forwarder) as client:
        assert read_all(client) == b""
    assert "does not answer" in capfd.readouterr().err


def test_a_service_that_breaks_off_breaks_off(service: socket.socket, forwarder: Forwarder):
    with connect(forwarder) as client:
        connection, _ = service.accept()
        connection.sendall(b"half")
        connection.close()
        assert read_all(client) == b"half"


def test_nobody_else_is_let_in(service: socket.socket, capfd):
    forwarder = Forwarder("127.0.0.1", "10.1.2.0/24", f"http://127.0.0.1:{service.getsockname()[1]}")
    try:
        with connect(forwarder) as client:
            assert read_all(client) == b""
        assert "127.0.0.1 is none of this job's containers" in capfd.readouterr().err
    finally:
        forwarder.close()


def test_the_end_of_the_job_ends_what_is_open(service: socket.socket):
    forwarder = Forwarder("127.0.0.1", "127.0.0.0/8", f"http://127.0.0.1:{service.getsockname()[1]}")
    client = connect(forwarder)
    connection, _ = service.accept()
    forwarder.close()
    assert read_all(client) == b""
    assert read_all(connection) == b""
    client.close()
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        connect(forwarder)


def test_a_gateway_of_another_machine(service: socket.socket):
    with pytest.raises(UserError, match="their way here, is no address of this machine"):
        Forwarder("192.0.2.1", "192.0.2.0/24", "http://127.0.0.1:1")
