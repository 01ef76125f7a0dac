"""Shrinking: what is needed stays, all else goes, and the budget is kept."""

from __future__ import annotations

import dataclasses
import random

import pytest

from collectives.chaos.faults import Fault
from collectives.chaos.mix import draw
from collectives.chaos.parts import places
from collectives.chaos.rates import Mix
from collectives.chaos.scenario import Scenario
from collectives.chaos.shrink import shrink
from collectives.errors import InvalidArgument


def timeline(count: int, **changes: object) -> Scenario:
    faults = [Fault("reset", at=float(at), a=(f"p{at % 3}",)) for at in range(count)]
    return Scenario("x", peers=places(5), duration=100, faults=tuple(faults), **changes)


@pytest.mark.parametrize("seed", range(8))
def test_only_the_faults_that_are_needed_together_are_left(seed: int):
    scenario = timeline(40)
    needed = set(random.Random(seed).sample(scenario.faults, 1 + seed % 4))
    found = shrink(scenario, lambda tried: needed <= set(tried.faults), 1000)
    assert found.finished
    assert set(found.scenario.faults) == needed, f"seed {seed}"
    assert found.scenario.duration < 60
    assert len(found.scenario.peers) < 5
    assert found.runs < 200


def test_no_scenario_is_run_twice_nor_more_than_the_budget_and_the_best_is_kept():
    scenario = timeline(64)
    needed = {scenario.faults[5], scenario.faults[50]}
    for budget in (0, 1, 7, 20):
        tried: list[Scenario] = []

        def fails(candidate: Scenario, tried: list[Scenario] = tried) -> bool:
            tried.append(candidate)
            return needed <= set(candidate.faults)

        found = shrink(scenario, fails, budget)
        assert found.runs == len(tried) == len(set(tried)) <= budget
        assert not found.finished
        failing = [one for one in tried if needed <= set(one.faults)]
        assert found.scenario == (failing[-1] if failing else scenario)


def test_it_does_the_same_again():
    scenario = draw(
        Scenario("x", peers=places(6), duration=60, mix=Mix.from_table({"kill": 20, "flip": 30})), 3
    )

    def fails(tried: Scenario) -> bool:
        return sum(fault.kind == "flip" for fault in tried.faults) >= 3

    assert shrink(scenario, fails, 500) == shrink(scenario, fails, 500)


def test_what_a_fault_needs_not_be_becomes_less():
    scenario = Scenario(
        "x",
        duration=30,
        faults=(
            Fault("stop", at=3, peer="p0", lasting=8),
            Fault("kill", at=5, peer="p1", restart=2),
            Fault("flood", at=6, peer="p2", count=100, lasting=1),
        ),
    )

    def fails(tried: Scenario) -> bool:
        kinds = {fault.kind: fault for fault in tried.faults}
        return set(kinds) == {"stop", "kill", "flood"} and kinds["stop"].lasting >= 1.5

    found = shrink(scenario, fails, 300)
    stop, kill, flood = found.scenario.faults
    assert 1.5 <= stop.lasting < 3
    assert kill.restart is None
    assert flood.count == 1
    assert found.scenario.duration < 15
    assert len(found.scenario.peers) == 3  # p2 is named


def test_what_fails_without_any_fault_is_found_at_once():
    found = shrink(timeline(100), lambda tried: True, 100)
    assert found.scenario.faults == ()
    assert found.finished


def test_a_join_stays_as_long_as_a_fault_names_who_joined():
    scenario = Scenario(
        "x",
        faults=(
            Fault("reset", at=1, a=("p0",)),
            Fault("join", at=2, peer="n"),
            Fault("kill", at=9, peer="n"),
        ),
    )
    found = shrink(scenario, lambda tried: any(f.kind == "kill" for f in tried.faults), 100)
    assert [fault.kind for fault in found.scenario.faults] == ["join", "kill"]


def test_what_is_random_must_be_drawn_first():
    scenario = dataclasses.replace(timeline(1), mix=Mix.from_table({"flip": 3}))
    with pytest.raises(InvalidArgument, match="draw it"):
        shrink(scenario, lambda tried: True, 10)
    with pytest.raises(InvalidArgument, match="budget"):
        shrink(timeline(1), lambda tried: True, -1)
