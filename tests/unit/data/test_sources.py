"""What lies in a channel: label folders, arrays, and what is neither."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.base.errors import UserError
from runtime.contract.job import Channel
from runtime.data.sources import BadSample, damage, open_source


def folders(root: Path, **labels: int) -> Channel:
    """Write small grey images; the sample's number is its brightness."""
    number = 0
    for label, count in labels.items():
        (root / label).mkdir(parents=True)
        for n in range(count):
            Image.new("L", (4, 3), number).save(root / label / f"{n:03}.png")
            number += 1
    return Channel("train", root)


def arrays(root: Path, **values: object) -> Channel:
    root.mkdir(exist_ok=True)
    for name, value in values.items():
        np.save(root / f"{name}.npy", np.asarray(value))
    return Channel("train", root)


def test_folders_are_labels_in_sorted_order(tmp_path: Path) -> None:
    source = open_source(folders(tmp_path / "c", dog=2, ant=1, cat=3))
    assert source.classes == ("ant", "cat", "dog")
    assert len(source) == 6
    assert [int(source.read(i)[1]) for i in range(6)] == [0, 1, 1, 1, 2, 2]
    pixels, _ = source.read(0)
    assert (pixels.shape, pixels.dtype) == ((3, 4), np.uint8)


@pytest.mark.parametrize(
    ("mode", "shape"), [("L", (3, 4)), ("RGB", (3, 4, 3)), ("RGBA", (3, 4, 3)), ("P", (3, 4, 3)), ("1", (3, 4))]
)
def test_every_kind_of_image_is_grey_or_rgb(tmp_path: Path, mode: str, shape: tuple[int, ...]) -> None:
    (tmp_path / "a").mkdir()
    Image.new(mode, (4, 3)).save(tmp_path / "a/x.png")
    pixels, _ = open_source(Channel("train", tmp_path)).read(0)
    assert (pixels.shape, pixels.dtype) == (shape, np.uint8)


def test_grey_images_among_coloured_ones_become_coloured(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "a/1.png")
    Image.new("L", (4, 3)).save(tmp_path / "a/2.png")
    source = open_source(Channel("train", tmp_path))
    assert [source.read(i)[0].shape for i in range(2)] == [(3, 4, 3)] * 2


def test_colour_among_grey_images_is_refused_not_lost(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("L", (4, 3)).save(tmp_path / "a/1.png")
    Image.new("RGB", (4, 3)).save(tmp_path / "a/2.png")
    with pytest.raises(BadSample, match=r"2.png is in colour, but the first image of the channel is grey"):
        open_source(Channel("train", tmp_path)).read(1)


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((3, 4), 31854, dtype=np.uint16)).save(tmp_path / "a/1.png")
    pixels, _ = open_source(Channel("train", tmp_path)).read(0)
    assert (pixels.dtype, int(pixels[0, 0])) == (np.uint16, 31854)


def test_other_files_and_hidden_folders_are_no_samples(tmp_path: Path) -> None:
    channel = folders(tmp_path / "c", a=1, b=1)
    (channel.path / "a/notes.txt").write_text("x")
    (channel.path / "readme.md").write_text("x")
    (channel.path / ".cache").mkdir()
    Image.new("L", (4, 3)).save(channel.path / ".cache/x.png")
    assert len(open_source(channel)) == 2


def test_another_set_of_files_has_another_digest(tmp_path: Path) -> None:
    channel = folders(tmp_path / "c", a=2, b=1)
    first = open_source(channel).digest
    assert open_source(channel).digest == first
    (channel.path / "a/001.png").rename(channel.path / "a/002.png")
    renamed = open_source(channel).digest
    (channel.path / "b/000.png").write_bytes((channel.path / "b/000.png").read_bytes() + b"x")
    assert len({first, renamed, open_source(channel).digest}) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"<html>no image</html>", "is no image: it begins with b'<htm'"), (None, "truncated PNG")],
)
def test_damaged_images_are_found_and_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    channel = folders(tmp_path / "c", a=3)
    victim = channel.path / "a/001.png"
    victim.write_bytes(victim.read_bytes()[:45] if content is None else content)
    fault = open_source(channel).find_damaged(range(3))
    assert words in fault
    assert str(victim) in fault
    assert open_source(channel).find_damaged(range(0, 3, 2)) == ""
    with pytest.raises(BadSample, match="is no readable image"):
        open_source(channel).read(1)


