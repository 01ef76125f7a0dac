"""``Options.tune``: links are measured when a view is formed, and all members get one table."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collectives
from collectives import incarnation, tuning
from collectives.chaos import namespaces
from collectives.chaos.profiles import Direction
from collectives.chaos.wan import Wan
from collectives.issue import STATE_TAG
from collectives.membership.view import Peer, View
from collectives.topology import Table
from crew import DEADLINE, Crew, Member
from far_hosts import needs_root
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


# ---- slow links ----------------------------------------------------------------------------------


def tuned_far(
    _: Any, address: str, group: str, me: str, size: int, namespace: str, host: str
) -> tuple[list[int], list[str], Any, tuple]:
    """Join from a host of the emulator; what was sent, said and found meanwhile."""
    namespaces.enter(namespace)
    incarnation.process_identity = lambda: ""  # the kernel knows of the processes of all hosts
    sent: list[int] = []
    said: list[str] = []
    found: list[Any] = []
    exchange, links_of = tuning._exchange, tuning.links_of

    def exchanging(issuer, partner, source, *rest):
        sent.append(source.size)
        return exchange(issuer, partner, source, *rest)

    def linking(*arguments):
        found.append(links_of(*arguments))
        return found[-1]

    tuning._exchange, tuning.links_of = exchanging, linking
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    tuning.logger.addHandler(handler)
    options = collectives.Options(bind=(host,), tune=True)
    with collectives.join(
        address, group=group, name=me, min_size=size, timeout=DEADLINE, options=options
    ) as joined:
        joined.barrier(timeout=DEADLINE)
        return sent, said, found[0] if found else None, joined.view.table


@needs_root
@pytest.mark.parametrize(
    ("direction", "sizes", "known"),
    [
        (Direction(rate=100e6, delay=0.15, queue=1 << 20), [8], 0),
        (Direction(rate=1e6, delay=1e-3, queue=1 << 20), [8, 16 << 10, 8, 8, 8, 8], 1),
        (Direction(rate=1e9, delay=1e-4, queue=1 << 20), list(tuning._PASSES), 1),
    ],
    ids=["far", "narrow", "near"],
)
def test_slow_links_are_measured_as_far_as_there_is_time(direction, sizes, known):
    with contextlib.ExitStack() as stack:
        wan = stack.enter_context(Wan(seed=1))
        for name in "abz":
            wan.host(name)
        for way in itertools.permutations("ab", 2):
            wan.shape(*way, direction)
        coordinator = wan.namespace("z").run(
            lambda: stack.enter_context(collectives.Coordinator(f"{wan.address('z')}:0"))
        )
        members = [Member(index) for index in range(2)]
        for member in members:
            stack.callback(member.end)
            stack.callback(member.kill)
        for member, host in zip(members, "ab", strict=True):
            where = wan.namespace(host).path, wan.address(host)
            member.start(tuned_far, coordinator.address, "far", f"on {host}", 2, *where)
        found = [member.result().get() for member in members]
    print(found)
    assert found[0][3] == found[1][3] != (), "there is a table in any case"
    sent, said, _, _ = found[0]
    assert sent == found[1][0]
    assert sent and sent == sizes[: len(sent)], "on a busy machine there is time for less"
    if len(sent) < len(tuning._PASSES):
        (line,) = said
        known = known if 16 << 10 in sent else 0
        assert f"of 1 of 1 sets of pairs the latency is known, of {known} the bandwidth" in line
    else:
        assert not said
    ((latencies, rates),) = [links for _, _, links, _ in found if links is not None]
    assert latencies[0][1] >= direction.delay
    if len(sent) == len(sizes):
        assert (rates[0][1] > 0) == known
        assert rates[0][1] < 2 * direction.rate / 8


def test_what_a_long_message_should_take_follows_from_shorter_ones():
    def of(*slowest: float) -> list[float]:
        return [tuning.expected(np.array(slowest), nbytes) for nbytes in (8, 16 << 10, 256 << 10)]

    assert of(0, 0, 0) == [0, 0, math.inf], "the first is always sent"
    assert of(0.3, 0, 0) == [0.3, 0.3, math.inf]
    assert of(0.001, 0.1, 0) == pytest.approx([0.001, 0.1, 0.1 + 0.099 * 15], rel=0.01)
    assert of(0.2, 0.1, 0) == [0.2, 0.1, 0.1], "who came late is no rate"
    assert of(0.001, 0.1, 0.2) == [0.001, 0.1, 0.2]


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


def test_the_rate_is_that_of_the_longest_that_was_sent():
    never, short = np.full((2, 1, 2), np.nan), np.full((2, 1, 2), 1e-3)
    short[1] = np.nan
    middle = short + (16384 - 8) / 1e6
    latencies, rates = tuning.links_of({8: short, 16 << 10: middle, 256 << 10: never}, 2)
    assert latencies == [[0, pytest.approx(1e-3)], [pytest.approx(1e-3), 0]]
    assert rates == [[0, pytest.approx(1e6)], [pytest.approx(1e6), 0]]
    assert tuning.links_of({8: short, 16 << 10: never, 256 << 10: never}, 2)[1] == [[0.0] * 2] * 2
    assert tuning.links_of({8: never, 16 << 10: never, 256 << 10: never}, 2)[0] == [[0.0] * 2] * 2


def test_a_view_is_untuned_while_all_want_a_table_and_it_has_none():
    def view(*tunes: bool, table=()) -> View:
        peers = tuple(Peer(uuid.UUID(int=i), str(i), (), tunes=t) for i, t in enumerate(tunes))
        return View("g", 1, 1, 1, peers, b"k" * 32, table=table)

    assert view(True, True).untuned
    assert not view(True, False).untuned
    assert not view(True, True, table=(RING,)).untuned
