"""`collectives bench network`: what plans put on the links between emulated hosts.

Bytes are counted, not time. On the emulator, so most of it takes root.
"""

from __future__ import annotations

import json

import pytest

import strip
from collectives.bench import network
from collectives.bench.hosts import Case, Layout
from collectives.errors import InvalidArgument
from far_hosts import needs_root

SIZE = 4 << 20
RATE = 400e6  # bit/s
PACKET, HEADERS = 9000, 52


@pytest.mark.parametrize(
    ("hosts", "algorithm", "between"),
    [
        ("aabb", "direct", 1.0),  # from each to each a quarter
        ("aabb", "hierarchical", 0.5),  # what the other host's ranks are to have
        ("aaab", "hierarchical", 0.25),
        ("aacb", "hierarchical", 0.25),
    ],
)
def test_a_reduce_scatter_sends_another_host_its_blocks(hosts, algorithm, between):
    found = network.crossing("reduce_scatter", algorithm, SIZE, Layout(hosts, RATE))
    assert found["ab"] == between * SIZE


@pytest.mark.parametrize(
    ("hosts", "algorithm", "between"),
    [
        ("aabb", "ring", 1.5),  # the one edge that goes there, 2(n-1)/n
        ("abab", "ring", 3.0),  # both of a host's edges go there
        ("aabb", "direct", 2.0),  # from each to each a quarter, twice
        ("aaab", "direct", 1.5),
        ("aabb", "whole", 4.0),
        ("aabb", "doubling", 2.0),
        ("aabb", "hierarchical", 1.0),  # half of it as a part, the other half as a result
        ("abab", "hierarchical", 1.0),
        ("aaab", "hierarchical", 1.0),
        ("ab", "bidirectional_ring", 1.0),
    ],
)
def test_what_a_plan_sends_to_another_host_follows_from_who_is_where(hosts, algorithm, between):
    found = network.crossing("all_reduce", algorithm, SIZE, Layout(hosts, RATE))
    assert found["ab"] == between * SIZE


@needs_root
@pytest.mark.parametrize("hosts", ["aabb", pytest.param("aba", marks=pytest.mark.full)])
def test_peers_and_emulator_count_what_the_plans_have(hosts):
    cases = tuple(Case("all_reduce", name, SIZE) for name in ("ring", "hierarchical"))
    found = network.measure(network.Scenario("test", "", Layout(hosts, RATE), cases), seconds=0.1)
    print("\n".join(found.lines()))
    for row in found.rows:
        assert row.calls >= 3
        assert row.wrong == 0
        # Frames have headers, and of the smallest slices there are eight in a step.
        assert row.planned <= row.sent <= 1.01 * row.planned
        assert row.planned_within <= row.sent_within <= 1.01 * row.planned_within
        # So have packets; and what comes back is acknowledged.
        framed = row.planned * PACKET / (PACKET - HEADERS)
        assert row.planned < row.packets < 1.02 * framed
    report = json.loads(network.Report([found]).to_json())
    assert report["wrong"] == 0
    assert [row["case"]["algorithm"] for row in report["scenarios"][0]["rows"]] == [
        "ring",
        "hierarchical",
    ]


def test_the_ring_overtakes_where_its_times_cross():
    points = [(1 << 10, 0.5), (2 << 10, 0.5), (8 << 10, 2.0)]
    assert network._crossing(points) == pytest.approx(4 << 10)
    assert network._crossing(points[:2]) is None


def test_the_model_is_told_the_layout_alone():
    pairs = network.network_of(Layout("abcd", 100e6, round_trip=20e-3))
    (level,) = pairs.levels
    assert level.latency == pytest.approx(10e-3, rel=0.01)
    assert 0.99 * 100e6 / 8 < level.bandwidth < 100e6 / 8 < level.uplink
    two = network.network_of(Layout("aabb", 100e6))
    assert two.places == ((0, 0, 1, 1),)
    assert two.levels[1].uplink == two.levels[1].bandwidth


def test_all_scenarios_can_be_planned_and_predicted():
    for scenario in network.SCENARIOS.values():
        for case in scenario.cases:
            name = case.algorithm or "ring"
            assert network.predicted(case.kind, name, case.bytes, scenario.layout) > 0


def test_a_scenario_that_there_is_not_is_an_error_that_names_those_there_are():
    with pytest.raises(InvalidArgument, match=r"'nowhere'.*two-hosts"):
        network.choose(["nowhere"])
    assert network.choose([]) == list(network.SCENARIOS.values())
    failed = strip.command("bench", "network", "nowhere")
    assert failed.returncode != 0 and "two-hosts" in failed.stderr
