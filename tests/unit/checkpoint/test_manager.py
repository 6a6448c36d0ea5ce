"""Saving, keeping and resuming in a world of one."""

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.base.errors import UserError
from runtime.checkpoint.layout import MANIFEST, STATE, candidates
from runtime.checkpoint.manager import Checkpointer
from runtime.world import Place, World


class Part:
    def __init__(self, value: Any = 0) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value = state_dict["value"]


def checkpointer(root: Path | None, keep: int = 3, world_size: int = 1, **parts: Any) -> Checkpointer:
    made = Checkpointer(root, World(Place(world_size=world_size), 5.0), job="job", keep=keep)
    made.register(parts or {"part": Part()}, every_s=None, every_steps=None)
    return made


def save(root: Path, *steps: int, keep: int = 3) -> list[str]:
    """Save a part whose value is the step, all by one run; return the names, newest first."""
    part = Part()
    one = checkpointer(root, keep, part=part)
    for step in steps:
        part.value = step
        one.save(step)
    return list(candidates(root))


def resumed(root: Path) -> tuple[int, Any]:
    part = Part("untouched")
    return checkpointer(root, part=part).resume(), part.value


def test_the_newest_is_resumed(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 10)
    assert resumed(tmp_path) == (10, 10)


def test_nothing_to_resume_is_step_0(tmp_path: Path) -> None:
    assert resumed(tmp_path) == (0, "untouched")
    assert resumed(tmp_path / "missing") == (0, "untouched")
    part = Part("untouched")
    one = checkpointer(None, part=part)
    assert (one.resume(), one.active, part.value) == (0, False, "untouched")


@pytest.mark.parametrize("fault", ["truncated", "flipped", "missing", "rank file", "manifest", "not torch"])
def test_a_damaged_newest_falls_back_to_the_one_before(
    tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = tmp_path / save(tmp_path, 1, 2)[0]
    state = newest / STATE
    if fault == "truncated":
        os.truncate(state, 10)
    elif fault == "flipped":
        data = bytearray(state.read_bytes())
        data[len(data) // 2] ^= 0x10
        state.write_bytes(data)
    elif fault == "missing":
        state.unlink()
    elif fault == "rank file":
        (newest / "rank-00000.pt").unlink()
    elif fault == "manifest":
        (newest / MANIFEST).write_text("{")
    else:
        state.write_bytes(b"x" * state.stat().st_size)
    assert resumed(tmp_path) == (1, 1)
    if fault != "manifest":
        assert f"{newest.name} is not whole (rank 0: " in capsys.readouterr().err


def test_when_all_are_damaged_the_run_begins_anew(tmp_path: Path) -> None:
    for name in save(tmp_path, 1, 2):
        os.truncate(tmp_path / name / STATE, 3)
    assert resumed(tmp_path) == (0, "untouched")


def test_a_newer_format_is_not_passed_over(tmp_path: Path) -> None:
    newest = tmp_path / save(tmp_path, 1, 2)[0] / MANIFEST
    newest.write_text(json.dumps(json.loads(newest.read_text()) | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        resumed(tmp_path)


def test_who_follows_the_advice_and_begins_anew_beside_a_newer_format_can_save(tmp_path: Path) -> None:
    old = tmp_path / save(tmp_path, 5)[0] / MANIFEST
    old.write_text(json.dumps(json.loads(old.read_text()) | {"format": 99}))
    one = checkpointer(tmp_path, part=Part(1))  # slipway_resume=off: resume() is not called
    for step in range(1, 6):
        one.save(step)
    assert old.exists(), "what we cannot read is not ours to remove"


def test_another_world_is_refused_with_both_numbers(tmp_path: Path) -> None:
    name = save(tmp_path, 1)[0]
    manifest = tmp_path / name / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"world_size": 4}))
    with pytest.raises(UserError, match=rf"{name} was written by 4 ranks; this job has 1.*use 4 ranks"):
        resumed(tmp_path)


def test_other_parts_are_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(UserError, match=r"holds part; run\.checkpoint was given model, part"):
        checkpointer(tmp_path, part=Part(), model=Part()).resume()


def test_a_part_that_does_not_fit_is_named(tmp_path: Path) -> None:
    checkpointer(tmp_path, model=torch.nn.Linear(2, 2)).save(1)
    with pytest.raises(UserError, match=r"(?s)Part 'model' of checkpoint .* does not fit.*size mismatch"):
        checkpointer(tmp_path, model=torch.nn.Linear(3, 2)).resume()


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    names = save(tmp_path, 1, 2, 3, 4, keep=keep)
    assert [int(name[5:13]) for name in names] == [4, 3, 2, 1][:keep]
    assert len(os.listdir(tmp_path)) == min(keep, 4)


def test_a_run_that_begins_anew_keeps_what_it_saves_and_resumes_from_it(tmp_path: Path) -> None:
    """slipway_resume=off beside an older run that went further: its steps are higher, but they are not newer."""
    save(tmp_path, 1000, 2000, 3000)
    save(tmp_path, 10, 20)  # never resumed
    assert resumed(tmp_path) == (20, 20)
    part = Part()
    third = checkpointer(tmp_path, part=part)
    assert third.resume() == 20
    part.value = 30
    third.save(30)
    assert resumed(tmp_path) == (30, 30)


def test_two_runs_never_write_the_same_directory(tmp_path: Path) -> None:
    save(tmp_path, 7)
    assert resumed(tmp_path)[0] == 7
    save(tmp_path, 7)
    assert len(os.listdir(tmp_path)) == 2


def test_a_state_that_could_not_be_loaded_is_refused_at_the_first_save(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.checkpoint: part\['value'\] is a numpy\.float64"):
        checkpointer(tmp_path, part=Part(np.float64(0.5))).save(1)
    assert candidates(tmp_path) == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every_s": 0, "every_steps": None}, r"every_s=0.*above 0"),
        ({"every_s": None, "every_steps": -1}, r"every_steps=-1.*above 0"),
    ],
)
def test_impossible_intervals_are_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    one = Checkpointer(tmp_path, World(Place(), 5.0), job="job", keep=1)
    with pytest.raises(UserError, match=words):
        one.register({"part": Part()}, **options)


