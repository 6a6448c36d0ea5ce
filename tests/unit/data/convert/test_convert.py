"""Conversions end to end: what comes out, the same for any number of processes, hosts and interruptions."""

import itertools
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.base.errors import UserError
from runtime.cli import main
from runtime.contract.job import Channel
from runtime.data.convert.manifest import BAD, MANIFEST, merge, read_manifest, verify, write_manifest
from runtime.data.convert.run import WORK
from runtime.data.sources import open_source as open_channel
from tests.unit.data.convert.datasets import content, equal, label_folders, lines, pairs, picture, run, samples, table

FOLDERS = {"cat": 5, "dog": 3, "zebra": 4}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return label_folders(tmp_path / "folders", FOLDERS)


# --- every form into every other ------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["tar", "recordio-image", "recordio-protobuf", "tfrecord", "parquet", "folders"])
def test_images_with_labels_go_through_every_form_and_back(folders: Path, tmp_path: Path, to: str) -> None:
    made = run(folders, to, tmp_path / "there", shards=3)
    assert (made.samples, made.bad, len(made.shards)) == (12, 0, 3)
    back = run(tmp_path / "there", "folders", tmp_path / "back")
    assert back.samples == 12
    before = {(path.parent.name, path.read_bytes()) for path in folders.rglob("*.jpg")}
    assert {(path.parent.name, path.read_bytes()) for path in (tmp_path / "back").rglob("*.jpg")} == before
    assert made.labels == {"cat": 0, "dog": 1, "zebra": 2}


@pytest.mark.parametrize("to", ["tar", "recordio-image", "tfrecord", "parquet", "folders", "npy"])
def test_what_comes_out_is_a_channel_with_the_same_images_and_labels(folders: Path, tmp_path: Path, to: str) -> None:
    before = open_channel(Channel("train", str(folders)))
    run(folders, to, tmp_path / "out")
    after = open_channel(Channel("train", str(tmp_path / "out")))
    assert len(before) == len(after) == 12
    for index in range(12):
        (x, y), (x2, y2) = before.read(index), after.read(index)
        assert np.array_equal(x, x2)
        assert int(y) == int(y2)


@pytest.mark.parametrize("to", ["tar", "tfrecord", "parquet", "pairs"])
def test_captions_go_there_and_back(tmp_path: Path, to: str) -> None:
    source = pairs(tmp_path / "pairs", 7)
    run(source, to, tmp_path / "there", shards=2)
    run(tmp_path / "there", "pairs", tmp_path / "back")
    found = {path.with_suffix(".txt").read_text(): path.read_bytes() for path in (tmp_path / "back").rglob("*.jpg")}
    assert found == {path.with_suffix(".txt").read_text(): path.read_bytes() for path in source.glob("*.jpg")}


NUMBERS = ["recordio-protobuf", "tfrecord", "parquet", "jsonlines", "csv", "tsv", "npy", "tar"]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(NUMBERS, repeat=2)))
def test_vectors_go_through_every_pair_of_forms(tmp_path: Path, first: str, second: str) -> None:
    rng = np.random.default_rng(3)
    vectors = (rng.random((6, 5)) * (rng.random((6, 5)) < 0.5)).astype(np.float32)
    source = table(tmp_path / "in" / "a.csv", [[row % 2, *vectors[row].tolist()] for row in range(6)])
    run(source, "recordio-protobuf", tmp_path / "0")
    run(tmp_path / "0", first, tmp_path / "1")
    run(tmp_path / "1", second, tmp_path / "2", shards=0 if second == "npy" else 2)
    run(tmp_path / "2", "recordio-protobuf", tmp_path / "3")
    found = samples(tmp_path / "3", tmp_path)
    assert [sample["label"] for sample in found] == [0, 1, 0, 1, 0, 1]
    for sample, vector in zip(found, vectors, strict=True):
        # JSON has no float32: Parquet keeps what it had, all other forms take --dtype.
        assert sample["values"].dtype == (np.float64 if (first, second) == ("jsonlines", "parquet") else np.float32)
        assert equal(sample["values"], vector)


