"""What the SageMaker toolkits hand to a script: the SM_* variables and the argv dialects. Pure."""

from __future__ import annotations

from runtime.frozen import cast
from runtime.hyperparameters import is_reserved, unquote
from runtime.jsontext import dumps, loads_or

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.hardware import Hardware
    from runtime.job import Job
    from runtime.topology import Topology


def user_hyperparameters(job: Job) -> dict[str, str]:
    """Return the hyperparameters that are the script's own, strings decoded, everything else as its JSON text."""
    return {name: unquote(text) for name, text in job.hyperparameters.items() if not is_reserved(name)}


def typed(text: str) -> object:
    """Give the typed view of a value: JSON where it is JSON, else the text.

    Numbers keep their text when its meaning could be lost: ``1234e5`` may be a git hash.

    >>> typed("3"), typed("true"), typed("1234e5"), typed("[1, 2]")
    (3, True, '1234e5', [1, 2])
    """
    value = loads_or(text, text)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and dumps(value) != text:
        return text
    return value


def arguments(job: Job, dialect: str) -> tuple[str, ...]:
    """Spell the hyperparameters as command line arguments.

    Args:
        job: gives the hyperparameters.
        dialect: ``toolkit`` (sorted, ``-k`` for one letter, Python's spelling of values), ``v3`` (file order, JSON
            spelling), ``json`` (one argument, the whole map) or ``none``.
    """
    values = user_hyperparameters(job)
    if dialect == "none":
        return ()
    if dialect == "json":
        return (dumps({name: typed(text) for name, text in values.items()}),)
    words: list[str] = []
    for name in values if dialect == "v3" else sorted(values):
        was_string = job.hyperparameters[name] != values[name]
        value = values[name] if was_string else typed(values[name])
        short = dialect == "toolkit" and len(name) == 1
        words += [f"-{name}" if short else f"--{name}", _v3(value) if dialect == "v3" else _python(value)]
    return tuple(words)


def _python(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in cast("dict[str, object]", value).items())
    return str(value)


def _v3(value: object) -> str:
    return value if isinstance(value, str) else dumps(value)


def _compact(value: object) -> str:
    return dumps(value, compact=True, sort_keys=True)


def sm_variables(
    job: Job, topology: Topology, hardware: Hardware, program: str, words: tuple[str, ...]
) -> dict[str, str]:
    """Return the union of what both generations of AWS's drivers export.

    Source: sagemaker-training 5.1.4, environment.py; sagemaker-python-sdk v3, container_drivers.
    """
    paths = job.paths
    parameters = {name: typed(text) for name, text in user_hyperparameters(job).items()}
    hosts = [host.name for host in job.hosts]
    channels = {name: channel.directory for name, channel in sorted(job.channels.items())}
    inputs = {
        name: {"TrainingInputMode": channel.input_mode, "S3DistributionType": channel.distribution}
        | ({"ContentType": channel.content_type} if channel.content_type else {})
        | {"RecordWrapperType": channel.record_wrapper}
        for name, channel in sorted(job.channels.items())
    }
    resource = {
        "current_host": job.current_host,
        "hosts": hosts,
        "network_interface_name": job.network_interface,
    }
    groups = {group.name: group for group in job.groups}
    framework = {name: unquote(text) for name, text in job.hyperparameters.items() if name.startswith("sagemaker_")}
    group = job.host.group
    values: dict[str, str] = {
        "SM_HOSTS": _compact(hosts),
        "SM_CURRENT_HOST": job.current_host,
        "SM_HOST_COUNT": str(len(hosts)),
        "SM_CURRENT_HOST_RANK": str(hosts.index(job.current_host)),
        "SM_CURRENT_INSTANCE_TYPE": job.host.instance_type,
        "SM_CURRENT_INSTANCE_GROUP": group,
        "SM_CURRENT_INSTANCE_GROUP_HOSTS": _compact(list(groups[group].hosts) if group in groups else hosts),
        "SM_INSTANCE_GROUPS": _compact(sorted(groups) or [group]),
        "SM_DISTRIBUTION_INSTANCE_GROUPS": _compact(
            sorted({host.group for host in job.hosts if host.name in topology.hosts})
        ),
        "SM_IS_HETERO": "true" if len(groups) > 1 else "false",
        "SM_NETWORK_INTERFACE_NAME": job.network_interface,
        "SM_NUM_CPUS": str(hardware.cpus),
        "SM_NUM_GPUS": str(hardware.accelerators),
        "SM_NUM_NEURONS": "0",
        "SM_HPS": _compact(parameters),
        "SM_CHANNELS": _compact(sorted(channels)),
        "SM_INPUT_DATA_CONFIG": _compact(inputs),
        "SM_RESOURCE_CONFIG": _compact(resource),
        "SM_FRAMEWORK_PARAMS": _compact(framework),
        "SM_USER_ARGS": _compact(list(words)),
        "SM_USER_ENTRY_POINT": program,
        "SM_ENTRY_SCRIPT": program,
        "SM_MODULE_NAME": program.removesuffix(".py"),
        "SM_MODULE_DIR": paths.code,
        "SM_SOURCE_DIR": paths.code,
        "SM_MODEL_DIR": paths.model,
        "SM_INPUT_DIR": f"{paths.base}/input",
        "SM_INPUT_CONFIG_DIR": paths.config,
        "SM_INPUT_DATA_DIR": paths.data,
        "SM_OUTPUT_DIR": paths.output,
        "SM_OUTPUT_DATA_DIR": paths.output_data,
        "SM_OUTPUT_INTERMEDIATE_DIR": f"{paths.output}/intermediate",
        "SM_OUTPUT_FAILURE": paths.failure,
        "SM_LOG_LEVEL": "20",
    }
    values |= {f"SM_CHANNEL_{name.upper()}": path for name, path in channels.items()}
    for name, value in parameters.items():
        text = value if isinstance(value, str) else "" if value is None else _compact(value)
        # Both spellings: the toolkit keeps dashes, which no shell can read; SDK v3 writes underscores.
        values[f"SM_HP_{name.upper()}"] = values[f"SM_HP_{name.upper().replace('-', '_')}"] = text
    values["SM_TRAINING_ENV"] = _compact(
        {
            "channel_input_dirs": channels,
            "current_host": job.current_host,
            "hosts": hosts,
            "hyperparameters": parameters,
            "input_data_config": inputs,
            "job_name": job.name,
            "model_dir": paths.model,
            "num_cpus": hardware.cpus,
            "num_gpus": hardware.accelerators,
            "output_data_dir": paths.output_data,
            "resource_config": resource,
            "user_entry_point": program,
        }
    )
    return values
