"""Which samples go into which shard: pure, the same for any number of processes and hosts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from runtime.base.errors import UserError
from runtime.data.convert.options import SUFFIXES, TREES, Options
from runtime.data.convert.survey import NO_SPLIT, Survey
from runtime.data.order import Blocks, Order, global_order

Indices = npt.NDArray[np.int64]
SMOOTH = 17
"""Neighbouring measurements whose mean tells how big samples are there; one alone says little."""


@dataclass(frozen=True)
class Line:
    """Samples of one split and, when grouped, one label; in the order of the output."""

    split: str
    label: str
    order: Order | Indices

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.order)

    def take(self, begin: int, end: int) -> Indices:
        """Return the numbers of samples in the source."""
        return self.order.take(begin, end) if isinstance(self.order, Order) else self.order[begin:end]


@dataclass(frozen=True)
class Slot:
    """One shard to be made."""

    number: int
    line: int
    begin: int
    """Position in the line."""
    end: int
    first: int
    """Number of its first sample in the output."""
    name: str
    """Of its file without suffix, relative to the output's directory."""


@dataclass(frozen=True)
class Plan:
    """All shards of the output."""

    lines: tuple[Line, ...]
    slots: tuple[Slot, ...]
    left_out: int
    """Samples of no split."""
    reason: str


def lines_of(count: int, digest: str, options: Options, survey: Survey, blocks: Blocks | None) -> tuple[Line, ...]:
    """Divide the samples into lines.

    Args:
        count: samples of the source.
        digest: of the source, which the order depends on.
        options: of the conversion.
        survey: of the source.
        blocks: samples of the source that are read together.
    """
    order = global_order(count, digest=digest, seed=options.seed, epoch=0, shuffle=options.shuffle, blocks=blocks)
    if survey.splits is None and not options.by_label:
        return (Line("", "", order),)
    indices = order.take(0, count)
    names = [name for name, _ in options.splits] or [""]
    of_split = survey.splits[indices] if survey.splits is not None else np.zeros(count, np.uint8)
    lines: list[Line] = []
    for number, name in enumerate(names):
        here = indices[of_split == number]
        if not options.by_label or survey.labels is None:
            lines.append(Line(name, "", here))
            continue
        of_label = survey.labels[here]
        if (of_label < 0).any() and options.on_bad == "raise":
            raise UserError("--by-label, and a sample has no label", fix="name its field: --label-field NAME")
        sorted_here = here[np.argsort(of_label, kind="stable")]
        borders = np.searchsorted(np.sort(of_label), np.arange(len(survey.names) + 1))
        for label, (begin, end) in enumerate(pairwise(borders)):
            if begin < end:
                lines.append(Line(name, directory_of(survey.names[label], survey), sorted_here[begin:end]))
    return tuple(lines)


def directory_of(label: int | float | str, survey: Survey) -> str:
    """Name the directory of a label; numbers get zeros in front, so that sorted names are sorted numbers."""
    if isinstance(label, str):
        text = label.replace("/", "_").replace("\0", "_")
        return text if text and not text.startswith((".", "_")) else f"x{text}"
    numbers = [name for name in survey.names if not isinstance(name, str)]
    width = max((len(f"{abs(number):g}".partition(".")[0]) for number in numbers), default=1)
    return f"{label:0{width}d}" if isinstance(label, int) else f"{label:g}"


def make_plan(lines: Sequence[Line], count: int, options: Options, sizes: npt.NDArray[np.float64]) -> Plan:
    """Cut lines into shards.

    Args:
        lines: from `lines_of`.
        count: samples of the source.
        options: of the conversion.
        sizes: bytes in the output of some samples, at even distances over the source; at least one.
    """
    exact = len(sizes) >= count
    smooth = sizes if exact else _smoothed(sizes)
    slots: list[Slot] = []
    first = 0
    for number, line in enumerate(lines):
        total = float(np.mean(sizes)) * len(line)
        wanted = options.shards or max(1, round(total / options.shard_bytes))
        pieces = 1 if options.to == "npy" else max(1, min(wanted, len(line)))
        if options.shards or (options.shuffle and not exact):
            borders = [len(line) * piece // pieces for piece in range(pieces + 1)]
        else:
            borders = _borders(line, count, smooth, pieces, options)
        stem = "/".join(part for part in (line.split, line.label) if part)
        for piece, (begin, end) in enumerate(pairwise(borders)):
            name = f"part-{piece:05d}"
            slots.append(Slot(len(slots), number, begin, end, first + begin, f"{stem}/{name}" if stem else name))
        first += len(line)
    left_out = count - first
    return Plan(tuple(lines), tuple(slots), left_out, _reason(slots, sizes, first, options))


def _smoothed(sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    width = min(SMOOTH, len(sizes))
    padded = np.pad(sizes, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def _borders(line: Line, count: int, sizes: npt.NDArray[np.float64], pieces: int, options: Options) -> list[int]:
    """Cut a line into pieces of about equal bytes."""
    goals = np.arange(1, pieces) / pieces
    if isinstance(line.order, Order) and not options.shuffle:
        ends = np.cumsum(sizes)
        places = np.interp(goals * ends[-1], np.concatenate(([0.0], ends)), np.linspace(0, count, len(sizes) + 1))
        inner = np.rint(places).astype(np.int64)
    else:
        indices = line.take(0, len(line))
        ends = np.cumsum(sizes[indices * len(sizes) // count])
        inner = np.searchsorted(ends, goals * ends[-1]) + 1 if len(ends) else np.zeros(0, np.int64)
    # No shard without a sample, however uneven they are.
    borders = [0]
    for place, border in enumerate(inner.tolist()):
        borders.append(min(max(border, borders[-1] + 1), len(line) - (pieces - 1 - place)))
    return [*borders, len(line)]


def _reason(slots: Sequence[Slot], sizes: npt.NDArray[np.float64], samples: int, options: Options) -> str:
    each = float(np.mean(sizes)) * samples / max(1, len(slots)) / 1e6
    what = "lists of files" if options.to in TREES else f"{SUFFIXES.get(options.to, '.npy')} shards"
    if options.to == "npy":
        return f"{len(slots)} pairs of arrays because that is what run.data reads"
    why = f"--shards {options.shards}" if options.shards else f"--shard-mb {options.shard_bytes / 1e6:g}"
    told = f"{len(slots)} {what} of about {each:.1f} MB because {why}"
    if options.to not in TREES and len(slots) > 1 and not 50 <= each <= 400:
        told += " (100 to 200 MB is usual: smaller ones cost requests and time to start, larger ones are hard to share)"
    return told


__all__ = ["NO_SPLIT", "Line", "Plan", "Slot", "directory_of", "lines_of", "make_plan"]
