"""Many small operations at once, with a large one beside them and without it.

A small operation that waits behind the bytes of a large one is what this looks for: the same
batches, in turns with and without the large operation, and the tail of their times compared. The
time of an operation is the core's own, from the call to its end.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

import collectives
from collectives.bench.config import BenchConfig
from collectives.bench.messages import Crowd, Crowded
from collectives.bench.pattern import Pattern, poison

_TAG = 1  # the large operation's: a queue of its own, beside the small ones


@dataclasses.dataclass(frozen=True)
class Figures:
    """Microseconds of small operations on all ranks, and how often they were measured."""

    median_us: float
    p99_us: float
    operations: int


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        alone: small operations with nothing beside them.
        beside: those beside a large one.
        large_us: median time of the large operation.
        checked: elements that were checked.
        wrong: those that were wrong.
    """

    alone: Figures
    beside: Figures
    large_us: float
    checked: int
    wrong: int

    @property
    def ratio(self) -> float:
        """How much longer the 99th percentile is beside a large operation."""
        return self.beside.p99_us / self.alone.p99_us

    def lines(self) -> list[str]:
        """For people."""
        rows = (("alone", self.alone), ("beside the large one", self.beside))
        return [
            *(
                f"{name:<20}  median {found.median_us:9.1f} us   p99 {found.p99_us:9.1f} us"
                f"   ({found.operations} operations)"
                for name, found in rows
            ),
            f"ratio of the p99      {self.ratio:9.2f}",
            f"the large one takes   {self.large_us:9.1f} us",
            f"Wrong elements: {self.wrong} of {self.checked} checked",
        ]


def measure(config: BenchConfig, count: int, small: int, rounds: int, batches: int) -> Comparison:
    """Measure `count` operations of `small` bytes at once, beside one of the config's size.

    Args:
        config: of the ranks; its one size is that of the large operation.
        count: small operations at once.
        small: bytes of each.
        rounds: large operations, and as many times without.
        batches: of small operations in each round; those that outlast the large one do not count.

    Raises:
        CollectiveError: a rank failed, or no batch ended while the large operation went on.
    """
    from collectives.bench.ranks import Ranks

    (large,) = config.sizes
    times: dict[int, list[int]] = {0: [], large: []}
    whole: list[int] = []
    checked = wrong = 0
    with Ranks(config) as ranks:
        ranks.ready()
        for turn in range(-1, rounds):
            for beside in times:
                for found in ranks.ask("collectives", Crowd(count, small, beside, batches)):
                    checked, wrong = checked + found.checked, wrong + found.wrong
                    if turn >= 0:  # the first is to warm up
                        times[beside] += found.nanoseconds
                        whole += [found.large_ns] if beside else []
    if not times[large]:
        raise collectives.CollectiveError(
            "no batch of small operations ended before the large one; take a larger one"
        )
    alone, beside_it = (_figures(times[key]) for key in (0, large))
    return Comparison(alone, beside_it, float(np.median(whole)) / 1e3, checked, wrong)


def _figures(nanoseconds: list[int]) -> Figures:
    times = np.array(nanoseconds) / 1e3
    return Figures(float(np.median(times)), float(np.quantile(times, 0.99)), len(times))


def play(
    command: Crowd, group: collectives.Group, pattern: Pattern, source: Any, target: Any
) -> Crowded:
    """Carry out one round as one rank; `source` and `target` are as large as the large operation.

    All ranks make the same operations, whatever ends first where.
    """
    count = command.small // pattern.storage.itemsize
    inputs, outputs = np.empty((2, command.count, count), pattern.storage)
    for row in inputs:
        pattern.fill(row, group.rank)
    elements = command.large // pattern.storage.itemsize
    if command.large:
        pattern.fill(source[:elements], group.rank)
        poison(target[:elements])
    times: list[int] = []
    large_ns = checked = wrong = 0
    group.barrier()
    began = time.perf_counter_ns()
    if command.large:
        large = group.all_reduce_async(
            source[:elements], pattern.op, out=target[:elements], tag=_TAG
        )
    for _ in range(command.batches):
        poison(outputs)
        works = [
            group.all_reduce_async(array, pattern.op, out=out)
            for array, out in zip(inputs, outputs, strict=True)
        ]
        seconds = [work.wait().seconds for work in works]
        if not command.large or not large.done():
            times += [int(second * 1e9) for second in seconds]
        checked += outputs.size
        wrong += sum(pattern.count_wrong(row) for row in outputs)
    if command.large:
        large.wait()
        large_ns = time.perf_counter_ns() - began
        checked += elements
        wrong += pattern.count_wrong(target[:elements])
    return Crowded(tuple(times), large_ns, checked, wrong)
