"""Connections of a link over several paths between two hosts: which of them carry what.

On the emulator, so it takes root.
"""

from __future__ import annotations

import itertools

import pytest

from collectives.bench.hosts import Case, Hosts, Layout
from far_hosts import needs_root

pytestmark = needs_root

RATE = 40e6  # bit/s: what many tests beside this one leave a path, too
LARGE = Case("all_reduce", None, 2 << 20)


def carried(hosts: Hosts, way: str = "ab") -> list[int]:
    """Bytes that each path has delivered in a direction."""
    return [hosts.wan.stats(*ends).bytes for ends in hosts.layout.paths_between(*way)]


def run(hosts: Hosts, calls: int = 1) -> list[int]:
    """Make some calls; bytes that each path has delivered meanwhile, from a to b."""
    before = carried(hosts)
    found = hosts.run(LARGE, calls)
    assert found.checked > 0 and found.wrong == 0
    return [after - begun for after, begun in zip(carried(hosts), before, strict=True)]


def cut(hosts: Hosts, path: int, on: bool) -> None:
    for way in itertools.permutations("ab", 2):
        hosts.wan.cut(*hosts.layout.paths_between(*way)[path], on)


def layout(connections: int) -> Layout:
    return Layout("ab", RATE, round_trip=2e-3, paths=2, connections=connections)


@pytest.mark.parametrize("connections", [2, pytest.param(4, marks=pytest.mark.full)])
def test_connections_of_a_link_share_out_the_paths(connections):
    with Hosts(layout(connections)) as hosts:
        run(hosts)
        found = run(hosts, 4)
        print("bytes by path", found, carried(hosts, "ba"))
        # Each has half of the connections, which take what there is room for.
        assert min(found) > 0.3 * sum(found)
        assert sum(found) >= 4 * LARGE.bytes


@pytest.mark.full
def test_one_connection_stays_on_one_path():
    with Hosts(layout(1)) as hosts:
        found = run(hosts, 2)
        assert min(found) < 0.01 * sum(found)


@pytest.mark.full  # the detection time, twice
def test_what_a_path_carried_goes_over_the_others_when_it_is_cut_and_back_when_they_are():
    with Hosts(layout(2)) as hosts:
        run(hosts)
        for dead, alive in ((0, 1), (1, 0)):
            cut(hosts, dead, True)
            run(hosts)
            found = run(hosts, 2)
            assert found[dead] == 0
            assert found[alive] > 2 * LARGE.bytes
            cut(hosts, dead, False)
