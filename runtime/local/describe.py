"""A run as DescribeTrainingJob or DescribeProcessingJob would answer, for programs that read such answers. Pure."""

import math
from collections.abc import Mapping
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.local.record import JobRecord


def describe_job(record: "JobRecord") -> Mapping[str, Any]:
    """Return the answer of the API as far as a local run has one; times are unix seconds, no key is null."""
    answer = _processing(record) if record.kind == "processing" else _training(record)
    return {key: value for key, value in answer.items() if value is not None}


def _processing(record: "JobRecord") -> dict[str, Any]:
    began, ended = _span(record)
    return {
        "ProcessingJobName": record.name,
        "ProcessingJobStatus": record.status,
        "ExitMessage": record.exit_message,
        "FailureReason": record.failure_reason,
        "CreationTime": record.transitions[0].at if record.transitions else None,
        "ProcessingStartTime": began,
        "ProcessingEndTime": ended,
    }


def _training(record: "JobRecord") -> dict[str, Any]:
    began, ended = _span(record)
    model = record.paths.get("model")
    return {
        "TrainingJobName": record.name,
        "TrainingJobStatus": record.status,
        "SecondaryStatus": record.transitions[-1].status if record.transitions else None,
        "FailureReason": record.failure_reason,
        "ModelArtifacts": {"S3ModelArtifacts": model} if model else None,
        "CreationTime": record.transitions[0].at if record.transitions else None,
        "TrainingStartTime": began,
        "TrainingEndTime": ended,
        "TrainingTimeInSeconds": record.training_seconds,
        "BillableTimeInSeconds": record.billable_seconds,
        "SecondaryStatusTransitions": [
            {
                "Status": item.status,
                "StartTime": item.at,
                **({"EndTime": item.ended} if item.ended is not None else {}),
                "StatusMessage": item.message,
            }
            for item in record.transitions
        ],
        "FinalMetricDataList": [
            {"MetricName": point.name, "Value": point.value, "Timestamp": point.at}
            for point in record.final_metrics
            if math.isfinite(point.value)
        ],
    }


def _span(record: "JobRecord") -> tuple[float | None, float | None]:
    began = next((item.at for item in record.transitions if item.status == "Downloading"), None)
    ended = record.transitions[-1].at if record.transitions and record.status != "InProgress" else None
    return began, ended
