"""Links that a container made lead where the container meant them to, and never to files of this machine."""

import os
import tarfile
from pathlib import Path

import pytest

from runtime.contract.paths import Paths
from runtime.local.links import Rooms, files_in, follow
from runtime.local.outputs import failure_reason, merged, pack


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "algo-1"
    for name in ("model/step-5", "output/data", "checkpoints"):
        (base / name).mkdir(parents=True)
    (base / "model/step-5/weights.bin").write_text("five")
    (base / "checkpoints/last.pt").write_text("last")
    return base


def rooms(base: Path) -> Rooms:
    return {f"/opt/ml/{name}": base / name for name in ("model", "output", "checkpoints")}


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("step-5/weights.bin", "model/step-5/weights.bin"),
        ("/opt/ml/model/step-5/weights.bin", "model/step-5/weights.bin"),
        ("/opt/ml/model/step-5", "model/step-5"),
        ("../checkpoints/last.pt", "checkpoints/last.pt"),
        ("/opt/ml/output/../checkpoints/./last.pt", "checkpoints/last.pt"),
        ("/../../opt/ml/checkpoints/last.pt", "checkpoints/last.pt"),
        ("nowhere", None),
        ("/etc/passwd", None),
        ("../../../../../../../../etc/passwd", None),
        ("/opt/ml", None),
        ("link", None),
    ],
)
def test_a_link_of_a_container_is_followed_as_there(base: Path, target: str, place: str | None) -> None:
    link = base / "model/link"
    link.symlink_to(target)
    assert follow(link, rooms(base)) == (base / place if place else None)


def test_a_link_through_a_link(base: Path) -> None:
    (base / "model/last").symlink_to("/opt/ml/model/step-5")
    (base / "model/weights").symlink_to("last/weights.bin")
    assert follow(base / "model/weights", rooms(base)) == base / "model/step-5/weights.bin"


def test_a_process_means_what_it_says(base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (base / "model/link").symlink_to(tmp_path / "mine")
    assert follow(base / "model/link", None) == tmp_path / "mine"


def test_linked_directories_are_packed_and_what_has_no_content_is_named(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, target in (("last", "step-5"), ("circle", "."), ("theirs", "/etc/passwd"), ("gone", "nowhere")):
        (base / "model" / name).symlink_to(target)
    os.mkfifo(base / "model/fifo")
    assert pack([base / "model"], tmp_path / "model.tar.gz", [rooms(base)])
    with tarfile.open(tmp_path / "model.tar.gz") as tar:
        assert {member.name: member.isreg() for member in tar} == {"last/weights.bin": True, "step-5/weights.bin": True}
    assert "4 names in" in (told := capfd.readouterr().err)
    assert "left out (circle, fifo, gone …)" in told


def test_a_directory_that_became_a_link_to_ours_gives_nothing(base: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("ours")
    (base / "output/data").rmdir()
    (base / "output/data").symlink_to(tmp_path)
    assert list(files_in(base / "output/data", rooms(base))) == []
    assert merged([base / "output/data"], [rooms(base)]) == {}


def test_a_failure_file_that_is_a_link_or_a_fifo_is_none(base: Path, tmp_path: Path) -> None:
    paths = Paths(str(base))
    (tmp_path / "secret").write_text("ours")
    Path(paths.failure).symlink_to(tmp_path / "secret")
    assert failure_reason([("algo-1", paths, 1)]) == "algo-1 ended with exit code 1 and left no failure file"
    Path(paths.failure).unlink()
    os.mkfifo(paths.failure)
    assert failure_reason([("algo-1", paths, 1)]) == "algo-1 ended with exit code 1 and left no failure file"
