"""Open MPI's remote start without ssh: who may ask, for what, and what happens at either end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.base.errors import PlatformError
from runtime.launch.remote import daemon_command, proof, request
from tests.conftest import Tree, free_port, wait_for

REAL = [
    "orted",
    "-mca",
    "orte_hnp_uri",
    '"12.0;tcp://127.0.0.1:4"',
    "-mca",
    "orte_node_regex",
    '"vm,algo-[1:1-2]@0(3)"',
]


def test_what_open_mpi_gives_a_shell_is_read_without_one() -> None:
    """The words as Open MPI 4.1.4 gives them to its agent."""
    expected = ["orted", "-mca", "orte_hnp_uri", "12.0;tcp://127.0.0.1:4", "-mca", "orte_node_regex"]
    assert daemon_command([" " + REAL[0], *REAL[1:]]) == [*expected, "vm,algo-[1:1-2]@0(3)"]
    assert daemon_command(["PATH=/x:$PATH", ";", "export", "PATH", ";", "/x/bin/prted", "-x"]) == ["/x/bin/prted", "-x"]


@pytest.mark.parametrize("words", [["rm", "-rf", "/"], ["orted", ";", "rm"], ["/bin/sh", "-c", "orted"], [], [";"]])
def test_only_its_daemons_are_started(words: list[str]) -> None:
    with pytest.raises(PlatformError, match=r"mpirun asks for .* on another host. it starts orted or prted"):
        daemon_command(words)


def test_a_proof_holds_for_one_command_and_one_nonce() -> None:
    good = proof(b"key", "nonce", ["orted", "-a"])
    assert good == proof(b"key", "nonce", ["orted", "-a"])
    assert len({good, proof(b"key", "nonce", ["orted", "-b"]), proof(b"key", "other", ["orted", "-a"]),
                proof(b"wrong", "nonce", ["orted", "-a"])}) == 4  # fmt: skip


DAEMON = """#!{python}
import os, pathlib, signal, subprocess, sys, time
marks = pathlib.Path({marks!r})
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleep, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
(marks / ".child").write_text(str(child.pid)); (marks / ".child").rename(marks / "child")
(marks / ".argv").write_text(repr(sys.argv[1:])); (marks / ".argv").rename(marks / "argv")
if "fail" in sys.argv: sys.exit(3)
if "die" in sys.argv: os.kill(os.getpid(), signal.SIGSEGV)
if "stay" in sys.argv: time.sleep(600)
"""


class Host:
    """One host that waits for mpirun, and a client of the same job."""

    def __init__(self, root: Path, address: str) -> None:
        self.tree = Tree(root / "ml")
        self.port = free_port(address)
        self.address = address
        self.tree.config("resourceconfig", {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]})
        self.tree.hyperparameters(slipway_remote_port=str(self.port), slipway_host_wait_s="60")
        Path(self.tree.paths.state).mkdir(parents=True)
        self.marks = root / "marks"
        self.marks.mkdir()
        (root / "bin").mkdir()
        (root / "bin/orted").write_text(DAEMON.format(python=sys.executable, marks=str(self.marks)))
        (root / "bin/orted").chmod(0o755)
        self.environ = {
            "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
            "SAGEMAKER_BASE_DIR": str(self.tree.base),
            "SLIPWAY_HOST_ADDRESSES": f"algo-1={address},algo-2={address}",
            "SLIPWAY_IMAGE_FILE": str(root / "none.json"),
            "TRAINING_JOB_NAME": "unit",
        }
        self.process = self.run("serve")

    def run(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", "-m", "runtime.launch.remote", *words]
        return subprocess.Popen(
            command, env={**self.environ, **environ}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def ask(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        """Ask as algo-1, whose tree differs in one word."""
        first = Tree(self.tree.base.parent / "first")
        first.config("resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"]})
        first.hyperparameters(slipway_remote_port=str(self.port), slipway_host_wait_s="60")
        return self.run("algo-2", *words, **{"SAGEMAKER_BASE_DIR": str(first.base), **environ})

    def connect(self) -> socket.socket:
        sockets: list[socket.socket] = []

        def listens() -> bool:
            try:
                sockets.append(socket.create_connection((self.address, self.port), timeout=60))
            except OSError:
                return False
            return True

        wait_for(listens, "nobody listens")
        return sockets[0]

    def gone(self, name: str) -> bool:
        try:
            state = Path(f"/proc/{(self.marks / name).read_text()}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        return state == "Z"

    def output(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        text, _ = process.communicate(timeout=120)
        return process.returncode, text


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path, f"127.{1 + os.getpid() % 250}.77.{1 + os.getpid() // 250 % 250}")
    yield made
    if made.process.poll() is None:
        made.process.kill()
    made.process.communicate()
    if (made.marks / "child").exists() and not made.gone("child"):
        os.kill(int((made.marks / "child").read_text()), signal.SIGKILL)


def test_a_daemon_runs_and_leaves_nothing_behind(host: Host) -> None:
    status, text = host.output(host.ask(*REAL))
    assert status == 0, text
    assert (host.marks / "argv").read_text() == repr(daemon_command(REAL)[1:])
    assert host.output(host.process)[0] == 0
    assert host.gone("child")


def test_a_daemons_exit_code_goes_to_mpirun_and_is_no_failure_of_this_host(host: Host) -> None:
    assert host.output(host.ask("orted", "fail"))[0] == 3
    assert host.output(host.process)[0] == 0


def test_a_rank_of_this_host_that_left_a_record_makes_it_fail(host: Host) -> None:
    (Path(host.tree.paths.state) / "error-rank-3.json").write_text("{}")
    host.output(host.ask("orted", "fail"))
    assert host.output(host.process)[0] == 1


def test_a_daemon_that_dies_of_a_signal_is_a_failure_of_this_host(host: Host) -> None:
    host.output(host.ask("orted", "die"))
    assert host.output(host.process)[0] == 128 + signal.SIGSEGV


def test_the_daemon_goes_when_mpirun_goes(host: Host) -> None:
    asking = host.ask("orted", "stay")
    wait_for((host.marks / "argv").exists, "the daemon did not start")
    asking.kill()
    host.output(asking)
    assert host.output(host.process)[0] == 0
    wait_for(lambda: host.gone("child"), "its child stayed")


def test_a_stop_before_anybody_asked_ends_it(host: Host) -> None:
    host.connect().close()
    host.process.terminate()
    assert host.output(host.process)[0] == 128 + signal.SIGTERM


def test_a_stop_leaves_the_daemon_to_mpirun(host: Host) -> None:
    asking = host.ask("orted", "stay")
    wait_for((host.marks / "argv").exists, "the daemon did not start")
    host.process.terminate()
    probe = host.ask("orted", "other", SLIPWAY_HOST_WAIT_S="1", TRAINING_JOB_NAME="unit")
    probe.kill()  # its fate is nothing to us: it gave the other processes time to run
    host.output(probe)
    assert host.process.poll() is None
    assert asking.poll() is None
    asking.kill()
    host.output(asking)
    assert host.output(host.process)[0] == 0


def test_another_job_is_refused_and_the_right_one_still_served(host: Host) -> None:
    status, text = host.output(host.ask("orted", TRAINING_JOB_NAME="another"))
    assert status == 2
    assert "says that this is not its job" in text
    assert host.output(host.ask("orted"))[0] == 0
    assert "refused a request that does not come from this job" in host.output(host.process)[1]


def test_who_says_nothing_or_nonsense_is_not_believed(host: Host) -> None:
    with host.connect() as sock:
        lines = sock.makefile("rb")
        assert "nonce" in json.loads(lines.readline())
        sock.sendall(b"[]\n")
        assert "refused" in json.loads(lines.readline())
    host.connect().close()
    assert not (host.marks / "argv").exists()
    assert host.output(host.ask("orted"))[0] == 0


def test_a_host_without_open_mpi_says_so(tmp_path: Path, host: Host) -> None:
    (tmp_path / "bin/orted").unlink()
    status, text = host.output(host.ask("/nowhere/orted"))
    assert status == 2
    assert "not on PATH of this host" in text
    status, text = host.output(host.process)
    assert status == 2
    assert "use the same image on every host" in text


def test_nobody_asks(host: Host, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "alone")
    tree.config("resourceconfig", {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]})
    tree.hyperparameters(slipway_remote_port=str(free_port(host.address)), slipway_host_wait_s="1")
    status, text = host.output(host.run("serve", SAGEMAKER_BASE_DIR=str(tree.base)))
    assert status == 2
    assert "asked for nothing within 1 s" in text


def test_a_taken_port_is_named(host: Host) -> None:
    host.connect().close()
    status, text = host.output(host.run("serve"))
    assert status == 2
    assert f"Port {host.port} ({host.address}) cannot be used" in text


def test_our_own_host_needs_no_connection(host: Host, tmp_path: Path) -> None:
    status, text = host.output(host.run("algo-2", "orted", "fail"))
    assert status == 3, text


def test_a_closed_connection_is_no_success() -> None:
    here, there = socket.socketpair()
    thread = threading.Thread(target=lambda: (there.sendall(b'{"nonce": "n"}\n'), there.recv(1 << 16), there.close()))
    thread.start()
    with here, pytest.raises(PlatformError, match="closed the connection"):
        request(here, b"key", ["orted"])
    thread.join()
