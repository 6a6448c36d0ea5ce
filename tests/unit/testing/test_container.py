"""The parts of `runtime.testing` that need no engine."""

import json
from pathlib import Path

import pytest

from runtime.base.errors import PlatformError
from runtime.testing import ContractTree, Ending, Limits, LogLine, wait_until
from runtime.testing.container import stamped_lines, unix_seconds


def test_no_limit_is_no_option() -> None:
    assert Limits().options() == []


def test_a_memory_limit_holds_for_swap_too() -> None:
    assert Limits(memory_mb=64).options() == ["--memory=64m", "--memory-swap=64m"]


def test_every_limit_has_its_option() -> None:
    limits = Limits(
        memory_mb=1, shm_mb=2, pids=3, cpus=0.5, read_only=True, user="1000:0", no_capabilities=True, tmpfs={"/x": 4}
    )
    assert limits.options()[2:] == [
        "--shm-size=2m",
        "--pids-limit=3",
        "--cpus=0.5",
        "--read-only",
        "--user=1000:0",
        "--cap-drop=ALL",
        "--tmpfs",
        "/x:size=4m,mode=1777",
    ]


def test_times_of_the_engine() -> None:
    assert unix_seconds("2026-11-21T14:32:24.5Z") - unix_seconds("2026-11-21T14:32:20Z") == 4.5


def test_lines_of_both_streams_come_in_the_order_of_time() -> None:
    out = "1970-01-01T00:00:03Z third\n1970-01-01T00:00:01Z first: a|b  c\n"
    err = "1970-01-01T00:00:02.25Z second\nno stamp\n"
    assert [(line.at, line.text) for line in stamped_lines(out + err)] == [
        (1.0, "first: a|b  c"),
        (2.25, "second"),
        (3.0, "third"),
    ]


def test_the_first_line_with_all_words_after_the_fault() -> None:
    lines = (LogLine(1.0, "algo-2 came"), LogLine(2.0, "algo-2 was lost"), LogLine(3.0, "algo-2 was lost again"))
    ending = Ending("algo-1", 2, 4.0, False, "", False, False, lines)
    assert ending.first("algo-2") == lines[0]
    assert ending.first("lost", "algo-2") == lines[1]
    assert ending.first("algo-2", since=2.5) == lines[2]
    assert ending.first("algo-3") is None


def test_a_tree_is_what_the_platform_writes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.txt").write_text("x")
    tree = ContractTree.write(
        tmp_path / "ml",
        {"train.py": "print(1)", "requirements.txt": "wheel\n"},
        host="algo-2",
        hosts=["algo-1", "algo-2"],
        hyperparameters={"lr": "0.1"},
        channels={"train": tmp_path / "images"},
    )
    config = tree.base / "input" / "config"
    assert json.loads((config / "hyperparameters.json").read_text()) == {"lr": "0.1", "sagemaker_program": "train.py"}
    assert json.loads((config / "resourceconfig.json").read_text())["current_host"] == "algo-2"
    assert set(json.loads((config / "inputdataconfig.json").read_text())) == {"train", "code"}
    assert (tree.base / "input" / "data" / "train" / "1.txt").read_text() == "x"
    assert (tree.base / "input" / "data" / "code" / "requirements.txt").read_text() == "wheel\n"
    assert (tree.base / "model").stat().st_mode & 0o777 == 0o777
    assert (tree.failure, tree.stopped, tree.succeeded) == ("", None, False)


def test_a_wait_in_vain_says_for_what() -> None:
    with pytest.raises(PlatformError, match="the moon: not within 0"):
        wait_until(lambda: False, "the moon", 0.0)


def test_a_wait_ends_with_what_its_question_raises() -> None:
    def asks() -> bool:
        raise PlatformError("the container ended")

    with pytest.raises(PlatformError, match="the container ended"):
        wait_until(asks, "the moon")
