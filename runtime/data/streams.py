"""Shards read forward only: compressed ones, FIFOs, anything that cannot seek; shuffled by a buffer, cut into batches.

The sequence of samples is a function of (files, seed, epoch, buffer); batches cut it, ranks slice batches. Every rank
reads everything and keeps its part, so that all have equal numbers of batches without a word between them, and a
position is resumed by reading up to it. What can be reached at any place is read better by `runtime.data.shards`.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from runtime.base.errors import UserError
from runtime.data.formats.probe import SPAN_FORMATS, probe_window
from runtime.data.formats.samples import Sample
from runtime.data.formats.window import Window
from runtime.data.order import Division, Identity, Permutation, num_batches, slice_batch

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One rank's part of one global batch."""

    begin: int
    """Samples of the epoch before the global batch."""
    samples: tuple[Sample, ...]
    padding: int
    """How many of the last `samples` are repeats, to be kept out of counts and metrics."""


def read_batches(
    paths: Sequence[Path],
    division: Division,
    *,
    content_type: str = "",
    seed: int = 0,
    epoch: int = 0,
    buffer: int = 10_000,
    consumed: int = 0,
) -> Iterator[Part]:
    """Read one epoch of shards, each forward and once.

    Args:
        paths: files, or FIFOs; in the order of their names. Several files are shuffled as wholes, unless `buffer` is 0.
        division: how batches are cut for this rank.
        content_type: of the shards; empty: by the first bytes of each.
        seed: of the shuffle.
        epoch: counted from 0.
        buffer: samples among which the next one is drawn; 0: the order of the shards. It is this rank's memory.
        consumed: samples of the epoch that were given out before; they are read and dropped.

    Raises:
        UserError: a format that cannot be read forward.
        FormatError: with file and offset.
    """
    key = f"{seed}/{epoch}"
    order = Permutation(len(paths), f"{key}/files") if buffer else Identity(len(paths))
    chosen = [paths[number] for number in order.take(0, len(paths)).tolist()]
    samples: Iterator[Sample] = itertools.chain.from_iterable(_read(path, content_type) for path in chosen)
    if buffer:
        samples = shuffled(samples, size=buffer, key=key)
    return cut(itertools.islice(samples, consumed, None), division, begin=consumed)


def shuffled(
    items: Iterable[T],
    *,
    size: int,
    key: str,
    weigh: Callable[[T], int] = lambda _: 0,
    most_weight: float = math.inf,
) -> Iterator[T]:
    """Draw each item from a buffer; the same sequence for the same items and arguments.

    Args:
        items: to shuffle.
        size: items that the buffer holds.
        key: any text.
        weigh: of an item, such as its bytes.
        most_weight: what the items in the buffer weigh together at most; one item is held whatever it weighs.
    """
    chance = random.Random(key)  # noqa: S311 - its random() is the same in every version of Python
    held: list[T] = []
    weight = 0
    for item in items:
        weight += weigh(item)
        if len(held) < size and (weight <= most_weight or not held):
            held.append(item)
            continue
        place = int(chance.random() * len(held))
        drawn, held[place] = held[place], item
        weight -= weigh(drawn)
        yield drawn
        while weight > most_weight and len(held) > 1:
            drawn = _draw(held, chance)
            weight -= weigh(drawn)
            yield drawn
    while held:
        yield _draw(held, chance)


def _draw(held: list[T], chance: random.Random) -> T:
    place = int(chance.random() * len(held))
    held[place], held[-1] = held[-1], held[place]
    return held.pop()


def cut(samples: Iterable[Sample], division: Division, *, begin: int = 0) -> Iterator[Part]:
    """Cut a sequence into this rank's parts of global batches, by the rules of `slice_batch`.

    Repeats that pad the last batch are samples of that batch.
    """
    rest = iter(samples)
    while group := list(itertools.islice(rest, division.global_batch)):
        if not num_batches(len(group), division):
            return
        part = slice_batch(Identity(len(group)), 0, division)
        yield Part(begin, tuple(group[number] for number in part.indices), part.padding)
        begin += division.global_batch


def _read(path: Path, content_type: str) -> Iterator[Sample]:
    with Window.open(path) as window:
        found = probe_window(window, path, content_type)
        if found.format not in SPAN_FORMATS:
            raise UserError(f"{path} is {found.format}, which cannot be read forward from a stream")
        yield from SPAN_FORMATS[found.format]().samples(window)
