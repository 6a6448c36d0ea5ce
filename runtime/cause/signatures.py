"""What known error texts mean, and what to do about them: data first, one function that looks it up.

The order is the order of looking: a text that names a cause is asked before the general words of a lost peer, which
every survivor prints. A row needs all of its words; ``|`` separates ways to say one word.

Sources: the messages of PyTorch (c10/cuda, torch/utils/data, ProcessGroupNCCL and gloo), NCCL's and libfabric's error
names, CPython's own, and the threads collected under "What users complain about" in our research.
"""

from __future__ import annotations

from runtime.base.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


@frozen
class Signature:
    """One row."""

    words: tuple[str, ...]
    """All must be in the text; in each, ``|`` separates alternatives. Case counts."""
    means: str
    """What happened, in the user's terms; empty when the text says it itself."""
    fix: str
    """What to do now."""
    consequence: bool = False
    """What a survivor feels when another rank or host has gone: never the cause by itself."""
    look: str = ""
    """A fact of this machine worth adding: ``shm``, ``memory``, ``limits`` or ``disk``."""


def _row(words: Sequence[str], means: str, fix: str, *, felt: bool = False, look: str = "") -> Signature:
    """Make a row; `felt`: survivors print it too, so that a cause which is told within seconds goes first."""
    return Signature(tuple(words), means, fix, consequence=felt, look=look)


def _felt(words: Sequence[str], means: str = "the connection to another rank was lost") -> Signature:
    return Signature(
        tuple(words),
        means,
        "look at the rank or host that ended first, in the log of every host",
        consequence=True,
    )


MEMORY_FIX = "use a smaller batch per rank, fewer loader workers, or an instance with more memory"