def test_a_part_without_a_state_is_refused(tmp_path: Path) -> None:
    one = Checkpointer(tmp_path, World(Place(), 5.0), job="job", keep=1)
    with pytest.raises(UserError, match=r"run\.checkpoint\(model=\.\.\.\) got a list without state_dict"):
        one.register({"model": []}, every_s=None, every_steps=None)  # pyright: ignore


def test_every_so_many_steps(tmp_path: Path) -> None:
    one = Checkpointer(tmp_path, World(Place(), 5.0), job="job", keep=1)
    one.register({"part": Part()}, every_s=None, every_steps=3)
    assert [step for step in range(1, 8) if one.steps_are_up(step)] == [3, 6]
    assert not one.time_is_up()


def test_the_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(1))]

    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    draw()
    checkpointer(tmp_path, part=Part()).save(1)
    expected = draw()
    draw()
    one = checkpointer(tmp_path, part=Part())
    one.resume()
    draw()  # something between resume and the first batch
    one.restore_randomness()
    assert draw() == expected


def test_what_a_killed_save_left_is_removed_but_not_what_another_job_writes_now(tmp_path: Path) -> None:
    dead, alive = tmp_path / "step-00000003.0dead0", tmp_path / "step-00000004.a11fe0"
    for directory in (dead, alive):
        directory.mkdir()
        (directory / "rank-00000.pt").write_bytes(b"half")
    os.utime(dead, (1, 1))
    later = alive.stat().st_mtime + 60
    os.utime(alive, (later, later))
    save(tmp_path, 5)
    assert not dead.exists()
    assert alive.exists()


def test_a_host_without_manifests_of_its_own_removes_what_rank_0_removed(tmp_path: Path) -> None:
    """On all hosts but the first, the directories hold rank files only."""
    here = checkpointer(tmp_path)
    here._run_id = "abcdef"
    for step in (1, 2, 3):
        directory = tmp_path / f"step-{step:08d}.abcdef"
        directory.mkdir()
        (directory / "rank-00002.pt").write_bytes(b"own")
    here._retire(["step-00000002.abcdef", "step-00000003.abcdef"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002.abcdef", "step-00000003.abcdef"]


def test_a_damaged_newer_checkpoint_never_displaces_what_is_saved_after_it(tmp_path: Path) -> None:
    save(tmp_path, 6, 8)
    (newest,) = (path for path in tmp_path.glob("step-00000008.*"))
    (newest / STATE).write_bytes(b"damaged")
    part = Part()
    one = checkpointer(tmp_path, 1, part=part)
    assert one.resume() == 6
    part.value = 7
    one.save(7)
    assert resumed(tmp_path) == (7, 7)


def test_a_job_that_begins_anew_still_resumes_its_own(tmp_path: Path) -> None:
    def of_job(name: str, part: Part) -> Checkpointer:
        made = Checkpointer(tmp_path, World(Place(), 5.0), job=name, keep=3)
        made.register({"part": part}, every_s=None, every_steps=None)
        return made

    of_job("arn:earlier", Part("earlier")).save(9)
    mine = of_job("arn:mine", Part("mine"))
    assert mine.resume(own_only=True) == 0
    mine.save(2)
    again = Part()
    assert of_job("arn:mine", again).resume(own_only=True) == 2
    assert again.value == "mine"
