"""A CreateTrainingJob request, in the shape that boto3 sends, read into one frozen value. Pure.

Wrong shapes are errors that name the path of the key, and what this version of the local platform cannot do is
refused by name: a job that runs here must mean what it means on the service.
"""

import re
from pathlib import Path

from runtime.base.errors import UserError
from runtime.contract.job import DEFAULT_GROUP, INPUT_MODES
from runtime.local.request.channels import read_channels
from runtime.local.request.files import config_files
from runtime.local.request.keys import TRAINING_KEYS, check_keys
from runtime.local.request.node import Node, local_path
from runtime.local.request.spec import CheckpointSpec, GroupSpec, JobSpec, MetricDefinition, TrainingJobSpec
from runtime.local.s3 import S3Uri, is_s3, parse_s3_uri

NAME_PATTERN = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
"""Of jobs and instance groups. Source: CreateTrainingJob API."""
MOST_HYPERPARAMETERS = 100
LONGEST_HYPERPARAMETER_VALUE = 2500
LONGEST_ENVIRONMENT_VALUE = 512
"""Limits of the CreateTrainingJob API: a request that breaks one would be refused there, after the upload."""
MOST_RETRIES = 30
MOST_HOSTS = 200
"""Addresses of one loopback block; far above what one machine can run."""


def parse_training(request: object, engine: str = "process") -> TrainingJobSpec:
    """Read a CreateTrainingJob request.

    Args:
        request: the decoded JSON.
        engine: ``process`` or ``docker``; one can do less than the other.

    Raises:
        UserError: a key is unknown, missing or has the wrong shape, or asks for what this version cannot do.
    """
    root = Node(request)
    without_effect = check_keys(request, TRAINING_KEYS)
    name = read_name(root, "TrainingJobName")
    _refuse_the_services_own(root)
    if root.child("OutputDataConfig").text("CompressionType", "GZIP", ("GZIP", "NONE")) == "NONE":
        without_effect["OutputDataConfig.CompressionType"] = "archives are made here, of files that the service uploads"
    algorithm = root.child("AlgorithmSpecification")
    default_mode = algorithm.text("TrainingInputMode", "File", INPUT_MODES)
    stopping = root.child("StoppingCondition")
    hyperparameters = root.strings("HyperParameters", LONGEST_HYPERPARAMETER_VALUE)
    if len(hyperparameters) > MOST_HYPERPARAMETERS:
        raise UserError(
            f"HyperParameters has {len(hyperparameters)} entries",
            allowed=f"the API takes {MOST_HYPERPARAMETERS}",
        )
    spec = TrainingJobSpec(
        name=name,
        hyperparameters=hyperparameters,
        without_effect=without_effect,
        channels=read_channels(root, default_mode),
        groups=_groups(root.child("ResourceConfig")),
        image=algorithm.text("TrainingImage", ""),
        container_entrypoint=algorithm.texts("ContainerEntrypoint"),
        container_arguments=algorithm.texts("ContainerArguments"),
        metric_definitions=_metrics(algorithm),
        config_files=config_files(root),
        max_run_s=stopping.seconds("MaxRuntimeInSeconds"),
        max_wait_s=stopping.seconds("MaxWaitTimeInSeconds"),
        retries=_retries(root),
        checkpoint=_checkpoint(root, engine),
        spot=root.flag("EnableManagedSpotTraining"),
        network_isolation=root.flag("EnableNetworkIsolation"),
        environment=root.variables(LONGEST_ENVIRONMENT_VALUE),
        output=_output(root.child("OutputDataConfig")),
        packed_model=root.child("OutputDataConfig").text("CompressionType", "GZIP", ("GZIP", "NONE")) == "GZIP",
    )
    known = [group.name for group in spec.groups]
    for channel in spec.channels:
        for group in channel.groups:
            if group not in known:
                raise UserError(
                    f"Channel {channel.name!r} is for the instance group {group!r}",
                    allowed=f"ResourceConfig.InstanceGroups has {', '.join(known)}",
                )
    _check_spot(spec)
    refuse_what_is_missing(spec, engine)
    return spec


def _refuse_the_services_own(root: Node) -> None:
    """Refuse programs that only the service has."""
    if "ServerlessJobConfig" in root.value:
        raise UserError("The request has a ServerlessJobConfig", allowed="its program is the service's own")
    algorithm = root.child("AlgorithmSpecification")
    if "AlgorithmName" in algorithm.value and "TrainingImage" not in algorithm.value:
        raise UserError(
            f"{algorithm.at('AlgorithmName')} is {algorithm.value['AlgorithmName']!r}: the service looks up its image",
            fix="name the image: TrainingImage, or --image",
        )


def _retries(root: Node) -> int:
    node = root.child("RetryStrategy")
    if not node.value:
        return 0
    count = node.whole("MaximumRetryAttempts", None)
    if count > MOST_RETRIES:
        raise UserError(f"{node.at('MaximumRetryAttempts')} is {count}", allowed=f"the API takes 1 to {MOST_RETRIES}")
    return count


def _check_spot(spec: TrainingJobSpec) -> None:
    """Refuse what the API refuses about waiting for spot capacity."""
    if spec.max_wait_s is None:
        return
    if not spec.spot:
        raise UserError(
            f"StoppingCondition.MaxWaitTimeInSeconds is {spec.max_wait_s:g}",
            allowed="only a job with EnableManagedSpotTraining waits",
            fix="set that to true, or leave it out",
        )
    if spec.max_run_s is not None and spec.max_wait_s < spec.max_run_s:
        raise UserError(
            f"StoppingCondition.MaxWaitTimeInSeconds is {spec.max_wait_s:g}",
            allowed=f"it is at least MaxRuntimeInSeconds, {spec.max_run_s:g}",
        )


