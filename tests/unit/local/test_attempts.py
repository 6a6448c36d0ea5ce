"""What is left to an attempt; whole jobs with several attempts are in test_runner.py and test_life.py."""

import pytest

from runtime.local.attempt import Limit
from runtime.local.attempts import time_left
from runtime.local.request import TrainingJobSpec


@pytest.mark.parametrize(
    ("max_run_s", "max_wait_s", "used_s", "elapsed_s", "left"),
    [
        (None, None, 5, 9, None),
        (60, None, 5, 9, Limit(55, "max_run")),
        (None, 60, 5, 9, Limit(51, "max_wait")),
        (60, 60, 5, 9, Limit(51, "max_wait")),
        (60, 120, 5, 9, Limit(55, "max_run")),
        (60, 120, 70, 90, Limit(0, "max_run")),  # also when the one before took longer than it was allowed to
    ],
)
def test_the_nearer_limit_counts(
    max_run_s: float | None, max_wait_s: float | None, used_s: float, elapsed_s: float, left: Limit | None
):
    spec = TrainingJobSpec("job", max_run_s=max_run_s, max_wait_s=max_wait_s)
    assert time_left(spec, used_s, elapsed_s) == left
