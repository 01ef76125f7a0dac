"""What agreement costs: the same calls with and without it, in turns, in one run.

Without it an operation succeeds when it looks finished here, and no result is kept for members that
may still need it after a death: a library without these promises.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import collectives
from collectives.errors import CollectiveError

SIZES = (1 << 10, 64 << 10, 1 << 20)
_BLOCKS = 20
_DEADLINE = 120.0


@dataclasses.dataclass(frozen=True)
class Cost:
    """Medians of one size over all blocks, in microseconds; ``ratio``: with over without."""

    bytes: int
    with_us: float
    without_us: float
    wrong: int

    @property
    def ratio(self) -> float:
        """How much longer a call takes with agreement."""
        return self.with_us / self.without_us


def measure(ranks: int = 2, seconds: float = 2.0) -> list[Cost]:
    """Return the cost for each of SIZES, float32 sums with ``out=``.

    Args:
        ranks: processes that take part.
        seconds: of calls per size and side.

    Raises:
        CollectiveError: a rank failed.
    """
    context = multiprocessing.get_context("spawn")
    with collectives.Coordinator("127.0.0.1:0") as coordinator:
        pipes, processes = [], []
        for rank in range(ranks):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=_rank, args=(theirs, coordinator.address, rank, ranks, seconds), daemon=True
            )
            process.start()
            theirs.close()
            pipes.append(mine)
            processes.append(process)
        try:
            found = [_answer(pipe) for pipe in pipes]
        finally:
            for process in processes:
                process.join(10)
                process.kill()
    return [
        dataclasses.replace(cost, wrong=sum(costs[i].wrong for costs in found))
        for i, cost in enumerate(found[0])
    ]


def _answer(pipe: Connection) -> list[Cost]:
    if not pipe.poll(_DEADLINE):
        raise CollectiveError(f"a rank did not answer within {_DEADLINE:g} s")
    try:
        answer: list[Cost] = pipe.recv()
    except EOFError:
        raise CollectiveError("a rank ended without an answer; its words are above") from None
    return answer


def _rank(pipe: Connection, address: str, rank: int, ranks: int, seconds: float) -> None:
    groups = [
        collectives.join(
            address,
            group=name,
            name=f"{rank}",
            min_size=ranks,
            options=collectives.Options(bind=("127.0.0.1",), congestion="cubic", agreement=agree),
        )
        for name, agree in (("with", True), ("without", False))
    ]
    costs = []
    for size in SIZES:
        times: tuple[list[float], list[float]] = ([], [])
        wrong = 0
        array, out = np.full(size // 4, groups[0].rank + 1.0, np.float32), np.empty(size // 4, "f4")
        calls = _calls(groups[0], array, out, seconds)
        for block in range(2 * _BLOCKS):
            side = block % 2
            wrong += _block(groups[side], array, out, calls, times[side])
        medians = [statistics.median(side) for side in times]
        costs.append(Cost(size, medians[0], medians[1], wrong))
    pipe.send(costs)
    for group in groups:
        group.leave()


def _calls(group: collectives.Group, array: Any, out: Any, seconds: float) -> int:
    """How many calls make a block; the same on all ranks."""
    times: list[float] = []
    _block(group, array, out, 20, times)
    calls = np.array([seconds * 1e6 / _BLOCKS / max(1.0, statistics.median(times))])
    group.all_reduce(calls, "min")
    return max(3, int(calls[0]))


def _block(group: collectives.Group, array: Any, out: Any, calls: int, times: list[float]) -> int:
    """Make so many calls; how many elements were wrong."""
    group.barrier()
    for _ in range(3):
        group.all_reduce(array, out=out)
    for _ in range(calls):
        out[0] = 0
        begin = time.perf_counter_ns()
        group.all_reduce(array, out=out)
        times.append((time.perf_counter_ns() - begin) / 1e3)
    right = group.size * (group.size + 1) / 2
    return int(np.count_nonzero(out != right))
