"""`run.data`: batches of one channel on this rank's device, resumable to the batch."""

import contextlib
import itertools
import os
import random
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
import torch

from runtime.base.errors import UserError
from runtime.base.log import Log
from runtime.data.device import Copies
from runtime.data.feeding import Feeding, Watch
from runtime.data.order import (
    ORDER_FORMAT,
    BatchSlice,
    Blocks,
    Chosen,
    Division,
    Mixed,
    Order,
    global_order,
    num_batches,
    order_key,
    slice_batches,
)
from runtime.data.policy import Bad, BadSamples, OnBad
from runtime.data.sources import BadSample, Source
from runtime.data.workers import Made, Workers

if TYPE_CHECKING:
    from runtime.profile.phases import Phase

log = Log("data")

STATE_FORMAT = 2
"""Format 1 counted batches of one size, in an order that no released version used."""
Transform = Callable[[Any], Any]
AUTO_WORKERS_MOST = 8
"""More loader workers per rank than this rarely decode faster than one GPU trains; set `workers` to go beyond."""
SUBSTITUTES_TRIED = 64
"""Samples that are tried in place of an unreadable one; when none of them can be read, the data is broken."""


class Batch(tuple[Any, Any]):
    """``(x, y)``; unpack it: tensors, or lists of what is no number, such as captions.

    ``padding`` and ``skipped`` say what is no sample of its own.
    """

    padding: int = 0
    """How many of the last samples are repeats or substitutes, to be kept out of counts and metrics."""
    bad: tuple[Bad, ...] = ()
    """Samples that belong here and could not be read."""
    more: bool = True
    """Whether the epoch goes on behind this batch; what a loop asks that cannot know `len(data)`."""

    @property
    def skipped(self) -> int:
        """How many samples that belong here could not be read (only with ``on_bad`` ``skip`` or ``replace``)."""
        return len(self.bad)

    @property
    def num_samples(self) -> int:
        """Samples that count."""
        return len(self[1]) - self.padding


class DataState(NamedTuple):
    """Where we are: the same on every rank, a few hundred bytes."""

    epoch: int
    consumed: int
    """Samples of this epoch that were given out, over all ranks that share them; past the end when the epoch is."""


class Extent(NamedTuple):
    """How much data there is: of one rank's view, or agreed by all ranks."""

    digest: str
    samples: int
    largest: int
    """Samples of the group of ranks that has most: its batches are everybody's."""


class Mix(NamedTuple):
    """Several channels as one, mixed by weight."""

    sizes: tuple[int, ...]
    weights: tuple[float, ...]


