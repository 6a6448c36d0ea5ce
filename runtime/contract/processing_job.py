"""A processing job as the platform describes it, and the one text that it may leave behind.

Source: "How Amazon SageMaker AI Processing works with your container", developer guide; local mode of the Python SDK
v2.257, local/image.py, which leaves out what the defaults here give.
"""

from __future__ import annotations

import os

from runtime.base.errors import UserError
from runtime.base.frozen import cast, field, frozen
from runtime.contract.job import natural_key, read_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.contract.job import JsonObject
    from runtime.contract.paths import Paths

MESSAGE_BYTES = 1024
"""What of ``output/message`` becomes the job's ExitMessage; text that is no UTF-8 fails the job."""


@frozen
class ProcessingInput:
    """One input of a processing job."""

    name: str
    path: str
    """Directory in the container."""
    uri: str = ""
    """Where it came from; empty for what the service made itself (a query, a dataset definition)."""
    input_mode: str = "File"
    """``File`` or ``Pipe``."""
    distribution: str = "FullyReplicated"
    """``FullyReplicated`` or ``ShardedByS3Key``."""


@frozen
class ProcessingOutput:
    """One output of a processing job."""

    name: str
    path: str
    """Directory in the container; no link may be in it."""
    uri: str = ""
    upload_mode: str = "EndOfJob"
    """``EndOfJob`` or ``Continuous``."""


@frozen
class ProcessingJob:
    """One processing job, seen from one host."""

    name: str = "local"
    arn: str = ""
    current_host: str = "algo-1"
    hosts: tuple[str, ...] = ("algo-1",)
    """In natural order."""
    inputs: Mapping[str, ProcessingInput] = field(default_factory=dict)
    outputs: Mapping[str, ProcessingOutput] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    """As the request gave it; empty: the image's own."""
    arguments: tuple[str, ...] = ()
    under_contract: bool = False
    """False outside of the service: no processingjobconfig.json was there."""


def read_processing_job(paths: Paths) -> ProcessingJob:
    """Read the two files of a processing job, or describe one host without inputs where there are none.

    Raises:
        UserError: a file is unreadable or malformed, or the current host is none of the hosts.
    """
    path = f"{paths.base}/config/processingjobconfig.json"
    config = read_object(path, missing={})
    resources = read_object(f"{paths.base}/config/resourceconfig.json", missing={})
    hosts = _words(resources.get("hosts")) or ("algo-1",)
    current = str(resources.get("current_host") or (hosts[0] if len(hosts) == 1 else ""))
    if current not in hosts:
        raise UserError(
            f"{paths.base}/config/resourceconfig.json: 'current_host' is {current!r}, which is not in 'hosts'",
            allowed=f"hosts: {', '.join(hosts)}",
        )
    application = _object(config.get("AppSpecification"))
    outputs = _object(config.get("ProcessingOutputConfig")).get("Outputs")
    return ProcessingJob(
        name=str(config.get("ProcessingJobName") or "local"),
        arn=str(config.get("ProcessingJobArn") or ""),
        current_host=current,
        hosts=tuple(sorted(hosts, key=natural_key)),
        inputs={item.name: item for item in map(_input, _objects(config.get("ProcessingInputs"), path))},
        outputs={item.name: item for item in map(_output, _objects(outputs, path))},
        environment={name: str(value) for name, value in _object(config.get("Environment")).items()},
        entrypoint=_words(application.get("ContainerEntrypoint")),
        arguments=_words(application.get("ContainerArguments")),
        under_contract=bool(config),
    )


def _input(raw: JsonObject) -> ProcessingInput:
    source = _object(raw.get("S3Input"))
    made = _object(raw.get("DatasetDefinition"))
    distribution = source.get("S3DataDistributionType") or made.get("DataDistributionType") or "FullyReplicated"
    return ProcessingInput(
        name=str(raw.get("InputName") or ""),
        path=str(source.get("LocalPath") or made.get("LocalPath") or ""),
        uri=str(source.get("S3Uri") or ""),
        input_mode=str(source.get("S3InputMode") or made.get("InputMode") or "File"),
        distribution=str(distribution),
    )


def _output(raw: JsonObject) -> ProcessingOutput:
    target = _object(raw.get("S3Output"))
    return ProcessingOutput(
        name=str(raw.get("OutputName") or ""),
        path=str(target.get("LocalPath") or ""),
        uri=str(target.get("S3Uri") or ""),
        upload_mode=str(target.get("S3UploadMode") or "EndOfJob"),
    )


def _object(value: object) -> JsonObject:
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def _objects(value: object, path: str) -> list[JsonObject]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in cast("list[object]", value)):
        raise UserError(f"{path}: {value!r} is no list of objects", allowed="the shape of CreateProcessingJob")
    return cast("list[JsonObject]", value)


def _words(value: object) -> tuple[str, ...]:
    """Return a list of words; a single word, as a hand-written file may hold it, is a list of one."""
    if isinstance(value, str):
        return (value,)
    return tuple(map(str, cast("list[object]", value))) if isinstance(value, list) else ()


def write_message(paths: Paths, text: str) -> None:
    """Leave the text that becomes the job's ExitMessage: at most `MESSAGE_BYTES`, cut between letters, UTF-8 always."""
    data = text.encode("utf-8", "backslashreplace")[:MESSAGE_BYTES].decode("utf-8", "ignore").encode()
    try:
        os.makedirs(paths.output, exist_ok=True)
        with open(f"{paths.output}/message", "wb") as file:
            file.write(data)
    except OSError:
        return  # the exit code and the log still tell
