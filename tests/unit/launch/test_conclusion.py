"""What a job came to, from causes and from what its ranks left."""

from pathlib import Path

from runtime.base.errors import ExitCode
from runtime.cause.outcome import Cause
from runtime.launch.conclusion import conclude_failure, conclude_well, read_end_records, stopped_step

SYMPTOM = Cause("algo-1", "connection closed", 1, 99.0, 0, consequence=True)
STOPPED, COMPLETED = {"status": "stopped", "step": 7}, {"status": "completed", "step": 9}


def test_records_that_were_cut_off_or_are_no_records_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "end-rank-0.json").write_text('{"status": "stopped", "step": 7}')
    (tmp_path / "end-rank-1.json").write_text('{"status": "sto')
    (tmp_path / "end-rank-2.json").write_text("[]")
    (tmp_path / "progress").write_bytes(b"")
    assert read_end_records(str(tmp_path)) == [STOPPED]


def test_the_step_is_what_the_ranks_agreed_on() -> None:
    assert stopped_step([STOPPED, COMPLETED, {"status": "stopped", "step": "x"}]) == 7
    assert stopped_step([COMPLETED]) is None


def test_a_cause_comes_before_what_survivors_felt_and_early_leavers() -> None:
    cause = Cause("algo-2", "ValueError", 4, 100.0, 3)
    early = Cause("algo-1", "rank 1 ended with exit code 0", 1, 101.0)
    failed = conclude_failure([SYMPTOM, cause], None)
    assert (failed.status, failed.exit_code, failed.cause, failed.consequences) == ("failed", 4, cause, (SYMPTOM,))
    assert conclude_failure([SYMPTOM], early).cause == early
    assert conclude_failure([SYMPTOM], None).cause == SYMPTOM


def test_a_failure_is_never_exit_code_0() -> None:
    assert conclude_failure([Cause("algo-1", "odd", 0, 1.0)], None).exit_code == ExitCode.PLATFORM_ERROR


def test_a_stop_that_came_after_the_last_step_is_no_stop() -> None:
    assert conclude_well([COMPLETED, COMPLETED], 2, 9, "SIGTERM").status == "completed"
    stopped = conclude_well([COMPLETED], 2, 9, "SIGTERM")
    assert (stopped.status, stopped.step, stopped.reason) == ("stopped", 9, "SIGTERM")
    agreed = conclude_well([STOPPED, STOPPED], 2, 8, "")
    assert (agreed.status, agreed.step, agreed.reason) == ("stopped", 7, "the ranks")
    assert conclude_well([], 2, 0, "").status == "completed"
