"""SM_* variables, against what the toolkits of the service do; the toolkit itself is asked in tests/differential."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.base.errors import UserError
from runtime.contract.job import Job, read_job
from runtime.contract.settings import Settings
from runtime.planning.hardware import Hardware
from runtime.planning.program import Program
from runtime.planning.toolkit import STRING_BYTES, View, fit, view, write_unfit
from runtime.planning.topology import arrange
from tests.conftest import Tree

MACHINE = Hardware(cpus=8, memory_bytes=1, accelerators=2, accelerator_kind="nvidia")


def job_with(tree: Tree, **hyperparameters: str) -> Job:
    tree.hyperparameters(**hyperparameters)
    return read_job(tree.paths, {})


def see(job: Job, environ: dict[str, str] | None = None, name: str = "user.py", **settings: Any) -> View:
    program = Program(name, job.paths.code, "test")
    return view(job, arrange(job, 1), MACHINE, Settings(**settings), program, environ or {})


def sm(job: Job, environ: dict[str, str] | None = None, **settings: Any) -> dict[str, str]:
    return dict(see(job, environ, **settings).variables)


def test_hyperparameters_appear_in_both_spellings(tree: Tree) -> None:
    values = sm(job_with(tree, **{"batch-size": "8", "nesterov": "true", "warmup": "null", "layers": "[1, 2]"}))
    assert values["SM_HP_BATCH-SIZE"] == values["SM_HP_BATCH_SIZE"] == "8"
    assert (values["SM_HP_NESTEROV"], values["SM_HP_WARMUP"], values["SM_HP_LAYERS"]) == ("true", "null", "[1,2]")
    assert sm(job_with(tree, sagemaker_program='"by-an-sdk.py"', warmup="null"))["SM_HP_WARMUP"] == ""
    assert json.loads(values["SM_HPS"]) == {"batch-size": 8, "layers": [1, 2], "nesterov": True, "warmup": None}


def test_the_world_as_scripts_of_the_toolkit_read_it(tree: Tree) -> None:
    tree.golden("resourceconfig_service_twelve_hosts", "inputdataconfig_service")
    values = sm(read_job(tree.paths, {}))
    assert json.loads(values["SM_HOSTS"]) == [f"algo-{n}" for n in range(1, 13)]
    assert (values["SM_CURRENT_HOST"], values["SM_CURRENT_HOST_RANK"], values["SM_HOST_COUNT"]) == (
        "algo-10",
        "9",
        "12",
    )
    assert (values["SM_NUM_GPUS"], values["SM_NUM_CPUS"], values["SM_CURRENT_INSTANCE_TYPE"]) == (
        "2",
        "8",
        "ml.p4d.24xlarge",
    )
    assert json.loads(values["SM_CHANNELS"]) == ["stream", "train"]
    assert values["SM_CHANNEL_TRAIN"] == str(Path(tree.paths.data) / "train")
    assert json.loads(values["SM_INPUT_DATA_CONFIG"])["train"]["TrainingInputMode"] == "FastFile"
    assert json.loads(values["SM_RESOURCE_CONFIG"])["network_interface_name"] == "eth0"
    assert (values["SM_MODULE_NAME"], values["SM_USER_ENTRY_POINT"], values["SM_IS_HETERO"]) == (
        "user",
        "user.py",
        "false",
    )


def test_groups_as_scripts_of_the_toolkit_read_them(tree: Tree) -> None:
    tree.golden("resourceconfig_heterogeneous")
    values = sm(read_job(tree.paths, {}))
    assert values["SM_IS_HETERO"] == "true"
    assert json.loads(values["SM_INSTANCE_GROUPS"]) == ["trainers", "feeders"]
    assert json.loads(values["SM_CURRENT_INSTANCE_GROUP_HOSTS"]) == ["algo-2", "algo-3"]
    assert json.loads(values["SM_DISTRIBUTION_INSTANCE_GROUPS"]) == ["trainers"]


@pytest.mark.parametrize("case", ["hyperparameters_framework_estimator", "resourceconfig_old_local_mode"])
def test_every_value_can_be_an_environment_variable(tree: Tree, case: str) -> None:
    tree.golden(case)
    for name, value in sm(read_job(tree.paths, {})).items():
        assert "=" not in name
        assert isinstance(value, str)
        assert "\0" not in value


def test_the_exact_name_wins_over_the_readable_spelling_of_another(tree: Tree) -> None:
    values = sm(job_with(tree, **{"a_b": "exact", "a-b": "dashed", "A-c": "1"}))
    assert (values["SM_HP_A_B"], values["SM_HP_A-B"], values["SM_HP_A_C"]) == ("exact", "dashed", "1")


def test_the_files_are_passed_on_as_they_are(tree: Tree) -> None:
    tree.golden("resourceconfig_ultraserver", "inputdataconfig_local_mode")
    values = sm(read_job(tree.paths, {}))
    config = tree.paths.config
    for name, file in (("SM_RESOURCE_CONFIG", "resourceconfig"), ("SM_INPUT_DATA_CONFIG", "inputdataconfig")):
        assert json.loads(values[name]) == json.loads(Path(config, f"{file}.json").read_text())
    assert json.loads(values["SM_TOPOLOGY"])[0].keys() == {"hostName", "capacityUnitId"}


def test_a_job_without_files_has_every_variable_all_the_same(tree: Tree) -> None:
    bare, full = sm(read_job(tree.paths, {})), sm(job_with(tree))
    assert bare.keys() == full.keys()
    assert (bare["SM_NETWORK_INTERFACE_NAME"], bare["SM_CURRENT_INSTANCE_TYPE"]) == ("eth0", "local")


@pytest.mark.parametrize(
    ("hyperparameters", "environ", "level"),
    [
        ({}, {}, "20"),
        ({"sagemaker_container_log_level": "10"}, {"SAGEMAKER_CONTAINER_LOG_LEVEL": "40"}, "10"),
        ({}, {"SAGEMAKER_CONTAINER_LOG_LEVEL": "40"}, "40"),
    ],
)
def test_the_log_level(tree: Tree, hyperparameters: dict[str, str], environ: dict[str, str], level: str) -> None:
    assert sm(job_with(tree, **hyperparameters), environ)["SM_LOG_LEVEL"] == level


def test_the_first_distribution_host_is_the_master_of_sdk_v3s_variables(tree: Tree) -> None:
    tree.golden("resourceconfig_heterogeneous")
    values = sm(job_with(tree, sagemaker_distribution_instance_groups='["trainers"]'))
    assert (values["SM_MASTER_ADDR"], values["SM_MASTER_PORT"]) == ("algo-2", "7777")
    assert json.loads(values["SM_TRAINING_ENV"])["master_addr"] == "algo-2"


def test_a_variable_that_no_program_can_be_started_with_is_in_a_file(tree: Tree) -> None:
    many = {f"p{n}": "x" * 2400 for n in range(100)}
    job = job_with(tree, **many, **{"a=b": "1", "zero": "a\0b"})
    found = see(job, argv_dialect="none")
    assert {"SM_HPS", "SM_TRAINING_ENV", "SM_HP_A=B", "SM_HP_ZERO"} == set(found.unfit)
    write_unfit(job, found.unfit)
    place = found.variables["SM_HPS_FILE"]
    assert len(json.loads(Path(place).read_text())) == 102
    assert os.stat(place).st_mode & 0o777 == 0o600
    assert [note[0] for note in found.notes] == list(found.unfit)
    assert "SM_HPS_FILE" not in sm(job_with(tree, x="1"))


def test_what_fits_can_start_a_program_and_what_does_not_cannot() -> None:
    longest = "x" * (STRING_BYTES - len("N=") - 1)
    assert fit({"N": longest}) == ({"N": longest}, {})
    assert fit({"N": longest + "x"}) == ({}, {"N": longest + "x"})
    code = "import os; print(len(os.environ['N']))"
    started = subprocess.run([sys.executable, "-c", code], env={"N": longest}, capture_output=True, check=True)
    assert int(started.stdout) == len(longest)
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run([sys.executable, "-c", code], env={"N": longest + "x"}, check=True)


@pytest.mark.parametrize(("value", "dialect"), [("x" * 140_000, "toolkit"), ("a\0b", "v3"), ("\ud800", "lossless")])
def test_an_argument_that_cannot_be_passed_is_named(tree: Tree, value: str, dialect: str) -> None:
    job = job_with(tree, ok="1", big=value)
    with pytest.raises(UserError, match=r"Hyperparameter 'big' cannot be an argument.*slipway_argv_dialect=none"):
        see(job, argv_dialect=dialect)


def test_what_the_toolkits_dialect_damages_is_noted(tree: Tree) -> None:
    job = job_with(tree, sha="1234e5", lr="0.1")
    assert see(job).notes == ()
    ((name, value, reason),) = see(job, argv_dialect="toolkit").notes
    assert (name, value) == ("argv_dialect", "toolkit")
    assert "sha='1234e5' as '123400000.0'" in reason
    assert "lr" not in reason
