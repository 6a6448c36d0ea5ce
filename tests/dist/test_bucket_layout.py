"""Why `wrap` settles DDP's buckets: without it, the first step after a restart adds in another order.

Four ranks, because with two the order of an addition cannot matter.
"""

import datetime
import hashlib
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

RANKS = 4
STEPS = 4


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(*[torch.nn.Linear(257, 257) for _ in range(24)])


def _train(rank: int, port: int, settle: bool, folder: str) -> None:
    from runtime.strategies import settle_buckets

    dist.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS, timeout=datetime.timedelta(seconds=600)
    )

    def start() -> tuple[DistributedDataParallel, torch.optim.Optimizer]:
        ddp = DistributedDataParallel(_model(), bucket_cap_mb=1)
        if settle:
            settle_buckets(ddp)
        return ddp, torch.optim.SGD(ddp.parameters(), lr=0.5)

    def steps(ddp: torch.nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            x = torch.randn(8, 257, generator=torch.Generator().manual_seed(number * RANKS + rank))
            optimizer.zero_grad()
            ddp(x).square().mean().backward()
            optimizer.step()

    straight, optimizer = start()
    steps(straight, optimizer, range(STEPS))
    half, optimizer = start()
    steps(half, optimizer, range(STEPS // 2))
    saved = {name: value.clone() for name, value in half.module.state_dict().items()}
    resumed, optimizer = start()
    resumed.module.load_state_dict(saved)
    steps(resumed, optimizer, range(STEPS // 2, STEPS))
    if rank == 0:
        digests = [
            hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
            for model in (straight, resumed)
        ]
        Path(folder, "same").write_text(str(digests[0] == digests[1]))
    dist.barrier()  # as `World.leave` does: nobody takes connections down that another one still uses
    dist.destroy_process_group()


def _same(settle: bool, folder: Path) -> bool:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_train, args=(port, settle, str(folder)), nprocs=RANKS, start_method="spawn")
    return (folder / "same").read_text() == "True"


def test_a_resumed_process_adds_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert _same(settle=True, folder=tmp_path)


def test_without_it_the_order_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: when this fails, torch has changed and `settle_buckets` may go."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert not _same(settle=False, folder=tmp_path)
