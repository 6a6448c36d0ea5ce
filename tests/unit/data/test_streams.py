"""Shards read forward: every sample once in any world, resumed to the sample, from compressed files and FIFOs."""

import gzip
import io
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.base.errors import UserError
from runtime.data.formats.errors import FormatError
from runtime.data.formats.parquet import ParquetWriter
from runtime.data.formats.probe import SPAN_FORMATS
from runtime.data.order import Division, Last
from runtime.data.streams import cut, read_batches, shuffled


def shards(root: Path, count: int, *, form: str = "jsonlines", packed: bool = True) -> list[Path]:
    paths: list[Path] = []
    for begin in range(0, count, 10):
        out = io.BytesIO()
        kind: Any = SPAN_FORMATS[form]()
        writer = kind.writer(out)
        for n in range(begin, min(count, begin + 10)):
            writer.write({"n": n})
        writer.close()
        paths.append(root / f"{begin:04}.jsonl{'.gz' * packed}")
        paths[-1].write_bytes(gzip.compress(out.getvalue()) if packed else out.getvalue())
    return paths


def numbers(parts: Any) -> list[int]:
    return [sample["n"] for part in parts for sample in part.samples[: len(part.samples) - part.padding]]


@pytest.mark.parametrize("buffer", [0, 1, 7, 1000])
def test_compressed_shards_are_read_once_and_shuffled(buffer: int, tmp_path: Path) -> None:
    paths = shards(tmp_path, 47)
    one = numbers(read_batches(paths, Division(4, 0, 1), buffer=buffer))
    assert sorted(one) == list(range(47))
    assert (one == list(range(47))) == (buffer == 0)
    assert one == numbers(read_batches(paths, Division(4, 0, 1), buffer=buffer))
    other = numbers(read_batches(paths, Division(4, 0, 1), buffer=buffer, epoch=1))
    assert (one == other) == (buffer == 0)


@given(
    st.integers(1, 120),
    st.sampled_from(["short", "pad", "drop"]),
    st.lists(st.tuples(st.integers(1, 7), st.integers(1, 5), st.integers(0, 6)), min_size=1, max_size=4),
    st.integers(0, 40),
)
@settings(max_examples=200, deadline=None)
def test_any_chain_of_worlds_reads_every_sample_once(
    size: int, last: Last, lives: list[tuple[int, int, int]], buffer: int
) -> None:
    def sequence() -> list[dict[str, Any]]:
        samples = [{"n": n} for n in range(size)]
        return list(shuffled(samples, size=buffer, key="k")) if buffer else samples

    seen: Counter[int] = Counter()
    position = 0
    for number, (batch_size, ranks, batches) in enumerate(lives):
        worlds = [list(cut(sequence()[position:], Division(batch_size, rank, ranks, last))) for rank in range(ranks)]
        assert len({len(world) for world in worlds}) == 1, "ranks have different numbers of batches"
        given_out = len(worlds[0]) if number == len(lives) - 1 else min(batches, len(worlds[0]))
        for world in worlds:
            assert all(part.samples for part in world)
            seen.update(numbers(world[:given_out]))
        position += given_out * batch_size * ranks
    assert set(seen.values()) <= {1}
    assert size - len(seen) == (max(0, size - position) if last == "drop" else 0)


def test_a_position_is_resumed_by_reading_up_to_it(tmp_path: Path) -> None:
    paths = shards(tmp_path, 47)
    whole = numbers(read_batches(paths, Division(5, 0, 1), buffer=20))
    rest = list(read_batches(paths, Division(3, 0, 1), buffer=20, consumed=15))
    assert numbers(rest) == whole[15:]
    assert rest[0].begin == 15


def test_a_fifo_is_read_forward(tmp_path: Path) -> None:
    path = tmp_path / "train_0"
    data = b"".join(p.read_bytes() for p in shards(tmp_path, 30, packed=False))
    os.mkfifo(path)
    feeder = threading.Thread(target=lambda: path.write_bytes(data))
    feeder.start()
    assert numbers(read_batches([path], Division(4, 0, 1), buffer=0)) == list(range(30))
    feeder.join()


def test_what_cannot_be_read_forward_and_what_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with path.open("wb") as stream:
        writer = ParquetWriter(stream)
        writer.write({"n": 1})
        writer.close()
    with pytest.raises(UserError, match=r"x\.parquet is parquet, which cannot be read forward"):
        list(read_batches([path], Division(1, 0, 1)))
    cut_short = shards(tmp_path, 10)[0]
    cut_short.write_bytes(cut_short.read_bytes()[:-9])
    with pytest.raises(FormatError, match="damaged gzip"):
        list(read_batches([cut_short], Division(1, 0, 1)))
