"""Pipe channels for tests: FIFOs of each host, and worlds whose ranks are threads of the test."""

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from runtime.data.formats.probe import SPAN_FORMATS
from runtime.data.formats.recordio import RecordWriter
from runtime.data.order import Division
from runtime.data.pipe import PipeData
from runtime.data.pipe_reader import ReaderPlan
from runtime.local.inputs.pipe import PipeFeeder

HANG_S = 120.0
Pieces = Callable[[int], Iterator[bytes]]
"""Of an epoch."""


class World:
    """Ranks that are threads: exchanging is waiting for each other."""

    def __init__(self, hosts: int = 1, ranks: int = 1) -> None:
        self.hosts, self.ranks = hosts, ranks
        self.barrier = threading.Barrier(hosts * ranks)
        self.slots: list[Any] = [None] * (hosts * ranks)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.slots[rank] = value
        self.barrier.wait(HANG_S)
        seen = list(self.slots)
        self.barrier.wait(HANG_S)
        return seen


class _Bits:
    def __init__(self, value: Callable[[], int]) -> None:
        self._value = value
        self._known: int | None = None

    def result(self) -> int:
        if self._known is None:
            self._known = self._value()
        return self._known


class Hooks:
    """What a Run is to its data."""

    def __init__(self, world: World, rank: int, stop_at: int = 0) -> None:
        self._world, self._rank, self._stop_at = world, rank, stop_at
        self._given = 0

    def enter(self, phase: str) -> None:
        self._given += phase == "compute"

    def before_first_batch(self) -> None:
        pass

    def at_end(self) -> bool:
        return 0 < self._stop_at <= self._given

    def agree(self, channel: str, mine: Any) -> Any:
        del channel
        return mine

    def gather_address(self, address: bytes) -> bytes:
        return self._world.exchange(self._rank, address)[self._rank // self._world.ranks * self._world.ranks]

    def combine(self, bits: int, width: int) -> _Bits:
        assert bits < 1 << width

        def together() -> int:
            total = 0
            for each in self._world.exchange(self._rank, bits):
                total |= each
            return total

        return _Bits(together)


class Pipes:
    """The writers of each host's FIFOs, as the local platform has them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made = 0
        self._feeders: list[PipeFeeder] = []

    def feed(self, pieces: Pieces) -> str:
        """Write one host's FIFOs; return the path of them without the epoch."""
        self._made += 1
        directory = self._root / f"fifos-{self._made}"
        directory.mkdir()
        feeder = PipeFeeder("train", directory, pieces, lambda: 1)
        feeder.start()
        self._feeders.append(feeder)
        return str(directory / "train")

    def stop(self) -> None:
        for feeder in self._feeders:
            feeder.stop()
        self._feeders.clear()


def plan(prefix: str, **changes: Any) -> ReaderPlan:
    base: dict[str, Any] = {
        "channel": "train",
        "prefix": prefix,
        "wait_s": 60.0,
        "content_type": "",
        "wrapped": False,
        "attributes": (),
        "batch_size": 4,
        "first_rank": 0,
        "local_ranks": 1,
        "ranks": 1,
        "sharded": False,
        "last": "short",
        "seed": 0,
        "shuffle": False,
        "sample": 0,
        "speaks": False,
    }
    return ReaderPlan(**{**base, **changes})


def open_pipe(
    prefix: str,
    *,
    world: World | None = None,
    rank: int = 0,
    workers: int = 0,
    stop_at: int = 0,
    transform: Any = None,
    on_bad: Any = "raise",
    **changes: Any,
) -> PipeData:
    """Open one rank's view of a channel, as `PipeData.of_channel` does."""
    world = world or World()
    sharded = changes.pop("sharded", False) and world.hosts > 1
    ranks = world.ranks if sharded else world.hosts * world.ranks
    local = rank % world.ranks
    first = 0 if sharded else rank - local
    made = plan(prefix, first_rank=first, local_ranks=world.ranks, ranks=ranks, sharded=sharded, **changes)
    return PipeData(
        made,
        division=Division(made.batch_size, first + local, ranks, made.last, shards=world.hosts * world.ranks // ranks),
        local_rank=local,
        num_hosts=world.hosts,
        workers=workers,
        on_bad=on_bad,
        transform=transform,
        device=torch.device("cpu"),
        hooks=Hooks(world, rank, stop_at),  # pyright: ignore
    )


@dataclass
class Seen:
    """What one rank was given."""

    batches: list[list[int]] = field(default_factory=list[list[int]])
    """Labels, without padding."""
    sizes: list[int] = field(default_factory=list[int])
    """Samples with padding."""
    state: dict[str, Any] = field(default_factory=dict[str, Any])


def run_world(
    prefixes: Sequence[str], ranks: int, *, state: dict[str, Any] | None = None, epochs: int = 1, **words: Any
) -> list[Seen]:
    """Read up to some epochs with all ranks of a world at once; raise what the first rank to fail raised."""
    world = World(len(prefixes), ranks)

    def rank_main(rank: int) -> Seen:
        try:
            data = open_pipe(prefixes[rank // ranks], world=world, rank=rank, **words)
            if state is not None:
                data.load_state_dict(state)
            seen = Seen()
            while data.epoch < epochs:
                before = data.epoch
                for batch in data:
                    seen.batches.append([int(label) for label in batch[1][: batch.num_samples]])
                    seen.sizes.append(len(batch[1]))
                    seen.state = data.state_dict()
                if data.epoch == before:
                    break  # stop_at
            return seen
        except BaseException:
            world.barrier.abort()  # as the launcher ends everybody
            raise

    with ThreadPoolExecutor(len(prefixes) * ranks) as pool:
        futures = [pool.submit(rank_main, rank) for rank in range(len(prefixes) * ranks)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    return [future.result() for future in futures]


def written(form: str, numbers: Sequence[int]) -> bytes:
    """Make one object of a format, with these numbers as labels."""
    out = io.BytesIO()
    kind: Any = SPAN_FORMATS[form]()
    writer = kind.writer(out)
    for n in numbers:
        writer.write(sample_of(form, n))
    writer.close()
    return out.getvalue()


def sample_of(form: str, n: int) -> dict[str, Any]:
    if form in ("csv", "tsv", "jsonlines"):
        return {"label": float(n), "a": float(n)}
    if form == "tar":
        array = io.BytesIO()
        np.save(array, np.full(3, n, np.float32))
        return {"__key__": f"{n:06}", "npy": array.getvalue(), "cls": str(n).encode()}
    if form == "recordio-image":
        return {"image": png(n), "label": float(n)}
    if form == "tfrecord":
        return {"image": png(n), "label": n}
    return {"values": np.full(3, n, np.float32), "label": np.array([n], np.float32)}


def png(n: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (4, 3), n % 256).save(out, "PNG")
    return out.getvalue()


def wrap(objects: Sequence[bytes]) -> bytes:
    """Wrap each object into one record, as the service does."""
    out = io.BytesIO()
    writer = RecordWriter(out, escape=False)
    for each in objects:
        writer.write(each)
    return out.getvalue()


def labels(data: PipeData) -> list[int]:
    return [int(label) for batch in data for label in batch[1][: batch.num_samples]]
