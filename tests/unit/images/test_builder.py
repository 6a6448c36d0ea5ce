"""The builder's parts, each against a stand-in for docker, pip or mmdebstrap."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from images import rootfs, wheels
from images.build import Workplace, build, check_budget
from images.catalog import Flavour, read_catalog
from images.engine import client_version, find_client
from images.quiet import StepFailed, find_cause, run_step
from runtime.base.errors import UserError

CATALOG = read_catalog()


def make_client(directory: Path, version: str, *, buildx: bool = False) -> Path:
    """Write a docker client that answers the two questions that choosing one asks."""
    directory.mkdir(parents=True)
    client = directory / "docker"
    client.write_text(
        f'#!/bin/sh\ncase "$1" in\n--version) echo "Docker version {version}, build 1" ;;\n'
        f"buildx) exit {0 if buildx else 1} ;;\n*) exit 9 ;;\nesac\n"
    )
    client.chmod(0o755)
    return client


def test_a_client_tells_its_version(tmp_path: Path):
    assert client_version(str(make_client(tmp_path / "a", "20.10.24+dfsg1"))) == (20, 10, 24)
    assert client_version(str(make_client(tmp_path / "b", "29.0.0-rc.2"))) == (29, 0, 0)


def test_a_new_client_without_buildx_yields_to_an_old_one(tmp_path: Path):
    new, old = make_client(tmp_path / "new", "28.2.2"), make_client(tmp_path / "old", "20.10.24+dfsg1")
    assert find_client(f"{new.parent}:{old.parent}") == str(old)


def test_the_first_client_with_buildkit_is_taken(tmp_path: Path):
    new, old = make_client(tmp_path / "new", "28.2.2", buildx=True), make_client(tmp_path / "old", "20.10.24")
    assert find_client(f"{new.parent}:{old.parent}") == str(new)
    assert find_client(f"{old.parent}:{new.parent}") == str(old)


def test_without_a_usable_client_the_error_says_what_to_install(tmp_path: Path):
    with pytest.raises(UserError, match=r"docker is not installed.*apt-get install docker.io"):
        find_client(str(tmp_path))
    new = make_client(tmp_path / "new", "28.2.2")
    with pytest.raises(UserError, match=r"No docker client here has BuildKit.*buildx"):
        find_client(str(new.parent))


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["Looking in indexes", "ERROR: No match for torch", "ERROR: exit code 1"], "ERROR: No match for torch"),
        (["ERROR: Ignored the following versions: 3.7", "ERROR: No match for torch"], "ERROR: No match for torch"),
        (["#8 [2/4] RUN pip", "#8 12.51 ERROR: no torch", "executor failed running"], "ERROR: no torch"),
        (["I: chroot", "E: apt-get update failed"], "E: apt-get update failed"),
        (
            ["error: subprocess-exited-with-error", "  OSError: no README.md", "error: metadata-generation-failed"],
            "OSError: no README.md",
        ),
        (["Cannot connect", "  ", "give up"], "give up"),
        ([], "it printed nothing"),
    ],
)
def test_the_cause_is_found_in_a_log(lines: list[str], cause: str):
    assert find_cause(lines) == cause


def test_a_failed_step_carries_its_whole_output_and_a_good_one_only_logs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    script = "import sys; print('fine so far'); print('ERROR: no space', file=sys.stderr); sys.exit(3)"
    with pytest.raises(StepFailed, match=r"packing failed: ERROR: no space\. Fix: clear the disk") as caught:
        run_step("packing", [sys.executable, "-u", "-c", script], tmp_path / "log", fix="clear the disk")
    assert caught.value.output == "fine so far\nERROR: no space\n"
    run_step("counting", [sys.executable, "-c", "print('one')"], tmp_path / "logs" / "count.log")
    assert (tmp_path / "logs" / "count.log").read_text() == "one\n"
    assert capfd.readouterr() == ("", "")


def test_a_missing_tool_is_named(tmp_path: Path):
    with pytest.raises(StepFailed, match="no-such-tool is not installed"):
        run_step("making the base", ["no-such-tool"], tmp_path / "log")


def test_the_base_image_is_named_after_its_recipe():
    assert rootfs.tag(CATALOG.rootfs) == rootfs.tag(CATALOG.rootfs)
    more = replace(CATALOG.rootfs, packages=(*CATALOG.rootfs.packages, "gcc"))
    later = replace(CATALOG.rootfs, source_date_epoch=CATALOG.rootfs.source_date_epoch + 1)
    assert len({rootfs.tag(recipe) for recipe in (CATALOG.rootfs, more, later)}) == 3


def test_wheels_are_chosen_for_the_base_and_not_for_the_host(tmp_path: Path):
    flavour = CATALOG.image("pytorch").flavour("cuda")
    words = wheels.download_command(flavour, CATALOG.tools, tmp_path, "x86_64")
    assert words[words.index("--python-version") + 1] == CATALOG.tools.python
    assert "manylinux_2_28_x86_64" in words
    assert str(flavour.lock) in words
    assert {"--no-deps", "--only-binary=:all:"} <= set(words)


@pytest.fixture
def counted_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a stand-in for pip in place: it writes one wheel and one line per call; a lock with 'missing' fails."""
    calls = tmp_path / "calls"
    script = tmp_path / "pip.py"
    script.write_text(
        "import pathlib, sys\n"
        f"with open({str(calls)!r}, 'a') as calls: calls.write('called\\n')\n"
        "target = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\n"
        "target.mkdir()\n"
        "(target / 'one-1-py3-none-any.whl').touch()\n"
        "if 'missing' in open(sys.argv[sys.argv.index('-r') + 1]).read(): sys.exit('ERROR: No match for missing==1')\n"
    )
    monkeypatch.setattr(wheels, "_PIP", (sys.executable, str(script)))
    return calls


