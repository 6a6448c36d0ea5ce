"""The feeder of FIFOs against real readers."""

import contextlib
import gzip
import io
import json
import os
import random
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.base.errors import UserError
from runtime.data.formats import recordio
from runtime.data.formats.window import Window
from runtime.local.inputs import readahead, stream
from runtime.local.inputs.objects import FileStore, Stores
from runtime.local.inputs.order import Share
from runtime.local.inputs.pipe import PipeFeeder
from runtime.local.inputs.stream import PipeContent, PipeSource, PipeStream, unpack, wrap
from tests.conftest import wait_for
from tests.inputs import records


@pytest.fixture
def feed(tmp_path):
    """Start feeders, and end them all."""
    (tmp_path / "fifos").mkdir()
    started: list[PipeFeeder] = []
    contents: list[PipeContent] = []

    def start(uri, *, share: Share | None = None, stores: Stores | None = None, channel="train", **source):
        contents.append(PipeContent(PipeSource(str(uri), **source), stores or Stores()))
        made = PipeStream(contents[-1], share or Share())
        feeder = PipeFeeder(channel, tmp_path / "fifos", made.epoch, lambda: made.objects)
        feeder.start()
        started.append(feeder)
        return feeder

    yield start
    for feeder in started:
        feeder.stop()
    for content in contents:
        content.close()
    assert not list((tmp_path / "fifos").iterdir())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pipe ")]


@pytest.fixture
def data(tmp_path):
    """Files of all sizes around those that matter: nothing, a block, a pipe, a piece."""
    directory = tmp_path / "data"
    chance = random.Random(5)
    for index, size in enumerate((0, 1, 5, 4096, 65536, 65537, 1 << 20, (1 << 20) + 3)):
        path = directory / "ab"[index % 2] / f"{index}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(size))
    return directory


def contents(directory: Path) -> list[bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path.read_bytes() for path in sorted(files, key=lambda path: str(path).encode())]


def read(fifos: Path, epoch: int, channel: str = "train") -> bytes:
    """Read an epoch as the developer guide says: the FIFO may not be there yet."""
    path = fifos / f"{channel}_{epoch}"
    wait_for(path.exists, f"{path.name} appears")
    return path.read_bytes()


def test_objects_follow_each_other_in_the_order_of_keys_in_every_epoch(feed, data, tmp_path):
    feeder = feed(data)
    whole = b"".join(contents(data))
    for epoch in range(3):
        assert read(tmp_path / "fifos", epoch) == whole
    wait_for((tmp_path / "fifos/train_3").exists, "the next FIFO")
    assert [(row.bytes, row.objects, row.end) for row in feeder.epochs] == [
        *[(len(whole), 8, "complete")] * 3,
        (0, 0, "never opened"),
    ]


def test_the_next_fifo_appears_when_the_one_before_is_closed_and_that_one_is_gone(feed, data, tmp_path):
    feed(data)
    first, second = (tmp_path / "fifos" / f"train_{epoch}" for epoch in (0, 1))
    assert first.is_fifo()  # there before the job begins
    with first.open("rb") as reader:
        reader.read(10)
        assert not second.exists()
        reader.read()
    wait_for(second.exists, "train_1")
    assert not first.exists()  # who opened it again would wait for ever


def test_a_reader_may_close_early_and_gets_the_next_epoch_from_its_beginning(feed, data, tmp_path):
    feeder = feed(data)
    with (tmp_path / "fifos/train_0").open("rb", buffering=0) as reader:
        reader.read(100)
    assert read(tmp_path / "fifos", 1) == b"".join(contents(data))
    assert feeder.epochs[0].end == "closed early"
    assert 1 <= feeder.epochs[0].bytes < feeder.epochs[1].bytes


def test_a_reader_that_never_comes_does_not_hold_up_the_end(feed, data):
    feeder = feed(data)
    feeder.stop()
    assert [row.end for row in feeder.epochs] == ["never opened"]


def test_a_reader_that_does_not_read_does_not_hold_up_the_end(feed, data, tmp_path):
    feeder = feed(data)
    with (tmp_path / "fifos/train_0").open("rb", buffering=0) as reader:
        reader.read(1)
        feeder.stop()
        assert [row.end for row in feeder.epochs] == ["not read to the end"]
        assert 0 < feeder.epochs[0].bytes <= (1 << 16) + 1 + (1 << 20)  # no more than what a pipe holds is ahead