@pytest.mark.parametrize("form", ["recordio-protobuf", "tfrecord", "parquet", "jsonlines"])
def test_sparse_vectors_stay_sparse_and_become_dense_when_told(tmp_path: Path, form: str) -> None:
    source = table(tmp_path / "in" / "a.csv", [[1, 0, 0, 2.5, 0], [0, 0, 0, 0, 0], [1, 7, 0, 0, 9]])
    run(source, "recordio-protobuf", tmp_path / "0", matrix="sparse")
    run(tmp_path / "0", form, tmp_path / "1")
    found = samples(tmp_path / "1", tmp_path)
    assert [sample["values"].keys.tolist() for sample in found] == [[2], [], [0, 3]]
    run(tmp_path / "1", "recordio-protobuf", tmp_path / "2", matrix="dense")
    assert [sample["values"].tolist() for sample in samples(tmp_path / "2", tmp_path)] == [
        [0, 0, 2.5, 0], [0, 0, 0, 0], [7, 0, 0, 9],
    ]  # fmt: skip


def test_a_table_keeps_its_types(tmp_path: Path) -> None:
    rows = [["name", "zip", "age", "score"], ["Ö", "00123", "3", "0.5"], ["b,c", "99999", "", "1e3"]]
    run(table(tmp_path / "in" / "a.csv", rows), "parquet", tmp_path / "1")
    run(tmp_path / "1", "jsonlines", tmp_path / "2")
    text = (tmp_path / "2" / "part-00000.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == [
        {"name": "Ö", "zip": "00123", "age": 3, "score": 0.5},
        {"name": "b,c", "zip": "99999", "age": None, "score": 1000.0},
    ]


def test_lines_with_other_fields_become_one_table(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"a": 2.5, "b": "x"}, {"b": "y", "c": [1, 2]}]
    source = lines(tmp_path / "in" / "a.jsonl", rows)
    run(source, "parquet", tmp_path / "1", shards=3)
    run(tmp_path / "1", "jsonlines", tmp_path / "2")
    found = [
        json.loads(line) for path in sorted((tmp_path / "2").glob("*.jsonl")) for line in path.read_text().splitlines()
    ]
    assert found == [
        {"a": 1.0, "b": None, "c": None}, {"a": 2.5, "b": "x", "c": None}, {"a": None, "b": "y", "c": [1, 2]},
    ]  # fmt: skip
    run(lines(tmp_path / "in2" / "a.jsonl", rows[:2]), "csv", tmp_path / "3")
    assert (tmp_path / "3" / "part-00000.csv").read_text() == "a,b\n1,\n2.5,x\n"


