"""The checkpoint store: what comes back to every host, and what survives of many."""

import os
from pathlib import Path

import pytest

from runtime.local import store as module
from runtime.local.store import CheckpointStore, commit_order


def write(root: Path, **files: str) -> None:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_json", ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def listing(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_hosts_are_merged_and_all_get_all(tmp_path: Path):
    store = CheckpointStore(tmp_path / "store")
    before = {host: store.restore(tmp_path / host) for host in ("algo-1", "algo-2")}
    write(tmp_path / "algo-1", s5__rank0="a", s5__MANIFEST_json="{}")
    write(tmp_path / "algo-2", s5__rank1="b")
    for host in before:
        store.merge(tmp_path / host, before[host])
    store.restore(tmp_path / "next")
    assert listing(tmp_path / "next") == ["s5/MANIFEST.json", "s5/rank0", "s5/rank1"]


def test_what_is_half_written_stays_out(tmp_path: Path):
    target = tmp_path / "host"
    write(target, s1__w="1")
    (target / ".staging").mkdir()
    (target / ".staging" / "w").touch()
    for name in ("s1/w2.tmp", "s1/w.sagemaker-uploading", "s1/w.sagemaker-uploaded"):
        (target / name).touch()
    store = CheckpointStore(tmp_path / "store")
    store.merge(target, {})
    assert listing(tmp_path / "store") == ["s1/w"]


def test_an_untouched_file_does_not_undo_another_hosts_work(tmp_path: Path):
    store = CheckpointStore(tmp_path / "store")
    write(tmp_path / "store", latest="old")
    before = {host: store.restore(tmp_path / host) for host in ("algo-1", "algo-2")}
    write(tmp_path / "algo-1", latest="newer")
    for host in before:
        store.merge(tmp_path / host, before[host])
    assert (tmp_path / "store/latest").read_text() == "newer"


def test_retention_is_mirrored_as_the_service_does(tmp_path: Path):
    store = CheckpointStore(tmp_path / "store")
    write(tmp_path / "store", s1__w="1", s1__MANIFEST_json="{}", s2__w="2")
    before = store.restore(tmp_path / "host")
    (tmp_path / "host/s1/w").unlink()
    (tmp_path / "host/s1/MANIFEST.json").unlink()
    done = store.merge(tmp_path / "host", before)
    assert (done.written, done.removed) == (0, 2)
    assert listing(tmp_path / "store") == ["s2/w"]
    assert not (tmp_path / "store/s1").exists()


def test_a_manifest_is_written_last_and_removed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    copy = module.shutil.copy2

    def spy(source: Path, target: Path) -> None:
        order.append(source.name)
        copy(source, target)

    monkeypatch.setattr(module.shutil, "copy2", spy)
    write(tmp_path / "host", MANIFEST_json="{}", a="1", z="2")
    CheckpointStore(tmp_path / "store").merge(tmp_path / "host", {})
    assert order == ["a", "z", "MANIFEST.json"]
    assert commit_order(["a/MANIFEST.json", "b/w"]) == ["b/w", "a/MANIFEST.json"]


def test_what_a_cut_off_run_left_is_adopted_and_nothing_removed(tmp_path: Path):
    store = CheckpointStore(tmp_path / "store")
    write(tmp_path / "store", s1__w="1", s2__w="2")
    store.restore(tmp_path / "host")
    (tmp_path / "host/s1/w").unlink()
    write(tmp_path / "host", s3__w="3")
    assert store.adopt(tmp_path / "host").written == 1
    assert listing(tmp_path / "store") == ["s1/w", "s2/w", "s3/w"]


def test_a_changed_file_of_equal_size_is_seen(tmp_path: Path):
    store = CheckpointStore(tmp_path / "store")
    write(tmp_path / "store", w="1")
    before = store.restore(tmp_path / "host")
    write(tmp_path / "host", w="2")
    os.utime(tmp_path / "host/w", ns=(1, 1))
    store.merge(tmp_path / "host", before)
    assert (tmp_path / "store/w").read_text() == "2"
