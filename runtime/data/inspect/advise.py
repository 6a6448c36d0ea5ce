"""What each input mode would cost a job: seconds before step 1, MB/s, money. Pure: found and assumed in, figures out.

Rates of the service are those that AWS states or that somebody measured; where nobody did, a mode is marked. The
figures tell which mode is better by a factor, not what a bill will say.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from runtime.base.errors import UserError, did_you_mean
from runtime.data.inspect.look import Dataset
from runtime.data.inspect.prices import HOURS_A_MONTH, Prices
from runtime.data.inspect.rates import (
    DOWNLOAD_MB_S,
    DOWNLOAD_OBJECTS_S,
    EFS_HOST_MB_S,
    EFS_OPEN_S,
    FSX_COLD_MB_S,
    FSX_LEAST_GB,
    FSX_MB_S,
    FSX_OPEN_S,
    FSX_START_S,
    GB,
    GET_S,
    HOST_MB_S,
    LIST_OBJECTS,
    LIST_S,
    MB,
    PIPE_MB_S,
    PIPE_START_S,
    SHARD_BYTES,
    SMALL_OBJECT,
    START_S,
    STREAM_MB_S,
    VOLUME_ROOM,
)
from runtime.profile.findings import size

Mode = Literal["File", "FastFile", "Pipe", "EFS", "FSx"]


@dataclass(frozen=True)
class Plan:
    """The job that somebody has in mind."""

    hosts: int = 1
    instance: str = ""
    epochs: float = 1.0
    workers: int = 8
    """Loader processes per host, each of which waits for one file at a time."""
    device_samples_per_s: float = 0.0
    """Of one host, when data never makes it wait; 0: unknown."""
    host_usd_per_h: float = 0.0
    """0: from the price file."""


@dataclass(frozen=True)
class ModeCost:
    """One mode's figures."""

    name: str
    before_step_1_s: float
    mb_per_s: float
    """What one host reads in the steady state."""
    starved_s: float | None
    """Seconds of the whole job in which devices wait for data; None: their speed is unknown."""
    starved_share: float | None
    waiting_usd: float | None
    """Hosts that are paid and do nothing; None: their price is unknown."""
    storage_usd: float
    """Beyond what lies in S3 anyhow, for the time of this job."""
    request_usd: float
    unverified: bool

    @property
    def sum_usd(self) -> float | None:
        """Everything that this mode adds to the bill."""
        return None if self.waiting_usd is None else self.waiting_usd + self.storage_usd + self.request_usd

    reading_s: float
    """Seconds in which a host reads its part of all epochs, when nothing else holds it up."""

    @property
    def waits_s(self) -> float:
        """Seconds before and in the job; when nobody knows what devices take, as long as reading takes."""
        return self.before_step_1_s + (self.reading_s if self.starved_s is None else self.starved_s)


@dataclass(frozen=True)
class Advice:
    """All modes, what to change, and what it rests on."""

    modes: tuple[ModeCost, ...]
    best: str
    changes: tuple[str, ...]
    assumptions: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {**asdict(self), "modes": [{**asdict(mode), "sum_usd": mode.sum_usd} for mode in self.modes]}


@dataclass(frozen=True)
class _Data:
    """A dataset as modes see it."""

    files: int
    total: float
    samples: int

    @property
    def file_bytes(self) -> float:
        return self.total / max(1, self.files)

    def in_shards(self) -> "_Data":
        return _Data(max(1, math.ceil(self.total / SHARD_BYTES)), self.total, self.samples)

    def sharded(self, hosts: int) -> "_Data":
        return _Data(math.ceil(self.files / hosts), self.total / hosts, math.ceil(self.samples / hosts))


def advise(found: Dataset, plan: Plan, prices: Prices) -> Advice:
    """Predict what each mode costs, and say what to change.

    Raises:
        UserError: an unknown instance type, or nothing to read.
    """
    if not found.survey.files.total:
        raise UserError(f"{found.path} holds no bytes: there is nothing to advise on")
    data = _Data(found.survey.files.count, float(found.survey.files.total), found.samples)
    hourly = _hourly(plan, prices)
    modes = _all_modes(data, plan, prices, hourly)
    best = min(modes, key=_rank)
    return Advice(
        modes,
        best.name,
        tuple(_changes(data, plan, prices, hourly, modes, best)),
        tuple(_assumptions(found, plan, prices, hourly)),
    )


def _rank(mode: ModeCost) -> tuple[float, float]:
    by_money = mode.sum_usd is not None and mode.starved_s is not None
    return (mode.sum_usd or 0.0 if by_money else mode.waits_s, mode.waits_s)


