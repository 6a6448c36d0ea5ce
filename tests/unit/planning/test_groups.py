"""Which groups form the world, and which program each one runs."""

import pytest

from runtime.base.errors import UserError
from runtime.base.frozen import replace
from runtime.contract.job import Job, read_job
from runtime.contract.settings import Settings, resolve
from runtime.planning.groups import group_programs, world_groups
from runtime.planning.program import find_program
from tests.conftest import Tree


def settings_of(text: str) -> Settings:
    return resolve({"slipway_group_programs": text} if text else {}, {"SLIPWAY_IMAGE_FILE": "/nonexistent"})


def job_of(tree: Tree, **hyperparameters: str) -> Job:
    tree.golden("resourceconfig_heterogeneous")
    tree.hyperparameters(**hyperparameters)
    return read_job(tree.paths, {})


def world(tree: Tree, programs: str = "", **hyperparameters: str) -> tuple[str, ...]:
    job = job_of(tree, **hyperparameters)
    return world_groups(job, group_programs(job, settings_of(programs)))


def test_all_groups_form_the_world_when_nobody_says_otherwise(tree: Tree) -> None:
    assert world(tree) == ()


def test_the_contract_names_the_groups(tree: Tree) -> None:
    assert world(tree, sagemaker_distribution_instance_groups='["trainers"]') == ("trainers",)


def test_a_group_with_its_own_program_stands_outside(tree: Tree) -> None:
    assert world(tree, '{"feeders": "feed.py"}') == ("trainers",)


def test_the_sdks_switch_alone_makes_each_group_a_world_as_the_toolkit_does(tree: Tree) -> None:
    assert world(tree, sagemaker_torch_distributed_enabled="true") == ("trainers",)
    named = world(tree, sagemaker_mpi_enabled="true", sagemaker_distribution_instance_groups='["trainers","feeders"]')
    assert named == ("trainers", "feeders")


def test_one_world_has_one_program(tree: Tree) -> None:
    both = '["trainers", "feeders"]'
    with pytest.raises(UserError, match=r"groups of one world \(trainers, feeders\) have different programs"):
        world(tree, '{"feeders": "feed.py"}', sagemaker_distribution_instance_groups=both)
    same = world(tree, '{"feeders": "a.py", "trainers": "a.py"}', sagemaker_distribution_instance_groups=both)
    assert same == ("trainers", "feeders")


def test_somebody_must_be_left_to_train(tree: Tree) -> None:
    programs = '{"feeders": "a.py", "trainers": "b.py"}'
    with pytest.raises(UserError, match=r"none is left to form the world.*sagemaker_distribution_instance_groups"):
        world(tree, programs)
    assert world(tree, programs, sagemaker_distribution_instance_groups="trainers") == ("trainers",)


def test_the_program_of_a_group_is_what_its_hosts_run(tree: Tree) -> None:
    given = {"sagemaker_program": "train.py", "slipway_group_programs": '{"feeders": "feed.py"}'}
    job = job_of(tree, **given)
    settings = settings_of(given["slipway_group_programs"])
    assert find_program(job, settings, {}).name == "train.py"
    feeder = find_program(replace(job, current_host="algo-1"), settings, {})
    assert (feeder.name, feeder.origin) == ("feed.py", "slipway_group_programs[feeders]=feed.py")


def test_an_empty_map_gives_nobody_a_program(tree: Tree) -> None:
    assert group_programs(job_of(tree), settings_of("{}")) == {}


@pytest.mark.parametrize("text", ["feed.py", "[]", '{"feeders": 1}', '{"feeders": ""}', "{"])
def test_what_is_no_map_is_named(tree: Tree, text: str) -> None:
    with pytest.raises(UserError, match=r"slipway_group_programs is .*JSON object of group to program"):
        group_programs(job_of(tree), settings_of(text))


def test_an_unknown_group_is_named_with_those_that_exist(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"names 'feeder', which is no instance group.*groups: feeders, trainers"):
        group_programs(job_of(tree), settings_of('{"feeder": "feed.py"}'))
