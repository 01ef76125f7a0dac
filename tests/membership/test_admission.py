from __future__ import annotations

import itertools
import uuid

from hypothesis import given, settings
from hypothesis import strategies as st

from collectives.membership.admission import who_to_drop

IDS = [uuid.UUID(int=i + 1) for i in range(40)]


def connected(ids, failed) -> bool:
    edges = {frozenset(pair) for pair in failed}
    return not any(frozenset(pair) in edges for pair in itertools.combinations(ids, 2))


def smallest(ids, failed, keep=()) -> int:
    """How few of ``ids`` can be dropped, by trying all sets."""
    for count in range(len(ids) + 1):
        for gone in itertools.combinations(ids, count):
            if connected([i for i in (*keep, *ids) if i not in gone], failed):
                return count
    raise AssertionError("dropping all but the kept must do")


@settings(max_examples=150, deadline=None)
@given(
    members=st.integers(0, 4),
    newcomers=st.integers(0, 4),
    pairs=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=8),
)
def test_those_who_stay_can_all_talk_and_as_few_as_possible_go(members, newcomers, pairs):
    old, new = IDS[:members], IDS[members : members + newcomers]
    everybody = [*old, *new]
    count = len(everybody)
    failed = {(everybody[a], everybody[b]) for a, b in pairs if a < count and b < count and a != b}
    dropped = who_to_drop(old, new, failed)
    staying = [peer for peer in everybody if peer not in dropped]
    assert connected(staying, failed)
    assert sum(peer in dropped for peer in old) == smallest(old, failed)
    kept = [peer for peer in old if peer not in dropped]
    assert sum(peer in dropped for peer in new) == smallest(new, failed, keep=kept)


def test_members_stay_rather_than_newcomers():
    a, b, c, d = IDS[:4]
    assert who_to_drop([a], [b, c, d], {(a, b), (a, c), (d, a)}) == (b, c, d)


def test_of_equals_the_lowest_ranks_stay():
    a, b, c = IDS[:3]
    assert who_to_drop([], [a, b, c], {(a, b)}) == (b,)
    assert who_to_drop([], [a, b, c], {(c, a), (a, b)}) == (a,)
    assert who_to_drop([a, b], [c], {(b, a)}) == (b,)


def test_more_than_can_be_tried_exhaustively_still_leaves_a_connected_set():
    failed = {(IDS[i], IDS[j]) for i in range(0, 40, 2) for j in range(1, 40, 7)}
    dropped = who_to_drop([], IDS, failed)
    assert connected([peer for peer in IDS if peer not in dropped], failed)
    assert len(dropped) <= 6
