"""The verbs of `runtime.testing` do what they say: otherwise a fault that never happened would prove a watch good."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.base.errors import PlatformError, UserError
from runtime.testing import Cluster, Limits, docker, must, wait_until
from tests.container.scripts import OBEYS

pytestmark = pytest.mark.container

LISTENS = ("python3", "-c", "import socket, time; s = socket.create_server(('', 9000)); time.sleep(600)")
CALLS = "import socket, sys; socket.create_connection((sys.argv[1], 9000), 1).close()"


@pytest.fixture
def cluster(slim: str, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(hosts: int = 1, **more: object) -> Cluster:
        made.append(Cluster(slim, tmp_path / f"job{len(made)}", hosts, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def reaches(cluster: Cluster, caller: int, called: int, address: str = "") -> bool:
    """Whether one host can open a connection to the other."""
    hasty = "RES_OPTIONS=timeout:1 attempts:1"  # a name that is not there costs ten seconds otherwise
    words = ("exec", "--env", hasty, cluster[caller].name, "python3", "-c", CALLS, address or cluster.hosts[called - 1])
    return docker(*words).returncode == 0


def test_packets_are_lost_one_way_or_both_and_come_back(cluster: Callable[..., Cluster]):
    pair = cluster(3)
    pair.start(command=LISTENS)
    wait_until(lambda: reaches(pair, 1, 2) and reaches(pair, 2, 1) and reaches(pair, 3, 2), "all hosts listen")
    pair[2].drop(peer=pair[1].address)
    assert not reaches(pair, 1, 2)
    assert reaches(pair, 3, 2)
    pair[2].heal()
    assert reaches(pair, 1, 2)
    pair[2].drop(outgoing=False)
    assert not reaches(pair, 3, 2)
    pair[2].heal()
    pair[2].drop(incoming=False)
    assert not reaches(pair, 2, 3)
    pair[2].heal()
    assert reaches(pair, 2, 3)


def test_an_interface_goes_and_comes(cluster: Callable[..., Cluster]):
    pair = cluster(2)
    pair.start(command=LISTENS)
    wait_until(lambda: reaches(pair, 1, 2), "the second host listens")
    pair[2].disconnect()
    assert not reaches(pair, 1, 2)
    pair[2].connect()
    assert reaches(pair, 1, 2)


def test_names_resolve_when_they_are_published(cluster: Callable[..., Cluster]):
    pair = cluster(2, names=False)
    pair.start(command=LISTENS)
    wait_until(lambda: reaches(pair, 1, 2, pair[2].address), "the second host listens")
    assert not reaches(pair, 1, 2)
    pair.publish(2)
    assert reaches(pair, 1, 2)


def test_a_frozen_host_stands_still_and_goes_on(cluster: Callable[..., Cluster]):
    one = cluster(script=OBEYS, hyperparameters={"slipway_profile": "off"})
    one.start()
    one[1].wait_for_file("model/ready-0")
    one[1].freeze()
    mark = one[1].tree.model("ready-0")
    mark.unlink()  # the script makes it anew at every step
    frozen_at = time.monotonic()
    wait_until(lambda: mark.exists() or time.monotonic() > frozen_at + 1, "a second")
    assert not mark.exists()
    assert one[1].running()
    one[1].unfreeze()
    one[1].wait_for_file("model/ready-0")


def test_the_rank_is_found_and_not_its_children(cluster: Callable[..., Cluster]):
    script = "import os, subprocess\nsubprocess.Popen(['sleep', '600'])\n"
    script += "open(os.environ['SM_MODEL_DIR'] + f\"/pid-{os.environ['RANK']}\", 'w').write(str(os.getpid()))\n" + OBEYS
    one = cluster(script=script, hyperparameters={"slipway_profile": "off", "slipway_procs_per_host": "2"})
    one.start()
    for rank in (0, 1):
        one[1].wait_for_file(f"model/ready-{rank}")
        assert one[1].pid_of_rank(rank) == int(one[1].tree.model(f"pid-{rank}").read_text())
    with pytest.raises(PlatformError, match="rank 2 does not run"):
        one[1].pid_of_rank(2)
    began = one[1].kill_rank(1)
    (ending,) = one.endings()
    assert ending.exit_code == 137
    assert ending.at > began
    assert "rank 1" in ending.failure
    assert ending.first("rank 1", "SIGKILL", since=began) is not None


def test_limits_hold(cluster: Callable[..., Cluster]):
    limits = Limits(
        memory_mb=64, shm_mb=8, pids=50, read_only=True, user="1000:0", no_capabilities=True, tmpfs={"/small": 2}
    )
    one = cluster(limits=limits, network=False)
    one.start(command=("sleep", "600"))
    name = one[1].name
    assert must("exec", name, "id", "-u").strip() == "1000"
    assert docker("exec", name, "touch", "/etc/x").returncode != 0
    assert must("exec", name, "df", "--output=size", "-m", "/dev/shm").split()[-1] == "8"
    assert one[1].fill("/small") == 2 << 20
    assert docker("exec", name, "sh", "-c", "echo more >/small/x").returncode != 0
    assert must("exec", name, "sh", "-c", "ls /sys/class/net").split() == ["lo"]
    assert must("inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}", name).split() == [
        str(64 << 20),
        "50",
    ]
    one.kill(signal.SIGKILL)
    (ending,) = one.endings()
    assert ending.exit_code == 137
    one.kill()  # an ended host is passed over
    with pytest.raises(UserError, match="algo-1 was not started"):
        _ = cluster()[1]


def test_what_was_made_is_removed(slim: str, tmp_path: Path):
    with Cluster(slim, tmp_path / "job", 2) as made:
        made.start(command=("sleep", "600"))
        made[1].freeze()
        names = [host.name for host in made]
        network = made[1].network
    for name in names:
        assert docker("inspect", name).returncode != 0
    assert docker("network", "inspect", network).returncode != 0
