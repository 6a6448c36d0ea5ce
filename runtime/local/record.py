"""job.json: what a run was and how it ended, in one typed value that is written atomically."""

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from runtime.base.errors import PlatformError, UserError
from runtime.local.describe import describe_job
from runtime.testing.faults.play import Played

FORMAT = 1
Status = Literal["InProgress", "Completed", "Failed", "Stopped"]
PHASES = ("preparing", "image", "downloading", "starting", "training", "interrupted", "uploading")
"""``training`` is also what a processing job does."""
BILLED = tuple(phase for phase in PHASES if phase != "interrupted")
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
class MetricPoint:
    """One value that a metric definition found in a log."""

    name: str
    value: float
    at: float
    """Unix seconds at which the line was seen, at most some hundredths after it was printed."""


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
    ended: float | None = None
    """Unix seconds; None for the last one."""


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
    training_seconds: int = 0
    """Wall time from the first host's preparation to the end, waits included, rounded up."""
    billable_seconds: int = 0
    """What of it the service would bill for each instance, rounded up; times the price of spot where one was given."""
    savings_percent: float | None = None
    """Of a spot job: ``(1 - billable_seconds / training_seconds) * 100``."""
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Last value of each; in the file null where it is no finite number."""
    final_metrics: list[MetricPoint] = field(default_factory=list[MetricPoint])
    """Last value of each metric definition; all values are in metrics.jsonl."""
    faults: list[Played] = field(default_factory=list[Played])
    """In the order of their beginning."""
    projection: dict[str, Any] | None = None
    """See `runtime.local.projection.Projection`; only for a run with ``--sample``."""
    without_effect: dict[str, str] = field(default_factory=dict[str, str])
    """Path of every key of the request that does nothing on one machine, to the reason."""
    checkpoint_sync: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """For each attempt and host a `runtime.local.checkpoints.agent.SyncReport`."""
    s3_faults: dict[str, int] = field(default_factory=dict[str, int])
    """How often each fault of ``--s3-faults`` was played, and ``requests`` in all."""
    uploaded: dict[str, str] = field(default_factory=dict[str, str])
    """Name of a result to its address in S3."""
    paths: dict[str, str | None] = field(default_factory=dict[str, str | None])
    """Absolute; None: the job made none."""

    def enter(self, status: str, message: str) -> None:
        """Add a transition that happens now, and end the one before."""
        now = time.time()
        if self.transitions:
            self.transitions[-1].ended = now
        self.transitions.append(Transition(status, now, message))

    def bill(self, *, spot: bool = False, price: float = 1.0) -> None:
        """Compute what the job costs from the phases.

        Args:
            spot: whether savings are told.
            price: of a spot instance, as a fraction of the price on demand.
        """
        self.training_seconds = math.ceil(sum(self.phases.values()))
        billed = sum(self.phases.get(phase, 0.0) for phase in BILLED)
        self.billable_seconds = math.ceil(billed * (price if spot else 1.0))
        if spot and self.training_seconds:
            self.savings_percent = round((1 - self.billable_seconds / self.training_seconds) * 100, 1)

    def as_json(self) -> dict[str, Any]:
        """Return the object that job.json holds."""
        record: dict[str, Any] = {"format": FORMAT, **asdict(self)}
        # NaN is a loss that one meets, and no JSON: readers in other languages would refuse the file.
        record["metrics"] = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        record["final_metrics"] = [
            {**asdict(point), "value": point.value if math.isfinite(point.value) else None}
            for point in self.final_metrics
        ]
        record["describe"] = describe_job(self)
        return record

    def write(self, path: Path) -> None:
        """Write job.json so that a reader sees the old or the new one, never a part.

        Raises:
            PlatformError: it cannot be written; the old one is as it was.
        """
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise PlatformError(
                f"{path} cannot be written: {error.strerror}", fix="make room there, or choose another --output"
            ) from error


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
