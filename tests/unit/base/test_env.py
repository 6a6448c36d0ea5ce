"""The one table of environment variables and its door."""

import pytest

from runtime.base import env


@pytest.mark.parametrize("word", ["1", "true", "YES", " On ", "True"])
def test_words_for_on(word: str) -> None:
    assert env.flag(word) is True


@pytest.mark.parametrize("word", ["0", "false", "NO", " off", "False"])
def test_words_for_off(word: str) -> None:
    assert env.flag(word) is False


@pytest.mark.parametrize("word", ["", "2", "maybe", "truee"])
def test_other_words_are_neither(word: str) -> None:
    assert env.flag(word) is None


def test_each_variable_stands_once_with_a_known_owner_and_a_meaning() -> None:
    names = [variable.name for variable in env.VARIABLES]
    assert len(names) == len(set(names))
    assert {variable.set_by for variable in env.VARIABLES} <= {"platform", "user", "launcher", "local", "system"}
    assert all(variable.meaning for variable in env.VARIABLES)


def test_the_environment_is_a_copy_until_it_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    copy = env.process_environ()
    copy["OMP_NUM_THREADS"] = "9"
    assert env.process_environ()["OMP_NUM_THREADS"] == "3"
    env.apply({"OMP_NUM_THREADS": "9"})
    assert env.process_environ()["OMP_NUM_THREADS"] == "9"
