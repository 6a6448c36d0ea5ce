"""SM_* variables and argv dialects, against what the toolkits of the service do."""

import json
from pathlib import Path

import pytest

from runtime.hardware import Hardware
from runtime.job import Job, read_job
from runtime.toolkit import arguments, sm_variables, typed, user_hyperparameters
from runtime.topology import arrange
from tests.conftest import Tree

MACHINE = Hardware(cpus=8, memory_bytes=1, accelerators=2, accelerator_kind="nvidia")


def job_with(tree: Tree, **hyperparameters: str) -> Job:
    tree.hyperparameters(**hyperparameters)
    return read_job(tree.paths, {})


def sm(job: Job) -> dict[str, str]:
    words = arguments(job, "toolkit")
    return sm_variables(job, arrange(job, 1), MACHINE, "user.py", words)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.1", 0.1),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("1234e5", "1234e5"),
        ("0.10", "0.10"),
        ("007", "007"),
        ("1e3", "1e3"),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_the_typed_view_never_loses_a_digit(text: str, value: object) -> None:
    assert typed(text) == value
    assert type(typed(text)) is type(value)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_stays_text(tree: Tree, text: str) -> None:
    assert typed(text) == text
    job = job_with(tree, x=text)
    assert arguments(job, "toolkit") == ("--x", text) or arguments(job, "toolkit") == ("-x", text)
    json.loads(sm(job)["SM_HPS"], parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_reserved_names_never_reach_the_script(tree: Tree) -> None:
    tree.golden("hyperparameters_framework_estimator")
    job = read_job(tree.paths, {})
    assert set(user_hyperparameters(job)) == {"commit", "layers", "lr", "nesterov", "note", "warmup"}
    assert "sagemaker" not in " ".join(arguments(job, "toolkit"))


@pytest.mark.parametrize("case", ["framework_estimator", "boto3"])
def test_the_toolkits_dialect(tree: Tree, case: str) -> None:
    tree.golden(f"hyperparameters_{case}")
    words = arguments(read_job(tree.paths, {}), "toolkit")
    expected = '--commit 1234e5 --layers [1,_2] --lr 0.1 --nesterov True --note it\'s_a_"test" --warmup'
    assert list(words) == [*[word.replace("_", " ") for word in expected.split(" ")], ""]


def test_the_dialect_of_sdk_v3_keeps_the_order_and_spells_json(tree: Tree) -> None:
    job = job_with(tree, z="1", on="true", none="null", items='["a"]', k="v", map='{"b": 1}')
    assert list(arguments(job, "v3")) == (
        ["--z", "1", "--on", "true", "--none", "null", "--items", '["a"]', "--k", "v", "--map", '{"b": 1}']
    )


def test_the_toolkit_spells_one_letter_with_one_dash_and_a_map_with_equal_signs(tree: Tree) -> None:
    job = job_with(tree, map='{"a": 1, "b": 2}', k="v", items='["a"]')
    assert list(arguments(job, "toolkit")) == ["--items", "['a']", "-k", "v", "--map", "a=1,b=2"]


def test_one_argument_with_the_whole_map(tree: Tree) -> None:
    job = job_with(tree, lr="0.1", commit="1234e5")
    (word,) = arguments(job, "json")
    assert json.loads(word) == {"lr": 0.1, "commit": "1234e5"}
    assert arguments(job, "none") == ()


def test_a_json_encoded_string_stays_a_string_in_argv(tree: Tree) -> None:
    job = job_with(tree, version='"3"', flag='"true"')
    assert arguments(job, "toolkit") == ("--flag", "true", "--version", "3")


def test_hyperparameters_appear_in_both_spellings(tree: Tree) -> None:
    values = sm(job_with(tree, **{"batch-size": "8", "nesterov": "true", "warmup": "null", "layers": "[1, 2]"}))
    assert values["SM_HP_BATCH-SIZE"] == values["SM_HP_BATCH_SIZE"] == "8"
    assert (values["SM_HP_NESTEROV"], values["SM_HP_WARMUP"], values["SM_HP_LAYERS"]) == ("true", "", "[1,2]")
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
    assert json.loads(values["SM_INSTANCE_GROUPS"]) == ["feeders", "trainers"]
    assert json.loads(values["SM_CURRENT_INSTANCE_GROUP_HOSTS"]) == ["algo-2", "algo-3"]
    assert json.loads(values["SM_DISTRIBUTION_INSTANCE_GROUPS"]) == ["trainers"]


@pytest.mark.parametrize("case", ["hyperparameters_framework_estimator", "resourceconfig_old_local_mode"])
def test_every_value_can_be_an_environment_variable(tree: Tree, case: str) -> None:
    tree.golden(case)
    for name, value in sm(read_job(tree.paths, {})).items():
        assert "=" not in name
        assert isinstance(value, str)
        assert "\0" not in value
