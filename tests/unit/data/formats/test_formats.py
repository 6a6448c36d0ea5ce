"""What holds for every format: it comes back as it was written, by stream and by place; damage is named."""

import contextlib
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.base.errors import UserError
from runtime.data.formats.errors import FormatError
from runtime.data.formats.probe import CONTENT_TYPES, SPAN_FORMATS, parse_content_type, probe
from runtime.data.formats.window import Window
from tests.unit.data.formats.kinds import SAMPLES, same, written

NAMES = sorted(SPAN_FORMATS)


class Pieces:
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data = io.BytesIO(data)
        self._size = size

    def read(self, size: int, /) -> bytes:
        return self._data.read(min(size, self._size))


def samples(name: str, data: bytes, capacity: int = 1 << 16) -> list[dict[str, Any]]:
    return list(SPAN_FORMATS[name]().samples(Window(io.BytesIO(data), "x", capacity=capacity)))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read(name: str) -> None:
    assert same(dict(enumerate(samples(name, written(name)))), dict(enumerate(SAMPLES[name])))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_may_come_in_any_pieces(name: str, size: int) -> None:
    found = list(SPAN_FORMATS[name]().samples(Window(Pieces(written(name), size), "x", capacity=16)))
    assert same(dict(enumerate(found)), dict(enumerate(SAMPLES[name])))


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_is_read_by_its_place(name: str, tmp_path: Path) -> None:
    data = written(name)
    path = tmp_path / "x"
    path.write_bytes(data)
    kind: Any = SPAN_FORMATS[name]()
    with Window.open(path) as window:
        kind = kind.head(window) if hasattr(kind, "head") else kind
    with Window.open(path, capacity=32) as window:
        spans = list(kind.spans(window))
    found = [kind.sample(Window.of(data[at : at + size], "x", at)) for at, size in spans]
    assert same(dict(enumerate(found)), dict(enumerate(SAMPLES[name])))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_holds_nothing(name: str) -> None:
    assert samples(name, b"") == []
    assert samples(name, written(name, [])) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("jsonlines", "csv", "tsv")])
def test_a_cut_at_every_byte_is_an_error_or_lies_between_samples(name: str) -> None:
    """Tar says at its end that it is whole; records of the others end where they end."""
    data = written(name)
    ends = {at + size for at, size in SPAN_FORMATS[name]().spans(Window(io.BytesIO(data), "x"))} | {0}
    for cut in range(len(data)):
        if name == "tar" and cut > max(ends):
            break
        if name != "tar" and cut in ends:
            continue
        if name == "tar" and cut == 0:
            continue
        with pytest.raises(FormatError, match="truncated"):
            samples(name, data[:cut])


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_say_what_they_are(name: str, tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(written(name))
    found = probe(path)
    assert found.format == name, found.reason
    assert found.reason
    packed = tmp_path / "shard.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert probe(packed).format == name
    with Window.open(packed) as window:
        assert len(list(SPAN_FORMATS[name]().samples(window))) == len(SAMPLES[name])


def test_a_content_type_has_the_word(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(written("jsonlines"))
    found = probe(path, "text/csv; label_size=2")
    assert (found.format, found.parameters) == ("csv", {"label_size": "2"})
    assert "text/csv" in found.reason
    assert probe(path, "application/octet-stream").format == "jsonlines"
    with pytest.raises(UserError, match=r"Unknown content type 'text/cvs'.*Did you mean 'text/csv'"):
        parse_content_type("text/cvs")
    assert set(CONTENT_TYPES.values()) > set(SPAN_FORMATS)


def test_bytes_of_no_format_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(b"\x00\x01\x02" * 500)
    with pytest.raises(UserError, match=r"no format that we know: it begins with b'.*set the channel's content type"):
        probe(path)


@pytest.mark.parametrize(("name", "text"), [("x.json", "[1, 2]"), ("x", '\n[ {"a": 1}]')])
def test_a_json_array_is_no_table(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=r"is one JSON array.*Fix: jq -c '\.\[\]' x.* > x\.jsonl"):
        probe(path)


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    whole = gzip.compress(written("jsonlines"))
    for data in (whole[:-5], whole + b"garbage", whole[:12] + b"\xff\xff" + whole[14:]):
        path.write_bytes(data)
        with Window.open(path) as window, pytest.raises(FormatError, match="damaged gzip"):
            list(SPAN_FORMATS["jsonlines"]().samples(window))


def test_a_few_packed_bytes_do_not_become_gigabytes(tmp_path: Path) -> None:
    """A gzip bomb: 1 MiB of zeros behind the header of a tar member of 1 GiB, and a line that never ends."""
    import tarfile

    info = tarfile.TarInfo("1.txt")
    info.size = 1 << 30
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    with Window.open(path) as window, pytest.raises(FormatError, match="claims 1073741824 bytes, more than 268435456"):
        list(SPAN_FORMATS["tar"]().samples(window))
    path.write_bytes(gzip.compress(b"{" + b" " * (65 << 20)))
    with Window.open(path) as window, pytest.raises(FormatError, match="a line of more than 67108864 bytes"):
        list(SPAN_FORMATS["jsonlines"]().samples(window))


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    name = draw(st.sampled_from(NAMES))
    data = bytearray(written(name))
    for _ in range(draw(st.integers(1, 4))):
        what = draw(st.sampled_from(["flip", "cut", "insert", "copy", "zero", "ones"]))
        at = draw(st.integers(0, len(data)))
        some = draw(st.integers(1, 40))
        if what == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del data[at : at + some]
        elif what == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=40))
        elif what == "copy":
            data[at:at] = data[: some * 10]
        elif what == "zero":
            data[at : at + some] = bytes(len(data[at : at + some]))
        elif what == "ones":
            data[at : at + some] = b"\xff" * len(data[at : at + some])
    return name, bytes(data)


class Named(contextlib.AbstractContextManager["Named", bool]):
    """Lets a FormatError with its place pass, and nothing else."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.text = ""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, FormatError):
            return False
        self.text = str(error)
        assert error.file == "x"
        assert 0 <= error.offset <= self._length
        return True


@given(damaged())
@settings(max_examples=1500, deadline=None)
def test_damage_gives_named_errors_only(case: tuple[str, bytes]) -> None:
    """By stream and by place; whatever is read in spite of it is a sample."""
    name, data = case
    told: list[str] = []
    for capacity in (1 << 16, 8):  # the second leaves nothing to the fast loops
        with Named(len(data)) as outcome:
            assert all(isinstance(sample, dict) for sample in samples(name, data, capacity))
        told.append(outcome.text)
    assert told[0] == told[1], "what is wrong does not depend on how the bytes came"
    kind = SPAN_FORMATS[name]()
    with Named(len(data)):
        spans = list(kind.spans(Window(io.BytesIO(data), "x", capacity=64)))
        assert all(size > 0 for _, size in spans)
        for at, size in spans:
            kind.sample(Window.of(data[at : at + size], "x", at))


@given(st.sampled_from(NAMES), st.binary(max_size=3000))
@settings(max_examples=500, deadline=None)
def test_any_bytes_give_named_errors_only(name: str, data: bytes) -> None:
    with Named(len(data)):
        samples(name, data)