def test_memory_is_bounded_by_back_pressure(feed, tmp_path):
    big = tmp_path / "big"
    big.mkdir()
    with (big / "sparse").open("wb") as file:
        file.truncate(4 << 30)  # more than would fit into memory here
    feeder = feed(big)
    with (tmp_path / "fifos/train_0").open("rb", buffering=0) as reader:
        got = sum(len(reader.read(1 << 16)) for _ in range(200))
        wait_for(lambda: feeder.epochs[0].bytes > got, "the pipe is full again")
        assert feeder.epochs[0].bytes - got <= 1 << 16


def test_a_reader_that_is_killed_leaves_the_feeder_at_work(feed, data, tmp_path):
    feeder = feed(data)
    program = "import sys, time; f = open(sys.argv[1], 'rb'); f.read(10); print('reading', flush=True); time.sleep(600)"
    reader = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "fifos/train_0")], stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    reader.kill()
    reader.wait()
    reader.stdout.close()
    assert read(tmp_path / "fifos", 1) == b"".join(contents(data))
    assert feeder.epochs[0].end == "closed early"


def test_two_readers_of_one_fifo_share_its_bytes(feed, data, tmp_path):
    feed(data)
    path = tmp_path / "fifos/train_0"
    first, second = (os.open(path, os.O_RDONLY | os.O_NONBLOCK) for _ in range(2))
    total = {first: 0, second: 0}
    turn = 0
    while True:
        descriptor = (first, second)[turn % 2]
        turn += 1
        try:
            piece = os.read(descriptor, 4096)
        except BlockingIOError:
            continue
        total[descriptor] += len(piece)
        if not piece and sum(total.values()):
            break
    for descriptor in total:
        os.close(descriptor)
    assert sum(total.values()) == len(b"".join(contents(data)))


def test_recordio_wraps_each_object_in_a_record(feed, data, tmp_path):
    feed(data, recordio=True)
    assert records(read(tmp_path / "fifos", 0)) == contents(data)


def test_our_own_reader_takes_it_from_the_fifo_itself(feed, data, tmp_path):
    feed(data, recordio=True)
    with (tmp_path / "fifos/train_0").open("rb", buffering=0) as stream:
        assert list(recordio.read_records(Window(stream, "train_0"))) == contents(data)


def test_a_magic_number_in_the_data_stays_there(feed, tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "x").write_bytes(struct.pack("<III", 7, 0xCED7230A, 12) + b"tail")
    feed(directory, recordio=True)
    assert records(read(tmp_path / "fifos", 0)) == contents(directory)


@pytest.mark.parametrize("size", [0, 3, 4, 5, 8, 9, 12, 100])
def test_an_object_longer_than_a_record_becomes_several_parts(size, monkeypatch):
    monkeypatch.setattr(recordio, "LONGEST_PART", 5)
    data = bytes(range(size))
    pieces = iter([data[at : at + 3] for at in range(0, size, 3)])
    assert records(b"".join(wrap(pieces, size))) == [data]


