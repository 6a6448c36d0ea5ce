"""Where we differ from sagemaker-training 5.1.4 on purpose. The tests accept nothing else, and docs/01 prints this."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runtime.contract.hyperparameters import unquote
from runtime.contract.job import natural_key
from tests.differential.corpus import Case


@dataclass(frozen=True)
class Difference:
    """One place in which the two disagree about one job."""

    where: str
    """``program``, ``words`` (its arguments), a variable's name, or ``SM_TRAINING_ENV.key``."""
    ours: Any
    theirs: Any


@dataclass(frozen=True)
class Deviation:
    """One deliberate difference."""

    what: str
    theirs: str
    ours: str
    reason: str
    explains: Callable[[Case, Difference, str], bool] | None
    """Whether it accounts for a difference, in full and exactly; None: it shows in whole runs only (test_train)."""


HOST_LISTS = ("hosts", "current_instance_group_hosts", "distribution_hosts")
HOST_PLACES = {f"SM_{name.upper()}" for name in HOST_LISTS} | {f"SM_TRAINING_ENV.{name}" for name in HOST_LISTS}


def _host_order(case: Case, found: Difference, _dialect: str) -> bool:
    if found.where == "SM_TRAINING_ENV.master_hostname":
        return natural_key(found.ours) < natural_key(found.theirs)
    if found.where == "SM_TRAINING_ENV.is_master":
        return len(json.loads(case.files["resourceconfig.json"])["hosts"]) > 9
    if found.where not in HOST_PLACES:
        return False
    ours, theirs = (json.loads(side) if isinstance(side, str) else side for side in (found.ours, found.theirs))
    return ours == sorted(theirs, key=natural_key)


def _log_level(case: Case, found: Difference, _dialect: str) -> bool:
    told = case.environ.get("SAGEMAKER_CONTAINER_LOG_LEVEL")
    return (
        found.where in ("SM_LOG_LEVEL", "SM_TRAINING_ENV.log_level")
        and "sagemaker_container_log_level" not in case.hyperparameters
        and (str(found.ours), str(found.theirs)) == (told, "20")
    )


def _region(case: Case, found: Difference, _dialect: str) -> bool:
    return found.where == "SAGEMAKER_REGION" and found.ours == case.environ.get("AWS_REGION")


def _submit_directory(case: Case, found: Difference, _dialect: str) -> bool:
    told = case.environ.get("SAGEMAKER_SUBMIT_DIRECTORY")
    named = "sagemaker_submit_directory" in case.hyperparameters
    return found.where in ("SM_MODULE_DIR", "SM_TRAINING_ENV.module_dir") and not named and found.ours == told


def _program(case: Case, found: Difference, _dialect: str) -> bool:
    job, image = unquote(case.hyperparameters.get("sagemaker_program", "")), case.environ.get("SAGEMAKER_PROGRAM")
    if not job or not image or job == image:
        return False
    if found.where == "program":
        return found.ours[1].removeprefix("./").removesuffix(".py") == job.removesuffix(".py").replace("/", ".") or (
            found.ours[1].removeprefix("./") == job
        )
    if found.where in ("SM_USER_ENTRY_POINT", "SM_TRAINING_ENV.user_entry_point"):
        return (found.ours, found.theirs) == (job, image)
    wanted = (job.removesuffix(".py"), image.removesuffix(".py"))
    return found.where in ("SM_MODULE_NAME", "SM_TRAINING_ENV.module_name") and (found.ours, found.theirs) == wanted


def _module_path(_case: Case, found: Difference, _dialect: str) -> bool:
    return found.where == "program" and found.ours == ("module", found.theirs[1].replace("/", "."))


def _lossless(case: Case, found: Difference, dialect: str) -> bool:
    if dialect != "lossless":
        return False
    texts = {unquote(text) for text in case.hyperparameters.values()}
    if found.where in ("words", "SM_USER_ARGS"):
        ours, theirs = (json.loads(side) if isinstance(side, str) else side for side in (found.ours, found.theirs))
        return len(ours) == len(theirs) and all(a == b or a in texts for a, b in zip(ours, theirs, strict=True))
    if found.where in ("SM_HPS", "SM_FRAMEWORK_PARAMS", "SM_TRAINING_ENV.hyperparameters") or found.where.endswith(
        ".additional_framework_parameters"
    ):
        ours, theirs = (json.loads(side) if isinstance(side, str) else side for side in (found.ours, found.theirs))
        return ours.keys() == theirs.keys() and all(
            same(ours[name], theirs[name]) or ours[name] == unquote(case.hyperparameters[name]) for name in ours
        )
    return found.where.startswith("SM_HP_") and found.ours in texts


