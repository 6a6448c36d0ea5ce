"""From a run on a sample to the time of the full run. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

TRAIN_NAMES = ("train", "training")


@dataclass(frozen=True)
class Projection:
    """The full run's time and where it comes from."""

    seconds: float
    """Of the full run, start-up included."""
    steps: int
    """Of the full run."""
    startup_s: float
    """What is not steps: imports, rendezvous, evaluation, saving; taken as constant."""
    step_s: float
    """Median of the sample's steps."""
    channel: str
    """The channel whose size decides."""
    samples: int
    samples_in_channel: int
    arithmetic: str
    """The sum in words."""


def project(summary: Mapping[str, Any], container_s: float | None = None) -> Projection | None:
    """Scale a sample's run to the whole channel.

    Args:
        summary: what rank 0 left: ``steps``, ``step_s_median``, ``seconds``, ``epochs``, ``global_batch`` and
            ``channels``.
        container_s: seconds from the start of the container to its end, which include imports and rendezvous;
            None: the summary's own ``seconds``, which begin later.

    Returns:
        None when the summary does not say enough: no step, no channel.
    """
    try:
        steps, step_s, seconds = int(summary["steps"]), float(summary["step_s_median"]), float(summary["seconds"])
        epochs, batch = int(summary.get("epochs") or 0), int(summary.get("global_batch") or 0)
        sizes = {
            name: (int(value["samples"]), int(value["samples_in_channel"]))
            for name, value in cast(Mapping[str, Mapping[str, Any]], summary["channels"]).items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    sizes = {name: size for name, size in sizes.items() if size[0] > 0}
    if steps < 1 or not sizes:
        return None
    channel = next((name for name in TRAIN_NAMES if name in sizes), max(sizes, key=lambda name: sizes[name][1]))
    used, there = sizes[channel]
    if epochs and batch and steps == epochs * math.ceil(used / batch):
        full_steps = epochs * math.ceil(there / batch)
        scaled = f"{epochs} epochs x {there} samples of channel {channel!r} / {batch} in a global batch"
    else:
        full_steps = max(steps, round(steps * there / used))
        scaled = f"{steps} steps x {there} / {used} samples of channel {channel!r}"
    startup_s = max(0.0, (container_s if container_s is not None else seconds) - steps * step_s)
    total = startup_s + full_steps * step_s
    arithmetic = (
        f"{scaled} = {full_steps} steps; {startup_s:.1f} s start-up + {full_steps} x {step_s:.4g} s = {total:.1f} s"
    )
    return Projection(total, full_steps, startup_s, step_s, channel, used, there, arithmetic)
