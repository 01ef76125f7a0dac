"""Collective calls in groups whose members die: what each peer passes, and what it must get.

    result = Call("all_gather", 3_000, resize=True).make(group)

The inputs follow from the peers' names, so that any rank can work out, in numpy, what a result has
to be that is made of the inputs of whoever its ``contributors`` are. What differs is an
``AssertionError`` in the process that sees it.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

import collectives
import quantized
from collectives.codec import Codec

# Elements of float32: retained, and everybody hears all; retained; settled by tokens.
TINY, SMALL, LARGE = 1_000, 10_000, 100_000
ROOTED = ("reduce", "broadcast", "gather", "scatter")
SHAPED = ("reduce_scatter", "all_gather", "gather", "scatter", "all_to_all")
COLLECTIVES = ("all_reduce", "reduce", "broadcast", *SHAPED)


def data_of(name: str, count: int, seed: int) -> np.ndarray:
    """The input of a peer: floats of like size, of which nearly all sums are rounded."""
    number = zlib.crc32(name.encode())
    return np.random.default_rng([seed, number]).standard_normal(count, np.float32)


def fold(arrays: Sequence[np.ndarray], first: int) -> np.ndarray:
    """((x_f + x_f+1) + x_f+2) + ..., all of them, modulo their number."""
    partial = arrays[first]
    for array in (*arrays[first + 1 :], *arrays[:first]):
        partial = partial + array
    return partial


def ring_sum(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Segment s is ((x_s + x_s+1) + x_s+2) + ..., the longer segments first."""
    parts = zip(*(np.array_split(array, len(arrays)) for array in arrays), strict=True)
    return np.concatenate([fold(part, segment) for segment, part in enumerate(parts)])


