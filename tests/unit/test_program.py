"""Which program, from where, and what hides it."""

import io
import random
import sys
import tarfile
from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.job import read_job
from runtime.program import Program, find_program, install, workloads
from runtime.settings import Settings, resolve
from tests.conftest import Tree


def find(tree: Tree, environ: dict[str, str] | None = None, **hyperparameters: str) -> Program:
    tree.hyperparameters(**hyperparameters)
    environ = {"SLIPWAY_IMAGE_FILE": "/nonexistent", **(environ or {})}
    job = read_job(tree.paths, environ)
    return find_program(job, resolve(job.hyperparameters, environ), environ)


def archive(path: Path, *members: tuple[str, bytes], mode: str = "w:gz") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # pyright: ignore
        for name, data in members:
            facts = tarfile.TarInfo(name)
            facts.size = len(data)
            tar.addfile(facts, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["train.py", '"train.py"'])
def test_a_script_of_the_user(tree: Tree, name: str) -> None:
    program = find(tree, sagemaker_program=name)
    assert (program.path, program.cwd) == (f"{tree.paths.code}/train.py", tree.paths.code)
    assert program.command(("--lr", "1")) == (sys.executable, str(program.path), "--lr", "1")


def test_a_shell_script_is_no_shell_line(tree: Tree) -> None:
    program = find(tree, sagemaker_program="run.sh")
    assert program.command(("a b", "$HOME")) == (
        "/bin/sh",
        "-c",
        'exec "$0" "$@"',
        str(Path(tree.paths.code) / "run.sh"),
        "a b",
        "$HOME",
    )


def test_the_environment_names_a_program_and_the_hyperparameter_wins(tree: Tree) -> None:
    assert find(tree, {"SAGEMAKER_PROGRAM": "env.py"}).name == "env.py"
    assert find(tree, {"SAGEMAKER_PROGRAM": "env.py"}, sagemaker_program="hp.py").name == "hp.py"


def test_no_program_says_both_ways_to_name_one(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"names no program.*sagemaker_program.*slipway_entrypoint.*Fix: .*workloads"):
        find(tree)


def test_two_programs_are_named_with_their_origins(tree: Tree) -> None:
    with pytest.raises(UserError) as caught:
        find(tree, sagemaker_program="a.py", slipway_entrypoint="image_classification")
    assert "sagemaker_program='a.py'" in str(caught.value)
    assert "hyperparameter slipway_entrypoint='image_classification'" in str(caught.value)


def test_an_image_default_gives_way_to_the_users_program(tree: Tree) -> None:
    tree.hyperparameters(sagemaker_program="a.py")
    settings = Settings(entrypoint="image_classification", origins={"entrypoint": "image default"})
    assert find_program(read_job(tree.paths, {}), settings, {}).name == "a.py"


def test_an_unknown_workload_is_met_with_a_guess(tree: Tree) -> None:
    with pytest.raises(
        UserError, match=r"'image_clasification' \(from SLIPWAY_ENTRYPOINT\).*Did you mean 'image_classification'"
    ):
        find(tree, {"SLIPWAY_ENTRYPOINT": "image_clasification"})


def test_our_workload_runs_where_it_lies(tree: Tree) -> None:
    program = find(tree, slipway_entrypoint="image_classification")
    assert program.path == workloads()["image_classification"]
    assert Path(program.path).is_file()
    assert program.submit_directory is None


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.py", "a/../../x.py"])
def test_a_program_outside_the_code_directory_is_refused(tree: Tree, name: str) -> None:
    with pytest.raises(UserError, match="inside the code directory"):
        find(tree, sagemaker_program=name)


def test_code_on_s3_says_what_to_do(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"'s3://b/k.tar.gz'.*Fix: pass the code as the channel 'code'"):
        find(tree, sagemaker_program="a.py", sagemaker_submit_directory='"s3://b/k.tar.gz"')


def test_code_from_a_directory_with_its_folders(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "src/lib").mkdir(parents=True)
    (tmp_path / "src/train.py").write_text("1")
    (tmp_path / "src/lib/x.py").write_text("2")
    install(
        find(tree, sagemaker_program="train.py", sagemaker_submit_directory=f"file://{tmp_path / 'src'}"),
        Path(tree.paths.code),
    )
    assert (Path(tree.paths.code) / "lib/x.py").read_text() == "2"


