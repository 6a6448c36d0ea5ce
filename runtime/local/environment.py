"""What a container sees of this machine's environment: little, as in an image."""

import importlib.metadata
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from runtime.base.env import Environ
from runtime.local.request import JobSpec, ProcessingJobSpec

INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
)
"""What a program needs to start at all, and the two that say how much of the machine it may use.
Nothing else passes, credentials above all (``--env NAME`` passes one on purpose)."""


def container_environ(
    spec: JobSpec,
    base: Path,
    addresses: Mapping[str, str],
    ports: tuple[int, int],
    here: Environ,
    cpus: int,
    run: str = "1",
) -> dict[str, str]:
    """Compose the environment of one host's ``train``.

    Args:
        spec: the job; its environment wins over what is inherited.
        base: root of the host's tree.
        addresses: of all hosts.
        ports: of the ranks' rendezvous and of the launchers.
        here: environment of this process.
        cpus: CPUs of this machine.
        run: tells runs of one name apart; the same for all attempts of a run.
    """
    values = {name: here[name] for name in INHERITED if name in here}
    # `train`, `process` and `slipway` of this Python come first, as in an image.
    values["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), values.get("PATH", os.defpath)])
    if len(spec.hosts) > 1 and "OMP_NUM_THREADS" not in values:
        # Each host believes that the whole machine is its own.
        values["OMP_NUM_THREADS"] = str(threads_per_rank(spec, cpus))
    # The launcher's own ports would meet those of another run; a hyperparameter of the user still wins.
    values |= {"SLIPWAY_MASTER_PORT": str(ports[0]), "SLIPWAY_PEER_PORT": str(ports[1])}
    # Without a container this Python is the developer's own, which a job must not change unasked.
    values["SLIPWAY_INSTALL"] = "off"
    values |= dict(spec.environment)
    ours = package_path()
    if ours:
        values["PYTHONPATH"] = os.pathsep.join(part for part in (ours, values.get("PYTHONPATH", "")) if part)
    values |= {
        "SAGEMAKER_BASE_DIR": str(base),
        **job_environ(spec, run),
        "SLIPWAY_HOST_ADDRESSES": ",".join(f"{host}={address}" for host, address in addresses.items()),
    }
    return values


def arn_of(spec: JobSpec, run: str) -> str:
    """Return the job's ARN; `run` tells runs of one name apart, and is the same for all attempts of a run."""
    kind = "processing-job" if isinstance(spec, ProcessingJobSpec) else "training-job"
    return f"arn:aws:sagemaker:local:000000000000:{kind}/{spec.name}/{run}"


def job_environ(spec: JobSpec, run: str) -> dict[str, str]:
    """Return the variables that name the job; a processing job has its name in a file alone."""
    if isinstance(spec, ProcessingJobSpec):
        return {}
    return {"TRAINING_JOB_NAME": spec.name, "TRAINING_JOB_ARN": arn_of(spec, run)}


def threads_per_rank(spec: JobSpec, cpus: int) -> int:
    """Divide the machine's CPUs over the ranks of all hosts; at least 1."""
    asked = spec.hyperparameters.get("slipway_procs_per_host", "").strip('"')
    procs = int(asked) if asked.isdigit() and int(asked) > 0 else 1
    return max(1, cpus // (len(spec.hosts) * procs))


def package_path() -> str:
    """Return what PYTHONPATH needs for ``import runtime``: nothing when we are installed, else our checkout."""
    try:
        importlib.metadata.distribution("slipway")
    except importlib.metadata.PackageNotFoundError:
        return str(Path(__file__).parents[2])
    return ""
