"""What a job left about itself, read into typed columns: ``job.json``, step records, samples of the machine.

Killed processes cut their last line: such lines are left out and counted, everything before them counts.
"""

import json
import math
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import sub
from pathlib import Path
from typing import Any, cast

from runtime.base.errors import UserError

FORMAT = 1
"""The newest format that we read, of each of the three kinds of file."""
NO_PHASES = ("step", "epoch", "begin", "total")
"""Columns of a step record that are no phase; any other is one, so that new phases change nothing here."""
OTHER = "other"
PLACES = ("attempt-*/*/", "*/", "")
"""Where files lie in ``profiler/``: as the local platform collects them, or copied from one or several containers."""
BLOCK_BYTES = 1 << 18
BLOCK_ROWS = 4096
"""Rows that are lists at one time: more of them keep the garbage collector busy."""

Columns = Mapping[str, "array[float]"]


@dataclass(frozen=True)
class Interruption:
    """Who ended an attempt before its time."""

    signal: str
    after: str
    """What was asked for, such as ``step:50`` or ``30s``; empty when nobody of ours asked."""
    at: float
    """Unix seconds."""


@dataclass(frozen=True)
class HostEnd:
    """How one host's container ended."""

    name: str
    exit_code: int | None
    seconds: float


@dataclass(frozen=True)
class Attempt:
    """One run of the containers; a job that was interrupted has several."""

    number: int
    started: float
    """Unix seconds, as is `ended`."""
    ended: float
    interrupted: Interruption | None = None
    resumed_step: int | None = None
    """Step of the checkpoint from which it went on; None: it began anew."""
    last_step: int | None = None
    """Last finished step."""
    hosts: tuple[HostEnd, ...] = ()


@dataclass(frozen=True)
class JobRecord:
    """The file ``job.json``."""

    name: str
    status: str
    failure_reason: str
    attempts: tuple[Attempt, ...]
    phases: Mapping[str, float]
    """Seconds in each phase of the whole job, such as ``starting``."""
    billable_seconds: float | None
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class RankTrace:
    """The steps of one rank in one attempt, column by column."""

    attempt: int
    host: str
    rank: int
    world_size: int
    step: "array[int]"
    begin: "array[float]"
    """Unix seconds at which the step began."""
    total: "array[float]"
    """Seconds."""
    phases: Columns
    """Seconds by phase, ``other`` included."""
    events: tuple[Mapping[str, Any], ...]
    unreadable: int
    """Lines that are no record, at most the last one of a killed process."""

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True)
class HostTrace:
    """The samples of one host in one attempt."""

    attempt: int
    host: str
    interval_s: float | None
    cpus: int | None
    memory_bytes: float | None
    t: "array[float]"
    """Unix seconds."""
    columns: Columns
    """NaN where the machine did not say."""
    unreadable: int

    @property
    def left_out(self) -> int:
        """Samples that the machine was too busy to take."""
        if not self.interval_s or len(self.t) < 2:
            return 0
        return max(0, round((self.t[-1] - self.t[0]) / self.interval_s) + 1 - len(self.t))


@dataclass(frozen=True)
class Records:
    """Everything that was found."""

    directory: Path
    job: JobRecord | None
    ranks: tuple[RankTrace, ...] = ()
    hosts: tuple[HostTrace, ...] = ()
    unreadable_files: tuple[str, ...] = field(default=())
    """Files without a usable first line."""


def load(directory: Path) -> Records:
    """Read the output directory of a job, or a bare profiler directory.

    Raises:
        UserError: nothing of a job is there, ``job.json`` is malformed, or a file is newer than this runtime.
    """
    job_file = directory / "job.json"
    job = read_job_record(job_file) if job_file.is_file() else None
    root = directory / "profiler" if (directory / "profiler").is_dir() else directory
    step_files = sorted(file for place in PLACES for file in root.glob(place + "steps-rank-*.jsonl"))
    system_files = sorted(file for place in PLACES for file in root.glob(place + "system-*.jsonl"))
    if job is None and not step_files and not system_files:
        what = "holds neither job.json nor profiler/" if directory.is_dir() else "is no directory"
        raise UserError(
            f"{directory} {what}",
            allowed="A report is made of the directory that `slipway run REQUEST.json --output DIR` writes: "
            "DIR/job.json, DIR/profiler/attempt-0/HOST/steps-rank-0.jsonl and system-HOST.jsonl",
            fix="give that directory, or a copy of a job's /opt/ml/output/profiler",
        )
    ranks = [(file, read_steps(file)) for file in step_files]
    hosts = [(file, read_samples(file)) for file in system_files]
    return Records(
        directory=directory,
        job=job,
        ranks=tuple(
            sorted(
                (trace for _, trace in ranks if trace),
                key=lambda trace: (trace.attempt, trace.rank, trace.host),
            )
        ),
        hosts=tuple(sorted((trace for _, trace in hosts if trace), key=lambda trace: (trace.attempt, trace.host))),
        unreadable_files=tuple(str(file.relative_to(directory)) for file, trace in [*ranks, *hosts] if trace is None),
    )


