"""The output directory of a run: which it is, that no other run is at work in it, what an earlier one left there."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from runtime.base.errors import UserError
from runtime.local.attempt import GRACE_S
from runtime.local.engine import Engine
from runtime.local.flags import RUNS, RunOptions
from runtime.local.record import read_record
from runtime.local.request import JobSpec, TrainingJobSpec

RESULTS = (
    "job.json",
    "metrics.jsonl",
    "model",
    "model.tar.gz",
    "output.tar.gz",
    "outputs",
    "report.html",
    "logs",
    "profiler",
    "tensors",
    "tensorboard",
)
"""What a run writes, and what a rerun sets aside; checkpoints are the store's own matter."""


def output_directory(spec: JobSpec, options: RunOptions) -> Path:
    """Decide where everything goes."""
    if options.output is not None:
        return options.output
    home = spec.output if isinstance(spec, TrainingJobSpec) else None
    return (home if isinstance(home, Path) else RUNS.absolute()) / spec.name


@dataclass(frozen=True)
class Claim:
    """An output directory that is ours for one run."""

    directory: Path
    earlier: str = ""
    """What became of an earlier run's results, in words; empty when there were none."""
    cut_off: Path | None = None
    """Trees of an earlier run that nobody saw to its end: its checkpoints are still in them."""


@contextlib.contextmanager
def claimed(directory: Path, name: str, engine: Engine | None = None) -> Generator[Claim]:
    """Take an output directory for one run.

    What an earlier run of the same job left there is set aside, never removed.

    Args:
        directory: made if need be.
        name: of the job.
        engine: knows how to wait for hosts of an earlier run that may still be saving; None: there are none.

    Raises:
        UserError: it holds something else, or another run is at work in it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(
            f"Output {directory} cannot be used: {error.strerror}", fix="choose another --output"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"Output {directory} is in use by another `slipway run`",
                fix="wait for it, or choose another --output",
            ) from None
        yield _set_aside(directory, name, engine)
    finally:
        os.close(handle)


def _set_aside(directory: Path, name: str, engine: Engine | None) -> Claim:
    earlier = read_record(directory / "job.json")
    if earlier is None:
        held = sorted(entry.name for entry in directory.iterdir() if entry.name != "checkpoints")
        if held:
            raise UserError(
                f"Output {directory} holds files that are of no job: {', '.join(held[:5])}",
                fix="choose another --output, or an empty directory",
            )
        return Claim(directory)
    if earlier["name"] != name:
        raise UserError(
            f"Output {directory} holds job {earlier['name']!r}, this one is {name!r}",
            fix="choose another --output, or remove it",
        )
    number = 1
    while (directory / f"earlier-{number}").exists():
        number += 1
    aside = directory / f"earlier-{number}"
    aside.mkdir()
    status = earlier.get("status")
    paths = cast(Mapping[str, str | None], earlier.get("paths") or {})
    work = Path(paths.get("work") or directory / ".work")
    if engine is not None:
        engine.await_earlier(sorted(work.glob("attempt-*/*")), GRACE_S)
    for result in (*RESULTS, *(["checkpoints"] if status == "Completed" else [])):
        if (directory / result).exists():
            (directory / result).rename(aside / result)
    if work.exists():
        shutil.move(work, aside / "work")
    then = "this one begins anew" if status == "Completed" else "this one continues from its checkpoints"
    message = f"an earlier run of {name!r} ended {status}: its results are in {aside.name}/, {then}"
    cut_off = aside / "work" if status == "InProgress" and (aside / "work").exists() else None
    return Claim(directory, message, cut_off)
