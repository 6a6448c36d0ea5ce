"""What an unreadable sample does to the job: the policy, its bounds, and the record that is kept of it.

Whatever is bad on whichever rank, every rank keeps its number of batches. Each rank judges at once by what it saw
itself; all together judge when they save and when they end, and what they know by then is part of the state.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from runtime.base.errors import UserError
from runtime.base.log import Log

log = Log("data")

OnBad = Literal["raise", "skip", "replace"]
ON_BAD: tuple[OnBad, ...] = ("raise", "skip", "replace")
RECORD_FORMAT = 1
FREE = 10
"""So many may be bad whatever their share: of a hundred samples one is a whole percent already."""
IN_STATE = 32
"""Numbers of bad samples that a state holds; of more it holds their count and digest."""
SHOWN = 5
"""Names in the summary, and the first bad samples that get a line each."""


@dataclass(frozen=True)
class Bad:
    """One sample that could not be read."""

    index: int
    """Its number in the channel."""
    name: str
    """Its file, or its shard and number therein."""
    reason: str
    shard: int = 0
    """Which hosts' files, where hosts hold different ones: there a number alone says nothing."""

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from every other sample of the channel."""
        return self.shard, self.index


@dataclass(frozen=True)
class Bounds:
    """How many bad samples a job goes on with."""

    most: int = 1000
    """Different samples over all ranks: names that somebody may still look at."""
    share: float = 0.01
    """Of the samples that were read, beyond the first `FREE`."""

    def broken_by(self, bad: int, seen: int) -> str:
        """Say which bound so many bad ones of so many read ones break; empty when none."""
        if bad > self.most:
            return f"more than slipway_bad_most={self.most} allows"
        if bad > FREE + self.share * seen:
            return f"more than {FREE} and slipway_bad_share={self.share:g} of them allow"
        return ""


class BadSamples:
    """The bad samples of one channel, as one rank knows them."""

    def __init__(
        self, channel: str, total: int, bounds: Bounds | None = None, record: Path | None = None, shard: int = 0
    ) -> None:
        """Begin with none.

        Args:
            channel: its name.
            total: samples of the channel; 0: nobody knows, as of a stream.
            bounds: None: the defaults.
            record: file that gets one JSON line for each sample as soon as it is found; None: nowhere.
            shard: whose files we read, where hosts hold different ones.
        """
        self._channel = channel
        self._total = total
        self._bounds = bounds or Bounds()
        self._record = record
        self._shard = shard
        self._known: dict[tuple[int, int], Bad] = {}
        self._fresh: list[Bad] = []
        self._recorded: set[tuple[int, int]] = set()
        self._unnamed = 0
        self._earlier_digest = ""
        self._seen = 0
        self._found = 0
        """By this rank itself, as `_seen` is: only these two belong together before the ranks have talked."""
        self._seen_by_all = self._seen_earlier = 0
        self._said = 0

    def __len__(self) -> int:
        """Count different samples; after a resume with more than a state names, at most."""
        return len(self._known) + self._unnamed

    def add(self, bad: Sequence[Bad], seen: int, epoch: int, action: str) -> None:
        """Take what one batch met.

        Args:
            bad: samples that could not be read.
            seen: samples that were tried.
            epoch: for the record.
            action: ``skip`` or ``replace``.

        Raises:
            UserError: this rank alone has met more than the bounds allow.
        """
        self._seen += seen
        mine = [replace(one, shard=self._shard) for one in bad]
        fresh = [one for one in mine if one.key not in self._known]
        self._known |= {one.key: one for one in fresh}
        if not fresh:
            return
        self._fresh += fresh
        self._write(fresh, epoch, action)
        if len(self) <= SHOWN or len(self) >= 2 * self._said:
            self._said = len(self)
            log.warning(f"channel {self._channel!r}: {len(self)} unreadable samples so far; {fresh[-1].reason}")
        self._found += len(fresh)
        if len(self) > self._bounds.most:  # of these, those before a resume and of other ranks count at once
            self._judge(len(self), max(self._seen, self._seen_by_all, self._seen_earlier))
        self._judge(self._found, self._seen)

    def fresh(self) -> tuple[Bad, ...]:
        """Return what the other ranks have not heard of yet."""
        told, self._fresh = tuple(self._fresh), []
        return told

    @property
    def seen(self) -> int:
        """Samples that this rank has tried since it began."""
        return self._seen

    def hear(self, told: Sequence[Bad], seen: int, *, judge: bool = True) -> None:
        """Take what all ranks have found; every rank hears the same.

        Args:
            told: of all ranks, this one included.
            seen: the sum of all ranks' `seen`.
            judge: False: the job is over, nothing is refused any more.

        Raises:
            UserError: together it is more than the bounds allow.
        """
        for one in told:
            self._known.setdefault(one.key, one)
        self._seen_by_all = self._seen_earlier + seen
        if judge and len(self):
            self._judge(len(self), self._seen_by_all)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of them, a few hundred bytes; empty when there are none."""
        if not len(self):
            return {}
        keys = sorted(self._known)
        digest = hashlib.sha256(f"{self._earlier_digest} {keys}".encode()).hexdigest()[:16]
        return {"count": len(self), "samples": [list(key) for key in keys[:IN_STATE]], "digest": digest} | {
            "seen": max(self._seen_by_all, self._seen_earlier)
        }

    def load_state(self, state: Mapping[str, Any], name: Callable[[int], str]) -> None:
        """Go on counting where a checkpoint was.

        Args:
            state: from `state`.
            name: of a sample of this host's files, by its number.
        """
        self._known.clear()
        self._seen_earlier = int(state.get("seen", 0))
        for shard, index in state.get("samples", ()):
            called = name(index) if shard == self._shard else f"sample {index} of the hosts' group {shard}"
            one = Bad(index, called, f"{called} could not be read before the job was resumed", shard)
            self._known[one.key] = one
        self._unnamed = max(0, int(state.get("count", 0)) - len(self._known))
        self._earlier_digest = str(state.get("digest", "")) if self._unnamed else ""
        self._fresh = []

    def conclude(self, epoch: int, action: str) -> str:
        """Say in one line what was bad, and add to the record what others found; empty when nothing was bad."""
        if not len(self):
            return ""
        self._write([one for one in self._known.values() if one.key not in self._recorded], epoch, action)
        named = [one.reason for one in self._known.values()][:SHOWN]
        more = f"; {len(self) - len(named)} more" if len(self) > len(named) else ""
        where = f"; all names in {self._record}" if self._record else ""
        done = {"skip": "skipped", "replace": "replaced"}.get(action, action)
        of = f" of {self._total:,}" if self._total else ""
        return (
            f"channel {self._channel!r}: {len(self):,}{of} samples could not be read and were {done}: "
            f"{'; '.join(named)}{more}{where}"
        )

    def _judge(self, bad: int, seen: int) -> None:
        # Every sample is tried once in an epoch: more epochs make none of them more.
        seen = min(seen, self._total or seen)
        broken = self._bounds.broken_by(bad, seen)
        if not broken:
            return
        last = next(reversed(self._known.values()))
        where = f", all of them are in {self._record}" if self._record else ""
        raise UserError(
            f"Channel {self._channel!r}: {bad} of {seen} samples cannot be read, {broken}; the last: {last.reason}",
            fix=f"mend the data{where}; or raise slipway_bad_most and slipway_bad_share",
        )

    def _write(self, fresh: Sequence[Bad], epoch: int, action: str) -> None:
        self._recorded |= {one.key for one in fresh}
        if self._record is None or not fresh:
            return
        lines = [
            {"channel": self._channel, "epoch": epoch, "sample": one.index, "name": one.name, "reason": one.reason}
            | {"action": action}
            for one in fresh
        ]
        try:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            with self._record.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                if stream.tell() == 0:
                    stream.write(json.dumps({"format": RECORD_FORMAT}) + "\n")
                stream.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        except OSError as error:
            log.warning(f"names of bad samples are not kept: {error}")
            self._record = None


def record_name(rank: int) -> str:
    """Name a rank's record, such that those of several hosts may lie in one directory."""
    return f"bad_samples-rank-{rank}.jsonl"
