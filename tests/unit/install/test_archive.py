"""Nothing in an archive reaches outside its folder, and a broken one is named."""

import io
import os
import random
import tarfile
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.install.archive import is_archive, unpack


def member(name: str, data: bytes = b"1", kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tuple:
    facts = tarfile.TarInfo(name)
    facts.type, facts.linkname, facts.mode = kind, link, mode
    facts.size = len(data) if kind == tarfile.REGTYPE else 0
    return facts, io.BytesIO(data)


def pack(path: Path, *members: tuple, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as bundle:  # pyright: ignore
        for facts, data in members:
            bundle.addfile(facts, data if facts.isreg() else None)
    return path


@pytest.fixture
def code(tmp_path: Path) -> Path:
    directory = tmp_path / "ml" / "code"
    directory.mkdir(parents=True)
    return directory


@pytest.mark.parametrize(
    ("name", "mode"), [("s.tar.gz", "w:gz"), ("s.tgz", "w:gz"), ("s.tar", "w"), ("s.tar.xz", "w:xz")]
)
def test_files_folders_links_and_the_executable_bit_arrive(code: Path, tmp_path: Path, name: str, mode: str) -> None:
    bundle = pack(
        tmp_path / name,
        member("./", kind=tarfile.DIRTYPE),
        member("lib", kind=tarfile.DIRTYPE),
        member("lib/x.py", b"print(1)"),
        member("./run.sh", b"#!/bin/sh", mode=0o755),
        member("deep/er/y.py", b"2"),
        member("lib/again.py", kind=tarfile.SYMTYPE, link="x.py"),
        member("hard.py", kind=tarfile.LNKTYPE, link="lib/x.py"),
        mode=mode,
    )
    assert is_archive(name)
    assert unpack(str(bundle), str(code)) == 0
    assert (code / "lib/again.py").read_text() == (code / "hard.py").read_text() == "print(1)"
    assert os.access(code / "run.sh", os.X_OK)
    assert not os.access(code / "lib/x.py", os.X_OK)
    assert (code / "deep/er/y.py").read_text() == "2"


HOSTILE = {
    "a parent": [member("../evil.py")],
    "a parent in the middle": [member("lib/../../evil.py")],
    "an absolute path": [member("/{outside}/evil.py")],
    "a path of another system": [member("..\\evil.py")],
    "an absolute link": [member("link", kind=tarfile.SYMTYPE, link="/{outside}"), member("link/evil.py")],
    "a link upwards": [member("link", kind=tarfile.SYMTYPE, link=".."), member("link/evil.py")],
    "a link through a link": [
        member("a", kind=tarfile.DIRTYPE),
        member("a/up", kind=tarfile.SYMTYPE, link=".."),
        member("a/up/b", kind=tarfile.SYMTYPE, link="../.."),
        member("b/evil.py"),
    ],
    "a hard link outside": [member("evil.py", kind=tarfile.LNKTYPE, link="../../secret")],
    "an absolute hard link": [member("evil.py", kind=tarfile.LNKTYPE, link="/etc/passwd")],
    "a device": [member("null", kind=tarfile.CHRTYPE)],
    "a disk": [member("disk", kind=tarfile.BLKTYPE)],
    "a fifo": [member("pipe", kind=tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_member_is_left_out_and_the_rest_arrives(
    code: Path, tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "secret").write_text("hunter2")
    members = []
    for facts, data in [*HOSTILE[case], member("train.py", b"fine")]:
        told = tarfile.TarInfo(facts.name.replace("{outside}", str(outside)[1:]))
        told.type, told.size, told.mode = facts.type, facts.size, facts.mode
        told.linkname = facts.linkname.replace("{outside}", str(outside)[1:])
        data.seek(0)
        members.append((told, data))
    before = {path for path in tmp_path.rglob("*") if code not in path.parents}
    assert unpack(str(pack(tmp_path / "s.tar.gz", *members)), str(code)) >= 1
    after = {path for path in tmp_path.rglob("*") if code not in path.parents}
    assert after - before == {tmp_path / "s.tar.gz"}
    assert (code / "train.py").read_text() == "fine"
    for path in code.rglob("*"):
        assert str(path.resolve()).startswith(str(code.resolve())), path
        assert path.is_dir() or path.is_file()
    assert "left out of s.tar.gz: " in capfd.readouterr().err


def test_an_archive_does_not_write_through_a_link_that_was_there(code: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (code / "train.py").symlink_to(victim)
    unpack(str(pack(tmp_path / "s.tar", member("train.py", b"new"), mode="w")), str(code))
    assert victim.read_text() == "untouched"
    assert (code / "train.py").read_text() == "new"


def test_many_members_left_out_are_counted(code: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = pack(tmp_path / "s.tar", *[member(f"../{n}") for n in range(20)], member("ok"), mode="w")
    assert unpack(str(bundle), str(code)) == 20
    assert "15 more such members" in capfd.readouterr().err


@pytest.mark.parametrize("fault", ["text", "truncated", "flipped", "empty", "nothing but evil"])
def test_a_broken_archive_is_the_users_to_mend(code: Path, tmp_path: Path, fault: str) -> None:
    random_text = random.Random(7).randbytes(90000).hex().encode()
    bundle = pack(tmp_path / "s.tar.gz", member("train.py", random_text), member("b.py", b"x" * 5000))
    data = bytearray(bundle.read_bytes())
    if fault == "text":
        data = bytearray(b"no archive")
    elif fault == "truncated":
        del data[len(data) // 2 :]
    elif fault == "empty":
        data.clear()
    elif fault == "flipped":
        for at in range(len(data) // 2, len(data) - 10, 7):
            data[at] ^= 0xFF
    else:
        data = bytearray(pack(tmp_path / "e.tar.gz", member("../evil.py")).read_bytes())
    bundle.write_bytes(data)
    with pytest.raises(UserError, match=r"(?s)s\.tar\.gz (cannot be unpacked|holds nothing).*Fix: pack it anew"):
        unpack(str(bundle), str(code))
