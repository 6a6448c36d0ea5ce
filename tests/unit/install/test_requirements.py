"""What a requirements file asks for, against what the image has; nothing is installed."""

from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.install.requirements import canonical, check_lock, conflict_told, read_lines, read_lock
from runtime.version import __version__

LOCK = {"torch": "2.13.0+cpu", "numpy": "2.4.6", "typing-extensions": "4.16.0"}


def write(directory: Path, text: str, name: str = "requirements.txt") -> str:
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(text)
    return str(directory / name)


def test_comments_continued_lines_and_included_files_are_read_as_pip_reads_them(tmp_path: Path) -> None:
    write(tmp_path, "deep\n", "more/deep.txt")
    write(tmp_path, "-r deep.txt\ninner  # why\n", "more/inner.txt")
    path = write(
        tmp_path,
        "\ufeff# all\none==1\n\n  two>=2 \\\n   ,<3\n-r more/inner.txt\n--requirement=more/deep.txt\n--no-index\n"
        "x @ https://host/x.whl#sha256=1\n",
    )
    lines = list(read_lines(path))
    assert [line.text for line in lines] == [
        "one==1", "two>=2 ,<3", "deep", "inner", "deep", "--no-index", "x @ https://host/x.whl#sha256=1"
    ]  # fmt: skip
    assert [(Path(line.path).name, line.number) for line in lines[:4]] == [
        ("requirements.txt", 2), ("requirements.txt", 5), ("deep.txt", 1), ("inner.txt", 2)
    ]  # fmt: skip


def test_a_circle_of_files_ends(tmp_path: Path) -> None:
    path = write(tmp_path, "-r requirements.txt\n")
    with pytest.raises(UserError, match=r"included 11 files deep.*circle"):
        list(read_lines(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"more\.txt cannot be read.*submit it with the code"):
        list(read_lines(write(tmp_path, "-r more.txt")))


@pytest.mark.parametrize(
    "line",
    [
        "torch", "torch>=2.0", "torch==2.13.0", "torch==2.13.*", "TORCH ~= 2.13", "Typing_Extensions>4",
        "torch==2.5.1; python_version < '3'", "torch==2.5.1; extra == 'x'", "einops==0.8", "./torch-2.5.1.whl",
        "--index-url https://host/simple", "torch[opt]>=2 --hash=sha256:00", "not a requirement",
    ],
)  # fmt: skip
def test_what_leaves_the_image_as_it_is_passes(tmp_path: Path, line: str) -> None:
    check_lock(write(tmp_path, f"{line}\n"), LOCK)


@pytest.mark.parametrize(
    ("line", "asks"),
    [
        ("torch==2.5.1", "torch==2.5.1"),
        ("torch<2.13", "torch<2.13"),
        ("torch==2.13.0+cu126", r"torch==2\.13\.0\+cu126"),
        ("torch @ https://host/torch-2.13.0.whl", "torch @ https://host/torch-2.13.0.whl"),
        ("typing.extensions==3", "typing.extensions==3"),
        ("torch==2.5.1 ; python_version >= '3'", "torch==2.5.1"),
    ],
)
def test_what_would_replace_a_package_names_both_versions_and_the_way_out(tmp_path: Path, line: str, asks: str) -> None:
    path = write(tmp_path, f"einops\n{line}\n")
    with pytest.raises(
        UserError, match=rf"requirements.txt line 2 asks for {asks}, but this image has \S+ \S+\. "
    ) as told:
        check_lock(path, LOCK)
    assert "drop or widen that requirement" in str(told.value)
    assert "slipway_constraints=off" in str(told.value)
    assert LOCK[canonical(line.split("=")[0].split("<")[0].split(" ")[0])] in str(told.value)


def test_the_images_own_list_is_the_lock(tmp_path: Path) -> None:
    path = write(tmp_path, "# made by the build\nTorch==2.13.0+cpu\nzope.event==6.2\npip==26\n", "constraints.txt")
    assert read_lock(path) == {"slipway": __version__, "torch": "2.13.0+cpu", "zope-event": "6.2"}


def test_without_such_a_list_what_is_installed_counts() -> None:
    from importlib.metadata import version

    lock = read_lock("/nonexistent")
    assert lock["pytest"] == version("pytest")
    assert "pip" not in lock


PIP_TOLD = """
ERROR: Cannot install needy==1.0 because these package versions have conflicting dependencies.

The conflict is caused by:
    needy 1.0 depends on Torch==2.5.1
    The user requested (constraint) torch==2.13.0+cpu
""".splitlines()


def test_a_conflict_through_another_package_is_found_in_pips_words() -> None:
    error = conflict_told(PIP_TOLD, LOCK)
    assert error is not None
    assert str(error).startswith("needy 1.0 asks for Torch==2.5.1, but this image has Torch 2.13.0+cpu. ")


def test_another_trouble_of_pip_is_no_conflict() -> None:
    assert conflict_told(["ERROR: No matching distribution found for einops"], LOCK) is None
    assert conflict_told(["    needy 1.0 depends on einops==2"], LOCK) is None
