"""`run.data` on Pipe channels: batches from the FIFOs of an epoch, dealt out by one reader process per host.

Position is the number of samples of the epoch that were given out, as with files. What a stream cannot give: the number
of samples before its end (`len`), and a place other than the next one; to resume is to read again and drop.
"""

# A Pipe channel is a `Data` whose inside is another.
# pyright: reportPrivateUsage=false

import itertools
import json
import os
import weakref
from collections.abc import Iterator, Mapping
from typing import IO, Any, Protocol, cast

import torch

from runtime.base.errors import UserError
from runtime.base.log import Log
from runtime.contract.job import Channel
from runtime.contract.settings import Settings
from runtime.data.formats.probe import parse_content_type
from runtime.data.loader import Batch, Data, DataState, Extent, Hooks, OnBad, Transform, _Reader
from runtime.data.order import ORDER_FORMAT, BatchSlice, Division, Last
from runtime.data.pipe_consumer import Consumer, Given, NoSource, PartSource, view_in
from runtime.data.pipe_reader import SHUFFLE_SAMPLES, ReaderPlan
from runtime.data.pipe_start import end_reader, start_reader
from runtime.data.pipe_wire import ERROR, HELLO, Connection, Head, Hello
from runtime.data.workers import Workers
from runtime.world import Place

log = Log("data")

PIPE_STATE_FORMAT = 1
EXISTS, ENDED = 1, 2
"""Bits on which hosts agree before each batch: it exists here, or this host's stream is at its end."""
MARK_BITS = 16


class NoLength(UserError, TypeError):
    """A stream does not know its length. A `TypeError` too, so that ``list(data)`` does without it."""


class Agreed(Protocol):
    """A combination of bits over all ranks, on its way."""

    def result(self) -> int:
        """Wait for it."""
        ...


class PipeHooks(Hooks, Protocol):
    """What a Pipe channel asks of its Run beyond that."""

    def gather_address(self, address: bytes) -> bytes:
        """Return the address of this host's reader; `address` is empty but on local rank 0."""
        ...

    def combine(self, bits: int, width: int) -> Agreed:
        """Begin to combine bits over all ranks by or; every rank does at the same points."""
        ...


def attributes_of(channel: str, text: str) -> tuple[str, ...]:
    """Read ``slipway_attribute_names`` for one channel.

    >>> attributes_of("train", '{"train": ["source-ref", "class"]}')
    ('source-ref', 'class')

    Raises:
        UserError: it is no JSON object of channel to list of names.
    """
    if not text:
        return ()
    try:
        held = json.loads(text)
    except ValueError:
        held = None
    lists = cast("dict[str, Any]", held) if isinstance(held, dict) else {"": None}
    if not all(
        isinstance(names, list) and names and all(isinstance(n, str) for n in names) for names in lists.values()
    ):
        raise UserError(
            f"slipway_attribute_names is {text!r}",
            allowed='a JSON object of channel to list of attributes, such as {"train": ["source-ref", "class"]}',
        )
    return tuple(cast("list[str]", lists.get(channel, [])))


