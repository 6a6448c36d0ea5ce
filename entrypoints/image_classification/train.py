"""Train an image classifier on label folders: resumes by itself, stops cleanly when spot capacity goes."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import models
import numpy as np
import torch
import torch.nn.functional as F

import runtime


@dataclass(frozen=True)
class Config:
    """The hyperparameters of this workload."""

    network: Literal["cnn", "resnet18", "resnet34", "resnet50"] = "resnet18"
    """`cnn` is enough for small images such as digits."""
    epochs: int = 10
    batch_size: int = 32
    """Samples per rank and micro-batch."""
    accumulate: int = 1
    """Micro-batches per optimizer step."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float = 1e-3
    """For a global batch of `lr_batch` samples; scaled linearly to the job's own global batch."""
    lr_batch: int = 64
    """0: `lr` is taken as it is."""
    warmup_epochs: float = 1.0
    """Linear warm-up, then a cosine down to 0."""
    momentum: float = 0.9
    """SGD only."""
    weight_decay: float = 1e-4
    dropout: float = 0.0
    label_smoothing: float = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 and fp16 by autocast; fp16 with a gradient scaler."""
    channels_last: bool = False
    compile: bool = False
    num_classes: int = 0
    """0: as many as the channel has label folders. Shards do not tell: needed for them."""
    samples_per_epoch: int = 0
    """0: as many as the channel has. A Pipe channel does not tell: needed for it, for the schedule alone."""
    image_size: int = 0
    """Resize every image to this side in pixels; 0: they all have one size already."""
    seed: int = 0
    checkpoint_every_steps: int | None = None
    """None: as often as saving costs 2 % of the time."""


def train(run: runtime.Run, config: Config) -> None:
    """Train on the channel `train`; validate on `validation` after each epoch when the job has it."""
    transform = _resize(config.image_size) if config.image_size else None
    data = run.data("train", batch_size=config.batch_size, seed=config.seed, transform=transform)
    has_validation = "validation" in run.job.channels
    validation = run.data("validation", batch_size=256, shuffle=False, transform=transform) if has_validation else None
    channels, height, width = data.shape
    num_classes = config.num_classes or len(data.classes)
    if not num_classes:
        raise runtime.UserError(
            "The channel 'train' does not say how many classes there are", fix="set the hyperparameter num_classes"
        )

    torch.manual_seed(config.seed)
    model = models.build(
        config.network,
        channels=channels,
        pixels=min(height, width),
        num_classes=num_classes,
        dropout=config.dropout,
    )
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = run.wrap(model.to(memory_format=layout))  # pyright: ignore[reportCallIssue] - missing in torch's stubs
    forward = torch.compile(model) if config.compile else model
    optimizer = _optimizer(config, model)
    batches = math.ceil(config.samples_per_epoch / data.global_batch) if config.samples_per_epoch else len(data)
    steps_per_epoch = math.ceil(batches / config.accumulate)
    schedule = _schedule(config, optimizer, steps_per_epoch, data.global_batch * config.accumulate)
    scaler = torch.amp.GradScaler(run.device.type, enabled=config.precision == "fp16")
    torch.manual_seed(config.seed + 1 + run.rank)  # dropout differs between ranks

    run.checkpoint(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        scaler=scaler,
        data=data,
        every_steps=config.checkpoint_every_steps,
    )
    for _ in run.epochs(data, config.epochs):
        model.train()
        for number, batch in enumerate(data, start=1):
            x, y = batch  # x: [batch_size, channels, height, width] float32, y: [batch_size] int64
            last = number % config.accumulate == 0 or not batch.more
            quiet = contextlib.nullcontext() if last or run.world_size == 1 else model.no_sync()  # pyright: ignore
            with quiet, _autocast(config, run.device):
                losses = F.cross_entropy(
                    forward(x.to(memory_format=layout)),
                    y,
                    reduction="none",
                    label_smoothing=config.label_smoothing,
                )
                loss = losses[: batch.num_samples].sum() / max(1, batch.num_samples)
            scaler.scale(loss / config.accumulate).backward()
            if not last:
                continue
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            schedule.step()
            run.step(loss=loss.detach(), lr=schedule.get_last_lr()[0])
        if validation is not None:
            with run.span("validation"):
                run.metrics(validation_accuracy=_accuracy(run, forward, validation, config))
    run.save_model(model, classes=data.classes, network=config.network, shape=[channels, height, width])


def _optimizer(config: Config, model: torch.nn.Module) -> torch.optim.Optimizer:
    parameters = model.parameters()
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, config.lr, weight_decay=config.weight_decay)


def _schedule(
    config: Config, optimizer: torch.optim.Optimizer, steps_per_epoch: int, global_batch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Scale linearly with the global batch, warm up linearly, go down by a cosine."""
    scale = global_batch / config.lr_batch if config.lr_batch else 1.0
    warmup = round(config.warmup_epochs * steps_per_epoch)
    total = config.epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return scale * (step + 1) / warmup
        return scale * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _autocast(config: Config, device: torch.device) -> torch.autocast:
    dtype = torch.float16 if config.precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=config.precision != "fp32")


def _resize(pixels: int) -> Callable[[Any], torch.Tensor]:
    from PIL import Image

    def transform(image: Any) -> torch.Tensor:  # noqa: ANN401 - a NumPy array [height, width] or [height, width, 3]
        resized = np.array(Image.fromarray(image).resize((pixels, pixels)), dtype=np.float32) / 255.0
        tensor = torch.from_numpy(resized)
        return tensor.unsqueeze(0) if tensor.ndim == 2 else tensor.permute(2, 0, 1)

    return transform


@torch.no_grad()
def _accuracy(run: runtime.Run, model: Callable[..., Any], validation: Any, config: Config) -> float:  # noqa: ANN401
    """Share of right answers over all ranks; repeated samples are not counted."""
    module = model if isinstance(model, torch.nn.Module) else None
    if module is not None:
        module.eval()
    right = seen = 0
    for batch in validation:
        x, y = batch
        with _autocast(config, run.device):
            hits = model(x).argmax(dim=1) == y
        right += int(hits[: batch.num_samples].sum())
        seen += batch.num_samples
    counts = run.world.gather((right, seen))
    return sum(hit for hit, _ in counts) / max(1, sum(of for _, of in counts))


if __name__ == "__main__":
    runtime.main(train)
