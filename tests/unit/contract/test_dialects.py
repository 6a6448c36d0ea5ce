"""How hyperparameters are spelt; the SageMaker toolkit itself is asked in tests/differential."""

import json

import pytest

from runtime.contract.dialects import arguments, is_encoded, respelt, typed, values
from runtime.contract.job import read_job
from tests.conftest import Tree


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
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("[" * 2400, "[" * 2400),
    ],
)
def test_the_typed_view_never_loses_a_digit(text: str, value: object) -> None:
    assert typed(text) == value
    assert type(typed(text)) is type(value)


ENCODED = {"sagemaker_program": '"train.py"'}
PLAIN = {"sagemaker_program": "train.py"}


@pytest.mark.parametrize(
    ("hyperparameters", "encoded"),
    [
        (ENCODED, True),
        (PLAIN, False),
        ({"a": '"x"', "b": "1"}, True),
        ({"a": "x", "b": "1"}, False),
        ({}, False),
        ({**PLAIN, "a": '"quoted by its user"'}, False),
    ],
)
def test_who_wrote_the_file_shows(hyperparameters: dict[str, str], encoded: bool) -> None:
    assert is_encoded(hyperparameters) is encoded


DAMAGE = [
    # text, from a framework estimator, from a console, the toolkit's word
    ("1234e5", "1234e5", "1234e5", "123400000.0"),
    ("null", "", "null", ""),
    ("true", "True", "true", "True"),
    ("NaN", "NaN", "NaN", "nan"),
    ("1e-4", "1e-4", "1e-4", "0.0001"),
    ('{"a": {"b": 1}}', '{"a": {"b": 1}}', '{"a": {"b": 1}}', "a={'b': 1}"),
    ('{"a": 1, "b": 2}', "a=1,b=2", '{"a": 1, "b": 2}', "a=1,b=2"),
    ('["a"]', "['a']", '["a"]', "['a']"),
    ("007", "007", "007", "007"),
    ('"1234e5"', "1234e5", "1234e5", "1234e5"),
    ("$HOME; `id`", "$HOME; `id`", "$HOME; `id`", "$HOME; `id`"),
]


@pytest.mark.parametrize(("text", "from_estimator", "from_console", "damaged"), DAMAGE)
def test_strings_stay_strings_and_the_toolkits_dialect_gives_the_toolkits_words(
    text: str, from_estimator: str, from_console: str, damaged: str
) -> None:
    assert arguments({**ENCODED, "value": text}, "lossless") == ("--value", from_estimator)
    assert arguments({**PLAIN, "value": text}, "lossless") == ("--value", from_console)
    for writer in (ENCODED, PLAIN):
        assert arguments({**writer, "value": text}, "toolkit") == ("--value", damaged)


@pytest.mark.parametrize("case", ["framework_estimator", "boto3"])
def test_real_files_in_the_toolkits_dialect(tree: Tree, case: str) -> None:
    tree.golden(f"hyperparameters_{case}")
    held = read_job(tree.paths, {}).hyperparameters
    words = list(arguments(held, "toolkit"))
    commit = "1234e5" if case == "framework_estimator" else "123400000.0"
    assert words[:2] == ["--commit", commit]
    expected = '--layers [1,_2] --lr 0.1 --nesterov True --note it\'s_a_"test" --warmup'
    assert words[2:] == [*[word.replace("_", " ") for word in expected.split(" ")], ""]


def test_reserved_names_never_reach_the_script(tree: Tree) -> None:
    tree.golden("hyperparameters_framework_estimator")
    held = read_job(tree.paths, {}).hyperparameters
    assert set(values(held, "lossless")) == {"commit", "layers", "lr", "nesterov", "note", "warmup"}
    for dialect in ("toolkit", "lossless", "v3", "json"):
        assert "sagemaker" not in " ".join(arguments(held, dialect))


def test_our_own_settings_never_reach_the_script_in_any_dialect() -> None:
    for dialect in ("toolkit", "lossless", "v3", "none"):
        assert arguments({"slipway_sample": "3", "_tuning_objective_metric": "x"}, dialect) == ()
    assert arguments({"slipway_sample": "3"}, "json") == ("{}",)


def test_the_dialect_of_sdk_v3_keeps_the_order_and_spells_json() -> None:
    held = {"z": "1", "on": "true", "none": "null", "items": '["a"]', "k": "v", "map": '{"b": 1}', "sha": "1234e5"}
    words = ["--z", "1", "--on", "true", "--none", "null", "--items", '["a"]', "--k", "v", "--map", '{"b": 1}']
    assert list(arguments(held, "v3")) == [*words, "--sha", "1234e5"]


def test_one_argument_with_the_whole_map() -> None:
    (word,) = arguments({"lr": "0.1", "commit": "1234e5", "x": "NaN"}, "json")
    assert json.loads(word, parse_constant=lambda found: pytest.fail(f"{found} is no JSON")) == {
        "lr": 0.1, "commit": "1234e5", "x": "NaN",
    }  # fmt: skip
    assert arguments({"lr": "0.1"}, "none") == ()


def test_what_the_toolkits_dialect_damages_is_told() -> None:
    held = {**ENCODED, "sha": "1234e5", "lr": "0.1", "on": "true", "name": '"x"'}
    assert respelt(held) == {"sha": "123400000.0"}


def test_a_tuning_job_mixes_encoded_and_plain_values(tree: Tree) -> None:
    tree.golden("hyperparameters_tuning_job")
    held = read_job(tree.paths, {}).hyperparameters
    words = ["--commit", "1234e5", "--epochs", "10", "--lr", "0.0007312856321", "--optimizer", "adam", "--width", "128"]
    assert list(arguments(held, "lossless")) == list(arguments(held, "toolkit")) == words
