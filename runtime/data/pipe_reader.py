"""The process that reads the FIFOs of one Pipe channel on one host, and deals whole samples out to the host's ranks.

Started by local rank 0 (`runtime.data.pipe`), ends with it. Two readers of one FIFO would tear the stream apart at any
byte; so there is this one, and every loader worker of every rank is its consumer. It imports no torch.

What it reads is shuffled near (a buffer), cut into global batches one ahead of what is given out, and of each batch the
host's ranks get their parts. All of this is a function of (stream, seed, epoch, position): hosts that read the same
stream cut the same batches without a word between them, and a position is resumed by reading up to it.
"""

import contextlib
import itertools
import json
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from runtime.base import log as logging
from runtime.base.errors import PlatformError, SlipwayError, UserError
from runtime.base.log import Log
from runtime.data.formats.samples import Sample
from runtime.data.order import Division, Identity, Last, num_batches, slice_batch
from runtime.data.pipe_fifo import Fifo
from runtime.data.pipe_hub import AllGone, Hub, LeaderGone, Peer
from runtime.data.pipe_samples import PipeFormat, PipeSamples, fingerprint, read_samples, weigh
from runtime.data.pipe_wire import END, ERROR, HEAD, HEAD_SAMPLES, PART, Head, Hello, PipePart, pack
from runtime.data.streams import shuffled

log = Log("data")

SHUFFLE_SAMPLES = 4096
"""Samples among which the next one is drawn."""
SHUFFLE_BYTES = 64 << 20
"""Of memory that they take at most; a stream of 100 MB/s fills it in less than a second."""
ASK_S = 60.0
"""After it, ranks that have not asked for an epoch that others wait for are named."""


