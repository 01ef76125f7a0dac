"""The network is cut between some of the peers while all others reach each other (G1, G3).

Each peer is reached through proxies of its own, one for every other peer, so that a pair can be cut
and no other; without being root."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import collectives
from crew import Member
from fabric import Fabric
from mortals import Mortals, go_on
from proxy import Proxy

DETECTION = 1.0
DECIDED = 5.0  # seconds from a cut until all have gone on


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as mortals:
        yield mortals


@contextlib.contextmanager
def apart(mortals: Mortals, size: int) -> Iterator[tuple[list[Member], Fabric]]:
    """A group whose pairs can be cut."""
    with Fabric(size) as fabric:
        members = mortals.band(size, fabric.options(detection=DETECTION))
        fabric.know(mortals.group_of(members))
        yield members, fabric
        left = [member for member in members if not member.process.gone()]
        mortals.disband(left)


def reduce_until(group: Any, size: int) -> tuple[str, str, tuple[str, ...], int]:
    """Reduce over and over until ``size`` take part, or it raises: which error, and the words."""
    done = 0
    while True:
        array = np.ones(40_000, np.float32)
        try:
            result = group.all_reduce(array)
        except collectives.CollectiveError as error:
            assert (array == 1).all(), "the input is not as before"
            return type(error).__name__, str(error), (), done
        assert (array == len(result.contributors)).all()
        done += 1
        if len(result.contributors) <= size:
            return "", "", result.contributors, done


@pytest.mark.parametrize(
    ("size", "cuts", "out"),
    [
        pytest.param(2, [(0, 1)], {1}, id="two peers"),
        pytest.param(4, [(1, 2)], {2}, id="one pair of four"),
        pytest.param(4, [(0, 1), (2, 3)], {1, 3}, id="two pairs of four"),
        pytest.param(4, [(0, 1), (0, 2), (0, 3)], {0}, id="the first from all"),
        pytest.param(5, [(0, 3), (0, 4), (1, 3), (1, 4), (2, 3), (2, 4)], {3, 4}, id="3 from 2"),
    ],
)
@pytest.mark.parametrize("one_way", [False, True], ids=["both ways", "one way"])
def test_a_largest_set_stays_that_can_talk(mortals, size, cuts, out, one_way):
    with apart(mortals, size) as (members, fabric):
        for member in members:
            member.start(go_on)
        assert [len(member.result().get()) for member in members] == [size] * size
        began = time.monotonic()
        for a, b in cuts:
            fabric.cut(a, b, one_way=one_way)
        for member in members:
            member.start(reduce_until, size - len(out))
        found = [member.result().get() for member in members]
        took = time.monotonic() - began
        print(f"{took:.2f} s", found)
        assert took < DECIDED
        for rank, (error, message, contributors, _) in enumerate(found):
            if rank in out:
                assert error == "Evicted", found
                assert "cannot reach each other, though both reach the coordinator" in message
                members[rank].kill()
            else:
                assert not error and contributors == found[min(set(range(size)) - out)][2], found
                assert len(contributors) == size - len(out)


def test_a_cut_that_is_shorter_than_detection_costs_nothing_but_time(mortals):
    with apart(mortals, 3) as (members, fabric):
        for _ in range(3):
            fabric.cut(0, 1)
            for member in members:
                member.start(go_on)
            assert not members[0]._pipe.poll(DETECTION / 3)
            fabric.mend()
            assert [len(member.result().get()) for member in members] == [3] * 3


# ---- from the coordinator -----------------------------------------------------------------------


def reduce_for(group: Any, seconds: float) -> int:
    began, done = time.monotonic(), 0
    over = np.zeros(1, np.uint8)
    while not over[0]:
        go_on(group)
        over[0] = time.monotonic() - began > seconds
        group.all_reduce(over, "max")
        done += 1
        time.sleep(0.01)  # of two cores there are others to use
    return done


def far(mortals: Mortals) -> Proxy:
    return Proxy(int(mortals.coordinator.address.rpartition(":")[2]))


@pytest.mark.parametrize("how", ["stalled", "reset"])
def test_operations_go_on_while_all_are_cut_from_the_coordinator_and_a_death_waits(mortals, how):
    with far(mortals) as proxy:
        members = mortals.band(4, addresses=[proxy.address] * 4)
        proxy.stall()
        if how == "reset":
            proxy.cut()
        for member in members:
            member.start(reduce_for, 1.0)
        assert len({member.result().get() for member in members}) == 1
        members.pop(2).kill()
        for member in members:
            member.start(go_on)
        assert not members[0]._pipe.poll(1.5)
        proxy.resume()
        began = time.monotonic()
        assert [len(member.result().get()) for member in members] == [3] * 3
        print(f"{time.monotonic() - began:.2f} s")
        assert time.monotonic() - began < DECIDED
        mortals.disband(members)


def test_one_that_is_cut_from_the_coordinator_takes_part_in_rounds_through_the_others(mortals):
    with far(mortals) as proxy:
        addresses = [mortals.coordinator.address] * 4
        addresses[3] = proxy.address
        members = mortals.band(4, addresses=addresses)
        proxy.stall()
        for member in members:
            if member is members[1]:
                member.signal(signal.SIGKILL)
            else:
                member.start(go_on)
        members.pop(1)
        began = time.monotonic()
        found = [member.result().get() for member in members]
        assert len(set(found)) == 1 and len(found[0]) == 3
        assert time.monotonic() - began < DECIDED
        proxy.resume()
        mortals.disband(members)