class Data:
    """One channel as batches. Iterate once per epoch; `state_dict` belongs into the checkpoint."""

    def __init__(  # noqa: PLR0913 - the arguments of run.data, gathered by Run
        self,
        source: Source,
        *,
        name: str,
        division: Division,
        seed: int,
        shuffle: bool,
        workers: int,
        on_bad: OnBad,
        transform: Transform | None,
        device: torch.device,
        sample: int,
        hooks: "Hooks",
        mix: Mix | None = None,
        bad: BadSamples | None = None,
        cpus: int | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            source: opened channel.
            name: the channel's.
            division: how batches are cut for this rank.
            seed: of the shuffle.
            shuffle: a new order in every epoch.
            workers: loader processes; 0: read in this process.
            on_bad: what an unreadable sample does.
            transform: from a sample's array to what a batch stacks; None: images become float32 [channels, height,
                width] in [0, 1], arrays stay as they are.
            device: where batches go.
            sample: use only this many samples, spread evenly; 0: all.
            hooks: what the Run wants to know of our progress.
            mix: the parts of `source`, if it is several channels.
            bad: keeps what cannot be read; None: by the default bounds, and in no file.
            cpus: that may decode for this rank; None: all that this process may use.
        """
        self.name = name
        self.classes = source.classes
        self.num_samples_in_channel = len(source)
        self.num_samples = sample if 0 < sample < len(source) else len(source)
        """Samples in use: all of the channel, or ``slipway_sample`` of them."""
        self._source = source
        self._mix = mix
        self._division = division
        self._seed = seed
        self._shuffle = shuffle
        self._workers = workers
        self._on_bad: OnBad = on_bad
        self._transform = transform
        self._copies = Copies(device)
        spare = len(os.sched_getaffinity(0)) if cpus is None else cpus
        self._watch = Watch(Feeding(name, workers, spare, division.batch_size))
        self._hooks = hooks
        self._state = DataState(0, 0)
        self.skipped = 0
        """Unreadable samples that this rank met, over all epochs."""
        self.bad = BadSamples(name, len(source)) if bad is None else bad
        self._agreed: Extent | None = None

    @property
    def global_batch(self) -> int:
        """Samples per step over all ranks."""
        return self._division.global_batch * self._division.shards

    @property
    def epoch(self) -> int:
        """Epoch under way, counted from 0."""
        return self._state.epoch

    @property
    def seed(self) -> int:
        """Seed of the order and of the transform's randomness."""
        return self._seed

    @property
    def position(self) -> int:
        """Batches of this epoch that have been given out; `len` of them are an epoch.

        After a resume with another global batch: as many of today's size as bring the rest to its end.
        """
        largest = (self._agreed or self._mine()).largest
        left = num_batches(largest - self._state.consumed, self._division)
        return num_batches(largest, self._division) - left

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample as a batch stacks it, read from the first sample."""
        # Several, for the case that the first one is among those to be skipped.
        batch = self._reader().load(BatchSlice(0, tuple(range(min(8, self.num_samples_in_channel))), 0))
        return tuple(batch[0].shape[1:])

    def __len__(self) -> int:
        """Batches per epoch, equal on every rank."""
        return num_batches(self.agree().largest, self._division)

    def agree(self) -> Extent:
        """Return how much data the job has, agreed by all ranks the first time; then every rank must ask."""
        if self._agreed is None:
            self._agreed = self._hooks.agree(self.name, self._mine())
        return self._agreed

    def _mine(self) -> Extent:
        return Extent(self._source.digest, self.num_samples, self.num_samples)

    def __iter__(self) -> Iterator[Batch]:
        """Give out the rest of this epoch."""
        if len(self) == 0:
            raise UserError(
                f"Channel {self.name!r} gives no batch: {self.num_samples} samples, global batch "
                f"{self.global_batch}, last='drop'",
                fix="use a smaller batch_size, or last='short'",
            )
        left = num_batches(self.agree().largest - self._state.consumed, self._division)
        slices = _Slices(self._order(), self._state.consumed, left, self._division)
        batches = self._batches(slices)
        self._hooks.before_first_batch()
        asked = time.perf_counter()
        try:
            while not self._hooks.at_end():
                self._hooks.enter("data")
                asked, used = time.perf_counter(), time.perf_counter() - asked
                made = next(batches, None)
                if made is None:
                    break
                batch = made.value
                self.skipped += batch.skipped
                self.bad.add(batch.bad, batch.num_samples + batch.skipped, self.epoch, self._on_bad)
                batch = self._to_device(batch)
                left -= 1
                waited, asked = time.perf_counter() - asked, time.perf_counter()
                told = self._watch.add(waited_s=waited, used_s=used, made_s=made.seconds, cpu_s=made.cpu_s)
                if told:
                    log.warning(told)
                batch.more = left > 0
                self._state = self._state._replace(consumed=self._state.consumed + self._division.global_batch)
                self._hooks.enter("compute")
                yield batch
        finally:
            if isinstance(batches, Workers):
                batches.close()
            self._hooks.enter("other")
        if left == 0:
            self.next_epoch()

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self._state = DataState(self._state.epoch + 1, 0)

    def state_dict(self) -> dict[str, Any]:
        """Say where we are."""
        extent = self.agree()
        return {
            "format": STATE_FORMAT,
            "order": ORDER_FORMAT,
            "digest": extent.digest,
            "num_samples": extent.samples,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "mix": list(self._mix.weights) if self._mix else None,
            "near": self._near() is not None,
            "shards": self._division.shards,
            "epoch": self._state.epoch,
            "consumed": self._state.consumed,
            **({"bad": bad} if (bad := self.bad.state()) else {}),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to where a checkpoint was: with the same samples and seed, in any world, with any batch size and workers.

        Raises:
            UserError: the data, the seed or the number of hosts that divide the files are others than then.
        """
        state = state_dict
        if state["format"] != STATE_FORMAT or state.get("order") != ORDER_FORMAT:
            known = f"this runtime reads format {STATE_FORMAT} of order {ORDER_FORMAT}"
            raise UserError(f"The data position has format {state['format']} of order {state.get('order')}; {known}")
        here = self.state_dict()
        words = {
            "digest": "files",
            "num_samples": "number of samples",
            "mix": "mix of channels",
            "near": "kind of shuffle, near or over everything, as its input mode asks for",
            "shards": "number of hosts that share its files (ShardedByS3Key)",
        }
        for key in ("digest", "num_samples", "seed", "shuffle", "mix", "near", "shards"):
            if state[key] != here[key]:
                raise UserError(
                    f"Channel {self.name!r} has another {words.get(key, key)} than the checkpoint: {here[key]!r}, "
                    f"was {state[key]!r}",
                    allowed="a position means something only in the same order of samples",
                    fix="run with the old value, or begin anew with slipway_resume=off",
                )
        self._state = DataState(state["epoch"], state["consumed"])
        self.bad.load_state(state.get("bad") or {}, self._source.name)

    def _near(self) -> Blocks | None:
        """How to shuffle near; a sample of the data, or a mix of channels, is shuffled over everything."""
        whole = self._mix is None and self.num_samples == len(self._source)
        return self._source.blocks if whole and self._shuffle else None

    def _order(self) -> Order:
        epoch = self._state.epoch
        if self._mix is not None:
            key = order_key(digest=self._source.digest, seed=self._seed, epoch=epoch)
            return Mixed(self._mix.sizes, self._mix.weights, length=self.num_samples, key=key, shuffle=self._shuffle)
        order = global_order(
            self.num_samples,
            digest=self._source.digest,
            seed=self._seed,
            epoch=epoch,
            shuffle=self._shuffle,
            blocks=self._near(),
        )
        return order if self.num_samples == len(self._source) else Chosen(order, len(self._source))

    def _reader(self) -> "_Reader":
        return _Reader(self._source, self._transform, self._on_bad, f"{self._seed}/{self._state.epoch}")

    def _batches(self, slices: "_Slices") -> Iterator[Made[Batch]]:
        reader = self._reader()
        if not self._workers:
            return _here(reader.load, slices)
        return Workers(reader.load, iter(slices), min(self._workers, len(slices)), f"channel {self.name!r}")

    def _to_device(self, batch: Batch) -> Batch:
        moved = Batch(cast(Any, [self._copies(part) if isinstance(part, torch.Tensor) else part for part in batch]))
        moved.padding, moved.bad = batch.padding, batch.bad
        return moved


