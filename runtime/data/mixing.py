"""Several channels as one: their samples mixed by weight."""

import bisect
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runtime.base.errors import UserError
from runtime.contract.job import Channel
from runtime.data.loader import Mix
from runtime.data.order import Blocks, Mixed
from runtime.data.sources import Source, open_source


def open_channels(
    channels: Sequence[Channel], weights: Sequence[float], *, whole: bool = True
) -> tuple[Source, Mix | None]:
    """Open one channel, or several as one.

    Args:
        channels: at least one.
        weights: of each; what counts is their ratio, to a thousandth. Of a single channel it is not looked at.
        whole: False: of a damaged shard, the samples before the damage are kept.

    Returns:
        The source, and how its parts are mixed if there are several.

    Raises:
        UserError: as `open_source`; weights that are no shares; channels whose samples do not fit into one batch.
    """
    if len(channels) == 1:
        return open_source(channels[0], whole=whole), None
    names = [channel.name for channel in channels]
    if not channels or len(channels) > Mixed.PERIOD or not all(math.isfinite(w) and w > 0 for w in weights):
        raise UserError(
            f"run.data mixes channels by {dict(zip(names, weights, strict=True))}",
            allowed="a positive weight for each channel, such as {'web': 0.7, 'books': 0.3}",
        )
    if len({channel.distribution for channel in channels}) > 1:
        raise UserError(
            f"Channels {', '.join(map(repr, names))} are mixed, and some of them are ShardedByS3Key",
            allowed="channels that are mixed are all sharded, or all replicated",
        )
    sources = [open_source(channel, whole=whole) for channel in channels]
    return _Joined(names, sources), Mix(tuple(len(source) for source in sources), tuple(map(float, weights)))


def weights_of(channel: str | Mapping[str, float]) -> Mapping[str, float]:
    """Return the channels that `run.data` was asked for, with their weights."""
    return {channel: 1.0} if isinstance(channel, str) else channel


class _Joined:
    """Sources one after another."""

    blocks: Blocks | None = None

    def __init__(self, names: Sequence[str], sources: Sequence[Source]) -> None:
        first = sources[0]
        for name, source in zip(names, sources, strict=True):
            if (source.images, source.classes) != (first.images, first.classes):
                raise UserError(
                    f"Channels {names[0]!r} and {name!r} do not mix: one has images or classes that the other has not",
                    allowed="channels that are mixed hold the same kind of samples, with the same label folders",
                )
        self.about = first.about
        self.images = first.images
        self.classes = first.classes
        self.digest = hashlib.sha256(" ".join(source.digest for source in sources).encode()).hexdigest()
        self._sources = sources
        self._starts = np.cumsum([0, *(len(source) for source in sources)]).tolist()

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> tuple[Any, Any]:
        number = bisect.bisect_right(self._starts, index) - 1
        return self._sources[number].read(index - self._starts[number])

    def name(self, index: int) -> str:
        number = bisect.bisect_right(self._starts, index) - 1
        return self._sources[number].name(index - self._starts[number])

    def find_damaged(self, share: range) -> str:
        """Ask every part for its share."""
        for source in self._sources:
            fault = source.find_damaged(range(share.start, len(source), share.step))
            if fault:
                return fault
        return ""
