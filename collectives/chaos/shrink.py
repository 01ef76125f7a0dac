"""The smallest scenario that still fails: fewer faults, then less of everything else.

Delta debugging (Zeller and Hildebrandt, *Simplifying and Isolating Failure-Inducing Input*, 2002)
of the list of faults, then shorter runs, fewer peers and milder faults. Pure: whoever calls it runs
the scenarios, and says which fail.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

from collectives.chaos.faults import Fault
from collectives.chaos.scenario import Scenario
from collectives.errors import InvalidArgument

# Seconds that a run goes on after its last fault, so that what comes of it can be seen.
_AFTER = 5.0


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """What was found.

    Attributes:
        scenario: the smallest that failed; the one that was given, if no smaller one did.
        runs: how many were tried.
        finished: False if the budget ended before it was certain that nothing can be left out.
    """

    scenario: Scenario
    runs: int
    finished: bool


class _Spent(Exception):
    """The budget is used up."""


def shrink(scenario: Scenario, fails: Callable[[Scenario], bool], budget: int) -> Shrunk:
    """Make a failing scenario smaller.

    Args:
        scenario: one that failed, with nothing left to draw.
        fails: runs one, and says whether it fails in the same way. May be called with a scenario
            that needs longer than it would if it succeeded.
        budget: how many runs at most.

    Raises:
        InvalidArgument: the scenario has something left to draw, or the budget is negative.
    """
    if not scenario.concrete:
        raise InvalidArgument("only a scenario in which nothing is random can be shrunk: draw it")
    if budget < 0:
        raise InvalidArgument(f"budget is {budget}; it is a number of runs")
    search = _Search(scenario, fails, budget)
    try:
        search.faults()
        while search.milder() and search.faults():
            pass
    except _Spent:
        return Shrunk(search.best, search.runs, finished=False)
    return Shrunk(search.best, search.runs, finished=True)


class _Search:
    def __init__(self, best: Scenario, fails: Callable[[Scenario], bool], budget: int) -> None:
        self.best = best
        self.runs = 0
        self._fails = fails
        self._budget = budget
        self._tried = {best}

    def faults(self) -> bool:
        """Leave out faults until each that is left is needed; return whether any was."""
        before = len(self.best.faults)
        parts = 2
        if before and self._try(self.best, ()):
            return True
        while len(self.best.faults) > 1:
            faults = self.best.faults
            chunks = _chunks(faults, min(parts, len(faults)))
            rests = [
                tuple(fault for at, other in enumerate(chunks) if at != index for fault in other)
                for index in range(len(chunks))
            ]
            if any(self._try(self.best, chunk) for chunk in chunks):
                parts = 2
            elif any(self._try(self.best, rest) for rest in rests):
                parts = max(2, len(chunks) - 1)
            elif len(chunks) == len(faults):
                break
            else:
                parts *= 2
        return len(self.best.faults) < before

    def milder(self) -> bool:
        """Lower what can be lowered; return whether anything could."""
        found = False
        changed = True
        while changed:
            changed = False
            for candidate in self._milder():
                if candidate is not None and self._runs(candidate):
                    found = changed = True
                    break
        return found

    def _milder(self) -> Iterator[Scenario | None]:
        best = self.best
        last = max((_end(fault) for fault in best.faults), default=0.0)
        for duration in (last + _AFTER, (last + best.duration) / 2):
            if duration < best.duration - 0.5:
                yield _changed(best, duration=round(duration, 3))
        if len(best.peers) > max(2, best.min_size):
            yield _fewer(best)
        for index, fault in enumerate(best.faults):
            for milder in _milder_faults(fault):
                yield _changed(best, faults=_put(best.faults, index, milder))

    def _try(self, scenario: Scenario, faults: Sequence[Fault]) -> bool:
        candidate = _changed(scenario, faults=tuple(faults))
        return candidate is not None and self._runs(candidate)

    def _runs(self, candidate: Scenario) -> bool:
        if candidate in self._tried:
            return False
        if self.runs >= self._budget:
            raise _Spent
        self._tried.add(candidate)
        self.runs += 1
        if not self._fails(candidate):
            return False
        self.best = candidate
        return True


def _changed(scenario: Scenario, **changes: object) -> Scenario | None:
    try:
        return dataclasses.replace(scenario, **changes)  # type: ignore[arg-type]
    except InvalidArgument:  # a fault names whom another one would have brought
        return None


def _fewer(scenario: Scenario) -> Scenario | None:
    try:
        return scenario.scaled(peers=len(scenario.peers) - 1)
    except InvalidArgument:  # the last place is named
        return None


def _milder_faults(fault: Fault) -> Iterator[Fault]:
    """Yield the fault with one of its numbers lower; each halves, so that it comes to an end."""
    if fault.lasting is not None and fault.lasting > 0.1:
        yield dataclasses.replace(fault, lasting=round(fault.lasting / 2, 3))
    if fault.count is not None and fault.count > 1:
        yield dataclasses.replace(fault, count=fault.count // 2)
    if fault.moment is not None and fault.moment.slices:
        moment = dataclasses.replace(fault.moment, slices=fault.moment.slices // 2)
        yield dataclasses.replace(fault, moment=moment)
    if fault.restart is not None and fault.kind != "coordinator_kill":
        yield dataclasses.replace(fault, restart=None)


def _end(fault: Fault) -> float:
    return fault.time + max(fault.lasting or 0, fault.restart or 0)


def _put(faults: tuple[Fault, ...], index: int, fault: Fault) -> tuple[Fault, ...]:
    return (*faults[:index], fault, *faults[index + 1 :])


def _chunks(faults: tuple[Fault, ...], count: int) -> list[tuple[Fault, ...]]:
    borders = [len(faults) * index // count for index in range(count + 1)]
    return [faults[begin:end] for begin, end in itertools.pairwise(borders)]
