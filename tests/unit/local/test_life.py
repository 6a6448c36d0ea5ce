"""The life of a job: secondary statuses, spot waits and savings, limits, metrics that are read while it runs."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.base.errors import UserError
from runtime.local.describe import describe_job
from runtime.local.metric_watch import MetricWatch
from runtime.local.record import JobRecord
from runtime.local.request import MetricDefinition, TrainingJobSpec, parse_request
from runtime.local.tree import write_tree

RunSmall = Callable[..., JobRecord]


def statuses(record: JobRecord) -> list[str]:
    return [transition.status for transition in record.transitions]


def test_a_spot_job_waits_for_capacity_and_pays_nothing_for_it(run_small: RunSmall):
    record = run_small(
        "step:3", "step:6", options={"spot_wait_s": 1.5, "spot_price": 0.5}, hp={"steps": "12"}, spot=True
    )
    assert record.status == "Completed", record.failure_reason
    once = ["Starting", "Downloading", "Training"]
    assert statuses(record) == [*once, "Interrupted", *once, "Interrupted", *once, "Uploading", "Completed"]
    assert record.phases["interrupted"] >= 3.0
    active = sum(record.phases.values()) - record.phases["interrupted"]
    assert record.billable_seconds <= active * 0.5 + 1
    assert record.savings_percent == round((1 - record.billable_seconds / record.training_seconds) * 100, 1)
    assert record.savings_percent > 50


def test_every_status_ends_when_the_next_begins(run_small: RunSmall):
    record = run_small(hp={"steps": "2"})
    for one, other in zip(record.transitions, record.transitions[1:], strict=False):
        assert one.ended == other.at
    assert record.transitions[-1].ended is None
    assert record.savings_percent is None, "it was no spot job"


def test_a_spot_job_that_waits_too_long_is_stopped(run_small: RunSmall, place: Path):
    record = run_small("step:2", options={"spot_wait_s": 600.0}, hp={"steps": "100000"}, spot=True, max_wait_s=3.0)
    assert record.status == "Stopped"
    assert (record.failure_reason or "").startswith("MaxWaitTimeExceeded")
    assert statuses(record)[-3:] == ["Interrupted", "Uploading", "MaxWaitTimeExceeded"]
    assert (place / "out/model.tar.gz").is_file()


def test_the_time_to_wait_also_ends_a_job_that_runs(run_small: RunSmall):
    record = run_small(hp={"steps": "100000"}, spot=True, max_wait_s=2.0, max_run_s=1000.0)
    assert statuses(record)[-3:] == ["Stopping", "Uploading", "MaxWaitTimeExceeded"]


def test_metrics_are_there_while_the_job_runs(run_small: RunSmall, place: Path):
    series, seen = place / "out/metrics.jsonl", threading.Event()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            status = json.loads((place / "out/job.json").read_text())["status"] if series.exists() else ""
            if status == "InProgress":
                seen.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        record = run_small(hp={"steps": "30"}, metric_definitions=(MetricDefinition("seen", r"loss=([\d.]+);"),))
    finally:
        over.set()
        watcher.join()
    assert seen.is_set()
    rows = [json.loads(line) for line in series.read_text().splitlines()]
    assert [row["value"] for row in rows] == pytest.approx([1 / step for step in range(1, 31)], abs=1e-4)
    assert {row["host"] for row in rows} == {"algo-1"}
    assert [row["t"] for row in rows] == sorted(row["t"] for row in rows)
    (final,) = record.final_metrics
    assert (final.name, final.value, final.at) == ("seen", rows[-1]["value"], rows[-1]["t"])
    assert record.metrics["seen"] == rows[-1]["value"]


def test_what_a_metric_finds(tmp_path: Path):
    watch = MetricWatch(
        (MetricDefinition("loss", r"loss=(\S+)"), MetricDefinition("acc", "acc (.*)%?")), tmp_path / "m"
    )
    for line in ("loss=1.5 acc 7", "loss=nan", "loss=broken", "nothing", "loss=2e-3"):
        watch.see("algo-1", line)
    assert [(point.name, point.value) for point in watch.final] == [("acc", 7.0), ("loss", 0.002)]
    values = [json.loads(line)["value"] for line in (tmp_path / "m").read_text().splitlines()]
    assert values == [1.5, 7.0, None, 0.002]
    assert not MetricWatch((), tmp_path / "n").wanted


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"StoppingCondition": {"MaxWaitTimeInSeconds": 9}}, "only a job with EnableManagedSpotTraining waits"),
        (
            {
                "EnableManagedSpotTraining": True,
                "StoppingCondition": {"MaxWaitTimeInSeconds": 9, "MaxRuntimeInSeconds": 10},
            },
            "at least MaxRuntimeInSeconds, 10",
        ),
        ({"RetryStrategy": {"MaximumRetryAttempts": 31}}, "MaximumRetryAttempts is 31"),
        ({"RetryStrategy": {"MaximumRetries": 3}}, "unknown key RetryStrategy.MaximumRetries"),
        ({"ServerlessJobConfig": {"JobType": "FineTuning"}}, "its program is the service's own"),
        ({"AlgorithmSpecification": {"AlgorithmName": "mine"}}, "name the image"),
        ({"OutputDataConfig": {"CompressionType": "ZIP"}}, "OutputDataConfig.CompressionType is 'ZIP'"),
    ],
)
def test_what_the_api_would_refuse(changes: dict[str, Any], expected: str):
    with pytest.raises(UserError) as caught:
        parse_request({"TrainingJobName": "a", **changes})
    assert expected in str(caught.value)


def test_retries_are_read():
    spec, _ = parse_request({"TrainingJobName": "a", "RetryStrategy": {"MaximumRetryAttempts": 2}})
    assert spec.retries == 2


# --- files of the contract --------------------------------------------------------------------------------------


def test_every_file_that_the_service_writes_is_there(tmp_path: Path):
    request = {
        "TrainingJobName": "a",
        "Environment": {"A": "b"},
        "CheckpointConfig": {},
        "DebugHookConfig": {"S3OutputPath": "s3://b/t", "CollectionConfigurations": [{"CollectionName": "losses"}]},
        "ProfilerConfig": {"S3OutputPath": "s3://b/p", "ProfilingParameters": {"DetailedProfilingConfig": "{}"}},
        "TensorBoardOutputConfig": {"S3OutputPath": "s3://b/tb", "LocalPath": "/opt/ml/output/tb"},
    }
    spec, _ = parse_request(request)
    write_tree(spec, "algo-1", tmp_path / "base", "eth0", "arn:x")
    config = {path.name: json.loads(path.read_text()) for path in (tmp_path / "base/input/config").iterdir()}
    assert set(config) == {
        *("hyperparameters.json", "inputdataconfig.json", "resourceconfig.json", "checkpointconfig.json"),
        *("init-config.json", "trainingjobconfig.json", "upstreamoutputdataconfig.json"),
        *(
            "debughookconfig.json",
            "profilerconfig.json",
            "tensorboardoutputconfig.json",
            "metric-definition-regex.json",
        ),
    }
    assert config["trainingjobconfig.json"] == {**request, "TrainingJobArn": "arn:x"}
    assert config["debughookconfig.json"] == {
        "LocalPath": "/opt/ml/output/tensors",
        "S3OutputPath": "s3://b/t",
        "HookParameters": {},
        "CollectionConfigurations": [{"CollectionName": "losses"}],
    }
    assert config["profilerconfig.json"]["ProfilingIntervalInMilliseconds"] == 500
    assert config["tensorboardoutputconfig.json"] == {"LocalPath": "/opt/ml/output/tb", "S3OutputPath": "s3://b/tb"}
    least, _ = parse_request({"TrainingJobName": "a"})
    assert isinstance(least, TrainingJobSpec)
    assert not {"debughookconfig.json", "profilerconfig.json", "tensorboardoutputconfig.json"} & set(least.config_files)


def test_tensorboard_files_are_kept(run_small: RunSmall, place: Path, script: Path):
    extra = "\nboard = base / 'output/tensorboard'\nboard.mkdir(exist_ok=True)\n"
    extra += "(board / f'events-{host}').write_text(host)\n"
    script.write_text(script.read_text() + extra)
    files = {"tensorboardoutputconfig.json": {"LocalPath": "/opt/ml/output/tensorboard"}}
    record = run_small(hp={"steps": "2"}, config_files=files)
    assert record.status == "Completed", record.failure_reason
    assert sorted(path.name for path in (place / "out/tensorboard").iterdir()) == ["events-algo-1", "events-algo-2"]


def test_job_json_also_answers_as_the_service_does(run_small: RunSmall, place: Path):
    record = run_small(hp={"steps": "2"}, metric_definitions=(MetricDefinition("seen", r"loss=([\d.]+);"),))
    answer = json.loads((place / "out/job.json").read_text())["describe"]
    assert answer == json.loads(json.dumps(describe_job(record)))
    assert (answer["TrainingJobStatus"], answer["SecondaryStatus"]) == ("Completed", "Completed")
    assert [item["Status"] for item in answer["SecondaryStatusTransitions"]] == statuses(record)
    assert [item["MetricName"] for item in answer["FinalMetricDataList"]] == ["seen"]
    assert answer["ModelArtifacts"]["S3ModelArtifacts"] == str(place / "out/model.tar.gz")
    assert "FailureReason" not in answer
    assert answer["CreationTime"] <= answer["TrainingStartTime"] <= answer["TrainingEndTime"]


def test_results_that_are_not_to_be_packed_are_recorded():
    spec, _ = parse_request({"TrainingJobName": "a", "OutputDataConfig": {"CompressionType": "NONE"}})
    assert "archives are made here" in spec.without_effect["OutputDataConfig.CompressionType"]
