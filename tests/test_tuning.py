"""``Options.tune``: links are measured when a view is formed, and all members get one table."""

from __future__ import annotations

import signal
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

import collectives
from collectives import tuning
from collectives.issue import STATE_TAG
from collectives.membership.view import Peer, View
from collectives.topology import Table
from crew import DEADLINE, Crew
from test_coordinator_restart import eventually, grow
from test_rejoin import wait_until_stopped
from test_view_places import RING, kill, peers_of

TUNED = {"tune": True}


def grown(crew: Crew, size: int) -> None:
    """Have so many members, by rank, of whom all but one may go."""
    for present in range(len(crew.members), size):
        crew.add()
        eventually(lambda n=present: peers_of(crew.coordinator) > n)
        for member in crew.members[:present]:
            member.start(grow, present + 1)
        for member in (crew.members[present], *crew.members[:present]):
            member.result().get()


# ---- in the processes ----------------------------------------------------------------------------


def stand(group: collectives.Group) -> tuple:
    """The view's number and its table, after a checked operation."""
    for count in (100, 300_000):
        array = np.ones(count)
        result = group.all_reduce(array, timeout=DEADLINE)
        assert (array == len(result.contributors)).all()
    return group.view.number, group.view.table


def sync(group: collectives.Group, with_state: bool = False) -> tuple:
    state = collectives.SharedState({"w": np.full(10, float(group.rank))}) if with_state else None
    group.sync(state, timeout=DEADLINE)
    return stand(group)


def sync_and_die(group: collectives.Group, phase: str) -> None:
    group._fault_at(phase, 0, tag=STATE_TAG)
    group.sync(timeout=DEADLINE)


def sync_measuring(group: collectives.Group, folder: str) -> None:
    """Write down that it has begun to measure."""
    measured = tuning._measured

    def measure(*arguments):
        Path(folder, "begun").touch()
        return measured(*arguments)

    tuning._measured = measure
    group.sync(timeout=DEADLINE)


def sync_and_stop(group: collectives.Group) -> None:
    group._fault_at("issued", 0, tag=STATE_TAG, action="stop")
    group.sync(timeout=DEADLINE)


# ---- the tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
def test_all_members_get_one_table_before_anything_runs(size):
    with Crew(size, TUNED) as crew:
        ((_, table),) = set(crew.get(stand))
    assert {"all_reduce", "broadcast", "all_gather"} <= {row.kind for row in table}
    rows = tuple((row.kind, row.bytes, row.algorithm) for row in table)
    again = Table.from_json(Table(table).to_json())
    assert tuple((row.kind, row.bytes, row.algorithm) for row in again.rows) == rows, "pinnable"


@pytest.mark.parametrize("with_state", [False, True])
def test_a_newcomer_and_the_members_measure_together(with_state):
    crew = Crew(1, TUNED, join={"min_size": 1})
    with crew:
        grown(crew, 2)
        ((first, _),) = set(crew.get(stand))
        newcomer = crew.add()
        eventually(lambda: peers_of(crew.coordinator) == 3)
        for member in crew.members[:2]:
            member.start(sync, with_state)
        assert newcomer.result().get() == 2
        newcomer.start(sync if with_state else stand, *([True] if with_state else []))
        ((second, table),) = {member.result().get() for member in crew.members}
        assert second > first
        assert table
        assert set(crew.get(sync, with_state)) == {(second, table)}, "it stays with the view"
        kill(crew, 0)
        ((third, after),) = set(crew.get(stand))
        assert third > second
        assert after == table, "and with those who are left"
        assert {found[1] for found in crew.get(sync)} == {table}


def test_one_that_does_not_want_it_is_enough():
    with Crew(2, [TUNED, {}]) as crew:
        assert {table for _, table in crew.get(stand)} == {()}


def test_a_table_of_the_coordinator_is_not_replaced():
    crew = Crew(2, TUNED)
    crew.coordinator = collectives.Coordinator("127.0.0.1:0", plans=[RING])
    with crew:
        assert {table for _, table in crew.get(stand)} == {(RING,)}


