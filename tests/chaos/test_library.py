"""The scenarios of the package: they can be read, say what they are, and are short."""

from __future__ import annotations

import pytest

from collectives.chaos import library
from collectives.chaos.kinds import KINDS, OPERATION_PHASES
from collectives.chaos.mix import draw
from collectives.chaos.parts import WORKLOADS
from collectives.chaos.scenario import Scenario
from collectives.errors import InvalidArgument


@pytest.mark.parametrize("name", library.names())
def test_a_scenario_of_the_library_is_what_it_says(name: str):
    scenario = library.load(name)
    assert scenario.name == name
    assert scenario.about.endswith(".") and len(scenario.about) > 40
    assert scenario.duration <= 30
    assert len(scenario.peers) <= 5
    for seed in range(5):
        drawn = draw(scenario, seed)
        assert drawn.concrete
        assert drawn.faults, f"seed {seed} draws nothing"
        assert Scenario.from_toml(drawn.to_toml()) == drawn
        # What a fault does is seen only if the run goes on after it.
        ends = [fault.time + (fault.lasting or fault.restart or 0) for fault in drawn.faults]
        assert max(ends) <= scenario.duration - 3


def test_the_library_has_every_kind_of_fault_and_phase_and_most_workloads():
    scenarios = [library.load(name) for name in library.names()]
    assert len(scenarios) >= 18
    kinds = {fault.kind for scenario in scenarios for fault in scenario.faults}
    mixed = {rate.kind for scenario in scenarios if scenario.mix for rate in scenario.mix.rates}
    assert kinds | mixed == set(KINDS)
    everything = library.load("everything").mix
    assert {rate.kind for rate in everything.rates} == set(KINDS)
    phases = {fault.moment.phase for one in scenarios for fault in one.faults if fault.moment}
    assert phases >= set(OPERATION_PHASES)
    assert {scenario.workload.kind for scenario in scenarios} == set(WORKLOADS) - {"script"}


def test_a_name_that_is_not_there_is_an_error_that_names_the_nearest():
    with pytest.raises(InvalidArgument, match="perhaps 'split-site'"):
        library.load("splitsite")
