"""A member is killed in each phase of an operation: the others agree, byte for byte (G1 to G3)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from calls import LARGE, ROOTED, SHAPED, SMALL, TINY, Call
from covering import covering
from mortals import Case, Mortals

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
            call = Call("all_reduce", count, in_place=in_place, on_failure=on_failure)
            for phase in PHASES[count]:
                yield Case(size, call, ((victim, phase),), transport=transport)


def by_plan(call: Call, size: int, rank: int) -> tuple[str, ...]:
    """What a rank goes through in a reduction by the call's algorithm."""
    if call.algorithm == "bidirectional_ring":
        return PHASES[max(call.count, SMALL)]
    surplus = size - (1 << size.bit_length() - 1)
    # The odd ones among the first give what they have to others, and get the result from them.
    folded = rank < 2 * surplus and rank % 2 == 1
    return ("issued", *(("all_gather",) if folded else ("reduce_scatter", "between")), "complete")


def planned() -> Iterator[tuple[int, Call, str]]:
    """The reductions by algorithms that are asked for: size, call, transport."""
    counts = {"bidirectional_ring": (TINY, SMALL, LARGE), "doubling": (TINY, SMALL)}
    for size, algorithm in itertools.product((2, 3, 4, 5, 6), counts):
        for count, in_place, on_failure, transport in itertools.product(
            counts[algorithm], (True, False), ("retry", "raise"), TRANSPORTS
        ):
            how = {"in_place": in_place, "on_failure": on_failure, "algorithm": algorithm}
            yield size, Call("all_reduce", count, **how), transport


def one_by_plan() -> Iterator[Case]:
    for size, call, transport in planned():
        for victim in range(size):
            for phase in by_plan(call, size, victim):
                yield Case(size, call, ((victim, phase),), transport=transport)


def factors_of_planned(case: Case) -> tuple[Any, ...]:
    return case.call.algorithm, case.victims[0][1], case.transport


def two_by_plan() -> Iterator[Case]:
    """Two die: neighbours, and those at the ends."""
    for size, call, transport in planned():
        for b in {1, size - 1} if size > 2 else ():
            for one, other in itertools.product(
                by_plan(call, size, 0), (*by_plan(call, size, b), "sealed", "judged")
            ):
                yield Case(size, call, ((0, one), (b, other)), transport=transport)


def where_in(size: int, rank: int) -> str:
    return "first" if rank == 0 else "last" if rank == size - 1 else "middle"


def factors(case: Case) -> tuple[Any, ...]:
    (victim, phase), *_ = case.victims
    how = case.call.in_place, case.call.on_failure, case.transport
    return case.size, case.call.count, *how, where_in(case.size, victim), phase


def others() -> Iterator[Case]:
    """What is neither reduced nor has blocks; the root of a broadcast dies, or another."""
    for size, transport in itertools.product((2, 3, 5), TRANSPORTS):
        last = size - 1
        for on_failure in ("retry", "raise"):
            broadcasts = [
                Call("broadcast", count, root, on_failure=on_failure)
                for count in (TINY, SMALL, LARGE)
                for root in (0, last)
            ]
            for phase in ("issued", "complete", "tokens"):
                for call in (Call("barrier", 0, on_failure=on_failure), *broadcasts):
                    yield Case(size, call, ((last, phase),), transport=transport)
            for call in broadcasts:
                if call.root == 0:
                    yield Case(size, call, ((last, "all_gather"),), transport=transport)
        for phase in ("issued", "complete", "tokens"):
            yield Case(size, Call("sync"), ((0, phase),), transport=transport)


def phases_of(call: Call, size: int, rank: int) -> tuple[str, ...]:
    """What a rank goes through in a call."""
    receives = {"gather": rank == call.root, "scatter": rank != call.root}.get(call.kind, True)
    moves: tuple[str, ...] = ("all_gather",) if receives else ()
    if call.kind == "reduce_scatter":
        moves = ("reduce_scatter", "between")
    elif call.kind == "reduce" and call.count * 4 * (size - 1) <= 16 << 10:
        moves = ("reduce_scatter",) if rank == call.root else ()  # the root reduces all
    elif call.kind == "reduce":
        moves = ("reduce_scatter", "between", *(moves if rank == call.root else ()))
    proves_itself = call.kind == "all_gather" and call.count < LARGE and not call.counts
    return ("issued", *moves, "complete", *(() if proves_itself else ("tokens",)))


def calls(size: int) -> Iterator[Call]:
    """Those with a root, but a broadcast, and those with blocks."""
    for kind, count, in_place, again in itertools.product(
        ("reduce", *SHAPED), PHASES, (True, False), (True, False)
    ):
        if kind == "all_to_all" and in_place:
            continue
        for root in (0, size - 1) if kind in ROOTED else (0,):
            call = Call(kind, count, root, in_place)
            if kind == "reduce":
                yield Call(kind, count, root, in_place, on_failure="retry" if again else "raise")
                continue
            for counts in ("", "uneven"):
                yield Call(kind, count, root, in_place, counts, resize=again)
            assert call.kind in SHAPED


