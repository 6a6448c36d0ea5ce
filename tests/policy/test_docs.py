"""The documents tell the truth: code runs, links lead somewhere, commands parse."""

import doctest
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "entrypoints").rglob("*.md")])
PRELUDE = """
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader


class Classifier(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 10))

"""


def _readme_diff() -> list[str]:
    block = re.search(r"```diff\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    return block.group(1).splitlines()


def _side(sign: str) -> str:
    return PRELUDE + "\n".join(line[1:] for line in _readme_diff() if line[:1] in ("", " ", sign)) + "\n"


def test_the_diff_on_the_first_page_runs(tmp_path: Path) -> None:
    from examples.digits import write_digits

    compile(_side("-"), "before.py", "exec")
    (tmp_path / "train.py").write_text(_side("+"))
    data = write_digits(tmp_path / "digits")
    command = [
        *[
            "-m",
            "runtime",
            "run",
            "--entrypoint",
            "train.py",
            "--hosts",
            "2",
            "--hp",
            "epochs=1",
            "--json",
            "--output",
            "out",
        ]
    ]
    command += ["--channel", f"train={data / 'train'}"]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out/model.tar.gz").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_make_targets_that_pages_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z/%-]*):", makefile, re.MULTILINE))
    named = {
        word
        for page in PAGES
        for word in re.findall(
            r"(?:`|^)make ([a-z][a-z-]*(?:/[a-z]+)?)", page.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert named
    assert {word for word in named if word not in targets and f"{word.split('/')[0]}/%" not in targets} == set()


def test_the_buildspec_calls_make_targets_that_exist_and_nothing_else() -> None:
    import yaml

    spec = yaml.safe_load((ROOT / "buildspec.yml").read_text(encoding="utf-8"))
    commands = [command for phase in spec["phases"].values() for command in phase["commands"]]
    targets = set(re.findall(r"^([a-z][a-z/%-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert commands
    for command in commands:
        program, target, *_ = command.split()
        assert program == "make"
        assert target in targets or f"{target.split('/')[0]}/%" in targets


def test_slipway_commands_that_pages_name_parse() -> None:
    from runtime.cli import _parser

    commands = [
        command
        for page in PAGES
        for command in re.findall(r"`(slipway [a-z][^`\n]+)`", page.read_text(encoding="utf-8"))
        if "..." not in command and "NAME" not in command and "IMAGE" not in command
    ]
    assert len(commands) >= 3
    for command in commands:
        _parser().parse_args(shlex.split(command)[1:])


MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "runtime").rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py") and ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
