"""Text to typed arguments: strict, lossless, all faults in one message."""

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from runtime.base.errors import UserError
from runtime.binding import bind, convert, from_argv
from runtime.contract.hyperparameters import is_reserved, unquote
from runtime.contract.job import read_job
from tests.conftest import Tree


class Precision(enum.Enum):
    BF16 = "bf16"
    FP32 = "fp32"


@pytest.mark.parametrize("case", ["framework_estimator", "boto3", "model_trainer"])
def test_every_client_gives_the_same_arguments(tree: Tree, case: str) -> None:
    def train(
        run: object, commit: str, lr: float, note: str, layers: list[int], nesterov: bool, warmup: int | None = 5
    ) -> None: ...

    tree.golden(f"hyperparameters_{case}")
    assert bind(train, read_job(tree.paths, {}).hyperparameters) == {
        "commit": "1234e5",
        "lr": 0.1,
        "note": 'it\'s a "test"',
        "layers": [1, 2],
        "nesterov": True,
        "warmup": None,
    }


@pytest.mark.parametrize(
    "text", ["1234e5", "0123", "1e400", "true", "null", "", " spaced ", "[1, 2]", '{"a": 1}', "NaN", "ü", '"', '"half']
)
def test_a_string_stays_what_it_was(text: str) -> None:
    assert convert(text, str) == text


@pytest.mark.parametrize("text", ['"', '"a', "", "null", "1234e5", 'say "hi"', '"quoted"', "back\\slash", "\n"])
def test_json_encoding_of_a_string_is_undone_exactly_once(text: str) -> None:
    import json

    assert unquote(json.dumps(text)) == text
    assert convert(json.dumps(text), str) == text


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", int, 3),
        ("-3", int, -3),
        ('"3"', int, 3),
        ("3", float, 3.0),
        ("1e-3", float, 0.001),
        ("true", bool, True),
        ("False", bool, False),
        ("0", bool, False),
        ("/a/b", Path, Path("/a/b")),
        ("null", int | None, None),
        ("None", int | None, None),
        ("", int | None, None),
        ("7", int | None, 7),
        ('"None"', str | None, "None"),
        ("7", int | str, 7),
        ("seven", int | str, "seven"),
        ("7", str | int, 7),
        ("b", Literal["a", "b"], "b"),
        ("2", Literal[1, 2], 2),
        ("true", Literal[True, "auto"], True),
        ("auto", Literal[True, "auto"], "auto"),
        ("BF16", Precision, Precision.BF16),
        ("3", Annotated[int, "at least 1"], 3),
        ("[1, 2]", list[int], [1, 2]),
        ('["a", "b"]', list[str], ["a", "b"]),
        ("[1, 2.5]", list[float], [1.0, 2.5]),
        ("[true, null]", list[bool | None], [True, None]),
        ("[1, 2]", tuple[int, ...], (1, 2)),
        ('[1, "x"]', tuple[int, str], (1, "x")),
        ("[[1], [2, 3]]", list[list[int]], [[1], [2, 3]]),
        ("[1]", Sequence[int], [1]),
        ('[1, "a"]', list, [1, "a"]),
        ('{"a": 1}', dict[str, int], {"a": 1}),
        ('{"a": {"b": 1}}', Mapping[str, Any], {"a": {"b": 1}}),
        ("1234e5", Any, "1234e5"),
    ],
)
def test_conversions(text: str, kind: object, value: object) -> None:
    found = convert(text, kind)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("3.7", int, "an integer"),
        ("3.0", int, "an integer"),
        ("true", int, "an integer"),
        ("", int, "an integer"),
        ("fast", float, "a number"),
        ("no", bool, "a boolean (true or false)"),
        ("yes", bool, "a boolean (true or false)"),
        ("2", bool, "a boolean (true or false)"),
        ("x", int | None, "an integer"),
        ("x", int | bool, "an integer or a boolean (true or false)"),
        ("c", Literal["a", "b"], "one of 'a', 'b'"),
        ("fp16", Precision, "one of BF16, FP32"),
        ("[1, 2.5]", list[int], "an integer"),
        ("1, 2", list[int], "a JSON list"),
        ('{"a": 1}', list[int], "a JSON list"),
        ("[1]", dict[str, int], "a JSON object"),
        ("[1, 2, 3]", tuple[int, int], "a JSON list of 2 items"),
        ("[1]", tuple[int, int], "a JSON list of 2 items"),
        ('{"a": "x"}', dict[str, int], "an integer"),
        ("x", set[int], "the annotation set[int] is not supported"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, kind: object, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        convert(text, kind)
    assert words in str(caught.value)


def test_items_of_a_list_are_lossless_too() -> None:
    """An item that itself wears quotes, and an item that is the word null."""
    assert convert(r'["\"a\"", "null", "1234e5"]', list[str]) == ['"a"', "null", "1234e5"]
    assert convert('["null", null]', list[str | None]) == ["null", None]


def test_infinity_is_a_number_for_who_wants_no_limit() -> None:
    assert convert("inf", float) == math.inf
    assert convert("Infinity", float) == math.inf


def test_all_faults_come_in_one_message_with_a_way_out() -> None:
    def train(run: object, epochs: int, lr: float = 0.1, *, wide: bool = False) -> None: ...

    with pytest.raises(UserError) as caught:
        bind(train, {"lr": '"fast"', "wide": "no", "epoch": "3", "sagemaker_program": "x.py", "slipway_sample": "8"})
    text = str(caught.value)
    assert "Hyperparameter 'epochs' is missing and has no default." in text
    assert "Hyperparameter 'lr' is 'fast', which is not a number." in text
    assert "Hyperparameter 'wide' is 'no', which is not a boolean (true or false)." in text
    assert "Unknown hyperparameter 'epoch'. Choices: 'epochs', 'lr', 'wide'. Did you mean 'epochs'?" in text
    assert "sagemaker" not in text
    assert "slipway" not in text
    assert "Fix: set them as " in text


def test_dashes_are_underscores_and_defaults_stay_away() -> None:
    def train(run: object, batch_size: int = 8, lr: float = 0.1) -> None: ...

    assert bind(train, {"batch-size": "16"}) == {"batch_size": 16}


def test_keywords_without_a_name_take_the_rest_as_text() -> None:
    def train(run: object, lr: float = 0.1, **others: str) -> None: ...

    assert bind(train, {"lr": "1", "x": '"1234e5"', "y": "2", "sagemaker_region": "eu"}) == {
        "lr": 1.0,
        "x": "1234e5",
        "y": "2",
    }


def test_annotations_as_text_are_evaluated() -> None:
    def train(run: "Nowhere", lr: "float" = 0.1) -> None: ...  # noqa: F821 # pyright: ignore

    with pytest.raises(UserError, match=r"annotations of .*train\(\) cannot be evaluated.*Nowhere.*import the names"):
        bind(train, {"lr": "1"})


@dataclass
class Optimizer:
    lr: float
    momentum: float = 0.9
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])


