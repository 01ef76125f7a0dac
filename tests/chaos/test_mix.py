"""Random timelines: the same for a seed, and never more than the run can bear."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from collectives.chaos.faults import Fault
from collectives.chaos.kinds import KINDS, OPERATION_PHASES, ROUND_PHASES
from collectives.chaos.mix import draw
from collectives.chaos.parts import places
from collectives.chaos.rates import Mix, Rate
from collectives.chaos.scenario import Scenario
from collectives.errors import InvalidArgument

EVERYTHING = dict.fromkeys(KINDS, 12.0)


def mixed(seed: int, table: dict[str, object] | None = None, **changes: object) -> Scenario:
    """A scenario with all kinds of faults at random, drawn."""
    table = {**EVERYTHING, "spare": 2, "most": 8} if table is None else table
    scenario = Scenario("any", peers=places(6), duration=60, mix=Mix.from_table(table))
    return draw(dataclasses.replace(scenario, **changes), seed)


def of(scenario: Scenario, kind: str) -> list[Fault]:
    return [fault for fault in scenario.faults if fault.kind == kind]


def spans_away(scenario: Scenario, returning: float) -> list[tuple[str, float, float]]:
    """Who is away from when to when; told from the timeline alone, not by the planner's means."""
    spans = []
    for fault in scenario.faults:
        if fault.kind in ("kill", "leave") and fault.restart is None:
            continue  # goes for good: no longer anybody who could be away
        end = fault.time + (fault.lasting or fault.restart or 0) + returning
        if fault.kind in ("kill", "stop", "leave", "isolate", "exhaust"):
            spans.append((fault.peer, fault.time, end))
        elif fault.kind in ("partition", "black_hole"):
            spans += [(name, fault.time, end) for name in fault.a]
        elif fault.kind == "cut_off":
            spans += [(name, fault.time, end) for name in fault.peers]
    return spans


@pytest.mark.parametrize("seed", range(8))
def test_enough_peers_stay_and_all_is_over_before_the_end(seed: int):
    spare = 1 + seed % 2
    drawn = mixed(seed, {**EVERYTHING, "spare": spare, "most": 8, "settle": 5.0, "returning": 1.5})
    came = {place.name: (0.0, 99.0) for place in drawn.peers}
    for fault in of(drawn, "join"):
        came[fault.peer] = (fault.at, fault.at + (fault.lasting or 99.0))
    for fault in drawn.faults:
        if fault.kind in ("kill", "leave") and fault.restart is None:
            came[fault.peer] = (came[fault.peer][0], fault.time)
        assert fault.time + (fault.lasting or fault.restart or 0) <= 55, fault
        for name in (fault.peer, *(fault.peers or ()), *(fault.a or ()), *(fault.b or ())):
            if name not in (None, "*") and fault.kind != "join":
                assert came[name][0] <= fault.time <= came[name][1], fault
    spans = spans_away(drawn, 1.5)
    assert spans
    for _, instant, _ in spans:
        away = [name for name, begin, end in spans if begin <= instant < end]
        there = [name for name, (begin, end) in came.items() if begin <= instant < end]
        assert len(away) == len(set(away)) <= spare, (instant, away)
        assert len(set(there) - set(away)) >= 2
        assert len(there) <= 8
    assert Scenario.from_toml(drawn.to_toml()) == drawn
    assert drawn.concrete and drawn.seed == seed


def most_away(scenario: Scenario, instants: list[float]) -> int:
    spans = spans_away(scenario, returning=2.0)
    return max(sum(begin <= at < end for _, begin, end in spans) for at in instants)


def test_min_size_counts_even_where_more_could_be_spared():
    table = {"kill": 60, "stop": 60, "spare": 3}
    for min_size, away in ((1, 2), (3, 1)):
        drawn = mixed(2, table, peers=places(4), min_size=min_size)
        assert most_away(drawn, [fault.time for fault in drawn.faults]) == away


def test_who_is_left_after_a_cut_is_the_majority():
    drawn = mixed(2, {"partition": 30, "kill": 30, "spare": 2}, peers=places(4))
    cuts = of(drawn, "partition")
    assert cuts
    for cut in cuts:
        end = cut.at + cut.lasting
        inside = [cut.at, *(fault.time for fault in drawn.faults if cut.at <= fault.time < end)]
        assert most_away(drawn, inside) == 1
    assert most_away(drawn, [fault.time for fault in drawn.faults]) == 2


