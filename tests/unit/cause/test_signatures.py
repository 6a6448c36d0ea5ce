"""Known error texts, in the words of the libraries themselves, and the row that each must find."""

import pytest

from runtime.cause.signatures import SIGNATURES, feels_like_peer_loss, find

TEXTS = {
    # text: a piece of the row's meaning or remedy
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0": "the GPU's memory is full",
    "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`": "found no memory to start",
    "RuntimeError: CUDA error: device-side assert triggered": "index out of range",
    "RuntimeError: CUDA error: an illegal memory access was encountered": "memory that is not its own",
    "RuntimeError: CUDA error: uncorrectable ECC error encountered": "the GPU itself has failed",
    "RuntimeError: CUDA error: no kernel image is available for execution on the device": "has no code for this GPU",
    "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).": "driver is older",
    "AssertionError: Torch not compiled with CUDA enabled": "no GPU is usable here",
    "RuntimeError: CUDA error: invalid device ordinal": "does not have",
    "RuntimeError: DataLoader worker (pid 9) is killed by signal: Bus error. It is possible": "shared memory is full",
    "RuntimeError: DataLoader worker (pid(s) 9) is killed by signal: Killed.": "a loader worker was killed",
    "RuntimeError: DataLoader worker (pid 9) is killed by signal: Segmentation fault.": "native code in a loader",
    "OSError: [Errno 24] Too many open files: 'shard-7.tar'": "limit of open files",
    "RuntimeError: can't start new thread": "limit of processes",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory": "not that much",
    "OSError: [Errno 12] Cannot allocate memory": "refused memory",
    "MemoryError": "not that much memory",
    "OSError: [Errno 28] No space left on device: '/dev/shm/x'": "shared memory is full",
    "OSError: [Errno 28] No space left on device": "a disk is full",
    "OSError: [Errno 30] Read-only file system: '/out'": "mount the place writable",
    "RuntimeError: Detected mismatch between collectives on ranks. Rank 1 is running x": "different",
    "RuntimeError: [enforce fail] op.preamble.length <= op.nbytes. 8 vs 4": "different collectives",
    "RuntimeError: Expected to have finished reduction in the prior iteration before": "got no gradient",
    "torch.distributed.DistBackendError: NCCL error: Duplicate GPU detected : rank 1": "use the same GPU",
    "torch.distributed.DistBackendError: NCCL error in: x, invalid usage, ncclInvalidUsage": "called wrongly",
    "NCCL WARN Error while creating shared memory segment /dev/shm/nccl-x": "NCCL found no shared memory",
    "NET/OFI Unable to find a protocol that worked.  Failing initialization.": "EFA network",
    "DistBackendError: NCCL error: unhandled system error, ncclSystemError": "or shared memory failed",
    "RuntimeError: NCCL version mismatch between ranks": "different versions",
    "torch.distributed.DistBackendError: NCCL error in: x.cpp:1, unhandled cuda error": "CUDA call inside NCCL",
    "DistNetworkError: The server socket has failed to listen, errno: 98 EADDRINUSE": "the port is taken",
    "RuntimeError: [gloo/transport/tcp/device.cc:84] ifa != nullptr. Unable to find address for: eth7": "own address",
    "torch.distributed.DistStoreError: Timed out waiting for clients. 1/2 clients joined.": "rendezvous",
    "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)": "connection to another rank was lost",
    "RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer": "connection to another rank was lost",
    "NCCL error: socket hung up": "connection to another rank was lost",
    "BrokenPipeError: [Errno 32] Broken pipe": "connection to another rank was lost",
    "NCCL error of an unknown kind": "connection to another rank was lost",
    "ModuleNotFoundError: No module named 'runtime.foo'": "hides Slipway",
    "ModuleNotFoundError: No module named 'peft'": "requirements.txt beside the script",
    "ImportError: cannot import name 'x' from 'y'": "pin it in requirements.txt",
    "ImportError: libcudart.so.11.0: cannot open shared object file: No such file": "does not fit this image",
    "ValueError: numpy.dtype size changed, may indicate binary incompatibility": "built for another NumPy",
    "_pickle.UnpicklingError: Weights only load failed.": "more than tensors",
    "RuntimeError: Error(s) in loading state_dict for Net": "another model",
    "botocore.exceptions.NoCredentialsError: Unable to locate credentials": "no AWS credentials",
    "botocore.exceptions.ClientError: An error occurred (AccessDenied) when calling the GetObject": "may not do that",
    "botocore.exceptions.EndpointConnectionError: Could not connect to the endpoint URL: x": "AWS endpoint",
    "socket.gaierror: [Errno -3] Temporary failure in name resolution": "out of reach from here",
    "OSError: You are trying to access a gated repo.": "refuses these credentials",
    "FileNotFoundError: [Errno 2] No such file or directory: '/opt/ml/input/data/trian'": "InputDataConfig",
    "PermissionError: [Errno 13] Permission denied: '/out'": "owner of mounted directories",
    "RuntimeError: DataLoader worker (pid(s) 7) exited unexpectedly": "died without a word",
    "train.py: error: unrecognized arguments: --epoch 3": "slipway plan",
    "RecursionError: maximum recursion depth exceeded": "calls itself without end",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_known_text_finds_its_row(text: str) -> None:
    row = find(text)
    assert row is not None
    assert TEXTS[text] in f"{row.means} {row.fix}"
    assert row.fix


def test_no_row_hides_behind_another() -> None:
    found = {id(find(text)) for text in TEXTS}
    assert [row.words for row in SIGNATURES if id(row) not in found] == []


@pytest.mark.parametrize("text", ["ValueError: bad label 11", "KeyError: 'x'", "", "AssertionError", "loss is nan"])
def test_an_unknown_text_is_left_alone(text: str) -> None:
    assert find(text) is None
    assert not feels_like_peer_loss(text)


def test_what_a_survivor_feels_and_what_causes_are_kept_apart() -> None:
    felt = {TEXTS[text] for text in TEXTS if feels_like_peer_loss(text)}
    assert felt == {
        "connection to another rank was lost",
        "rendezvous",
        # What survivors of NCCL and EFA print as well as those who fail by themselves:
        "or shared memory failed",
        "EFA network",
        "CUDA call inside NCCL",
    }
