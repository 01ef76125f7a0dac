"""What each collective takes and gives, in blocks: all that the bench has to know of one.

Sizes and bandwidths are those of nccl-tests. The *buffer* is the larger of what a rank passes and
what it gets; with blocks it holds one for each rank. Roots are rank 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

ROOT = 0
# How a call out of place (False) and one in place (True) are named in settings and figures.
SIDES = {False: "out_of_place", True: "in_place"}


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a result: block `block` of the input of these ranks, reduced if they are many."""

    ranks: Iterable[int]
    block: int


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation.

    Attributes:
        reduces: what comes from the ranks is reduced to one.
        splits: the input is a block for each rank.
        joins: the output is a block from each rank.
        from_root: only the root has an input.
        to_root: only the root has an output.
        sides: whether it can be called out of place (False) and in place (True).
    """

    reduces: bool = False
    splits: bool = False
    joins: bool = False
    from_root: bool = False
    to_root: bool = False
    sides: tuple[bool, ...] = (False, True)

    @property
    def has_blocks(self) -> bool:
        """Whether the buffer is cut into a block for each rank."""
        return self.splits or self.joins

    @property
    def rooted(self) -> bool:
        """Whether there is a root."""
        return self.from_root or self.to_root

    @property
    def repeats(self) -> bool:
        """Whether it is known what calls in place give that find the last one's result.

        Of a reduction that not all ranks get whole it is not: Gloo and Open MPI leave parts of it
        elsewhere in the buffers, as they like.
        """
        return not self.reduces or not (self.has_blocks or self.rooted)

    def inputs(self, rank: int, ranks: int) -> list[int]:
        """Return the blocks that a rank's input is made of; a buffer without blocks is one."""
        if self.from_root and rank != ROOT:
            return []
        return list(range(ranks)) if self.splits else [0]

    def outputs(self, rank: int, ranks: int) -> list[Part]:
        """Return what a rank's output is made of."""
        if self.to_root and rank != ROOT:
            return []
        block = rank if self.splits else 0
        if self.reduces:
            return [Part(range(ranks), block)]
        return [Part([r], block) for r in (range(ranks) if self.joins else [ROOT])]

    def bus_factor(self, ranks: int) -> float:
        """Return busbw / algbw: what the busiest link carries, for each byte of the buffer."""
        if self.has_blocks:
            return (ranks - 1) / ranks
        return 1.0 if self.rooted else 2 * (ranks - 1) / ranks

    def traffic(self, ranks: int, *, in_place: bool) -> float | None:
        """Return how many bytes all ranks of one host read and write at least, per byte of buffer.

        Every rank's input is read, and every rank's output is written, by whatever design: out of
        place these are all the bytes of both. For n ranks and S bytes of buffer, an all_reduce
        moves nS + nS, a reduce_scatter nS + S, an all_gather S + nS, an all_to_all nS + nS. In
        place, an all_reduce that leaves the input as it was until all is well writes it once more
        besides: 3nS.

        None where that says little: a root has most of the work, and one core cannot use all of
        the memory's speed; and of the others in place it is not settled what has to be kept.
        """
        if self.rooted or (in_place and self.has_blocks):
            return None
        everybody = range(ranks)
        blocks = sum(len(self.inputs(r, ranks)) + len(self.outputs(r, ranks)) for r in everybody)
        return blocks / ranks if self.has_blocks else float(blocks + (ranks if in_place else 0))


COLLECTIVES = {
    "all_reduce": Collective(reduces=True),
    "broadcast": Collective(from_root=True, sides=(True,)),
    "reduce": Collective(reduces=True, to_root=True),
    "reduce_scatter": Collective(reduces=True, splits=True),
    "all_gather": Collective(joins=True),
    "gather": Collective(joins=True, to_root=True),
    "scatter": Collective(splits=True, from_root=True),
    "all_to_all": Collective(splits=True, joins=True, sides=(False,)),
}
