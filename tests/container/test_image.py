"""What the image is, without running a job."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from images.build import check_budget
from images.catalog import read_catalog
from tests.container.containers import IMAGE, Containers, must

pytestmark = pytest.mark.container

BYTE_CODE = """
import importlib.util, pathlib, runtime, torch, argparse
for module in (runtime, torch, argparse):
    flags = pathlib.Path(importlib.util.cache_from_source(module.__file__)).read_bytes()[4:8]
    print(module.__name__, int.from_bytes(flags, "little"))
"""
UNCHECKED = 1
"""Flags of a .pyc that is never compared with its source: PEP 552."""


@pytest.fixture(scope="module")
def facts() -> Mapping[str, Any]:
    return json.loads(must("image", "inspect", IMAGE))[0]


def test_train_is_the_command_and_there_is_no_entrypoint(containers: Containers, facts: Mapping[str, Any]):
    assert facts["Config"]["Cmd"] == ["train"]
    assert not facts["Config"]["Entrypoint"]


def test_labels_tell_what_it_was_built_from(containers: Containers, facts: Mapping[str, Any]):
    labels = facts["Config"]["Labels"]
    assert labels["slipway.image"] == "pytorch"
    assert labels["slipway.flavour"] == "cpu"
    assert len(labels["slipway.lock.sha256"]) == 64


def test_it_keeps_its_size_budget(containers: Containers, facts: Mapping[str, Any]):
    check_budget(IMAGE, facts["Size"] / 1e6, read_catalog().image("pytorch").flavour("cpu").max_mb)


def test_byte_code_is_ready_and_never_checked(containers: Containers):
    container = containers.run("python", "-c", BYTE_CODE, options=("--read-only",))
    assert container.exit_code() == 0, container.logs()
    assert container.logs().split() == [
        "runtime",
        str(UNCHECKED),
        "torch",
        str(UNCHECKED),
        "argparse",
        str(UNCHECKED),
    ]


def test_it_carries_no_cuda(containers: Containers):
    container = containers.run("sh", "-c", "find / -xdev -name 'libcud*.so*'")
    assert container.exit_code() == 0
    assert container.logs() == ""


def test_it_has_what_the_script_of_sdk_v3_looks_for(containers: Containers):
    words = "bash chmod cat tar python3 pip3 train torchrun"
    container = containers.run("sh", "-c", f"for word in {words}; do command -v $word || echo no $word; done")
    assert container.exit_code() == 0
    assert "no " not in container.logs()


def test_the_lock_that_requirements_are_held_to_is_the_installed_one(containers: Containers):
    container = containers.run(
        "sh", "-c", "pip3 freeze --exclude slipway && echo -- && cat /etc/slipway/constraints.txt"
    )
    assert container.exit_code() == 0
    installed, _, locked = container.logs().partition("--\n")

    def named(text: str) -> set[str]:
        return {line.strip().lower().replace("_", "-") for line in text.splitlines() if line.strip()}

    # pip leaves itself and setuptools out of its list.
    assert {line for line in named(locked) if not line.startswith("setuptools==")} == named(installed)


def test_uid_1000_has_a_name_and_writes_only_where_jobs_write(containers: Containers):
    places = "/opt/ml /opt/ml/model /opt/ml/output /opt/venv /etc"
    script = f"id -un; for place in {places}; do test -w $place && echo $place; done; true"
    container = containers.run("sh", "-c", script, options=("--user", "1000:0"))
    assert container.exit_code() == 0
    assert container.logs().split() == ["slipway", "/opt/ml", "/opt/ml/model", "/opt/ml/output"]
