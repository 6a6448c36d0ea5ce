"""From a named program to one that can start."""

import io
import json
import os
import signal
import socket
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runtime.base.errors import UserError
from runtime.contract.job import read_job
from runtime.contract.settings import resolve
from runtime.install.provision import provision
from runtime.planning.program import Program, find_program
from tests.conftest import MARK, Cluster, Tree

ROOT = Path(__file__).parents[3]


def prepare(tree: Tree, environ: dict[str, str] | None = None, **hyperparameters: str) -> Program:
    tree.hyperparameters(**hyperparameters)
    environ = {"SLIPWAY_IMAGE_FILE": "/nonexistent", **(environ or {})}
    job = read_job(tree.paths, environ)
    settings = resolve(job.hyperparameters, environ)
    return provision(find_program(job, settings, environ), job, settings, environ, lambda _: None)


def archive(path: Path, **members: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            facts = tarfile.TarInfo(name.replace("__", "."))
            facts.size = len(data)
            tar.addfile(facts, io.BytesIO(data))
    return path


def text(tree: Tree, name: str) -> str:
    return (Path(tree.paths.code) / name).read_text()


def test_code_from_a_directory_with_its_folders(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "src/lib").mkdir(parents=True)
    (tmp_path / "src/train.py").write_text("1")
    (tmp_path / "src/lib/x.py").write_text("2")
    prepare(tree, sagemaker_program="train.py", sagemaker_submit_directory=f"file://{tmp_path / 'src'}")
    assert text(tree, "lib/x.py") == "2"


@pytest.mark.parametrize("name", ["s.tar.gz", "object-without-a-suffix"])
def test_code_from_an_archive(tree: Tree, tmp_path: Path, name: str) -> None:
    source = archive(tmp_path / name, train__py=b"1")
    prepare(tree, sagemaker_program="train.py", sagemaker_submit_directory=str(source))
    assert text(tree, "train.py") == "1"


def test_code_that_is_one_file(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("1")
    prepare(tree, sagemaker_program="train.py", sagemaker_submit_directory=str(tmp_path / "train.py"))
    assert text(tree, "train.py") == "1"


@pytest.mark.parametrize("name", ["sourcedir.tar.gz", "other.tgz"])
def test_code_from_the_code_channel(tree: Tree, name: str) -> None:
    tree.config("inputdataconfig", {"code": {"TrainingInputMode": "File"}})
    archive(Path(tree.paths.data) / "code" / name, train__py=b"1")
    prepare(tree, sagemaker_program="train.py")
    assert text(tree, "train.py") == "1"


def test_code_that_is_there_already_is_not_replaced(tree: Tree, tmp_path: Path) -> None:
    tree.script("mine")
    source = archive(tmp_path / "s.tar.gz", train__py=b"theirs")
    prepare(tree, sagemaker_program="train.py", sagemaker_submit_directory=str(source))
    assert text(tree, "train.py") == "mine"


def test_the_kind_is_that_of_the_code_that_came(tree: Tree, tmp_path: Path) -> None:
    source = archive(tmp_path / "s.tar.gz", setup__py=b"", train__py=b"1")
    told = {"sagemaker_program": "train.py", "sagemaker_submit_directory": str(source), "slipway_install": "off"}
    assert prepare(tree, **told).kind == "module"


def test_a_source_that_is_not_there_is_named(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"sagemaker_submit_directory is '/no/such', which is not there"):
        prepare(tree, sagemaker_program="a.py", sagemaker_submit_directory="/no/such")


def test_a_folder_of_s3_says_what_to_do(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"'s3://b/k/', a folder of S3.*pack the folder as sourcedir.tar.gz"):
        prepare(tree, sagemaker_program="a.py", sagemaker_submit_directory="s3://b/k/")


def test_a_missing_program_is_named_with_the_files_that_are_there(tree: Tree) -> None:
    tree.script("1", "train.py")
    with pytest.raises(UserError) as caught:
        prepare(tree, sagemaker_program="trian.py")
    told = str(caught.value)
    assert "trian.py is not there (from sagemaker_program=trian.py)" in told
    assert "Files there: 'train.py'. Did you mean 'train.py'?" in told


@pytest.mark.parametrize("name", ["runtime.py", "runtime/__init__.py"])
def test_a_file_that_hides_our_package_is_refused(tree: Tree, name: str) -> None:
    tree.script("1")
    (Path(tree.paths.code) / name).parent.mkdir(exist_ok=True)
    tree.script("", name)
    with pytest.raises(UserError, match=r"hides the container's `runtime` package.*rename"):
        prepare(tree, sagemaker_program="train.py")


def test_a_command_becomes_executable_and_nobody_else_may_write_it(tree: Tree) -> None:
    tree.script("exit 0", "run.sh")
    os.chmod(f"{tree.paths.code}/run.sh", 0o600)
    prepare(tree, sagemaker_program="run.sh")
    assert os.stat(f"{tree.paths.code}/run.sh").st_mode & 0o777 == 0o711


def test_a_command_that_is_a_link_out_of_the_code_is_not_touched(tree: Tree, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("")
    victim.chmod(0o600)
    Path(tree.paths.code).mkdir(parents=True)
    (Path(tree.paths.code) / "run.sh").symlink_to(victim)
    with pytest.raises(UserError, match=r"run\.sh leads to .*victim, outside the code directory"):
        prepare(tree, sagemaker_program="run.sh")
    assert victim.stat().st_mode & 0o777 == 0o600


class _Asked(Exception):
    """Raised in the place of an installation."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def install(needs: object, environ: object, **told: object) -> str:
        raise _Asked(needs, environ, told)

    monkeypatch.setattr("runtime.install.installs.install", install)


@pytest.mark.usefixtures("asked")
def test_requirements_are_installed_with_the_jobs_limits_and_wheels(tree: Tree) -> None:
    tree.script("")
    tree.script("einops", "requirements.txt")
    tree.channel("wheelhouse", a__whl="")
    tree.config("inputdataconfig", {"wheelhouse": {"TrainingInputMode": "File"}})
    with pytest.raises(_Asked) as caught:
        prepare(tree, sagemaker_program="train.py", slipway_install_s="7", slipway_constraints="off")
    needs, _, told = caught.value.args
    assert needs.requirements == f"{tree.paths.code}/requirements.txt"
    assert needs.wheelhouse == f"{tree.paths.data}/wheelhouse"
    assert (told["limit_s"], told["keeps_lock"]) == (7.0, False)


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    "case",
    [
        {"sagemaker_program": "train.py", "slipway_install": "off"},
        {"sagemaker_program": "run.sh"},
        {"slipway_entrypoint": "image_classification"},
    ],
)
def test_nothing_is_installed_where_nobody_wants_it(tree: Tree, case: dict[str, str]) -> None:
    for name in ("train.py", "run.sh", "requirements.txt"):
        tree.script("", name)
    prepare(tree, **case)


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("requirements", "environ", "installed"),
    [
        (None, {}, False),
        ("requirements.txt", {}, True),
        ("auto", {}, True),
        ("deep/reqs.txt", {}, True),
        ("requirements.txt", {"SM_INPUT_DATA_DIR": "/x", "SM_SOURCE_DIR": "/x"}, False),
    ],
)
def test_sdk_v3_installs_what_it_names_and_its_own_script_does_so_itself(
    tree: Tree, requirements: str | None, environ: dict[str, str], installed: bool
) -> None:
    tree.drivers(source_dir="src", entry_script="train.py", requirements=requirements)
    code = tree.channel("code", train__py="", requirements__txt="einops", setup__py="")
    (code / "deep").mkdir()
    (code / "deep/reqs.txt").write_text("einops")
    if not installed:
        assert prepare(tree, environ).kind == "script"
        return
    with pytest.raises(_Asked) as caught:
        prepare(tree, environ)
    needs: Any = caught.value.args[0]
    assert needs.requirements == f"{code}/{'requirements.txt' if requirements == 'auto' else requirements}"
    assert not needs.package


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """Serve ``s3://bucket/sourcedir.tar.gz`` and give the endpoint's address."""
    archive(tmp_path / "s3/bucket/sourcedir.tar.gz", train__py=(MARK + "mark('ran', os.getcwd())").encode())
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "s3"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "S3_ENDPOINT_URL"])
def test_a_job_whose_code_is_on_s3(cluster: Any, bucket: str, name: str) -> None:
    job: Cluster = cluster()
    tree = job[1].tree
    told = json.loads(Path(tree.paths.config, "hyperparameters.json").read_text())
    tree.hyperparameters(**told, sagemaker_submit_directory='"s3://bucket/sourcedir.tar.gz"')
    job.start(**{name: bucket, "AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret"})
    assert job[1].wait() == 0, job[1].text
    assert [mark.read_text() for mark in job[1].marks("ran")] == [tree.paths.code]
    assert "fetched s3://bucket/sourcedir.tar.gz" in job[1].text


def test_code_that_is_not_on_s3_is_named_in_the_failure(cluster: Any, bucket: str) -> None:
    job: Cluster = cluster()
    tree = job[1].tree
    told = json.loads(Path(tree.paths.config, "hyperparameters.json").read_text())
    tree.hyperparameters(**told, sagemaker_submit_directory="s3://bucket/other.tar.gz")
    job.start(S3_ENDPOINT_URL=bucket, AWS_ACCESS_KEY_ID="AKID", AWS_SECRET_ACCESS_KEY="secret")  # noqa: S106
    assert job[1].wait() == 1
    assert "s3://bucket/other.tar.gz cannot be fetched: there is no such object" in job[1].failure


def test_one_hosts_bad_requirements_are_named_on_both(cluster: Any) -> None:
    job: Cluster = cluster("mark('ran')", hosts=2)
    job[2].tree.script("pytest==0.1\n", "requirements.txt")
    job.start()
    assert [job[number].wait() for number in (1, 2)] == [1, 1]
    for number in (1, 2):
        assert "algo-2" in job[number].failure
        assert "asks for pytest==0.1, but this image has pytest" in job[number].failure


def test_a_stop_while_packages_are_installed_is_a_clean_stop(cluster: Any) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        deaf.settimeout(300)
        job: Cluster = cluster("mark('ran')")
        job[1].tree.script("nowhere-to-be-had\n", "requirements.txt")
        job.start(PIP_INDEX_URL=f"http://127.0.0.1:{deaf.getsockname()[1]}/simple/")
        # pip has asked the index, which will never answer.
        connection, _ = deaf.accept()
        job[1].signal(signal.SIGTERM)
        assert job[1].wait() == 0, job[1].text
        connection.close()
    assert json.loads(Path(job[1].tree.paths.stopped).read_text())["reason"] == "SIGTERM"
    assert not Path(job[1].tree.paths.failure).exists()
    assert job[1].marks() == []


def test_a_requirement_against_the_image_fails_the_job_before_a_rank_starts(cluster: Any) -> None:
    job: Cluster = cluster("mark('ran')")
    job[1].tree.script("pytest==0.1\n", "requirements.txt")
    job.start()
    assert job[1].wait() == 1
    assert "requirements.txt line 1 asks for pytest==0.1, but this image has pytest " in job[1].failure
    assert "slipway_constraints=off" in job[1].failure
    assert job[1].marks() == []


def test_a_hundred_long_hyperparameters_start_a_job_that_the_toolkit_could_not_start(cluster: Any) -> None:
    job: Cluster = cluster(
        "import json\n"
        "held = json.load(open(os.environ['SM_HPS_FILE']))\n"
        "mark('seen', json.dumps([len(held), 'SM_HPS' in os.environ, len(sys.argv), len(os.environ['SM_HP_P7'])]))\n"
    )
    tree = job[1].tree
    told = json.loads(Path(tree.paths.config, "hyperparameters.json").read_text())
    tree.hyperparameters(**told, **{f"p{number}": "x" * 2500 for number in range(100)})
    job.start()
    assert job[1].wait() == 0, job[1].text
    (mark,) = job[1].marks("seen")
    assert json.loads(mark.read_text()) == [100, False, 201, 2500]
    assert "SM_HPS=left out, see " in job[1].text