def read_job_record(path: Path) -> JobRecord:
    """Read ``job.json``.

    Raises:
        UserError: it is malformed or newer than this runtime.
    """
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
        check_format(raw, path)
        return JobRecord(
            name=str(raw["name"]),
            status=str(raw["status"]),
            failure_reason=str(raw.get("failure_reason") or ""),
            attempts=tuple(_attempt(value) for value in raw.get("attempts") or ()),
            phases={str(name): float(seconds) for name, seconds in (raw.get("phases") or {}).items()},
            billable_seconds=_number(raw.get("billable_seconds")),
            metrics=dict(raw.get("metrics") or {}),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read: {type(error).__name__}: {error}",
            allowed="it is the JSON object that `slipway run --output DIR` writes",
            fix="run the job again, or remove the file to see the profile alone",
        ) from error


def _attempt(raw: Mapping[str, Any]) -> Attempt:
    interrupted = raw.get("interrupted")
    return Attempt(
        number=int(raw["attempt"]),
        started=float(raw["started"]),
        ended=float(raw["ended"]),
        interrupted=None
        if not interrupted
        else Interruption(
            _signal_name(str(interrupted.get("signal") or "")),
            str(interrupted.get("after") or ""),
            float(interrupted["at"]),
        ),
        resumed_step=None if raw.get("resumed_step") is None else int(raw["resumed_step"]),
        last_step=None if raw.get("last_step") is None else int(raw["last_step"]),
        hosts=tuple(
            HostEnd(str(host["name"]), host.get("exit_code"), float(host.get("seconds") or 0.0))
            for host in raw.get("hosts") or ()
        ),
    )


def _signal_name(word: str) -> str:
    """Write a signal as the manual pages do; requests say TERM, processes say SIGTERM."""
    return f"SIG{word}" if word and not word.startswith("SIG") else word


def check_format(header: Mapping[str, Any], path: Path) -> None:
    """Refuse a file of a newer runtime by name.

    Raises:
        UserError: the format is newer than `FORMAT`.
    """
    number = header.get("format", FORMAT)
    if not isinstance(number, int) or number > FORMAT:
        raise UserError(
            f"{path} has format {number!r}",
            allowed=f"this version of slipway reads formats up to {FORMAT}",
            fix="read it with the version that wrote it, or a newer one",
        )


