"""What can be seen of this machine and this job in a millisecond, each finding with its reason and remedy.

`train` prints the warnings among them before it starts; `slipway doctor` prints all, with the slow ones of its own.
Nothing here asks the network, starts a program or imports a package of the user's. `root` moves /proc, /sys and /dev.
"""

from __future__ import annotations

import os

from runtime.base.frozen import frozen
from runtime.base.redact import MASK, is_secret
from runtime.cause.cgroup import gib
from runtime.contract.paths import DEFAULT_BASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runtime.base.env import Environ
    from runtime.contract.job import Job

OK, WARNING, STOP = "ok", "warning", "stop"

SHELLS = ("bash", "sh", "dash", "ash", "zsh")
GPU_TYPES = ("ml.p", "ml.g")
"""Families of instance types that have NVIDIA GPUs; Graviton's ml.g does not exist."""
NETWORK_FILE_SYSTEMS = {"lustre": 988, "nfs4": 2049, "nfs": 2049}
"""Type in /proc/mounts, and the TCP port of its server. Source: FSx for Lustre and EFS user guides."""
SHM = "/dev/shm"  # noqa: S108 - the one place of shared memory


@frozen
class Finding:
    """One thing that was looked at."""

    level: str
    """`OK`, `WARNING` or `STOP`: nothing to do, worth knowing, the job cannot work."""
    name: str
    found: str
    why: str = ""
    """Why it matters; empty when all is well."""
    fix: str = ""

    def text(self) -> str:
        """Say it in one line of a log."""
        return f"{self.found}: {self.why}. Fix: {self.fix}" if self.fix else f"{self.found}: {self.why}"


def quick(job: Job, environ: Environ, root: str = "", in_model: Sequence[str] | None = None) -> Iterator[Finding]:
    """Look at everything that a job should be warned of before it starts; only what is not well is returned.

    Args:
        job: the contract, as read.
        environ: of this process.
        root: of the file system.
        in_model: what lay in the model's directory before the ranks were started; None: what lies there now.
    """
    yield from mangled(environ)
    yield from mangled(job.hyperparameters, "hyperparameter")
    if not job.under_contract:
        return
    yield from gpus(job, root)
    yield from file_channels(job)
    if job.paths.base == DEFAULT_BASE:
        # A tree elsewhere is the local platform's or a test's: its process 1 and its disks say nothing of a container.
        yield from first_process(root)
        yield from checkpoint_mount(job, root)
        yield from leftovers(job, in_model)


def mangled(named: Environ, kind: str = "environment variable") -> Iterator[Finding]:
    """Find values that somebody's ``$`` interpolation has gone over, or should have."""
    for name, value in named.items():
        text = value.strip('"')
        if "$$" not in text and "${" not in text and not text.startswith("$"):
            continue
        begin = max(text.find("$$"), text.find("${"), 0)
        rest = text[begin:].lstrip("${")
        word = rest.partition("}")[0].split("/")[0].split(":")[0]
        if text[begin : begin + 2] == "$$" or (word[:1].isalpha() and word.replace("_", "").isalnum()):
            shown = MASK if is_secret(name, text) else repr(text[begin : begin + 40])
            yield Finding(
                WARNING,
                "variables",
                f"{kind} {name} holds {shown}",
                "nothing expands it here; a compose file halves $$ and empties $NAME",
                "write the value out, and $ as $$ in a compose file",
            )


def gpus(job: Job, root: str = "") -> Iterator[Finding]:
    """Find a GPU instance that shows no GPU."""
    kind = job.host.instance_type
    if not kind.startswith(GPU_TYPES) and kind != "local_gpu":
        return
    nodes = [name for name in _names(f"{root}/dev") if name.startswith("nvidia") and name[6:].isdigit()]
    if not nodes:
        yield Finding(
            WARNING,
            "GPU",
            f"instance type {kind} has GPUs, and none is visible here",
            "the ranks would train on the CPU, at the price of the GPUs",
            "use the CUDA flavour of the image; on your own machine --gpus all, or local_gpu in place of local",
        )


def file_channels(job: Job) -> Iterator[Finding]:
    """Find a channel that is one file where programs look for a directory."""
    for channel in job.channels.values():
        if os.path.isfile(channel.directory):
            yield Finding(
                WARNING,
                f"channel {channel.name}",
                f"channel {channel.name!r} is a file, not a directory: {channel.directory}",
                "programs that list the channel's directory fail",
                "end the S3 URI with the prefix of a folder, or open SM_CHANNEL_* as a file",
            )


def first_process(root: str = "") -> Iterator[Finding]:
    """Find a shell as process 1, which passes no signal on."""
    first = read_text(f"{root}/proc/1/comm").strip()
    if first in SHELLS and os.getpid() != 1:
        yield Finding(
            WARNING,
            "process 1",
            f"process 1 is {first}",
            "a stop of the job (SIGTERM) never reaches us: nothing is saved before the platform kills the container",
            "start us by `exec train`, or make `train` the container's command",
        )


def checkpoint_mount(job: Job, root: str = "") -> Iterator[Finding]:
    """Find checkpoints that would go with the container."""
    if job.checkpoint_path is None:
        return
    mount, _, _ = mount_of(job.checkpoint_path, root)
    if mount == "/":
        yield Finding(
            WARNING,
            "checkpoints",
            f"{job.checkpoint_path} is no mount",
            "checkpoints are lost with the container",
            "set CheckpointConfig.S3Uri; on your own machine mount a directory there",
        )