def _hourly(plan: Plan, prices: Prices) -> float:
    if plan.host_usd_per_h or not plan.instance:
        return plan.host_usd_per_h
    if plan.instance not in prices.instances:
        raise UserError(
            f"--instance {plan.instance!r} has no price in {prices.source}",
            allowed=did_you_mean(plan.instance, prices.instances),
            fix="give its hourly rate by --price, or a file by --prices",
        )
    return prices.instances[plan.instance]


def _all_modes(data: _Data, plan: Plan, prices: Prices, hourly: float) -> tuple[ModeCost, ...]:
    names: tuple[Mode, ...] = ("File", "FastFile", "Pipe", "EFS", "FSx")
    return tuple(_mode(name, data, plan, prices, hourly) for name in names)


def _mode(name: Mode, data: _Data, plan: Plan, prices: Prices, hourly: float) -> ModeCost:
    """Predict one mode with every host reading everything in each epoch, divided among hosts sample by sample."""
    before, rate = _times(name, data, plan)
    first = rate
    if name == "FSx":  # what the first epoch has to load
        first = min(rate, FSX_COLD_MB_S * plan.workers)
    # Each host reads its share of an epoch; FIFOs give everything to everybody.
    each = data.total if name == "Pipe" else data.total / plan.hosts
    starved = share = None
    ideal = 0.0
    head = min(1.0, plan.epochs)
    reading = each / MB * (head / first + max(0.0, plan.epochs - head) / rate)
    if plan.device_samples_per_s and data.samples:
        ideal = data.samples / plan.hosts / plan.device_samples_per_s * plan.epochs
        per_epoch = data.samples / plan.hosts / plan.device_samples_per_s
        starved = head * max(0.0, each / MB / first - per_epoch)
        starved += max(0.0, plan.epochs - head) * max(0.0, each / MB / rate - per_epoch)
        share = starved / (starved + ideal)
    job_s = before + (reading if starved is None else ideal + starved)
    waiting = None if not hourly else (before + (starved or 0.0)) * plan.hosts * hourly / 3600
    return ModeCost(
        name,
        before,
        rate,
        starved,
        share,
        waiting,
        _storage_usd(name, data, plan, prices, job_s),
        _request_usd(name, data, plan, prices),
        unverified=name != "FSx",
        reading_s=reading,
    )


def _times(name: Mode, data: _Data, plan: Plan) -> tuple[float, float]:
    """Return seconds before step 1, and 10^6 bytes per second of one host in the steady state."""
    each = data.file_bytes / MB
    if name == "File":
        return START_S + max(data.total / MB / DOWNLOAD_MB_S, data.files / DOWNLOAD_OBJECTS_S), HOST_MB_S
    if name == "FastFile":
        listing = math.ceil(data.files / LIST_OBJECTS) * LIST_S
        return START_S + listing, min(HOST_MB_S, plan.workers * each / (GET_S + each / STREAM_MB_S))
    if name == "Pipe":
        # The service fetches ahead, which hides the first byte of all but small objects.
        return PIPE_START_S, min(PIPE_MB_S, DOWNLOAD_OBJECTS_S * each)
    if name == "EFS":
        rate = min(EFS_HOST_MB_S, plan.workers * each / (2 * EFS_OPEN_S + each / EFS_HOST_MB_S))
        return START_S + data.files * EFS_OPEN_S / 64, rate
    rate = min(FSX_MB_S, plan.workers * each / (2 * FSX_OPEN_S + each / FSX_MB_S))
    return FSX_START_S + data.files * FSX_OPEN_S / 64, rate


def _storage_usd(name: Mode, data: _Data, plan: Plan, prices: Prices, job_s: float) -> float:
    months = job_s / 3600 / HOURS_A_MONTH
    if name == "File":
        return plan.hosts * data.total * VOLUME_ROOM / GB * prices.storage["instance_volume_gb_month"] * months
    if name == "EFS":
        reads = data.total / GB * plan.epochs * prices.storage["efs_read_gb"]
        return data.total / GB * prices.storage["efs_gb_month"] * months + reads
    if name == "FSx":
        held = math.ceil(max(FSX_LEAST_GB, data.total / GB) / FSX_LEAST_GB) * FSX_LEAST_GB
        return held * prices.storage["fsx_scratch_gb_month"] * months
    return 0.0


def _request_usd(name: Mode, data: _Data, plan: Plan, prices: Prices) -> float:
    get, listing = prices.requests["s3_get_per_1000"] / 1000, prices.requests["s3_list_per_1000"] / 1000
    lists = math.ceil(data.files / LIST_OBJECTS) * listing
    # A large object is fetched in pieces, of some 8 MB each.
    pieces = data.files * max(1, math.ceil(data.file_bytes / (8 * MB)))
    if name == "File":
        return plan.hosts * (pieces * get + lists)
    if name == "FastFile":
        return pieces * get * plan.epochs + plan.hosts * lists
    if name == "Pipe":
        return plan.hosts * plan.epochs * (pieces * get + lists)
    return pieces * get + lists if name == "FSx" else 0.0