def test_a_file_that_is_not_there_any_more_is_named(tmp_path: Path) -> None:
    channel = folders(tmp_path / "c", a=2)
    source = open_source(channel)
    (channel.path / "a/001.png").unlink()
    assert "001.png cannot be read: No such file" in source.find_damaged(range(2))
    with pytest.raises(BadSample, match=r"001\.png"):
        source.read(1)


def test_a_broken_link_is_a_damaged_sample_and_no_crash(tmp_path: Path) -> None:
    channel = folders(tmp_path / "c", a=1)
    os.symlink(tmp_path / "gone.png", channel.path / "a/001.png")
    source = open_source(channel)
    assert len(source) == 2
    assert "001.png cannot be read" in source.find_damaged(range(2))


@pytest.mark.parametrize("extra", [b"\n", b"\0" * 5, b"some tool's remark " * 9])
def test_an_image_with_something_behind_its_end_is_fine(tmp_path: Path, extra: bytes) -> None:
    """Decoders ignore it, and so must we: a look at head and tail may suspect, only decoding may condemn."""
    channel = folders(tmp_path / "c", a=1)
    file = channel.path / "a/000.png"
    file.write_bytes(file.read_bytes() + extra)
    source = open_source(channel)
    source.read(0)
    assert source.find_damaged(range(1)) == ""


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "tif"])
def test_every_format_that_we_name_looks_right(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / f"a/x.{suffix}")
    assert damage(tmp_path / f"a/x.{suffix}") == ""
    assert open_source(Channel("train", tmp_path)).read(0)[0].shape == (3, 4, 3)


def test_arrays_side_by_side(tmp_path: Path) -> None:
    source = open_source(arrays(tmp_path / "c", x=np.arange(6).reshape(3, 2), y=[5, 6, 7]))
    sample, label = source.read(1)
    assert (len(source), sample.tolist(), int(label), source.classes) == (3, [2, 3], 6, ())
    assert source.find_damaged(range(3)) == ""


def test_arrays_without_labels_are_labelled_by_their_number(tmp_path: Path) -> None:
    assert int(open_source(arrays(tmp_path / "c", x=[[1], [2]])).read(1)[1]) == 1


def test_one_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 3)), y=np.array([1, 2]))
    source = open_source(Channel("train", tmp_path))
    assert (len(source), int(source.read(1)[1])) == (2, 2)


@pytest.mark.parametrize(
    ("values", "words"),
    [({"x": [1, 2], "y": [1]}, "x has 2 samples, y has 1"), ({"x": np.zeros((0, 3))}, "its array 'x' has no samples")],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_source(arrays(tmp_path / "c", **values))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.npz", b"PK\x03\x04 cut off"),
        ("d.npz", b""),
        ("d.npz", b"text"),
        ("x.npy", b""),
        ("x.npy", b"text"),
        ("x.npy", b"\x93NUMPY\x01\x00"),
    ],
)
def test_a_broken_array_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        open_source(Channel("train", tmp_path))
    assert f"{tmp_path / name} cannot be read" in str(caught.value)
    assert "arrays named 'x' and 'y', without pickled objects" in str(caught.value)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="without pickled objects"):
        open_source(Channel("train", tmp_path))


def test_an_archive_without_x_and_two_archives_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", data=np.zeros(2))
    with pytest.raises(UserError, match="'x'"):
        open_source(Channel("train", tmp_path))
    np.savez(tmp_path / "a.npz", x=np.zeros(2))
    np.savez(tmp_path / "b.npz", x=np.zeros(2))
    with pytest.raises(UserError, match=r"holds 2 \.npz files"):
        open_source(Channel("train", tmp_path))


def test_what_we_cannot_read_is_listed_with_what_we_can(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").write_text("x")
    with pytest.raises(
        UserError,
        match=r"data\.parquet has no format that we know: it begins with b'x'.*Fix: set the channel's content type",
    ):
        open_source(Channel("train", tmp_path))
    (tmp_path / "data.parquet").unlink()
    with pytest.raises(UserError, match="it is empty"):
        open_source(Channel("train", tmp_path))
    with pytest.raises(UserError, match="is not there"):
        open_source(Channel("train", tmp_path / "no"))
    with pytest.raises(UserError, match=r"in Pipe mode, which is no directory\. .*not in a mix"):
        open_source(Channel("train", tmp_path, "Pipe"))
