"""A heterogeneous job for real: the trainers are a world, the feeder runs its own program, all end together."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import MARK, Cluster, free_port, wait_for

WORLD = """
mark(f"world-{RANK}", f"{os.environ['WORLD_SIZE']} {os.environ['MASTER_ADDR']} {os.environ['SM_CURRENT_HOST']}")
"""
FEED = (
    MARK
    + """
mark(f"feed-{RANK}", f"{os.environ['WORLD_SIZE']} {os.environ['SM_CURRENT_INSTANCE_GROUP']} {sys.argv[1:]}")
"""
)


@pytest.fixture
def job(cluster: Callable[..., Cluster]) -> Callable[..., Cluster]:
    def make(train: str = WORLD, feed: str = FEED, **settings: object) -> Cluster:
        """Make algo-1 the feeder of algo-2 and algo-3."""
        port = free_port()
        made = cluster(train, hosts=3, procs=2, group_programs='{"feeders": "feed.py"}', master_port=port, **settings)
        groups = [
            {"instance_group_name": "trainers", "instance_type": "local_gpu", "hosts": ["algo-3", "algo-2"]},
            {"instance_group_name": "feeders", "instance_type": "local", "hosts": ["algo-1"]},
        ]
        for host in made.hosts.values():
            path = Path(host.tree.paths.config, "resourceconfig.json")
            held = json.loads(path.read_text())
            name = "feeders" if host.name == "algo-1" else "trainers"
            host.tree.config("resourceconfig", {**held, "instance_groups": groups, "current_group_name": name})
            host.tree.script(feed, "feed.py")
        return made

    return make


def codes(made: Cluster) -> list[int]:
    return [host.wait(240) for host in made.hosts.values()]


def test_the_world_is_the_trainers_and_the_feeder_runs_alone(job: Callable[..., Cluster]) -> None:
    made = job()
    made.start()
    assert codes(made) == [0, 0, 0], "\n".join(host.text for host in made.hosts.values())
    assert [mark.read_text() for mark in made[1].marks("feed-*")] == ["1 feeders []"]
    address = made.environ["SLIPWAY_HOST_ADDRESSES"].split(",")[1].partition("=")[2]
    for number in (2, 3):
        assert [mark.name for mark in made[number].marks("world-*")] == [
            f"world-{2 * number - 4}",
            f"world-{2 * number - 3}",
        ]
        assert {mark.read_text() for mark in made[number].marks("world-*")} == {f"4 {address} algo-{number}"}


def test_a_feeder_that_fails_ends_the_job_by_its_name(job: Callable[..., Cluster]) -> None:
    made = job(train="linger()", feed=MARK + "raise ValueError('no food')")
    made.start()
    assert codes(made) == [1, 1, 1], "\n".join(host.text for host in made.hosts.values())
    for host in made.hosts.values():
        assert host.failure.startswith("algo-1 rank 0: ValueError: no food")


def test_a_trainer_that_is_lost_ends_the_feeder_too(job: Callable[..., Cluster]) -> None:
    made = job(train="mark(f'here-{RANK}')\nlinger()", feed=MARK + "mark('feeding')\nlinger()")
    made.start()
    wait_for(lambda: made[1].marks("feeding") and len(made[3].marks("here-*")) == 2, "they did not start")
    made[3].signal(signal.SIGKILL)
    assert (made[1].wait(), made[2].wait()) == (2, 2), made[1].text
    for number in (1, 2):
        assert "host algo-3" in made[number].failure
        assert "was lost" in made[number].failure
