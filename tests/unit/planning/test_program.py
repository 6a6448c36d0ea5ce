"""Which program a job runs, how it is started, and where its code comes from."""

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.contract.job import read_job
from runtime.contract.settings import Settings, resolve
from runtime.planning.program import Program, find_program, kind_of, workloads
from tests.conftest import Tree


def find(tree: Tree, environ: dict[str, str] | None = None, **hyperparameters: str) -> Program:
    tree.hyperparameters(**hyperparameters)
    environ = {"SLIPWAY_IMAGE_FILE": "/nonexistent", **(environ or {})}
    job = read_job(tree.paths, environ)
    return find_program(job, resolve(job.hyperparameters, environ), environ)


@pytest.mark.parametrize("name", ["train.py", '"train.py"'])
def test_a_script_of_the_user(tree: Tree, name: str) -> None:
    program = find(tree, sagemaker_program=name)
    assert (program.name, program.path, program.cwd) == ("train.py", f"{tree.paths.code}/train.py", tree.paths.code)
    assert program.command(("--lr", "1")) == (sys.executable, "train.py", "--lr", "1")


def test_a_shell_script_is_no_shell_line(tree: Tree) -> None:
    program = find(tree, sagemaker_program="bin/run.sh")
    assert program.command(("a b", "$HOME")) == ("/bin/sh", "-c", 'exec "$0" "$@"', "./bin/run.sh", "a b", "$HOME")


@pytest.mark.parametrize(
    ("name", "files", "kind"),
    [
        ("train.py", [], "script"),
        ("train.py", ["setup.py"], "module"),
        ("train.py", ["pyproject.toml"], "script"),
        ("run.sh", ["setup.py"], "command"),
        ("go", ["go"], "command"),
        ("go", [], "command"),
        ("pkg.cli", ["setup.py"], "module"),
        ("pkg.cli", ["pyproject.toml"], "module"),
        ("go", ["pyproject.toml", "go"], "command"),
        ("pkg.cli:main", [], "function"),
        ("pkg.cli:main", ["setup.py"], "function"),
    ],
)
def test_kinds_of_programs(tmp_path: Path, name: str, files: list[str], kind: str) -> None:
    for file in files:
        (tmp_path / file).touch()
    assert kind_of(name, str(tmp_path)) == kind


