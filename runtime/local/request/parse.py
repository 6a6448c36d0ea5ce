"""Tells which of the two requests it is."""

from typing import cast

from runtime.local.request.processing import parse_processing
from runtime.local.request.spec import ProcessingJobSpec, TrainingJobSpec
from runtime.local.request.training import parse_training


def is_processing(request: object) -> bool:
    """Tell a CreateProcessingJob request from a CreateTrainingJob request."""
    if not isinstance(request, dict):
        return False
    keys = set(cast("dict[str, object]", request))
    return (
        bool(keys & {"ProcessingJobName", "AppSpecification", "ProcessingResources"}) and "TrainingJobName" not in keys
    )


def parse_request(request: object, engine: str = "process") -> tuple[TrainingJobSpec | ProcessingJobSpec, list[str]]:
    """Read a request.

    Args:
        request: the decoded JSON.
        engine: ``process`` or ``docker``; one can do less than the other.

    Returns:
        The job, and warnings for the user.

    Raises:
        UserError: a key is unknown, missing or has the wrong shape, or asks for what this version cannot do.
    """
    if is_processing(request):
        return parse_processing(request, engine), []
    return parse_training(request, engine), []
