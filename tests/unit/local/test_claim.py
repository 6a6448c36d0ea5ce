"""The output directory of a run: ours alone, and what earlier runs left in it."""

from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.local.claim import claimed
from runtime.local.record import JobRecord


def test_a_foreign_directory_is_left_alone(place: Path):
    (place / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"thesis\.tex"), claimed(place, "job"):
        pass


def test_another_jobs_results_are_left_alone(place: Path):
    JobRecord("mine", status="Completed").write(place / "job.json")
    with pytest.raises(UserError, match="holds job 'mine'"), claimed(place, "yours"):
        pass


def test_two_runs_in_one_directory(place: Path):
    with claimed(place, "job"), pytest.raises(UserError, match="in use"), claimed(place, "job"):
        pass


@pytest.mark.parametrize(("status", "kept"), [("Completed", False), ("Failed", True), ("Stopped", True)])
def test_a_rerun_sets_results_aside(place: Path, status: str, kept: bool):
    for number in (1, 2):
        JobRecord("job", status=status).write(place / "job.json")  # type: ignore[arg-type]
        (place / "model.tar.gz").write_text(str(number))
        (place / "checkpoints").mkdir(exist_ok=True)
        with claimed(place, "job") as claim:
            assert f"earlier-{number}" in claim.earlier
        assert (place / f"earlier-{number}/model.tar.gz").read_text() == str(number)
        assert not (place / "job.json").exists()
        assert (place / "checkpoints").exists() == kept
