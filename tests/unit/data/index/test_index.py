import json
import multiprocessing
import operator
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.base.errors import UserError
from runtime.data.index import hands, scan, worker
from runtime.data.index.build import BUILDING, Request, build
from runtime.data.index.guess import guess_kind
from runtime.data.index.headers import BadHeader, NeedMore, image_size
from runtime.data.index.merge import merge
from runtime.data.index.reader import Index
from runtime.data.index.rows import LONGEST_CAPTION, Options
from runtime.data.index.tasks import Share
from tests.conftest import wait_for
from tests.unit.data.index.trees import CountedFiles, SlowFiles, add_pair, grow, jpeg

PAIRS = Options("pairs")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture(autouse=True)
def _trusting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test makes directories a moment before they are listed: their times must count all the same."""
    monkeypatch.setattr(worker, "FRESH_NS", 0)
    yield
    SlowFiles.reset()


def rows(out: Path) -> list[dict[str, object]]:
    with Index(out) as index:
        return [dict(row) for row in index]


def problems(out: Path) -> dict[str, str]:
    with Index(out) as index:
        return {row["path"]: row["why"] for row in index.problems()}


def text_of(out: Path) -> bytes:
    (path,) = [path for path in out.glob("rows-*.jsonl") if path.name.count(".") == 1]
    return path.read_bytes()


def test_rows_are_sorted_and_hold_the_captions(tree: Path, out: Path) -> None:
    add_pair(tree, "b/2.jpg", "two\n")
    add_pair(tree, "b/10.png", 'ten "quoted" \\ größer 損失')
    add_pair(tree, "a.jpeg", "at the root")
    built, _ = build(Request(tree, out, PAIRS))
    assert rows(out) == [
        {"file_name": "a.jpeg", "text": "at the root"},
        {"file_name": "b/10.png", "text": 'ten "quoted" \\ größer 損失'},
        {"file_name": "b/2.jpg", "text": "two"},
    ]
    assert built.rows == 3
    with Index(out) as index:
        assert index.path(index[0]).read_bytes() == (tree / "a.jpeg").read_bytes()
        assert index[-1] == index[2]
        assert index[1:] == [index[1], index[2]]
        with pytest.raises(IndexError):
            index[3]


def test_label_folders_and_plain_images(tree: Path, out: Path, tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/2.png", "dog/deep/3.png"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"x")
    assert guess_kind(tree)[0] == "labels"
    build(Request(tree, out, Options("labels")))
    assert [row["label"] for row in rows(out)] == ["cat", "dog", "deep"]
    build(Request(tree, tmp_path / "other", Options("images")))
    assert rows(tmp_path / "other")[0] == {"file_name": "cat/1.png"}


def test_files_without_a_row_are_named_with_the_reason(tree: Path, out: Path) -> None:
    add_pair(tree, "good.jpg")
    add_pair(tree, "empty.jpg", "  \n")
    add_pair(tree, "binary.jpg", b"\xff\xfe caption")
    add_pair(tree, "long.jpg", "x" * (LONGEST_CAPTION + 1))
    add_pair(tree, "justlong.jpg", "y" * LONGEST_CAPTION)
    add_pair(tree, "text.jpg", image=b"<html>not found</html>")
    add_pair(tree, "cut.jpg", image=jpeg()[:100])
    add_pair(tree, "nothing.jpg", image=b"")
    (tree / "alone.jpg").write_bytes(jpeg())
    (tree / "gone.jpg").symlink_to(tree / "nowhere")
    (tree / "gone.txt").write_text("its image is not there")
    (tree / "folder.txt").mkdir()
    (tree / "folder.jpg").write_bytes(jpeg())
    (tree / ".hidden.jpg").write_bytes(b"")
    build(Request(tree, out, Options("pairs", headers=True)))
    assert [row["file_name"] for row in rows(out)] == ["good.jpg", "justlong.jpg"]
    found = problems(out)
    assert set(found) == {
        *("empty.jpg", "binary.jpg", "long.jpg", "text.jpg", "cut.jpg", "nothing.jpg", "alone.jpg", "gone.jpg"),
        "folder.jpg",
    }
    assert "empty" in found["empty.jpg"]
    assert "UTF-8" in found["binary.jpg"]
    assert "longer" in found["long.jpg"]
    assert "<html" in found["text.jpg"]
    assert "truncated" in found["cut.jpg"]
    assert "No such file" in found["gone.jpg"]


def test_a_name_that_is_no_utf8_is_a_problem_and_no_crash(tree: Path, out: Path) -> None:
    add_pair(tree, "good.jpg")
    for name in (b"caf\xe9.jpg", b"caf\xe9.txt"):
        Path(os.fsdecode(os.path.join(os.fsencode(tree), name))).write_bytes(b"x")
    os.mkdir(os.path.join(os.fsencode(tree), b"d\xe9"))
    built, _ = build(Request(tree, out, PAIRS))
    assert (built.rows, built.problems) == (1, 1)
    ((path, why),) = problems(out).items()
    assert path.startswith("caf")
    assert "UTF-8" in why
    again, progress = build(Request(tree, out, PAIRS))
    assert again.digest == built.digest
    assert progress.kept == 1


def test_width_and_height_of_what_pillow_writes(tmp_path: Path) -> None:
    from PIL import Image

    for suffix, mode in ((".png", "P"), (".jpg", "L"), (".gif", "P"), (".webp", "RGB"), (".bmp", "RGB")):
        path = tmp_path / f"image{suffix}"
        Image.new(mode, (37, 53)).save(path)
        assert image_size(path.read_bytes()) == (37, 53), suffix
    Image.new("RGBA", (37, 53)).save(tmp_path / "alpha.webp", lossless=True)
    assert image_size((tmp_path / "alpha.webp").read_bytes()) == (37, 53)


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF    WEBP", b"BM"]),
)
def test_any_bytes_are_a_size_or_a_named_error(tail: bytes, head: bytes) -> None:
    try:
        width, height = image_size(head + tail)
    except (BadHeader, NeedMore):
        return
    assert width > 0
    assert height > 0


# --- the second time -----------------------------------------------------------------------------------------


def test_what_has_not_changed_is_not_listed_again(tree: Path, out: Path) -> None:
    grow(tree, 4, 3)
    first, _ = build(Request(tree, out, PAIRS))
    text = text_of(out)
    SlowFiles.reset()
    second, progress = build(Request(tree, out, PAIRS, files=CountedFiles))
    assert progress.kept == 12
    assert SlowFiles.requests == 5  # one look at the time of each directory
    assert (second.digest, text_of(out)) == (first.digest, text)


def test_of_a_directory_that_changed_only_new_files_are_read(tree: Path, out: Path, tmp_path: Path) -> None:
    grow(tree, 3, 4)
    build(Request(tree, out, PAIRS))
    add_pair(tree, "001/0002b.jpg", "new")
    (tree / "001" / "0000.jpg").unlink()
    add_pair(tree, "new/deep/1.jpg")
    SlowFiles.reset()
    built, _ = build(Request(tree, out, PAIRS, files=CountedFiles))
    assert sorted(SlowFiles.read_names) == ["0002b.txt", "1.txt"]
    other = tmp_path / "anew"
    anew, _ = build(Request(tree, other, PAIRS))
    assert built.digest == anew.digest
    assert text_of(out) == text_of(other)
    assert len(list(out.glob("rows-*.idx"))) == 1, "the files of the index before are removed"


def test_a_caption_changed_in_place_shows_with_recheck_only(tree: Path, out: Path) -> None:
    add_pair(tree, "1.jpg", "before")
    build(Request(tree, out, PAIRS))
    (tree / "1.txt").write_text("after")
    build(Request(tree, out, PAIRS))
    assert rows(out)[0]["text"] == "before"
    build(Request(tree, out, PAIRS, recheck=True))
    assert rows(out)[0]["text"] == "after"


def test_a_directory_that_has_just_changed_is_not_trusted(
    tree: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "FRESH_NS", 3_600_000_000_000)
    add_pair(tree, "1.jpg")
    build(Request(tree, out, PAIRS))
    add_pair(tree, "2.jpg")
    times = tree.stat()
    build(Request(tree, out, PAIRS))
    os.utime(tree, ns=(times.st_atime_ns, times.st_mtime_ns))
    add_pair(tree, "3.jpg")
    os.utime(tree, ns=(times.st_atime_ns, times.st_mtime_ns))  # a file system with coarse times
    built, _ = build(Request(tree, out, PAIRS))
    assert built.rows == 3


def test_another_tree_or_other_options(tree: Path, out: Path, tmp_path: Path) -> None:
    add_pair(tree, "1.jpg")
    build(Request(tree, out, PAIRS))
    with pytest.raises(UserError, match="holds the index of"):
        build(Request(tmp_path, out, PAIRS))
    build(Request(tree, out, Options("pairs", headers=True)))
    assert rows(out)[0]["width"] == 20


# --- many hands ----------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.lists(st.integers(0, 9), min_size=1, max_size=5), count=st.integers(1, 5), chunk=st.integers(1, 12))
def test_parts_of_any_number_of_hosts_make_the_same_index(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], count: int, chunk: int
) -> None:
    home = tmp_path_factory.mktemp("shares")
    tree = home / "tree"
    tree.mkdir()
    image = jpeg()
    for directory, each in enumerate(shape):
        for number in range(each):
            add_pair(tree, f"{directory}/{number}.jpg", image=image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "CHUNK", chunk)
        whole, _ = build(Request(tree, home / "whole", PAIRS))
        parts = [home / f"part-{number}" for number in range(count)]
        for number, part in enumerate(parts):
            build(Request(tree, part, PAIRS, Share(number, count)))
        merged = merge(parts, home / "merged")
        assert merged.digest == whole.digest
        assert text_of(home / "merged") == text_of(home / "whole")
        assert len(rows(home / "merged")) == sum(shape)
        # A huge directory in several parts is brought up to date like any other.
        add_pair(tree, "0/5b.jpg", image=image)
        later, _ = build(Request(tree, home / "whole", PAIRS))
        anew, _ = build(Request(tree, home / "anew", PAIRS))
        assert text_of(home / "whole") == text_of(home / "anew")
        assert later.digest == anew.digest


def test_a_missing_part_is_named(tree: Path, tmp_path: Path) -> None:
    grow(tree, 2, 2)
    for number in (0, 2):
        build(Request(tree, tmp_path / str(number), PAIRS, Share(number, 3)))
    with pytest.raises(UserError, match="missing: 2"):
        merge([tmp_path / "0", tmp_path / "2"], tmp_path / "merged")
    with pytest.raises(UserError, match="same part 1"):
        merge([tmp_path / "0", tmp_path / "0"], tmp_path / "merged")


def test_several_processes_make_the_same_index(
    tree: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands, "ALONE_S", 0.0)
    grow(tree, 6, 5)
    one, _ = build(Request(tree, out, PAIRS))
    many, _ = build(Request(tree, tmp_path / "many", PAIRS, processes=2))
    assert many.digest == one.digest
    assert text_of(tmp_path / "many") == text_of(out)


def test_a_slow_file_system_is_asked_many_things_at_one_time(tree: Path, out: Path, tmp_path: Path) -> None:
    grow(tree, 5, 40)
    build(Request(tree, out, PAIRS))
    SlowFiles.reset()
    build(Request(tree, tmp_path / "slow", PAIRS, files=SlowFiles))
    assert SlowFiles.most > 8
    assert text_of(tmp_path / "slow") == text_of(out)


def test_two_builds_of_one_index(tree: Path, out: Path) -> None:
    import fcntl

    out.mkdir()
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="being built"):
            build(Request(tree, out, PAIRS))
    finally:
        os.close(handle)


KILLED = """
import os, signal, sys
from pathlib import Path
from runtime.data.index import worker
from runtime.data.index.build import Request, build
from runtime.data.index.rows import LONGEST_CAPTION, Options
worker.FRESH_NS = 0
worker.REPORT_S = 0.0
def progress(seen):
    if seen.directories > 3:
        os.kill(os.getpid(), signal.SIGKILL)
