"""Who a rank is, and the collectives of a world of one."""

import pytest

from runtime.base.errors import UserError
from runtime.world import Place, World

TORCHRUN = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
}


def test_without_a_launcher_there_is_a_world_of_one() -> None:
    assert Place.from_environ({}) == Place(0, 0, 1, 1, 0, 1)


def test_torchruns_variables() -> None:
    assert Place.from_environ(TORCHRUN) == Place(5, 1, 8, 4, 1, 2)


@pytest.mark.parametrize("missing", ["RANK", "LOCAL_RANK"])
def test_a_part_of_the_variables_is_refused(missing: str) -> None:
    environ = {name: value for name, value in TORCHRUN.items() if name != missing}
    with pytest.raises(UserError, match=rf"WORLD_SIZE='8' is set.*\('{missing}'\).*launcher sets RANK"):
        Place.from_environ(environ)


def test_a_rank_without_a_world_is_refused() -> None:
    """Several processes that each believe to be alone would all be rank 0 and write the same files."""
    with pytest.raises(UserError, match=r"RANK='5' is set and WORLD_SIZE is not.*torchrun"):
        Place.from_environ({"RANK": "5", "LOCAL_RANK": "1"})


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "many"), ("RANK", ""), ("LOCAL_RANK", "1.5")])
def test_what_is_no_integer_is_refused(name: str, value: str) -> None:
    with pytest.raises(UserError, match="the rest of the ranks' environment is wrong"):
        Place.from_environ({**TORCHRUN, name: value})


@pytest.mark.parametrize("rank", ["8", "-1"])
def test_a_rank_outside_its_world_is_refused(rank: str) -> None:
    with pytest.raises(UserError, match=f"RANK is {rank} in a world of 8"):
        Place.from_environ({**TORCHRUN, "RANK": rank})


def test_a_world_of_one_joins_nothing() -> None:
    world = World(Place(), 1.0)
    world.join()
    world.barrier()
    assert world.gather({"a": 1}) == [{"a": 1}]
    assert world.start_or(0b101).result() == 0b101
    assert not world.joined
    world.leave()
