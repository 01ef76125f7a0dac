"""A member is killed in each phase of an operation: the others agree, byte for byte (G1 to G3)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from covering import covering
from mortals import LARGE, SMALL, TINY, Case, Mortals

PHASES = {
    TINY: ("issued", "reduce_scatter", "complete"),  # all reduce all: nothing is gathered
    SMALL: ("issued", "reduce_scatter", "between", "all_gather", "complete"),
    LARGE: ("issued", "reduce_scatter", "between", "all_gather", "complete", "tokens"),
}
TRANSPORTS = ("auto", "tcp")


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as mortals:
        yield mortals


def reductions() -> Iterator[Case]:
    """All of them: one victim."""
    for size in (2, 3, 4, 5):
        for count, in_place, on_failure, transport, victim in itertools.product(
            PHASES, (True, False), ("retry", "raise"), TRANSPORTS, range(size)
        ):
            for phase in PHASES[count]:
                died = ((victim, phase),)
                yield Case(
                    size, "all_reduce", count, in_place, on_failure, died, transport=transport
                )


def factors(case: Case) -> tuple[Any, ...]:
    (victim, phase), *_ = case.victims
    where = "first" if victim == 0 else "last" if victim == case.size - 1 else "middle"
    how = case.in_place, case.on_failure, case.transport
    return case.size, case.count, *how, where, phase


def others() -> Iterator[Case]:
    """What is not reduced; the root of a broadcast dies, or another."""
    for size, transport in itertools.product((2, 3, 5), TRANSPORTS):
        for on_failure in ("retry", "raise"):
            how: dict[str, Any] = {"on_failure": on_failure, "transport": transport}
            for phase in ("issued", "complete", "tokens"):
                how["victims"] = ((size - 1, phase),)
                yield Case(size, "barrier", 0, **how)
                for count in (TINY, SMALL, LARGE):
                    yield Case(size, "broadcast", count, root=size - 1, **how)
                    yield Case(size, "broadcast", count, root=0, **how)
            how["victims"] = ((size - 1, "all_gather"),)
            for count in (TINY, SMALL, LARGE):
                yield Case(size, "broadcast", count, root=0, **how)
        for phase in ("issued", "complete", "tokens"):
            yield Case(size, "sync", victims=((0, phase),), transport=transport)


def two() -> Iterator[Case]:
    """Two die: both in one phase, or each in one of its own, or one in the other's round."""
    for size, count, on_failure, transport in itertools.product(
        (3, 4, 5), PHASES, ("retry", "raise"), TRANSPORTS
    ):
        first = PHASES[count]
        for a, b in itertools.product(first, (*first, "sealed", "judged")):
            died = ((0, a), (size - 1, b))
            yield Case(size, "all_reduce", count, True, on_failure, died, transport=transport)


def some(cases: Iterable[Case], count: int) -> list[Case]:
    every = list(cases)
    return random.Random(1).sample(every, count)


def parameters(few: Sequence[Case], every: Iterable[Case]) -> list[Any]:
    return [
        pytest.param(case, id=str(case), marks=() if case in few else pytest.mark.full)
        for case in every
    ]


@pytest.mark.parametrize("case", parameters(covering(reductions(), factors), reductions()))
def test_survivors_agree_on_a_reduction_in_which_one_dies(mortals, case):
    mortals.run(case)


@pytest.mark.parametrize("case", parameters(some(others(), 24), others()))
def test_survivors_agree_on_what_is_not_reduced(mortals, case):
    for record in mortals.run(case):
        if case.kind == "broadcast" and record.outcome[0] == "ok":
            assert record.outcome[1] == (record.members[case.root],)


@pytest.mark.parametrize("case", parameters(some(two(), 20), two()))
def test_survivors_agree_though_a_second_one_dies(mortals, case):
    mortals.run(case)
