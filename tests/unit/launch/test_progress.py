"""Who stands still, told from the slots alone; time is a number here."""

from pathlib import Path

from runtime.launch.progress import PROGRESS, ProgressWatch, Stall, read_slots


def watch(ranks: int = 2) -> ProgressWatch:
    return ProgressWatch(ranks, progress_s=600.0, first_step_s=1800.0, now=0.0)


def steps(watched: ProgressWatch, count: int, every_s: float, ranks: int = 2) -> float:
    now = 0.0
    for step in range(1, count + 1):
        now += every_s
        watched.observe([(step, now)] * ranks, now)
    return now


def test_a_script_that_never_reports_is_never_judged() -> None:
    watched = watch()
    watched.observe([(0, 0.0), (0, 0.0)], 1.0)
    assert watched.stall([0, 1], 1e9) is None
    assert not watched.reports


def test_the_first_step_has_a_limit_of_its_own() -> None:
    watched = watch()
    watched.observe([(0, 5.0), (0, 5.0)], 5.0)
    assert watched.reports
    assert watched.stall([0, 1], 1804.0) is None
    assert watched.stall([0, 1], 1806.0) == Stall((0, 1), 0, 1801.0, 1800.0, 0.0)


def test_short_steps_are_given_the_floor_and_long_ones_twenty_medians() -> None:
    quick = watch()
    now = steps(quick, 50, 0.1)
    assert quick.stall([0, 1], now + 599) is None
    assert quick.stall([0, 1], now + 601) is not None
    slow = watch()
    now = steps(slow, 9, 100.0)
    assert slow.median_step_s == 100.0
    assert slow.stall([0, 1], now + 1999) is None
    assert slow.stall([0, 1], now + 2001) is not None


def test_the_rank_that_is_behind_is_named() -> None:
    watched = watch()
    now = steps(watched, 10, 1.0)
    watched.observe([(11, now + 1), (10, now)], now + 1)
    stall = watched.stall([0, 1], now + 700)
    assert stall is not None
    assert (stall.local_ranks, stall.step) == ((1,), 10)


def test_a_rank_that_has_ended_is_not_waited_for() -> None:
    watched = watch()
    now = steps(watched, 10, 1.0)
    watched.observe([(500, now + 700), (10, now)], now + 700)
    assert watched.stall([0], now + 701) is None
    assert watched.stall([0, 1], now + 701) is not None


def test_a_sign_of_progress_without_a_step_counts() -> None:
    """A validation pass, or a checkpoint that takes long."""
    watched = watch(1)
    now = steps(watched, 10, 1.0, ranks=1)
    for _ in range(10):
        now += 500
        watched.observe([(10, now)], now)
        assert watched.stall([0], now) is None
    assert watched.median_step_s == 1.0


def test_slots_are_read_and_a_torn_file_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    path.write_bytes(PROGRESS.pack(3, 1.5) + PROGRESS.pack(4, 2.5))
    assert read_slots(str(path)) == [(3, 1.5), (4, 2.5)]
    path.write_bytes(b"torn")
    assert read_slots(str(path)) == []
    assert read_slots(str(tmp_path / "none")) == []
