"""`slipway inspect` as a user calls it: every kind of dataset, damage, checkpoints, channels, bounds."""

import io
import json
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.checkpoint.layout import FileFacts, Manifest, to_json
from runtime.cli import main

Inspect = Callable[..., tuple[int, str]]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Inspect:
    def run(*words: object) -> tuple[int, str]:
        code = main(["inspect", *map(str, words)])
        told = capsys.readouterr()
        return code, told.out + told.err

    return run


@pytest.fixture
def facts(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def run(*words: object) -> dict[str, Any]:
        main(["inspect", *map(str, words), "--json"])
        return json.loads(capsys.readouterr().out)

    return run


def image(number: int, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def folders(root: Path, count: int = 20) -> Path:
    for number in range(count):
        file = root / ("cat" if number % 4 == 0 else "dog") / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image(number))
    return root


def test_label_folders(tmp_path: Path, inspect: Inspect, facts: Callable[..., dict[str, Any]]) -> None:
    root = folders(tmp_path / "data")
    code, text = inspect(root)
    assert code == 0
    assert "label folders with images: its first image lies in a folder: cat/000.png" in text
    assert "cat: 5" in text
    assert "dog: 15" in text
    assert "uint8 [8, 12, 3] (20)" in text
    assert "0 of 20 samples looked at" in text
    assert "samples/s by one process" in text
    about = facts(root)
    sizes = sorted(path.stat().st_size for path in root.rglob("*.png"))
    assert about["format"] == 1
    assert about["samples"] == about["files"]["files"]["count"] == 20
    assert about["files"]["files"]["total"] == sum(sizes)
    assert about["files"]["files"]["median"] == np.median(sizes)
    assert about["labels"] == {"dog": 15, "cat": 5}
    assert len(about["shown"]) == 3
    assert about["speed"]["read_mb"] * 1e6 == pytest.approx(sum(sizes))


def test_damage_is_named_with_its_reason(tmp_path: Path, inspect: Inspect) -> None:
    root = folders(tmp_path / "data")
    (root / "dog/001.png").write_bytes(b"")
    (root / "cat/000.png").write_bytes(image(0)[:50])
    code, text = inspect(root)
    assert code == 0
    assert "2 of 20 samples looked at" in text
    assert "dog/001.png is no readable image" in text


def test_captions_are_shown(tmp_path: Path, inspect: Inspect) -> None:
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(image(number, "JPEG"))
        (tmp_path / f"{number}.txt").write_text(f"a caption, number {number}, Bär")
    _, text = inspect(tmp_path)
    assert "images with captions" in text
    assert "y 'a caption, number 0, Bär'" in text


def test_tar_shards(tmp_path: Path, facts: Callable[..., dict[str, Any]]) -> None:
    with tarfile.open(tmp_path / "part-0.tar", "w") as archive:
        for number in range(30):
            for name, data in ((f"{number:04}.png", image(number)), (f"{number:04}.cls", str(number % 3).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    for path in (tmp_path, tmp_path / "part-0.tar"):
        about = facts(path)
        assert about["what"] == "tar shards"
        assert about["samples"] == about["sample_bytes"]["count"] == 30
        assert about["labels"] == {"0": 10, "1": 10, "2": 10}
        assert about["labels_of"] == 30


def test_a_shard_that_is_cut_is_named(tmp_path: Path, facts: Callable[..., dict[str, Any]], inspect: Inspect) -> None:
    test_tar_shards(tmp_path, facts)
    whole = (tmp_path / "part-0.tar").read_bytes()
    (tmp_path / "part-1.tar").write_bytes(whole[: len(whole) // 2 - 100])
    about = facts(tmp_path)
    assert len(about["damaged_shards"]) == 1
    assert "part-1.tar, byte" in about["damaged_shards"][0]
    assert "cut shards" in inspect(tmp_path)[1]


def test_of_very_many_shards_some_are_opened(
    tmp_path: Path, facts: Callable[..., dict[str, Any]], inspect: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (tmp_path / f"part-{number:02}.csv").write_text("1,2.5,3\n" * 100)
    monkeypatch.setattr("runtime.data.inspect.look.WHOLE_BYTES", 5 * 800)
    about = facts(tmp_path)
    assert about["opened"] == 5
    assert about["samples"] == 2000
    assert about["files"]["files"]["count"] == 20
    assert "about 2,000 by 5 shards" in inspect(tmp_path)[1]


def test_rows_of_csv(tmp_path: Path, facts: Callable[..., dict[str, Any]]) -> None:
    (tmp_path / "part.csv").write_text("".join(f"{number % 2},{number}.5,2\n" for number in range(50)))
    about = facts(tmp_path)
    assert about["what"] == "csv shards"
    assert about["labels"] == {"0": 25, "1": 25}
    assert about["shapes"] == {"float32 [2]": 50}


def test_numbers_that_are_no_labels_are_not_counted_as_such(
    tmp_path: Path, facts: Callable[..., dict[str, Any]]
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, 2)))
    about = facts(tmp_path)
    assert about["what"] == "arrays"
    assert about["labels"] == {}


def test_a_content_type_has_the_word(tmp_path: Path, inspect: Inspect) -> None:
    np.arange(4096, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    code, text = inspect(tmp_path)
    assert code == 1
    assert "refused" in text
    code, text = inspect(tmp_path, "--content-type", "application/x-tokens;dtype=uint16;length=128")
    assert code == 0
    assert "tokens shards" in text


@pytest.mark.parametrize("content", [{}, {"notes.txt": "hello"}, {"a.bin": "\0\1\2"}])
def test_what_is_no_dataset_says_so_and_is_measured_all_the_same(
    content: dict[str, str], tmp_path: Path, inspect: Inspect
) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    code, text = inspect(tmp_path)
    assert code == 1
    assert "nothing that can be read as a channel" in text
    assert "refused" in text


def test_a_name_that_is_nothing(tmp_path: Path, inspect: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = inspect("trian")
    assert code == 1
    assert "trian is no path here, and no channel of a job" in text


def test_a_channel_of_the_job(tmp_path: Path, inspect: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "ml"
    (base / "input/config").mkdir(parents=True)
    (base / "input/config/inputdataconfig.json").write_text(
        json.dumps({"train": {"TrainingInputMode": "FastFile"}, "pipe": {"TrainingInputMode": "Pipe"}})
    )
    (base / "input/config/resourceconfig.json").write_text(json.dumps({"current_host": "a", "hosts": ["a"]}))
    (base / "input/config/hyperparameters.json").write_text("{}")
    folders(base / "input/data/train")
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(base))
    code, text = inspect("train")
    assert code == 0, text
    assert str(base / "input/data/train") in text
    code, text = inspect("trian")
    assert code == 1
    assert "Did you mean 'train'?" in text
    code, text = inspect("pipe")
    assert code == 1
    assert "would take its data from the job" in text


def test_names_that_are_no_utf_8(tmp_path: Path, inspect: Inspect) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(folder)
    with open(os.path.join(folder, b"\xff.png"), "wb") as stream:
        stream.write(image(1))
    code, text = inspect(tmp_path)
    assert code == 0
    assert "samples" in text


def test_a_link_that_goes_round_ends(tmp_path: Path, inspect: Inspect) -> None:
    folders(tmp_path / "data", 4)
    (tmp_path / "data/cat/round").symlink_to(tmp_path / "data", target_is_directory=True)
    code, text = inspect(tmp_path / "data", "--seconds", 20)
    assert code == 0
    assert "4 in 3 directories" in text


def test_the_look_is_bounded(tmp_path: Path, inspect: Inspect) -> None:
    from runtime.data.inspect.survey import survey

    for number in range(9000):
        (tmp_path / f"{number}.dat").touch()
    walked = survey(tmp_path, 0.0)
    assert not walked.complete
    assert 0 < walked.files.count < 9000
    code, text = inspect(tmp_path, "--seconds", 0.1)
    assert "files" in text
    assert code in (0, 1)


def test_files_to_look_into_are_spread_over_many(tmp_path: Path) -> None:
    from runtime.data.inspect.survey import SAMPLE_FILES, survey

    for number in range(2 * SAMPLE_FILES + 10):
        (tmp_path / f"{number:05}.dat").touch()
    walked = survey(tmp_path, 600)
    assert walked.complete
    assert walked.files.count == 2 * SAMPLE_FILES + 10
    assert SAMPLE_FILES / 2 <= len(walked.some) <= SAMPLE_FILES


@pytest.mark.parametrize("flag", ["--seconds=0", "--hosts=0", "--epochs=0", "--show=-1", "--price=-1", "--seconds=nan"])
def test_flags_that_mean_nothing(flag: str, tmp_path: Path, inspect: Inspect) -> None:
    code, text = inspect(tmp_path, flag)
    assert code == 1
    assert flag.partition("=")[0] in text
    assert "at least" in text


def checkpoint(root: Path, step: int, **changes: Any) -> Path:
    directory = root / f"step-{step:08d}.abcdef"
    directory.mkdir(parents=True)
    (directory / "state.pt").write_bytes(b"x" * 100)
    facts = (FileFacts("state.pt", changes.get("size", 100), "0"), *changes.get("more", ()))
    if changes.get("manifest", True):
        text = changes.get("text") or to_json(Manifest(step, 4, facts, "job", "1.0"))
        (directory / "MANIFEST.json").write_text(text)
    return directory


def test_checkpoints(tmp_path: Path, inspect: Inspect, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20)
    checkpoint(tmp_path, 30, manifest=False)
    checkpoint(tmp_path, 40, size=200)
    checkpoint(tmp_path, 50, more=(FileFacts("rank-00001.pt", 5, "0"),))
    checkpoint(tmp_path, 60, text='{"format": 99, "runtime": "9.0"}')
    checkpoint(tmp_path, 70, text="{")
    code, text = inspect(tmp_path)
    assert code == 0
    lines = {line.split()[1]: line for line in text.splitlines() if line.startswith("step-")}
    assert lines["10"].endswith("complete")
    assert lines["20"].split()[3:] == ["4", "complete"]
    assert "no MANIFEST.json" in lines["30"]
    assert "state.pt has 100 bytes instead of 200" in lines["40"]
    assert "rank-00001.pt is missing" in lines["50"]
    assert "has format 99, written by Slipway 9.0" in lines["60"]
    assert "MANIFEST.json is unreadable" in lines["70"]
    assert "a job resumes from step-00000020.abcdef" in text
    main(["inspect", str(tmp_path), "--json"])
    about = json.loads(capsys.readouterr().out)
    assert [one["step"] for one in about["checkpoints"]] == [70, 60, 50, 40, 30, 20, 10]
    assert [one["complete"] for one in about["checkpoints"]] == [False] * 5 + [True] * 2
    assert about["checkpoints"][-1]["num_bytes"] > 100


def test_one_checkpoint(tmp_path: Path, inspect: Inspect) -> None:
    _, text = inspect(checkpoint(tmp_path, 10))
    assert "a job resumes from step-00000010.abcdef" in text


def test_a_bucket_without_boto3(inspect: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    code, text = inspect("s3://bucket/prefix")
    assert code == 1
    assert "needs boto3" in text


def test_a_bucket(inspect: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for number in range(12):
            client.put_object(Bucket="bucket", Key=f"train/part-{number}.csv", Body=b"1,2.5,3\n" * 100)
        client.put_object(Bucket="bucket", Key="train/", Body=b"")
        code, text = inspect("s3://bucket/train/", "--advise")
        assert code == 0, text
        assert "csv shards" in text
        assert "12 in 1 directories" in text
        assert "what to do" in text
        code, text = inspect("s3://bucket/nothing/")
        assert code == 1
        assert "There is nothing below s3://bucket/nothing/" in text
        code, text = inspect("s3://absent/train/")
        assert code == 2
        assert "NoSuchBucket" in text
