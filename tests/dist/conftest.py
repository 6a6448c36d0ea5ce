"""Several ranks on this machine: how these tests start jobs."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples.digits import write_digits

SLIPWAY = [sys.executable, "-m", "runtime"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--count-kills", type=int, default=2, help="random kills of the resume campaign (soak: more)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.dist)


@dataclass(frozen=True)
class Ended:
    """A run of `slipway run` that is over."""

    exit_code: int
    output: Path
    text: str

    @property
    def job(self) -> Mapping[str, Any]:
        return json.loads((self.output / "job.json").read_text())

    def log(self, host: str = "algo-1") -> str:
        return (self.output / "logs" / f"{host}.log").read_text()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def slipway_run(tmp_path: Path) -> Callable[..., Ended]:
    def run(*words: object, name: str = "out") -> Ended:
        output = tmp_path / name
        command = [*SLIPWAY, "run", *map(str, words), "--output", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, cwd=tmp_path)
        return Ended(done.returncode, output, done.stdout + done.stderr)

    return run