SIGNATURES: tuple[Signature, ...] = (
    # --- GPU ---------------------------------------------------------------------------------------------------------
    _row(
        ["CUDA out of memory|CUDA error: out of memory|HIP out of memory"],
        "the GPU's memory is full",
        "use a smaller batch per rank, gradient accumulation, bfloat16 or activation checkpointing; "
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True helps when much is reserved but unallocated",
    ),
    _row(
        ["CUBLAS_STATUS_ALLOC_FAILED|CUBLAS_STATUS_NOT_INITIALIZED|CUDNN_STATUS_NOT_INITIALIZED"],
        "a CUDA library found no memory to start in, most often",
        "use a smaller batch per rank; keep one process per GPU",
    ),
    _row(
        ["device-side assert triggered"],
        "a kernel found an index out of range, most often a label or token id >= the number of classes",
        "check the range of labels and ids; CUDA_LAUNCH_BLOCKING=1 shows the line",
    ),
    _row(
        ["an illegal memory access was encountered|misaligned address|unspecified launch failure"],
        "a GPU kernel touched memory that is not its own",
        "CUDA_LAUNCH_BLOCKING=1 shows the line; a kernel of your own is the first suspect",
    ),
    _row(
        ["uncorrectable ECC error|uncorrectable NVLink error|fallen off the bus|CUDA error: hardware stack error"],
        "the GPU itself has failed",
        "run the job again: the service gives another machine; tell AWS when it happens twice",
    ),
    _row(
        ["no kernel image is available for execution|no kernel image is available"],
        "this build of the library has no code for this GPU",
        "use an image whose CUDA build knows the GPU (`slipway doctor` names both)",
    ),
    _row(
        ["driver on your system is too old|CUDA driver version is insufficient|forward compatibility was attempted"],
        "the machine's NVIDIA driver is older than this CUDA build needs",
        "use an image with an older CUDA, or a newer instance type (`slipway doctor` names both versions)",
    ),
    _row(
        ["Found no NVIDIA driver|No CUDA GPUs are available|Torch not compiled with CUDA|no CUDA-capable device"],
        "no GPU is usable here",
        "use a GPU instance type with the CUDA flavour of the image (`local_gpu` on your own machine)",
    ),
    _row(
        ["CUDA error: invalid device ordinal"],
        "a rank asks for a GPU that this host does not have",
        "slipway_procs_per_host must not exceed the GPUs; take the device from LOCAL_RANK",
    ),
    # --- shared memory, memory, limits -------------------------------------------------------------------------------
    _row(
        ["killed by signal: Bus error|insufficient shared memory|unable to mmap|unable to write to file </torch_"],
        "shared memory is full: loader workers pass batches through /dev/shm",
        "start the container with --shm-size=2g or more, or use fewer loader workers or smaller batches",
        look="shm",
    ),
    _row(
        ["is killed by signal: Killed"],
        "a loader worker was killed, most often for want of memory",
        MEMORY_FIX,
        look="memory",
    ),
    _row(
        ["is killed by signal: Segmentation fault|exited unexpectedly with exit code -11"],
        "native code in a loader worker crashed",
        "set num_workers=0 to see where; a library that does not survive a fork is the first suspect",
    ),
    _row(
        ["Too many open files|received 0 items of ancdata"],
        "the limit of open files is reached",
        'raise it (--ulimit nofile=65536), or torch.multiprocessing.set_sharing_strategy("file_system")',
        look="limits",
    ),
    _row(
        ["can't start new thread|Resource temporarily unavailable|pthread_create failed"],
        "the limit of processes and threads is reached",
        "use fewer loader workers and threads (OMP_NUM_THREADS), or raise --pids-limit",
        look="limits",
    ),
    _row(
        ["DefaultCPUAllocator: can't allocate memory|DefaultCPUAllocator: not enough memory|Unable to allocate"],
        "this host has not that much memory",
        MEMORY_FIX,
        look="memory",
    ),
    _row(
        ["Cannot allocate memory"],
        "the machine refused memory",
        f"{MEMORY_FIX}; with EFA and forked loader workers FI_EFA_USE_HUGE_PAGE=0 helps",
        look="memory",
    ),
    _row(["MemoryError"], "this host has not that much memory", MEMORY_FIX, look="memory"),
    _row(
        ["No space left on device", "/dev/shm"],  # noqa: S108 - words to look for
        "shared memory is full",
        "start the container with --shm-size=2g or more",
        look="shm",
    ),
    _row(
        ["No space left on device|Disk quota exceeded"],
        "a disk is full",
        "use a larger volume (VolumeSizeInGB), write less, or clear old checkpoints",
        look="disk",
    ),
    _row(
        ["Read-only file system"],
        "",
        "write below /opt/ml/model, /opt/ml/output or /opt/ml/checkpoints, or mount the place writable",
    ),
    # --- collectives: causes ------------------------------------------------------------------------------------------
    _row(
        ["Detected mismatch between collectives on ranks|op.preamble.length <= op.nbytes|Mismatched collective"],
        "the ranks called different collectives, or the same one with different shapes",
        "every rank must take the same branches; TORCH_DISTRIBUTED_DEBUG=DETAIL names both calls",
    ),
    _row(
        ["Expected to have finished reduction in the prior iteration"],
        "some parameters got no gradient on this rank",
        "DistributedDataParallel(find_unused_parameters=True), or use every parameter in the loss",
    ),
    _row(
        ["Duplicate GPU detected"],
        "two ranks use the same GPU",
        "torch.cuda.set_device(LOCAL_RANK) before anything else: it is in each rank's environment",
    ),
    _row(
        ["ncclInvalidUsage|ncclInvalidArgument"],
        "NCCL was called wrongly",
        "one GPU per rank, tensors on that GPU; NCCL_DEBUG=WARN names the call",
    ),
    _row(
        ["NCCL WARN|ncclSystemError|ncclUnhandledCudaError", "/dev/shm|shm_open|No space left"],  # noqa: S108 - as above
        "NCCL found no shared memory",
        "start the container with --shm-size=2g or more",
        look="shm",
    ),
    _row(
        ["fi_getinfo|NET/OFI Unable to find a protocol|libfabric:|NET/OFI Failed|FI_PROVIDER"],
        "the EFA network could not be used",
        "unset FI_PROVIDER on instance types without EFA; allow all traffic within the security group, both ways",
        felt=True,
    ),
    _row(
        ["ncclSystemError|unhandled system error"],
        "NCCL's network or shared memory failed",
        "NCCL_DEBUG=INFO names the call; NCCL_SOCKET_IFNAME must be an interface that all hosts share",
        felt=True,
    ),
    _row(
        ["version mismatch|Mismatched NCCL version"],
        "the hosts run different versions",
        "use one image, by digest, on all hosts",
    ),
    _row(
        ["unhandled cuda error|ncclUnhandledCudaError"],
        "a CUDA call inside NCCL failed",
        "NCCL_DEBUG=WARN names it; a full GPU memory is the first suspect",
        felt=True,
    ),
    _row(
        ["Address already in use|EADDRINUSE"],
        "the port is taken on this host",
        "slipway_master_port and slipway_peer_port move our ports; end what listens there",
    ),
    _row(
        ["Unable to find address for|Unable to resolve hostname|failed to resolve address"],
        "gloo cannot find this host's own address",
        "set GLOO_SOCKET_IFNAME to an interface that all hosts share (`slipway doctor` lists them)",
    ),
    # --- collectives: what a survivor feels ---------------------------------------------------------------------------
    _felt(["waiting for clients|clients joined"], "other ranks did not come to the rendezvous"),
    _felt(
        ["Watchdog caught collective operation timeout|ncclRemoteError|remote process exited or there was a network"]
    ),
    _felt(
        ["gloo/transport|DistNetworkError|DistStoreError|DistBackendError|recvValue failed|NCCL communicator was abort"]
    ),
    _felt(["NCCL error", "socket|closed|abort|timeout|Connection"]),
    _felt(["Connection reset by peer|Connection closed by peer|Broken pipe|Connection refused|Socket Timeout"]),
    _felt(["NCCL error"]),
    # --- programs -----------------------------------------------------------------------------------------------------
    _row(
        ["No module named 'runtime"],
        "a module named runtime of the user's own hides Slipway",
        "rename the file or folder runtime in the code directory",
    ),
    _row(
        ["No module named"],
        "",
        "name the package in requirements.txt beside the script (source_dir), or add the file to the code directory",
    ),
    _row(
        ["cannot import name"],
        "",
        "check the installed version against the one that the script was written for; pin it in requirements.txt",
    ),
    _row(
        ["cannot open shared object file|undefined symbol|GLIBC_|GLIBCXX_|version `GLIBC"],
        "a compiled package does not fit this image",
        "install the build for this Python, torch and CUDA, or leave the image's own version in place",
    ),
    _row(
        ["numpy.dtype size changed|compiled using NumPy 1.x|numpy.core.multiarray failed to import"],
        "a compiled package was built for another NumPy",
        "pin the NumPy that it was built for in requirements.txt, or upgrade the package",
    ),
    _row(
        ["Weights only load failed"],
        "the file holds more than tensors",
        "torch.load(..., weights_only=False) if you trust the file",
    ),
    _row(
        ["Error(s) in loading state_dict|size mismatch for"],
        "the checkpoint belongs to another model",
        "build the model as it was when the checkpoint was written, or load with strict=False",
    ),
    _row(
        ["NoCredentialsError|Unable to locate credentials|CredentialRetrievalError"],
        "no AWS credentials are here",
        "give the job an execution role; on your own machine pass AWS_PROFILE or the AWS_* variables",
    ),
    _row(
        ["AccessDenied|is not authorized to perform"],
        "the job's role may not do that",
        "add the action and the resource to the execution role's policy (and the bucket's, and the KMS key's)",
    ),
    _row(
        ["EndpointConnectionError|Could not connect to the endpoint URL|ConnectTimeoutError"],
        "an AWS endpoint is out of reach",
        "with network isolation or a private VPC use channels for data and a VPC endpoint for S3",
    ),
    _row(
        ["Couldn't connect to|Temporary failure in name resolution|Name or service not known|Network is unreachable"],
        "the name or network is out of reach from here",
        "bring data and models in through channels; network isolation and private VPCs have no internet",
    ),
    _row(
        ["gated repo|401 Client Error|403 Client Error"],
        "the server refuses these credentials",
        "check the token in the environment and that it may read that repository",
    ),
    _row(
        ["FileNotFoundError", "/opt/ml/input/data"],
        "",
        "channels are directories /opt/ml/input/data/NAME (SM_CHANNEL_NAME); compare with the job's InputDataConfig",
    ),
    _row(
        ["Permission denied"],
        "",
        "write below /opt/ml/model, /opt/ml/output or /opt/ml/checkpoints; check the owner of mounted directories",
    ),
    _row(
        ["DataLoader worker", "exited unexpectedly"],
        "a loader worker died without a word",
        "set num_workers=0 to see why; memory and /dev/shm are the first suspects",
        look="memory",
    ),
    _row(
        ["the following arguments are required|unrecognized arguments"],
        "",
        "declare each hyperparameter as an option of the script; `slipway plan` shows the words that it gets",
    ),
    _row(
        ["RecursionError"],
        "",
        "a function calls itself without end; the first lines of the traceback show which",
    ),
)


