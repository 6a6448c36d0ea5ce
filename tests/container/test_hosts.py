"""Several containers of one job on a private network: they find each other, and notice a death."""

import time
from pathlib import Path

import pytest

from tests.container.containers import Container, Containers, Tree, make_tree
from tests.container.scripts import DDP

pytestmark = pytest.mark.container

HOSTS = ("algo-1", "algo-2")


def start(
    containers: Containers, home: Path, script: str, hyperparameters: dict[str, str]
) -> list[tuple[Container, Tree]]:
    """Start one container for each of `HOSTS`."""
    network = containers.network()
    started: list[tuple[Container, Tree]] = []
    for host in HOSTS:
        tree = make_tree(home / host, script, host=host, hosts=HOSTS, hyperparameters=hyperparameters)
        started.append((containers.run("train", tree=tree, host=host, network=network), tree))
    return started


def test_two_hosts_train_one_model(containers: Containers, tmp_path: Path):
    (first, first_tree), (second, second_tree) = start(containers, tmp_path, DDP, {"steps": "5"})
    assert first.exit_code() == 0, first.logs()
    assert second.exit_code() == 0, second.logs()
    assert first_tree.succeeded
    assert second_tree.succeeded
    weights = first_tree.model("weights-rank-0").read_text()
    assert weights.startswith("2 ")
    assert weights == second_tree.model("weights-rank-1").read_text()


@pytest.mark.parametrize("victim", [0, 1], ids=["coordinator", "other"])
def test_a_killed_host_ends_the_other_within_seconds(containers: Containers, tmp_path: Path, victim: int):
    # With such a limit silence cannot end it: only the closed connection can, whatever the machine's speed.
    job = start(containers, tmp_path, DDP, {"steps": "100000000", "slipway_silence_s": "600"})
    for rank, (container, tree) in enumerate(job):
        container.wait_for(tree.model(f"step-3-rank-{rank}"))
    survivor, tree = job[1 - victim]
    job[victim][0].kill()
    killed_at = time.monotonic()
    assert survivor.exit_code(60) != 0, survivor.logs()
    assert time.monotonic() - killed_at < 60
    assert f"host {HOSTS[victim]} " in tree.failure, survivor.logs()
    assert not tree.succeeded


def test_a_failing_host_names_the_cause_on_every_host(containers: Containers, tmp_path: Path):
    script = DDP.replace("for step in", "if rank == 1: sys.exit('no labels in shard 1')\nfor step in")
    job = start(containers, tmp_path, script, {"steps": "5"})
    for container, tree in job:
        assert container.exit_code() == 1, container.logs()
        assert "algo-2 rank 1" in tree.failure
        assert "no labels in shard 1" in tree.failure


def test_a_stop_of_one_host_ends_the_job_on_all(containers: Containers, tmp_path: Path):
    (first, first_tree), (second, second_tree) = start(containers, tmp_path, DDP, {"steps": "100000000"})
    first.wait_for(first_tree.model("step-3-rank-0"))
    assert first.stop() < 60
    assert second.exit_code(30) == 0, second.logs()
    assert first_tree.stopped is not None
    assert second_tree.stopped is not None
