"""Training scripts as users write them: none imports anything of ours."""

PLAIN = """
import argparse, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
lr = parser.parse_args().lr
pathlib.Path(os.environ["SM_MODEL_DIR"], "lr").write_text(str(lr))
"""

DDP = """
import os, pathlib, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
rank = dist.get_rank()
model_dir = pathlib.Path(os.environ["SM_MODEL_DIR"])
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.manual_seed(rank)
steps = int(os.environ["SM_HP_STEPS"])
for step in range(1, steps + 1):
    loss = model(torch.randn(8, 4)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step == 3:
        (model_dir / f"step-3-rank-{rank}").touch()
weights = [value.tolist() for value in model.module.parameters()]
(model_dir / f"weights-rank-{rank}").write_text(f"{dist.get_world_size()} {weights}")
dist.barrier()  # gloo aborts a rank that tears down while another still works
dist.destroy_process_group()
"""
"""Ranks see different samples, so that equal weights at the end prove that gradients were averaged."""

SAVES_WHEN_ASKED = """
import os, pathlib, signal, sys, threading
model_dir = pathlib.Path(os.environ["SM_MODEL_DIR"])
asked = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: asked.set())
(model_dir / "ready").touch()
while not asked.wait(0.1):
    pass
(model_dir / "saved").touch()
"""

NEVER_ENDS = """
import os, pathlib, time
pathlib.Path(os.environ["SM_MODEL_DIR"], "ready").touch()
while True:
    time.sleep(1)
"""