class PipeData(Data):
    """One Pipe channel as batches. Iterate once per epoch; `state_dict` belongs into the checkpoint."""

    def __init__(  # noqa: PLR0913 - the arguments of run.data, gathered by Run
        self,
        plan: ReaderPlan,
        *,
        division: Division,
        local_rank: int,
        num_hosts: int,
        workers: int,
        on_bad: OnBad,
        transform: Transform | None,
        device: torch.device,
        hooks: PipeHooks,
        **more: Any,  # noqa: ANN401 - what else a `Data` takes
    ) -> None:
        """Start this host's reader on local rank 0; no FIFO is opened before all the host's ranks ask.

        Args:
            plan: for the reader, the same on all ranks of a host.
            division: how batches are cut for this rank.
            local_rank: on this host.
            num_hosts: that read the channel.
            workers: loader processes; 0: decode in this process.
            on_bad: what an unreadable sample does.
            transform: as of `Data`.
            device: where batches go.
            hooks: what the Run wants to know of our progress.
            more: as of `Data`.
        """
        super().__init__(
            NoSource(),
            name=plan.channel,
            division=division,
            seed=plan.seed,
            shuffle=plan.shuffle,
            workers=workers,
            on_bad=on_bad,
            transform=transform,
            device=device,
            sample=0,
            hooks=hooks,
            **more,
        )
        self._plan = plan
        self._pipe_hooks = hooks
        self._local_rank = local_rank
        self._num_hosts = num_hosts
        self._head: Head | None = None
        self._mark = 0
        self._ended = False
        address, self._control = b"", -1
        if local_rank == 0:
            address, process = start_reader(plan)
            control = cast("IO[bytes]", process.stdin)
            self._control = control.fileno()
            weakref.finalize(self, end_reader, control, process, os.getpid())
        self._address = hooks.gather_address(address)

    @classmethod
    def of_channel(
        cls,
        channel: Channel,
        settings: Settings,
        place: Place,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        last: Last,
        **more: Any,  # noqa: ANN401 - what else `__init__` takes
    ) -> "PipeData":
        """Open a channel of the job.

        Raises:
            UserError: an unknown content type, or attribute names that are none.
        """
        parse_content_type(channel.content_type)
        # Hosts of a sharded channel have streams of their own: only the ranks of one host share theirs.
        sharded = channel.distribution == "ShardedByS3Key" and place.num_hosts > 1
        ranks = place.local_world_size if sharded else place.world_size
        first = 0 if sharded else place.rank - place.local_rank
        plan = ReaderPlan(
            channel=channel.name,
            prefix=channel.directory,
            wait_s=settings.pipe_wait_s,
            content_type=channel.content_type,
            wrapped=channel.record_wrapper == "RecordIO",
            attributes=attributes_of(channel.name, settings.attribute_names),
            batch_size=batch_size,
            first_rank=first,
            local_ranks=place.local_world_size,
            ranks=ranks,
            sharded=sharded,
            last=last,
            seed=seed,
            shuffle=shuffle,
            sample=settings.sample,
            speaks=sharded or place.rank == place.local_rank,
            log_level=settings.log_level,
            log_json=settings.log_json,
        )
        hosts = place.world_size // ranks
        division = Division(batch_size, first + place.local_rank, ranks, last, shards=hosts)
        data = cls(plan, division=division, local_rank=place.local_rank, num_hosts=place.num_hosts, **more)
        mixed = f"a buffer of up to {SHUFFLE_SAMPLES} samples" if shuffle else "the order of the stream"
        log.info(
            f"channel {channel.name!r}: a Pipe, read once per host and dealt out to {place.local_world_size} ranks; "
            f"{mixed}; global batch {data.global_batch} over {place.world_size} ranks"
            f"{' (each host its own stream)' if sharded else ''}"
        )
        return data

    @property
    def position(self) -> int:
        """Batches of this epoch that have been given out, of today's size."""
        return -(-self._state.consumed // self._division.global_batch)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample as a batch stacks it, read from the first samples; they are given out all the same."""
        head = self._look()
        source = PartSource(view_in(head), self.name, 0, range(len(head.samples)), head.samples)
        reader = _Reader(source, self._transform, self._on_bad, f"{self._seed}/{self._state.epoch}")
        return tuple(reader.load(BatchSlice(0, tuple(range(len(head.samples))), 0))[0].shape[1:])

    def __len__(self) -> int:
        """Refuse: nobody knows the length of a stream before its end."""
        raise NoLength(
            f"Channel {self.name!r} is in Pipe mode: nobody knows how many samples an epoch has before it ends",
            fix="give your schedule a number of steps of its own; batch.more says whether an epoch goes on",
        )

    def __bool__(self) -> bool:
        """Be true, as what has no length is."""
        return True

    def agree(self) -> Extent:
        """Return that nothing is known; there is nothing to agree on before the end."""
        return Extent("", 0, 0)

    def __iter__(self) -> Iterator[Batch]:
        """Give out the rest of this epoch."""
        if self._ended:  # the checkpoint was made behind its last batch
            self.next_epoch()
            return
        given, ended = 0, False
        agreed: Agreed | None = None
        consumer = self._consumer()
        made = Workers(consumer, itertools.count(), self._workers, f"channel {self.name!r}") if self._workers else None
        batches = (one.value for one in made) if made is not None else map(consumer, itertools.count())
        self._hooks.before_first_batch()
        try:
            while not self._hooks.at_end():
                self._hooks.enter("data")
                got = next(batches)
                if not self._is_wanted(got, agreed):
                    ended = True
                    break
                assert got is not None  # noqa: S101 - where a batch exists on any host, each has at least padding
                self._mark = got.fingerprint
                agreed = self._ask(exists=got.more, mark=self._mark)
                more = got.more
                if self._division.shards > 1 and agreed is not None:
                    more = bool(agreed.result() & EXISTS)  # another host may go on where this one ends
                batch = got.batch
                self.skipped += batch.skipped
                self.bad.add(batch.bad, batch.num_samples + batch.skipped, self.epoch, self._on_bad)
                batch = self._to_device(batch)
                batch.more = more
                given += 1
                self._state = self._state._replace(consumed=self._state.consumed + self._division.global_batch)
                self._ended = not more
                self._hooks.enter("compute")
                yield batch
        finally:
            if made is not None:
                made.close()
            consumer.close()
            self._hooks.enter("other")
        if ended and not given and not self._state.consumed:
            raise UserError(
                f"Channel {self.name!r} gives no batch in epoch {self.epoch}: its FIFO has no samples, or fewer than "
                f"the global batch {self.global_batch} with last={self._division.last!r}",
                fix="look at the channel's objects; use a smaller batch_size, or last='short'",
            )
        if ended:
            self.next_epoch()

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        super().next_epoch()
        self._mark, self._ended = 0, False

    def state_dict(self) -> dict[str, Any]:
        """Say where we are."""
        return {
            "format": PIPE_STATE_FORMAT,
            "order": ORDER_FORMAT,
            "mode": "Pipe",
            "seed": self._seed,
            "shuffle": self._shuffle,
            "sample": self._plan.sample,
            "shards": self._division.shards,
            "epoch": self._state.epoch,
            "consumed": self._state.consumed,
            "ended": self._ended,
            # Hosts with streams of their own have checksums of their own.
            "fingerprint": self._mark if self._division.shards == 1 else None,
            **({"bad": bad} if (bad := self.bad.state()) else {}),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to where a checkpoint was: with the same stream and seed, in any world, batch size and workers.

        Raises:
            UserError: it is of another mode, seed or shuffle, or of another number of hosts with streams of their own.
        """
        state = state_dict
        if state.get("mode") != "Pipe" or state["format"] != PIPE_STATE_FORMAT or state["order"] != ORDER_FORMAT:
            raise UserError(
                f"Channel {self.name!r} is in Pipe mode; the checkpoint's position is of mode "
                f"{state.get('mode', 'File')}, format {state.get('format')}, order {state.get('order')}",
                allowed=f"Pipe, format {PIPE_STATE_FORMAT}, order {ORDER_FORMAT}: a stream has an order of its own",
                fix="use the old mode, or begin anew with slipway_resume=off",
            )
        here = self.state_dict()
        words = {"shards": "number of hosts with streams of their own (ShardedByS3Key)", "sample": "slipway_sample"}
        for key in ("seed", "shuffle", "sample", "shards"):
            if state[key] != here[key]:
                raise UserError(
                    f"Channel {self.name!r} has another {words.get(key, key)} than the checkpoint: {here[key]!r}, "
                    f"was {state[key]!r}",
                    allowed="a position means something only in the same order of samples",
                    fix="run with the old value, or begin anew with slipway_resume=off",
                )
        self._state = DataState(state["epoch"], state["consumed"])
        self._ended = bool(state["ended"])
        self._mark = state["fingerprint"] or 0
        self.bad.load_state(state.get("bad") or {}, self._source.name)

    def _look(self) -> Head:
        if self._head is None:
            connection = Connection(self._address, self.name)
            try:
                connection.send(HELLO, Hello())
                kind, value = connection.receive()
            finally:
                connection.close()
            if kind == ERROR:
                raise value
            self._head = cast(Head, value)
        return self._head

    def _consumer(self) -> Consumer:
        consumed = self._state.consumed
        hello = Hello(
            epoch=self._state.epoch,
            local_rank=self._local_rank,
            workers=max(1, self._workers),
            consumed=consumed,
            fingerprint=self._mark if consumed and self._division.shards == 1 else None,
        )
        return Consumer(
            self._address,
            self.name,
            hello,
            transform=self._transform,
            on_bad=self._on_bad,
            key=f"{self._seed}/{self._state.epoch}",
            control=self._control if self._workers else -1,
        )

    def _ask(self, *, exists: bool, mark: int) -> "Agreed | None":
        """Begin to agree on whether a further batch exists, and that this one had the same samples everywhere."""
        if self._num_hosts == 1:
            return None
        bits = EXISTS if exists else ENDED
        if self._division.shards > 1:
            return self._pipe_hooks.combine(bits, 2)
        folded = (mark ^ mark >> MARK_BITS) & (1 << MARK_BITS) - 1
        bits |= folded << 2 | (folded ^ (1 << MARK_BITS) - 1) << 2 + MARK_BITS
        return self._pipe_hooks.combine(bits, 2 + 2 * MARK_BITS)

    def _is_wanted(self, got: "Given | None", agreed: "Agreed | None") -> bool:
        """Say whether the epoch goes on; all ranks come to the same answer."""
        if self._num_hosts == 1:
            return got is not None and got.real
        if agreed is None:  # the first batch: nobody has spoken of it before
            agreed = self._ask(exists=got is not None and got.real, mark=0)
        assert agreed is not None  # noqa: S101 - there are several hosts
        bits = agreed.result()
        if self._division.shards == 1:
            self._check_same(bits)
        return bool(bits & EXISTS)

    def _check_same(self, bits: int) -> None:
        """Raise when replicated streams differ: in length, or in the samples themselves."""
        ones, zeros = bits >> 2 & (1 << MARK_BITS) - 1, bits >> 2 + MARK_BITS
        if bits & 3 == EXISTS | ENDED or ones & zeros:
            raise UserError(
                f"Channel {self.name!r}: the hosts read different samples in epoch {self.epoch}, near sample "
                f"{self._state.consumed}",
                allowed="a FullyReplicated channel gives every host the same stream",
                fix="declare it ShardedByS3Key if hosts should have different objects; do not change the objects while "
                "the job runs",
            )
