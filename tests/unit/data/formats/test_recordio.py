"""RecordIO framing: split records keep every byte, damage has a name and a place, memory stays small."""

import io
import itertools
import os
import struct
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.data.formats.errors import FormatError
from runtime.data.formats.recordio import (
    LONGEST_PART,
    MAGIC_BYTES,
    Join,
    RecordWriter,
    part_frames,
    read_index,
    read_records,
    record_spans,
)
from runtime.data.formats.window import Window


def packed(*records: bytes, escape: bool = True) -> bytes:
    out = io.BytesIO()
    writer = RecordWriter(out, escape=escape)
    for record in records:
        writer.write(record)
    assert writer.offset == len(out.getvalue())
    return out.getvalue()


def unpacked(data: bytes, join: Join = "dmlc", capacity: int = 64) -> list[bytes]:
    return list(read_records(Window(io.BytesIO(data), "x.rec", capacity=capacity), join=join))


def part(flag: int, payload: bytes) -> bytes:
    return MAGIC_BYTES + struct.pack("<I", flag << 29 | len(payload)) + payload + bytes(-len(payload) % 4)


payloads = st.lists(
    st.lists(st.sampled_from([MAGIC_BYTES, b"", b"a", b"bc", b"defg", bytes(70)]), max_size=6).map(b"".join), max_size=8
)


@given(payloads, st.booleans(), st.integers(8, 200))
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read(records: list[bytes], escape: bool, capacity: int) -> None:
    data = packed(*records, escape=escape)
    assert unpacked(data, capacity=capacity) == records
    spans = list(record_spans(Window(io.BytesIO(data), "x", capacity=capacity)))
    assert [list(read_records(Window.of(data[at : at + size], "x", at))) for at, size in spans] == [
        [r] for r in records
    ]


def test_the_bytes_are_those_of_dmlc() -> None:
    """By hand, after dmlc-core's recordio.cc: the magic at place 4 is left out and splits, at place 13 it does not."""
    payload = b"abcd" + MAGIC_BYTES + b"e" * 5 + MAGIC_BYTES
    assert packed(payload) == part(1, b"abcd") + part(3, b"eeeee" + MAGIC_BYTES)
    assert packed(b"") == part(0, b"")
    assert packed(MAGIC_BYTES) == part(1, b"") + part(3, b"")


def test_the_magic_comes_back_between_parts_unless_parts_are_concatenated() -> None:
    data = part(1, b"abcd") + part(2, b"ef") + part(3, b"")
    assert unpacked(data) == [b"abcd" + MAGIC_BYTES + b"ef" + MAGIC_BYTES]
    assert unpacked(data, "concat") == [b"abcdef"]


def test_an_object_too_long_for_one_part_is_framed_in_several() -> None:
    size = 2 * LONGEST_PART + 5
    frames = list(part_frames(size))
    assert sum(length for _, length, _ in frames) == size
    assert [struct.unpack("<II", head)[1] >> 29 for head, _, _ in frames] == [1, 2, 3]
    assert all((length + len(padding)) % 4 == 0 for _, length, padding in frames)
    assert [head for head, _, _ in part_frames(7)] == [MAGIC_BYTES + struct.pack("<I", 7)]


def test_a_cut_at_every_byte_is_an_error_with_its_place() -> None:
    data = packed(b"one", b"two" * 30, b"x" + MAGIC_BYTES, b"abcd" + MAGIC_BYTES + b"z")
    whole = {at for at, _ in record_spans(Window(io.BytesIO(data), "x"))} | {len(data)}
    for cut in range(len(data)):
        if cut in whole:
            assert len(unpacked(data[:cut])) < 4
            continue
        with pytest.raises(FormatError, match="truncated") as caught:
            unpacked(data[:cut])
        assert caught.value.file == "x.rec"
        assert caught.value.offset <= cut
        with pytest.raises(FormatError, match="truncated"):
            list(record_spans(Window(io.BytesIO(data[:cut]), "x.rec")))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (part(0, b"ab") + b"garbage!", r"x\.rec, byte 12: no RecordIO record: it begins with 0x"),
        (part(2, b"ab"), "byte 0: a record begins in the middle"),
        (part(3, b"ab"), "byte 0: a record begins in the middle"),
        (part(5, b"ab"), "byte 0: a record begins with the unknown flag 5"),
        (part(1, b"ab") + part(0, b"cd"), "byte 12: the part of a record after a first one is missing"),
        (part(1, b"ab") + part(2, b"") + part(1, b"cd"), "byte 20: the part of a record after a middle one is missing"),
        (part(1, b"ab"), "byte 0: truncated: the last part of a split record is missing"),
    ],
)
def test_damage_has_a_name_and_a_place(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        unpacked(data)
    with pytest.raises(FormatError, match=words):
        list(record_spans(Window(io.BytesIO(data), "x.rec")))


def test_a_length_is_not_believed_before_its_bytes_come() -> None:
    head = MAGIC_BYTES + struct.pack("<I", LONGEST_PART)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=f"needs {LONGEST_PART + 1} bytes, 4 are left"):
            list(read_records(Window(io.BytesIO(head + b"abcd"), "x.rec")))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_memory_is_that_of_one_record(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    with path.open("wb") as stream:
        writer = RecordWriter(stream)
        for _ in range(64):
            writer.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with Window.open(path) as window:
            assert sum(len(record) for record in read_records(window)) == 64 << 20
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_fifo_gives_its_bytes_in_any_pieces(tmp_path: Path) -> None:
    path = tmp_path / "train_0"
    os.mkfifo(path)
    records = [bytes([n % 251]) * (n * 37 % 5000) for n in range(400)]
    data = packed(*records)

    def feed() -> None:
        with path.open("wb", buffering=0) as stream:
            at = 0
            for size in itertools.cycle((1, 7, 100, 4096, 65537)):
                if at >= len(data):
                    break
                stream.write(data[at : at + size])
                at += size

    thread = threading.Thread(target=feed)
    thread.start()
    with Window.open(path) as window:
        assert list(read_records(window)) == records
    thread.join()


def test_spans_seek_over_payloads(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    path.write_bytes(packed(b"a" * 100_000, b"b", b"c" * 50_000))
    with Window.open(path, capacity=64) as window:
        assert list(record_spans(window)) == [(0, 100_008), (100_008, 12), (100_020, 50_008)]
    path.write_bytes(path.read_bytes()[:-1])
    with Window.open(path, capacity=64) as window, pytest.raises(FormatError, match="truncated"):
        list(record_spans(window))


def test_an_index_of_mxnet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.idx"
    path.write_text("0\t0\n7\t120\n")
    assert read_index(path) == [(0, 0), (7, 120)]
    path.write_text("0\t0\n7 120\n")
    with pytest.raises(FormatError, match="byte 4: b'7 120"):
        read_index(path)


def test_a_stream_without_readinto_and_a_non_blocking_one() -> None:
    class Plain:
        def __init__(self, data: bytes) -> None:
            self._data = io.BytesIO(data)

        def read(self, size: int, /) -> bytes | None:
            return self._data.read(min(size, 3)) or None

    class Ended(Plain):
        def read(self, size: int, /) -> bytes | None:
            return super().read(size) or b""

    assert list(read_records(Window(Ended(packed(b"abc")), "x"))) == [b"abc"]
    with pytest.raises(Exception, match="open without blocking"):
        list(read_records(Window(Plain(packed(b"abc")), "x")))