@frozen
class SignalMeaning:
    """What a death by signal means."""

    means: str
    fix: str
    look: str = ""


SIGNALS = {
    "SIGSEGV": SignalMeaning(
        "native code touched memory that is not its own",
        "PYTHONFAULTHANDLER=1 shows the line; a compiled extension or a mismatched CUDA build is the first suspect",
    ),
    "SIGBUS": SignalMeaning("", "start the container with --shm-size=2g or more, or use fewer loader workers", "shm"),
    "SIGABRT": SignalMeaning("native code gave up", "the lines before in the log say why", ""),
    "SIGFPE": SignalMeaning("native code divided by zero", "PYTHONFAULTHANDLER=1 shows the line"),
    "SIGILL": SignalMeaning(
        "a library was built for another processor", "install a build for this instance type's processor"
    ),
    "SIGTERM": SignalMeaning("something other than the platform told it to end", "look for who ends processes here"),
    "SIGXCPU": SignalMeaning("the limit of processor time is reached", "raise ulimit -t"),
    "SIGXFSZ": SignalMeaning("the limit of file size is reached", "raise ulimit -f"),
}


def find(text: str) -> Signature | None:
    """Return the first row whose words are all in the text; None when nothing here is known.

    >>> find("RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB").means
    "the GPU's memory is full"
    """
    for row in SIGNATURES:
        if all(any(way in text for way in word.split("|")) for word in row.words):
            return row
    return None


def feels_like_peer_loss(text: str) -> bool:
    """Tell whether an error text is what a survivor sees, rather than a cause."""
    row = find(text)
    return row is not None and row.consequence