def both_ways_sum(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Two segments a rank: that of the canonical order, and ((x_s + x_s-1) + x_s-2) + ..."""
    size = len(arrays)
    parts = zip(*(np.array_split(array, 2 * size) for array in arrays), strict=True)
    return np.concatenate(
        [
            fold(part[::-1], size - 1 - segment // 2) if segment % 2 else fold(part, segment // 2)
            for segment, part in enumerate(parts)
        ]
    )


def doubled_sum(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """((x_0 + x_1) + (x_2 + x_3)) + ...; what is more than a power of two is paired before that."""
    surplus = len(arrays) - (1 << len(arrays).bit_length() - 1)
    values = [arrays[2 * k] + arrays[2 * k + 1] for k in range(surplus)] + [*arrays[2 * surplus :]]
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


SUMS = {"bidirectional_ring": both_ways_sum, "doubling": doubled_sum}
"""Of the algorithms that add in another order than ``ring_sum``."""


@dataclasses.dataclass(frozen=True)
class Call:
    """A call as all ranks make it.

    Attributes:
        count: elements of the buffer; of all blocks, more or less.
        in_place: an output that is the input or a part of it, or the other way round.
        counts: "": blocks of one size; "uneven"; "zeros": some have nothing.
        resize: of calls with blocks, ``on_failure`` of the others.
        algorithm: of reductions one whose order of additions is known here; None: the canonical
            one, where no member is nearer to some than to others.
        codec: of an all_reduce.
    """

    kind: str
    count: int = SMALL
    root: int = 0
    in_place: bool = True
    counts: str = ""
    resize: bool = False
    on_failure: str = "retry"
    seed: int = 0
    algorithm: str | None = None
    codec: str | None = None

    def __str__(self) -> str:
        if self.kind in ("barrier", "sync"):
            return f"{self.kind}, {self.on_failure}"
        root = f" with {self.root}" if self.kind in ROOTED else ""
        where = "" if self.in_place else " apart"
        how = ("resize" if self.resize else "raise") if self.kind in SHAPED else self.on_failure
        by = f" by {self.algorithm}" if self.algorithm else ""
        coded = f" in {self.codec}" if self.codec else ""
        counts = self.counts and f" {self.counts}"
        return f"{self.kind}{root}{by} of {self.count}{coded}{where}{counts}, {how}"

    def block(self, source: int, target: int, size: int) -> int:
        """Elements that go from a rank to another; of one block per rank, ``target`` is whose."""
        even = self.count // size
        if self.kind != "all_to_all":
            source = 0
        if self.counts == "uneven":
            return even + 7 * target + 3 * source
        if self.counts == "zeros":
            return even if (source + target + self.seed) % 3 else 0
        return even

    def _sizes(self, rank: int, size: int) -> list[int]:
        """Of the blocks in a rank's buffer with blocks of all."""
        return [self.block(rank, target, size) for target in range(size)]

    def given(self, name: str, rank: int, size: int) -> np.ndarray:
        """What a rank passes; a scatter's root, if it is not the root."""
        count = self.count
        if self.kind in ("all_gather", "gather"):
            count = self.block(0, rank, size)
        elif self.kind in SHAPED:
            count = sum(self._sizes(rank, size))
        return data_of(name, count, self.seed)

    def wanted(self, members: Sequence[str], sources: Sequence[str], me: str) -> np.ndarray | None:
        """What ``me`` gets of the inputs of ``sources``, in a view in which all are ``members``."""
        size, mine = len(members), members.index(me)
        ranks = [members.index(name) for name in sources]
        inputs = [self.given(members[rank], rank, size) for rank in ranks]

        def part(k: int, target: int) -> np.ndarray:
            sizes = self._sizes(ranks[k], size)
            begin = sum(sizes[:target])
            return inputs[k][begin : begin + sizes[target]]

        match self.kind:
            case "all_reduce" if self.codec:
                return quantized.reduced(inputs, Codec(self.codec))
            case "all_reduce":
                return SUMS.get(self.algorithm or "", ring_sum)(inputs)
            case "reduce":
                return ring_sum(inputs) if mine == self.root else None
            case "reduce_scatter":
                first = (ranks.index(mine) + 1) % len(ranks)
                return fold([part(k, mine) for k in range(len(ranks))], first)
            case "broadcast":
                return inputs[0]
            case "all_gather":
                return np.concatenate(inputs)
            case "gather":
                return np.concatenate(inputs) if mine == self.root else None
            case "scatter":
                return part(0, mine)
            case "all_to_all":
                return np.concatenate([part(k, mine) for k in range(len(ranks))])
        raise AssertionError(self.kind)

    def _arguments(
        self, given: np.ndarray, rank: int, size: int
    ) -> tuple[np.ndarray | None, np.ndarray | None, dict[str, Any]]:
        """The arrays to pass, and what else."""
        array, out = given.copy(), None
        how: dict[str, Any] = {}
        if self.kind in ROOTED:
            how["root"] = self.root
        if self.kind in SHAPED:
            how["resize"] = self.resize
            if self.counts:
                how["counts"] = self._sizes(rank, size)
        else:
            how["on_failure"] = self.on_failure
        if self.algorithm:
            how["algorithm"] = self.algorithm
        if self.codec:
            how["codec"] = self.codec
        sizes = self._sizes(rank, size)
        own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        root = self.kind not in ROOTED or rank == self.root
        match self.kind:
            case "all_reduce" | "reduce" if root and not self.in_place:
                out = np.empty_like(array)
            case "reduce_scatter":
                out = array[own] if self.in_place else None
            case "all_gather" | "gather" if root and self.in_place:
                out = np.full(sum(sizes), np.nan, np.float32)
                out[own] = array
                array = out[own]
            case "scatter" if root:
                out = array[own] if self.in_place else None
            case "scatter":
                return None, np.empty(sizes[rank], np.float32), how
            case "all_to_all" if self.counts:
                how["out_counts"] = [self.block(source, rank, size) for source in range(size)]
        return array, out, how

    def prepare(self, group: collectives.Group) -> Prepared:
        """The arguments of a member, in the view that it knows."""
        members = tuple(peer.name for peer in group.peers)
        given = self.given(group.name, group.rank, group.size)
        array, out, how = self._arguments(given, group.rank, group.size)
        if out is not None:
            how["out"] = out
        return Prepared(self, members, group.name, given, array, how)

    def make(self, group: collectives.Group, **options: Any) -> collectives.Result:
        """Make it, as a member; every byte is checked."""
        if self.kind == "barrier":
            return group.barrier(on_failure=self.on_failure, **options)
        prepared = self.prepare(group)
        try:
            result = getattr(group, self.kind)(prepared.array, **prepared.how, **options)
        except collectives.CollectiveError:
            prepared.check_input()
            raise
        prepared.check(result)
        return result


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a member passes to the function that is called like the call's kind."""

    call: Call
    members: tuple[str, ...]
    me: str
    given: np.ndarray
    array: np.ndarray | None
    how: dict[str, Any]

    def check_input(self) -> None:
        """Nothing was written to it."""
        assert self.array is None or self.array.tobytes() == self.given.tobytes(), "not as before"

    def check(self, result: collectives.Result) -> None:
        """It is what it has to be, of those that it names."""
        call = self.call
        if call.kind in SHAPED and not call.resize:
            complete = (self.members[call.root],) if call.kind == "scatter" else self.members
            assert result.contributors == complete, "less than all, without resize"
        wanted = call.wanted(self.members, result.contributors, self.me)
        if wanted is None:
            assert result.value is None
        else:
            assert result.value.tobytes() == wanted.tobytes(), f"wrong bits: {result}"
        if call.kind != "broadcast" and (wanted is None or not call.in_place):
            self.check_input()
