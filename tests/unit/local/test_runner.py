"""Whole jobs on this machine, with ranks of a few lines: the end, the interruption, the failure, the stop."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.local import attempt
from runtime.local.process_engine import ProcessEngine
from runtime.local.processes import children_of, kill_all, processes_of
from runtime.local.record import JobRecord
from runtime.local.request import MetricDefinition

RunSmall = Callable[..., JobRecord]


@pytest.fixture(autouse=True)
def nothing_is_left(place: Path) -> Iterator[None]:
    """No test may leave a process behind, whatever it did to the job."""
    before = children_of(os.getpid())
    yield
    bases = [place / f"out/.work/attempt-{number}/algo-{host}" for number in (1, 2, 3) for host in (1, 2)]
    left = [pid for base in bases for pid in processes_of(base)]
    for base in bases:
        kill_all(base)
    assert left == []
    assert children_of(os.getpid()) - before == set()


def job_json(place: Path) -> dict[str, object]:
    return json.loads((place / "out/job.json").read_text())


def members(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read().decode() for member in tar}  # type: ignore[union-attr]


def statuses(record: JobRecord) -> list[str]:
    return [transition.status for transition in record.transitions]


def test_a_job_completes_and_leaves_its_results(run_small: RunSmall, place: Path, capsys: pytest.CaptureFixture[str]):
    record = run_small(
        hp={"slipway_procs_per_host": "2", "steps": "5"},
        metric_definitions=(MetricDefinition("seen", r"loss=([\d.]+);"),),
    )
    out = place / "out"
    assert (record.status, record.failure_reason, record.exit_code) == ("Completed", None, 0)
    assert job_json(place) == json.loads(json.dumps(record.as_json()))
    assert members(out / "model.tar.gz") == {"of-algo-1": "algo-1", "of-algo-2": "algo-2", "same": "algo-2"}
    assert members(out / "output.tar.gz") == {"out.txt": "algo-2"}
    assert record.metrics == {"loss": 0.2, "seen": 0.2}
    assert statuses(record) == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert [(host.name, host.exit_code) for host in record.attempts[0].hosts] == [("algo-1", 0), ("algo-2", 0)]
    assert (record.attempts[0].last_step, record.attempts[0].resumed_step) == (5, None)
    shown = capsys.readouterr().out
    for host, rank in (("algo-1", 1), ("algo-2", 3)):
        assert f"rank {rank} begins at" in (out / "logs" / f"{host}.log").read_text()
        assert f"rank {rank} begins at" in shown
    assert not (out / ".work").exists()
    assert sum(record.phases.values()) > 0


def test_an_interrupted_job_goes_on_from_its_checkpoint(run_small: RunSmall, place: Path):
    record = run_small("step:5", hp={"steps": "20"})
    first, second = record.attempts
    assert record.status == "Completed"
    assert first.interrupted is not None
    assert (first.interrupted.signal, first.interrupted.after) == ("TERM", "step:5")
    assert first.started < first.interrupted.at <= first.ended
    assert 5 <= first.last_step < 20
    assert second.resumed_step is not None
    assert 5 <= second.resumed_step <= first.last_step
    assert (second.interrupted, second.last_step) == (None, 20)
    assert statuses(record) == [
        *("Starting", "Downloading", "Training", "Interrupted"),
        *("Starting", "Downloading", "Training", "Uploading", "Completed"),
    ]
    assert (place / f"out/checkpoints/step-{second.resumed_step:04d}/MANIFEST.json").is_file()
    last = {path.name for path in (place / "out/checkpoints/step-0020").iterdir()}
    assert last == {"shard-0", "shard-1", "MANIFEST.json"}  # both hosts had a part in it
    log = (place / "out/logs/algo-1.log").read_text()
    assert log.index("attempt 1") < log.index("rank 0 begins at 0") < log.index("attempt 2")


def test_a_killed_job_leaves_no_process_and_goes_on(run_small: RunSmall):
    record = run_small("step:5", "step:9", signal="KILL", hp={"steps": "14", "orphans": "1", "durable": "1"})
    assert record.status == "Completed"
    assert [[host.exit_code for host in attempt.hosts] for attempt in record.attempts] == [
        [137, 137],
        [137, 137],
        [0, 0],
    ]
    second, third = (attempt.resumed_step for attempt in record.attempts[1:])
    assert second is not None
    assert third is not None
    assert (second >= 4, third >= 8) == (True, True)  # the save of the last step, or its sync, may have been cut off


def test_an_interruption_that_never_came_is_told(run_small: RunSmall, capsys: pytest.CaptureFixture[str]):
    record = run_small("step:500", hosts=1, hp={"steps": "3"})
    assert (record.status, len(record.attempts)) == ("Completed", 1)
    assert "step:500 never came: the job ended after step 3" in capsys.readouterr().err


def test_without_checkpoint_config_it_begins_anew(run_small: RunSmall, capsys: pytest.CaptureFixture[str]):
    record = run_small("step:4", hosts=1, hp={"steps": "8"}, checkpoint=None)
    assert [attempt.resumed_step for attempt in record.attempts] == [None, None]
    assert record.paths["checkpoints"] is None
    assert "no CheckpointConfig" in capsys.readouterr().err


def test_a_failure_has_the_first_cause_everywhere(run_small: RunSmall, place: Path):
    record = run_small(hp={"steps": "500", "fail_at": "3"})
    assert (record.status, record.exit_code) == ("Failed", 1)
    assert record.failure_reason is not None
    assert record.failure_reason.startswith("algo-2 rank 1:")
    assert "rank 1 cannot go on" in record.failure_reason
    assert [host.exit_code for host in record.attempts[0].hosts] == [1, 1]
    assert statuses(record)[-1] == "Failed"
    assert record.paths["model"] is None
    assert members(place / "out/output.tar.gz") == {"out.txt": "algo-2"}
    assert record.paths["work"] is not None  # to look into
    assert Path(record.paths["work"], "attempt-1/algo-2/output/failure").is_file()


def test_a_mistake_before_the_start_is_a_failed_job(run_small: RunSmall):
    record = run_small(hosts=1, hp={"slipway_procs_per_hots": "2"})
    assert record.status == "Failed"
    assert "slipway_procs_per_host" in (record.failure_reason or "")


def test_max_run_stops_the_job(run_small: RunSmall, place: Path):
    record = run_small(hp={"steps": "100000"}, max_run_s=5)
    assert (record.status, record.exit_code) == ("Stopped", 0)
    assert (record.failure_reason or "").startswith("MaxRuntimeExceeded")
    assert statuses(record) == ["Starting", "Downloading", "Training", "Stopping", "Uploading", "MaxRuntimeExceeded"]
    assert (place / "out/model.tar.gz").is_file()  # what a stopped job has made is kept, as on the service


def test_who_does_not_leave_in_time_is_killed(run_small: RunSmall, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attempt, "GRACE_S", 0.3)
    record = run_small(hp={"steps": "100000", "ignore_stop": "1", "orphans": "1"}, max_run_s=0.8)
    assert record.status == "Stopped"
    assert [host.exit_code for host in record.attempts[0].hosts] == [137, 137]


def start(place: Path, script: Path, name: str = "out", *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "runtime", "run", "--entrypoint", str(script), "--hosts", "2"]
    command += ["--hp", "slipway_profile=off", "--output", str(place / name), "--json", *words]
    root = Path(__file__).parents[3]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def until(seen: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def trained(place: Path, host: str = "algo-1") -> Callable[[], bool]:
    log = place / "out" / "logs" / f"{host}.log"
    return lambda: log.is_file() and "begins at" in log.read_text().rpartition("===")[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_of_slipway_stops_the_job(place: Path, script: Path, number: signal.Signals):
    process = start(place, script, "out", "--hp", "steps=100000")
    until(trained(place))
    process.send_signal(number)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 3
    assert json.loads(out) == job_json(place)
    assert job_json(place)["status"] == "Stopped"


def test_a_killed_slipway_leaves_nothing_running_and_loses_no_checkpoint(
    place: Path, script: Path, run_small: RunSmall
):
    process = start(place, script, "out", "--hp", "steps=100000")
    until(trained(place))
    until(lambda: any(place.glob("out/.work/attempt-1/algo-1/checkpoints/step-0005/MANIFEST.json")))
    process.kill()
    process.communicate()
    assert job_json(place)["status"] == "InProgress"
    until(lambda: not any(processes_of(base) for base in place.glob("out/.work/attempt-1/*")))
    (place / "out/job.json").write_text(
        (place / "out/job.json").read_text().replace('"name": "out"', '"name": "small"')
    )
    record = run_small(hp={"steps": "6"})
    assert record.status == "Completed"
    assert record.attempts[0].resumed_step is not None
    assert record.attempts[0].resumed_step >= 5


def test_two_runs_at_one_time_do_not_meet(place: Path, script: Path):
    processes = [start(place, script, name, "--hp", "steps=40") for name in ("one", "two")]
    for process in processes:
        out, _ = process.communicate(timeout=180)
        assert json.loads(out)["status"] == "Completed"


def test_a_long_path_moves_the_trees(place: Path, run_small: RunSmall, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("runtime.local.work.LONGEST_BASE", 10)
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    record = run_small(hosts=1, hp={"steps": "5", "fail_at": "3", "slipway_procs_per_host": "2"})
    assert str(place / "slipway-") in (place / "out/logs/algo-1.log").read_text()
    assert record.paths["work"] == str(place / "out/.work")  # a failed job's trees come home
    assert (place / "out/.work/attempt-1/algo-1/output/failure").is_file()
    assert not list(place.glob("slipway-*"))


@pytest.mark.parametrize("packed", [True, False])
def test_code_that_the_request_names_here_is_submitted(
    run_small: RunSmall, place: Path, script: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
):
    archive = place / "my code.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(script, script.name)
    submitted: list[Path] = []

    def submit(_: ProcessEngine, path: Path) -> str:
        submitted.append(path)
        with tarfile.open(path) as tar:
            assert tar.getnames() == [script.name]
        return f"file://{path}"

    monkeypatch.setattr(ProcessEngine, "submit", submit)
    code = archive if packed else script.parent
    record = run_small(hosts=1, hp={"sagemaker_submit_directory": f'"file://{code}"'}, options={"code": None})
    assert record.status == "Completed"
    assert (submitted == [archive]) == packed
    assert len(submitted) == 1
