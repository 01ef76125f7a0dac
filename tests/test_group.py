"""All-reduce, broadcast and barrier between real processes."""

from __future__ import annotations

import numpy as np

from crew import Crew


def sum_ranks(group, count):
    array = np.full(count, group.rank + 1, np.float32)
    result = group.all_reduce(array)
    return float(array.sum()), result.contributors, group.peers, result.view


def test_all_reduce_sums_over_all_members():
    with Crew(3) as crew:
        for value, contributors, peers, view in crew.get(sum_ranks, 1000):
            assert value == 6000.0
            assert contributors == tuple(peer.name for peer in peers), "by rank"
            assert set(contributors) == {"p0", "p1", "p2"}
            assert view == 1
