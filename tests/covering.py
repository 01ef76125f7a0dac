"""Covering arrays: few cases in which every pair of values of two factors occurs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Case = TypeVar("Case")


def covering(cases: Iterable[Case], factors: Callable[[Case], tuple[Any, ...]]) -> list[Case]:
    """Some of the cases, in which each pair of values of two factors occurs that occurs in all.

    Args:
        cases: all of them, hashable and different.
        factors: the values of a case, as many for each.
    """
    pairs = {case: set(itertools.combinations(enumerate(factors(case)), 2)) for case in cases}
    chance = random.Random(0)  # which cases there are must not depend on the run
    order = chance.sample(list(pairs), len(pairs))
    left: set[Any] = set().union(*pairs.values())
    chosen = []
    while left:
        best = max(order, key=lambda case: len(pairs[case] & left))
        chosen.append(best)
        left -= pairs[best]
    return chosen