def run(program: Program, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(program.command(words), cwd=program.cwd, capture_output=True, text=True, check=False)


def test_a_module_of_a_package_runs(tree: Tree) -> None:
    tree.script("", "setup.py")
    (Path(tree.paths.code) / "pkg").mkdir()
    tree.script("import sys; print(__name__, sys.argv[1:])", "pkg/cli.py")
    for name in ("pkg.cli", "pkg/cli.py"):
        assert run(find(tree, sagemaker_program=name), "-x", "$1").stdout == "__main__ ['-x', '$1']\n"


def test_a_function_runs_and_its_value_is_no_exit_code(tree: Tree) -> None:
    tree.script(
        "import sys\nclass Job:\n    @staticmethod\n    def main():\n        print(sys.argv)\n        return 7\n"
        "def fail():\n    sys.exit(5)\n",
        "work.py",
    )
    done = run(find(tree, sagemaker_program="work:Job.main"), "--lr", "1")
    assert (done.returncode, done.stdout) == (0, "['work:Job.main', '--lr', '1']\n"), done.stderr
    assert run(find(tree, sagemaker_program="work:fail")).returncode == 5


def test_the_environment_names_a_program_and_the_hyperparameter_wins(tree: Tree) -> None:
    assert find(tree, {"SAGEMAKER_PROGRAM": "env.py"}).name == "env.py"
    assert find(tree, {"SAGEMAKER_PROGRAM": "env.py"}, sagemaker_program="hp.py").name == "hp.py"


def test_no_program_says_both_ways_to_name_one(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"names no program.*sagemaker_program.*slipway_entrypoint.*Fix: .*workloads"):
        find(tree)


def test_a_processing_job_without_an_entrypoint_says_what_it_is(tree: Tree) -> None:
    config = Path(tree.paths.base, "config")
    config.mkdir(parents=True)
    (config / "processingjobconfig.json").write_text("{}")
    with pytest.raises(UserError, match=r"is a processing job.*default command is `train`.*Fix: .*entrypoint="):
        find(tree)


@pytest.mark.parametrize(
    "environ",
    [
        {"LOCAL_RANK": "1", "RANK": "1", "TORCHELASTIC_RUN_ID": "none"},
        {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
    ],
)
def test_train_is_no_rank_of_another_launcher(tree: Tree, environ: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"(torchrun|mpirun) has started this `train` as a rank.*once per host"):
        find(tree, environ, sagemaker_program="train.py")
    assert find(tree, {"RANK": "0", "WORLD_SIZE": "1"}, sagemaker_program="train.py").name == "train.py"


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


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.py", "a/../../x.py", "./x.py", "a//x.py", "..:main"])
def test_a_program_outside_the_code_directory_is_refused(tree: Tree, name: str) -> None:
    with pytest.raises(UserError, match="inside the code directory"):
        find(tree, sagemaker_program=name)


@pytest.mark.parametrize(
    "name", ["-x.py", "+x.py", "a b.py", "x;id.py", "ü.py", "x.py\n", "$HOME.py", "m:f()", "m:", "m:1"]
)
def test_a_name_that_no_program_can_have_is_refused(tree: Tree, name: str) -> None:
    with pytest.raises(UserError, match=r"sagemaker_program is .*letters, digits.*rename the file"):
        find(tree, sagemaker_program=name)


@pytest.mark.parametrize(
    ("hyperparameter", "variable", "source"),
    [
        ('"s3://b/k.tar.gz"', "", "s3://b/k.tar.gz"),
        ("/src", "/elsewhere", "/src"),
        ("", "/elsewhere", "/elsewhere"),
        ("", "", None),
        ("{code}", "", None),
        ("file://{code}/", "", None),
    ],
)
def test_where_the_code_comes_from(tree: Tree, hyperparameter: str, variable: str, source: str | None) -> None:
    told = {"sagemaker_submit_directory": hyperparameter.replace("{code}", tree.paths.code)} if hyperparameter else {}
    environ = {"SAGEMAKER_SUBMIT_DIRECTORY": variable} if variable else {}
    assert find(tree, environ, sagemaker_program="a.py", **told).submit_directory == source


def test_the_code_channel_is_the_source_under_network_isolation(tree: Tree) -> None:
    tree.config("inputdataconfig", {"code": {"TrainingInputMode": "File"}})
    assert find(tree, sagemaker_program="a.py").submit_directory == f"{tree.paths.data}/code"


UNDER_SCRIPT = {"SM_INPUT_DATA_DIR": "/opt/ml/input/data", "SM_SOURCE_DIR": "/opt/ml/input/data/code"}


def test_sdk_v3_runs_where_the_code_channel_is(tree: Tree) -> None:
    tree.drivers(source_dir="src", entry_script="train.py")
    program = find(tree)
    assert (program.name, program.cwd) == ("train.py", f"{tree.paths.data}/code")
    assert program.submit_directory is None
    assert program.origin == "SourceCode.entry_script=train.py"


def test_a_setup_py_of_sdk_v3_makes_no_package(tree: Tree) -> None:
    tree.drivers(source_dir="src", entry_script="train.py")
    tree.channel("code", setup__py="", train__py="")
    assert find(tree).kind == "script"


def test_train_as_the_command_of_sdk_v3_takes_the_program_from_the_job(tree: Tree) -> None:
    tree.drivers(source_dir="src", command="exec train")
    program = find(tree, UNDER_SCRIPT, sagemaker_program="train.py")
    assert (program.name, program.cwd) == ("train.py", f"{tree.paths.data}/code")
    assert program.drivers is not None
    assert program.drivers.under_script
    ours = find(tree, UNDER_SCRIPT, slipway_entrypoint="image_classification")
    assert ours.path == workloads()["image_classification"]


def test_an_archive_of_sdk_v3_is_brought_unless_its_script_has_done_so(tree: Tree) -> None:
    tree.drivers(source_dir="s3://bucket/src.tar.gz", entry_script="train.py")
    assert find(tree).submit_directory == f"{tree.paths.data}/code"
    assert find(tree, UNDER_SCRIPT).cwd == f"{tree.paths.data}/code"


def test_two_programs_of_sdk_v3_are_named(tree: Tree) -> None:
    tree.drivers(source_dir="src", entry_script="a.py")
    with pytest.raises(UserError, match=r"two programs: sagemaker_program='b.py' and SourceCode.entry_script='a.py'"):
        find(tree, sagemaker_program="b.py")
    assert find(tree, sagemaker_program="a.py").name == "a.py"


@pytest.mark.parametrize(
    ("distributed", "launcher", "processes"),
    [
        ({}, "script", 0),
        ({"process_count_per_node": 2, "smp": None}, "torchrun", 2),
        ({"process_count_per_node": None, "smp": None}, "torchrun", 0),
        ({"process_count_per_node": 4, "mpi_additional_options": None}, "mpi", 4),
        ({"my_field": 1}, "custom", 0),
    ],
)
def test_what_sdk_v3_distributes(tree: Tree, distributed: object, launcher: str, processes: int) -> None:
    tree.drivers(distributed, source_dir="src", entry_script="a.py")
    found = find(tree).drivers
    assert found is not None
    assert (found.launcher, found.processes) == (launcher, processes)
    assert bool(found.distributed) is bool(distributed)


@pytest.mark.parametrize(
    "distributed", [{"process_count_per_node": "8"}, {"process_count_per_node": -1}, {"mpi_additional_options": [1]}]
)
def test_a_field_of_another_type_is_named(tree: Tree, distributed: object) -> None:
    tree.drivers(distributed, source_dir="src", entry_script="a.py")
    with pytest.raises(UserError, match=r"distributed\.json: '(process_count_per_node|mpi_additional_options)' is"):
        find(tree)


@pytest.mark.parametrize(("file", "text"), [("sourcecode", "{"), ("sourcecode", "[]"), ("distributed", "3")])
def test_a_broken_driver_channel_is_named(tree: Tree, file: str, text: str) -> None:
    tree.drivers(source_dir="src", entry_script="a.py")
    tree.channel("sm_drivers", **{f"{file}__json": text})
    with pytest.raises(UserError, match=rf"{file}\.json (is not JSON|holds)"):
        find(tree)