build(Request(Path(sys.argv[1]), Path(sys.argv[2]), Options("pairs")), progress)
"""


def test_a_build_that_was_killed_goes_on_with_what_it_had(tree: Path, out: Path, tmp_path: Path) -> None:
    grow(tree, 8, 5)
    killed = subprocess.run([sys.executable, "-c", KILLED, tree, out], check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="holds no index"):
        Index(out)
    built, _ = build(Request(tree, out, PAIRS, files=CountedFiles))
    assert 0 < len(SlowFiles.read_names) < 40
    anew, _ = build(Request(tree, tmp_path / "anew", PAIRS))
    assert built.digest == anew.digest
    assert text_of(out) == text_of(tmp_path / "anew")
    assert not (out / BUILDING).exists()


ORPHANED = """
import sys
from pathlib import Path
from runtime.data.index import build as build_module, hands
from runtime.data.index.build import Request, build
from runtime.data.index.rows import Options
from tests.conftest import wait_for
from tests.unit.data.index.trees import SlowFiles
hands.ALONE_S = 0.0
if __name__ == "__main__":
    build(Request(Path(sys.argv[1]), Path(sys.argv[2]), Options("pairs"), processes=2, files=SlowFiles))
"""


def test_the_processes_of_a_build_end_with_it(tree: Path, out: Path, tmp_path: Path) -> None:
    grow(tree, 20, 10)
    script = tmp_path / "orphaned.py"
    script.write_text(ORPHANED)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    with subprocess.Popen([sys.executable, script, tree, out], env=environ) as process:
        wait_for(lambda: len(list(out.glob(".building/spool-*.len"))) > 1, "spools of the pool's processes")
        process.kill()
    pids = {int(path.name.split("-")[1]) for path in out.glob(".building/spool-*.len")} - {process.pid}
    assert pids
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), f"the end of {pids}")


def test_a_fifo_among_the_captions_holds_up_nobody(tree: Path, out: Path) -> None:
    add_pair(tree, "good.jpg")
    (tree / "stuck.jpg").write_bytes(jpeg())
    os.mkfifo(tree / "stuck.txt")
    build(Request(tree, out, PAIRS))
    assert problems(out) == {"stuck.jpg": "its caption is empty"}


# --- damage and limits ----------------------------------------------------------------------------------------


def test_a_directory_that_cannot_be_listed_fails_the_build(tree: Path, out: Path) -> None:
    class Refusing(CountedFiles):
        def open_directory(self, path: str) -> int:
            if path == "b":
                raise PermissionError(13, "Permission denied")
            return super().open_directory(path)

    add_pair(tree, "a/1.jpg")
    add_pair(tree, "b/1.jpg")
    with pytest.raises(UserError, match=r"/b cannot be listed: Permission denied"):
        build(Request(tree, out, PAIRS, files=Refusing))


def test_a_link_that_leads_back_is_an_error_and_no_hang(tree: Path, out: Path) -> None:
    add_pair(tree, "a/1.jpg")
    (tree / "a" / "back").symlink_to(tree)
    with pytest.raises(UserError, match="leads back"):
        build(Request(tree, out, PAIRS))


def test_an_empty_tree(tree: Path, out: Path) -> None:
    built, _ = build(Request(tree, out, PAIRS))
    assert built.rows == 0
    assert rows(out) == []
    with pytest.raises(UserError, match="holds no images"):
        guess_kind(tree)


@pytest.mark.parametrize("what", ["cut", "grown", "foreign", "newer"])
def test_a_damaged_index_says_so(tree: Path, out: Path, what: str) -> None:
    grow(tree, 1, 3)
    build(Request(tree, out, PAIRS))
    (sidecar,) = out.glob("*.idx")
    lines = sidecar.with_suffix(".jsonl")
    if what == "cut":
        os.truncate(sidecar, sidecar.stat().st_size - 3)
    elif what == "grown":
        with lines.open("ab") as stream:
            stream.write(b"{}\n")
    elif what == "foreign":
        sidecar.write_bytes(b"hello, this is no index" * 10)
    else:
        about = json.loads((out / "index.json").read_text())
        (out / "index.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(UserError) as caught:
        Index(out)
    assert {"cut": "truncated", "grown": "changed it", "foreign": "no index of Slipway", "newer": "format 99"}[
        what
    ] in str(caught.value)


def test_other_processes_get_it_by_its_path(tree: Path, out: Path) -> None:
    grow(tree, 1, 3)
    build(Request(tree, out, PAIRS))
    with Index(out) as index:
        assert len(pickle.dumps(index)) < 500
        with multiprocessing.get_context("forkserver").Pool(1) as pool:
            assert pool.apply(len, (index,)) == 3
            assert pool.apply(operator.getitem, (index, 1)) == index[1]


def test_readers_of_the_index_before_go_on_reading_it(tree: Path, out: Path) -> None:
    grow(tree, 2, 3)
    build(Request(tree, out, PAIRS))
    with Index(out) as index:
        add_pair(tree, "000/0000a.jpg")
        build(Request(tree, out, PAIRS))
        assert [row["file_name"] for row in index][:2] == ["000/0000.jpg", "000/0001.jpg"]
    assert len(rows(out)) == 7


def test_parquet_holds_the_same_rows(tree: Path, out: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    grow(tree, 2, 5)
    build(Request(tree, out, Options("pairs", headers=True)))
    with Index(out) as index:
        index.to_parquet(tmp_path / "rows.parquet", rows_at_once=3)
        assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == [dict(row) for row in index]


def test_hugging_face_datasets_in_one_call(tree: Path, out: Path) -> None:
    grow(tree, 2, 10)
    build(Request(tree, out, PAIRS))
    with Index(out) as index:
        splits = index.dataset_dict(validation=0.25, seed=1)
        assert {name: len(split) for name, split in splits.items()} == {"train": 15, "validation": 5}
        sample = splits["train"][0]
        assert sample["image"].size == (20, 10)
        assert sample["text"] == f"a picture of {sample['file_name']}"
        names = {row["file_name"] for split in splits.values() for row in split}
        assert names == {row["file_name"] for row in index}


# --- the command ---------------------------------------------------------------------------------------------


def slipway(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", "index", *map(str, words)], capture_output=True, text=True, check=False
    )


def test_the_command(tree: Path, out: Path, tmp_path: Path) -> None:
    grow(tree, 3, 4)
    (tree / "000" / "lonely.png").write_bytes(jpeg())
    done = slipway(tree, "--out", out, "--processes", 1)
    assert done.returncode == 0, done.stderr
    assert "kind=pairs because 4 of 5 images in 000 have a .txt beside them" in done.stderr
    assert "12 rows of 4 directories" in done.stdout
    assert "1 images got no row" in done.stdout
    assert "000/lonely.png: no caption" in done.stdout
    again = slipway(tree, "--out", out, "--json", "--strict", "--processes", 1)
    assert again.returncode == 1
    assert json.loads(again.stdout)["rows"] == 12
    for part in (1, 2):
        assert slipway(tree, "--out", tmp_path / f"p{part}", "--share", f"{part}/2", "--processes", 1).returncode == 0
    merged = slipway("--merge", tmp_path / "p1", tmp_path / "p2", "--out", tmp_path / "merged", "--json")
    assert json.loads(merged.stdout)["digest"] == json.loads(again.stdout)["digest"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out", "{out}"], "No TREE"),
        (["{tree}/nowhere", "--out", "{out}"], "is no directory"),
        (["{tree}", "--out", "{tree}/index"], "inside the tree"),
        (["{tree}", "--out", "{out}", "--share", "3/2"], "K/N"),
        (["{tree}", "--out", "{out}", "--processes", "0"], "1 to 256"),
        (["{tree}", "--out", "{out}", "--caption-suffix", "txt"], "a dot"),
        (["{tree}", "--out", "{out}"], "holds no images"),
    ],
)
def test_mistakes_are_told_in_one_line(tree: Path, out: Path, words: list[str], told: str) -> None:
    done = slipway(*(word.format(tree=tree, out=out) for word in words))
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_parts_by_the_hosts_of_a_job(tree: Path, tmp_path: Path) -> None:
    grow(tree, 6, 2)
    parts: list[Path] = []
    for host in ("algo-1", "algo-10", "algo-2"):
        base = tmp_path / host
        (base / "input" / "config").mkdir(parents=True)
        about = {"current_host": host, "hosts": ["algo-1", "algo-10", "algo-2"]}
        (base / "input" / "config" / "resourceconfig.json").write_text(json.dumps(about))
        parts.append(tmp_path / f"index-{host}")
        done = subprocess.run(
            [sys.executable, "-m", "runtime.cli", "index", tree, "--out", parts[-1], "--share", "auto"],
            env={**os.environ, "SAGEMAKER_BASE_DIR": str(base)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert merge(parts, tmp_path / "merged").rows == 12
