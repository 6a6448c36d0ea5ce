"""A bounded look into a dataset: what it is, a few samples, damage, and how fast it can be read here."""

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from runtime.base.errors import SlipwayError, UserError
from runtime.contract.job import Channel
from runtime.data.images import IMAGE_SUFFIXES, BadSample
from runtime.data.inspect.survey import Sizes, Survey, survey
from runtime.data.shards import list_shards, open_shards
from runtime.data.sources import Source, open_source, source_of_shards
from runtime.data.storage import Mount, Opens, advice, hsm_state, mount_of, spread, time_opens

READ_BYTES = 1 << 20
WHOLE_BYTES = 4 << 30
"""Of shards: up to here all are opened, which finds every sample; beyond, some of this size are, spread evenly."""
DAMAGED_SHOWN = 5
LABELS_SHOWN = 10


@dataclass(frozen=True)
class Speed:
    """How fast this machine reads the data now, with one process."""

    read_mb_per_s: float
    """Whole files in reads of 1 MiB, 10^6 bytes; the page cache asked to forget them before. 0: not measured."""
    read_mb: float
    """Read to measure it."""
    samples_per_s: float
    """Read and decoded, in random order. 0: none could be read."""
    cpu_ms_per_sample: float
    opens: Opens


@dataclass(frozen=True)
class Shown:
    """One sample."""

    name: str
    x: str
    y: str


@dataclass(frozen=True)
class Dataset:
    """What was found."""

    path: str
    survey: Survey
    mount: Mount
    format: str = ""
    reason: str = ""
    view: str = ""
    """What is x and what is y."""
    samples: int = 0
    opened: int = 0
    """Shards that were opened, when not all: then the number of samples is an estimate."""
    sample_bytes: Sizes = field(default_factory=lambda: Sizes(0, 0, 0.0, 0.0, 0))
    """Of the files of images, or the samples in their shards; none where samples share bytes."""
    labels: Mapping[str, int] = field(default_factory=dict[str, int])
    labels_of: int = 0
    """Samples among which labels were counted."""
    distinct_labels: int = 0
    shapes: Mapping[str, int] = field(default_factory=dict[str, int])
    shown: tuple[Shown, ...] = ()
    looked_at: int = 0
    damaged: tuple[str, ...] = ()
    """The first ones, each with its reason."""
    damaged_count: int = 0
    damaged_shards: tuple[str, ...] = ()
    """Shards that can be read up to a damage only."""
    refused: str = ""
    """Why it cannot be read as a channel; empty when it can."""
    speed: Speed | None = None
    advice: tuple[str, ...] = ()

    @property
    def bytes_per_sample(self) -> float:
        """Mean bytes that a sample costs to read."""
        return self.survey.files.total / self.samples if self.samples else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        about = asdict(self)
        walked = about.pop("survey")
        about["files"] = {name: walked[name] for name in ("files", "directories", "suffixes", "complete", "unreadable")}
        about["what"] = about.pop("format")  # the document's own format version is called so
        return {**about, "bytes_per_sample": self.bytes_per_sample}


def look(channel: Channel, *, seconds: float, show: int, mode: str = "File") -> Dataset:
    """Look at a directory or a file.

    Args:
        channel: its directory may also be one file; the content type has the word about the format.
        seconds: bound of each third of the look (listing, samples, raw reads); an open source is listed whole.
        show: samples to show.
        mode: input mode for the advice.

    Raises:
        UserError: there is nothing at the path.
    """
    path = channel.path
    if not path.exists():
        raise UserError(f"{path} is not there", fix="give a directory, a file, or the name of a channel of this job")
    walked = survey(path, seconds / 3)
    found = Dataset(str(path), walked, mount_of(path))
    if not walked.complete:
        refused = f"there is more than can be listed in {seconds / 3:.0f} s: raise --seconds, or use `slipway index`"
        return _with_speed(found, None, seconds / 3, mode, refused)
    try:
        source, opened = _open(channel, walked)
    except SlipwayError as error:
        return _with_speed(found, None, seconds / 3, mode, str(error))
    looked = _with_speed(found, source, seconds / 3, mode, "", show)
    if not opened:
        return looked
    share = sum(path.stat().st_size for path in opened) / walked.files.total
    return replace(looked, samples=round(looked.samples / share), opened=len(opened))


def _open(channel: Channel, walked: Survey) -> tuple[Source, list[Path]]:
    """Open all, or some shards of many; these are named, then."""
    path = channel.path
    images = sum(count for suffix, count in walked.suffixes.items() if suffix in IMAGE_SUFFIXES)
    some: list[Path] = []
    if path.is_dir() and walked.files.total > WHOLE_BYTES and 2 * images < walked.files.count:
        every = list_shards(path)
        some = spread(every, max(1, int(WHOLE_BYTES / walked.files.total * len(every))))
    if path.is_dir() and not some:
        return open_source(channel, whole=False), []
    root, paths = (path, some) if some else (path.parent, [path])
    return source_of_shards(open_shards(channel.name, root, paths, channel.content_type, whole=False), channel), some


