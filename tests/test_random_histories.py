"""Random histories of deaths, stops, leaves, joins and coordinators that fall: everybody agrees on
every operation (G1, G2), and nobody waits for ever (G3)."""

from __future__ import annotations

import collections
import os
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from calls import COLLECTIVES
from history import TRANSFER, check, plan_of, play
from nursery import Nursery

AT_ONCE = 5  # most of the time of a history is waiting
FIRST = int(os.environ.get("HISTORY_SEED", 0)) or random.SystemRandom().randrange(1 << 30)


def one(seed: int, nursery: Nursery) -> collections.Counter[str]:
    plan = plan_of(seed)
    with tempfile.TemporaryDirectory() as folder:
        try:
            ends = play(plan, nursery, Path(folder))
            return check(plan, ends, Path(folder))
        except BaseException:
            print(f"HISTORY_SEED={seed}: {plan}")
            for path in sorted(Path(folder).glob("*.journal")):
                print(path.name, *path.read_text().splitlines()[-4:], sep="\n  ")
            raise


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.full)])
def test_all_agree_in_random_histories(count):
    print("seeds from", FIRST)
    with Nursery("history", "rulers") as nursery, ThreadPoolExecutor(AT_ONCE) as executor:
        found = list(executor.map(lambda i: one(FIRST + i, nursery), range(count)))
    happened = sum(found, collections.Counter())
    print(dict(happened))
    # A driver that does nothing would not fail otherwise.
    assert happened["died"] >= count // 4 and happened["steps"] > 30 * count
    assert all(happened[kind] > count // 2 for kind in (*COLLECTIVES, "barrier"))
    assert happened[TRANSFER] > count // 5  # while both of the two are there
