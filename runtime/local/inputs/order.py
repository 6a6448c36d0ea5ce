"""In which order a host gets the objects of a channel. Pure."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Share:
    """Which part of a channel a host gets, and in which order."""

    host_index: int = 0
    """Among the hosts that get the channel, from 0."""
    num_hosts: int = 1
    sharded: bool = False
    """``ShardedByS3Key``: each host gets its part; else each gets all."""
    seed: int | None = None
    """``ShuffleConfig.Seed``; None: the order of the keys, in every epoch."""

    def of_epoch(self, count: int, epoch: int) -> Sequence[int]:
        """Return the numbers of a host's objects, in the order in which it gets them.

        The service shuffles before it divides, at the start of every epoch, so that a host may get other objects in
        the next one. Source: ShuffleConfig, CreateTrainingJob API. How it divides is not documented, beyond about
        1/n of the objects for each of n hosts; we deal them out in turn, so that every host gets a part of every class
        of a tree by labels.

        Args:
            count: objects of the channel.
            epoch: from 0.
        """
        order: Sequence[int] = range(count)
        if self.seed is not None:
            shuffled = array("Q", order)  # augmented manifests have tens of millions of lines
            Random(f"{self.seed}/{epoch}").shuffle(shuffled)  # noqa: S311 - an order, no secret
            order = shuffled
        return order[self.host_index :: self.num_hosts] if self.sharded else order
