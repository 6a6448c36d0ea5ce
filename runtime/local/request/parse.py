"""Tells which of the two requests it is."""

from runtime.base.errors import UserError
from runtime.local.request.spec import TrainingJobSpec
from runtime.local.request.training import parse_training


def parse_request(request: object, engine: str = "process") -> tuple[TrainingJobSpec, list[str]]:
    """Read a request.

    Args:
        request: the decoded JSON.
        engine: ``process`` or ``docker``; one can do less than the other.

    Returns:
        The job, and warnings for the user.

    Raises:
        UserError: a key is unknown, missing or has the wrong shape, or asks for what this version cannot do.
    """
    if isinstance(request, dict) and "ProcessingJobName" in request:
        raise UserError("The request is a CreateProcessingJob", allowed="this version runs training jobs only")
    return parse_training(request, engine), []
