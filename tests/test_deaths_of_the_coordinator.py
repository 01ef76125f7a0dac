"""The coordinator dies, or stands still, in the round about a member's death (G1, G3, G6)."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import collectives
from calls import LARGE, SMALL, Call
from crew import DEADLINE
from mortals import Case, Mortals, go_on
from nursery import Nursery
from rulers import STEPS, Ruler

BACK = 4.0  # seconds from the restart until operations have gone on


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery("mortals", "rulers") as nursery:
        yield nursery


def falls() -> list[Any]:
    """Every step with and without journal; the rest in turn, and all of it in full."""
    cases = []
    for turn, (step, journal) in enumerate(itertools.product(STEPS, (True, False))):
        for count, on_failure in itertools.product((SMALL, LARGE), ("retry", "raise")):
            few = (count == LARGE) == (turn % 2 == 0) and (on_failure == "raise") == (turn % 3 == 0)
            name = f"{step}, {'' if journal else 'no '}journal, {count}, {on_failure}"
            marks = () if few else pytest.mark.full
            cases.append(pytest.param(step, journal, count, on_failure, id=name, marks=marks))
    return cases


@pytest.mark.parametrize(("step", "journal", "count", "on_failure"), falls())
def test_no_one_is_lost_with_a_coordinator_that_dies_in_a_round(
    step, journal, count, on_failure, nursery, tmp_path
):
    how: dict[str, Any] = {"journal": str(tmp_path / "j")} if journal else {}
    died = ((2, "all_gather"),)
    with Ruler(nursery, step=step, **how) as ruler, Mortals(ruler) as mortals:

        def restart() -> float:
            ruler.fell()
            ruler.again()
            return time.time()

        case = Case(4, Call("all_reduce", count, on_failure=on_failure), died, patience=BACK)
        records = mortals.run(case, restart)
        print(f"{max(record.at for record in records):.3f}", records[0].outcome)
        assert ruler.status()["term"] == 2


# ---- it stands still --------------------------------------------------------------------------


def reduce_for(group: Any, seconds: float) -> int:
    """Operations for so long, on all ranks the same number; how many."""
    began, done = time.monotonic(), 0
    over = np.zeros(1, np.uint8)
    while not over[0]:
        go_on(group)
        over[0] = time.monotonic() - began > seconds
        group.all_reduce(over, "max")
        done += 1
        time.sleep(0.01)  # of two cores there are others to use
    return done


@pytest.mark.parametrize("seconds", [2.5, pytest.param(20.0, marks=pytest.mark.full)])
def test_operations_go_on_while_the_coordinator_stands_still(seconds, nursery, tmp_path):
    with Ruler(nursery, journal=str(tmp_path / "j")) as ruler, Mortals(ruler) as mortals:
        members = mortals.band(3)
        ruler.signal(signal.SIGSTOP)
        for member in members:
            member.start(reduce_for, seconds)
        done = {member.result(seconds + DEADLINE).get() for member in members}
        ruler.signal(signal.SIGCONT)
        assert len(done) == 1 and done.pop() > seconds
        for member in members:
            member.start(go_on)
        assert all(len(member.result().get()) == 3 for member in members), "nobody was evicted"
        mortals.disband(members)


@pytest.mark.parametrize("seconds", [2.5, pytest.param(20.0, marks=pytest.mark.full)])
def test_a_death_waits_for_a_coordinator_that_stands_still(seconds, nursery, tmp_path):
    with Ruler(nursery, journal=str(tmp_path / "j")) as ruler, Mortals(ruler) as mortals:
        members = mortals.band(3)
        ruler.signal(signal.SIGSTOP)
        members.pop(1).kill()
        for member in members:
            member.start(go_on)
        assert not members[0]._pipe.poll(seconds), "nobody else may declare it dead"
        ruler.signal(signal.SIGCONT)
        began = time.monotonic()
        assert all(len(member.result().get()) == 2 for member in members)
        assert time.monotonic() - began < BACK
        mortals.disband(members)


def give_up(group: Any, timeout: float) -> tuple[str, str, bool, float]:
    array = np.arange(1000.0)
    began = time.monotonic()
    try:
        group.all_reduce(array, timeout=timeout)
    except collectives.CollectiveError as error:
        assert array.tobytes() == np.arange(1000.0).tobytes(), "the input is not as before"
        took = time.monotonic() - began
        return type(error).__name__, str(error), error.outcome_unknown, took
    return "", "", False, 0.0


def test_who_waits_for_a_death_to_be_decided_waits_no_longer_than_it_said(nursery):
    with Ruler(nursery) as ruler, Mortals(ruler) as mortals:
        members = mortals.band(3, {"recovery": 1.0})
        ruler.signal(signal.SIGSTOP)
        members.pop(1).kill()
        for member in members:
            member.start(give_up, 1.0)
        for member in members:
            error, message, unknown, took = member.result().get()
            assert error == "Timeout" and unknown, message
            assert 1.9 < took < 3.0, took
            assert "the coordinator did not decide" in message
            member.kill()  # out of the run, and of no more use here


# ---- there are two ----------------------------------------------------------------------------


def join_the_wrong_one(_: Any, address: str) -> tuple[str, str]:
    try:
        collectives.join(address, name="astray", min_size=3, timeout=1.0).leave()
    except collectives.CollectiveError as error:
        return type(error).__name__, str(error)
    return "", ""


def test_a_second_coordinator_elsewhere_gets_no_member_and_its_newcomers_an_error(nursery):
    with Ruler(nursery) as ruler, Ruler(nursery) as other:
        both = f"{ruler.address},{other.address}"
        ruler.address, here = both, ruler.address
        with Mortals(ruler) as mortals:
            members = mortals.band(3)
            (astray,) = mortals.take(1)
            astray.start(join_the_wrong_one, other.address)
            for member in members:
                member.start(reduce_for, 1.5)
            error, message = astray.result().get()
            assert error == "Timeout" and "2 more peers" in message and other.address in message
            assert len({member.result().get() for member in members}) == 1
            ruler.address = here
            assert [len(group["peers"]) for group in ruler.status()["groups"]] == [3]
            assert all(not group["peers"] for group in other.status()["groups"])
            mortals.disband(members)
