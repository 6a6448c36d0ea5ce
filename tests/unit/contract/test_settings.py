"""Our own settings: precedence, origins, ranges, unknown names."""

import json
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.contract.settings import NAMES, Settings, resolve


def no_image(**environ: str) -> dict[str, str]:
    return {"SLIPWAY_IMAGE_FILE": "/nonexistent/image.json", **environ}


def image(tmp_path: Path, value: object) -> dict[str, str]:
    file = tmp_path / "image.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return {"SLIPWAY_IMAGE_FILE": str(file)}


def test_defaults_have_the_origin_default() -> None:
    settings = resolve({}, no_image())
    assert settings == Settings()
    assert {settings.origin(name) for name in NAMES} == {"default"}


def test_hyperparameter_beats_environment_beats_image_beats_default(tmp_path: Path) -> None:
    environ = image(tmp_path, {"settings": {"silence_s": 20, "sample": 5, "max_steps": 7}})
    environ |= {"SLIPWAY_SILENCE_S": "30", "SLIPWAY_SAMPLE": "6"}
    settings = resolve({"slipway_silence_s": "40"}, environ)
    assert (settings.silence_s, settings.origin("silence_s")) == (40.0, "hyperparameter slipway_silence_s")
    assert (settings.sample, settings.origin("sample")) == (6, "SLIPWAY_SAMPLE")
    assert (settings.max_steps, settings.origin("max_steps")) == (7, "image default")
    assert settings.origin("end_wait_s") == "default"


@pytest.mark.parametrize("text", ["8", '"8"'])
def test_values_may_be_json_encoded_or_plain(text: str) -> None:
    assert resolve({"slipway_sample": text}, no_image()).sample == 8


@pytest.mark.parametrize(("word", "value"), [("off", False), ("No", False), ("0", False), ("on", True), ("TRUE", True)])
def test_switches(word: str, value: bool) -> None:
    assert resolve({"slipway_profile": word}, no_image()).profile is value


def test_a_switch_of_an_image_may_be_json(tmp_path: Path) -> None:
    assert resolve({}, image(tmp_path, {"settings": {"profile": False}})).profile is False


@pytest.mark.parametrize(
    ("hyperparameters", "environ", "words"),
    [
        ({"slipway_silense_s": "1"}, {}, ["hyperparameter 'slipway_silense_s'", "Did you mean 'slipway_silence_s'?"]),
        ({}, {"SLIPWAY_SILENSE_S": "1"}, ["environment variable SLIPWAY_SILENSE_S", "'slipway_silence_s'"]),
        ({"slipway_": "1"}, {}, ["hyperparameter 'slipway_'"]),
        ({"slipway_origins": "1"}, {}, ["hyperparameter 'slipway_origins'"]),
        ({"slipway_state_dir": "/x"}, {}, ["hyperparameter 'slipway_state_dir'"]),
    ],
)
def test_unknown_names_are_errors(hyperparameters: dict[str, str], environ: dict[str, str], words: list[str]) -> None:
    with pytest.raises(UserError, match="Unknown setting") as caught:
        resolve(hyperparameters, no_image(**environ))
    for word in [*words, "Fix: `slipway plan --settings`"]:
        assert word in str(caught.value)


def test_an_unknown_name_of_the_image_is_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="image default 'strateg'"):
        resolve({}, image(tmp_path, {"settings": {"strateg": "ddp"}}))


def test_our_wiring_is_no_setting() -> None:
    wiring = {"SLIPWAY_HOST_ADDRESSES": "a=b", "SLIPWAY_STATE_DIR": "/x", "SLIPWAY_HOST": "algo-1"}
    assert resolve({}, no_image(**wiring)) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("silence_s", "soon", "it is a number"),
        ("sample", "3.5", "it is an integer"),
        ("sample", "", "it is an integer"),
        ("profile", "maybe", "it is on or off"),
        ("strategy", "fsdp3", "it is one of auto, ddp"),
        ("resume", "on", "it is one of auto, off"),
        ("silence_s", "0", "it is at least 1"),
        ("silence_s", "-5", "it is at least 1"),
        ("keep_checkpoints", "0", "it is at least 1"),
        ("sample", "-1", "it is at least 0"),
        ("max_steps", "-1", "it is at least 0"),
        ("master_port", "0", "1..65535"),
        ("peer_port", "65536", "1..65535"),
    ],
)
@pytest.mark.parametrize("way", ["hyperparameter", "environment"])
def test_a_value_that_does_not_fit_is_named_with_its_origin(name: str, text: str, allowed: str, way: str) -> None:
    in_environment = way == "environment"
    environ = no_image(**({f"SLIPWAY_{name.upper()}": text} if in_environment else {}))
    with pytest.raises(UserError) as caught:
        resolve({} if in_environment else {f"slipway_{name}": text}, environ)
    assert f"slipway_{name} is " in str(caught.value)
    assert allowed in str(caught.value)
    origin = f"SLIPWAY_{name.upper()}" if way == "environment" else f"hyperparameter slipway_{name}"
    assert f"(from {origin})" in str(caught.value)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(
    "name", ["silence_s", "host_wait_s", "end_wait_s", "stop_grace_s", "rendezvous_s", "metrics_every_s"]
)
def test_every_wait_has_an_end(name: str, text: str) -> None:
    """`nan` compares false with every limit, and `inf` would be a wait for ever."""
    with pytest.raises(UserError, match=f"slipway_{name} is "):
        resolve({f"slipway_{name}": text}, no_image())


@pytest.mark.parametrize("content", ["{", "\x00"])
def test_a_broken_image_file_is_named(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"image.json \(the image's defaults\) cannot be read"):
        resolve({}, image(tmp_path, content))


@pytest.mark.parametrize("value", [[], {"settings": [1]}, {"settings": "x"}])
def test_an_image_file_of_another_shape_is_named(tmp_path: Path, value: object) -> None:
    with pytest.raises(UserError, match=r"image.json \(the image's defaults\) cannot be read"):
        resolve({}, image(tmp_path, value))


def test_an_image_without_settings_is_fine(tmp_path: Path) -> None:
    assert resolve({}, image(tmp_path, {"name": "pytorch"})) == Settings()