@pytest.mark.parametrize(
    ("make", "to", "words"),
    [
        (pairs, "recordio-protobuf", r"recordio-protobuf cannot hold the field 'text' \(a caption\).*--drop text"),
        (pairs, "recordio-image", "image records need a label, and this sample has none.*--label-field"),
        (pairs, "folders", "folders are labels, and this sample has none"),
        (pairs, "csv", "csv cannot hold the field 'image' .bytes.*--drop image"),
        (pairs, "jsonlines", "jsonlines cannot hold the field 'image' .bytes.*slipway index"),
        (pairs, "npy", "npy cannot hold the field 'text' .a caption"),
    ],
)  # fmt: skip
def test_what_a_form_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path, make: Any, to: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        run(make(tmp_path / "in", 3), to, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [WORK]


# --- shards, order, splits, labels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["tar", "recordio-image", "tfrecord", "parquet", "folders", "npy"])
def test_the_output_is_the_same_for_any_number_of_processes(folders: Path, tmp_path: Path, to: str) -> None:
    options: dict[str, Any] = {"shuffle": True, "seed": 3, "splits": (("train", 0.7), ("validation", 0.3))}
    options |= {} if to == "npy" else {"shards": 3}
    run(folders, to, tmp_path / "one", **options)
    run(folders, to, tmp_path / "four", processes=4, **options)
    assert content(tmp_path / "one") == content(tmp_path / "four")


def test_shards_have_the_size_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    for number in range(200):  # the second half is much larger, and sorted so
        side = 8 if number < 100 else 40
        (tmp_path / "in" / "a" / f"{number:03d}.png").write_bytes(picture(number, side, side, "PNG"))
    made = run(tmp_path / "in", "recordio-image", tmp_path / "out", shard_bytes=60_000)
    assert len(made.shards) >= 5
    assert all(0.5 < shard.bytes / 60_000 < 1.6 for shard in made.shards)


def test_a_given_number_of_shards_divides_evenly(folders: Path, tmp_path: Path) -> None:
    made = run(folders, "tar", tmp_path / "out", shards=5)
    assert sorted(shard.samples for shard in made.shards) == [2, 2, 2, 3, 3]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == [f"part-{n:05d}.tar" for n in range(5)]


def test_the_order_is_that_of_the_seed(folders: Path, tmp_path: Path) -> None:
    keys: dict[int, list[str]] = {}
    for seed in (1, 2):
        run(folders, "tar", tmp_path / str(seed), shuffle=True, seed=seed)
        keys[seed] = [sample["__key__"] for sample in samples(tmp_path / str(seed), tmp_path)]
    assert sorted(keys[1]) == sorted(keys[2])
    assert keys[1] != keys[2]
    assert keys[1] != sorted(keys[1])


def test_splits_stay_when_the_data_grow(tmp_path: Path) -> None:
    splits = (("train", 0.6), ("validation", 0.3))
    small = label_folders(tmp_path / "small", {"a": 40, "b": 40})
    large = label_folders(tmp_path / "large", {"a": 60, "b": 40, "c": 30})
    held: dict[str, dict[str, set[str]]] = {}
    for name, source in (("small", small), ("large", large)):
        made = run(source, "tar", tmp_path / f"{name}-out", splits=splits)
        assert made.samples + made.left_out == len(list(source.rglob("*.jpg")))
        held[name] = {
            split: {sample["__key__"] for sample in samples(tmp_path / f"{name}-out" / split, tmp_path)}
            for split in ("train", "validation")
        }
    assert held["small"]["train"] <= held["large"]["train"]
    assert held["small"]["validation"] <= held["large"]["validation"]
    assert not held["large"]["train"] & held["large"]["validation"]
    assert 0.4 < len(held["large"]["train"]) / 130 < 0.8


def test_equal_rows_without_keys_never_lie_in_two_splits(tmp_path: Path) -> None:
    source = table(tmp_path / "in" / "a.csv", [[0, number % 10, 1] for number in range(200)])
    run(source, "csv", tmp_path / "out", splits=(("train", 0.5), ("validation", 0.5)))
    rows = [set((tmp_path / "out" / split / "part-00000.csv").read_text().split()) for split in ("train", "validation")]
    assert not rows[0] & rows[1]
    assert len(rows[0] | rows[1]) == 10


def test_shards_of_one_label_each(folders: Path, tmp_path: Path) -> None:
    run(folders, "tar", tmp_path / "mixed", shuffle=True)
    made = run(tmp_path / "mixed", "recordio-image", tmp_path / "out", by_label=True, shards=2)
    assert {shard.label for shard in made.shards} == {"0", "1", "2"}
    for number, count in ((0, 5), (1, 3), (2, 4)):
        found = samples(tmp_path / "out" / str(number), tmp_path)
        assert [sample["label"] for sample in found] == [number] * count


def test_given_numbers_of_labels_hold_and_unknown_names_are_bad(folders: Path, tmp_path: Path) -> None:
    made = run(folders, "tar", tmp_path / "out", labels=(("zebra", 7), ("cat", 1), ("dog", 0)))
    assert sorted(sample["label"] for sample in samples(tmp_path / "out", tmp_path)) == [0] * 3 + [1] * 5 + [7] * 4
    assert made.labels == {"zebra": 7, "cat": 1, "dog": 0}
    with pytest.raises(UserError, match=r"dog/000\.jpg: the label 'dog' is not among the 2 labels"):
        run(folders, "tar", tmp_path / "fewer", labels=(("zebra", 7), ("cat", 1)))


def test_folders_of_numbers_sort_as_numbers(tmp_path: Path) -> None:
    source = tmp_path / "in" / "a.lst"
    source.parent.mkdir()
    for number in range(12):
        (source.parent / f"{number}.jpg").write_bytes(picture(number))
    source.write_text("".join(f"{n}\t{n}.0\t{n}.jpg\n" for n in range(12)))
    run(source, "folders", tmp_path / "out")
    channel = open_channel(Channel("train", str(tmp_path / "out")))
    assert [int(channel.read(index)[1]) for index in range(12)] == list(range(12))
    assert (
        sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir() and path.name[0] != ".")[2] == "02"
    )


