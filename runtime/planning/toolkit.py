"""The environment that the SageMaker toolkits hand to a script: the union of all SM_* variables. Pure.

Source: sagemaker-training 5.1.4, environment.py; sagemaker-train 1.27.0, container_drivers/scripts/environment.py.
"""

from __future__ import annotations

import os

from runtime.base.env import region_of
from runtime.base.errors import UserError
from runtime.base.frozen import cast, frozen
from runtime.base.jsontext import dumps
from runtime.contract.dialects import arguments, as_toolkit, is_encoded, own, respelt, typed, values
from runtime.contract.drivers import CHANNEL
from runtime.contract.hyperparameters import RESERVED, unquote
from runtime.contract.job import natural_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.base.env import Environ
    from runtime.contract.job import Job
    from runtime.contract.settings import Settings
    from runtime.planning.hardware import Hardware
    from runtime.planning.program import Program
    from runtime.planning.topology import Topology

STRING_BYTES = 131072
"""Longest argument and longest ``NAME=value`` that Linux passes to a program, the end mark included; one longer makes
every start fail. Source: MAX_ARG_STRLEN, execve(2)."""
PLATFORM_NAMES = (
    "sagemaker_program",
    "sagemaker_submit_directory",
    "sagemaker_enable_cloudwatch_metrics",
    "sagemaker_region",
    "sagemaker_container_log_level",
    "sagemaker_job_name",
    "sagemaker_s3_output",
    *RESERVED,
)
"""Not in ``SM_FRAMEWORK_PARAMS``, unlike every other ``sagemaker_*``. Source: sagemaker-training 5.1.4, params.py."""
SWITCHES = (
    "sagemaker_mpi_enabled",
    "sagemaker_parameter_server_enabled",
    "sagemaker_distributed_dataparallel_enabled",
    "sagemaker_pytorch_ddp_enabled",
    "sagemaker_pytorch_xla_multi_worker_enabled",
    "sagemaker_multi_worker_mirrored_strategy_enabled",
    "sagemaker_torch_distributed_enabled",
)
"""Any of them makes the current group a distribution group when the job names none."""


@frozen
class View:
    """What a script of the SageMaker toolkits finds."""

    words: tuple[str, ...]
    """Its arguments."""
    variables: Mapping[str, str]
    unfit: Mapping[str, str]
    """Variables that no program can be started with; each is written to the file that ``NAME_FILE`` names."""
    notes: tuple[tuple[str, str, str], ...]
    """Name, value and reason of what the user should know."""


def view(
    job: Job, topology: Topology, hardware: Hardware, settings: Settings, program: Program, environ: Environ
) -> View:
    """Spell the job for its script.

    Args:
        job: as read.
        topology: the world.
        hardware: this host.
        settings: the dialect decides how values are spelt and typed.
        program: what runs.
        environ: the launcher's.

    Raises:
        UserError: a hyperparameter that no program can be started with.
    """
    words = arguments(job.hyperparameters, settings.argv_dialect)
    _check_words(words, job, settings)
    variables, unfit = fit(sm_variables(job, topology, hardware, settings, program, words, environ))
    notes: list[tuple[str, str, str]] = []
    if settings.argv_dialect == "toolkit":
        damaged = [
            f"{name}={job.hyperparameters[name]!r} as {to!r}" for name, to in respelt(job.hyperparameters).items()
        ]
        if damaged:
            told = f"{settings.origin('argv_dialect')}; the script gets {', '.join(damaged)}"
            notes.append(("argv_dialect", "toolkit", told))
    for name, value in unfit.items():
        place = file_of(job, name)
        variables[f"{name}_FILE"] = place
        notes.append((name, f"left out, see {place}", f"{len(value)} characters, or its name, fit in no environment"))
    return View(words, variables, unfit, tuple(notes))


def file_of(job: Job, name: str) -> str:
    """Return where a variable that does not fit is written."""
    safe = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in name)
    return f"{job.paths.state}/environment/{safe[:100]}"