def test_gzip_files_are_unpacked_and_may_have_several_members(feed, tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    text = random.Random(1).randbytes(100_000) + bytes(5_000_000)
    (directory / "a.gz").write_bytes(gzip.compress(text) + gzip.compress(b"second") + bytes(512))
    (directory / "b.gz").write_bytes(gzip.compress(b""))
    (directory / "c.gz").write_bytes(gzip.compress(b"third"))
    feed(directory, gzip=True)
    assert read(tmp_path / "fifos", 0) == text + b"second" + b"third"


def test_gzip_is_unpacked_before_it_is_wrapped(feed, tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "a").write_bytes(gzip.compress(b"x" * 70_001))
    (directory / "b").write_bytes(gzip.compress(b""))
    feed(directory, gzip=True, recordio=True)
    assert records(read(tmp_path / "fifos", 0)) == [b"x" * 70_001, b""]


@pytest.mark.parametrize("damage", ["no gzip at all", "", "cut", "flipped", "tail"])
def test_a_damaged_gzip_file_is_named_and_its_fifo_has_no_end(feed, tmp_path, damage):
    directory = tmp_path / "data"
    directory.mkdir()
    packed = gzip.compress(random.Random(2).randbytes(300_000))
    made = {"cut": packed[:-5], "flipped": packed[:1000] + b"\0\0\0\0" + packed[1004:], "tail": packed + b"junk"}
    (directory / "a.gz").write_bytes(made.get(damage, damage.encode()))
    feeder = feed(directory, gzip=True)
    got = io.BytesIO()
    ended = threading.Event()

    def reader():
        with (tmp_path / "fifos/train_0").open("rb") as stream:
            got.write(stream.read())
        ended.set()

    thread = threading.Thread(target=reader)
    thread.start()
    wait_for(lambda: feeder.error, "the error")
    with pytest.raises(UserError, match=r"'train'.*a\.gz is no whole gzip file"):
        feeder.check()
    assert feeder.epochs[0].end == "failed"
    assert not ended.wait(0.2), "the reader took a part for the whole"
    feeder.stop()
    thread.join()


def test_a_file_that_vanishes_or_shrinks_is_an_error(feed, data, tmp_path):
    feeder = feed(data)
    (data / "b/7.bin").write_bytes(b"short")
    descriptor = os.open(tmp_path / "fifos/train_0", os.O_RDONLY | os.O_NONBLOCK)

    def read_on() -> UserError | None:
        with contextlib.suppress(BlockingIOError):
            os.read(descriptor, 1 << 16)
        return feeder.error

    wait_for(read_on, "the error")
    os.close(descriptor)
    with pytest.raises(UserError, match=r"7\.bin"):
        feeder.check()


def manifest_of(tmp_path, lines) -> Path:
    for name, content in (("1.jpg", b"\xff\xd8one"), ("2.jpg", b"\xff\xd8two!")):
        (tmp_path / name).write_bytes(content)
    path = tmp_path / "lines.manifest"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_attributes_of_an_augmented_manifest_are_interleaved_records(feed, tmp_path):
    path = manifest_of(
        tmp_path,
        [
            {"image-ref": f"{tmp_path}/1.jpg", "class": 1, "ignored": "x", "box": {"w": [1, 2]}},
            "",
            {"class": "zwölf", "image-ref": f"file://{tmp_path}/2.jpg", "box": None},
        ],
    )
    feed(path, data_type="AugmentedManifestFile", attributes=("image-ref", "class", "box"), recordio=True)
    assert records(read(tmp_path / "fifos", 0)) == [
        b"\xff\xd8one", b"1", b'{"w":[1,2]}', b"\xff\xd8two!", "zwölf".encode(), b"null",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "place", "what"),
    [
        ('{"image-ref": "x", }', "line 2, column 20", "JSON"),
        ("[1]", "line 2, column 1", "holds list"),
        ('{"class": 1}', "line 2, column 1", "'image-ref' is missing"),
        ('{"image-ref": 3, "class": 1}', "line 2, column 1", "not the URI"),
    ],
)
def test_a_malformed_line_is_told_before_the_job_starts(feed, tmp_path, line, place, what):
    path = manifest_of(tmp_path, [{"image-ref": "a", "class": 0}, line])
    with pytest.raises(UserError) as caught:
        feed(path, data_type="AugmentedManifestFile", attributes=("image-ref", "class"))
    assert place in str(caught.value)
    assert what in str(caught.value)


def test_an_augmented_manifest_shuffles_and_divides_its_lines(feed, tmp_path):
    path = manifest_of(tmp_path, [{"n": number} for number in range(40)])
    seen = []
    for index in range(2):
        feed(
            path,
            share=Share(index, 2, True, 3),
            channel=f"c{index}",
            data_type="AugmentedManifestFile",
            attributes=("n",),
            recordio=True,
        )
        seen.append([records(read(tmp_path / "fifos", epoch, f"c{index}")) for epoch in range(2)])
    for epoch in range(2):
        assert sorted(int(record) for part in seen for record in part[epoch]) == list(range(40))
    assert seen[0][0] != seen[0][1]


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=12),
    seed=st.one_of(st.none(), st.integers(0, 99)),
    num_hosts=st.integers(1, 4),
    epochs=st.integers(1, 3),
)
def test_what_flows_is_what_the_order_says(tmp_path_factory, sizes, seed, num_hosts, epochs):
    directory = tmp_path_factory.mktemp("data")
    chance = random.Random(str(sizes))
    files = [chance.randbytes(size) for size in sizes]
    for index, content in enumerate(files):
        (directory / f"{index:04}").write_bytes(content)
    content = PipeContent(PipeSource(str(directory), recordio=True), Stores())
    for epoch in range(epochs):
        got: list[bytes] = []
        for index in range(num_hosts):
            share = Share(index, num_hosts, True, seed)
            part = records(b"".join(PipeStream(content, share).epoch(epoch)))
            assert part == [files[number] for number in share.of_epoch(len(files), epoch)]
            got += part
        assert sorted(got) == sorted(files)