def test_wheels_are_downloaded_once_per_lock(tmp_path: Path, counted_pip: Path):
    lock = tmp_path / "cpu.txt"
    lock.write_text("one==1\n")
    flavour = Flavour("cpu", lock, max_mb=1)
    house, made = wheels.ensure_wheelhouse(flavour, CATALOG.tools, tmp_path / "cache", tmp_path / "logs")
    assert made
    assert [wheel.name for wheel in house.glob("*.whl")] == ["one-1-py3-none-any.whl"]
    assert wheels.ensure_wheelhouse(flavour, CATALOG.tools, tmp_path / "cache", tmp_path / "logs") == (house, False)
    lock.write_text("one==1\n# another comment, another lock\n")
    assert wheels.ensure_wheelhouse(flavour, CATALOG.tools, tmp_path / "cache", tmp_path / "logs") == (house, True)
    assert counted_pip.read_text().count("called") == 2


def test_a_failed_download_keeps_the_earlier_wheels_and_is_tried_again(tmp_path: Path, counted_pip: Path):
    lock = tmp_path / "cpu.txt"
    lock.write_text("one==1\n")
    flavour = Flavour("cpu", lock, max_mb=1)
    house, _ = wheels.ensure_wheelhouse(flavour, CATALOG.tools, tmp_path / "cache", tmp_path / "logs")
    lock.write_text("missing==1\n")
    for _ in range(2):
        with pytest.raises(StepFailed, match=r"No match for missing==1.*PIP_EXTRA_INDEX_URL"):
            wheels.ensure_wheelhouse(flavour, CATALOG.tools, tmp_path / "cache", tmp_path / "logs")
    assert counted_pip.read_text().count("called") == 3
    assert (house / "one-1-py3-none-any.whl").exists()
    assert list(house.parent.iterdir()) == [house]


@pytest.mark.parametrize(
    ("name", "flavour", "message"),
    [("pytorc", "cpu", "Did you mean 'pytorch'"), ("pytorch", "cud", "Did you mean 'cuda'")],
)
def test_unknown_names_get_a_guess_before_anything_is_started(tmp_path: Path, name: str, flavour: str, message: str):
    with pytest.raises(UserError, match=message):
        build(name, flavour, "", CATALOG, Workplace(tmp_path, tmp_path / "cache"), print)
    assert not (tmp_path / "cache").exists()


def test_an_image_above_its_budget_is_refused():
    check_budget("slipway-pytorch:cpu", 1299.9, 1300)
    with pytest.raises(UserError, match=r"slipway-pytorch:cpu has 1400 MB\. its budget is 1300 MB"):
        check_budget("slipway-pytorch:cpu", 1400.0, 1300)


def test_a_broken_list_of_images_is_named(tmp_path: Path):
    path = tmp_path / "images.toml"
    path.write_text("[rootfs]\nsuite = 'bookworm'\n")
    with pytest.raises(UserError, match="has no key 'build'"):
        read_catalog(path)
