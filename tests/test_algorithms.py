"""Which algorithm carries out an operation: what its call asks for, what the view's table says."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import collectives
import levelled
from collectives._native import lib
from collectives._native.engine import (
    ALGORITHMS,
    KINDS,
    LEVEL_PLANS,
    Engine,
    EngineGroup,
    EnginePeer,
    Topology,
)
from collectives.errors import InvalidArgument, MismatchError, UnsupportedError
from collectives.options import Options
from crew import DEADLINE, Crew

SMALL = 64 << 10  # bytes


@pytest.fixture(scope="module")
def three() -> Iterator[Crew]:
    choices = (
        (lib.COLL_ALL_REDUCE, 6_000, ALGORITHMS["direct"]),
        (lib.COLL_ALL_REDUCE, SMALL, ALGORITHMS["whole"]),
        (lib.COLL_BROADCAST, 2**63, ALGORITHMS["star"]),
    )
    options = {"transport": "tcp", "bind": ("127.0.0.1",)}
    with Crew(3, options, {"choices": choices}, joiner="levelled:join") as crew:
        yield crew


def traffic(group: collectives.Group, kind: str, count: int, algorithm: str | None) -> int:
    """Bytes that this rank has sent for one operation."""
    result = getattr(group, kind)(np.ones(count, np.float32), algorithm=algorithm, timeout=DEADLINE)
    assert (result.value == (3 if kind == "all_reduce" else 1)).all()
    return result.wire_bytes


def rounded(crew: Crew, kind: str, count: int, algorithm: str | None) -> list[float]:
    """The traffic of each rank, in buffers of that size; headers are less than a tenth."""
    found = crew.get(traffic, kind, count, algorithm)
    return [round(sent / (4 * count) - 0.03, 1) for sent in found]


def test_the_first_row_of_the_table_that_fits_decides(three: Crew):
    # By the engine's default this one would be whole.
    assert all(sent < 1.7 for sent in rounded(three, "all_reduce", 1_500, None))
    assert rounded(three, "all_reduce", 16_000, None) == [2.0] * 3  # whole
    assert rounded(three, "all_reduce", 17_000, None) == [1.3] * 3  # no row: the ring
    assert rounded(three, "broadcast", 100_000, None) == [2.0, 0.0, 0.0]


def test_a_call_overrides_the_table(three: Crew):
    assert rounded(three, "all_reduce", 16_000, "ring") == [1.3] * 3
    assert rounded(three, "broadcast", 100_000, "chain") == [1.0, 1.0, 0.0]


def ask(group: collectives.Group, kind: str, algorithms: list[str | None]) -> str:
    try:
        getattr(group, kind)(np.ones(6), algorithm=algorithms[group.rank], timeout=DEADLINE)
    except MismatchError as error:
        group.sync(timeout=DEADLINE)
        return str(error)
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather"])
@pytest.mark.parametrize("odd", [0, 2])
def test_ranks_that_ask_for_different_algorithms_are_told(kind: str, odd: int):
    for other in ("direct", None):
        asked = [other if rank == odd else "ring" for rank in range(3)]
        with Crew(3) as crew:
            for said in crew.get(ask, kind, asked):
                assert "algorithm=ring" in said and f"(rank {odd}) called" in said
                assert ("algorithm=direct" in said) == (other == "direct")


def refused(group: collectives.Group, kind: str, count: int, **how: Any) -> str:
    """The mismatch that the call ends in, and whether the group is whole again after a sync."""
    array = np.random.default_rng(group.rank).standard_normal(count)
    before = array.tobytes()
    with pytest.raises(MismatchError) as caught:
        getattr(group, kind)(array, timeout=DEADLINE, **how)
    assert array.tobytes() == before
    return str(caught.value)


def differ(group: collectives.Group, kind: str, count: int, odd: int, how: str) -> str:
    """One rank has another table than the others."""
    if group.rank == odd:
        group._native.choose([(KINDS[kind], 24 * count, ALGORITHMS[how])])
    said = refused(group, kind, count)
    group.sync(timeout=DEADLINE)  # the view that it commits has the table of all
    result = getattr(group, kind)(np.ones(4), timeout=DEADLINE)
    assert (result.value == (3 if kind == "all_reduce" else 1)).all()
    return said


@pytest.mark.parametrize(
    ("kind", "count", "odd", "how", "usual"),
    [
        ("all_reduce", 6, 0, "ring", "direct"),
        ("all_reduce", 2_000, 2, "doubling", "whole"),
        ("all_reduce", 100_000, 1, "direct", "ring"),
        ("all_gather", 100_000, 2, "bidirectional_ring", "ring"),
        ("broadcast", 100_000, 0, "chain", "star"),
        ("broadcast", 100_000, 2, "hierarchical", "star"),
    ],
)
def test_ranks_whose_tables_differ_are_told_who_would_run_what(
    three: Crew, kind: str, count: int, odd: int, how: str, usual: str
):
    (said,) = set(three.get(differ, kind, count, odd, how))
    assert said.startswith(f"ranks would carry out {kind}(dtype=f64, "), said
    assert f"(rank {odd}) by {how}" in said and f") by {usual}" in said
    assert "table" in said and "call sync()" in said


def lie_elsewhere(group: collectives.Group, odd: int, *wrong: Any) -> str:
    """One rank takes them to be in other groups, or to speak to each other in another way."""
    right = ((0, 1, 1),)
    levelled.with_topology(*wrong) if group.rank == odd else levelled.with_topology(right)
    refused(group, "all_reduce", 3 + (group.rank == odd))  # so that a view is committed
    group.sync(timeout=DEADLINE)
    assert (group.all_reduce(np.ones(50_000), algorithm="ring").value == 3).all()
    said = refused(group, "all_reduce", 50_000)
    levelled.with_topology(right)
    group.sync(timeout=DEADLINE)
    assert (group.all_reduce(np.ones(50_000), timeout=DEADLINE).value == 3).all()
    return said


def test_ranks_whose_levels_differ_are_told_too():
    options = {"transport": "tcp", "bind": ("127.0.0.1",)}
    other_plan = ((LEVEL_PLANS["auto"], 0), (LEVEL_PLANS["ring"], 0))
    with Crew(3, options, joiner="levelled:join") as crew:
        for wrong in ((((0, 0, 1),),), (((0, 1, 1),), (), other_plan)):
            (said,) = set(crew.get(lie_elsewhere, 1, *wrong))
            found = dict(re.findall(r"\(rank (\d)\) by hierarchical over levels #(\w{4})", said))
            assert "1" in found and len(set(found.values())) == 2, said


@pytest.fixture(scope="module")
def alone() -> Iterator[collectives.Group]:
    with (
        collectives.Coordinator("127.0.0.1:0") as coordinator,
        collectives.join(coordinator.address, timeout=DEADLINE) as group,
    ):
        yield group


@pytest.mark.parametrize(
    ("kind", "count", "algorithm", "error", "says"),
    [
        ("all_reduce", 4, "rings", InvalidArgument, "'rings'; known are ring, direct, whole"),
        ("all_reduce", 4, "chain", UnsupportedError, "'chain' does no all_reduce; choose.* ring"),
        ("broadcast", 4, "ring", UnsupportedError, "'ring' does no broadcast; choose.* chain"),
        ("all_to_all", 4, "ring", UnsupportedError, "choose from: direct"),
        ("scatter", 4, "ring", UnsupportedError, "choose from: star"),
        ("all_reduce", SMALL, "whole", UnsupportedError, "up to 65536 bytes, and here are 524288"),
        ("reduce", SMALL, "whole", UnsupportedError, "up to 65536 .*choose from: direct"),
    ],
)
def test_what_an_algorithm_does_not_do_is_refused_by_name(
    alone: collectives.Group,
    kind: str,
    count: int,
    algorithm: str,
    error: type[Exception],
    says: str,
):
    with pytest.raises(error, match=says):
        getattr(alone, kind)(np.ones(count), algorithm=algorithm)
    with pytest.raises(error, match=says):
        getattr(alone, f"{kind}_async")(np.ones(count), algorithm=algorithm)
    alone.all_reduce(np.ones(4), algorithm="ring")  # and nothing was issued


# ---- topologies ----------------------------------------------------------------------------------


@pytest.fixture
def prepared() -> Iterator[EngineGroup]:
    """A view of four that waits for its commit; three of them are nowhere."""
    me = uuid.uuid4()
    engine = Engine(Options(bind=("127.0.0.1",)), me)
    group = EngineGroup(engine, 1, "g")
    peers = tuple(EnginePeer(uuid.uuid4() if rank else me, f"p{rank}", ()) for rank in range(4))
    group.prepare(term=1, number=1, first_operation=1, rank=0, peers=peers, key=bytes(32))
    yield group
    group.close()
    engine.close()


@pytest.mark.parametrize(
    ("places", "choices", "says"),
    [
        (((0, 0, 1),), (), "places all 4 ranks"),
        (((0, 0, 1, 1), (0, 1, 1, 1)), (), "each within the next"),
        (((7, 5, 7, 5), (1, 1, 2, 1)), (), "each within the next"),
        (((0, 1, 2, 3),) * 9, (), "at most 8 levels"),
        ((), ((lib.COLL_ALL_REDUCE, 1, ALGORITHMS["ring"]),) * 1025, "at most 1024 choices"),
        ((), ((lib.COLL_ALL_REDUCE, 1, ALGORITHMS["chain"]),), "'chain' does no all_reduce"),
        ((), ((lib.COLL_ALL_REDUCE, 1, 99),), "99 is no algorithm"),
        ((), ((lib.COLL_BARRIER, 1, 0),), "one way to do a barrier"),
        ((), ((lib.COLL_ALL_REDUCE, SMALL + 1, ALGORITHMS["whole"]),), "up to 65536 bytes"),
    ],
)
def test_a_topology_that_makes_no_sense_is_refused_and_changes_nothing(
    prepared: EngineGroup, places: Any, choices: Any, says: str
):
    with pytest.raises(InvalidArgument, match=says):
        prepared.commit(1, 1, 1, Topology(places, choices))
    prepared.commit(1, 1, 1, Topology(((9, 9, 4, 4), (1, 1, 1, 1))))


def test_levels_above_the_last_one_may_be_left_out(prepared: EngineGroup):
    prepared.commit(1, 1, 1, Topology())


def test_nobody_is_nearby_who_is_nowhere(prepared: EngineGroup):
    assert prepared.nearby(4)[0]
    with pytest.raises(InvalidArgument, match="no view of 3 peers is prepared"):
        prepared.nearby(3)


# ---- sites of one host ---------------------------------------------------------------------------


def reduce_large(group: collectives.Group, kind: str) -> tuple[Any, ...]:
    """More than a rank sends before something comes back; who is where, and who that is."""
    array = np.full(2_500_000, group.rank + 1, np.float32)
    result = getattr(group, kind)(array, timeout=DEADLINE)
    everybody = sum(range(1, group.size + 1))
    assert result.value is None or (result.value == everybody).all()
    return group.view.places, tuple(peer.name for peer in group.peers)


@pytest.mark.parametrize("sites", ["aab", "abab", "abcabc"])
def test_what_is_large_goes_between_sites_that_share_a_host(sites: str):
    with Crew(len(sites), [{"site": site} for site in sites]) as crew:
        for kind in ("all_reduce", "reduce"):
            (((groups,), names),) = set(crew.get(reduce_large, kind))
            found = [sites[int(name[1:])] for name in names]
            assert [groups.index(group) for group in groups] == [found.index(s) for s in found]
