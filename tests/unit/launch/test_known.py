"""Which deadlines follow from what one host knows; no process, no clock."""

import pytest

from runtime.cause.outcome import Cause
from runtime.launch.known import AGREE_S, KILL_AFTER_S, SETTLE_EARLY_S, SETTLE_S, Known

CAUSE = Cause("algo-2", "ValueError: bad", 1, 100.0, 3)
SYMPTOM = Cause("algo-1", "connection closed", 1, 99.0, 0, consequence=True)


def test_nothing_is_due_while_nothing_is_known() -> None:
    known = Known()
    assert (known.begin_end(1e9), known.others_have_left(1e9), known.overdue(1e9)) == (False, False, False)


def test_a_cause_ends_the_ranks_at_once_and_kills_them_later() -> None:
    known = Known()
    known.take(CAUSE, 10.0, some_left=False)
    assert not known.overdue(10.0)  # nobody was told yet
    assert known.begin_end(10.0)
    assert not known.begin_end(10.1)  # told once
    assert not known.overdue(10.0 + KILL_AFTER_S - 0.1)
    assert known.overdue(10.0 + KILL_AFTER_S)


@pytest.mark.parametrize(("some_left", "settle"), [(False, SETTLE_S), (True, SETTLE_EARLY_S)])
def test_a_symptom_waits_for_the_cause(some_left: bool, settle: float) -> None:
    known = Known()
    known.take(SYMPTOM, 10.0, some_left=some_left)
    assert known.only_symptoms
    assert not known.begin_end(10.0 + settle - 0.1)
    known.take(CAUSE, 10.0 + settle - 0.1, some_left=some_left)
    assert not known.only_symptoms
    assert known.begin_end(10.0 + settle - 0.1)


def test_a_later_symptom_moves_no_deadline() -> None:
    known = Known()
    known.take(CAUSE, 10.0, some_left=False)
    known.take(SYMPTOM, 11.0, some_left=False)
    assert (known.failed_at, known.end_deadline) == (10.0, 10.0)


def test_a_cause_that_two_hosts_tell_is_one() -> None:
    known = Known()
    known.take(CAUSE, 10.0, some_left=False)
    assert known.holds(Cause("algo-2", "ValueError: bad", 2, 200.0, 3))  # another clock, another form of the code
    assert not known.holds(SYMPTOM)


def test_a_stop_has_its_grace_and_the_last_ones_less() -> None:
    known = Known()
    known.stop("SIGTERM", 10.0, 60.0)
    assert not known.overdue(69.9)
    assert known.overdue(70.0)
    known.feel_stop(20.0)
    known.feel_stop(30.0)
    assert not known.others_have_left(20.0 + KILL_AFTER_S - 0.1)
    assert known.others_have_left(20.0 + KILL_AFTER_S)


def test_hosts_wait_for_each_other_before_they_report_a_failure() -> None:
    known = Known()
    known.take(CAUSE, 10.0, some_left=False)
    assert known.agreed([], 10.0)
    assert not known.agreed(["algo-2", "algo-3"], 10.0)
    known.ended_hosts.add("algo-2")
    known.done_hosts.add("algo-3")
    assert known.agreed(["algo-2", "algo-3"], 10.0)
    assert known.agreed(["algo-2", "algo-3", "algo-4"], 10.1 + AGREE_S)


def test_nobody_agrees_on_a_symptom_while_the_cause_may_come() -> None:
    known = Known()
    known.take(SYMPTOM, 10.0, some_left=False)
    assert not known.agreed([], 10.0)
    assert known.agreed([], 10.0 + SETTLE_S)
