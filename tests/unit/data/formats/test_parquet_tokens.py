"""Parquet files and raw tokens: rows by number, damage named."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.base.errors import PlatformError, UserError
from runtime.data.formats import parquet
from runtime.data.formats.errors import FormatError
from runtime.data.formats.parquet import ParquetFile, ParquetWriter
from runtime.data.formats.tokens import TokenFile


def rows(count: int) -> list[dict[str, Any]]:
    return [{"n": n, "text": f"ü{n}", "image": bytes([n % 256]) * 5, "list": [n, n]} for n in range(count)]


def written(samples: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    writer = ParquetWriter(out)
    for sample in samples:
        writer.write(sample)
    writer.close()
    return out.getvalue()


def test_rows_come_back_by_number_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 7)
    monkeypatch.setattr(parquet, "HELD_BYTES", 1)
    path = tmp_path / "x.parquet"
    path.write_bytes(written(rows(50)))
    file = ParquetFile(path)
    assert len(file) == 50
    assert list(file) == rows(50)
    file.close()
    assert [file[n] for n in (49, 0, 7, 6)] == [rows(50)[n] for n in (49, 0, 7, 6)]
    assert file.blocks(1).tolist() == list(range(0, 50, 7))
    assert list(ParquetFile(path, ("n",)))[3] == {"n": 3}
    with pytest.raises(UserError, match=r"has no column 'm'.*'n', 'text'"):
        ParquetFile(path, ("m",))


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="a row has the columns"):
        written([{"a": 1}, {"b": 1}])
    with pytest.raises(ValueError, match="rows of different types"):
        written([{"a": 1}, {"a": "x"}])


def test_what_is_no_parquet(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    whole = written(rows(9))
    for data in (b"", b"PAR1", whole[:-1], whole[:50], b"x" * 100):
        path.write_bytes(data)
        with pytest.raises(FormatError, match="no readable Parquet"):
            ParquetFile(path)
    with pytest.raises((FormatError, PlatformError), match="missing"):
        ParquetFile(tmp_path / "missing")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_parquet_gives_named_errors_only(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = bytearray(written(rows(20)))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("p") / "x.parquet"
    path.write_bytes(whole)
    try:
        file = ParquetFile(path)
        for n in range(len(file)):
            file[n]
    except FormatError as error:
        assert str(path) in str(error)  # noqa: PT017 - no error at all is right too: the bit may lie in a value


def test_tokens_of_every_header(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    tokens = np.arange(11, dtype=np.uint16)
    tokens.tofile(path)
    plain = TokenFile(path, length=3)
    assert (len(plain), plain.tokens, plain.rest) == (3, 11, 1)
    assert [sample["tokens"].tolist() for sample in plain] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    path.write_bytes(struct.pack("<3i", 20240520, 1, 11).ljust(1024, b"\0") + tokens.tobytes())
    assert TokenFile(path, length=3)[2]["tokens"].tolist() == [6, 7, 8, 9]
    with path.open("wb") as stream:
        np.save(stream, tokens.astype(np.int32))
    assert TokenFile(path, length=3)[2]["tokens"].tolist() == [6, 7, 8, 9]
    with pytest.raises(IndexError):
        plain[3]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"abc", r"byte 2: 3 bytes are no whole number of uint16"),
        (struct.pack("<3i", 20240520, 1, 11).ljust(1024, b"\0") + b"ab", "the header tells 11 tokens, 2 bytes follow"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "no readable .npy header"),
        (
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(128) + b"abcd",
            "integers",
        ),
    ],
)
def test_damaged_tokens_are_named(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    with pytest.raises(UserError, match=words):
        TokenFile(path, length=3)


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_bytes_as_tokens_give_named_errors_only(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, npy: bool
) -> None:
    path = tmp_path_factory.mktemp("t") / "x.bin"
    path.write_bytes(b"\x93NUMPY\x01\x00" * npy + data)
    try:
        assert len(list(TokenFile(path, length=3))) <= len(data)
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017 - no error at all is right too
