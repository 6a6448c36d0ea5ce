"""Whole runs of `train`, the toolkit's and ours: what the script sees, and how the job ends."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.differential.oracle import find_oracle

ROOT = Path(__file__).parents[2]
RUN_S = 300
"""A bound for what hangs; a run takes two seconds."""
SEEN = """
import json, os, sys
json.dump({"argv": sys.argv, "cwd": os.getcwd(), "environ": dict(os.environ), "name": __name__},
          open(os.environ["SM_MODEL_DIR"] + "/seen.json", "w"))
"""
SHELL = """#!/bin/sh
for word in "$0" "$@"; do printf '%s\\0' "$word"; done > "$SM_MODEL_DIR/words"
pwd > "$SM_MODEL_DIR/cwd"
"""
AWKWARD = {"text": "a b  c", "money": "$HOME `id` $(id)", "quotes": 'it\'s "so"', "x": "1", "empty": "", "uml": "ü"}


@dataclass(frozen=True)
class Run:
    """One job, and how it must end."""

    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Code; the name ``archive/...`` packs a file into sourcedir.tar.gz instead."""
    hyperparameters: Mapping[str, str] = field(default_factory=dict[str, str])
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    config: Mapping[str, str] = field(default_factory=dict[str, str])
    theirs: int = 0
    ours: int = 0


def script(end: str = "", theirs: int = 0, ours: int = 0, **hyperparameters: str) -> Run:
    return Run({"train.py": SEEN + end}, {"sagemaker_program": "train.py", **hyperparameters}, {}, {}, theirs, ours)


def refused(name: str) -> Run:
    return Run({"train.py": SEEN}, {"sagemaker_program": name}, theirs=1, ours=1)


RUNS = {
    "exit 0": script(),
    "sys.exit(0)": script("sys.exit(0)"),
    "exit 1": script("sys.exit(1)", 1, 1),
    "exit 3": script("sys.exit(3)", 1, 3),
    "exit 255": script("sys.exit(255)", 1, 255),
    "exit with a text": script("sys.exit('that is why')", 1, 1),
    "exception": script("raise ValueError('no')", 1, 1),
    "SIGKILL": script("os.kill(os.getpid(), 9)", 1, 137),
    "SIGTERM": script("os.kill(os.getpid(), 15)", 1, 143),
    "SIGSEGV": script("os.kill(os.getpid(), 11)", 1, 139),
    "awkward arguments": script(**AWKWARD),
    "encoded by an estimator": script(**{name: json.dumps(value) for name, value in AWKWARD.items()}),
    "variables of the user": Run(
        {"train.py": SEEN}, {"sagemaker_program": "train.py"}, {"MY_OWN": "a $b", "TRAINING_JOB_NAME": "job"}
    ),
    "program in a folder": Run({"sub/train.py": SEEN}, {"sagemaker_program": "sub/train.py"}),
    "shell script": Run({"run.sh": SHELL}, {"sagemaker_program": "run.sh", **AWKWARD}),
    "shell script in a folder": Run({"bin/run.sh": SHELL}, {"sagemaker_program": "bin/run.sh", "k": "v"}),
    "shell script that fails": Run({"run.sh": SHELL + "exit 7"}, {"sagemaker_program": "run.sh"}, theirs=1, ours=7),
    "command without a suffix": Run({"go": SHELL}, {"sagemaker_program": "go", **AWKWARD}),
    "named by the environment": Run({"train.py": SEEN}, {"lr": "1"}, {"SAGEMAKER_PROGRAM": "train.py"}),
    "code from an archive": Run({"archive/train.py": SEEN}, {"sagemaker_program": "train.py"}),
    "requirements that are there": Run(
        {"train.py": SEEN, "requirements.txt": "pip\n"}, {"sagemaker_program": "train.py"}
    ),
    "requirements that cannot be had": Run(
        {"train.py": SEEN, "requirements.txt": "./not-there.whl\n"}, {"sagemaker_program": "train.py"}, theirs=1, ours=1
    ),
    "program that is not there": Run({"other.py": SEEN}, {"sagemaker_program": "train.py"}, theirs=1, ours=1),
    "no program": Run({"train.py": SEEN}, theirs=1, ours=1),
    "name that leaves the folder": refused("../train.py"),
    "absolute name": refused("/etc/passwd"),
    "name that is an option": refused("-c"),
    "name with a blank": refused("my train.py"),
    "hyperparameters that are no JSON": Run({"train.py": SEEN}, config={"hyperparameters.json": "{"}, theirs=1, ours=1),
    "no resourceconfig.json": Run(
        {"train.py": SEEN}, {"sagemaker_program": "train.py"}, config={"resourceconfig.json": ""}, theirs=2, ours=0
    ),
}