@pytest.mark.parametrize(("name", "mode"), [("s.tar.gz", "w:gz"), ("s.tgz", "w:gz"), ("s.tar", "w")])
def test_code_from_an_archive(tree: Tree, tmp_path: Path, name: str, mode: str) -> None:
    source = archive(tmp_path / name, ("train.py", b"1"), mode=mode)
    install(find(tree, sagemaker_program="train.py", sagemaker_submit_directory=str(source)), tree.paths.code)
    assert (Path(tree.paths.code) / "train.py").read_text() == "1"


def test_code_from_the_code_channel(tree: Tree) -> None:
    tree.config("inputdataconfig", {"code": {"TrainingInputMode": "File"}})
    archive(Path(tree.paths.data) / "code/sourcedir.tar.gz", ("train.py", b"1"))
    install(find(tree, sagemaker_program="train.py"), tree.paths.code)
    assert (Path(tree.paths.code) / "train.py").read_text() == "1"


def test_code_that_is_there_already_is_not_replaced(tree: Tree, tmp_path: Path) -> None:
    tree.script("mine")
    source = archive(tmp_path / "s.tar.gz", ("train.py", b"theirs"))
    install(find(tree, sagemaker_program="train.py", sagemaker_submit_directory=str(source)), tree.paths.code)
    assert (Path(tree.paths.code) / "train.py").read_text() == "mine"


@pytest.mark.parametrize("evil", ["../evil.py", "/evil-of-slipway-tests.py"])
def test_an_archive_cannot_leave_the_code_directory(tree: Tree, tmp_path: Path, evil: str) -> None:
    source = archive(tmp_path / "s.tar.gz", (evil, b"1"), ("train.py", b"1"))
    program = find(tree, sagemaker_program="train.py", sagemaker_submit_directory=str(source))
    if evil.startswith("/"):  # tar's own rule: a leading slash is stripped
        install(program, Path(tree.paths.code))
    else:
        with pytest.raises(UserError, match="cannot be unpacked"):
            install(program, Path(tree.paths.code))
    assert not (tree.base / "evil.py").exists()
    assert not Path("/evil-of-slipway-tests.py").exists()


@pytest.mark.parametrize("fault", ["text", "truncated", "flipped", "empty"])
def test_a_broken_archive_is_the_users_to_mend(tree: Tree, tmp_path: Path, fault: str) -> None:
    source = archive(
        tmp_path / "s.tar.gz", ("train.py", random.Random(7).randbytes(90000).hex().encode()), ("b.py", b"x" * 5000)
    )
    data = bytearray(source.read_bytes())
    if fault == "text":
        data = bytearray(b"no archive")
    elif fault == "truncated":
        del data[len(data) // 2 :]
    elif fault == "empty":
        data.clear()
    else:
        for at in range(len(data) // 2, len(data) - 10, 7):
            data[at] ^= 0xFF
    source.write_bytes(data)
    with pytest.raises(UserError, match=r"(?s)s\.tar\.gz cannot be unpacked.*Fix: pack it anew"):
        install(find(tree, sagemaker_program="train.py", sagemaker_submit_directory=str(source)), tree.paths.code)


def test_a_source_that_is_not_there_is_named(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"sagemaker_submit_directory is '/no/such', which is not there"):
        install(find(tree, sagemaker_program="a.py", sagemaker_submit_directory="/no/such"), tree.paths.code)


def test_a_missing_program_is_named_with_the_files_that_are_there(tree: Tree) -> None:
    tree.script("1", "train.py")
    with pytest.raises(UserError) as caught:
        install(find(tree, sagemaker_program="trian.py"), tree.paths.code)
    text = str(caught.value)
    assert "trian.py is not there (from sagemaker_program=trian.py)" in text
    assert "Files there: 'train.py'. Did you mean 'train.py'?" in text


@pytest.mark.parametrize("name", ["runtime.py", "runtime/__init__.py"])
def test_a_file_that_hides_our_package_is_refused(tree: Tree, name: str) -> None:
    tree.script("1")
    (Path(tree.paths.code) / name).parent.mkdir(exist_ok=True)
    (Path(tree.paths.code) / name).write_text("")
    with pytest.raises(UserError, match=r"hides the container's `runtime` package.*rename"):
        install(find(tree, sagemaker_program="train.py"), tree.paths.code)
