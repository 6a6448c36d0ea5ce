"""A rank's slot in the progress file, as the launcher reads it."""

import time
from pathlib import Path

from runtime.launch.progress import PROGRESS, read_slots
from runtime.progress_slot import ProgressSlot


def test_the_launcher_reads_what_each_rank_wrote(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    path.write_bytes(bytes(2 * PROGRESS.size))
    before = time.time()
    ProgressSlot(path, 1).report(7)
    first, second = read_slots(str(path))
    assert first == (0, 0.0)
    assert (second[0], before <= second[1] <= time.time()) == (7, True)


def test_nobody_watches(tmp_path: Path) -> None:
    ProgressSlot(tmp_path / "none", 0).report(1)
    (tmp_path / "empty").touch()
    ProgressSlot(tmp_path / "empty", 0).report(1)
    one = tmp_path / "one"
    one.write_bytes(bytes(PROGRESS.size))
    ProgressSlot(one, 1).report(1)  # a launcher that knows of fewer ranks
    assert read_slots(str(one)) == [(0, 0.0)]