@pytest.mark.parametrize("size", [0, 1, 10, 64, 65, 1000])
def test_reading_ahead_gives_the_same_bytes(tmp_path, monkeypatch, size):
    monkeypatch.setattr(readahead, "REQUEST", 64)
    (tmp_path / "x").write_bytes(random.Random(size).randbytes(size))
    whole = (tmp_path / "x").read_bytes()
    for known in (0, 1, 64, size):
        pieces = readahead.read_ahead(FileStore(), str(tmp_path / "x"), size, 3, whole[:known])
        assert b"".join(pieces) == whole


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5))
def test_distant_items_are_begun_ahead_and_come_in_order(far, ahead):
    begun: list[int] = []
    taken = 0

    def begin(item: int) -> str:
        begun.append(item)
        return f"begun {item}"

    for item, result in readahead.begin_ahead(iter(range(len(far))), far.__getitem__, begin, ahead):
        assert item == taken
        assert result == (f"begun {item}" if far[item] else None)
        assert len([other for other in begun if other > item]) <= ahead
        taken += 1
    assert taken == len(far)


def test_what_fails_ahead_fails_at_its_turn():
    def begin(item: int) -> int:
        if item == 3:
            raise OSError("gone")
        return item

    items = readahead.begin_ahead(iter(range(9)), lambda _: True, begin, 4)
    assert [next(items)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_a_slow_source_is_read_with_several_requests_at_one_time(feed, data, tmp_path):
    lock, now, most = threading.Lock(), 0, 0

    class Counted(FileStore):
        def read(self, key: str, offset: int, length: int) -> bytes:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            threading.Event().wait(0.02)
            try:
                return super().read(key, offset, length)
            finally:
                with lock:
                    now -= 1

    stores = Stores(latency_s=0.001)
    stores._opened[""] = Counted()
    feed(data, stores=stores, recordio=True)
    assert records(read(tmp_path / "fifos", 0)) == contents(data)
    assert 2 <= most <= stream.OBJECTS_AHEAD + readahead.AHEAD


@given(st.binary(max_size=5000), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_gzip_in_any_pieces(data, cuts):
    packed = gzip.compress(data, 1)
    pieces, at = [], 0
    while at < len(packed):
        step = cuts[len(pieces) % len(cuts)]
        pieces.append(packed[at : at + step])
        at += step
    assert b"".join(unpack(iter(pieces), "x")) == data


def test_whatever_goes_wrong_is_told_and_is_no_end_of_the_stream(tmp_path):
    def pieces(_epoch: int):
        yield b"first"
        raise ZeroDivisionError("a mistake of ours")

    feeder = PipeFeeder("train", tmp_path, pieces, lambda: 1)
    feeder.start()
    reader = os.open(tmp_path / "train_0", os.O_RDONLY)
    try:
        assert os.read(reader, 100) == b"first"
        wait_for(lambda: feeder.error, "the error")
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 100)
        with pytest.raises(UserError, match="ZeroDivisionError"):
            feeder.check()
    finally:
        feeder.stop()
        os.close(reader)


def test_a_source_that_does_not_answer_does_not_hold_up_the_end(tmp_path, capfd):
    answer = threading.Event()

    def pieces(_epoch: int):
        yield b"first"
        answer.wait(600)

    feeder = PipeFeeder("train", tmp_path, pieces, lambda: 1)
    feeder.start()
    with (tmp_path / "train_0").open("rb", buffering=0) as reader:
        assert reader.read(5) == b"first"
        feeder.stop(0.2)
    assert not (tmp_path / "train_0").exists()
    assert "still waits for its data" in capfd.readouterr().err
    answer.set()
    feeder._thread.join()
    feeder.stop()
