"""Shards as a channel: found, opened by content, read in any order, seen as x and y; bad ones named."""

import io
import json
import random
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.base.errors import UserError
from runtime.contract.job import Channel
from runtime.data import shards
from runtime.data.formats.parquet import ParquetWriter
from runtime.data.formats.probe import SPAN_FORMATS
from runtime.data.loader import Data
from runtime.data.order import Division
from runtime.data.sources import BadSample, open_source
from tests.unit.data.test_loader import Hooks


def picture(number: int, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (4, 3), number if mode == "L" else (number, 0, 0)).save(out, "PNG")
    return out.getvalue()


def write(root: Path, form: str, samples: list[dict[str, Any]], *, per_shard: int = 4, suffix: str = "") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(_cut(samples, per_shard)):
        with (root / f"part-{number:03}{suffix or '.' + form}").open("wb") as stream:
            kind: Any = None if form == "parquet" else SPAN_FORMATS[form]()
            writer = ParquetWriter(stream) if kind is None else kind.writer(stream)
            for sample in part:
                writer.write(sample)
            writer.close()
    return root


def _cut(samples: list[Any], size: int) -> list[list[Any]]:
    return [samples[at : at + size] for at in range(0, len(samples), size)]


COUNT = 11
FORMS: dict[str, list[dict[str, Any]]] = {
    "tar": [{"__key__": f"{n:04}", "png": picture(n), "cls": str(n)} for n in range(COUNT)],
    "recordio-image": [{"image": picture(n), "label": float(n)} for n in range(COUNT)],
    "recordio-protobuf": [
        {"values": np.full(3, n, np.float32), "label": np.array([n], np.float32)} for n in range(COUNT)
    ],
    "tfrecord": [{"image": picture(n), "label": np.array([n])} for n in range(COUNT)],
    "csv": [{"label": n, "a": n, "b": 0.5} for n in range(COUNT)],
    "jsonlines": [{"label": n, "a": n, "b": 0.5} for n in range(COUNT)],
    "parquet": [{"label": n, "a": float(n), "b": 0.5} for n in range(COUNT)],
}


def data(root: Path, *, content_type: str = "", batch_size: int = 4, **options: Any) -> Data:
    source = open_source(Channel("train", str(root), content_type=content_type))
    values: dict[str, Any] = {"name": "train", "seed": 0, "shuffle": True, "workers": 0, "on_bad": "raise"}
    values |= {"transform": None, "device": torch.device("cpu"), "sample": 0, "hooks": Hooks()}
    return Data(source, division=Division(batch_size, 0, 1), **(values | options))


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_gives_every_sample_with_its_label(form: str, tmp_path: Path) -> None:
    one = data(write(tmp_path / "c", form, FORMS[form]))
    seen: list[int] = []
    for x, y in one:
        seen += [int(label) for label in y]
        for sample, label in zip(x, y, strict=True):
            if form in ("tar", "recordio-image", "tfrecord"):
                assert sample.shape == (3, 3, 4)
                assert round(float(sample[0, 0, 0]) * 255) == int(label)
            else:
                assert float(sample[0]) == float(label)
    assert sorted(seen) == list(range(COUNT))
    assert seen != sorted(seen), "shuffled over all shards"


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_loader_workers_change_nothing(form: str, tmp_path: Path) -> None:
    root = write(tmp_path / "c", form, FORMS[form])
    assert [y.tolist() for _, y in data(root)] == [y.tolist() for _, y in data(root, workers=2)]


def test_more_shards_than_a_process_holds_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "OPEN_FILES", 2)
    source = open_source(Channel("train", str(write(tmp_path / "c", "tar", FORMS["tar"], per_shard=1))))
    order = list(range(COUNT)) * 3
    random.Random(0).shuffle(order)
    assert [int(source.read(n)[1]) for n in order] == order


def test_the_digest_knows_names_sizes_and_the_format(tmp_path: Path) -> None:
    def digest(name: str, samples: list[dict[str, Any]]) -> str:
        return open_source(Channel("train", str(write(tmp_path / name, "csv", samples)))).digest

    same, again = digest("a", FORMS["csv"]), digest("b", FORMS["csv"])
    assert same == again
    assert digest("c", FORMS["csv"][:-1]) != same


def test_hidden_and_side_files_are_no_shards(tmp_path: Path) -> None:
    root = write(tmp_path / "c", "tar", FORMS["tar"])
    (root / "_SUCCESS").write_text("")
    (root / ".x.tar.tmp").write_text("x")
    (root / "part-000.idx").write_text("0\t0\n")
    assert len(open_source(Channel("train", str(root)))) == COUNT