def shaped() -> Iterator[Case]:
    """One victim: the root or another."""
    for size, transport in itertools.product((2, 3, 5), TRANSPORTS):
        for call in calls(size):
            for victim in (0, size // 2, size - 1) if size > 2 else (0, 1):
                for phase in phases_of(call, size, victim):
                    yield Case(size, call, ((victim, phase),), transport=transport)


def role(case: Case, rank: int) -> str:
    if case.kind in ROOTED:
        return "root" if rank == case.call.root else "another"
    return where_in(case.size, rank)


def factors_of_shaped(case: Case) -> tuple[Any, ...]:
    call, (victim, phase) = case.call, case.victims[0]
    again = call.resize or (call.kind == "reduce" and call.on_failure == "retry")
    who = call.kind, role(case, victim)
    return who, case.size, call.count, case.transport, phase, call.in_place, call.counts, again


def two_of_shaped() -> Iterator[Case]:
    """Two die, one of them perhaps in the other's round."""
    for size, transport in itertools.product((3, 5), TRANSPORTS):
        for call in calls(size):
            if not call.resize and call.on_failure == "retry" and call.kind != "reduce":
                continue  # it ends with the first
            for a in phases_of(call, size, 0):
                for b in (*phases_of(call, size, size - 1), "sealed", "judged"):
                    yield Case(size, call, ((0, a), (size - 1, b)), transport=transport)


def two() -> Iterator[Case]:
    """Two die: both in one phase, or each in one of its own, or one in the other's round."""
    for size, count, on_failure, transport in itertools.product(
        (3, 4, 5), PHASES, ("retry", "raise"), TRANSPORTS
    ):
        first = PHASES[count]
        call = Call("all_reduce", count, on_failure=on_failure)
        for a, b in itertools.product(first, (*first, "sealed", "judged")):
            yield Case(size, call, ((0, a), (size - 1, b)), transport=transport)


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
    mortals.run(case)


@pytest.mark.parametrize("case", parameters(some(two(), 20), two()))
def test_survivors_agree_though_a_second_one_dies(mortals, case):
    mortals.run(case)


@pytest.mark.parametrize("case", covering(one_by_plan(), factors_of_planned), ids=str)
def test_survivors_agree_on_a_reduction_by_any_plan(mortals, case):
    mortals.run(case)


@pytest.mark.parametrize("case", some(two_by_plan(), 6), ids=str)
def test_survivors_agree_on_a_reduction_by_any_plan_though_two_die(mortals, case):
    mortals.run(case)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("algorithm", ["bidirectional_ring", "doubling"])
def test_survivors_agree_on_all_reductions_by_a_plan(mortals, algorithm, size, transport):
    def of(cases: Iterable[Case]) -> list[Case]:
        wanted = algorithm, size, transport
        return [c for c in cases if (c.call.algorithm, c.size, c.transport) == wanted]

    pairs = of(two_by_plan())
    for case in (*of(one_by_plan()), *some(pairs, min(len(pairs), 60))):
        mortals.run(case)


FEW = covering(some(shaped(), 600), factors_of_shaped)


def check(mortals: Mortals, case: Case) -> None:
    records = mortals.run(case)
    call = case.call
    repeats = call.on_failure == "retry" if call.kind == "reduce" else call.resize
    rootless = call.kind in ROOTED and call.root in dict(case.victims)
    if repeats and not rootless:
        assert records[0].outcome[0] == "ok", f"{case}: {records}"


@pytest.mark.parametrize("case", FEW, ids=str)
def test_survivors_agree_on_what_has_a_root_or_blocks(mortals, case):
    check(mortals, case)


@pytest.mark.parametrize("case", some(two_of_shaped(), 24), ids=str)
def test_survivors_agree_on_what_has_a_root_or_blocks_though_two_die(mortals, case):
    check(mortals, case)


# Where the blocks of the first one are left out, those of others come to lie over inputs that are
# in place, before these are sent, and before the second one dies.
MOVED = [
    Case(4, Call(kind, 1_000_000, 1, counts=counts, resize=True), victims, transport=transport)
    for kind in ("all_gather", "gather")
    for counts in ("", "uneven")
    for victims in (((0, "issued"),), ((0, "issued"), (3, "tokens")))
    for transport in TRANSPORTS
]


@pytest.mark.parametrize("case", MOVED, ids=str)
def test_inputs_in_place_outlast_the_blocks_that_move_there(mortals, case):
    check(mortals, case)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("count", PHASES)
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("kind", ["reduce", *SHAPED])
def test_survivors_agree_on_all_that_has_a_root_or_blocks(mortals, kind, size, count, transport):
    def of(cases: Iterable[Case]) -> list[Case]:
        wanted = kind, size, count, transport
        return [c for c in cases if (c.kind, c.size, c.call.count, c.transport) == wanted]

    pairs = of(two_of_shaped())
    for case in (*of(shaped()), *some(pairs, min(len(pairs), 20))):
        check(mortals, case)