def test_a_dataclass_takes_its_fields() -> None:
    def train(run: object, optimizer: Optimizer, epochs: int = 1) -> None: ...

    assert bind(train, {"lr": "0.5", "epochs": "2", "betas": "[1]"}) == {
        "optimizer": Optimizer(0.5, betas=[1.0]),
        "epochs": 2,
    }
    with pytest.raises(UserError, match=r"'lr' is missing.*Unknown hyperparameter 'momentun'.*Did you mean 'momentum'"):
        bind(train, {"momentun": "1"})


def test_a_dataclass_given_as_default_keeps_its_values() -> None:
    def train(run: object, optimizer: Optimizer = Optimizer(lr=0.3, momentum=0.5)) -> None: ...  # noqa: B008

    assert bind(train, {}) == {"optimizer": Optimizer(0.3, 0.5)}
    assert bind(train, {"momentum": "0.7"}) == {"optimizer": Optimizer(0.3, 0.7)}


@pytest.mark.parametrize(
    ("name", "reserved"),
    [
        ("sagemaker_program", True),
        ("slipway_sample", True),
        ("_tuning_objective_metric", True),
        ("default_user_module_name", True),
        ("sage", False),
        ("mp_parameters", False),
    ],
)
def test_reserved_names(name: str, reserved: bool) -> None:
    assert is_reserved(name) is reserved


def test_the_command_line_of_a_laptop() -> None:
    words = ["--lr", "-0.1", "--wide", "--epochs=3", "--name=a=b", "--last"]
    assert from_argv(words, ["--lr"]) == {"lr": "-0.1", "wide": "true", "epochs": "3", "name": "a=b", "last": "true"}
    assert from_argv([], []) == {}
    with pytest.raises(UserError, match=r"'train' belongs to no option.*options: --lr, --epochs"):
        from_argv(["train"], ["--lr", "--epochs"])


def test_an_enum_takes_names_and_values() -> None:
    import enum

    class Colour(enum.Enum):
        BLUE = "blue"

    assert convert("BLUE", Colour) is Colour.BLUE
    assert convert("blue", Colour) is Colour.BLUE
    with pytest.raises(ValueError, match="one of BLUE"):
        convert("green", Colour)