def test_a_damaged_sample_is_named_or_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [dict(sample) for sample in FORMS["tar"]]
    samples[5]["png"] = samples[5]["png"][:40]
    del samples[7]["png"]
    root = write(tmp_path / "c", "tar", samples)
    with pytest.raises(UserError, match=r"Unreadable sample: .*part-001\.tar, sample [13]"):
        list(data(root))
    one = data(root, on_bad="skip")
    assert sorted(int(label) for _, y in one for label in y) == [0, 1, 2, 3, 4, 6, 8, 9, 10]
    assert one.skipped == 2
    assert "part-001.tar, sample" in open_source(Channel("train", str(root))).find_damaged(range(COUNT))


def test_a_shard_that_changed_under_us_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "c", "tar", FORMS["tar"], per_shard=COUNT)
    source = open_source(Channel("train", str(root)))
    path = root / "part-000.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(BadSample, match="truncated"):
        source.read(COUNT - 1)


def test_a_damaged_shard_stops_the_start_with_file_and_offset(tmp_path: Path) -> None:
    root = write(tmp_path / "c", "tfrecord", FORMS["tfrecord"])
    path = root / "part-001.tfrecord"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"part-001\.tfrecord, byte \d+: truncated"):
        open_source(Channel("train", str(root)))


def test_what_lies_before_the_damage_is_used_when_bad_samples_may_be_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ("tar", "tfrecord", "csv"):
        root = write(tmp_path / form, form, FORMS[form])
        path = root / f"part-001.{form}"
        data = path.read_bytes()
        path.write_bytes(
            data[: -len(data) // 4] if form == "tar" else data[:-1] if form == "tfrecord" else data + b'"x'
        )
        source = open_source(Channel("train", str(root)), whole=False)
        assert {"tar": COUNT - 2, "tfrecord": COUNT - 1, "csv": COUNT}[form] - len(source) in (0, 1, -1)
        assert re.search(r"\d samples of a damaged shard are used.*part-001", capsys.readouterr().err)
        for n in range(len(source)):
            source.read(n)


def test_side_files_of_other_tools_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "c", "tar", FORMS["tar"])
    write(root, "parquet", FORMS["parquet"])
    (root / "part-000_stats.json").write_text("{}")
    (root / "README.md").write_text("# ours")
    assert len(open_source(Channel("train", str(root)))) == COUNT
    assert "files (.json, .parquet) beside the shards are left out" in capsys.readouterr().err
    assert open_source(Channel("train", str(root), content_type="application/x-parquet")).images is False


def test_several_formats_in_a_channel_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "c", "jsonlines", FORMS["jsonlines"])
    write(root, "csv", FORMS["csv"])
    with pytest.raises(UserError, match="files of several formats: csv, jsonlines"):
        open_source(Channel("train", str(root)))