@dataclass(frozen=True)
class End:
    code: int
    base: Path
    log: str

    @property
    def marks(self) -> set[str]:
        return {name for name in ("success", "failure") if (self.base / "output" / name).exists()}

    def seen(self) -> dict[str, Any] | None:
        """Return what the script saw, with the tree's root named ROOT."""
        model = self.base / "model"
        if (model / "seen.json").is_file():
            return json.loads((model / "seen.json").read_text().replace(str(self.base), "ROOT"))
        if (model / "words").is_file():
            return {"argv": (model / "words").read_text().split("\0"), "environ": {}, "name": "__main__"} | {
                "cwd": (model / "cwd").read_text().strip().replace(str(self.base), "ROOT")
            }
        return None


def play(run: Run, command: list[str], base: Path, environ: Mapping[str, str]) -> End:
    code, config = base / "code", base / "input/config"
    for directory in (code, config, base / "model", base / "output/data"):
        directory.mkdir(parents=True)
    hyperparameters = dict(run.hyperparameters)
    for name, text in run.files.items():
        place = base / name if name.startswith("archive/") else code / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    if (base / "archive").is_dir():
        with tarfile.open(base / "sourcedir.tar.gz", "w:gz") as bundle:
            for path in (base / "archive").iterdir():
                bundle.add(path, path.name)
        hyperparameters["sagemaker_submit_directory"] = str(base / "sourcedir.tar.gz")
    files = {
        "hyperparameters.json": json.dumps(hyperparameters),
        "resourceconfig.json": json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]}),
        "inputdataconfig.json": "{}",
    }
    for name, text in {**files, **run.config}.items():
        if text:
            (config / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        command,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(base),
            "LANG": "C.UTF-8",
            "SAGEMAKER_BASE_DIR": str(base),
            # No name service knows algo-1 here, and the toolkit would look for it for 15 minutes.
            "SM_STUDIO_LOCAL_MODE": "True",
            "PIP_NO_INDEX": "1",
            **run.environ,
            **environ,
        },
        cwd=base,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=RUN_S,
        check=False,
    )
    return End(done.returncode, base, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[End, End]]:
    python, reason = find_oracle()
    if python is None:
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("runs")
    ours = {"SLIPWAY_IMAGE_FILE": "/nonexistent", "SLIPWAY_ARGV_DIALECT": "toolkit", "SLIPWAY_PROFILE": "off"}
    places = {name: root / str(number) for number, name in enumerate(RUNS)}

    def both(name: str) -> tuple[End, End]:
        theirs = play(RUNS[name], [str(python), "-m", "sagemaker_training.cli.train"], places[name] / "theirs", {})
        return theirs, play(RUNS[name], [sys.executable, "-m", "runtime.launch.launcher"], places[name] / "ours", ours)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(RUNS, pool.map(both, RUNS), strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_a_job_ends_as_it_should(ends: dict[str, tuple[End, End]], name: str) -> None:
    theirs, ours = ends[name]
    run = RUNS[name]
    assert (theirs.code, ours.code) == (run.theirs, run.ours), theirs.log + ours.log
    for end, code in ((theirs, run.theirs), (ours, run.ours)):
        assert end.marks == ({"failure"} if code else {"success"}), end.log
    if run.ours:
        # Before the job could be read nobody knows this host's name.
        assert (ours.base / "output/failure").read_text(encoding="utf-8").startswith(("algo-1", "-: "))


ONLY_OURS = ("SM_", "SLIPWAY_", "RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_", "OMP_")
IN_EVERY_PROCESS = {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}
DIFFERENT = {"PYTHONPATH", "SM_TRAINING_ENV"}
"""The first is a listed deviation; the second is compared key by key in test_corpus."""


@pytest.mark.parametrize("name", RUNS)
def test_a_script_sees_the_same(ends: dict[str, tuple[End, End]], name: str) -> None:
    theirs, ours = (end.seen() for end in ends[name])
    if theirs is None:
        # Theirs never came to the script; ours may only where that is a listed deviation.
        assert ours is None or name == "no resourceconfig.json"
        return
    assert ours is not None, ends[name][1].log
    for key in ("argv", "cwd", "name"):
        assert ours[key] == theirs[key]
    mine, told = ours["environ"], theirs["environ"]
    different = {key: (mine.get(key), held) for key, held in told.items() if mine.get(key) != held}
    assert {key: pair for key, pair in different.items() if key not in DIFFERENT | IN_EVERY_PROCESS} == {}
    added = {key for key in mine if key not in told and not key.startswith(ONLY_OURS)}
    assert added - IN_EVERY_PROCESS <= {"PYTHONUNBUFFERED"}


def test_no_hyperparameter_stands_in_the_failure_text(ends: dict[str, tuple[End, End]]) -> None:
    theirs, ours = ends["exit 3"]
    assert "train.py" in (theirs.base / "output/failure").read_text()
    assert "ExitCode 3" not in (ours.base / "output/failure").read_text()