class _StepFile:
    """The columns of a file of step records, as they grow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: Mapping[str, Any] = {}
        self.fields: list[str] = []
        self.step: array[int] = array("q")
        self.begin, self.total = array("d"), array("d")
        self.phases: dict[str, array[float]] = {}
        self.events: list[Mapping[str, Any]] = []
        self.unreadable = 0
        self._origin = 0.0
        self._rows: list[list[float]] = []

    def take(self, value: object) -> None:
        """Take the value of one line."""
        if isinstance(value, list) and self.fields:
            self._rows.append(cast(list[float], value))
            if len(self._rows) >= BLOCK_ROWS:
                self.flush()
        elif isinstance(value, dict) and "fields" in value:
            self._take_header(cast(dict[str, Any], value))
        elif isinstance(value, dict) and "event" in value:
            self.events.append(cast(dict[str, Any], value))
        else:
            self.unreadable += 1

    def _take_header(self, header: Mapping[str, Any]) -> None:
        self.flush()  # a rank that is started again in one directory goes on in its file, with a later origin
        check_format(header, self.path)
        fields = [str(name) for name in header["fields"]]
        if not {"step", "begin", "total"} <= set(fields) or (self.fields and fields != self.fields):
            self.unreadable += 1
            return
        if not self.fields:
            self.header, self.fields = header, fields
            self.phases = {name: array("d") for name in fields if name not in NO_PHASES}
        self._origin = float(header["started"])

    def flush(self) -> None:
        """Append the rows that came in to the columns; rows of a strange form are counted."""
        rows, self._rows = self._rows, []
        if not set(map(len, rows)) <= {len(self.fields)} or not set(map(type, chain(*rows))) <= {int, float}:
            good = [row for row in rows if len(row) == len(self.fields) and {int, float} >= set(map(type, row))]
            self.unreadable += len(rows) - len(good)
            rows = good
        if not rows:
            return
        columns = dict(zip(self.fields, zip(*rows, strict=True), strict=True))
        self.step.extend(map(int, columns["step"]))
        self.begin.extend(self._origin + seconds for seconds in columns["begin"])
        self.total.extend(columns["total"])
        for name, column in self.phases.items():
            column.extend(columns[name])

    def other(self) -> "array[float]":
        """Return what is in no phase, step by step."""
        named = map(sum, zip(*self.phases.values(), strict=True)) if self.phases else repeat(0.0)
        rest = map(sub, self.total, named)
        return array("d", (seconds if seconds > 0 else 0.0 for seconds in rest))


def read_steps(path: Path) -> RankTrace | None:
    """Read the step records of one rank; None without a usable first line.

    Raises:
        UserError: the file is newer than this runtime.
    """
    file = _StepFile(path)
    for value in read_lines(path):
        file.take(value)
    file.flush()
    if not file.fields:
        return None
    attempt, host = _place(path)
    return RankTrace(
        attempt=attempt,
        host=str(file.header.get("host") or host),
        rank=int(file.header.get("rank", 0)),
        world_size=int(file.header.get("world_size", 1)),
        step=file.step,
        begin=file.begin,
        total=file.total,
        phases={**file.phases, OTHER: file.other()},
        events=tuple(file.events),
        unreadable=file.unreadable,
    )


def read_samples(path: Path) -> HostTrace | None:
    """Read the samples of one host; None without a usable first line.

    Raises:
        UserError: the file is newer than this runtime.
    """
    header: Mapping[str, Any] | None = None
    stamps = array("d")
    columns: dict[str, array[float]] = {}
    unreadable = 0
    for value in read_lines(path):
        sample = cast(dict[str, Any], value) if isinstance(value, dict) else {}
        if "format" in sample:
            check_format(sample, path)
            header = header or sample
        elif header is not None and isinstance(sample.get("t"), int | float):
            stamps.append(sample["t"])
            for name in sample.keys() - columns.keys() - {"t"}:
                columns[name] = array("d", [math.nan] * (len(stamps) - 1))
            for name, column in columns.items():
                number = _number(sample.get(name))
                column.append(math.nan if number is None else number)
        else:
            unreadable += 1
    if header is None:
        return None
    attempt, host = _place(path)
    interval = _number(header.get("interval_ms"))
    return HostTrace(
        attempt=attempt,
        host=str(header.get("host") or host),
        interval_s=interval / 1000 if interval else None,
        cpus=int(header["cpus"]) if header.get("cpus") else None,
        memory_bytes=_number(header.get("mem_total_bytes")) or None,
        t=stamps,
        columns=columns,
        unreadable=unreadable,
    )


def read_lines(path: Path) -> Iterator[object]:
    """Yield the value of each JSON line; None for a line that is none.

    A block of lines is decoded as one array, which halves the time of a million steps.
    """
    with path.open("rb") as stream:
        while lines := stream.readlines(BLOCK_BYTES):
            try:
                yield from json.loads(b"[" + b",".join(lines) + b"]")
            except ValueError:
                yield from map(_value, lines)


def _value(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _place(path: Path) -> tuple[int, str]:
    """Tell attempt and host from a path such as ``profiler/attempt-1/algo-2/steps-rank-3.jsonl``."""
    numbers = [int(found[1]) for part in path.parts if (found := re.fullmatch(r"attempt-(\d+)", part))]
    name = path.stem.removeprefix("system-") if path.stem.startswith("system-") else path.parent.name
    return (numbers[-1] if numbers else 0), name
