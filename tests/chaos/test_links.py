"""``collectives chaos links``: what the profiles deliver."""

from __future__ import annotations

import json

import pytest

import strip
from collectives.chaos.profiles import PROFILES


def test_the_profiles_are_links_that_there_are() -> None:
    assert set(PROFILES) == {
        "unshaped",
        "lan",
        "gigabit",
        "wifi",
        "dsl",
        "transatlantic",
        "lossy",
        "5g",
    }
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert profile.model.endswith(".")
        for direction in (profile.up, profile.down):
            assert direction.queue >= 4096
            assert 0 <= direction.jitter <= 2 * direction.delay


def test_links_measures_rates_and_pings_beside_the_nominal_values() -> None:
    ran = strip.command("chaos", "links", "dsl", "--time", "0.2", "--json")
    assert ran.returncode == 0, ran.stderr
    [found] = json.loads(ran.stdout)
    dsl = PROFILES["dsl"]
    assert found["profile"]["up"]["rate"] == dsl.up.rate
    assert 0.4 * dsl.up.rate < found["up"] < 1.15 * dsl.up.rate
    assert 0.4 * dsl.down.rate < found["down"] < 1.15 * dsl.down.rate
    assert dsl.round_trip <= found["ping_median"] <= found["ping_p99"]
    assert found["ping_median"] < 2 * dsl.round_trip


def test_links_prints_a_table() -> None:
    ran = strip.command("chaos", "links", "lan", "--time", "0.05")
    assert ran.returncode == 0, ran.stderr
    assert "lan" in ran.stdout
    assert "/ 1000" in ran.stdout


@pytest.mark.parametrize("name", ["nowhere"])
def test_an_unknown_profile_is_refused_with_those_there_are(name: str) -> None:
    ran = strip.command("chaos", "links", name)
    assert ran.returncode == 2
    assert "nowhere" in ran.stderr
    assert "transatlantic" in ran.stderr
