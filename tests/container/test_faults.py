"""Faults on real containers: the cause stands on every host, and nothing hangs. The whole campaign is `make soak`."""

from pathlib import Path

import pytest

from tests.container.rows import short_rows
from tests.container.stage import Row, Stage

pytestmark = pytest.mark.container

SEED = 1
"""Which rows of the matrix every change meets; the times of all rows are for the campaign to judge."""


@pytest.mark.usefixtures("slim", "image")
@pytest.mark.parametrize("row", short_rows(SEED), ids=lambda row: row.name)
def test_fault(row: Row, tmp_path: Path):
    stage = Stage(tmp_path)
    try:
        result = row.run(stage)
    finally:
        stage.close()
    print(f"noticed after {result.notice_s}, all gone after {result.exit_s}: {result.cause}")
    assert not result.problems, "\n".join(result.problems)
