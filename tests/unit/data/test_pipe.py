"""`run.data` on Pipe channels: one reader per host, real FIFOs, real sockets, ranks as threads."""

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.data.formats.probe import SPAN_FORMATS
from runtime.data.formats.recordio import RecordWriter
from runtime.data.order import Division
from runtime.data.pipe import PipeData
from runtime.data.pipe_reader import ReaderPlan
from runtime.local.inputs.pipe import PipeFeeder

HANG_S = 120.0


class Gather:
    """The world of some ranks that are threads of this process."""

    def __init__(self, hosts: int, ranks: int) -> None:
        self.hosts, self.ranks = hosts, ranks
        self.barrier = threading.Barrier(hosts * ranks)
        self.slots: list[Any] = [None] * (hosts * ranks)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.slots[rank] = value
        self.barrier.wait(HANG_S)
        seen = list(self.slots)
        self.barrier.wait(HANG_S)
        return seen


class Bits:
    def __init__(self, value: Callable[[], int]) -> None:
        self._value = value
        self._known: int | None = None

    def result(self) -> int:
        if self._known is None:
            self._known = self._value()
        return self._known


class Hooks:
    """A Run without anything."""

    def __init__(self, world: Gather, rank: int, stop_at: int = 0) -> None:
        self._world, self._rank = world, rank
        self.given, self.stop_at = 0, stop_at

    def enter(self, phase: str) -> None:
        self.given += phase == "compute"

    def before_first_batch(self) -> None:
        pass

    def at_end(self) -> bool:
        return 0 < self.stop_at <= self.given

    def agree(self, channel: str, mine: Any) -> Any:
        del channel
        return mine

    def gather_address(self, address: bytes) -> bytes:
        return self._world.exchange(self._rank, address)[self._rank // self._world.ranks * self._world.ranks]

    def combine(self, bits: int, width: int) -> Bits:
        assert bits < 1 << width

        def together() -> int:
            total = 0
            for each in self._world.exchange(self._rank, bits):
                total |= each
            return total

        return Bits(together)


class Pipes:
    """The writers of each host's FIFOs, as the local platform has them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._feeders: list[PipeFeeder] = []

    def feed(self, host: int, pieces: Callable[[int], Iterator[bytes]]) -> PipeFeeder:
        directory = self._root / f"host-{host}-{len(self._feeders)}"
        directory.mkdir()
        feeder = PipeFeeder("train", directory, pieces, lambda: 1)
        feeder.start()
        self._feeders.append(feeder)
        return feeder

    def prefix(self, host: int) -> str:
        return str(next(self._root.glob(f"host-{host}-*")) / "train")

    def stop(self) -> None:
        for feeder in self._feeders:
            feeder.stop()
        self._feeders.clear()


@pytest.fixture
def pipes(tmp_path: Path) -> Iterator[Pipes]:
    made = Pipes(tmp_path)
    yield made
    made.stop()


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


def one(prefix: str, *, workers: int = 0, stop_at: int = 0, transform: Any = None, **changes: Any) -> PipeData:
    """Open a channel in a world of one."""
    made = plan(prefix, **changes)
    return PipeData(
        made,
        division=Division(made.batch_size, 0, 1, made.last),
        local_rank=0,
        num_hosts=1,
        workers=workers,
        on_bad="raise",
        transform=transform,
        device=torch.device("cpu"),
        hooks=Hooks(Gather(1, 1), 0, stop_at),  # pyright: ignore
    )


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
    return {"values": np.full(3, n, np.float32), "label": np.array([n], np.float32)}


def png(n: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (4, 3), n % 256).save(out, "PNG")
    return out.getvalue()


def wrap(objects: Sequence[bytes]) -> bytes:
    out = io.BytesIO()
    writer = RecordWriter(out, escape=False)
    for each in objects:
        writer.write(each)
    return out.getvalue()


def labels(data: PipeData) -> list[int]:
    return [int(label) for batch in data for label in batch[1][: batch.num_samples]]


FORMS = ("jsonlines", "csv", "tar", "recordio-protobuf", "recordio-image")


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_objects_one_after_another_are_one_stream(form: str, wrapped: bool, pipes: Pipes) -> None:
    objects = [written(form, range(begin, min(23, begin + 5))) for begin in range(0, 23, 5)]
    stream = wrap([b"", *objects]) if wrapped else b"".join(objects)
    pipes.feed(0, lambda _: iter((stream,)))
    data = one(pipes.prefix(0), wrapped=wrapped)
    assert labels(data) == list(range(23))
    assert data.epoch == 1
    assert labels(data) == list(range(23)), "the second epoch is the second FIFO"