def write_unfit(job: Job, unfit: Mapping[str, str]) -> None:
    """Write the variables that do not fit, readable by this user alone: hyperparameters may be secret."""
    for name, value in unfit.items():
        place = file_of(job, name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(value.encode("utf-8", "surrogatepass"))


def _check_words(words: tuple[str, ...], job: Job, settings: Settings) -> None:
    for at, word in enumerate(words):
        if not _passes(word):
            name = sorted(own(job.hyperparameters))[at // 2] if len(words) > 1 else "as one JSON object"
            if settings.argv_dialect == "v3":
                name = list(own(job.hyperparameters))[at // 2]
            raise UserError(
                f"Hyperparameter {name[:100]!r} cannot be an argument of the script: {len(word)} characters, beginning "
                f"with {word[:40]!r}",
                allowed=f"Linux passes up to {STRING_BYTES} bytes without a zero byte",
                fix="read it from SM_HPS or hyperparameters.json with slipway_argv_dialect=none, or send a path",
            )


def _passes(text: str) -> bool:
    try:
        return len(os.fsencode(text)) < STRING_BYTES and "\0" not in text
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def sm_variables(
    job: Job,
    topology: Topology,
    hardware: Hardware,
    settings: Settings,
    program: Program,
    words: tuple[str, ...],
    environ: Environ,
) -> dict[str, str]:
    """Return what both generations of AWS's drivers export.

    Args:
        job: as read.
        topology: the world.
        hardware: this host.
        settings: the dialect decides how values are typed; the rendezvous port.
        program: what runs.
        words: its arguments.
        environ: the launcher's.
    """
    facts = _facts(job, hardware, settings, program, environ)
    exported: dict[str, object] = {name: facts[key] for name, key in _EXPORTED.items()}
    exported |= {
        "SM_HPS": facts["hyperparameters"],
        "SM_CHANNELS": sorted(job.channels),
        "SM_USER_ARGS": list(words),
        "SM_HOST_COUNT": len(job.hosts),
        "SM_CURRENT_HOST_RANK": [host.name for host in job.hosts].index(job.current_host),
        "SM_MASTER_ADDR": topology.coordinator,
        "SM_MASTER_PORT": settings.master_port,
        "SM_SOURCE_DIR": program.cwd,
        "SM_ENTRY_SCRIPT": program.name,
        "SM_INPUT_DATA_DIR": job.paths.data,
        "SM_OUTPUT_FAILURE": job.paths.failure,
    }
    if facts["topology"]:
        exported["SM_TOPOLOGY"] = facts["topology"]
    drivers = program.drivers
    if drivers is not None and drivers.distributed:
        exported["SM_DISTRIBUTED_DRIVER_DIR"] = f"{job.paths.data}/{CHANNEL}/distributed_drivers"
        exported["SM_DISTRIBUTED_CONFIG"] = drivers.distributed
    exported["SM_TRAINING_ENV"] = facts | {
        "master_addr": topology.coordinator,
        "master_port": settings.master_port,
        "input_data_dir": job.paths.data,
    }
    texts = {name: _text(value) for name, value in exported.items()}
    texts |= {f"SM_CHANNEL_{name.upper()}": channel.directory for name, channel in job.channels.items()}
    texts |= _hyperparameter_variables(job, settings)
    region = unquote(job.hyperparameters.get("sagemaker_region", ""))
    # Three that the toolkit leaves behind in its own environment, where scripts find them.
    return texts | {
        "SAGEMAKER_JOB_NAME": unquote(job.hyperparameters.get("sagemaker_job_name", "")),
        "CURRENT_HOST": job.current_host,
        "SAGEMAKER_REGION": region or region_of(environ, ""),
    }


_EXPORTED = {
    "SM_HOSTS": "hosts",
    "SM_NETWORK_INTERFACE_NAME": "network_interface_name",
    "SM_USER_ENTRY_POINT": "user_entry_point",
    "SM_FRAMEWORK_PARAMS": "additional_framework_parameters",
    "SM_RESOURCE_CONFIG": "resource_config",
    "SM_INPUT_DATA_CONFIG": "input_data_config",
    "SM_OUTPUT_DATA_DIR": "output_data_dir",
    "SM_CURRENT_HOST": "current_host",
    "SM_CURRENT_INSTANCE_TYPE": "current_instance_type",
    "SM_CURRENT_INSTANCE_GROUP": "current_instance_group",
    "SM_CURRENT_INSTANCE_GROUP_HOSTS": "current_instance_group_hosts",
    "SM_INSTANCE_GROUPS": "instance_groups",
    "SM_INSTANCE_GROUPS_DICT": "instance_groups_dict",
    "SM_DISTRIBUTION_INSTANCE_GROUPS": "distribution_instance_groups",
    "SM_IS_HETERO": "is_hetero",
    "SM_MODULE_NAME": "module_name",
    "SM_LOG_LEVEL": "log_level",
    "SM_FRAMEWORK_MODULE": "framework_module",
    "SM_INPUT_DIR": "input_dir",
    "SM_INPUT_CONFIG_DIR": "input_config_dir",
    "SM_OUTPUT_DIR": "output_dir",
    "SM_NUM_CPUS": "num_cpus",
    "SM_NUM_GPUS": "num_gpus",
    "SM_NUM_NEURONS": "num_neurons",
    "SM_MODEL_DIR": "model_dir",
    "SM_MODULE_DIR": "module_dir",
    "SM_OUTPUT_INTERMEDIATE_DIR": "output_intermediate_dir",
}
"""Variables that hold one fact each."""


def _facts(job: Job, hardware: Hardware, settings: Settings, program: Program, environ: Environ) -> dict[str, object]:
    """Return the properties of the toolkit's Environment, which ``SM_TRAINING_ENV`` holds in full."""
    paths = job.paths
    hosts = [host.name for host in job.hosts]
    read = as_toolkit if settings.argv_dialect == "toolkit" else typed
    framework: dict[str, object] = {}
    for name, text in job.hyperparameters.items():
        if name.startswith("sagemaker_") and name not in PLATFORM_NAMES:
            framework[name] = unquote(text) if unquote(text) != text else read(text)
    resources = dict(job.resource_config) or {"current_host": job.current_host, "hosts": hosts}
    groups = {group.name: group for group in job.groups}
    raw_groups = cast("list[dict[str, object]]", resources.get("instance_groups") or [])
    chosen = framework.get("sagemaker_distribution_instance_groups")
    if chosen is None:
        chosen = [job.host.group] if any(framework.get(name) for name in SWITCHES) else []
    distributed = [host.name for host in job.hosts if not groups or host.group in cast("list[str]", chosen)]
    submitted = unquote(job.hyperparameters.get("sagemaker_submit_directory", ""))
    neurons = hardware.accelerators if hardware.accelerator_kind == "neuron" else 0
    mp_parameters = environ.get("SM_HP_MP_PARAMETERS")
    return {
        "additional_framework_parameters": framework,
        "channel_input_dirs": {name: channel.directory for name, channel in job.channels.items()},
        "current_host": job.current_host,
        "current_instance_group": job.host.group,
        "current_instance_group_hosts": list(groups[job.host.group].hosts) if job.host.group in groups else [],
        "current_instance_type": str(resources.get("current_instance_type") or "local"),
        "distribution_hosts": distributed,
        "distribution_instance_groups": chosen,
        "framework_module": environ.get("SAGEMAKER_TRAINING_MODULE"),
        "hosts": hosts,
        "hyperparameters": values(job.hyperparameters, settings.argv_dialect),
        "input_config_dir": paths.config,
        "input_data_config": dict(job.input_data_config),
        "input_dir": f"{paths.base}/input",
        "instance_groups": [group["instance_group_name"] for group in raw_groups],
        "instance_groups_dict": {str(group["instance_group_name"]): group for group in raw_groups},
        "is_hetero": len(groups) > 1,
        "is_master": job.current_host == min(distributed or hosts, key=natural_key),
        "is_modelparallel_enabled": mp_parameters and mp_parameters != "{}",
        "is_smddpmprun_installed": _is_on_path("smddpmprun", environ),
        "is_smddprun_installed": _is_on_path("smddprun", environ),
        "job_name": environ.get("TRAINING_JOB_NAME"),
        "log_level": _log_level(job, environ),
        "master_hostname": min(distributed or hosts, key=natural_key),
        "model_dir": paths.model,
        "module_dir": submitted or environ.get("SAGEMAKER_SUBMIT_DIRECTORY") or paths.code,
        "module_name": program.name.removesuffix(".py"),
        "network_interface_name": job.network_interface or "eth0",
        "num_cpus": hardware.cpus,
        "num_gpus": hardware.accelerators - neurons,
        "num_neurons": neurons,
        "output_data_dir": paths.output_data,
        "output_dir": paths.output,
        "output_intermediate_dir": f"{paths.output}/intermediate",
        "resource_config": resources,
        "topology": resources.get("topology") or [],
        "user_entry_point": program.name,
    }


def _log_level(job: Job, environ: Environ) -> object:
    told = job.hyperparameters.get("sagemaker_container_log_level") or environ.get("SAGEMAKER_CONTAINER_LOG_LEVEL")
    return typed(unquote(told)) if told else 20


def _is_on_path(name: str, environ: Environ) -> bool:
    return any(os.access(f"{place}/{name}", os.X_OK) for place in environ.get("PATH", "").split(":") if place)


def _hyperparameter_variables(job: Job, settings: Settings) -> dict[str, str]:
    """Both spellings: the toolkit keeps dashes, which no shell can read; SDK v3 writes underscores."""
    keeps_words = settings.argv_dialect != "toolkit" and not is_encoded(job.hyperparameters)
    exact: dict[str, str] = {}
    for name, value in values(job.hyperparameters, settings.argv_dialect).items():
        # `null` that somebody typed is a word; the None of an SDK is empty.
        exact[f"SM_HP_{name.upper()}"] = "null" if value is None and keeps_words else _text(value)
    return {name.replace("-", "_"): text for name, text in exact.items()} | exact


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else dumps(value, compact=True, sort_keys=True)


def fit(variables: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Part what a program can be started with from what it cannot.

    Returns:
        The variables that fit, and those that do not: longer than `STRING_BYTES`, or with a name or value that no
        environment can hold (``=`` in a name, a zero byte, half a surrogate pair).
    """
    fitting: dict[str, str] = {}
    unfit: dict[str, str] = {}
    for name, value in variables.items():
        fits = "=" not in name and _passes(f"{name}={value}")
        (fitting if fits else unfit)[name] = value
    return fitting, unfit