def leftovers(job: Job, in_model: Sequence[str] | None = None) -> Iterator[Finding]:
    """Find what an earlier run left where the model goes; see `quick`."""
    names = _names(job.paths.model) if in_model is None else in_model
    if names:
        shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        yield Finding(
            WARNING,
            "model",
            f"{job.paths.model} is not empty ({shown})",
            "what is there becomes part of model.tar.gz",
            "begin with an empty directory, or a mount of its own for each run",
        )


# --- asked by the doctor alone ------------------------------------------------------------------------------------


def shared_memory(root: str = "") -> Iterator[Finding]:
    """Look at /dev/shm, through which loader workers and NCCL pass their data."""
    try:
        told = os.statvfs(f"{root}{SHM}")
    except OSError:
        yield Finding(STOP, SHM, "there is none", "loader workers cannot pass on a batch", f"mount a tmpfs at {SHM}")
        return
    size = told.f_blocks * told.f_frsize
    if size < 1 << 29:
        yield Finding(
            WARNING,
            SHM,
            gib(size),
            "every batch of every loader worker lies in it; when it is full, workers die of a bus error",
            "--shm-size=2g (SageMaker gives half of the memory)",
        )
    else:
        yield Finding(OK, SHM, f"{gib(size)}, {gib(told.f_bavail * told.f_frsize)} free")


def interface(job: Job | None, root: str = "") -> Iterator[Finding]:
    """Look for the interface that the platform names."""
    there = _names(f"{root}/sys/class/net")
    named = job.network_interface if job is not None else ""
    if named and named not in there:
        yield Finding(
            WARNING,
            "interface",
            f"{named!r} of resourceconfig.json does not exist; here are {', '.join(there) or 'none'}",
            "libraries that are told that name fail to connect",
            "nothing for `train`, which looks for one that exists; NCCL_SOCKET_IFNAME names another",
        )
    else:
        yield Finding(OK, "interface", named or ", ".join(there) or "none")


def limits(root: str = "") -> Iterator[Finding]:
    """Look at the limits of open files, locked memory and processes."""
    found = {name: value for name, value in _limit_lines(root)}
    files = found.get("Max open files", -1)
    processes = found.get("Max processes", -1)
    cgroup = [read_text(f"{root}/sys/fs/cgroup{part}/pids.max").strip() for part in ("", "/pids")]
    processes = min((int(text) for text in (*cgroup, str(processes)) if text.isdigit()), default=-1)
    locked = found.get("Max locked memory", -1)
    if 0 <= files < 4096:
        yield Finding(
            WARNING,
            "open files",
            str(files),
            "loader workers pass batches as open files; a large data set needs thousands",
            "--ulimit nofile=65536",
        )
    if 0 <= processes < 512:
        yield Finding(
            WARNING,
            "processes",
            str(processes),
            "every rank, loader worker and library thread counts",
            "--pids-limit=-1",
        )
    if _names(f"{root}/sys/class/infiniband") and 0 <= locked < 1 << 30:
        yield Finding(
            WARNING, "locked memory", gib(locked), "EFA registers its buffers in locked memory", "--ulimit memlock=-1"
        )
    told = ", ".join(
        f"{word} {'unlimited' if n < 0 else n}" for word, n in (("files", files), ("processes", processes))
    )
    yield Finding(OK, "limits", told)


def writable(job: Job) -> Iterator[Finding]:
    """Look at every place that the contract lets a program write to."""
    paths = job.paths
    for place in filter(None, (paths.model, paths.output, paths.output_data, job.checkpoint_path)):
        standing = place
        while not os.path.exists(standing):  # `train` makes what is missing
            standing = os.path.dirname(standing)
        if not os.path.isdir(standing) or not os.access(standing, os.W_OK | os.X_OK):
            yield Finding(
                STOP,
                "writable",
                f"{place} cannot be written by uid {os.getuid()}",
                "the job's results have no place",
                f"mount it writable, or let uid {os.getuid()} own {standing}",
            )
            continue
        told = os.statvfs(standing)
        free = told.f_bavail * told.f_frsize
        if free < 1 << 20:
            yield Finding(
                STOP, "disk", f"{place} has {free} bytes free", "nothing can be saved", "use a larger VolumeSizeInGB"
            )
        else:
            yield Finding(OK, "writable", f"{place}, {gib(free)} free")


def mounts(root: str = "") -> Iterator[tuple[str, str, str]]:
    """Return (mount point, type, source) of every mount, in the kernel's order."""
    for line in read_text(f"{root}/proc/mounts").splitlines():
        source, point, kind, *_ = line.split(" ")
        yield point.replace("\\040", " "), kind, source.replace("\\040", " ")


def mount_of(path: str, root: str = "") -> tuple[str, str, str]:
    """Return the mount that a path is on; ``("", "", "")`` where the kernel does not tell."""
    best = ("", "", "")
    for mount in mounts(root):
        inside = path == mount[0] or path.startswith(mount[0].rstrip("/") + "/")
        if inside and len(mount[0]) >= len(best[0]):
            best = mount
    return best


def _limit_lines(root: str) -> Iterator[tuple[str, int]]:
    for line in read_text(f"{root}/proc/self/limits").splitlines()[1:]:
        words = line[26:].split()
        if words:
            yield line[:26].strip(), int(words[0]) if words[0].isdigit() else -1


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def read_text(path: str) -> str:
    """Return a file's text; empty when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
