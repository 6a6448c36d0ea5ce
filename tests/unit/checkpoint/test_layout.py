"""Names and manifests: what is a checkpoint and which one is the newest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.checkpoint.layout import (
    MANIFEST,
    FileFacts,
    Manifest,
    candidates,
    checkpoint_name,
    rank_file,
    read_manifest,
    to_json,
)

WHOLE = Manifest(50, 2, (FileFacts("state.pt", 10, "ab"), FileFacts("rank-00000.pt", 3, "cd")), "job", "0.1.0")


def put(root: Path, name: str, manifest: Manifest | str = WHOLE) -> Path:
    directory = root / name
    directory.mkdir(parents=True)
    (directory / MANIFEST).write_text(manifest if isinstance(manifest, str) else to_json(manifest))
    return directory


def test_names() -> None:
    assert checkpoint_name(7, "00ff00") == "step-00000007.00ff00"
    assert checkpoint_name(123456789, "00ff00") == "step-123456789.00ff00"
    assert rank_file(12) == "rank-00012.pt"


def test_a_manifest_makes_the_round_trip(tmp_path: Path) -> None:
    assert read_manifest(put(tmp_path, "x")) == WHOLE
    assert WHOLE.facts("state.pt") == FileFacts("state.pt", 10, "ab")
    assert WHOLE.facts("other") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "{}", '{"format": "1"}', '{"format": 1}', "\x00" * 50])
def test_a_damaged_manifest_is_no_checkpoint(tmp_path: Path, text: str) -> None:
    assert read_manifest(put(tmp_path, "x", text)) is None


@pytest.mark.parametrize("missing", ["format", "step", "world_size", "files"])
def test_a_manifest_that_lacks_something_is_no_checkpoint(tmp_path: Path, missing: str) -> None:
    held = json.loads(to_json(WHOLE))
    del held[missing]
    assert read_manifest(put(tmp_path, "x", json.dumps(held))) is None


def test_a_manifest_of_another_encoding_or_cut_in_the_middle_is_no_checkpoint(tmp_path: Path) -> None:
    directory = put(tmp_path, "x")
    whole = (directory / MANIFEST).read_bytes()
    for data in (whole[: len(whole) // 2], whole + b"}", b"\xff" + whole):
        (directory / MANIFEST).write_bytes(data)
        assert read_manifest(directory) is None


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    held = json.loads(to_json(WHOLE)) | {"format": 2, "runtime": "9.9.9"}
    directory = put(tmp_path, "step-00000050.aaaaaa", json.dumps(held))
    with pytest.raises(UserError) as caught:
        read_manifest(directory)
    text = str(caught.value)
    assert f"{directory} has format 2, written by Slipway 9.9.9" in text
    assert "this runtime reads formats up to 1" in text
    assert "slipway_resume=off" in text


def test_the_newest_step_comes_first(tmp_path: Path) -> None:
    for step in (9, 100, 99999999, 100000000, 10):
        put(tmp_path, checkpoint_name(step, "aaaaaa"), replace(WHOLE, step=step))
    assert [manifest.step for manifest in candidates(tmp_path).values()] == [100000000, 99999999, 100, 10, 9]


@pytest.mark.parametrize(
    "name", ["step-1.aaaaaa", "step-00000001", "step-00000001.AAAAAA", "step-00000001.aaaaaa.tmp", "sagemaker", "x"]
)
def test_other_names_are_not_looked_at(tmp_path: Path, name: str) -> None:
    put(tmp_path, name)
    assert candidates(tmp_path) == {}


def test_incomplete_directories_and_files_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "step-00000001.aaaaaa").mkdir()
    (tmp_path / "step-00000002.aaaaaa").write_text("a file")
    partial = tmp_path / "step-00000003.aaaaaa"
    partial.mkdir()
    (partial / f"{MANIFEST}.tmp").write_text(to_json(WHOLE))
    (partial / "state.pt").write_bytes(b"0" * 10)
    assert candidates(tmp_path) == {}
    assert candidates(tmp_path / "nothing") == {}
    assert candidates(partial / "state.pt") == {}


def test_names_that_vanish_while_we_look_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync agent's markers, or another host's retention, between the listing and the reading."""
    kept, gone = put(tmp_path, "step-00000001.aaaaaa"), put(tmp_path, "step-00000002.aaaaaa")
    listing = list(tmp_path.iterdir())
    (gone / MANIFEST).unlink()
    gone.rmdir()
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(listing))
    assert list(candidates(tmp_path)) == [kept.name]