@dataclass(frozen=True)
class ReaderPlan:
    """Everything that the reader must know; JSON on its command line."""

    channel: str
    prefix: str
    """Path of the FIFOs without ``_<epoch>``."""
    wait_s: float
    content_type: str
    wrapped: bool
    attributes: tuple[str, ...]
    batch_size: int
    first_rank: int
    """Of the host's ranks, counted among those that share the samples."""
    local_ranks: int
    ranks: int
    """That share the samples: the world, or this host's when hosts have different streams."""
    sharded: bool
    """Hosts have different streams: who comes to its end first pads."""
    last: Last
    seed: int
    shuffle: bool
    sample: int
    """Use only so many samples of an epoch; 0: all."""
    speaks: bool
    """Whether its log lines of information are wanted: those of one host say it all when all read the same."""
    log_level: str = "info"
    log_json: bool = False

    def division(self, local_rank: int) -> Division:
        """Say how batches are cut for one of the host's ranks."""
        return Division(self.batch_size, self.first_rank + local_rank, self.ranks, self.last)

    def to_json(self) -> str:
        """Write it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ReaderPlan":
        """Read it."""
        held = json.loads(text)
        held["attributes"] = tuple(held["attributes"])
        return cls(**held)


class Reader:
    """Serves one channel, epoch after epoch."""

    def __init__(self, plan: ReaderPlan, hub: Hub) -> None:
        """Open nothing yet: an epoch begins when all the host's ranks ask for it."""
        self._plan = plan
        self._hub = hub
        self._next = 0
        """The lowest epoch whose FIFO was not opened."""
        self._fifo: Fifo | None = None
        self._samples: Iterator[Sample] = iter(())
        self._found = PipeSamples()
        self._head: Head | None = None
        self._failed: SlipwayError | None = None
        self._rest: list[Sample] = []

    def serve(self) -> None:
        """Serve until the process that we read for ends.

        Raises:
            LeaderGone: it has.
        """
        waiting, warned = time.monotonic(), False
        while True:
            heads = [peer for peer in self._hub.asking() if peer.hello is not None and peer.hello.epoch < 0]
            if heads:
                self._answer(heads, self._send_head)
            peers, missing = self._complete()
            if peers:
                self._answer(peers, self._give_out)
                waiting, warned = time.monotonic(), False
            elif not heads:
                self._hub.turn(-1, 5.0)
                if not missing:
                    waiting, warned = time.monotonic(), False
                elif time.monotonic() - waiting > ASK_S and not warned:
                    warned = True
                    log.warning(
                        f"channel {self._plan.channel!r}: local ranks {', '.join(map(str, missing))} have not asked "
                        f"for the epoch that others wait for since {ASK_S:.0f} s"
                    )

    def _complete(self) -> tuple[list[Peer], list[int]]:
        """Return the consumers of the lowest epoch that is asked for, once all are here; else who is missing."""
        asking = [peer for peer in self._hub.asking() if peer.hello is not None and peer.hello.epoch >= 0]
        if not asking:
            return [], []
        epoch = min(_hello(peer).epoch for peer in asking)
        mine = [peer for peer in asking if _hello(peer).epoch == epoch]
        missing = [
            rank
            for rank in range(self._plan.local_ranks)
            if len(of := [peer for peer in mine if _hello(peer).local_rank == rank]) == 0
            or len(of) < _hello(of[0]).workers
        ]
        return ([], missing) if missing else (mine, [])

    def _answer(self, peers: list[Peer], how: Callable[[list[Peer]], None]) -> None:
        """Serve some consumers; what goes wrong is told to all of them."""
        self._hub.served = peers
        try:
            if self._failed is not None:
                raise self._failed
            how(peers)
            self._hub.finish(peers)
        except AllGone:
            pass
        except SlipwayError as error:
            self._tell(peers, error)
        except Exception as error:
            traceback.print_exc()
            self._tell(peers, PlatformError(f"The reader of Pipe channel {self._plan.channel!r} failed: {error!r}"))
        finally:
            self._hub.served = []
            self._hub.drop(peers)

    def _tell(self, peers: list[Peer], error: SlipwayError) -> None:
        self._failed = error
        self._close()
        with contextlib.suppress(AllGone):
            for peer in peers:
                self._hub.send(peer, pack(ERROR, error))
            self._hub.finish(peers)

    # --- the stream ---------------------------------------------------------------------------------------------

    def _open(self, epoch: int) -> None:
        """Begin with an epoch's FIFO."""
        plan = self._plan
        fifo = self._fifo = Fifo(plan.prefix, epoch, channel=plan.channel, wait_s=plan.wait_s, waiter=self._hub.wait)
        self._next = epoch + 1
        self._found = PipeSamples()
        told = PipeFormat(plan.channel, plan.content_type, plan.wrapped, plan.attributes)
        self._samples = read_samples(fifo, told, str(fifo.path), self._found)

    def _close(self) -> None:
        if self._fifo is not None:
            self._hub.forget(self._fifo.descriptor)
            self._fifo.close()
            self._fifo = None
        self._samples = iter(())

    def _first_there(self, epoch: int) -> int:
        """Return the FIFO to begin with: the next one, or a later one when that is there already."""
        prefix = self._plan.prefix
        there = (number for number in range(self._next, epoch + 1) if Fifo.path_of(prefix, number).exists())
        return next(there, self._next)

    def _look(self, epoch: int) -> Head:
        """Read the first samples of the stream, once; they are held for the epoch that they belong to.

        Args:
            epoch: that is wanted; an earlier one is looked at when it is there.
        """
        if self._head is None:
            if self._fifo is None:
                self._open(self._first_there(epoch))
            first = list(itertools.islice(self._samples, HEAD_SAMPLES))
            self._samples = itertools.chain(first, self._samples)
            if not first:
                raise self._empty()
            found = self._found
            self._head = Head(found.format, found.reason, dict(found.options), tuple(first))
            self._hub.head = pack(HEAD, self._head)
            if self._plan.speaks:
                log.info(f"channel {self._plan.channel!r}: {found.format} from a FIFO because {found.reason}")
        return self._head

    def _empty(self) -> UserError:
        epoch = self._next - 1
        return UserError(
            f"Channel {self._plan.channel!r} is empty: epoch {epoch} of its FIFO ended without a sample",
            fix="look whether the S3 prefix has objects; ShardedByS3Key needs at least one for each host",
        )

    def _go_to(self, epoch: int) -> None:
        """Open an epoch's FIFO; those before it are opened and closed, as the service wants it."""
        self._look(epoch)
        at = self._next - 1
        if self._fifo is None and epoch <= at:
            raise UserError(
                f"Channel {self._plan.channel!r}: epoch {epoch} was begun and left",
                allowed="a stream is read forward, epoch after epoch: its FIFO cannot be opened again",
                fix="use run.epochs, which goes to the next epoch after a break, or call data.next_epoch()",
            )
        if at == epoch:
            return
        self._close()
        begun = self._first_there(epoch)
        for number in range(begun, epoch):
            plan = self._plan
            passed = Fifo(plan.prefix, number, channel=plan.channel, wait_s=plan.wait_s, waiter=self._hub.wait)
            try:
                passed.open()
            finally:
                self._hub.forget(passed.descriptor)
                passed.close()
        if epoch > at + 1:
            log.info(f"channel {self._plan.channel!r}: epochs {at} to {epoch - 1} are passed over, to go on in {epoch}")
        self._open(epoch)

    def _sequence(self, epoch: int) -> Iterator[Sample]:
        plan = self._plan
        samples = self._samples
        if plan.sample:
            samples = itertools.islice(samples, plan.sample)
        if not plan.shuffle:
            return samples
        key = f"{plan.seed}/{epoch}"
        return shuffled(samples, size=SHUFFLE_SAMPLES, key=key, weigh=weigh, most_weight=SHUFFLE_BYTES)

    # --- what consumers get -------------------------------------------------------------------------------------

    def _send_head(self, peers: list[Peer]) -> None:
        message = pack(HEAD, self._look(self._next))
        for peer in peers:
            self._hub.send(peer, message)

    def _give_out(self, peers: list[Peer]) -> None:
        hello = _hello(peers[0])
        if len({(h.consumed, h.fingerprint) for h in map(_hello, peers)}) > 1:
            raise UserError(f"The ranks of one host stand at different samples of channel {self._plan.channel!r}")
        began = time.monotonic()
        self._go_to(hello.epoch)
        self._send_head(peers)
        fifo = self._fifo
        try:
            count, batches = self._deal(peers, hello, began)
        finally:
            self._close()
        if fifo is not None and self._plan.speaks:
            dropped = f", {len(self._rest)} dropped (last='drop')" if self._rest else ""
            left_out = f", {self._found.empty_objects} empty objects left out" if self._found.empty_objects else ""
            log.info(
                f"channel {self._plan.channel!r}, epoch {hello.epoch}: {count} samples in {batches} batches, "
                f"{fifo.bytes / 1e6:.1f} MB in {time.monotonic() - began:.1f} s{dropped}{left_out}"
            )

    def _deal(self, peers: list[Peer], hello: Hello, began: float) -> tuple[int, int]:
        plan = self._plan
        whole = plan.division(0)
        sequence = self._sequence(hello.epoch)
        spare: list[Sample] = []
        mark = self._drop(sequence, hello, spare, began)
        position, number = hello.consumed, 0
        consumers = [
            sorted((p for p in peers if _hello(p).local_rank == rank), key=lambda p: _hello(p).worker)
            for rank in range(plan.local_ranks)
        ]
        group = self._group(sequence, whole)
        while group:
            for sample in group:
                mark = fingerprint(sample, mark)
            spare = spare or group
            ahead = self._group(sequence, whole)
            for rank, mine in enumerate(consumers):
                part = self._part(group, position, rank, more=bool(ahead), mark=mark)
                self._hub.send(mine[number % len(mine)], pack(PART, part))
            position += len(group)
            number += 1
            group = ahead
            self._hub.turn(-1, 0)
        for rank, mine in enumerate(consumers):
            end = None
            if plan.sharded:
                end = self._part(spare or self._rest, position, rank, more=False, mark=mark, only_padding=True)
            for peer in mine:
                self._hub.send(peer, pack(END, end))
        return position, number

    def _drop(self, sequence: Iterator[Sample], hello: Hello, spare: list[Sample], began: float) -> int:
        """Read up to the position; return the checksum over what was dropped."""
        plan, mark, dropped = self._plan, 0, 0
        if hello.consumed and plan.speaks:
            log.info(
                f"channel {plan.channel!r}, epoch {hello.epoch}: reading up to sample {hello.consumed}, where the job "
                "was; a stream cannot be sought in (if that takes longer than slipway_first_step_s, raise it)"
            )
        for sample in itertools.islice(sequence, hello.consumed):
            mark = fingerprint(sample, mark)
            dropped += 1
            if plan.sharded and len(spare) < plan.ranks * plan.batch_size:
                spare.append(sample)
            if not dropped % 1024:
                self._hub.turn(-1, 0)
        if not hello.consumed:
            return mark
        size = self._fifo.bytes / 1e6 if self._fifo is not None else 0.0
        if plan.speaks:
            log.info(
                f"channel {plan.channel!r}, epoch {hello.epoch}: {dropped} samples that were given out before are read "
                f"again and dropped: {size:.1f} MB in {time.monotonic() - began:.1f} s"
            )
        if hello.fingerprint is not None and (dropped < hello.consumed or mark != hello.fingerprint):
            raise UserError(
                f"Channel {plan.channel!r}, epoch {hello.epoch}: the first {hello.consumed} samples of the stream are "
                f"others than in the checkpoint ({dropped} were there)",
                allowed="a position in a stream means something only in the same stream: the same objects, the same "
                "ShuffleConfig seed, the same order",
                fix="restore the channel's configuration and objects, or begin anew with slipway_resume=off",
            )
        return mark

    def _group(self, sequence: Iterator[Sample], division: Division) -> list[Sample]:
        group = list(itertools.islice(sequence, division.global_batch))
        if num_batches(len(group), division):
            return group
        self._rest = group  # last="drop" leaves it out
        return []

    def _part(
        self, group: Sequence[Sample], begin: int, rank: int, *, more: bool, mark: int, only_padding: bool = False
    ) -> PipePart:
        division = self._plan.division(rank)
        if only_padding and not group:
            raise self._empty()
        part = slice_batch(Identity(len(group)), len(group) if only_padding else 0, division)
        return PipePart(
            tuple(begin + number for number in part.indices),
            tuple(group[number] for number in part.indices),
            part.padding,
            more,
            mark,
        )


def _hello(peer: Peer) -> Hello:
    assert peer.hello is not None  # noqa: S101 - only who has said it is served
    return peer.hello


def main() -> None:
    """Read for the process at the other end of the standard input, over the listening socket in ``argv[2]``."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # ranks that stop still want their last batch; we end with local rank 0
    plan = ReaderPlan.from_json(sys.argv[1])
    # The launcher's prefix names host and rank.
    logging.configure(host="", level=plan.log_level, as_json=plan.log_json)
    hub = Hub(socket.socket(fileno=int(sys.argv[2])), control=0)
    with contextlib.suppress(LeaderGone):
        Reader(plan, hub).serve()


if __name__ == "__main__":
    main()
