"""Jobs by the hundred, seeded: every way in which clients write the contract, and values that break launchers."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

NUMBERS = (0, 1, -1, 7, 10**20, 0.1, 1.0, -0.0, 1e-05, 1e22, 1.5e300, 123456789.123, 3.14)
WORDS = (
    "", " ", "plain", "a b", "1234e5", "0e1", "12e0", "null", "true", "false", "True", "None", "NaN", "-Infinity",
    "1e-4", "1E5", "1e400", "007", "-0", "0.10", "1.50", "1.", ".5", "0x10", "1_000", " 3", "3 ", "123456789012345678",
    "0.1000000000000000055511151231257827", "$HOME", "${HOME}", "`id`", "$(id)", "a;b", "a|b&c", "it's", '"quoted"',
    'say "hi"', "new\nline", "tab\there", "\r", "ünïcode", "日本語", "😀", "\u2028", "--flag", "-x", "=", "a=b,c=d",
    "\\", "\\n", "C:\\x", "%s %d", "{", "}", "[1", "]", "[1, 2]", '{"a": 1}', '{"a": {"b": 1}}', '"', '""', "''", "'",
    "s3://bucket/key", "*", "?", "~", "#", "x" * 2500, "a\u00a0b", "!", "<in", ">out", "\x1b[31m", "\x7f",
)  # fmt: skip
LISTS = ([], [1, 2], ["a"], [1.0, None, True], [[1], ["b", []]], ["it's", 'a"b'], [1e-05, "1e-05"], [{"a": 1}])
MAPS = (
    {}, {"a": 1}, {"b": 1, "a": "x"}, {"a": {"b": 1}}, {"a": [1, "2"]}, {"a": None, "b": True}, {"z": 0.5, "": ""},
    {"ü": "é"}, {"a": 1e-05}, {"a": "x y"},
)  # fmt: skip
NAMES = (
    "lr", "k", "x", "E", "1", "_", "epochs", "batch-size", "batch_size", "Batch-Size", "a.b", "o.lr", "-", "--", "é",
    "日本", "with space", "n" * 256, "UPPER", "upper", "model_dir", "sagemaker", "SAGEMAKER_x", "_private",
    "mp_parameters", "hosts", "num_gpus", "user/entry", "a:b", "$x", "tuning_objective_metric",
)  # fmt: skip
FRAMEWORK: dict[str, tuple[Any, ...]] = {
    "sagemaker_container_log_level": (10, 20, 30, 40),
    "sagemaker_job_name": ("pytorch-training-2024-01-01-00-00-00-000", "job"),
    "sagemaker_region": ("eu-west-1", "us-gov-west-1"),
    "sagemaker_enable_cloudwatch_metrics": (True, False),
    "sagemaker_mpi_enabled": (True, False),
    "sagemaker_mpi_num_of_processes_per_host": (1, 8),
    "sagemaker_mpi_custom_mpi_options": ("", "--NCCL_DEBUG INFO"),
    "sagemaker_torch_distributed_enabled": (True, False),
    "sagemaker_instance_type": ("ml.p4d.24xlarge", "local"),
    "sagemaker_s3_output": ("s3://bucket/prefix",),
    "sagemaker_use_smddp": ("1234e5", None),
    "sagemaker_parameter_server_enabled": (False,),
    "_tuning_objective_metric": ("validation:accuracy",),
    "default_user_module_name": ("module",),
}
PROGRAMS = (
    ("train.py", ("train.py",)),
    ("train.py", ("train.py", "requirements.txt", "lib/x.py")),
    ("sub/train.py", ("sub/train.py",)),
    ("train-it.v2.py", ("train-it.v2.py",)),
    ("run.sh", ("run.sh",)),
    ("run.sh", ("run.sh", "setup.py")),
    ("bin/go", ("bin/go",)),
    ("pkg", ("setup.py", "pkg/__main__.py")),
    ("train.py", ("setup.py", "train.py")),
    ("pkg.sub", ("setup.py", "pkg/sub.py")),
    ("sub/train.py", ("setup.py", "sub/train.py")),
)
"""Name of the program and the files in the code directory: every kind of entry point."""


def encoded(value: object) -> str:
    """Framework estimators of SDK v1 and v2: JSON, always."""
    return json.dumps(value)


def unquoted(value: object) -> str:
    """SDK v3: a string as it is, JSON for the rest."""
    return value if isinstance(value, str) else json.dumps(value)


def spelt(value: object) -> str:
    """The generic Estimator without a script."""
    return str(value)


WRITERS: tuple[Callable[[object], str], ...] = (encoded, unquoted, spelt)


@dataclass(frozen=True)
class Case:
    """One generated job."""

    number: int
    files: dict[str, str]
    code: tuple[str, ...]
    environ: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def hyperparameters(self) -> dict[str, str]:
        return json.loads(self.files["hyperparameters.json"])

    def as_json(self) -> dict[str, Any]:
        return {"files": self.files, "code": list(self.code), "environ": self.environ}


def generate(count: int, seed: int = 5_1_4) -> Iterator[Case]:
    """Draw jobs; the same seed gives the same jobs."""
    rng = random.Random(seed)
    for number in range(count):
        program, code = rng.choice(PROGRAMS)
        writer = WRITERS[number % len(WRITERS)]
        named_by_environment = rng.random() < 0.15
        given = _hyperparameters(rng)
        if not named_by_environment:
            given["sagemaker_program"] = program
        items = [(name, writer(value)) for name, value in given.items()]
        rng.shuffle(items)
        resources = _resources(rng)
        if rng.random() < 0.5 and "instance_groups" in resources:
            titles = [group["instance_group_name"] for group in resources["instance_groups"]]
            chosen = rng.sample(titles, rng.randint(1, len(titles)))
            items.append(("sagemaker_distribution_instance_groups", json.dumps(chosen)))
        files = {
            "hyperparameters.json": json.dumps(dict(items), ensure_ascii=rng.random() < 0.5),
            "resourceconfig.json": json.dumps(resources),
            "inputdataconfig.json": json.dumps(_channels(rng)),
        }
        environ = _environ(rng)
        if named_by_environment or rng.random() < 0.05:
            environ["SAGEMAKER_PROGRAM"] = program if named_by_environment else rng.choice(("train.py", "main.py"))
        yield Case(number, files, code, environ)


def _value(rng: random.Random) -> object:
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(WORDS)
    if kind < 0.7:
        return rng.choice(NUMBERS)
    if kind < 0.8:
        return rng.choice((True, False, None))
    return rng.choice(LISTS) if kind < 0.9 else rng.choice(MAPS)


def _hyperparameters(rng: random.Random) -> dict[str, object]:
    given = {name: _value(rng) for name in rng.sample(NAMES, rng.randint(0, 9))}
    for name in rng.sample(sorted(FRAMEWORK), rng.randint(0, 4)):
        given[name] = rng.choice(FRAMEWORK[name])
    if rng.random() < 0.3:
        given["sagemaker_submit_directory"] = rng.choice(("s3://bucket/sourcedir.tar.gz", "/opt/ml/code", "/src"))
    return given


def _resources(rng: random.Random) -> dict[str, Any]:
    suffix = rng.choice(("", "", "-x7jf7"))
    names = sorted(f"algo-{n}{suffix}" for n in range(1, rng.choice((1, 1, 2, 4, 12)) + 1))
    resources: dict[str, Any] = {"current_host": rng.choice(names), "hosts": names}
    if rng.random() < 0.8:
        resources |= {
            "network_interface_name": rng.choice(("eth0", "ethwe")),
            "current_instance_type": "ml.p4d.24xlarge",
        }
    if rng.random() < 0.4:
        groups = _groups(rng, names)
        here = next(group for group in groups if resources["current_host"] in group["hosts"])
        resources |= {"current_group_name": here["instance_group_name"], "instance_groups": groups}
    if rng.random() < 0.1:
        resources["topology"] = [{"hostName": name, "capacityUnitId": "cu-1"} for name in names]
    return resources


def _groups(rng: random.Random, names: list[str]) -> list[dict[str, Any]]:
    count = min(len(names), rng.randint(1, 3))
    titles = rng.sample(("trainers", "feeders", "homogeneousCluster", "Zeta-1"), count)
    cut = sorted(rng.sample(range(1, len(names)), count - 1)) if count > 1 else []
    edges = [0, *cut, len(names)]
    return [
        {"instance_group_name": title, "instance_type": "ml.g5.xlarge", "hosts": names[start:end]}
        for title, start, end in zip(titles, edges[:-1], edges[1:], strict=True)
    ]


def _channels(rng: random.Random) -> dict[str, object]:
    channels: dict[str, object] = {}
    for name in rng.sample(("train", "validation", "test", "code", "my-data", "a.b", "Images", "x"), rng.randint(0, 4)):
        channel: dict[str, str] = {"TrainingInputMode": rng.choice(("File", "FastFile", "Pipe"))}
        if rng.random() < 0.6:
            channel |= {"S3DistributionType": "FullyReplicated", "RecordWrapperType": rng.choice(("None", "RecordIO"))}
        if rng.random() < 0.3:
            channel["ContentType"] = "application/x-image"
        channels[name] = channel
    return channels


def _environ(rng: random.Random) -> dict[str, str]:
    choices = {
        "TRAINING_JOB_NAME": "job-of-the-service",
        "SAGEMAKER_SUBMIT_DIRECTORY": "/elsewhere",
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "10",
        "AWS_REGION": "ap-south-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "MY_SETTING": "a b$c",
        "SM_HP_MP_PARAMETERS": '{"a":1}',
        "SAGEMAKER_TRAINING_MODULE": "my_framework:main",
    }
    return {name: value for name, value in choices.items() if rng.random() < 0.2}
