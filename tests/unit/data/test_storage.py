"""Warnings of storage that would make a device wait: many small files, files that are still in S3."""

import os
from pathlib import Path

import pytest

from runtime.data.storage import (
    Hsm,
    Mount,
    Opens,
    advice,
    hsm_state,
    look,
    mount_of,
    spread,
    time_opens,
)

TABLE = """\
/dev/root / ext4 rw 0 0
fs-1@tcp:/abc /opt/ml/input/data lustre rw,flock 0 0
mountpoint-s3 /opt/ml/input/data/fast fuse.mountpoint-s3 ro 0 0
127.0.0.1:/ /mnt/with\\040space nfs4 rw 0 0
tmpfs /opt/ml/in tmpfs rw 0 0
"""
QUICK = Opens(64, 0.05, 0.001, 0.01)


@pytest.mark.parametrize(
    ("path", "point", "kind", "network"),
    [
        ("/opt/ml/input/data/train", "/opt/ml/input/data", "lustre", True),
        ("/opt/ml/input/data/fast/x", "/opt/ml/input/data/fast", "fuse.mountpoint-s3", True),
        ("/opt/ml/input/database", "/", "ext4", False),
        ("/mnt/with space/x", "/mnt/with space", "nfs4", True),
    ],
)
def test_the_mount_below_a_path(path: str, point: str, kind: str, network: bool) -> None:
    mount = mount_of(Path(path), TABLE)
    assert (mount.point, mount.kind, mount.over_network) == (point, kind, network)


def test_the_mounts_of_this_machine_are_read() -> None:
    assert mount_of(Path("/proc/self")).kind == "proc"


def told(**changes: object) -> list[str]:
    values = {
        "files": 10,
        "median_bytes": 1e8,
        "mode": "File",
        "mount": Mount("/", "ext4"),
        "opens": QUICK,
        "hsm": None,
    }
    return advice(Path("/data"), **(values | changes))  # pyright: ignore


def test_a_few_large_files_are_fine() -> None:
    assert told() == []


def test_many_small_files_on_a_slow_file_system_are_told_with_what_an_open_costs() -> None:
    (text,) = told(files=50_000, median_bytes=25_000, mount=Mount("/", "nfs4"), opens=Opens(64, 2.0, 0.01, 1.0))
    assert "50,000 small files, median 25.0 kB, 2.0 ms to open each (nfs4)" in text
    assert "at most 500 a second" in text
    assert "tar shards of 100 to 200 MB" in text


def test_many_small_files_in_fastfile_mode_are_told_however_quick_the_cache_is() -> None:
    (text,) = told(files=50_000, median_bytes=25_000, mode="FastFile", mount=Mount("/", "fuse.x"))
    assert "request to S3" in text


def test_many_small_files_on_a_quick_disk_cost_a_download_when_there_are_very_many() -> None:
    assert told(files=50_000, median_bytes=25_000) == []
    (text,) = told(files=500_000, median_bytes=25_000)
    assert "downloads each" in text


def test_files_that_are_released_are_told_with_the_command() -> None:
    (text,) = told(mount=Mount("/", "lustre"), hsm=Hsm(64, 40))
    assert "40 of 64 files" in text
    assert "find /data -type f -print0 | xargs -0 -n 64 -P 8 lfs hsm_restore" in text
    assert told(mount=Mount("/", "lustre"), hsm=Hsm(64, 0)) == []


def test_without_lfs_a_slow_first_read_tells() -> None:
    slow = Opens(64, 80.0, 5.0, 0.2)
    (text,) = told(mount=Mount("/", "lustre"), opens=slow)
    assert "up to 5.00 s, the second 0.2 ms" in text
    assert told(mount=Mount("/", "ext4"), opens=slow) == [], "a disk may be slow without loading from S3"


@pytest.fixture
def lfs(tmp_path: Path) -> Path:
    tool = tmp_path / "lfs"
    tool.write_text(
        "#!/bin/sh\nshift\nfor file; do case $file in *cold*) state='(0x0000000d) released exists archived';;"
        " *) state='(0x00000009) exists archived';; esac; echo \"$file: $state, archive_id:1\"; done\n"
    )
    tool.chmod(0o755)
    return tool


def test_the_state_of_files_is_asked_of_lustre(lfs: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{'cold' if number % 4 == 0 else 'released'}-{number}" for number in range(200)]
    assert hsm_state(files, str(lfs)) == Hsm(64, 16)


@pytest.mark.parametrize("body", ["exit 1", "echo what", "exec sleep 0"])
def test_a_tool_that_says_nothing_is_not_believed(body: str, tmp_path: Path) -> None:
    tool = tmp_path / "lfs"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)
    assert hsm_state([tmp_path / "x"], str(tool)) is None
    assert hsm_state([tmp_path / "x"], str(tmp_path / "absent")) is None


def test_opens_are_timed_and_errors_kept(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).write_bytes(b"x")
    opens = time_opens([*sorted(tmp_path.iterdir()), tmp_path / "absent"], 60)
    assert opens.files == 5
    assert opens.first_ms > 0
    assert opens.slowest_first_s * 1000 >= opens.first_ms
    assert "absent: No such file" in opens.failed


def test_opens_are_bounded_in_time(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert time_opens([tmp_path / "x"] * 60, 0.0).files == 1


def test_a_fifo_among_the_files_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    opens = time_opens([tmp_path / "fifo"], 1.0)
    assert opens.files == 0
    assert "fifo: Illegal seek" in opens.failed


def test_spread_takes_from_all_over() -> None:
    assert spread(list(range(100)), 4) == [0, 25, 50, 75]
    assert spread([1, 2], 4) == [1, 2]


def test_a_channel_of_few_files_is_not_looked_at(tmp_path: Path) -> None:
    assert look(tmp_path, [tmp_path / "absent"], count=10, median_bytes=1.0, mode="FastFile") == []


def test_a_channel_of_many_small_files_is(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    (text,) = look(tmp_path, [tmp_path / "x"], count=20_000, median_bytes=1.0, mode="FastFile")
    assert "20,000 small files" in text