def test_lists_and_indexes_beside_image_records(folders: Path, tmp_path: Path) -> None:
    from runtime.data.formats.image_record import ImageRecords
    from runtime.data.formats.recordio import read_index
    from runtime.data.formats.window import Window

    run(folders, "recordio-image", tmp_path / "out", shuffle=True, shards=2)
    told = [
        line.split("\t") for path in sorted((tmp_path / "out").glob("*.lst")) for line in path.read_text().splitlines()
    ]
    assert [int(number) for number, _, _ in told] == list(range(12))
    by_number = {int(number): (int(label), name) for number, label, name in told}
    for path in sorted((tmp_path / "out").glob("*.rec")):
        data = path.read_bytes()
        for number, offset in read_index(path.with_suffix(".idx")):
            sample = next(iter(ImageRecords().samples(Window.of(data[offset:], str(path)))))
            label, name = by_number[number]
            assert (sample["id"], sample["label"]) == (number, label)
            assert sample["image"] == (folders / name).read_bytes()


def test_a_list_as_a_channel_of_its_own(folders: Path, tmp_path: Path) -> None:
    command = [
        "convert",
        str(folders),
        "--to",
        "folders",
        "--out",
        str(tmp_path / "out"),
        "--lst",
        str(tmp_path / "lst"),
    ]
    assert main([*command, "--split", "train=0.5,validation=0.5", "--processes", "1"]) == 0
    rows = [
        (split, *line.split("\t")) for split in ("train", "validation")
        for line in (tmp_path / "lst" / f"{split}.lst").read_text().splitlines()
    ]  # fmt: skip
    assert len(rows) == 12
    for split, _, label, name in rows:
        assert (tmp_path / "out" / split / name).is_file()
        assert name.split("/")[0] == sorted(FOLDERS)[int(label)]


# --- images ---------------------------------------------------------------------------------------------------------


def test_only_larger_images_are_encoded_anew(tmp_path: Path) -> None:
    root = tmp_path / "in" / "a"
    root.mkdir(parents=True)
    small, large, tall = picture(1, 30, 20), picture(2, 90, 60), picture(3, 20, 31, "PNG")
    for name, data in (("small.jpg", small), ("large.jpg", large), ("tall.png", tall)):
        (root / name).write_bytes(data)
    run(tmp_path / "in", "folders", tmp_path / "out", short_edge=20)
    assert (tmp_path / "out" / "a" / "small.jpg").read_bytes() == small
    assert (tmp_path / "out" / "a" / "tall.png").read_bytes() == tall
    with Image.open(tmp_path / "out" / "a" / "large.jpg") as made:
        assert (made.format, made.size) == ("JPEG", (30, 20))
    run(tmp_path / "in", "folders", tmp_path / "crop", short_edge=16, center_crop=True, image_format="png")
    for path in (tmp_path / "crop" / "a").iterdir():
        with Image.open(path) as made:
            assert (made.format, made.size) == ("PNG", (16, 16))


def test_an_image_that_lies_on_its_side_is_turned_when_it_is_encoded_anew(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    left_red = Image.new("RGB", (80, 40), (255, 0, 0))
    left_red.paste((0, 0, 255), (40, 0, 80, 40))
    left_red.save(tmp_path / "in" / "a" / "x.jpg", exif=exif, quality=100)
    run(tmp_path / "in", "folders", tmp_path / "out", short_edge=20)
    with Image.open(tmp_path / "out" / "a" / "x.jpg") as made:
        assert made.size == (20, 40)
        red, _, blue = made.getpixel((10, 5))  # type: ignore[misc]
        assert red > 200 > blue


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_images_of_every_mode_are_shrunk(tmp_path: Path, mode: str) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (64, 48)).save(tmp_path / "in" / "a" / f"x.{suffix}")
    run(tmp_path / "in", "folders", tmp_path / "out", short_edge=24)
    with Image.open(tmp_path / "out" / "a" / f"x.{suffix}") as made:
        assert made.size == (32, 24)


# --- bad samples ----------------------------------------------------------------------------------------------------


def test_bad_images_end_the_conversion_or_are_left_out_and_told(folders: Path, tmp_path: Path) -> None:
    (folders / "dog" / "001.jpg").write_bytes(b"")
    (folders / "cat" / "002.jpg").write_bytes(b"no image at all")
    (folders / "zebra" / "000.jpg").write_bytes(picture(0)[:-200])
    with pytest.raises(UserError, match=r"cat/002\.jpg: no image: it begins with b'no image'.*--on-bad skip"):
        run(folders, "tar", tmp_path / "raise", decode=True)
    made = run(folders, "tar", tmp_path / "out", on_bad="skip", decode=True, shards=3, processes=2)
    assert (made.samples, made.bad) == (9, 3)
    told = [json.loads(line) for line in (tmp_path / "out" / BAD).read_text().splitlines()]
    assert [Path(row["name"]).name for row in told] == ["002.jpg", "001.jpg", "000.jpg"]
    assert "empty" in told[1]["why"]