@pytest.mark.parametrize("phase", ["issued", "tokens"])
def test_a_death_among_the_measurements_costs_only_time(phase):
    crew = Crew(1, TUNED, join={"min_size": 1})
    with crew:
        grown(crew, 3)
        newcomer = crew.add()
        eventually(lambda: peers_of(crew.coordinator) == 4)
        for member in crew.members[:2]:
            member.start(sync)
        crew.members[2].start(sync_and_die, phase)
        assert crew.members[2].result().error == "Died"
        newcomer.result().get()
        newcomer.start(stand)
        alive = [crew.members[0], crew.members[1], newcomer]
        ((_, table),) = {member.result().get() for member in alive}
        assert table
        crew.members.pop(2).end()
        assert len(set(crew.get(sync))) == 1


def test_who_is_interrupted_among_the_measurements_is_out_and_the_others_go_on(tmp_path):
    crew = Crew(1, TUNED, join={"min_size": 1})
    with crew:
        grown(crew, 3)
        newcomer = crew.add()
        eventually(lambda: peers_of(crew.coordinator) == 4)
        first, interrupted, stopped = crew.members[:3]
        first.start(sync)
        interrupted.start(sync_measuring, str(tmp_path))
        stopped.start(sync_and_stop)
        eventually((tmp_path / "begun").exists)
        wait_until_stopped(stopped)
        interrupted.signal(signal.SIGINT)
        assert interrupted.result().error == "KeyboardInterrupt"
        stopped.signal(signal.SIGKILL)
        newcomer.result().get()
        newcomer.start(stand)
        ((_, table),) = {member.result().get() for member in (first, newcomer)}
        assert table
        stopped.end()
        crew.members[1:3] = []
        interrupted.end()


def test_measuring_takes_a_moment():
    began = time.monotonic()
    with Crew(4, TUNED) as crew:
        crew.get(stand)
    assert time.monotonic() - began < DEADLINE / 2


def test_what_both_of_a_pair_have_seen_is_latency_and_rate_whoever_called_first():
    random = np.random.default_rng(5)
    size, latency, rate = 5, 1e-3, 1e9
    shape = 3, size
    seen = {}
    for nbytes, repeats in ((8, 5), (256 << 10, 2)):
        called = random.uniform(0, 5e-3, (repeats, *shape))
        seen[nbytes] = np.zeros((repeats, *shape))
        for turn in range(3):
            for rank in range(size):
                partner = rank ^ (1 << turn)
                if partner < size:
                    sent = called[:, turn, partner] + latency + nbytes / rate
                    seen[nbytes][:, turn, rank] = sent - called[:, turn, rank]
    latencies, rates = tuning.links_of(seen, size)
    pairs = {(a, a ^ s) for a in range(size) for s in (1, 2, 4) if a ^ s < size}
    for a in range(size):
        for b in range(size):
            if (a, b) in pairs:
                assert latencies[a][b] == pytest.approx(latency, rel=1e-3)
                assert rates[a][b] == pytest.approx(rate, rel=1e-3)
            else:
                assert latencies[a][b] == rates[a][b] == 0.0, "was not measured"


def test_what_is_no_time_at_all_was_not_measured():
    seen = {8: np.zeros((5, 1, 2)), 256 << 10: np.zeros((2, 1, 2))}
    assert tuning.links_of(seen, 2) == ([[0.0] * 2] * 2, [[0.0] * 2] * 2)


def test_a_view_is_untuned_while_all_want_a_table_and_it_has_none():
    def view(*tunes: bool, table=()) -> View:
        peers = tuple(Peer(uuid.UUID(int=i), str(i), (), tunes=t) for i, t in enumerate(tunes))
        return View("g", 1, 1, 1, peers, b"k" * 32, table=table)

    assert view(True, True).untuned
    assert not view(True, False).untuned
    assert not view(True, True, table=(RING,)).untuned
