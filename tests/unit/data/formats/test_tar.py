"""Tar shards against Python's own tarfile, and what a shard must not hold."""

import io
import tarfile
from typing import Any

import pytest

from runtime.data.formats.errors import FormatError
from runtime.data.formats.tar import BLOCK, TarShards, is_safe, members
from runtime.data.formats.window import Window


def archive(*files: tuple[str, bytes], form: int = tarfile.GNU_FORMAT, **fields: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return out.getvalue()


def read(data: bytes) -> list[dict[str, Any]]:
    return list(TarShards().samples(Window(io.BytesIO(data), "x.tar")))


LONG = "/".join(["directory" * 5] * 5)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_tarfile_in_every_form(form: int) -> None:
    files = [("a/1.jpg", b"x" * 700), ("a/1.cls", b"3"), ("a/2.jpg", b""), ("d" * 99 + "/3.txt", b"y")]
    if form != tarfile.USTAR_FORMAT:
        files += [(f"{LONG}/4.JPG", b"z" * 512), ("größer/5.txt", "ü".encode())]
    expected: dict[str, dict[str, bytes]] = {}
    for name, data in files:
        folder, _, base = name.rpartition("/")
        key, _, extension = base.partition(".")
        expected.setdefault(f"{folder}/{key}", {})[extension.lower()] = data
    found = {sample.pop("__key__"): sample for sample in read(archive(*files, form=form))}
    assert found == expected


def test_archives_one_after_another_and_a_plain_directory() -> None:
    one, other = archive(("1.txt", b"a")), archive(("2.txt", b"b"), ("dir.d", b""), type=tarfile.REGTYPE)
    directory = archive(("some/where.d", b""), type=tarfile.DIRTYPE)
    assert [sample["__key__"] for sample in read(one + directory + other)] == ["1", "2", "dir"]


def test_other_tools_own_files_are_no_samples_and_names_without_a_dot_are() -> None:
    data = archive(("__index__.json", b"{}"), ("./1.txt", b"a"), ("README", b"r"), (".hidden", b"h"), ("__a.txt", b"b"))
    assert read(data) == [
        {"__key__": "1", "txt": b"a"},
        {"__key__": "README", "": b"r"},
        {"__key__": "__a", "txt": b"b"},
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (archive(("../up.txt", b"x")), r"the name '\.\./up\.txt' leads out"),
        (archive(("a/../../up.txt", b"x")), "leads out"),
        (archive(("/etc/x.txt", b"x")), "leads out"),
        (archive(("1.txt", b""), type=tarfile.SYMTYPE, linkname="/etc/passwd"), r"'1\.txt' is a symbolic link"),
        (archive(("1.txt", b""), type=tarfile.LNKTYPE, linkname="0.txt"), "is a hard link"),
        (archive(("1.txt", b""), type=tarfile.CHRTYPE), "is a device"),
        (archive(("1.txt", b"a"), ("1.TXT", b"b")), r"byte 1024: a second '1\.TXT' in one sample"),
        (archive(("1.txt", b"a"))[:1024], "byte 1024: truncated: the end of the archive is missing"),
        (archive(("1.txt", b"a")) + b"garbage" * 100, "checksum is wrong"),
    ],
)
def test_what_a_shard_must_not_hold(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words) as caught:
        read(data)
    assert str(caught.value).startswith("x.tar, byte ")


def test_every_flipped_bit_of_a_header_is_found() -> None:
    data = bytearray(archive(("1.txt", b"a")))
    for at in range(BLOCK):
        data[at] ^= 4
        if 148 <= at < 156:  # the checksum's own terminators say nothing
            data[at] ^= 4
            continue
        with pytest.raises(FormatError):
            read(bytes(data))
        data[at] ^= 4
    assert read(bytes(data)) == [{"__key__": "1", "txt": b"a"}]


def test_a_size_in_base_256_and_an_absurd_one() -> None:
    def with_size(size: int) -> bytes:
        info = tarfile.TarInfo("1.txt")
        info.size = size
        return info.tobuf(tarfile.GNU_FORMAT)

    with pytest.raises(FormatError, match="claims 9663676416 bytes, more than"):
        read(with_size(9 << 30))
    with pytest.raises(FormatError, match="truncated: a member needs 1000000 bytes, 3 are left"):
        read(with_size(1_000_000) + b"abc")


def test_safe_names() -> None:
    assert is_safe("a/b..c/d.txt")
    assert not any(map(is_safe, ["", "/a", "../a", "a/..", "a\0b"]))


def test_members_are_found_without_their_data() -> None:
    data = archive(("1.txt", b"a" * 600), ("2.txt", b"b"))
    window = Window(io.BytesIO(data), "x")
    found = []
    for member in members(window):
        found.append((member.name, member.size, member.offset))
        window.skip(member.size + (-member.size & 511), "data")
    assert found == [("1.txt", 600, 0), ("2.txt", 1, 1536)]
