"""The algorithms that a call asks for, against numpy, as in ``test_collectives``: with levels, in
place and out of place, of arrays that lie in any way."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from covering import covering
from crew import Crew
from test_collectives import PLACES, SEED, Case, check, every_case
from test_plans import HIERARCHICAL

Crews = dict[tuple[int, str, str], Crew]


def cases(count: int, seed: int) -> Iterator[Case]:
    """Some of those in which an algorithm is asked for."""
    kinds = {
        "bidirectional_ring": ("all_reduce", "all_gather"),
        "doubling": ("all_reduce",),
        "hierarchical": HIERARCHICAL,
    }
    plain = [
        case
        for case in random.Random(seed).sample(list(every_case()), count)
        if any(case.kind in found for found in kinds.values()) and case.size > 1
    ]
    for case, (algorithm, does) in itertools.product(plain, kinds.items()):
        if case.kind not in does:
            continue
        if algorithm == "hierarchical":
            for places, levels in list(PLACES.items())[1:]:
                if case.size == 2:  # once for each
                    size = len(levels[0])
                    yield dataclasses.replace(case, algorithm=algorithm, places=places, size=size)
        elif algorithm != "doubling" or case.shape in ("empty", "one", "tiny", "odd"):
            yield dataclasses.replace(case, algorithm=algorithm)


def few() -> list[Case]:
    def factors(case: Case) -> tuple[Any, ...]:
        what, where = (case.kind, case.algorithm), (case.places, case.transport)
        return what, where, case.shape, case.where, case.lies, case.dtype

    some = list(cases(3000, 3))
    return by_crew(covering(random.Random(4).sample(some, 150), factors))


def by_crew(some: Iterable[Case]) -> list[Case]:
    return sorted(some, key=lambda case: case.crew)


@pytest.fixture(scope="module")
def crews() -> Iterator[Crews]:
    made: Crews = {}
    yield made
    for crew in made.values():
        crew.__exit__(None, None, None)


def check_with_one_crew(crews: Crews, case: Case) -> None:
    """All of them together are too many processes."""
    for other in crews.keys() - {case.crew}:
        crews.pop(other).__exit__(None, None, None)
    check(crews, case)


@pytest.mark.parametrize("case", few(), ids=str)
def test_every_rank_gets_what_it_should_by_each_algorithm(crews: Crews, case: Case) -> None:
    check_with_one_crew(crews, case)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("algorithm", ["bidirectional_ring", "doubling", "hierarchical"])
@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_every_rank_gets_what_it_should_by_each_algorithm_in_many_cases(
    crews: Crews, algorithm: str, transport: str
) -> None:
    every = [c for c in cases(9000, SEED) if (c.algorithm, c.transport) == (algorithm, transport)]
    for case in by_crew(random.Random(SEED).sample(every, min(len(every), 500))):
        check_with_one_crew(crews, case)
