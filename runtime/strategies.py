"""How a model is spread over the ranks. First form: DDP, or the model as it is in a world of one."""

from collections.abc import Sequence
from typing import cast

import torch
from torch.nn.parallel import DistributedDataParallel

from runtime.base.log import Log
from runtime.world import World

log = Log("wrap")


def wrap(model: torch.nn.Module, world: World, device: torch.device, strategy: str) -> torch.nn.Module:
    """Move a model to this rank's device and spread it.

    Args:
        model: its parameters' values on rank 0 win.
        world: of this rank.
        device: this rank's.
        strategy: ``auto`` or ``ddp``; both are DDP when there is more than one rank.
    """
    model = model.to(device)
    size = sum(parameter.numel() for parameter in model.parameters())
    if world.place.world_size == 1:
        log.info(f"{size:,} parameters on {device}, not distributed because the world has one rank")
        return model
    if not any(parameter.requires_grad for parameter in model.parameters()):
        log.warning("the model has no parameter to train: not distributed")
        return model
    world.join()
    ddp = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    settle_buckets(ddp)
    log.info(f"{size:,} parameters on {device}, strategy={strategy}: ddp over {world.place.world_size} ranks")
    return ddp


def settle_buckets(ddp: DistributedDataParallel) -> None:
    """Bring DDP's gradient buckets into their final layout before the first real step.

    DDP lays its buckets out anew after the first backward, in the order in which gradients became ready. Above two
    ranks the layout decides in which order floating-point gradients are added, so that the first step of a resumed
    process would differ in the last bit from the same step of a process that never stopped. One backward over a sum
    of all parameters fixes the layout as a function of the parameters alone, in a fresh and in a resumed process.
    The gradients are zero and are dropped; no random number is drawn.
    """
    module = cast(torch.nn.Module, ddp.module)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        # Not the module itself: its forward wants real inputs, and its hooks are the user's.
        ddp.module = _TouchEveryParameter(trained, list(module.buffers()))
        ddp().backward()
    finally:
        ddp.module = module
    for parameter in trained:
        parameter.grad = None


class _TouchEveryParameter(torch.nn.Module):
    """Stands in for the model during one backward; owns no parameter, and shares the buffers that DDP synchronises."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], buffers: Sequence[torch.Tensor]) -> None:
        super().__init__()
        for number, buffer in enumerate(buffers):
            self.register_buffer(f"shared_{number}", buffer)
        self._touched = list(parameters)  # a list: not registered as parameters of this module

    def forward(self) -> torch.Tensor:
        total = torch.zeros((), device=self._touched[0].device)
        for parameter in self._touched:  # the last one gets its gradient first, as in a real backward
            total = total + (parameter.reshape(-1)[:1] * 0).sum().to(total.dtype)
        return total


def unwrap(part: object) -> object:
    """Return what the user gave to `wrap`; names in a checkpoint must not depend on the strategy."""
    if isinstance(part, DistributedDataParallel):
        part = cast(torch.nn.Module, part.module)
    # torch.compile's wrapper likewise prefixes every name.
    return getattr(part, "_orig_mod", part)
