"""A CreateProcessingJob request, in the shape that boto3 sends, read into one frozen value.

Limits and defaults: botocore's model of the API, 1.44; developer guide, "How Amazon SageMaker AI Processing works with
your container".
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import cast

from runtime.base.errors import UserError
from runtime.contract.job import DEFAULT_GROUP, DISTRIBUTIONS
from runtime.contract.paths import DEFAULT_BASE
from runtime.local.request.channels import source_of
from runtime.local.request.keys import PROCESSING_KEYS, check_keys
from runtime.local.request.modes import check_channels
from runtime.local.request.node import Node
from runtime.local.request.spec import ChannelSpec, GroupSpec, OutputSpec, ProcessingJobSpec
from runtime.local.request.training import place, read_instances, read_name, refuse_what_is_missing

LONGEST_VALUE = 256
"""Characters of one value of ``Environment``, of one word of the command, of a path."""
MOST_WORDS = 100
MOST_ENDS = 10
"""Inputs, and outputs; limits of the API."""
DAY_S = 86400.0
"""``MaxRuntimeInSeconds`` of a request that says nothing."""
INPUTS_HOME = f"{DEFAULT_BASE}/processing"
OWN = tuple(f"{DEFAULT_BASE}/{name}" for name in ("config", "input/config"))
"""What the platform writes itself."""


def parse_processing(request: object, engine: str = "process") -> ProcessingJobSpec:
    """Read a CreateProcessingJob request.

    Args:
        request: the decoded JSON.
        engine: ``process`` or ``docker``; one can do less than the other.

    Raises:
        UserError: a key is unknown, missing or has the wrong shape, or asks for what this version cannot do.
    """
    root = Node(request)
    without_effect = check_keys(request, PROCESSING_KEYS)
    application = root.child("AppSpecification")
    cluster = root.child("ProcessingResources").child("ClusterConfig")
    network = root.child("NetworkConfig")
    stopping = root.child("StoppingCondition")
    instance_type, count = read_instances(cluster)
    spec = ProcessingJobSpec(
        name=read_name(root, "ProcessingJobName"),
        channels=_inputs(root),
        groups=(GroupSpec(DEFAULT_GROUP, instance_type, count),),
        image=application.text("ImageUri", ""),
        container_entrypoint=_words(application, "ContainerEntrypoint"),
        container_arguments=_words(application, "ContainerArguments"),
        max_run_s=stopping.seconds("MaxRuntimeInSeconds") or DAY_S,
        network_isolation=network.flag("EnableNetworkIsolation"),
        environment=root.variables(LONGEST_VALUE),
        without_effect=without_effect,
        outputs=_outputs(root.child("ProcessingOutputConfig"), engine),
        request=root.value,
    )
    paths = [item.target for item in spec.channels] + [item.local_path for item in spec.outputs if item.local_path]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"LocalPath {path!r} is used {paths.count(path)} times", allowed="each has its own")
    for inner in spec.channels:
        for outer in spec.channels:
            if inner.target.startswith(f"{outer.target}/"):
                raise UserError(
                    f"Input {inner.name!r} at {inner.target} lies inside of input {outer.name!r} at {outer.target}",
                    fix="give each a directory of its own: the local platform does not write into your data",
                )
    refuse_what_is_missing(spec, engine)
    return spec


def _words(application: Node, key: str) -> tuple[str, ...]:
    words = application.texts(key)
    if len(words) > MOST_WORDS:
        raise UserError(f"{application.at(key)} has {len(words)} words", allowed=f"the API takes {MOST_WORDS}")
    for index, word in enumerate(words):
        if len(word) > LONGEST_VALUE:
            raise UserError(
                f"{application.at(key)}[{index}] has {len(word)} characters",
                allowed=f"the API takes at most {LONGEST_VALUE}",
                fix="put it into a file of an input, or into Environment",
            )
    return words


def _inputs(root: Node) -> tuple[ChannelSpec, ...]:
    nodes = root.children("ProcessingInputs")
    _few(nodes, "ProcessingInputs")
    names = [node.text("InputName") for node in nodes]
    _once(names, "ProcessingInputs")
    inputs = tuple(_input(name, node) for name, node in zip(names, nodes, strict=True) if not node.flag("AppManaged"))
    check_channels(inputs)
    return inputs


def _input(name: str, node: Node) -> ChannelSpec:
    if "DatasetDefinition" in node.value:
        raise UserError(
            f"{node.at('DatasetDefinition')}: Athena and Redshift answer no queries here",
            fix="run the query once, save its result, and name it by S3Input",
        )
    s3 = node.child("S3Input")
    path = _path(s3, "LocalPath")
    if not PurePosixPath(path).is_relative_to(INPUTS_HOME):
        raise UserError(f"{s3.at('LocalPath')} is {path!r}", allowed=f"inputs lie below {INPUTS_HOME}/")
    kinds = ("S3Prefix", "ManifestFile")
    source, remote = source_of(s3, name, kinds, kinds)
    return ChannelSpec(
        name=name,
        source=source,
        remote=remote,
        data_type=s3.text("S3DataType", "S3Prefix", kinds),
        input_mode=s3.text("S3InputMode", "File", ("File", "Pipe")),
        distribution=s3.text("S3DataDistributionType", "FullyReplicated", DISTRIBUTIONS),
        compression=s3.text("S3CompressionType", "None", ("None", "Gzip")),
        local_path=path,
    )


def _outputs(config: Node, engine: str) -> tuple[OutputSpec, ...]:
    nodes = config.children("Outputs")
    _few(nodes, config.at("Outputs"))
    names = [node.text("OutputName") for node in nodes]
    _once(names, config.at("Outputs"))
    return tuple(_output(name, node, engine) for name, node in zip(names, nodes, strict=True))


def _output(name: str, node: Node, engine: str) -> OutputSpec:
    if "FeatureStoreOutput" in node.value:
        raise UserError(
            f"{node.at('FeatureStoreOutput')}: there is no feature store here",
            fix="write files to an S3Output for the local run",
        )
    if node.flag("AppManaged"):
        return OutputSpec(name, "")
    s3 = node.child("S3Output")
    path = _path(s3, "LocalPath")
    inside = PurePosixPath(path)
    if path == "/" or any(inside == PurePosixPath(own) or inside.is_relative_to(own) for own in OWN):
        raise UserError(f"{s3.at('LocalPath')} is {path!r}", allowed="it is a directory of the job's own")
    if engine == "process" and not inside.is_relative_to(DEFAULT_BASE):
        raise UserError(
            f"{s3.at('LocalPath')} is {path!r}",
            allowed=f"engine process can only move paths inside {DEFAULT_BASE}",
            fix="use --engine docker",
        )
    return OutputSpec(
        name=name,
        local_path=path,
        target=place(s3.text("S3Uri"), s3.at("S3Uri"), fix="pass --output DIRECTORY"),
        continuous=s3.text("S3UploadMode", "EndOfJob", ("EndOfJob", "Continuous")) == "Continuous",
    )


def _path(node: Node, key: str) -> str:
    path = node.text(key)
    if not path.startswith("/") or ".." in PurePosixPath(path).parts or len(path) > LONGEST_VALUE:
        raise UserError(
            f"{node.at(key)} is {path!r}", allowed=f"it is an absolute path of at most {LONGEST_VALUE} characters"
        )
    return str(PurePosixPath(path))


def _few(nodes: list[Node], where: str) -> None:
    if len(nodes) > MOST_ENDS:
        raise UserError(f"{where} has {len(nodes)} entries", allowed=f"the API takes {MOST_ENDS}")


def _once(names: list[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where} names {name!r} {names.count(name)} times")


def describe_processing(spec: ProcessingJobSpec, arn: str) -> dict[str, object]:
    """Return processingjobconfig.json: the request, with what the service adds and the defaults that it fills in."""
    request = dict(spec.request)
    resources = cast("Mapping[str, object]", request.get("ProcessingResources") or {})
    cluster = cast("Mapping[str, object]", resources.get("ClusterConfig") or {})
    group = spec.groups[0]
    inputs = cast("list[Mapping[str, object]]", request.get("ProcessingInputs") or [])
    config = cast("Mapping[str, object]", request.get("ProcessingOutputConfig") or {})
    outputs = cast("list[Mapping[str, object]]", config.get("Outputs") or [])
    return {
        "RoleArn": "arn:aws:iam::000000000000:role/local",
        "AppSpecification": {},
        "Environment": {},
        **request,
        "ProcessingJobArn": arn,
        "ProcessingInputs": [_filled(item, "S3Input", _INPUT_DEFAULTS) for item in inputs],
        "ProcessingOutputConfig": {
            "KmsKeyId": None,
            **config,
            "Outputs": [_filled(item, "S3Output", _OUTPUT_DEFAULTS) for item in outputs],
        },
        "ProcessingResources": {
            "ClusterConfig": {
                "VolumeSizeInGB": 30,
                "VolumeKmsKeyId": None,
                **cluster,
                "InstanceCount": group.count,
                "InstanceType": group.instance_type,
            }
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": int(spec.max_run_s or DAY_S)},
    }


_INPUT_DEFAULTS = {
    "S3DataType": "S3Prefix",
    "S3InputMode": "File",
    "S3DataDistributionType": "FullyReplicated",
    "S3CompressionType": "None",
    "S3DownloadMode": "StartOfJob",
}
_OUTPUT_DEFAULTS = {"S3UploadMode": "EndOfJob"}


def _filled(item: Mapping[str, object], key: str, defaults: Mapping[str, object]) -> dict[str, object]:
    made: dict[str, object] = {"AppManaged": False, **item}
    if key in item:
        made[key] = {**defaults, **cast("Mapping[str, object]", item[key])}
    return made
