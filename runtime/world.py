"""The world of ranks: who we are from the environment, and the process group, joined when first needed.

Joining late lets a mistake in the data or the hyperparameters end the job before a socket is opened.
"""

# torch.distributed is only partly typed: its unknown types would drown our own.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from runtime.base.env import Environ
from runtime.base.errors import PlatformError, UserError
from runtime.base.log import Log

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

log = Log("world")
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """This process's place in the world; torchrun's variables, or a world of one without them."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    host_rank: int = 0
    num_hosts: int = 1

    @classmethod
    def from_environ(cls, environ: Environ) -> "Place":
        """Read RANK and its kin.

        Raises:
            UserError: some of them are set and others are not, or they are no integers.
        """
        if "WORLD_SIZE" not in environ:
            if "RANK" in environ:
                raise UserError(
                    f"RANK={environ['RANK']!r} is set and WORLD_SIZE is not",
                    allowed="a launcher sets RANK, LOCAL_RANK and WORLD_SIZE together",
                    fix="start the script by `train`, by torchrun, or unset RANK",
                )
            return cls()
        try:
            place = cls(
                rank=int(environ["RANK"]),
                local_rank=int(environ["LOCAL_RANK"]),
                world_size=int(environ["WORLD_SIZE"]),
                local_world_size=int(environ.get("LOCAL_WORLD_SIZE", "1")),
                host_rank=int(environ.get("GROUP_RANK", "0")),
                num_hosts=int(environ.get("GROUP_WORLD_SIZE", "1")),
            )
        except (KeyError, ValueError) as error:
            raise UserError(
                f"WORLD_SIZE={environ['WORLD_SIZE']!r} is set, the rest of the ranks' environment is wrong ({error})",
                allowed="a launcher sets RANK, LOCAL_RANK and WORLD_SIZE together",
                fix="start the script by `train`, by torchrun, or unset WORLD_SIZE",
            ) from error
        if not 0 <= place.rank < place.world_size:
            raise UserError(f"RANK is {place.rank} in a world of {place.world_size}")
        return place


class World:
    """Collectives of this rank; all of them are no-ops in a world of one."""

    def __init__(self, place: Place, rendezvous_s: float, before_join: Callable[[], None] = lambda: None) -> None:
        """Remember our place; nothing is joined yet.

        Args:
            place: rank and sizes.
            rendezvous_s: seconds in which all ranks must have joined.
            before_join: called right before we wait for others; may raise `Stopped`.
        """
        self._before_join = before_join
        self.place = place
        self._rendezvous_s = rendezvous_s
        self._control: dist.ProcessGroup | None = None

    @property
    def joined(self) -> bool:
        """Whether the process group exists."""
        return self._control is not None

    def device(self) -> "torch.device":
        """Return this rank's device: its GPU, else the CPU."""
        import torch

        if not torch.cuda.is_available():
            return torch.device("cpu")
        # Several ranks may share a GPU on a developer's machine.
        index = self.place.local_rank % torch.cuda.device_count()
        torch.cuda.set_device(index)
        return torch.device("cuda", index)

    def join(self) -> None:
        """Join the process group, once; a script that did so itself keeps its own.

        Raises:
            PlatformError: not all ranks came in time.
        """
        if self.place.world_size == 1 or self.joined:
            return
        self._before_join()
        import torch
        import torch.distributed as dist

        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            try:
                dist.init_process_group(backend, timeout=datetime.timedelta(seconds=self._rendezvous_s))
            except (RuntimeError, ValueError) as error:
                raise PlatformError(
                    f"Rank {self.place.rank} could not join the {self.place.world_size} ranks within "
                    f"{self._rendezvous_s:g} s: {error}"
                ) from error
        # A group of its own: our flags never wait behind a training collective, and never disturb its order.
        self._control = cast("dist.ProcessGroup", dist.new_group(backend="gloo"))

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.gather(None)

    def gather(self, value: T) -> list[T]:
        """Give every rank the values of all ranks, in rank order."""
        if self.place.world_size == 1:
            return [value]
        self.join()
        import torch.distributed as dist

        values: list[T | None] = [None] * self.place.world_size
        dist.all_gather_object(values, value, group=self._control)
        return cast(list[T], values)

    def start_or(self, bits: int, width: int = 4) -> "PendingBits":
        """Begin to combine small integers by bitwise or over all ranks, without waiting.

        Args:
            bits: below ``2 ** width``.
            width: bits, the same on every rank.
        """
        if self.place.world_size == 1:
            return PendingBits(None, None, bits)
        self.join()
        import torch
        import torch.distributed as dist

        # One slot per bit: gloo has no bitwise or, but MAX of 0 and 1 is the same.
        slots = torch.tensor([(bits >> i) & 1 for i in range(width)], dtype=torch.uint8)
        work = dist.all_reduce(slots, op=dist.ReduceOp.MAX, group=self._control, async_op=True)
        return PendingBits(cast("dist.Work", work), slots, bits)

    def leave(self) -> None:
        """Leave the process group in good order; only when every rank does."""
        if self.place.world_size == 1 or not self.joined:
            return
        import torch.distributed as dist

        self.barrier()
        if dist.is_initialized():
            dist.destroy_process_group()
        self._control = None


@dataclass
class PendingBits:
    """A combination on its way; `result` waits for it."""

    work: "dist.Work | None"
    slots: "torch.Tensor | None"
    bits: int

    def result(self) -> int:
        """Return the bits that any rank has set."""
        if self.work is None or self.slots is None:
            return self.bits
        self.work.wait()
        return sum(int(bit) << i for i, bit in enumerate(self.slots.tolist()))