def test_compressed_shards_say_what_to_do(tmp_path: Path) -> None:
    import gzip

    root = write(tmp_path / "c", "csv", FORMS["csv"], per_shard=COUNT)
    path = root / "part-000.csv"
    (root / "part-000.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    with pytest.raises(UserError, match=r"part-000\.csv\.gz is compressed as a whole.*unpack"):
        open_source(Channel("train", str(root)))


def test_sagemakers_csv_has_no_header_and_the_label_first(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("3,0.5,1e3\n4,-1,nan\n")
    one = data(tmp_path, content_type="text/csv", shuffle=False)
    x, y = next(iter(one))
    assert y.tolist() == [3.0, 4.0]
    assert x[0].tolist() == [0.5, 1000.0]
    two = data(tmp_path, content_type="text/csv;label_size=2", shuffle=False)
    x, y = next(iter(two))
    assert (x.shape, y.tolist()) == ((2, 1), [[3.0, 0.5], [4.0, -1.0]])
    none = data(tmp_path, content_type="text/csv;label_size=0", shuffle=False)
    x, y = next(iter(none))
    assert (x.shape, y.tolist()) == ((2, 3), [0, 1])


def test_records_of_other_fields_go_to_the_users_transform(tmp_path: Path) -> None:
    root = write(tmp_path / "c", "jsonlines", [{"caption": "a" * n, "size": n} for n in range(1, 5)])

    def both(record: dict[str, Any]) -> tuple[torch.Tensor, str]:
        return torch.tensor([record["size"]]), record["caption"]

    x, y = next(iter(data(root, transform=both, shuffle=False)))
    assert x[:, 0].tolist() == [1, 2, 3, 4]
    assert y == ["a", "aa", "aaa", "aaaa"]
    x, y = next(iter(data(root, shuffle=False)))
    assert x[0] == {"caption": "a", "size": 1}


def test_images_with_captions(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(picture(n))
        (tmp_path / f"{n}.txt").write_text(f"größe {n}\n")
    one = data(tmp_path, shuffle=False)
    x, y = next(iter(one))
    assert (x.shape, y) == ((3, 3, 3, 4), ["größe 0", "größe 1", "größe 2"])
    (tmp_path / "1.txt").unlink()
    with pytest.raises(UserError, match=r"1\.png has no caption 1\.txt beside it"):
        list(data(tmp_path))
    assert "1.png has no caption" in open_source(Channel("train", str(tmp_path))).find_damaged(range(3))


def test_images_with_captions_in_a_tar_shard(tmp_path: Path) -> None:
    root = write(tmp_path / "c", "tar", [{"__key__": str(n), "png": picture(n), "txt": f"ü{n}"} for n in range(3)])
    _, y = next(iter(data(root, shuffle=False)))
    assert y == ["ü0", "ü1", "ü2"]


def test_tokens_are_cut_into_inputs_and_targets(tmp_path: Path) -> None:
    np.arange(21, dtype=np.uint16).tofile(tmp_path / "train.bin")
    one = data(tmp_path, content_type="application/x-tokens;dtype=uint16;length=5", shuffle=False)
    x, y = next(iter(one))
    assert x.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14], [15, 16, 17, 18, 19]]
    assert (y - x).unique().tolist() == [1]
    with pytest.raises(UserError, match=r"length of sequences of tokens is ''.*length=1024"):
        open_source(Channel("train", str(tmp_path)))
    (tmp_path / "train.bin").write_bytes(b"abc")
    with pytest.raises(UserError, match=r"train\.bin, byte 2: 3 bytes are no whole number of uint16"):
        data(tmp_path, content_type="application/x-tokens;dtype=uint16;length=5")


def test_archives_of_another_tool(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for n in range(3):
            for name, value in ((f"./{n}.json", json.dumps({"n": n}).encode()), (f"./{n}.PNG", picture(n))):
                info = tarfile.TarInfo(name)
                info.size = len(value)
                tar.addfile(info, io.BytesIO(value))
    x, y = next(iter(data(tmp_path, shuffle=False)))
    assert (x.shape, y.tolist()) == ((3, 3, 3, 4), [0, 1, 2])


def test_a_mounted_channel_is_shuffled_near_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(shards, "BLOCKS_MIXED", 1)
    root = write(tmp_path / "c", "tar", FORMS["tar"], per_shard=6)
    mounted = open_source(Channel("train", str(root), input_mode="FastFile"))
    copied = open_source(Channel("train", str(root)))
    assert mounted.blocks is not None
    assert copied.blocks is None
    near = _over(mounted)
    seen = [int(label) for _, y in near for label in y]
    assert sorted(seen) == list(range(COUNT))
    borders = mounted.blocks.starts.tolist()
    blocks = [max(b for b, start in enumerate(borders) if start <= n) for n in seen]
    assert [b for n, b in enumerate(blocks) if n == 0 or blocks[n - 1] != b] == list(dict.fromkeys(blocks))
    with pytest.raises(UserError, match="another kind of shuffle, near or over everything"):
        _over(copied).load_state_dict(near.state_dict())


def test_parquet_rows_are_shuffled_within_a_few_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.data.formats import parquet

    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 2)
    source = open_source(Channel("train", str(write(tmp_path / "c", "parquet", FORMS["parquet"]))))
    assert source.blocks is not None
    assert source.blocks.starts.tolist() == [0, 2, 4, 6, 8, 10, 11]
    assert sorted(int(label) for _, y in _over(source) for label in y) == list(range(COUNT))


def _over(source: Any) -> Data:
    values: dict[str, Any] = {"name": "train", "seed": 0, "shuffle": True, "workers": 0, "on_bad": "raise"}
    values |= {"transform": None, "device": torch.device("cpu"), "sample": 0, "hooks": Hooks()}
    return Data(source, division=Division(4, 0, 1), **values)


def test_arrays_in_a_tar_shard_are_checked_before_they_are_made(tmp_path: Path) -> None:
    def npy(array: np.ndarray[Any, Any]) -> bytes:
        out = io.BytesIO()
        np.save(out, array)
        return out.getvalue()

    good = npy(np.asfortranarray(np.arange(6).reshape(2, 3)))
    absurd = npy(np.zeros(9, np.float32)).replace(b"(9,)", b"(9999999999999,)", 1)
    samples = [{"__key__": str(n), "npy": data, "cls": "1"} for n, data in enumerate((good, absurd, good[:-1]))]
    source = open_source(Channel("train", str(write(tmp_path / "c", "tar", samples))))
    x, y = source.read(0)
    assert (x.tolist(), int(y)) == ([[0, 1, 2], [3, 4, 5]], 1)
    for n in (1, 2):
        with pytest.raises(BadSample, match=r"its \.npy is unreadable"):
            source.read(n)
