"""Metric lines: found by a regex, kept as JSON, spoken by rank 0 alone."""

import json
import re
from pathlib import Path

import pytest

from runtime.metrics import MetricLog


def test_a_regex_finds_each_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MetricLog(None, 0, speaks=True).write(50, 2, {"loss": 0.123456789, "lr": 1e-5, "n": 3})
    line = capsys.readouterr().err
    assert "step=50 epoch=2 loss=0.123457 lr=1e-05 n=3" in line
    for name, value in (("loss", 0.123457), ("lr", 1e-5)):
        found = re.search(rf"{name}=([0-9.e+-]+)", line)
        assert found is not None
        assert float(found.group(1)) == value


def test_the_same_as_json_lines(tmp_path: Path) -> None:
    metrics = MetricLog(tmp_path / "new/metrics.jsonl", 0, speaks=True)
    metrics.write(1, 0, {"loss": 0.5})
    metrics.write(2, 0, {"loss": 0.25})
    records = [json.loads(line) for line in (tmp_path / "new/metrics.jsonl").read_text().splitlines()]
    assert [(record["step"], record["epoch"], record["loss"]) for record in records] == [(1, 0, 0.5), (2, 0, 0.25)]


def test_other_ranks_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = MetricLog(tmp_path / "m.jsonl", 0, speaks=False)
    metrics.maybe(1, 0, {"loss": 1.0})
    metrics.write(1, 0, {"loss": 1.0})
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "m.jsonl").exists()


class Costly:
    """A value on a device: reading it waits."""

    def __init__(self) -> None:
        self.read = 0

    def __float__(self) -> float:
        self.read += 1
        return 1.0


def test_values_are_read_only_when_a_line_is_due(capsys: pytest.CaptureFixture[str]) -> None:
    metrics, value = MetricLog(None, 1000, speaks=True), Costly()
    for step in range(1, 6):
        metrics.maybe(step, 0, {"loss": value})
    assert value.read == 1
    assert capsys.readouterr().err.count("step=") == 1


def test_the_speed_is_that_since_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = MetricLog(None, 0, speaks=True)
    metrics.maybe(1, 0, {})
    metrics.maybe(5, 0, {})
    first, second = capsys.readouterr().err.splitlines()
    assert "steps_per_s" not in first
    assert "steps_per_s=" in second


def test_a_file_that_cannot_be_written_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    MetricLog(tmp_path / "file/m.jsonl", 0, speaks=True).write(1, 0, {"loss": 1.0})
    assert "loss=1" in capsys.readouterr().err