def test_a_sample_without_what_the_form_needs_is_left_out_like_any_other(tmp_path: Path) -> None:
    run(pairs(tmp_path / "pairs", 4), "tar", tmp_path / "in")
    run(label_folders(tmp_path / "folders", {"a": 2}), "tar", tmp_path / "more")
    (tmp_path / "more" / "part-00000.tar").rename(tmp_path / "in" / "part-00001.tar")
    made = run(tmp_path / "in", "pairs", tmp_path / "out", on_bad="skip")
    assert (made.samples, made.bad) == (4, 2)
    with pytest.raises(UserError, match="recordio-protobuf cannot hold the field 'text'"):
        run(tmp_path / "pairs", "recordio-protobuf", tmp_path / "none", on_bad="skip")


def test_of_a_damaged_shard_the_samples_before_the_damage_are_taken(folders: Path, tmp_path: Path) -> None:
    run(folders, "tfrecord", tmp_path / "in", shards=2)
    path = tmp_path / "in" / "part-00001.tfrecord"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"part-00001\.tfrecord, byte"):
        run(tmp_path / "in", "tar", tmp_path / "raise")
    made = run(tmp_path / "in", "tar", tmp_path / "out", on_bad="skip")
    assert (made.samples, made.unread) == (11, 1)
    assert "part-00001.tfrecord" in (tmp_path / "out" / BAD).read_text()


def test_a_source_that_is_compressed_as_a_whole_is_unpacked(tmp_path: Path) -> None:
    import gzip

    plain = table(tmp_path / "plain" / "a.csv", [[1, 2, 3], [0, 5, 6]])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    run(tmp_path / "in", "csv", tmp_path / "out")
    assert (tmp_path / "out" / "part-00000.csv").read_text() == "1,2,3\n0,5,6\n"
    (tmp_path / "in" / "a.csv.gz").write_bytes(gzip.compress(plain.read_bytes())[:-6])
    with pytest.raises(UserError, match=r"a\.csv\.gz cannot be unpacked"):
        run(tmp_path / "in", "csv", tmp_path / "cut")


# --- interruptions, hosts, manifests --------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from runtime.data.convert import run
from runtime.data.convert.options import Options
from runtime.data.convert.run import Request, convert

def say(progress):
    if progress.shards >= 3:
        os.kill(os.getpid(), signal.SIGKILL)

convert(Request(Path(sys.argv[1]), Path(sys.argv[2]), Options(sys.argv[3], shards=6), processes=int(sys.argv[4])), say)
"""


@pytest.mark.parametrize(("to", "processes"), [("tar", 1), ("tar", 3), ("folders", 1), ("parquet", 2)])
def test_a_conversion_that_was_killed_goes_on_with_what_it_had(
    folders: Path, tmp_path: Path, to: str, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, folders, out, to, str(processes)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (out / MANIFEST).exists()
    from runtime.data.convert import run as run_module

    made: list[int] = []
    make = run_module._make_slot
    monkeypatch.setattr(run_module, "_make_slot", lambda job, slot: (made.append(slot.number), make(job, slot))[1])
    run(folders, to, out, shards=6)
    assert 0 < len(made) <= 3
    assert not (out / WORK).exists()
    run(folders, to, tmp_path / "anew", shards=6)
    assert content(out) == content(tmp_path / "anew")


@pytest.mark.parametrize("call", range(1, 14))
def test_nothing_that_is_half_written_has_a_final_name(folders: Path, tmp_path: Path, call: int) -> None:
    """Killed before the n-th renaming or note: what has a name is whole, and the rest is made the next time."""
    script = f"""
import os, signal, sys
from pathlib import Path
from tests.unit.data.convert.datasets import run
left = [{call}]
def counted(real):
    def called(*args, **more):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **more)
    return called
