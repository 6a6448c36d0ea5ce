"""The commands `slipway` and `process`: what they print, and with which exit code they end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import cli, processing
from runtime.local.record import JobRecord
from tests.conftest import Tree

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("status", "code"), [("Completed", 0), ("Failed", 1), ("Stopped", 3)])
def test_the_exit_code_of_run_is_the_jobs_status(
    status: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    record = JobRecord("job", status=status)  # type: ignore[arg-type]
    monkeypatch.setattr("runtime.local.runner.run_job", lambda spec, options: record)
    assert cli.main(["run", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == record.as_json()
    assert cli.main(["run"]) == code
    assert f"job job: {status}" in capsys.readouterr().out


def test_a_users_mistake_is_one_line_without_traceback(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["run", "--engine", "docker"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("slipway: --engine docker")


def test_an_image_is_not_silently_ignored(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("runtime.local.runner.run_job", lambda spec, options: JobRecord("job", status="Completed"))
    cli.main(["run", "--image", "slipway-pytorch:cpu"])
    assert "'slipway-pytorch:cpu' is not started" in capsys.readouterr().err


def test_help_lists_only_what_is_there(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    verbs = ("run", "check", "clean", "compose", "plan", "doctor", "index", "convert", "inspect", "report")
    assert all(f"    {verb} " in text for verb in verbs)
    assert not any(f"    {verb} " in text for verb in ("uri", "tune", "top"))


@pytest.mark.parametrize("words", [["plan"], ["plan", "--json"]])
def test_the_plan_shows_no_secret(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    tree = Tree(tmp_path / "ml")
    tree.config("resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1"]})
    tree.hyperparameters(sagemaker_program="train.py", lr="0.1", note="uses open-sesame", **{"hf_token": "open-sesame"})
    tree.script("pass")
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tree.base))
    monkeypatch.setenv("SLIPWAY_IMAGE_FILE", str(tree.base / "no-image.json"))
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "--hf_token" in text
    assert "--lr" in text
    assert "open-sesame" not in text


@pytest.mark.parametrize("words", [[], ["rum"], ["run", "--hosts", "0"], ["run", "--max-run", "-1"]])
def test_a_wrong_command_line(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    hyperparameters = {"sagemaker_program": "train.py", "lr": "0.1", "slipway_procs_per_host": "2"}
    (config / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    (config / "resourceconfig.json").write_text('{"current_host": "algo-1", "hosts": ["algo-1", "algo-2"]}')
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    return tmp_path


def test_plan_says_what_and_why(tree: Path, capsys: pytest.CaptureFixture[str]):
    before = sorted(tree.rglob("*"))
    assert cli.main(["plan"]) == 0
    text = capsys.readouterr().out
    assert "hyperparameter slipway_procs_per_host" in text
    assert "--lr 0.1" in text
    assert sorted(tree.rglob("*")) == before  # it launches and changes nothing


def test_plan_as_json(tree: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plan", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["hosts"] == ["algo-1", "algo-2"]
    assert facts["world"][1] == {
        "name": "algo-2",
        "group": "homogeneousCluster",
        "instance_type": "local",
        "ranks": [2, 3],
    }
    assert [(process["rank"], process["environment"]["LOCAL_RANK"]) for process in facts["processes"]] == [
        (0, "0"),
        (1, "1"),
    ]
    assert facts["environment"]["WORLD_SIZE"] == "4"
    assert (facts["format"], facts["launcher"], facts["coordinator"]) == (1, "own", "algo-1")
    assert {"name": "procs_per_host", "value": "2", "reason": "hyperparameter slipway_procs_per_host"} in facts[
        "choices"
    ]


@pytest.mark.parametrize("words", [["plan"], ["plan", "--json"]])
def test_plan_shows_what_a_launch_style_would_start(
    tree: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SLIPWAY_LAUNCHER", "torchrun")
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "torch.distributed.run" in text
    assert "SLIPWAY_LAUNCHER" in text
    if words[-1] == "--json":
        (agent,) = json.loads(text)["processes"]
        assert agent["ranks"] == [0, 1]
    else:
        assert "  ranks 0-1: algo-1 (coordinator)\n  ranks 2-3: algo-2\ntorchrun for ranks 0-1 in " in text


def test_plan_without_a_program_is_the_users_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    assert cli.main(["plan"]) == 1
    assert "names no program" in capsys.readouterr().err


def test_every_setting_is_listed_with_its_origin(tree: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plan", "--settings", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    settings = {row["name"]: row for row in tables["settings"]}
    assert settings["slipway_procs_per_host"]["origin"] == "hyperparameter slipway_procs_per_host"
    assert settings["slipway_resume"]["origin"] == "default"
    assert "MASTER_PORT" in {row["name"] for row in tables["environment"]}
    assert cli.main(["plan", "--settings"]) == 0
    assert "slipway_silence_s" in capsys.readouterr().out


def test_report_of_nothing_is_the_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["report", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_report_is_written_where_it_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    JobRecord("my-job", status="Completed").write(tmp_path / "job.json")
    target = tmp_path / "page.html"
    assert cli.main(["report", str(tmp_path), "--out", str(target)]) == 0
    assert "my-job" in target.read_text()
    assert capsys.readouterr().out.strip() == str(target)
    assert cli.main(["report", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["job"]["name"] == "my-job"
    assert cli.main(["report", str(tmp_path), "--compare", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").is_file()


def test_the_command_line_does_not_import_torch():
    words = "import sys, runtime.cli; runtime.cli._parser(); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], cwd=ROOT, check=False).returncode == 0


class TestProcess:
    @pytest.mark.parametrize("words", [[], ["--input", "x"], ["image_classification"]])
    def test_what_names_no_workload_is_told_which_are_here(self, words: list[str], capsys: pytest.CaptureFixture[str]):
        assert processing.main(words) == 1
        err = capsys.readouterr().err
        assert err.startswith("process: ")
        assert "workloads here: convert" in err

    def test_what_is_no_command_either(self, capsys: pytest.CaptureFixture[str]):
        assert processing.main(["resize-all-images"]) == 1
        assert "neither a processing workload nor a command" in capsys.readouterr().err

    def test_any_other_command_is_executed_as_it_is(self):
        words = [sys.executable, "-m", "runtime.processing", "sh", "-c", "echo $0-$1; exit 7", "a", "b c"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (7, "a-b c\n")