def _changes(
    data: _Data, plan: Plan, prices: Prices, hourly: float, modes: tuple[ModeCost, ...], best: ModeCost
) -> list[str]:
    told: list[str] = []
    by_name = {mode.name: mode for mode in modes}
    told.append(f"use {best.name}: {_why(best, modes)}")
    shards = data.in_shards()
    if data.file_bytes < SMALL_OBJECT and data.files > 2 * shards.files:
        then = {mode.name: mode for mode in _all_modes(shards, plan, prices, hourly)}
        file, fast = then["File"], then["FastFile"]
        told.append(
            f"pack the {data.files:,} files into {_shards(data, shards.files, plan.hosts)}: File then begins after "
            f"{file.before_step_1_s:,.0f} s instead of {by_name['File'].before_step_1_s:,.0f} s, "
            f"FastFile reads {fast.mb_per_s:,.0f} MB/s instead of {by_name['FastFile'].mb_per_s:,.1f}"
        )
        least = min(then.values(), key=_rank)
        if least.name != best.name:
            told.append(f"after that, use {least.name}: {_why(least, tuple(then.values()))}")
    if plan.hosts > 1:
        own = _mode("File", data.sharded(plan.hosts), plan, prices, hourly)
        told.append(
            f"File with S3DataDistributionType=ShardedByS3Key begins after {own.before_step_1_s:,.0f} s: each of "
            f"{plan.hosts} hosts loads its own {size(data.total / plan.hosts)}; it shuffles within a host only"
        )
    room = math.ceil(data.total * VOLUME_ROOM / GB)
    told.append(f"for File, VolumeSizeInGB={max(30, room)}: {size(data.total)} of data and room to write")
    starved = [mode.name for mode in modes if (mode.starved_share or 0.0) > 0.05]
    if starved:
        need = plan.device_samples_per_s * data.total / max(1, data.samples) / MB
        told.append(f"devices want {need:,.3g} MB/s per host: {', '.join(starved)} would let them wait")
    return told


def _why(mode: ModeCost, modes: tuple[ModeCost, ...]) -> str:
    after = f"step 1 after {mode.before_step_1_s:,.0f} s"
    if mode.sum_usd is not None and mode.starved_s is not None:
        return f"it adds ${mode.sum_usd:,.2f}, {after}; the dearest adds ${max(m.sum_usd or 0.0 for m in modes):,.2f}"
    lacking = "--instance or --price" if mode.sum_usd is None else "--device-samples-per-s"
    return f"the least time to begin and to read, {after} (give {lacking} to weigh it in money)"


def _shards(data: _Data, count: int, hosts: int) -> str:
    """Name a number of shards that hosts can share evenly, and their size."""
    count = math.ceil(count / hosts) * hosts
    word = "tar shard" if count == 1 else "tar shards"
    return (
        f"{count:,} {word} of {size(data.total / count)}{f', as many for each of {hosts} hosts' if hosts > 1 else ''}"
    )


def _assumptions(found: Dataset, plan: Plan, prices: Prices, hourly: float) -> list[str]:
    told = [
        "the data lies where each mode reads it: in S3, on EFS, or in a bucket that FSx is linked to; copying it there "
        "is not counted",
        f"prices of {prices.as_of}, {prices.region}, from {prices.source}: {prices.note}",
        f"File: {DOWNLOAD_MB_S:.0f} MB/s (AWS: 50 GB in 100 MB shards in 5 min), {DOWNLOAD_OBJECTS_S:.0f} objects/s "
        "(unverified)",
        f"FastFile: {GET_S * 1000:.0f} ms to the first byte, {STREAM_MB_S:.0f} MB/s a stream, {HOST_MB_S:.0f} MB/s a "
        f"host, {plan.workers} streams at once (all unverified)",
        f"Pipe: {PIPE_MB_S:.0f} MB/s a channel (unverified); every host reads all of it",
        f"EFS: {EFS_OPEN_S * 1000:.1f} ms a metadata request (case study), {EFS_HOST_MB_S:.0f} MB/s a client "
        "(unverified)",
        f"FSx: mounted after {FSX_START_S:.0f} s (case study), {FSX_MB_S:,.0f} MB/s loaded and "
        f"{FSX_COLD_MB_S:.0f} MB/s a reader while it loads from S3 (AWS workshop), at least {FSX_LEAST_GB:,.0f} GB, "
        "kept for the job only",
    ]
    if not hourly:
        told.append("no --instance and no --price: waiting has no cost here")
    if not plan.device_samples_per_s:
        told.append("no --device-samples-per-s: whether devices wait in the steady state is not told")
    elif not found.samples:
        told.append("the number of samples is unknown: whether devices wait is not told")
    if not found.survey.complete:
        told.append(f"only {found.survey.files.count:,} files were listed: the real figures are larger")
    return told