def read_name(root: Node, key: str) -> str:
    """Read the name of a job.

    Raises:
        UserError: the API would refuse it.
    """
    name = root.text(key)
    if not NAME_PATTERN.fullmatch(name):
        raise UserError(f"{key} is {name!r}", allowed="the API takes 1 to 63 letters, digits and '-', no '-' at an end")
    return name


def _groups(resources: Node) -> tuple[GroupSpec, ...]:
    groups = tuple(
        GroupSpec(
            node.text("InstanceGroupName"),
            node.text("InstanceType", "local"),
            node.whole("InstanceCount", None),
        )
        for node in resources.children("InstanceGroups")
    )
    if groups and "InstanceCount" in resources.value:
        raise UserError(
            f"{resources.path} has InstanceCount and InstanceGroups",
            allowed="the API takes one of them",
            fix="drop one",
        )
    if not groups:
        instance_type, count = read_instances(resources)
        groups = (GroupSpec(DEFAULT_GROUP, instance_type, count),)
    names = [group.name for group in groups]
    for name in names:
        if not NAME_PATTERN.fullmatch(name) or names.count(name) > 1:
            raise UserError(
                f"{resources.at('InstanceGroups')} has a group {name!r}",
                allowed="each has a name of its own, of letters, digits and '-'",
            )
    _playable(sum(group.count for group in groups))
    return groups


def read_instances(resources: Node) -> tuple[str, int]:
    """Read type and number of the instances; of several preferences the first is always to be had.

    Raises:
        UserError: there are more than this machine can play.
    """
    preferred = resources.children("InstancePreferences")
    node = preferred[0] if preferred else resources
    count = node.whole("InstanceCount", resources.whole("InstanceCount", 1))
    _playable(count)
    return node.text("InstanceType", "local"), count


def _playable(count: int) -> None:
    if count > MOST_HOSTS:
        raise UserError(f"The request asks for {count} hosts", allowed=f"this machine can play at most {MOST_HOSTS}")


def _metrics(algorithm: Node) -> tuple[MetricDefinition, ...]:
    definitions = tuple(
        MetricDefinition(node.text("Name"), node.text("Regex")) for node in algorithm.children("MetricDefinitions")
    )
    for index, definition in enumerate(definitions):
        where = f"{algorithm.at('MetricDefinitions')}[{index}].Regex"
        try:
            groups = re.compile(definition.regex).groups
        except re.error as error:
            raise UserError(f"{where} is {definition.regex!r}, which is no regular expression: {error}") from error
        if groups < 1:
            raise UserError(f"{where} is {definition.regex!r}", allowed="its first group (...) is the value")
    return definitions


def _checkpoint(root: Node, engine: str) -> CheckpointSpec | None:
    if "CheckpointConfig" not in root.value:
        return None
    node = root.child("CheckpointConfig")
    uri = node.text("S3Uri", "")
    store = place(uri, node.at("S3Uri"), fix="pass --checkpoints DIRECTORY") if uri else None
    local = node.text("LocalPath", "/opt/ml/checkpoints")
    if engine == "process" and not local.startswith("/opt/ml/"):
        # On the service it is a directory of the container; a process would write to this machine's own.
        raise UserError(
            f"{node.at('LocalPath')} is {local!r}",
            allowed="engine process can only move paths inside /opt/ml",
            fix="use --engine docker",
        )
    if not local.startswith("/"):
        raise UserError(f"{node.at('LocalPath')} is {local!r}", allowed="it is an absolute path")
    return CheckpointSpec(store, local)


def _output(node: Node) -> Path | S3Uri | None:
    uri = node.text("S3OutputPath", "")
    return place(uri, node.at("S3OutputPath"), fix="pass --output DIRECTORY") if uri else None


def place(uri: str, where: str, fix: str) -> Path | S3Uri:
    """Read the address of something that the job writes: in S3, or on this machine.

    Args:
        uri: ``s3://``, ``file://`` or a path.
        where: path of the key in the request, for the error.
        fix: what to do when it is none of them.

    Raises:
        UserError: it is none.
    """
    return parse_s3_uri(uri, where) if is_s3(uri) else local_path(uri, where, fix=fix)


def refuse_what_is_missing(spec: JobSpec, engine: str) -> None:
    """Refuse what an engine cannot do.

    Raises:
        UserError: it names what the request asks for, and the way out.
    """
    docker = engine == "docker"
    piped = [channel.name for channel in spec.channels if channel.streamed]
    if piped and not isinstance(spec, TrainingJobSpec):
        raise UserError(
            f"The request asks for Pipe mode (input {piped[0]!r})",
            allowed="the local platform streams to training jobs only",
            fix="use File mode for the local run",
        )
    only_docker: list[str] = []
    if spec.network_isolation and not docker:
        only_docker.append("network isolation (EnableNetworkIsolation, --network-isolation)")
    command = isinstance(spec, TrainingJobSpec) and (spec.container_entrypoint or spec.container_arguments)
    if command and not docker:
        only_docker.append("another command than `train` (ContainerEntrypoint, ContainerArguments)")
    if only_docker:
        raise UserError(
            f"The request asks for {', '.join(only_docker)}",
            allowed="engine process cannot do it",
            fix="use --engine docker, or leave it out for the local run",
        )
