"""Files of a checkpoint: whole or not there, checked before they are believed, and a full disk that hurts nothing."""

import collections
import contextlib
import enum
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from runtime.base.errors import PlatformError, UserError
from runtime.checkpoint.layout import MANIFEST, Manifest, read_manifest
from runtime.checkpoint.store import commit, num_bytes, read_file, remove, require_plain, require_room, write_file

STATE = {"w": torch.arange(1000.0), "step": 3, "text": "ü", "list": [1, None, True, 2.5], "nested": {"a": (1, b"x")}}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    facts = write_file(tmp_path / "new", "state.pt", STATE)
    found = read_file(tmp_path / "new", facts)
    assert torch.equal(found["w"], STATE["w"])
    assert {key: found[key] for key in found if key != "w"} == {key: STATE[key] for key in STATE if key != "w"}
    assert (facts.name, facts.num_bytes) == ("state.pt", (tmp_path / "new/state.pt").stat().st_size)
    assert os.listdir(tmp_path / "new") == ["state.pt"]


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    facts = write_file(tmp_path, "state.pt", {"w": torch.zeros(4)})
    whole = (tmp_path / "state.pt").read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        (tmp_path / "state.pt").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"state\.pt is damaged: its sha256 differs"):
            read_file(tmp_path, facts)


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_truncated_file_is_noticed(tmp_path: Path, size: int) -> None:
    facts = write_file(tmp_path, "state.pt", STATE)
    os.truncate(tmp_path / "state.pt", size)
    with pytest.raises(ValueError, match=rf"state\.pt has {size} bytes instead of {facts.num_bytes}"):
        read_file(tmp_path, facts)


def test_a_missing_file_is_noticed(tmp_path: Path) -> None:
    facts = write_file(tmp_path, "state.pt", STATE)
    (tmp_path / "state.pt").unlink()
    with pytest.raises(ValueError, match=r"state\.pt cannot be read: No such file"):
        read_file(tmp_path, facts)


class Point(NamedTuple):
    x: int


class Level(enum.IntEnum):
    HIGH = 3


class Special(dict[str, Any]):
    pass


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"a": np.zeros(2)}, r"model\['a'\] is a numpy.ndarray"),
        ({"a": [1, {"b": object()}]}, r"model\['a'\]\[1\]\['b'\] is a builtins.object"),
        ({"a": {1, 2}}, r"model\['a'\] is a builtins.set"),
        ({"best": np.float64(0.5)}, r"model\['best'\] is a numpy.float64"),
        ({"p": Point(1)}, r"model\['p'\] is a .*Point"),
        ({"level": Level.HIGH}, r"model\['level'\] is a .*Level"),
        ({"d": Special(a=1)}, r"model\['d'\] is a .*Special"),
        ({Level.HIGH: 1}, r"the key .* of model is a .*Level"),
    ],
)
def test_what_could_not_be_loaded_is_refused_with_its_place(state: dict[Any, Any], place: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=place):
        require_plain(state, "model")


def test_whatever_is_accepted_can_be_loaded_again(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    schedulers = [
        torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2, 2]),
        torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer),
        torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=5),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5),
    ]
    states: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "plain": STATE}
    states |= {f"scheduler{n}": scheduler.state_dict() for n, scheduler in enumerate(schedulers)}
    states["counter"] = collections.Counter("aab")
    states["size"] = torch.ones(2, 3).size()
    require_plain(states, "parts")
    read_file(tmp_path, write_file(tmp_path, "state.pt", states))


def test_bytes_are_those_of_the_tensors() -> None:
    assert num_bytes({"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.uint8), 5], "c": "x"}) == 14


def test_a_manifest_makes_the_checkpoint_exist_and_its_removal_ends_it(tmp_path: Path) -> None:
    directory = tmp_path / "step-00000001.aaaaaa"
    facts = write_file(directory, "state.pt", STATE)
    assert read_manifest(directory) is None
    commit(directory, Manifest(1, 1, (facts,)))
    assert read_manifest(directory) == Manifest(1, 1, (facts,))
    remove(directory)
    assert not directory.exists()
    remove(directory)


def test_a_directory_that_cannot_be_removed_is_no_checkpoint_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "step-00000001.aaaaaa"
    commit(directory, Manifest(1, 1, (write_file(directory, "state.pt", STATE),)))

    def fails(*_: object, **__: object) -> None:
        raise OSError("busy")

    monkeypatch.setattr("shutil.rmtree", fails)
    remove(directory)
    assert (directory / "state.pt").exists()
    assert read_manifest(directory) is None


def test_a_marker_that_vanishes_meanwhile_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "step-1"
    directory.mkdir()
    for name in (MANIFEST, "a.pt", "b.pt", "a.pt.sagemaker-uploading", "b.pt.sagemaker-uploaded"):
        (directory / name).touch()
    unlink = os.unlink

    def race(path: Any, **options: Any) -> None:
        unlink(path, **options)
        if str(path).endswith((".sagemaker-uploading", ".sagemaker-uploaded")):
            raise FileNotFoundError(path)  # the agent was quicker

    monkeypatch.setattr(os, "unlink", race)
    remove(directory)
    assert not directory.exists()


def test_too_little_room_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No space left for checkpoint x: .* needs 1,000,000,000,000,000,000 bytes"):
        require_room(tmp_path, 10**18, "checkpoint x")
    require_room(tmp_path, 1, "checkpoint x")


@contextlib.contextmanager
def small_disk(root: Path, size: str) -> Iterator[Path]:
    """A disk of our own; needs the right to mount."""
    root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs of our own: {mounted.stderr.decode().strip()} (run as root to enable)")
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_the_users_to_mend_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "256k") as disk:
        first = write_file(disk, "first.pt", {"w": torch.zeros(10)})
        with pytest.raises(UserError) as caught:
            write_file(disk, "state.pt", {"w": torch.zeros(200_000)})
        text = str(caught.value)
        assert f"No space left for a checkpoint while writing {disk / 'state.pt'}" in text
        assert "earlier checkpoints are untouched" in text
        assert "Fix: use a larger volume" in text
        assert os.listdir(disk) == ["first.pt"]
        read_file(disk, first)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_too_full_for_the_manifest_commits_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "256k") as disk:
        directory = disk / "step-00000001.aaaaaa"
        facts = write_file(directory, "state.pt", {"w": torch.zeros(10)})
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        with pytest.raises(UserError, match="No space left"):
            commit(directory, Manifest(1, 1, (facts,)))
        assert read_manifest(directory) is None
        assert not (directory / MANIFEST).exists()


def test_a_write_that_fails_otherwise_is_a_platform_error_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(PlatformError, match=r"Checkpoint file .*state\.pt cannot be written"):
            write_file(tmp_path, "state.pt", {"w": torch.zeros(200_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert os.listdir(tmp_path) == []


def test_a_place_that_is_no_directory_is_a_platform_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PlatformError, match="cannot be written"):
        write_file(tmp_path / "file", "state.pt", STATE)
