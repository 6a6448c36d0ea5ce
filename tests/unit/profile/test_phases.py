"""Phase times: they add up, leave pauses out, and never hurt the job."""

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.profile import phases
from runtime.profile.phases import FIELDS, StepTimer


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return 1e9 + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(phases, "time", made)
    return made


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_first_line_names_the_format_and_the_fields(tmp_path: Path, clock: Clock) -> None:
    StepTimer(tmp_path / "new/s.jsonl", {"host": "algo-1", "rank": 3}).close()
    (header,) = lines(tmp_path / "new/s.jsonl")
    assert (header["format"], header["host"], header["rank"], tuple(header["fields"])) == (1, "algo-1", 3, FIELDS)


def test_phases_add_up_to_the_step(tmp_path: Path, clock: Clock) -> None:
    timer = StepTimer(tmp_path / "s.jsonl", {})
    for step in (1, 2):
        for phase, seconds in (
            ("data", 1.0),
            ("compute", 4.0),
            ("optimizer", 2.0),
            ("checkpoint", 3.0),
            ("other", 0.5),
        ):
            timer.enter(phase)  # pyright: ignore
            clock.now += seconds
        timer.step(step, 0)
    timer.close()
    assert lines(tmp_path / "s.jsonl")[1:] == [
        [1, 0, 0.0, 1.0, 4.0, 2.0, 3.0, 10.5],
        [2, 0, 10.5, 1.0, 4.0, 2.0, 3.0, 10.5],
    ]
    assert timer.median_step_s() == 10.5


def test_a_span_is_no_part_of_the_step(tmp_path: Path, clock: Clock) -> None:
    timer = StepTimer(tmp_path / "s.jsonl", {})
    timer.enter("data")
    clock.now += 1
    timer.enter("compute")
    clock.now += 2
    with timer.span("validation"):
        timer.enter("data")
        clock.now += 100
    clock.now += 1
    timer.step(1, 0)
    timer.close()
    _, span, step = lines(tmp_path / "s.jsonl")
    assert (span["event"], span["name"], span["seconds"]) == ("span", "validation", 100)
    assert (step[4], step[-1]) == (3.0, 4.0)


def test_a_span_that_fails_is_recorded_and_the_error_passes(tmp_path: Path, clock: Clock) -> None:
    timer = StepTimer(tmp_path / "s.jsonl", {})
    with pytest.raises(KeyError), timer.span("validation"):
        raise KeyError("x")
    timer.close()
    assert lines(tmp_path / "s.jsonl")[1]["name"] == "validation"


def test_the_median_leaves_the_first_step_out(tmp_path: Path, clock: Clock) -> None:
    timer = StepTimer(tmp_path / "s.jsonl", {})
    assert timer.median_step_s() == 0
    for number, seconds in enumerate((50, 1, 2, 3), 1):
        clock.now += seconds
        timer.step(number, 0)
    assert timer.median_step_s() == 2
    timer.close()


def test_a_resumed_run_appends(tmp_path: Path, clock: Clock) -> None:
    for _ in range(2):
        StepTimer(tmp_path / "s.jsonl", {}).close()
    assert len(lines(tmp_path / "s.jsonl")) == 2


def test_records_are_on_disk_within_a_second(tmp_path: Path, clock: Clock) -> None:
    timer = StepTimer(tmp_path / "s.jsonl", {})
    clock.now += 0.1
    timer.step(1, 0)
    clock.now += 1.0
    timer.step(2, 0)
    assert len(lines(tmp_path / "s.jsonl")) == 3
    timer.close()


def test_without_a_file_nothing_is_recorded() -> None:
    timer = StepTimer(None, {})
    timer.enter("data")
    timer.step(1, 0)
    timer.event("x")
    with timer.span("y"):
        pass
    timer.close()
    assert not timer.on
    assert timer.median_step_s() == 0


def test_a_file_that_cannot_be_opened_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    timer = StepTimer(tmp_path / "file/s.jsonl", {})
    timer.step(1, 0)
    assert not timer.on
    assert "no phase times" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_ends_the_records_and_not_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    timer = StepTimer(Path("/dev/full"), {})
    timer.step(1, 0)
    timer.close()
    assert not timer.on
    assert "phase times end here" in capsys.readouterr().err
