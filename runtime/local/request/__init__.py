"""Requests in the shape that boto3 sends, read into frozen values: training and processing jobs."""

from runtime.local.request.node import local_path
from runtime.local.request.parse import is_processing, parse_request
from runtime.local.request.processing import describe_processing
from runtime.local.request.spec import (
    ChannelSpec,
    CheckpointSpec,
    GroupSpec,
    JobSpec,
    MetricDefinition,
    OutputSpec,
    ProcessingJobSpec,
    TrainingJobSpec,
)
from runtime.local.request.training import MOST_HOSTS, NAME_PATTERN

__all__ = [
    "MOST_HOSTS",
    "NAME_PATTERN",
    "ChannelSpec",
    "CheckpointSpec",
    "GroupSpec",
    "JobSpec",
    "MetricDefinition",
    "OutputSpec",
    "ProcessingJobSpec",
    "TrainingJobSpec",
    "describe_processing",
    "is_processing",
    "local_path",
    "parse_request",
]