class Hooks(Protocol):
    """What data tells the rest of its rank, and asks it."""

    def enter(self, phase: "Phase") -> None:
        """A phase of the step begins."""
        ...

    def before_first_batch(self) -> None:
        """The first batch of an iteration is about to be made."""
        ...

    def at_end(self) -> bool:
        """Whether no further batch is wanted."""
        ...

    def agree(self, channel: str, mine: Extent) -> Extent:
        """Return the extent on which all ranks agree."""
        ...


class _Slices:
    """The slices of an epoch, cut when they are wanted: an epoch may have millions."""

    def __init__(self, order: Order, begin: int, count: int, division: Division) -> None:
        self._order = order
        self._begin = begin
        self._count = count
        self._division = division

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[BatchSlice]:
        return slice_batches(self._order, self._begin, self._count, self._division)


class _Reader:
    """Slices to batches; lives in a loader worker, or in this process."""

    def __init__(self, source: Source, transform: Transform | None, on_bad: OnBad, key: str) -> None:
        self._source = source
        self._transform = transform
        self._on_bad = on_bad
        self._key = key

    def load(self, part: BatchSlice) -> Batch:
        """Read, transform and stack one slice."""
        xs: list[Any] = []
        ys: list[Any] = []
        bad: list[Bad] = []
        padding = 0
        real = len(part.indices) - part.padding
        for position, index in enumerate(part.indices):
            try:
                x, y = self._one(index)
            except BadSample as error:
                if self._on_bad == "raise":
                    raise UserError(
                        f"Unreadable sample: {error}",
                        fix="replace or remove the file, or pass on_bad='skip' to run.data",
                    ) from error
                if position < real:  # a repeat that is missing is no lost sample
                    bad.append(Bad(index, self._source.name(index), str(error)))
                continue
            padding += position >= real
            xs.append(x)
            ys.append(y)
        # At least one: a batch of nothing would bring this rank out of step with the others.
        wanted = len(part.indices) if self._on_bad == "replace" else 1
        for x, y in itertools.islice(self._substitutes(part), max(0, wanted - len(xs))):
            padding += 1
            xs.append(x)
            ys.append(y)
        if len(xs) < wanted:
            raise UserError(
                f"None of the {len(part.indices)} samples of a batch can be read, nor enough of {SUBSTITUTES_TRIED} "
                f"others{f': {bad[0].reason}' if bad else ''}",
                fix="look at the channel's files",
            )
        try:
            batch = Batch(cast(Any, (_stack(xs), _stack(ys))))
        except RuntimeError as error:
            shapes = sorted({tuple(x.shape) for x in xs if hasattr(x, "shape")})
            raise UserError(
                f"Samples of different shapes cannot be stacked: {shapes[:4]}",
                fix="pass transform= to run.data, which brings them to one shape",
            ) from error
        batch.padding, batch.bad = padding, tuple(bad)
        return batch

    def _substitutes(self, part: BatchSlice) -> Iterator[tuple[Any, Any]]:
        """Yield samples from anywhere: repeats of a batch's own would be twins to a contrastive loss."""
        for number in range(SUBSTITUTES_TRIED):
            index = zlib.crc32(f"{self._key}/{part.indices[0]}/{number}".encode()) % len(self._source)
            with contextlib.suppress(BadSample):
                yield self._one(index)

    def _one(self, index: int) -> tuple[Any, Any]:
        x, y = self._source.read(index)
        return self._apply(x, y, index)

    def _apply(self, x: Any, y: Any, index: int) -> tuple[Any, Any]:  # noqa: ANN401 - whatever the source and the user make
        if self._transform is not None:
            with _own_randomness(f"{self._key}/{index}"):
                made = self._transform(x)
            if isinstance(made, tuple):  # the transform of a whole record makes both
                return cast(tuple[Any, Any], made)
            return torch.as_tensor(made), y
        if not isinstance(x, np.ndarray):
            return x, y
        if self._source.images:
            pixels = torch.from_numpy(x.astype(np.float32) / np.float32(np.iinfo(x.dtype).max))
            return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1), y
        return x, y


def _stack(values: list[Any]) -> Any:  # noqa: ANN401 - a tensor, or a list of what is none
    if isinstance(values[0], str | bytes | dict | list):
        return values
    # A copy: what lies in a record's own bytes is read-only.
    return torch.stack([torch.as_tensor(np.array(v) if isinstance(v, np.ndarray) else v) for v in values])


def _here(make: Callable[[BatchSlice], Batch], slices: "_Slices") -> Iterator[Made[Batch]]:
    for part in slices:
        wall, cpu = time.perf_counter(), time.thread_time()
        batch = make(part)
        yield Made(batch, time.perf_counter() - wall, time.thread_time() - cpu)


@contextlib.contextmanager
def _own_randomness(key: str) -> Generator[None]:
    """Random transforms depend on (seed, epoch, sample) alone: not on workers, ranks or an interruption."""
    seed = zlib.crc32(key.encode())
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
