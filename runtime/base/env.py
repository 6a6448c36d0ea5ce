"""Every environment variable that Slipway reads or writes, in one table, and the only door to them.

Settings of ours (``SLIPWAY_*``) stand in `runtime.contract.settings` and are merged into the printed table. A policy
test fails when a module reads ``os.environ`` or names a variable that is not listed here.
"""

from __future__ import annotations

import os

from runtime.base.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeAlias

    Environ: TypeAlias = Mapping[str, str]
else:
    Environ = dict  # for those who import the name while they run


@frozen
class Variable:
    """One environment variable."""

    name: str
    """A name that ends with ``*`` stands for a family."""
    set_by: str
    """``platform``, ``user``, ``launcher`` (ours, for ranks), ``local`` (our local platform) or ``system``."""
    meaning: str


VARIABLES = (
    # The platform and its callers
    Variable("SAGEMAKER_BASE_DIR", "user", "root of the contract's tree instead of /opt/ml"),
    Variable("SAGEMAKER_PROGRAM", "user", "same as the hyperparameter sagemaker_program"),
    Variable("SAGEMAKER_SUBMIT_DIRECTORY", "user", "same as the hyperparameter sagemaker_submit_directory"),
    Variable("TRAINING_JOB_NAME", "platform", "name of the training job"),
    Variable("TRAINING_JOB_ARN", "platform", "ARN of the training job"),
    Variable("AWS_REGION", "platform", "region of the job"),
    Variable("AWS_DEFAULT_REGION", "user", "the same, after AWS_REGION"),
    Variable("SAGEMAKER_REGION", "platform", "the same, after these; we export it for scripts of the toolkit"),
    Variable("AWS_ENDPOINT_URL_S3", "user", "endpoint of S3, instead of AWS's own"),
    Variable("S3_ENDPOINT_URL", "user", "the same, as the toolkit and local modes spell it"),
    Variable("AWS_ENDPOINT_URL", "user", "the same for every service"),
    Variable("AWS_ENDPOINT_URL_CODEARTIFACT", "user", "endpoint of CodeArtifact"),
    Variable("AWS_ACCESS_KEY_ID", "user", "with AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN: who fetches code"),
    Variable("AWS_SECRET_ACCESS_KEY", "user", "secret half of the key"),
    Variable("AWS_SESSION_TOKEN", "user", "with keys that expire"),
    Variable("AWS_PROFILE", "user", "set of keys of `aws configure`; read by boto3 on a developer's machine"),
    Variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "platform", "where the job's role has its keys"),
    Variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", "platform", "the same, as a whole address"),
    Variable("AWS_CONTAINER_AUTHORIZATION_TOKEN", "platform", "is sent when asking there"),
    Variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "platform", "file that holds it"),
    Variable("AWS_EC2_METADATA_DISABLED", "user", "true: the instance is not asked for keys"),
    Variable("CA_REPOSITORY_ARN", "user", "CodeArtifact repository that pip installs from"),
    Variable("PIP_*", "user", "pip's own settings; we add a cache, an index and quiet ways where the user set none"),
    Variable("SAGEMAKER_MANAGED_WARMPOOL_CACHE_DIRECTORY", "platform", "survives between jobs of a warm pool"),
    Variable("SAGEMAKER_CONTAINER_LOG_LEVEL", "user", "SM_LOG_LEVEL, unless the hyperparameter is there"),
    Variable("SAGEMAKER_TRAINING_MODULE", "user", "module:function to run when nothing else names a program"),
    Variable("SAGEMAKER_JOB_NAME", "launcher", "the hyperparameter sagemaker_job_name, for scripts of the toolkit"),
    Variable("CURRENT_HOST", "launcher", "name of this host, for scripts of the toolkit"),
    # torchrun's inner contract, which every PyTorch script understands
    Variable("RANK", "launcher", "global rank, in [0, WORLD_SIZE)"),
    Variable("LOCAL_RANK", "launcher", "rank on this host, in [0, LOCAL_WORLD_SIZE)"),
    Variable("WORLD_SIZE", "launcher", "number of ranks over all hosts"),
    Variable("LOCAL_WORLD_SIZE", "launcher", "number of ranks on this host"),
    Variable("GROUP_RANK", "launcher", "rank of this host among the hosts of the world"),
    Variable("GROUP_WORLD_SIZE", "launcher", "number of hosts in the world"),
    Variable("ROLE_RANK", "launcher", "same as RANK; we have one role"),
    Variable("ROLE_WORLD_SIZE", "launcher", "same as WORLD_SIZE; we have one role"),
    Variable("ROLE_NAME", "launcher", "always 'default'"),
    Variable("MASTER_ADDR", "launcher", "address of the coordinator host"),
    Variable("MASTER_PORT", "launcher", "port of the ranks' rendezvous on the coordinator host"),
    Variable("TORCHELASTIC_RESTART_COUNT", "launcher", "0: we never restart ranks inside one container"),
    Variable("TORCHELASTIC_MAX_RESTARTS", "launcher", "0, as above"),
    Variable("TORCHELASTIC_RUN_ID", "launcher", "name of the job"),
    Variable("TORCHELASTIC_ERROR_FILE", "launcher", "where a rank writes its error record (JSON)"),
    # Settings of libraries that we give a default when the user has set none
    Variable("OMP_NUM_THREADS", "launcher", "CPUs of this host divided by its ranks, unless the user set it"),
    Variable("PYTHONUNBUFFERED", "launcher", "1, so that log lines arrive at once"),
    Variable("PYTHONPATH", "launcher", "the code directory, before what was there"),
    Variable("GLOO_SOCKET_IFNAME", "launcher", "the verified network interface of the job"),
    Variable("NCCL_SOCKET_IFNAME", "launcher", "the verified network interface of the job"),
    Variable("CUDA_VISIBLE_DEVICES", "user", "respected when counting accelerators"),
    Variable("HIP_VISIBLE_DEVICES", "user", "the same for AMD; so is ROCR_VISIBLE_DEVICES"),
    Variable("ROCR_VISIBLE_DEVICES", "user", "the same for AMD"),
    Variable("NEURON_RT_VISIBLE_CORES", "user", "the same for Neuron, such as 0-3,8"),
    Variable("NEURON_RT_NUM_CORES", "user", "the same for Neuron, as a number"),
    Variable("FI_*", "launcher", "libfabric's settings for EFA, by the devices and versions that are here"),
    Variable("NCCL_PROTO", "launcher", "only with an aws-ofi-nccl that is known to need it"),
    Variable("NCCL_NET", "launcher", "Socket, where the image has a plugin for a network that this host lacks"),
    Variable("NCCL_SHM_USE_CUDA_MEMCPY", "launcher", "1 on g5 and g6, whose GPUs have no NVLink"),
    # The field's own launchers, where a job asks for one of them
    Variable("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "launcher", "seconds from SIGTERM to SIGKILL under torchrun"),
    Variable("CROSS_RANK", "launcher", "DeepSpeed's word for GROUP_RANK"),
    Variable("CROSS_SIZE", "launcher", "DeepSpeed's word for GROUP_WORLD_SIZE"),
    Variable("LOCAL_SIZE", "launcher", "DeepSpeed's word for LOCAL_WORLD_SIZE"),
    Variable("OMPI_*", "launcher", "Open MPI's parameters, and what it tells its ranks"),
    Variable("SMDATAPARALLEL_*", "launcher", "what SageMaker's data parallel library wants to know"),
    Variable("SAGEMAKER_INSTANCE_TYPE", "launcher", "type of this host, for SageMaker's data parallel library"),
    # The SM_* family of the SageMaker toolkits
    Variable("SM_*", "launcher", "the toolkits' view of the job; see docs/01-contract.md"),
    # What the local platform lets through to the hosts that it plays; nothing else of this machine's environment
    Variable("PATH", "system", "where programs are found; the directory of this Python is put before it"),
    Variable("HOME", "system", "home directory"),
    Variable("LANG", "system", "language and encoding; so is LC_ALL"),
    Variable("LC_ALL", "system", "wins over LANG"),
    Variable("TZ", "system", "time zone"),
    Variable("TMPDIR", "system", "directory of temporary files"),
    Variable("VIRTUAL_ENV", "system", "the virtual environment that is active"),
    Variable("LD_LIBRARY_PATH", "system", "where shared libraries are found"),
    Variable("RES_OPTIONS", "user", "of the name service; the launcher gives itself short timeouts when it is not set"),
    # Our own wiring, not settings
    Variable("SLIPWAY_HOST_ADDRESSES", "local", "name=address pairs, used instead of DNS: algo-1=127.0.0.2,..."),
    Variable("SLIPWAY_STATE_DIR", "launcher", "where ranks leave progress, error and stop records"),
    Variable("SLIPWAY_LAUNCH", "launcher", "a random mark, by which what the ranks leave behind is found and ended"),
    Variable("SLIPWAY_STACKS_DIR", "launcher", "where a process writes its stacks when it is asked for them"),
    Variable("SLIPWAY_HOST", "launcher", "name of this host, for the log lines of ranks"),
    Variable("SLIPWAY_IMAGE_FILE", "user", "JSON file with the image's defaults; default /etc/slipway/image.json"),
    Variable("SLIPWAY_CACHE_DIR", "user", "where `slipway run` keeps downloads from S3; default ~/.cache/slipway"),
    Variable("XDG_CACHE_HOME", "user", "the same for every program; ours are in `slipway` below it"),
    Variable("SLIPWAY_RUN_FLAGS", "user", "flags of `slipway run` for jobs that local mode of an SDK starts"),
)


def process_environ() -> dict[str, str]:
    """Return a copy of this process's environment: the one place that reads it."""
    return dict(os.environ)


def apply(values: Mapping[str, str]) -> None:
    """Set variables in this process, for a library that can be configured in no other way."""
    os.environ.update(values)


def flag(value: str) -> bool | None:
    """Read an on/off word; None when it is neither.

    >>> flag("Off"), flag("1"), flag("maybe")
    (False, True, None)
    """
    word = value.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    return False if word in {"0", "false", "no", "off"} else None


def region_of(environ: Environ, default: str = "us-east-1") -> str:
    """Return the job's region."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "SAGEMAKER_REGION"):
        if environ.get(name):
            return environ[name]
    return default