def _with_speed(
    found: Dataset, source: Source | None, seconds: float, mode: str, refused: str, show: int = 0
) -> Dataset:
    opens = time_opens(found.survey.some, min(2.0, seconds))
    rate, amount = _raw_rate(found.survey, seconds)
    hsm = hsm_state(found.survey.some) if found.mount.kind == "lustre" else None
    told = advice(
        found.survey.root,
        files=found.survey.files.count,
        median_bytes=found.survey.files.median,
        mode=mode,
        mount=found.mount,
        opens=opens,
        hsm=hsm,
    )
    values: dict[str, Any] = {}
    per_s = cpu_ms = 0.0
    if source is not None:
        seen = _Seen(show)
        per_s, cpu_ms = seen.read(source, seconds)
        values = seen.facts(source)
    speed = Speed(rate, amount / 1e6, per_s, cpu_ms, opens)
    return replace(found, refused=refused, advice=tuple(told), speed=speed, **values)


class _Seen:
    """What reading some samples showed."""

    def __init__(self, show: int) -> None:
        self._show = show
        self._shown: list[Shown] = []
        self._labels: Counter[str] = Counter()
        self._shapes: Counter[str] = Counter()
        self._damaged: list[str] = []
        self._bad = 0
        self._looked = 0

    def read(self, source: Source, seconds: float) -> tuple[float, float]:
        """Read samples spread over the whole; return samples per second and CPU milliseconds of each."""
        began, cpu = time.perf_counter(), time.process_time()
        total = len(source)
        # A stride without a common divisor visits all, spread from the first sample on.
        stride = max(1, int(total * 0.6180339887))
        while np.gcd(stride, total) != 1:
            stride += 1
        for number in range(total):
            self._one(source, number * stride % total)
            if time.perf_counter() - began > seconds:
                break
        taken, spent = time.perf_counter() - began, time.process_time() - cpu
        good = self._looked - self._bad
        return (good / taken if good else 0.0), (spent * 1000 / good if good else 0.0)

    def _one(self, source: Source, index: int) -> None:
        self._looked += 1
        try:
            x, y = source.read(index)
        except BadSample as error:
            self._bad += 1
            if len(self._damaged) < DAMAGED_SHOWN:
                self._damaged.append(str(error))
            return
        self._shapes[_form(x)] += 1
        if _is_label(y):
            self._labels[_spell(y)] += 1
        if len(self._shown) < self._show:
            self._shown.append(Shown(source.name(index), _form(x), _spell(y)))

    def facts(self, source: Source) -> dict[str, Any]:
        """Return the fields of a `Dataset`."""
        labels, among = self._labels, self._looked - self._bad
        counts = getattr(source, "label_counts", None)
        if counts is not None:
            labels, among = counts(), len(source)
        elif source.about.view.endswith(" number"):
            labels = Counter()  # the sample's own number is no label
        of = getattr(source, "sample_bytes", lambda: None)()
        return {
            "format": source.about.format,
            "reason": source.about.reason,
            "view": source.about.view,
            "samples": len(source),
            "sample_bytes": Sizes.of(of) if of is not None else Sizes(0, 0, 0.0, 0.0, 0),
            "labels": dict(sorted(labels.most_common(LABELS_SHOWN), key=lambda item: (-item[1], item[0]))),
            "labels_of": among if labels else 0,
            "distinct_labels": len(labels),
            "shapes": dict(self._shapes.most_common(5)),
            "shown": tuple(self._shown),
            "looked_at": self._looked,
            "damaged": tuple(self._damaged),
            "damaged_count": self._bad,
            "damaged_shards": tuple(getattr(source, "damaged_shards", list)()),
        }


def _form(x: object) -> str:
    if isinstance(x, np.ndarray):
        return f"{x.dtype} [{', '.join(map(str, x.shape))}]"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{name}: {_form(value)}" for name, value in list(x.items())[:8]) + "}"
    if isinstance(x, bytes | str):
        return f"{type(x).__name__} of {len(x)}"
    return type(x).__name__


def _is_label(y: object) -> bool:
    return isinstance(y, np.ndarray | np.generic) and np.ndim(y) == 0 and float(y) == int(float(y))


def _spell(y: object) -> str:
    if isinstance(y, np.ndarray | np.generic) and np.ndim(y) == 0:
        return f"{y.item():g}" if np.asarray(y).dtype.kind == "f" else str(y.item())
    text = repr(y) if isinstance(y, str) else _form(y)
    return text if len(text) <= 80 else text[:79] + "…"


def _raw_rate(walked: Survey, seconds: float) -> tuple[float, int]:
    """Read files from their beginnings, spread over the tree; return 10^6 bytes per second, and bytes read."""
    amount = 0
    buffer = bytearray(READ_BYTES)
    began = time.perf_counter()
    for file in spread(walked.some, 256):
        try:
            amount += _read_some(file, buffer, began + seconds)
        except OSError:
            continue  # damage is told where samples are read
        if time.perf_counter() - began > seconds:
            break
    taken = time.perf_counter() - began
    return (amount / 1e6 / taken if taken > 0 else 0.0), amount


def _read_some(file: Path, buffer: bytearray, until: float) -> int:
    amount = 0
    handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        while (count := os.readv(handle, [buffer])) > 0:
            amount += count
            if time.perf_counter() > until:
                break
    finally:
        os.close(handle)
    return amount
