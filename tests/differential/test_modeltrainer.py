"""The published drivers of SDK v3 start our `train`, and run a script beside us: the same job, seen alike."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_for
from tests.differential.modeltrainer import START, find_sdk, start, write_job

SEEN = """
import json, os, sys
with open("/opt/ml/model/seen.json", "w") as file:
    json.dump({"argv": sys.argv[1:], "cwd": os.getcwd(), "environ": dict(os.environ)}, file)
"""
VALUES: dict[str, object] = {
    "lr": 1e-05, "epochs": 3, "nesterov": True, "none": None, "text": "a b $HOME `id`", "quoted": 'say "hi"',
    "layers": [1, "b", None], "nested": {"a": {"b": 1}}, "batch-size": 8, "k": "v", "uml": "ü", "path": "s3://b/k?x=*",
}  # fmt: skip
"""No single quote: with one, their script cannot even read its variables."""


@pytest.fixture
def sdk() -> Path:
    found, reason = find_sdk()
    if found is None:
        pytest.skip(reason)
    return found


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    text, _ = process.communicate(timeout=300)
    return process.returncode, text


def seen(root: Path) -> dict[str, Any]:
    return json.loads((root / "ml/model/seen.json").read_text())


@pytest.mark.parametrize("command", ["exec train", "train"])
def test_train_as_the_command_of_a_model_trainer(sdk: Path, tmp_path: Path, command: str) -> None:
    told = {**VALUES, "sha": "1234e5", "sagemaker_program": "go.py"}
    write_job(sdk, tmp_path, told, {"go.py": SEEN}, command=command)
    code, log = finish(start(tmp_path, START))
    assert code == 0, log
    found = seen(tmp_path)
    assert found["cwd"] == "/opt/ml/input/data/code"
    words = dict(zip(found["argv"][::2], found["argv"][1::2], strict=True))
    assert words["--sha"] == "1234e5"
    assert (words["--text"], words["--quoted"]) == (VALUES["text"], VALUES["quoted"])
    assert json.loads(found["environ"]["SM_HPS"]) == {**VALUES, "sha": "1234e5"}
    assert found["environ"]["SM_SOURCE_DIR"] == "/opt/ml/input/data/code"
    assert (tmp_path / "ml/output/success").is_file()
    assert sorted(path.name for path in (tmp_path / "ml/input/data/code").iterdir()) == ["go.py"]


def test_a_failing_script_keeps_its_code_and_our_text(sdk: Path, tmp_path: Path) -> None:
    script = "def lose():\n    raise SystemExit(7) from ValueError('it went wrong')\nlose()\n"
    write_job(sdk, tmp_path, {"sagemaker_program": "go.py"}, {"go.py": script}, command="train")
    code, log = finish(start(tmp_path, START))
    assert code == 7, log
    assert (tmp_path / "ml/output/failure").read_text().startswith("algo-1 rank 0")


def test_a_stop_reaches_the_script_through_exec(sdk: Path, tmp_path: Path) -> None:
    script = """
        import pathlib, signal, sys, time
        model = pathlib.Path("/opt/ml/model")
        def leave(*_):
            (model / "told").touch()
            sys.exit(0)
        signal.signal(signal.SIGTERM, leave)
        (model / "ready").touch()
        while True:
            time.sleep(0.05)
    """
    lines = "\n".join(line[8:] for line in script.splitlines())
    write_job(sdk, tmp_path, {"sagemaker_program": "go.py"}, {"go.py": lines}, command="exec train")
    process = start(tmp_path, START)
    try:
        wait_for(lambda: (tmp_path / "ml/model/ready").exists() or process.poll() is not None, "the script")
        process.send_signal(signal.SIGTERM)
        code, log = finish(process)
    finally:
        process.kill()
        process.wait()
    assert code == 0, log
    assert (tmp_path / "ml/model/told").exists()
    assert (tmp_path / "ml/output/stopped").exists()


BY_DESIGN = {
    "SM_TRAINING_ENV": "the toolkit's keys too",
    "SM_HPS": "compared as JSON",
    "SM_CHANNELS": "sorted, as the toolkit does",
    "SM_RESOURCE_CONFIG": "compact, as the toolkit does",
    "SM_INPUT_DATA_CONFIG": "compact, as the toolkit does",
    "SM_HP_LAYERS": "compact, as the toolkit does",
    "SM_HP_NESTED": "compact, as the toolkit does",
}


def test_their_driver_and_ours_give_a_script_the_same(sdk: Path, tmp_path: Path) -> None:
    sides: list[dict[str, Any]] = []
    for place, command in (("theirs", START), ("ours", ["/usr/bin/env", "SLIPWAY_ARGV_DIALECT=v3", "train"])):
        write_job(sdk, tmp_path / place, VALUES, {"go.py": SEEN}, entry_script="go.py")
        code, log = finish(start(tmp_path / place, command))
        assert code == 0, log
        sides.append(seen(tmp_path / place))
    theirs, ours = sides
    assert (ours["argv"], ours["cwd"]) == (theirs["argv"], theirs["cwd"])
    told = {name: value for name, value in theirs["environ"].items() if name.startswith("SM_")}
    assert len(told) > 30
    different = {name for name, value in told.items() if ours["environ"].get(name) != value}
    assert different == set(BY_DESIGN)
    for name in different:
        left, right = (json.loads(side["environ"][name]) for side in (ours, theirs))
        if name == "SM_CHANNELS":
            right = sorted(right)
        if name == "SM_TRAINING_ENV":
            # Compared where theirs has a value; the master is theirs by a constant, ours by the job.
            left = {key: left.get(key) for key in right}
        assert left == right, name


def test_a_single_quote_breaks_their_script_and_not_ours(sdk: Path, tmp_path: Path) -> None:
    ends: list[int] = []
    for place, command in (("theirs", START), ("ours", ["train"])):
        write_job(sdk, tmp_path / place, {"note": "it's"}, {"go.py": SEEN}, entry_script="go.py")
        ends.append(finish(start(tmp_path / place, command))[0])
    assert ends[0] != 0
    assert ends[1] == 0
    assert seen(tmp_path / "ours")["argv"] == ["--note", "it's"]
