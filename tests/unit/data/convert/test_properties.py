"""Any samples through any pair of forms; damaged sources end in named errors."""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.base.errors import SlipwayError
from runtime.data.convert.manifest import verify
from runtime.data.convert.options import SUFFIXES
from runtime.data.convert.survey import split_of
from tests.unit.data.convert.datasets import equal, label_folders, lines, picture, run, samples

IMAGES = ["tar", "recordio-image", "tfrecord", "parquet", "folders"]
TEXTS = ["jsonlines", "parquet", "tfrecord", "tar"]
small = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

LABELS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    lambda name: "/" not in name and name[0] not in "._" and len(name.encode()) < 200
)
NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
    lambda name: "/" not in name and name[0] not in "._"
)


@contextlib.contextmanager
def somewhere() -> Any:
    path = Path(tempfile.mkdtemp())
    try:
        yield path
    finally:
        shutil.rmtree(path)


@small
@given(
    st.dictionaries(LABELS, st.lists(NAMES, min_size=1, max_size=4, unique=True), min_size=1, max_size=4),
    st.sampled_from(IMAGES),
    st.sampled_from(IMAGES),
    st.integers(1, 4),
    st.booleans(),
)
def test_folders_through_two_forms_hold_the_same_images_and_labels(
    tree: dict[str, list[str]], first: str, second: str, shards: int, shuffle: bool
) -> None:
    with somewhere() as root:
        held: set[tuple[str, bytes]] = set()
        for label, names in tree.items():
            (root / "in" / label).mkdir(parents=True)
            for name in names:
                data = picture(len(held), 6, 6, "PNG") + label.encode()
                (root / "in" / label / f"{name}.png").write_bytes(data)
                held.add((label, data))
        run(root / "in", first, root / "1", shards=shards, shuffle=shuffle)
        run(root / "1", second, root / "2", shards=2, shuffle=shuffle, seed=9)
        made = run(root / "2", "folders", root / "3")
        found = {(path.parent.name, path.read_bytes()) for path in (root / "3").rglob("*.png")}
        assert found == held
        assert made.samples == len(held)
        for step in "123":
            assert verify(root / step)[1] == []


ROWS = st.fixed_dictionaries(
    {
        "number": st.integers(-(2**53), 2**53),
        "score": st.floats(-1e9, 1e9, width=32),
        "text": st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=20),
    }
)


@small
@given(
    st.lists(ROWS, min_size=1, max_size=9),
    st.sampled_from(TEXTS),
    st.sampled_from(TEXTS),
)  # fmt: skip
def test_rows_through_two_forms_hold_the_same_values(rows: list[dict[str, Any]], first: str, second: str) -> None:
    with somewhere() as root:
        source = lines(root / "in" / "a.jsonl", rows)
        run(source, first, root / "1", shards=2)
        run(root / "1", second, root / "2", shards=3)
        run(root / "2", "jsonlines", root / "3")
        found = samples(root / "3", root)
        assert len(found) == len(rows)
        for before, after in zip(rows, found, strict=True):
            assert {name: equal(value, after[name]) for name, value in before.items()} == dict.fromkeys(before, True)


@small
@given(
    st.integers(1, 5).flatmap(
        lambda width: st.lists(
            st.lists(st.floats(width=32, allow_nan=False), min_size=width, max_size=width), min_size=1, max_size=7
        )
    ),
    st.sampled_from(["csv", "tsv", "tfrecord", "parquet", "npy", "jsonlines", "tar"]),
    st.sampled_from(["", "sparse", "dense"]),
)
def test_vectors_hold_every_bit(rows: list[list[float]], form: str, matrix: Any) -> None:
    if form in ("tar", "npy") and matrix == "sparse":
        matrix = ""
    with somewhere() as root:
        source = lines(root / "in" / "a.jsonl", [{"label": n % 3, "values": row} for n, row in enumerate(rows)])
        run(source, "recordio-protobuf", root / "0", matrix=matrix)
        run(root / "0", form, root / "1", matrix="dense" if form in ("tar", "npy") else matrix)
        run(root / "1", "recordio-protobuf", root / "2", matrix="dense")
        found = samples(root / "2", root)
        assert [sample["label"] for sample in found] == [n % 3 for n in range(len(rows))]
        for row, sample in zip(rows, found, strict=True):
            assert equal(np.array(row, np.float32), sample["values"])


@given(st.binary(max_size=30), st.lists(st.floats(0.01, 0.3), min_size=1, max_size=4))
def test_a_larger_part_takes_keys_of_later_splits_only(key: bytes, parts: list[float]) -> None:
    splits = tuple((str(number), part) for number, part in enumerate(parts))
    grown = ((splits[0][0], splits[0][1] + 0.05), *splits[1:])
    assert split_of(key, splits) == split_of(key, splits)
    if split_of(key, splits) == 0:
        assert split_of(key, grown) == 0


@pytest.mark.parametrize("form", [form for form in SUFFIXES if form not in ("csv", "tsv", "jsonlines")])
def test_damage_anywhere_is_a_named_error_or_a_counted_loss(tmp_path: Path, form: str) -> None:
    label_folders(tmp_path / "in", {"a": 3, "b": 3})
    run(tmp_path / "in", form, tmp_path / "whole")
    (shard,) = (tmp_path / "whole").glob(f"*{SUFFIXES[form]}")
    data = shard.read_bytes()
    rng = np.random.default_rng(5)
    for number in range(25):
        hurt = bytearray(data)
        if number % 3:
            hurt[int(rng.integers(len(hurt)))] ^= 1 << int(rng.integers(8))
        else:
            del hurt[int(rng.integers(len(hurt))) :]
        source = tmp_path / f"hurt-{number}"
        source.mkdir()
        (source / shard.name).write_bytes(hurt)
        with contextlib.suppress(SlipwayError):
            made = run(source, "tar", tmp_path / f"raise-{number}")
            assert made.samples <= 6
        with contextlib.suppress(SlipwayError):
            made = run(source, "folders", tmp_path / f"skip-{number}", on_bad="skip")
            assert made.samples + made.bad == 6 or made.unread or form in ("tar", "recordio-image")
