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

OBEYS = """
import ctypes, os, pathlib, signal, sys, time
model = pathlib.Path(os.environ["SM_MODEL_DIR"])
rank = int(os.environ["RANK"])
step = 0
while True:
    step += 1
    (model / f"ready-{rank}").touch()
    order = model / f"order-{rank}"
    if order.exists():
        text = order.read_text()
        order.unlink()
        exec(text)
    time.sleep(0.02)
"""
"""Works until the test leaves an order, which is Python; no torch."""

MEETS = """
import datetime, os, pathlib, signal, sys, time
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

model_dir = pathlib.Path(os.environ["SM_MODEL_DIR"])
rank = int(os.environ["RANK"])
def obey():
    order = model_dir / f"order-{rank}"
    if order.exists():
        text = order.read_text()
        order.unlink()
        exec(text)
(model_dir / f"joining-{rank}").touch()
while os.environ.get("SM_HP_LATE") == str(rank):
    obey()
    time.sleep(0.02)
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=int(os.environ.get("SM_HP_JOIN_S", "1800"))))
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
step = 0
while True:
    step += 1
    loss = model(torch.randn(8, 4)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step == 3:
        (model_dir / f"ready-{rank}").touch()
    obey()
    time.sleep(0.02)
"""
"""DDP on gloo until the test leaves an order; the rank of the hyperparameter `late` does not join the others."""

SAYS = OBEYS.replace("    order = model", "    print(step, flush=True)\n    order = model")
"""The same, heard at every step."""