Path.replace, os.fsync = counted(Path.replace), counted(os.fsync)
run(Path(sys.argv[1]), "recordio-image", Path(sys.argv[2]), shards=2)
"""
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", script, folders, out], check=False, cwd=Path(__file__).parents[4])
    run(folders, "recordio-image", tmp_path / "anew", shards=2)
    whole = content(tmp_path / "anew")
    for name, data in content(out).items():
        assert name.startswith((WORK, ".")) or data == whole[name]
    assert done.returncode in (0, -signal.SIGKILL)
    run(folders, "recordio-image", out, shards=2)
    assert {name: data for name, data in content(out).items() if not name.startswith(".")} == whole


def test_the_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """Two processes wait for an image that never comes: a FIFO. Their ends show in the other end of it."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    measured = set(np.linspace(0, 599, 256).astype(int).tolist())
    stuck = [next(n for n in range(begin, 600) if n not in measured) for begin in (1, 301)]
    for number in range(600):
        path = tmp_path / "in" / "a" / f"{number:03d}.png"
        os.mkfifo(path) if number in stuck else path.write_bytes(picture(0, 2, 2, "PNG"))
    command = [sys.executable, "-m", "runtime.cli", "convert", str(tmp_path / "in"), "--to", "tar"]
    command += ["--out", str(tmp_path / "out"), "--shards", "2", "--processes", "2"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[4]) as process:
        # Opens when somebody reads.
        ends = [os.open(tmp_path / "in" / "a" / f"{number:03d}.png", os.O_WRONLY) for number in stuck]
        process.kill()
    for end in ends:
        gone = select.poll()
        gone.register(end, 0)
        assert gone.poll(120_000) == [(end, select.POLLERR)]
        os.close(end)


def test_a_complete_output_is_left_alone_and_another_one_refused(folders: Path, tmp_path: Path) -> None:
    run(folders, "tar", tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    run(folders, "tar", tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(UserError, match="holds another conversion: its source or options differ"):
        run(folders, "tar", tmp_path / "out", shuffle=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"holds other files, such as thesis\.tex"):
        run(folders, "tar", tmp_path / "full")
    with pytest.raises(UserError, match="lies inside the source"):
        run(folders, "tar", folders / "out")


@pytest.mark.parametrize("to", ["tar", "folders"])
def test_hosts_make_parts_and_a_merge_makes_them_one(folders: Path, tmp_path: Path, to: str) -> None:
    options: dict[str, Any] = {"shards": 4, "splits": (("train", 0.5), ("validation", 0.5))}
    for part in range(3):
        run(folders, to, tmp_path / f"part{part}", share=(part, 3), **options)
    parts = [tmp_path / f"part{part}" for part in range(3)]
    with pytest.raises(UserError, match="Of 3 parts these are missing: 2"):
        merge([parts[0], parts[2]], tmp_path / "few")
    write_manifest(tmp_path / "whole", merge(parts, tmp_path / "whole"))
    run(folders, to, tmp_path / "alone", **options)
    assert content(tmp_path / "whole") == content(tmp_path / "alone")
    assert verify(tmp_path / "whole")[1] == []
    for part in range(3):
        run(folders, to, tmp_path / "same", share=(part, 3), **options)
    write_manifest(tmp_path / "same", merge([tmp_path / "same"], tmp_path / "same"))
    assert verify(tmp_path / "same")[1] == []
    assert read_manifest(tmp_path / "same" / MANIFEST) == read_manifest(tmp_path / "alone" / MANIFEST)


def test_verify_finds_every_kind_of_change(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run(folders, "tar", out, shards=4)
    assert main(["convert", "--verify", str(out), "--processes", "2"]) == 0
    assert "all is as it was made: 4 shards, 12 samples" in capsys.readouterr().out
    data = bytearray((out / "part-00000.tar").read_bytes())
    data[700] ^= 1
    (out / "part-00000.tar").write_bytes(data)
    (out / "part-00001.tar").write_bytes(b"")
    (out / "part-00002.tar").unlink()
    (out / "part-00009.tar").write_bytes(b"x")
    assert main(["convert", "--verify", str(out), "--json", "--processes", "1"]) == 1
    told = json.loads(capsys.readouterr().out)["problems"]
    assert [problem.split(" has ")[0] for problem in told] == [
        "part-00000.tar was changed: its digest does not fit", "part-00001.tar", "part-00002.tar is missing",
        "part-00009.tar is not in the manifest",
    ]  # fmt: skip
    text = (out / MANIFEST).read_text()
    (out / MANIFEST).write_text(text.replace('"samples": 12', '"samples": 13'))
    assert main(["convert", "--verify", str(out)]) == 1
    assert "was changed: its own digest does not fit" in capsys.readouterr().err
    (out / MANIFEST).write_text(text.replace('"format": 1', '"format": 2'))
    assert main(["convert", "--verify", str(out)]) == 1
    assert "has format 2. this version reads up to 1" in capsys.readouterr().err
