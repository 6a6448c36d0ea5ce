"""Hundreds of generated jobs through sagemaker-training 5.1.4 and through us: argv and environment are equal.

The deliberate deviations stand in deviations.py; anything else is a failure, and so is a deviation that never shows.
"""

import json
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.contract.paths import Paths
from runtime.launch.launcher import prepare
from tests.differential.corpus import Case, generate
from tests.differential.deviations import DEVIATIONS, Difference, as_markdown, explain, same
from tests.differential.oracle import ask, find_oracle

JOBS = 600
ROOT = Path(__file__).parents[2]
DIALECTS = ("toolkit", "lossless")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("differential") / "ml"


@pytest.fixture(scope="module")
def answers(base: Path) -> list[tuple[Case, dict[str, Any]]]:
    python, reason = find_oracle()
    if python is None:
        pytest.skip(reason)
    cases = list(generate(JOBS))
    told = ask(python, base, [case.as_json() for case in cases])
    assert [answer["error"] for answer in told if "error" in answer] == []
    return list(zip(cases, told, strict=True))


def write(case: Case, base: Path) -> None:
    config, code = base / "input/config", base / "code"
    for directory in (config, code):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    for name, text in case.files.items():
        (config / name).write_text(text, encoding="utf-8")
    for name in case.code:
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).touch()


def target(command: Sequence[str], count: int) -> tuple[tuple[str, str], list[str]]:
    """Take a command line apart into the program and what it gets, however it is started.

    Args:
        command: of either side.
        count: how many arguments the program gets.
    """
    if command[0] == "/bin/sh" and command[2].startswith("./"):  # theirs: one quoted line
        line = shlex.split(command[2])
        return ("command", line[0]), line[1:]
    head, words = list(command[: len(command) - count]), list(command[len(command) - count :])
    if command[0] == "/bin/sh":
        return ("command", head[3]), words
    return ("module" if "-m" in head else "script", head[-1]), words


def read(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return value


def differences(plan: Any, told: dict[str, Any], words: list[str]) -> list[Difference]:
    found: list[Difference] = []
    sides = zip(("program", "words"), target(plan.command, len(words)), target(told["argv"], len(words)), strict=True)
    found += [Difference(where, ours, theirs) for where, ours, theirs in sides if ours != theirs]
    for name, value in {**told["sm"], **told["environ"]}.items():
        mine = plan.environ.get(name)
        if name == "SM_TRAINING_ENV" and mine is not None:
            left, right = json.loads(mine), json.loads(value)
            found += [
                Difference(f"{name}.{key}", left.get(key, "absent"), held)
                for key, held in right.items()
                if not same(left.get(key, "absent"), held)
            ]
        elif mine != value and not (name in ("SM_HPS", "SM_RESOURCE_CONFIG") and same(read(mine or ""), read(value))):
            found.append(Difference(name, mine, value))
    return found


def environ_for(case: Case, base: Path, dialect: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(base),
        "SAGEMAKER_BASE_DIR": str(base),
        "SLIPWAY_IMAGE_FILE": str(base / "no-image.json"),
        "SLIPWAY_ARGV_DIALECT": dialect,
        "SLIPWAY_LAUNCHER": "own",
        **case.environ,
    }


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_job_gets_the_same_arguments_and_variables(
    answers: list[tuple[Case, dict[str, Any]]], base: Path, dialect: str
) -> None:
    unexplained: list[str] = []
    shown: Counter[str] = Counter()
    for case, told in answers:
        write(case, base)
        environ = environ_for(case, base, dialect)
        _, _, plan = prepare(Paths.from_environ(environ), environ)
        words = json.loads(plan.environ["SM_USER_ARGS"])
        for found in differences(plan, told, words):
            deviation = explain(case, found, dialect)
            if deviation is None:
                unexplained.append(f"job {case.number}: {found}")
            else:
                shown[deviation.what] += 1
    assert unexplained[:20] == []
    expected = {item.what for item in DEVIATIONS if item.explains is not None}
    if dialect == "toolkit":
        expected -= {DEVIATIONS[0].what}
    assert set(shown) == expected, "a deviation that no job shows is a claim that nobody checks"


def test_the_comparison_sees_a_wrong_variable_and_a_wrong_word(
    answers: list[tuple[Case, dict[str, Any]]], base: Path
) -> None:
    case, told = next((case, told) for case, told in answers if told["words"] and case.code == ("train.py",))
    write(case, base)
    environ = environ_for(case, base, "toolkit")
    _, _, plan = prepare(Paths.from_environ(environ), environ)
    before = [found for found in differences(plan, told, told["words"]) if not explain(case, found, "toolkit")]
    assert before == []
    for spoilt in (
        {**told, "sm": {**told["sm"], "SM_MODEL_DIR": "/elsewhere"}},
        {**told, "argv": [*told["argv"][:-1], "other"], "words": [*told["words"][:-1], "other"]},
    ):
        after = [found for found in differences(plan, spoilt, told["words"]) if not explain(case, found, "toolkit")]
        assert len(after) == 1


def test_the_document_prints_the_same_table() -> None:
    assert as_markdown() in (ROOT / "docs/01-contract.md").read_text(encoding="utf-8")
