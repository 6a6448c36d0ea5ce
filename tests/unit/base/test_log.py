"""One line per event, to whoever listens, without hurting the job."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from runtime.base import log


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    log.configure()


def test_a_line_names_time_level_host_rank_and_component() -> None:
    stream = io.StringIO()
    log.configure(host="algo-2", rank=0, stream=stream)
    log.Log("data").info("opened")
    time, rest = stream.getvalue().split(" ", 1)
    assert rest == "INFO algo-2 r0 data: opened\n"
    assert time.endswith("Z")
    assert "T" in time


def test_a_launcher_has_no_rank_in_its_lines() -> None:
    stream = io.StringIO()
    log.configure(host="algo-1", stream=stream)
    log.Log("launch").error("x")
    assert " ERROR algo-1 launch: x" in stream.getvalue()


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_levels(level: str, shown: int) -> None:
    stream = io.StringIO()
    log.configure(level=level, stream=stream)
    voice = log.Log("x")
    for say in (voice.debug, voice.info, voice.warning, voice.error):
        say("word")
    assert len(stream.getvalue().splitlines()) == shown


def test_ranks_above_0_only_warn_whatever_the_level() -> None:
    stream = io.StringIO()
    log.configure(rank=3, level="debug", stream=stream)
    voice = log.Log("x")
    voice.info("no")
    voice.warning("yes")
    assert [line.split(": ")[1] for line in stream.getvalue().splitlines()] == ["yes"]


def test_json_lines_hold_any_text() -> None:
    stream = io.StringIO()
    log.configure(host="algo-1", rank=1, as_json=True, stream=stream)
    log.Log("x").warning('a "quoted"\nline with ü')
    record = json.loads(stream.getvalue())
    assert record["message"] == 'a "quoted"\nline with ü'
    assert (record["host"], record["rank"], record["level"], record["component"]) == ("algo-1", 1, "warning", "x")


def test_a_closed_stream_is_no_error_of_the_job() -> None:
    stream = io.StringIO()
    stream.close()
    log.configure(stream=stream)
    log.Log("x").error("nobody hears this")


def test_lines_go_to_the_stderr_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    log.Log("x").info("heard")
    assert "x: heard" in capsys.readouterr().err


def test_the_root_logger_is_left_alone() -> None:
    before = list(logging.getLogger().handlers), logging.getLogger().level
    log.configure(stream=io.StringIO())
    log.Log("x").info("word")
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before
