"""Ranks on hosts, the same on every host."""

import json
import random
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.base.frozen import replace
from runtime.contract.job import Host, Job, read_job
from runtime.contract.paths import Paths
from runtime.planning.topology import arrange
from tests.conftest import Tree

ALL = ("algo-1", "algo-2", "algo-3")


def job_of(names: list[str], current: str) -> Job:
    return Job(Paths.from_environ({}), hosts=tuple(Host(name) for name in names), current_host=current)


def test_a_world_of_one() -> None:
    topology = arrange(job_of(["algo-1"], "algo-1"), 1)
    assert (topology.world_size, topology.host_rank, topology.coordinator) == (1, 0, "algo-1")
    assert list(topology.ranks_of("algo-1")) == [0]


@pytest.mark.parametrize("nproc", [1, 2, 8])
@pytest.mark.parametrize("count", [1, 2, 12])
def test_every_rank_stands_on_exactly_one_host(count: int, nproc: int) -> None:
    names = [f"algo-{n}" for n in range(1, count + 1)]
    seen: list[int] = []
    for name in names:
        topology = arrange(job_of(names, name), nproc)
        assert topology.coordinator == "algo-1"
        assert topology.first_rank == topology.ranks_of(name)[0]
        seen += topology.ranks_of(name)
    assert seen == list(range(count * nproc))


def test_every_host_sees_the_same_world_whatever_the_order_in_its_file(tree: Tree) -> None:
    tree.golden("resourceconfig_service_four_hosts")
    held = json.loads((Path(tree.paths.config) / "resourceconfig.json").read_text())
    worlds = set()
    for seed in range(8):
        mix = random.Random(seed)
        mix.shuffle(held["hosts"])
        mix.shuffle(held["instance_groups"][0]["hosts"])
        tree.config("resourceconfig", held)
        topology = arrange(read_job(tree.paths, {}), 8)
        worlds.add((topology.hosts, topology.host_rank, topology.coordinator))
    assert worlds == {(("algo-1", "algo-2", "algo-3", "algo-4"), 2, "algo-1")}


def test_host_ten_comes_tenth(tree: Tree) -> None:
    tree.golden("resourceconfig_service_twelve_hosts")
    topology = arrange(read_job(tree.paths, {}), 8)
    assert (topology.host_rank, topology.first_rank, topology.world_size) == (9, 72, 96)


def test_only_the_distribution_group_forms_the_world(tree: Tree) -> None:
    tree.golden("resourceconfig_heterogeneous")
    topology = arrange(read_job(tree.paths, {}), 8)
    assert (topology.hosts, topology.coordinator, topology.host_rank) == (("algo-2", "algo-3"), "algo-2", 1)
    assert topology.world_size == 16


def test_a_host_outside_the_distribution_groups_is_alone(tree: Tree) -> None:
    tree.golden("resourceconfig_heterogeneous")
    feeder = replace(read_job(tree.paths, {}), current_host="algo-1")
    topology = arrange(feeder, 1)
    assert (topology.hosts, topology.world_size, topology.first_rank) == (("algo-1",), 1, 0)


@pytest.mark.parametrize("text", ['["trainers"]', '"[\\"trainers\\"]"', "trainers", '"trainers"'])
def test_spellings_of_the_distribution_groups(tree: Tree, text: str) -> None:
    tree.golden("resourceconfig_heterogeneous")
    tree.hyperparameters(sagemaker_distribution_instance_groups=text)
    assert arrange(read_job(tree.paths, {}), 1).hosts == ("algo-2", "algo-3")


def test_an_unknown_group_is_named_with_those_that_exist(tree: Tree) -> None:
    tree.golden("resourceconfig_heterogeneous")
    tree.hyperparameters(sagemaker_distribution_instance_groups='["trainer"]')
    with pytest.raises(UserError, match=r"names 'trainer', which is no instance group.*groups: feeders, trainers"):
        arrange(read_job(tree.paths, {}), 1)


def test_a_group_with_its_own_program_is_outside_of_the_world(tree: Tree) -> None:
    tree.golden("resourceconfig_heterogeneous")
    tree.hyperparameters()
    job = read_job(tree.paths, {})
    topology = arrange(job, 8, {"feeders": "feed.py"})
    assert (topology.hosts, topology.all_hosts, topology.in_world) == (("algo-2", "algo-3"), ALL, True)
    outside = arrange(replace(job, current_host="algo-1"), 1, {"feeders": "feed.py"})
    assert (outside.hosts, outside.all_hosts, outside.in_world) == (("algo-1",), ALL, False)
    assert list(outside.ranks_of("algo-2")) == []


def test_hosts_of_one_capacity_unit_follow_each_other() -> None:
    """Only hosts of one UltraServer share NVLink: neighbours in rank should be neighbours there."""
    names = [f"algo-{n}" for n in range(1, 13)]
    units = {name: f"unit-{n % 2}" for n, name in enumerate(names)}
    for current in names:
        topology = arrange(replace(job_of(names, current), capacity_units=units), 4)
        assert topology.hosts == (*names[0::2], *names[1::2])
        assert topology.all_hosts == tuple(names)
    del units["algo-3"]  # one that the platform forgot keeps its place among the units
    hosts = arrange(replace(job_of(names, "algo-1"), capacity_units=units), 4).hosts
    assert hosts[:6] == ("algo-1", "algo-5", "algo-7", "algo-9", "algo-11", "algo-2")
    assert sorted(hosts) == sorted(names)


def test_capacity_units_are_read_from_the_contract(tree: Tree) -> None:
    tree.golden("resourceconfig_ultraserver")
    assert read_job(tree.paths, {}).capacity_units == {"algo-1": "unit-0", "algo-2": "unit-0"}


@pytest.mark.parametrize("form", ["text", [1], [{"hostName": "a"}], [{"hostName": "a", "capacityUnitId": 3}], None])
def test_a_topology_of_another_form_is_no_reason_to_stop(tree: Tree, form: object) -> None:
    tree.config("resourceconfig", {"hosts": ["a"], "current_host": "a", "topology": form})
    assert read_job(tree.paths, {}).capacity_units == {}


def test_without_distribution_groups_all_groups_form_the_world(tree: Tree) -> None:
    tree.golden("resourceconfig_heterogeneous")
    tree.hyperparameters()
    assert arrange(read_job(tree.paths, {}), 1).hosts == ("algo-1", "algo-2", "algo-3")
