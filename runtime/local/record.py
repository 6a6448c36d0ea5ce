"""job.json: what a run was and how it ended, in one typed value that is written atomically."""

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from runtime.base.errors import UserError

FORMAT = 1
Status = Literal["InProgress", "Completed", "Failed", "Stopped"]
PHASES = ("preparing", "downloading", "starting", "training", "interrupted", "uploading")
BILLED = ("preparing", "downloading", "starting", "training", "uploading")
"""The service bills from the download of the data to the end of the upload, and no wait for spot instances."""


@dataclass
class HostRecord:
    """One container of one attempt."""

    name: str
    exit_code: int
    """128 + n for death by signal n."""
    seconds: float
    """From its start to its end."""


@dataclass
class InterruptionRecord:
    """An interruption that was played."""

    signal: str
    """TERM or KILL."""
    after: str
    """As asked: ``step:N`` or ``Ns``."""
    at: float
    """Unix seconds."""


@dataclass
class EpochRecord:
    """One FIFO of a Pipe channel."""

    epoch: int
    bytes: int = 0
    """Written into the FIFO; after an early close the reader has got at most these."""
    objects: int = 0
    """Objects, or lines of an augmented manifest, whose bytes have begun to flow."""
    end: str = "never opened"
    """See `runtime.local.inputs.pipe.End`."""


@dataclass
class InputRecord:
    """What one channel that is streamed or mounted delivered to one host."""

    host: str
    channel: str
    input_mode: str
    epochs: list[EpochRecord] = field(default_factory=list[EpochRecord])
    """Of a Pipe channel."""
    mount: dict[str, int] = field(default_factory=dict[str, int])
    """Of a mounted channel, see `runtime.local.inputs.fastfile.Count`."""


@dataclass
class AttemptRecord:
    """One start of all hosts."""

    attempt: int
    """Counts from 1."""
    started: float
    """Unix seconds."""
    ended: float
    """Unix seconds."""
    interrupted: InterruptionRecord | None
    resumed_step: int | None
    """Step of the checkpoint from which rank 0 went on; None: it began anew, or does not say."""
    last_step: int
    """Last step that any rank finished; 0 when the program reports none."""
    hosts: list[HostRecord]
    inputs: list[InputRecord] = field(default_factory=list[InputRecord])
    """Of the channels that were streamed or mounted."""


@dataclass
class Transition:
    """A change of the secondary status, named as in ``SecondaryStatusTransitions``."""

    status: str
    at: float
    """Unix seconds."""
    message: str


@dataclass
class JobRecord:
    """The content of job.json; field names are its keys."""

    name: str
    kind: Literal["training", "processing"] = "training"
    status: Status = "InProgress"
    failure_reason: str | None = None
    exit_message: str | None = None
    """What a processing job left in ``/opt/ml/output/message``."""
    exit_code: int = 0
    """Of the first host that did not end with 0; 0 when all did."""
    attempts: list[AttemptRecord] = field(default_factory=list[AttemptRecord])
    transitions: list[Transition] = field(default_factory=list[Transition])
    phases: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    """Seconds of the whole run in each of `PHASES`; their sum is the run's wall time."""
    billable_seconds: int = 0
    """Wall time that the service would bill for each instance, rounded up."""
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Last value of each; in the file null where it is no finite number."""
    projection: dict[str, Any] | None = None
    """See `runtime.local.projection.Projection`; only for a run with ``--sample``."""
    without_effect: dict[str, str] = field(default_factory=dict[str, str])
    """Path of every key of the request that does nothing on one machine, to the reason."""
    paths: dict[str, str | None] = field(default_factory=dict[str, str | None])
    """Absolute; None: the job made none."""

    def enter(self, status: str, message: str) -> None:
        """Add a transition that happens now."""
        self.transitions.append(Transition(status, time.time(), message))

    def bill(self) -> None:
        """Compute `billable_seconds` from the phases."""
        self.billable_seconds = math.ceil(sum(self.phases[phase] for phase in BILLED))

    def as_json(self) -> dict[str, Any]:
        """Return the object that job.json holds."""
        record = {"format": FORMAT, **asdict(self)}
        # NaN is a loss that one meets, and no JSON: readers in other languages would refuse the file.
        record["metrics"] = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        return record

    def write(self, path: Path) -> None:
        """Write job.json so that a reader sees the old or the new one, never a part."""
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")
        partial.replace(path)


class PhaseClock:
    """Gives every moment of a run to one phase."""

    def __init__(self, phases: dict[str, float]) -> None:
        """Begin in ``preparing``; `phases` is added to."""
        self._phases = phases
        self.phase = PHASES[0]
        self._since = time.monotonic()

    def enter(self, phase: str) -> None:
        """End the phase that runs, and begin another."""
        now = time.monotonic()
        self._phases[self.phase] += now - self._since
        self.phase, self._since = phase, now


def read_record(path: Path) -> Mapping[str, Any] | None:
    """Read the job.json of an earlier run; None when there is none.

    Raises:
        UserError: it is not ours, or of a newer format.
    """
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", fix="choose another --output") from error
    record = cast(dict[str, Any], value) if isinstance(value, dict) else dict[str, Any]()
    if "format" not in record or "name" not in record:
        raise UserError(f"{path} is no job.json of Slipway", fix="choose another --output")
    if record["format"] > FORMAT:
        raise UserError(
            f"{path} has format {record['format']}",
            allowed=f"this version reads up to {FORMAT}",
            fix="update slipway",
        )
    return record