def test_every_kind_is_drawn_and_moments_of_all_phases():
    kinds, phases = Counter(), Counter()
    for seed in range(3):
        kinds.update(fault.kind for fault in mixed(seed).faults)
        deaths = mixed(seed, {"kill": 60, "moments": 0.9, "spare": 3})
        phases.update(fault.moment.phase for fault in deaths.faults if fault.moment)
    assert set(kinds) == set(KINDS)
    assert set(phases) == {*OPERATION_PHASES, *ROUND_PHASES}


def test_a_seed_gives_the_same_timeline_byte_for_byte_and_another_one_another():
    one, again, other = mixed(3), mixed(3), mixed(4)
    assert one.to_toml() == again.to_toml()
    assert one.faults != other.faults
    # It must not change from one version of Python to the next: reports are replayed.
    few = mixed(1, {"reset": 5.0, "kill": 5.0}, duration=30.0)
    told = [(fault.kind, fault.time, *fault.names, fault.restart) for fault in few.faults]
    assert told == [
        ("reset", 6.062, "p1", "p4", None),
        ("reset", 11.282, "p2", "p0", None),
        ("kill", 13.876, "p4", 1.9931),
        ("kill", 18.183, "p5", 1.2029),
        ("kill", 21.913, "p4", 0.5142),
        ("kill", 25.144, "p3", 0.7788),
    ]


def test_a_further_kind_of_fault_moves_none_of_the_others():
    calm = dict.fromkeys(("reset", "flip", "stranger"), 6.0)
    one, two = mixed(5, calm), mixed(5, {**calm, "coordinator_stop": 6.0, "kill": 6.0})
    assert of(two, "coordinator_stop") and of(two, "kill")
    for kind in calm:
        assert of(one, kind) == of(two, kind) != []


def test_settings_bound_what_is_drawn():
    drawn = mixed(
        1,
        {
            "stop": {"rate": 60, "for": [0.1, 0.2], "peers": ["p1", "p4"]},
            "partition": {"rate": 20, "a": ["p0"], "b": ["p5"], "way": "back"},
            "link": {"rate": 30, "delay": [0.5, 0.6]},
            "pace": 10,
            "moments": 1,
        },
    )
    stops = of(drawn, "stop")
    assert stops and all(0.1 <= stop.lasting <= 0.2 for stop in stops)
    assert {stop.peer for stop in stops} == {"p1", "p4"}
    assert {(cut.a, cut.b, cut.way) for cut in of(drawn, "partition")} == {
        (("p0",), ("p5",), "back")
    }
    assert all(0.5 <= link.delay <= 0.6 and link.profile is None for link in of(drawn, "link"))
    # At 10 operations a second, in a minute, and not before the first.
    assert all(10 <= stop.moment.operation <= 560 and stop.time == 0 for stop in stops)


def test_random_targets_of_a_timeline_are_drawn_and_joins_get_names():
    scenario = Scenario(
        "x",
        peers=places(3),
        faults=(
            Fault("kill", at=2, peer="random", restart=1),
            Fault("stop", at=2, peer="p1", lasting=1),
            Fault("reset", at=5, a=("random",), b=("random",)),
            Fault("join", at=3, count=2),
            Fault("join", at=4, peer="p3"),
        ),
    )
    for seed in range(10):
        drawn = draw(scenario, seed)
        assert drawn.concrete
        assert of(drawn, "kill")[0].peer in ("p0", "p2")  # p1 is stopped
        [reset] = of(drawn, "reset")
        assert reset.a != reset.b
        assert {fault.peer for fault in of(drawn, "join")} == {"p3", "p4", "p5"}
        assert draw(drawn, seed) == drawn
    assert len({draw(scenario, seed) for seed in range(10)}) > 2


def test_a_random_target_when_nobody_is_left_is_an_error():
    faults = (Fault("kill", at=1, peer="p0"), Fault("kill", at=2, peer="random"))
    with pytest.raises(InvalidArgument, match="at 2 s nobody is there"):
        draw(Scenario("x", peers=places(1), faults=faults), 0)


def test_a_rate_is_about_kept_where_all_fits():
    drawn = draw(Scenario("x", duration=605, mix=Mix((Rate("flip", 60.0),))), 1)
    assert 500 < len(drawn.faults) < 700