def same(ours: object, theirs: object) -> bool:
    """Compare with types: True is not 1, and NaN is NaN."""
    return json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)


DEVIATIONS = (
    Deviation(
        "strings that look like something else (`1234e5`, `NaN`, `0.10`, plain `true`, `null`, nested maps)",
        "parsed as JSON and spelt anew: `123400000.0`, `nan`, `0.1`, `True`, empty, Python's repr",
        "keep their text; `slipway_argv_dialect=toolkit` gives the toolkit's words",
        "a git hash must stay one; whoever JSON-encodes (the framework estimators) gets `True` and empty as ever",
        _lossless,
    ),
    Deviation(
        "order of hosts in SM_HOSTS, SM_CURRENT_INSTANCE_GROUP_HOSTS, SM_TRAINING_ENV",
        "as in the file: `algo-1, algo-10, algo-2`",
        "natural: `algo-1, algo-2, algo-10`",
        "ranks follow this order; SM_RESOURCE_CONFIG has the file as it is",
        _host_order,
    ),
    Deviation(
        "SAGEMAKER_CONTAINER_LOG_LEVEL",
        "read and overwritten: no effect",
        "is SM_LOG_LEVEL when the hyperparameter is absent",
        "it is documented to work",
        _log_level,
    ),
    Deviation(
        "SAGEMAKER_REGION without the hyperparameter",
        "AWS_DEFAULT_REGION only",
        "AWS_REGION first",
        "AWS_REGION is what the platform sets",
        _region,
    ),
    Deviation(
        "SAGEMAKER_SUBMIT_DIRECTORY",
        "read and overwritten: no effect",
        "is used when the hyperparameter is absent",
        "it is documented to work",
        _submit_directory,
    ),
    Deviation(
        "SAGEMAKER_PROGRAM beside another sagemaker_program",
        "the variable wins",
        "the hyperparameter wins, and the log says so",
        "the job knows better than the image that it runs on; the order of all our settings",
        _program,
    ),
    Deviation(
        "`sub/train.py` beside a setup.py",
        "`python -m sub/train`, which cannot be imported",
        "`python -m sub.train`",
        "the only thing it can mean",
        _module_path,
    ),
    Deviation(
        "exit code of a failing script",
        "always 1",
        "the script's own; 128 + n for death by signal n",
        "retry policies and people read it",
        None,
    ),
    Deviation(
        "text of output/failure",
        "the command with all hyperparameters and `ExitCode 3`",
        "host, rank, exception, place, what to do",
        "its first 1,024 characters are all that the service shows, and hyperparameters may be secret",
        None,
    ),
    Deviation(
        "PYTHONPATH of the script",
        "the toolkit's own sys.path",
        "the code directory, then the user's",
        "the launcher's libraries are none of the script's business",
        None,
    ),
    Deviation(
        "a missing hyperparameters.json, resourceconfig.json or inputdataconfig.json",
        "exit 2",
        "no hyperparameters, one host, no channels",
        "local runners leave them out",
        None,
    ),
    Deviation(
        "SAGEMAKER_TRAINING_MODULE",
        "is imported and runs the job",
        "is called as `module:function` only when nothing else names a program",
        "the framework modules of AWS are launchers, and we are one",
        None,
    ),
    Deviation(
        "mode of a shell script",
        "chmod 777",
        "the executable bit is added",
        "nobody but the owner needs to write it",
        None,
    ),
    Deviation(
        "a variable longer than 128 KiB (SM_HPS, SM_TRAINING_ENV) or with an impossible name",
        "the start fails: `Argument list too long`",
        "left out with a warning; SM_HPS_FILE names a file that holds it",
        "a hundred hyperparameters of 2,500 characters are allowed by the service",
        None,
    ),
)


def explain(case: Case, found: Difference, dialect: str) -> Deviation | None:
    """Return the deviation that accounts for a difference, None when there is none."""
    for deviation in DEVIATIONS:
        if deviation.explains is not None and deviation.explains(case, found, dialect):
            return deviation
    return None


def as_markdown() -> str:
    """Return the table of docs/01-contract.md."""
    rows = [f"| {item.what} | {item.theirs} | {item.ours} | {item.reason} |" for item in DEVIATIONS]
    return "\n".join(["| what | sagemaker-training 5.1.4 | here | why |", "|---|---|---|---|", *rows]) + "\n"
