"""Plans: proved right symbolically for every size from 1 to 33, and the prover itself proved to
notice wrong ones. Then the same plans are run on numbers, cut into slices, in random orders."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prover
from collectives._native import ffi, lib
from collectives._native.engine import LEVEL_PLANS
from prover import (
    ALL_SEGMENTS,
    FROM_INPUT,
    FROM_OUTPUT,
    RECV,
    RECV_KEEP,
    RECV_REDUCE,
    REDUCE,
    SEND,
    Algorithm,
    Plan,
    PlanError,
    Step,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

U32 = 2**32 - 1
U64 = 2**64 - 1
SIZES = range(1, 34)
RING, DIRECT, WHOLE = prover.RING, prover.DIRECT, prover.WHOLE
CHAIN, STAR = prover.CHAIN, prover.STAR
BOTH, DOUBLING = prover.BIDIRECTIONAL_RING, prover.DOUBLING
NAMES = {
    RING: "ring",
    DIRECT: "direct",
    WHOLE: "whole",
    CHAIN: "chain",
    STAR: "star",
    BOTH: "bidirectional_ring",
    DOUBLING: "doubling",
}
NUMBERS = {algorithm: getattr(lib, f"COLL_{name.upper()}") for algorithm, name in NAMES.items()}
REDUCTIONS = (RING, DIRECT, WHOLE, BOTH, DOUBLING)  # what an all-reduce can be
every_algorithm = pytest.mark.parametrize(
    "algorithm", [pytest.param(algorithm, id=NAMES[algorithm]) for algorithm in REDUCTIONS]
)
EVERY_OTHER = [
    ("broadcast", CHAIN),
    ("broadcast", STAR),
    ("reduce", DIRECT),
    ("reduce", WHOLE),
    ("reduce_scatter", DIRECT),
    ("all_gather", RING),
    ("all_gather", DIRECT),
    ("all_gather", BOTH),
    ("gather", STAR),
    ("scatter", STAR),
    ("all_to_all", DIRECT),
]
every_other = pytest.mark.parametrize(
    ("kind", "algorithm"),
    [pytest.param(*one, id=f"{one[0]} {NAMES[one[1]]}") for one in EVERY_OTHER],
)
ROOTED = ("broadcast", "reduce", "gather", "scatter")


def make(
    kind: int,
    rank: int,
    size: int,
    root: int = 0,
    algorithm: Algorithm | None = RING,
    places: Sequence[Sequence[int]] | None = None,
    levels: Sequence[str] = (),
) -> Plan:
    out = ffi.new("struct coll_plan **")
    number = lib.COLL_HIERARCHICAL if algorithm is None else NUMBERS[algorithm]
    flat = [place for level in places or () for place in level]
    kept = ffi.new("uint32_t[]", flat)
    settings = ffi.new("struct coll_level[]", [(LEVEL_PLANS[name],) for name in levels])
    topology = ffi.new("struct coll_topology *", {"levels": len(places or ()), "places": kept})
    topology.settings, topology.setting_count = settings, len(levels)
    given = ffi.NULL if places is None else topology
    assert lib.coll_plan_make(kind, number, rank, size, root, given, out) == lib.COLL_OK
    plan = ffi.gc(out[0], lib.coll_plan_free)
    info = ffi.new("struct coll_plan_info *")
    lib.coll_plan_get_info(plan, info)
    steps = lib.coll_plan_steps(plan)
    assert info.steps == 0 or steps != ffi.NULL
    return Plan(
        info.rank,
        info.size,
        info.segments,
        tuple(
            Step(s.kind, s.peer, s.segment, s.message, s.source, s.final, s.after)
            for s in (steps[i] for i in range(info.steps))
        ),
    )


def all_reduce(size: int, algorithm: Algorithm = RING) -> list[Plan]:
    return [make(lib.COLL_ALL_REDUCE, rank, size, algorithm=algorithm) for rank in range(size)]


def plans_of(kind: str, size: int, algorithm: Algorithm, root: int = 0) -> list[Plan]:
    number = getattr(lib, f"COLL_{kind.upper()}")
    return [make(number, rank, size, root, algorithm) for rank in range(size)]


HIERARCHICAL = ("all_reduce", "reduce", "reduce_scatter", "broadcast", "all_gather")


def broadcast(size: int, root: int) -> list[Plan]:
    return plans_of("broadcast", size, CHAIN, root)


def segment_range(count: int, segments: int, i: int) -> tuple[int, int]:
    begin, end = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    lib.coll_segment_range(count, segments, i, begin, end)
    return begin[0], end[0]


def lengths(count: int, segments: int) -> list[int]:
    ranges = [segment_range(count, segments, i) for i in range(segments)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == count
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    return [end - begin for begin, end in ranges]


def counts_for(size: int) -> list[int]:
    """Counts around the size, where segments are empty or uneven, and some that are none of it."""
    rng = random.Random(size)
    return [0, 1, size - 1, size, size + 1, 2 * size, rng.randrange(10**6), rng.randrange(2**60)]


# ---- the proofs ------------------------------------------------------------------------------


@every_algorithm
@pytest.mark.parametrize("size", SIZES)
def test_all_reduce_is_right(algorithm: Algorithm, size: int) -> None:
    prove_reduction(all_reduce(size, algorithm), algorithm)


def prove_reduction(plans: list[Plan], algorithm: Algorithm) -> None:
    task = algorithm.task("all_reduce", len(plans))
    prover.prove(plans, task, algorithm)
    for count in counts_for(len(plans)):
        prover.prove_bytes(plans, task, algorithm, lengths(count, plans[0].segments))


@pytest.mark.parametrize("size", SIZES)
def test_ring_and_direct_send_as_little_as_an_all_reduce_can_and_whole_everything(
    size: int,
) -> None:
    count = 12 * size
    for rank in range(size):
        task = prover.Task("all_reduce", size)
        three = (RING, DIRECT, WHOLE)
        ring, direct, whole = (a.sends(task, rank, lengths(count, size)) for a in three)
        if size > 1:
            assert sum(ring.values()) * size == 2 * (size - 1) * count
        assert sum(direct.values()) * size == 2 * (size - 1) * count
        assert sum(whole.values()) == (size - 1) * count


def roots_of(kind: str, algorithm: Algorithm, size: int) -> list[int]:
    """All, if proofs are cheap; else the first, one in the middle and the last."""
    if kind not in ROOTED:
        return [0]
    return list(range(size)) if algorithm is CHAIN else sorted({0, size // 2, size - 1})


@every_other
@pytest.mark.parametrize("size", SIZES)
def test_the_others_are_right(kind: str, algorithm: Algorithm, size: int) -> None:
    for root in roots_of(kind, algorithm, size):
        prove_other(kind, algorithm, plans_of(kind, size, algorithm, root), root)


def prove_other(kind: str, algorithm: Algorithm, plans: list[Plan], root: int = 0) -> None:
    size = len(plans)
    task = algorithm.task(kind, size, root)
    assert all(plan.segments == task.segments for plan in plans)
    prover.prove(plans, task, algorithm)
    uneven = random.Random(size)
    blocks = [uneven.choice((0, 1, 7, 10**6)) for _ in range(task.segments)]
    for many in (*(lengths(count, task.segments) for count in counts_for(size)), blocks):
        prover.prove_bytes(plans, task, algorithm, many)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_in_place_whole_and_doubling_need_their_sends_copied_and_the_others_do_not(
    size: int,
) -> None:
    for algorithm in REDUCTIONS:
        plans = all_reduce(size, algorithm)
        for copied in (False, True):
            told = dataclasses.replace(algorithm, copied=copied)
            if algorithm.copied and not copied:
                with pytest.raises(PlanError, match="hazard"):
                    prover.prove(plans, algorithm.task("all_reduce", size), told)
            else:
                prover.prove(plans, algorithm.task("all_reduce", size), told)


def test_a_group_of_one_has_nothing_to_do() -> None:
    for algorithm in REDUCTIONS:
        assert all_reduce(1, algorithm) == [Plan(0, 1, algorithm.parts, ())]
    for kind, algorithm in EVERY_OTHER:
        assert plans_of(kind, 1, algorithm) == [Plan(0, 1, algorithm.parts, ())]
    for kind in HIERARCHICAL:
        assert make(
            getattr(lib, f"COLL_{kind.upper()}"), 0, 1, algorithm=None, places=[[7]]
        ) == Plan(0, 1, 1, ())


def test_a_barrier_moves_no_bytes() -> None:
    for size in (1, 2, 33):
        for rank in range(size):
            assert make(lib.COLL_BARRIER, rank, size) == Plan(rank, size, 1, ())


@every_algorithm
@pytest.mark.parametrize("size", [2, 3, 8])
def test_a_slice_that_is_nearly_done_goes_before_a_fresh_one(
    algorithm: Algorithm, size: int
) -> None:
    for plan in all_reduce(size, algorithm):
        for peer in range(size):
            rounds = [s.message for s in plan.steps if (s.kind, s.peer) == (SEND, peer)]
            assert rounds == sorted(rounds, reverse=True)


@every_algorithm
def test_a_send_meets_its_receive_by_any_algorithm(algorithm: Algorithm) -> None:
    for size in range(2, 34):
        for rank, peer in itertools.permutations((0, 1, size // 2, size - 1), 2):
            if rank == peer:
                continue
            sends, receives = (
                make(kind, mine, size, other, algorithm)
                for kind, mine, other in (
                    (lib.COLL_SEND, rank, peer),
                    (lib.COLL_RECV, peer, rank),
                )
            )
            assert [(s.kind, s.peer, s.segment, s.message, s.after) for s in sends.steps] == [
                (SEND, peer, 0, 0, -1)
            ]
            assert [(s.kind, s.peer, s.segment, s.message, s.after) for s in receives.steps] == [
                (lib.COLL_STEP_RECV, rank, 0, 0, -1)
            ]
            assert sends.segments == receives.segments == 1


@every_algorithm
def test_a_plan_is_a_function_of_its_arguments(algorithm: Algorithm) -> None:
    assert all_reduce(7, algorithm) == all_reduce(7, algorithm)
    assert [make(lib.COLL_ALL_REDUCE, rank, 7, U32, algorithm) for rank in range(7)] == all_reduce(
        7, algorithm
    )


@pytest.mark.parametrize(
    ("algorithm", "segments", "steps"),
    [
        (RING, 1000, 4 * 999),
        (DIRECT, 1000, 4 * 999 + 1),
        (WHOLE, 1000, 2 * 999 + 1),
        (BOTH, 2000, 8 * 999),
        (DOUBLING, 1, 2),
    ],
)
def test_a_thousand_ranks_are_no_special_case(
    algorithm: Algorithm, segments: int, steps: int
) -> None:
    plan = make(lib.COLL_ALL_REDUCE, 17, 1000, algorithm=algorithm)
    assert (plan.segments, len(plan.steps)) == (segments, steps)
    assert sum(step.final for step in plan.steps) == {BOTH: 2, DOUBLING: 0}.get(algorithm, 1)


@pytest.mark.parametrize(
    ("kind", "rank", "size", "root"),
    [
        ("COLL_ALL_REDUCE", 0, 0, 0),
        ("COLL_ALL_REDUCE", 2, 2, 0),
        ("COLL_ALL_REDUCE", U32, 2, 0),
        ("COLL_ALL_REDUCE", 0, U32, 0),
        ("COLL_ALL_REDUCE", 0, 2**31, 0),
        ("COLL_ALL_REDUCE", 0, 2**20 + 1, 0),
        ("COLL_BROADCAST", 0, 0, 0),
        ("COLL_BROADCAST", 3, 3, 0),
        ("COLL_BROADCAST", 0, 3, 3),
        ("COLL_BROADCAST", 0, 3, U32),
        ("COLL_BROADCAST", U32, U32, U32),
        ("COLL_BARRIER", 0, 0, 0),
        ("COLL_BARRIER", 5, 5, 0),
        ("COLL_REDUCE", 0, 3, 3),
        ("COLL_REDUCE_SCATTER", 3, 3, 0),
        ("COLL_ALL_GATHER", 0, 0, 0),
        ("COLL_GATHER", 0, 3, 3),
        ("COLL_SCATTER", 0, 3, U32),
        ("COLL_ALL_TO_ALL", 3, 3, 0),
        ("COLL_ALL_TO_ALL", 0, 2**16, 0),
        ("COLL_SYNC", 0, 2, 0),
        ("COLL_KIND_COUNT", 0, 2, 0),
        (U32, 0, 2, 0),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    kind: str | int, rank: int, size: int, root: int
) -> None:
    number = getattr(lib, kind) if isinstance(kind, str) else kind
    for algorithm in range(lib.COLL_ALGORITHM_COUNT):
        refuse(number, algorithm, rank, size, root)


def test_an_algorithm_that_does_not_exist_or_does_not_do_the_kind_is_refused() -> None:
    for algorithm in (lib.COLL_ALGORITHM_COUNT, U32):
        refuse(lib.COLL_ALL_REDUCE, algorithm, 0, 2, 0)
    kinds = ("all_reduce", *{kind for kind, _ in EVERY_OTHER})
    does = {(kind, NUMBERS[a]) for kind, a in EVERY_OTHER}
    does |= {("all_reduce", NUMBERS[a]) for a in REDUCTIONS}
    for kind, algorithm in itertools.product(kinds, range(lib.COLL_ALGORITHM_COUNT)):
        number = getattr(lib, f"COLL_{kind.upper()}")
        if algorithm == lib.COLL_HIERARCHICAL:
            known = kind in HIERARCHICAL
        else:
            known = (kind, algorithm) in does
        assert bool(lib.coll_plan_does(number, algorithm)) == known
        if not known:
            refuse(number, algorithm, 0, 2, 0)


def refuse(kind: int, algorithm: int, rank: int, size: int, root: int) -> None:
    out = ffi.new("struct coll_plan **")
    status = lib.coll_plan_make(kind, algorithm, rank, size, root, ffi.NULL, out)
    assert status == lib.COLL_INVALID_ARGUMENT
    assert out[0] == ffi.NULL


def test_making_a_plan_into_nothing_is_refused_and_freeing_nothing_is_fine() -> None:
    status = lib.coll_plan_make(lib.COLL_ALL_REDUCE, lib.COLL_RING, 0, 2, 0, ffi.NULL, ffi.NULL)
    assert status == lib.COLL_INVALID_ARGUMENT
    lib.coll_plan_free(ffi.NULL)


# ---- levels -----------------------------------------------------------------------------------


def levels_for(size: int) -> list[list[list[int]]]:
    """Uneven groups in groups, of one level to three, in order and mixed; the names are any."""
    chance = random.Random(size)
    found: list[list[list[int]]] = [[], [[0] * size], [list(range(size))]]
    for levels in (1, 1, 2, 2, 3):
        hosts = sorted(chance.choices(range(max(size // levels, 1)), k=size))
        if levels == 1 or chance.random() < 0.5:
            chance.shuffle(hosts)
        places = [[10 * host + 3 for host in hosts]]
        while len(places) < levels:
            outer = {g: chance.randrange(2 * levels) for g in sorted(set(places[-1]))}
            places.append([outer[g] for g in places[-1]])
        found.append(places)
    # Many groups, above level 0: a chain of them.
    found.append([[rank % 7 for rank in range(size)], [0] * size])
    return found


def hierarchical(
    kind: str,
    size: int,
    places: Sequence[Sequence[int]],
    root: int = 0,
    levels: Sequence[str] = (),
) -> list[Plan]:
    number = getattr(lib, f"COLL_{kind.upper()}")
    return [make(number, rank, size, root, None, places, levels) for rank in range(size)]


def prove_hierarchical(
    kind: str, plans: Plans, places: Sequence[Sequence[int]], root: int = 0
) -> None:
    size, segments = len(plans), plans[0].segments
    reduces = kind in ("all_reduce", "reduce", "reduce_scatter")
    algorithm = prover.hierarchical(places, size, segments if reduces else size)
    task = algorithm.task(kind, size, root)
    if not reduces:
        task.segments = segments
    prover.prove(plans, task, algorithm)
    roots = {"broadcast": [root], "all_gather": list(range(size))}.get(
        kind, [(segment - 1) % size for segment in range(segments)]
    )
    hierarchy = prover.Hierarchy(places, size, roots)
    many = [lengths(count, segments) for count in (0, 1, size, 12 * size + 5)]
    if kind == "reduce_scatter":  # whose blocks are the caller's to cut
        uneven = random.Random(size)
        many += [[uneven.choice((0, 1, 7, 10**6)) for _ in range(size)] for _ in range(3)]
    for sizes in many:
        prover.prove_levels(plans, kind, hierarchy, sizes)


@pytest.mark.parametrize("size", SIZES)
def test_hierarchical_is_right_for_uneven_groups_of_up_to_three_levels(size: int) -> None:
    chance = random.Random(size)
    every = levels_for(size)
    every = every if size < 9 else chance.sample(every, 3)  # each proof takes longer, too
    for kind in HIERARCHICAL:
        # Each topology for all_reduce, some for the others; small groups get all.
        some = every if kind == "all_reduce" or size < 9 else chance.sample(every, 2 - size // 17)
        for places in some:
            root = chance.randrange(size) if kind in ROOTED else 0
            prove_hierarchical(kind, hierarchical(kind, size, places, root), places, root)


HOSTS = [[0, 0, 0, 1, 1]]


def level_above(plan: Plan) -> int:
    """The reduction of a segment that this rank has reduced for its host before."""
    return next(i for i, s in enumerate(plan.steps) if (s.kind, s.source) == (REDUCE, FROM_OUTPUT))


def host_left_out() -> Plans:
    """An owner adds its own input to what the other host has, not what its host has."""
    plans = hierarchical("all_reduce", 5, HOSTS)
    return changed(plans, 1, level_above(plans[1]), source=FROM_INPUT, after=-1)


def other_order() -> Plans:
    plans = hierarchical("all_reduce", 5, HOSTS)
    return changed(plans, 1, level_above(plans[1]), peer=1)


def crossing_twice() -> Plans:
    """Rank 0 hears a finished segment of rank 3 from there, and not from its own host's owner."""
    plans = hierarchical("all_reduce", 5, HOSTS)
    inner = next(
        (plan.rank, s)
        for plan in plans
        for s in plan.steps
        if s.kind == SEND
        and s.peer == 0
        and s.message % 2
        and plan.rank in (1, 2)
        and s.segment % 5 in (4, 0)
    )
    owner, sent = inner
    root = (sent.segment - 1) % 5
    index = find(plans[owner], SEND, sent.message, peer=0)
    last = next(i for i, s in enumerate(plans[root].steps) if s.final and s.segment == sent.segment)
    again = dataclasses.replace(sent, after=last)
    plans = with_steps(plans, root, [*plans[root].steps, again])
    taken = find(plans[0], RECV, sent.message, peer=owner)
    plans = changed(plans, 0, taken, peer=root)
    return without(plans, owner, index)


@pytest.mark.parametrize(
    ("rule", "build"),
    [
        ("match|value|hazard|shape", host_left_out),
        ("value", other_order),
        ("bytes", crossing_twice),
    ],
)
def test_the_prover_catches_hierarchical_plans_in_which_a_host_is_left_out_or_crossed_twice(
    rule: str, build: Callable[[], Plans]
) -> None:
    with pytest.raises(PlanError, match=f"^({rule}):"):
        prove_hierarchical("all_reduce", build(), HOSTS)


@given(data=st.data(), size=st.integers(2, 9), levels=st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_hierarchical_is_right_for_any_levels(data: st.DataObject, size: int, levels: int) -> None:
    groups = st.lists(st.integers(0, size - 1), min_size=size, max_size=size)
    places = [data.draw(groups, label="hosts")]
    for level in range(1, levels):
        outer = data.draw(groups, label=f"level {level}")
        places.append([outer[group] for group in places[-1]])
    kind = data.draw(st.sampled_from(HIERARCHICAL))
    root = data.draw(st.integers(0, size - 1)) if kind in ROOTED else 0
    plans = data.draw(st.lists(st.sampled_from(list(LEVEL_PLANS)), max_size=levels + 2))
    prove_hierarchical(kind, hierarchical(kind, size, places, root, plans), places, root)


@pytest.mark.parametrize("size", SIZES)
def test_hierarchical_is_right_with_any_plan_at_each_level(size: int) -> None:
    chance = random.Random(size)
    places = chance.choice(levels_for(size))
    kind = chance.choice(HIERARCHICAL)
    root = chance.randrange(size) if kind in ROOTED else 0
    plans = [chance.choice(("direct", "ring")) for _ in range(len(places) + 1)]
    prove_hierarchical(kind, hierarchical(kind, size, places, root, plans), places, root)


def test_the_plan_of_a_level_says_who_sends_to_whom_there() -> None:
    hosts = [0, 0, 0, 0, 1, 1, 2, 3, 4]

    def receivers(levels: Sequence[str]) -> tuple[int, int]:
        """To how many ranks one rank sends at most, of its own host and of others."""
        most = [0, 0]
        for plan in hierarchical("all_reduce", 9, [hosts], levels=levels):
            for across in (0, 1):
                to = {
                    (step.segment, step.peer)
                    for step in plan.steps
                    if step.kind == SEND and (hosts[step.peer] != hosts[plan.rank]) == across
                }
                each = [len([1 for s, _ in to if s == segment]) for segment in range(plan.segments)]
                most[across] = max(most[across], *each)
        return most[0], most[1]

    assert receivers(()) == receivers(("direct", "ring")) == (3, 1)
    assert receivers(("ring", "ring")) == receivers(("ring",)) == (1, 1)
    assert receivers(("auto", "direct")) == receivers(("auto", "direct", "ring")) == (3, 4)


@pytest.mark.parametrize(
    ("setting", "status"),
    [
        ({"plan": 1 + lib.COLL_CHAIN}, "COLL_INVALID_ARGUMENT"),
        ({"plan": U32}, "COLL_INVALID_ARGUMENT"),
        ({"transport": 3}, "COLL_INVALID_ARGUMENT"),
        ({"codec": 3}, "COLL_INVALID_ARGUMENT"),
        ({"codec": lib.COLL_LEVEL_CODEC_NONE}, "COLL_INVALID_ARGUMENT"),  # the one within encodes
    ],
)
def test_a_level_that_cannot_be_is_refused(setting: dict[str, object], status: str) -> None:
    out = ffi.new("struct coll_plan **")
    first = {"codec": lib.COLL_LEVEL_CODEC_CALL}
    settings = ffi.new("struct coll_level[]", [first, setting])
    topology = ffi.new("struct coll_topology *", {"settings": settings, "setting_count": 2})
    arguments = (lib.COLL_ALL_REDUCE, lib.COLL_RING, 0, 2, 0)
    assert lib.coll_plan_make(*arguments, topology, out) == getattr(lib, status)
    assert out[0] == ffi.NULL
    topology.setting_count = lib.COLL_LEVELS_MAX + 2
    assert lib.coll_plan_make(*arguments, topology, out) == lib.COLL_INVALID_ARGUMENT


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8])
def test_without_levels_hierarchical_adds_like_the_ring(size: int) -> None:
    for places in ([], [[0] * size], [list(range(size))]):
        plans = hierarchical("all_reduce", size, places)
        prover.prove(plans, RING.task("all_reduce", size), DIRECT)


def test_each_byte_crosses_the_border_of_hosts_once_in_each_direction() -> None:
    # Two hosts of three and two: a ring, of which two links lie between them, passes 16 fifths.
    plans = hierarchical("all_reduce", 5, [[0, 1, 0, 1, 0]])
    across = sum(
        step.kind == SEND and plan.rank % 2 != step.peer % 2
        for plan in plans
        for step in plan.steps
    )
    assert across == 2 * plans[0].segments


def test_a_reduce_scatter_takes_out_of_each_host_the_blocks_of_others_once() -> None:
    hosts = [0, 1, 0, 1, 0]
    blocks = [5, 0, 7, 100, 1]  # of each rank
    plans = hierarchical("reduce_scatter", 5, [hosts])
    across = {0: 0, 1: 0}
    for plan in plans:
        for step in plan.steps:
            if step.kind == SEND and hosts[plan.rank] != hosts[step.peer]:
                across[hosts[plan.rank]] += blocks[(step.segment - 1) % 5]
    assert across == {0: 0 + 100, 1: 5 + 7 + 1}


def test_owners_take_turns() -> None:
    # Each rank of a host reduces as much as any other one, also where hosts differ.
    for hosts in ([0, 0, 0, 1, 1], [0, 1, 0, 1, 0, 1, 1], [0] * 4 + [1] * 8 + [2] * 4):
        plans = hierarchical("all_reduce", len(hosts), [hosts])
        for host in set(hosts):
            reductions = [
                len({s.segment for s in plan.steps if s.kind == REDUCE})
                for plan in plans
                if hosts[plan.rank] == host
            ]
            assert max(reductions) - min(reductions) <= 1, (hosts, host, reductions)


# ---- segments ----------------------------------------------------------------------------------


@given(count=st.integers(0, U64), segments=st.integers(1, 5000), data=st.data())
def test_segments_cover_the_buffer_and_differ_by_one_at_most(
    count: int, segments: int, data: st.DataObject
) -> None:
    i = data.draw(st.integers(0, segments - 1))
    begin, end = segment_range(count, segments, i)
    length, longer = divmod(count, segments)
    assert end - begin == (length + 1 if i < longer else length)
    assert begin == (0 if i == 0 else segment_range(count, segments, i - 1)[1])
    if i == segments - 1:
        assert end == count


@given(count=st.integers(0, U64), segments=st.integers(0, U32), beyond=st.integers(0, 1000))
def test_past_the_last_segment_there_is_nothing(count: int, segments: int, beyond: int) -> None:
    assert segment_range(count, segments, min(segments + beyond, U32)) == (count, count)


# ---- wrong plans ---------------------------------------------------------------------------------

Plans = list[Plan]


def changed(plans: Plans, rank: int, index: int, **fields: int) -> Plans:
    steps = list(plans[rank].steps)
    steps[index] = dataclasses.replace(steps[index], **fields)
    return with_steps(plans, rank, steps)


def with_steps(plans: Plans, rank: int, steps: list[Step]) -> Plans:
    result = list(plans)
    result[rank] = dataclasses.replace(plans[rank], steps=tuple(steps))
    return result


def find(plan: Plan, kind: int, message: int, peer: int | None = None) -> int:
    (index,) = (
        i
        for i, s in enumerate(plan.steps)
        if (s.kind, s.message) == (kind, message) and peer in (None, s.peer)
    )
    return index


def without(plans: Plans, rank: int, index: int) -> Plans:
    """The step is left out; who came after it comes after the one before it in the array."""
    steps = [s for i, s in enumerate(plans[rank].steps) if i != index]
    steps = [
        dataclasses.replace(s, after=s.after - 1 if s.after >= max(index, 1) else s.after)
        for s in steps
    ]
    return with_steps(plans, rank, steps)


def without_last_round(plans: Plans) -> Plans:
    """Nobody sends or receives the last round: the two ends agree, the result lacks a segment."""
    last = 2 * (len(plans) - 1) - 1
    # The last round is the first pair in the array.
    assert all({step.message for step in plan.steps[:2]} == {last} for plan in plans)
    return [
        dataclasses.replace(
            plan,
            steps=tuple(
                dataclasses.replace(s, after=s.after - 2 if s.after >= 0 else -1)
                for s in plan.steps[2:]
            ),
        )
        for plan in plans
    ]


def added_twice(plans: Plans) -> Plans:
    """Rank 0 gives its segment 0 to rank 1 once more, and rank 1 adds it once more."""
    size, message = len(plans), 99
    again = Step(SEND, 1, 0, message, FROM_INPUT, 0, -1)
    plans = with_steps(plans, 0, [*plans[0].steps, again])
    first = find(plans[1], RECV_REDUCE, 0)
    twice = Step(RECV_REDUCE, 0, 0, message, 0, 0, first)
    steps = [*plans[1].steps, twice]
    if size > 2:
        onward = find(plans[1], SEND, 1)
        steps[onward] = dataclasses.replace(steps[onward], after=len(steps) - 1)
    return with_steps(plans, 1, steps)


def renamed(plans: Plans) -> Plans:
    """The same with the segments renamed: a ring adds in another order, and others own others."""
    size = len(plans)
    return [
        dataclasses.replace(
            plan,
            steps=tuple(dataclasses.replace(s, segment=(s.segment + 1) % size) for s in plan.steps),
        )
        for plan in plans
    ]


def swapped_inputs() -> Plans:
    """Two ranks give each other everything and add it: right out of place, a race in place."""
    send = [Step(SEND, 1 - rank, 0, 0, FROM_INPUT, 0, -1) for rank in (0, 1)]
    add = [Step(RECV_REDUCE, 1 - rank, 0, 0, 0, 1, -1) for rank in (0, 1)]
    return [Plan(rank, 2, 1, (send[rank], add[rank])) for rank in (0, 1)]


def overwritten_early(plans: Plans) -> Plans:
    """Rank 0 also sends its segment 1 while the partial sum for it comes in."""
    early = Step(SEND, 1, 1, 99, FROM_INPUT, 0, -1)
    plans = with_steps(plans, 0, [*plans[0].steps, early])
    last = find(plans[1], RECV, 2 * (len(plans) - 1) - 1)
    into = Step(RECV, 0, plans[1].steps[last].segment, 99, 0, 0, -1)
    return with_steps(plans, 1, [*plans[1].steps, dataclasses.replace(into, segment=1)])


def waits_for_the_end(plans: Plans) -> Plans:
    """Each rank sends its own segment once it has it back, finished: nobody ever starts."""
    rounds = 2 * (len(plans) - 1)
    for rank, plan in enumerate(plans):
        first, last = find(plan, SEND, 0), find(plan, RECV, len(plans) - 1)
        assert plan.steps[first].segment == plan.steps[last].segment
        assert rounds >= 2
        plans = changed(plans, rank, first, after=last)
    return plans


def sends_before_it_receives() -> Plans:
    """A ring in which each rank receives after its own send: right if sends are buffered."""
    size = 3
    return [
        Plan(
            rank,
            size,
            1,
            (
                Step(SEND, (rank + 1) % size, 0, 0, FROM_INPUT, 0, -1),
                Step(RECV, (rank - 1) % size, 0, 0, 0, 0, 0),
            ),
        )
        for rank in range(size)
    ]


def final_moved(plans: Plans) -> Plans:
    """The last but one reduction is called final, on all ranks."""
    last = len(plans) - 2
    for rank in range(len(plans)):
        plans = changed(plans, rank, find(plans[rank], RECV_REDUCE, last), final=0)
        plans = changed(plans, rank, find(plans[rank], RECV_REDUCE, last - 1), final=1)
    return plans


def not_heard(algorithm: Algorithm) -> Plans:
    """Rank 0 does not send its input to rank 2, which does not expect it."""
    plans = all_reduce(4, algorithm)
    plans = without(plans, 0, find(plans[0], SEND, 0, peer=2))
    return without(plans, 2, find(plans[2], RECV_KEEP, 0, peer=0))


def heard_twice(algorithm: Algorithm) -> Plans:
    """Rank 0 sends its input to rank 2 twice, which keeps both."""
    plans = all_reduce(4, algorithm)
    for rank, kind, peer in ((0, SEND, 2), (2, RECV_KEEP, 0)):
        steps = plans[rank].steps
        again = dataclasses.replace(steps[find(plans[rank], kind, 0, peer)], message=99)
        plans = with_steps(plans, rank, [*steps, again])
    return plans


def added_as_it_comes(one_by_one: bool) -> Plans:
    """Owners add what comes to what they have; if one by one, then in the order of their steps."""
    plans = all_reduce(4, DIRECT)
    for rank, plan in enumerate(plans):
        reduce = find(plan, REDUCE, 0)
        assert [s.kind for s in plan.steps[:reduce]] == [RECV_KEEP] * 3
        plans = without(plans, rank, reduce)
        for i in range(reduce):
            after = i - 1 if one_by_one else -1
            last = int(i == reduce - 1)
            plans = changed(plans, rank, i, kind=RECV_REDUCE, final=last, after=after)
    return plans


def overwritten_where_it_lies() -> Plans:
    """Rank 0 receives into its input what is sent because rank 1 has it, but keeps it still."""
    return [
        Plan(0, 3, 1, (Step(SEND, 1, 0, 0, FROM_INPUT, 0, -1), Step(RECV, 2, 0, 1, 0, 0, -1))),
        Plan(
            1,
            3,
            1,
            (
                Step(RECV_KEEP, 0, 0, 0, 0, 0, -1),
                Step(SEND, 2, 0, 1, FROM_INPUT, 0, 0),
                Step(RECV_KEEP, 2, 0, 0, 0, 0, -1),
                Step(REDUCE, 1, 0, 0, 0, 1, -1),
            ),
        ),
        Plan(
            2,
            3,
            1,
            (
                Step(RECV, 1, 0, 1, 0, 0, -1),
                Step(SEND, 0, 0, 1, FROM_OUTPUT, 0, 0),
                Step(SEND, 1, 0, 0, FROM_INPUT, 0, 0),
            ),
        ),
    ]


def sends_when_what_was_kept_is_read() -> Plans:
    """Rank 1 keeps rank 0's input until it has rank 2's, which that one sends only when rank 0 has
    no more to wait for: right if what is kept is a copy."""
    return [
        Plan(0, 3, 1, (Step(SEND, 1, 0, 0, FROM_INPUT, 0, -1), Step(SEND, 2, 0, 0, 0, 0, 0))),
        Plan(
            1,
            3,
            1,
            (
                Step(RECV_KEEP, 0, 0, 0, 0, 0, -1),
                Step(RECV_KEEP, 2, 0, 0, 0, 0, -1),
                Step(REDUCE, 1, 0, 0, 0, 1, -1),
            ),
        ),
        Plan(2, 3, 1, (Step(RECV, 0, 0, 0, 0, 0, -1), Step(SEND, 1, 0, 0, FROM_INPUT, 0, 0))),
    ]


def doubled(algorithm: Algorithm, kind: int) -> Plans:
    plans = all_reduce(4, algorithm)
    steps = plans[2].steps
    return with_steps(plans, 2, [*steps, steps[find(plans[2], kind, 0)]])


def star(size: int) -> Plans:
    """The root sends to everybody: right, but not the bytes of a chain."""
    root = tuple(Step(SEND, peer, 0, 0, FROM_INPUT, 0, -1) for peer in range(1, size))
    leaves = [Plan(rank, size, 1, (Step(RECV, 0, 0, 0, 0, 0, -1),)) for rank in range(1, size)]
    return [Plan(0, size, 1, root), *leaves]


def changing(algorithm: Algorithm, rank: int = 2, **fields: int) -> Callable[..., Plans]:
    """A group of 4 with one field of one step of one rank changed."""

    def build(kind: int, message: int, peer: int | None = None) -> Plans:
        plans = all_reduce(4, algorithm)
        return changed(plans, rank, find(plans[rank], kind, message, peer), **fields)

    return build


def ring_with(**fields: int) -> Callable[..., Plans]:
    return changing(RING, **fields)


def direct_with(**fields: int) -> Callable[..., Plans]:
    return changing(DIRECT, **fields)


def whole_with(**fields: int) -> Callable[..., Plans]:
    return changing(WHOLE, **fields)


MUTANTS: dict[str, tuple[str, Callable[[], Plans]]] = {
    "one end of a message takes another segment": (
        "match",
        lambda: ring_with(segment=1)(RECV, 5),
    ),
    "a send is missing": ("match", lambda: with_steps(all_reduce(4), 1, [])),
    "a whole round is missing": ("value", lambda: without_last_round(all_reduce(4))),
    "an input is added twice": ("value", lambda: added_twice(all_reduce(4))),
    "the order is another one": ("value", lambda: renamed(all_reduce(4))),
    "an input is overwritten while it is sent": ("hazard", swapped_inputs),
    "a segment is overwritten while it is used": (
        "hazard",
        lambda: overwritten_early(all_reduce(4)),
    ),
    "everybody waits for everybody": ("deadlock", lambda: waits_for_the_end(all_reduce(4))),
    "it works with buffers only": ("deadlock", sends_before_it_receives),
    "a step waits for itself": ("after", lambda: ring_with(after=1)(SEND, 5)),
    "a step waits for none": ("after", lambda: ring_with(after=99)(SEND, 3)),
    "a step waits for a step before the first": ("after", lambda: ring_with(after=-2)(SEND, 3)),
    "a step waits for another segment": ("after", lambda: ring_with(after=0)(SEND, 3)),
    "a send waits for nothing": ("hazard", lambda: ring_with(after=-1)(SEND, 3)),
    "final comes too early": ("value", lambda: final_moved(all_reduce(4))),
    "final is missing": ("final", lambda: ring_with(final=0)(RECV_REDUCE, 2)),
    "final is there twice": ("final", lambda: ring_with(final=1)(RECV_REDUCE, 1)),
    "a plain receive is final": ("shape", lambda: ring_with(final=1)(RECV, 4)),
    "a partial sum is not sent on": ("value", lambda: ring_with(source=FROM_INPUT)(SEND, 1)),
    "the output is sent before it is written": (
        "value",
        lambda: ring_with(source=FROM_OUTPUT)(SEND, 0),
    ),
    "a finished segment is added to": ("value", lambda: ring_with(kind=RECV_REDUCE)(RECV, 4)),
    "a partial sum is not added to": ("value", lambda: ring_with(kind=RECV)(RECV_REDUCE, 1)),
    "a message number is used twice": ("match", lambda: ring_with(message=1)(SEND, 2)),
    "there is no such peer": ("shape", lambda: ring_with(peer=4)(SEND, 2)),
    "a rank sends to itself": ("shape", lambda: ring_with(peer=2)(SEND, 2)),
    "there is no such segment": ("shape", lambda: ring_with(segment=4)(SEND, 2)),
    "a rank has the plan of another": ("shape", lambda: [all_reduce(2)[0]] * 2),
}


DIRECT_MUTANTS: dict[str, tuple[str, Callable[[], Plans]]] = {
    "an owner does not hear one rank": ("value", lambda: not_heard(DIRECT)),
    "an owner hears one rank twice": ("match", lambda: heard_twice(DIRECT)),
    "an owner does not reduce": (
        "match",
        lambda: without(all_reduce(4, DIRECT), 2, find(all_reduce(4, DIRECT)[2], REDUCE, 0)),
    ),
    "an owner reduces twice": ("match", lambda: doubled(DIRECT, REDUCE)),
    "an owner reduces another segment": ("after", lambda: direct_with(segment=0)(REDUCE, 0)),
    "an owner keeps another segment": ("match", lambda: direct_with(segment=0)(RECV_KEEP, 0, 1)),
    "an owner adds one input after the other": ("value", lambda: added_as_it_comes(True)),
    "an owner adds inputs as they come": ("hazard", lambda: added_as_it_comes(False)),
    "the segments have other owners": ("value", lambda: renamed(all_reduce(4, DIRECT))),
    "the result is sent before it is there": ("hazard", lambda: direct_with(after=-1)(SEND, 1, 0)),
    "the result is sent when one input is there": (
        "hazard",
        lambda: direct_with(after=0)(SEND, 1, 0),
    ),
    "the owner's input is sent for the result": (
        "value",
        lambda: direct_with(source=FROM_INPUT)(SEND, 1, 0),
    ),
    "what is no result yet is sent for the input": (
        "value",
        lambda: direct_with(source=FROM_OUTPUT)(SEND, 0, 0),
    ),
    "the result is kept": ("match", lambda: direct_with(kind=RECV_KEEP)(RECV, 1, 0)),
    "an input is taken for the result": ("hazard", lambda: direct_with(kind=RECV)(RECV_KEEP, 0, 0)),
    "the result is not final": ("final", lambda: direct_with(final=0)(REDUCE, 0)),
    "a kept input is final": ("shape", lambda: direct_with(final=1)(RECV_KEEP, 0, 0)),
    "a reduction begins with another rank": ("value", lambda: direct_with(peer=0)(REDUCE, 0)),
    "a reduction has a message": ("shape", lambda: direct_with(message=1)(REDUCE, 0)),
    "a reduction waits for itself": (
        "after",
        lambda: direct_with(after=3, source=FROM_OUTPUT)(REDUCE, 0),
    ),
    "a reduction takes what is not there": (
        "shape",
        lambda: direct_with(source=FROM_OUTPUT)(REDUCE, 0),
    ),
    "an input waits for the result": (
        "deadlock",
        lambda: changing(DIRECT, after=find(all_reduce(4, DIRECT)[2], RECV, 1, 0))(SEND, 0, 0),
    ),
    "what is kept is overwritten where it lies": ("hazard", overwritten_where_it_lies),
    "it works with copies of what is kept only": ("deadlock", sends_when_what_was_kept_is_read),
    "there is one segment more": (
        "final",
        lambda: [dataclasses.replace(p, segments=5) for p in all_reduce(4, DIRECT)],
    ),
}

WHOLE_MUTANTS: dict[str, tuple[str, Callable[[], Plans]]] = {
    "a segment begins with a rank that does not exist": (
        "shape",
        lambda: [dataclasses.replace(p, segments=5) for p in all_reduce(4, WHOLE)],
    ),
    "a rank does not hear another one": ("value", lambda: not_heard(WHOLE)),
    "a rank hears another one twice": ("match", lambda: heard_twice(WHOLE)),
    "a rank does not reduce": ("match", lambda: without(all_reduce(4, WHOLE), 2, 6)),
    "a rank reduces twice": ("match", lambda: doubled(WHOLE, REDUCE)),
    "a rank reduces one segment": ("match", lambda: whole_with(segment=2)(REDUCE, 0)),
    "a rank sends one segment": ("match", lambda: whole_with(segment=2)(SEND, 0, 0)),
    "a rank sends the result": ("value", lambda: whole_with(source=FROM_OUTPUT)(SEND, 0, 0)),
    "an input is sent after it was overwritten": ("value", lambda: whole_with(after=6)(SEND, 0, 0)),
    "an input is copied only when another one is there": (
        "hazard",
        lambda: whole_with(after=find(all_reduce(4, WHOLE)[2], RECV_KEEP, 0, 1))(SEND, 0, 0),
    ),
    "everybody reduces before he sends": (
        "deadlock",
        lambda: [
            dataclasses.replace(
                plan,
                steps=tuple(
                    dataclasses.replace(s, after=6) if s.kind == SEND else s for s in plan.steps
                ),
            )
            for plan in all_reduce(4, WHOLE)
        ],
    ),
    "one result is not final": ("final", lambda: whole_with(final=0)(REDUCE, 0)),
    "one result is what is received": ("hazard", lambda: whole_with(kind=RECV)(RECV_KEEP, 0, 0)),
    "everybody reduces a part only": ("final", lambda: all_reduce(4, DIRECT)),
}

BROADCAST_MUTANTS: dict[str, tuple[str, Callable[[], Plans]]] = {
    "the root sends everything itself": ("bytes", lambda: star(4)),
    "another rank is the root": ("value", lambda: broadcast(4, 1)),
    "a rank forwards before it has received": (
        "hazard",
        lambda: changed(broadcast(4, 0), 1, 1, after=-1),
    ),
    "a rank forwards its own input": (
        "value",
        lambda: changed(broadcast(4, 0), 1, 1, source=FROM_INPUT),
    ),
    "nobody is the root": (
        "deadlock",
        lambda: [
            Plan(
                rank,
                3,
                1,
                (
                    Step(RECV, (rank - 1) % 3, 0, 0, 0, 0, -1),
                    Step(SEND, (rank + 1) % 3, 0, 0, FROM_OUTPUT, 0, 0),
                ),
            )
            for rank in range(3)
        ],
    ),
}


OTHER_MUTANTS: dict[tuple[str, Algorithm], dict[str, tuple[str, Callable[[], Plans]]]] = {
    ("gather", STAR): {
        "a block goes where another belongs": (
            "match",
            lambda: changed(plans_of("gather", 4, STAR), 2, 0, segment=1),
        ),
        "a rank that is not the root gathers": ("value", lambda: plans_of("gather", 4, STAR, 1)),
    },
    ("scatter", STAR): {
        "the root forgets one": (
            "match",
            lambda: without(plans_of("scatter", 4, STAR), 0, 1),
        ),
    },
    ("all_to_all", DIRECT): {
        "two ranks get each other's blocks": (
            "value",
            lambda: swapped_blocks(plans_of("all_to_all", 4, DIRECT)),
        ),
    },
    ("all_gather", RING): {
        "a block is passed on before it is there": (
            "hazard",
            lambda: changed(plans_of("all_gather", 4, RING), 1, 2, after=-1),
        ),
        "each rank passes on its own block only": (
            "value",
            lambda: changed(plans_of("all_gather", 4, RING), 1, 2, source=FROM_INPUT),
        ),
    },
    ("reduce_scatter", DIRECT): {
        "all get everything": ("value", lambda: all_reduce(4, DIRECT)),
        "one input is left out": (
            "match",
            lambda: without(plans_of("reduce_scatter", 4, DIRECT), 0, 0),
        ),
    },
    ("reduce", DIRECT): {
        "the result goes to another": ("value", lambda: plans_of("reduce", 4, DIRECT, 2)),
    },
}


def swapped_blocks(plans: Plans) -> Plans:
    """Rank 0 sends to rank 1 what is for rank 2, and the other way round."""
    to = {1: 2, 2: 1}
    sent = [
        dataclasses.replace(s, segment=to[s.peer]) if s.kind == SEND and s.peer in to else s
        for s in plans[0].steps
    ]
    plans = with_steps(plans, 0, sent)
    for rank, block in to.items():
        got = [
            dataclasses.replace(s, segment=block) if s.peer == 0 and s.kind == RECV else s
            for s in plans[rank].steps
        ]
        plans = with_steps(plans, rank, got)
    return plans


CHECKS: list[tuple[Callable[[Plans], None], dict[str, tuple[str, Callable[[], Plans]]]]] = [
    (lambda plans: prove_reduction(plans, RING), MUTANTS),
    (lambda plans: prove_reduction(plans, DIRECT), DIRECT_MUTANTS),
    (lambda plans: prove_reduction(plans, WHOLE), WHOLE_MUTANTS),
    (functools.partial(prove_other, "broadcast", CHAIN), BROADCAST_MUTANTS),
    *((functools.partial(prove_other, *one), mutants) for one, mutants in OTHER_MUTANTS.items()),
]


@pytest.mark.parametrize(
    ("check", "rule", "build"),
    [
        pytest.param(check, *mutant, id=name)
        for check, mutants in CHECKS
        for name, mutant in mutants.items()
    ],
)
def test_the_prover_catches_plans_in_which(
    check: Callable[[Plans], None], rule: str, build: Callable[[], Plans]
) -> None:
    plans = build()
    with pytest.raises(PlanError) as caught:
        check(plans)
    assert caught.value.rule == rule, caught.value


def comes_after(plan: Plan, index: int, other: int) -> bool:
    while index not in (other, -1):
        index = plan.steps[index].after
    return index == other


def mutated(plans: Plans, data: st.DataObject) -> Plans:
    """Change one field of one step to another value, in a way that cannot be right."""
    rank = data.draw(st.sampled_from([p.rank for p in plans if p.steps]), label="rank")
    plan = plans[rank]
    index = data.draw(st.integers(0, len(plan.steps) - 1), label="step")
    step = plan.steps[index]
    fields = ["kind", "peer", "segment", "message", "source", "final"]
    # To wait for more than is needed is not wrong; to wait for something else is.
    more = [-1]
    if step.after >= 0:
        fields.append("after")
        more = [i for i in range(len(plan.steps)) if comes_after(plan, i, step.after)]
        more.remove(index)
    field = data.draw(st.sampled_from(fields), label="field")
    right = more if field == "after" else [getattr(step, field)]
    values = st.integers(-1, max(2 * len(plans), len(plan.steps) - 1))
    value = data.draw(values.filter(lambda v: v not in right), label="value")
    return changed(plans, rank, index, **{field: value})


@every_algorithm
@given(size=st.integers(2, 6), data=st.data())
@settings(deadline=None)
def test_no_field_of_a_reduction_can_be_changed_unnoticed(
    algorithm: Algorithm, size: int, data: st.DataObject
) -> None:
    plans = mutated(all_reduce(size, algorithm), data)
    with pytest.raises(PlanError):
        prove_reduction(plans, algorithm)


@every_other
@given(size=st.integers(2, 6), data=st.data())
@settings(deadline=None, max_examples=30)
def test_no_field_of_another_can_be_changed_unnoticed(
    kind: str, algorithm: Algorithm, size: int, data: st.DataObject
) -> None:
    plans = mutated(plans_of(kind, size, algorithm), data)
    with pytest.raises(PlanError):
        prove_other(kind, algorithm, plans)


@every_algorithm
@given(size=st.integers(2, 6), data=st.data())
@settings(deadline=None)
def test_no_step_of_a_reduction_can_be_left_out_or_doubled(
    algorithm: Algorithm, size: int, data: st.DataObject
) -> None:
    plans = all_reduce(size, algorithm)
    rank = data.draw(st.integers(0, size - 1), label="rank")
    steps = plans[rank].steps
    index = data.draw(st.integers(0, len(steps) - 1), label="step")
    if data.draw(st.booleans(), label="double"):
        plans = with_steps(plans, rank, [*steps, steps[index]])
    else:
        plans = without(plans, rank, index)
    with pytest.raises(PlanError):
        prove_reduction(plans, algorithm)


# ---- the same plans on numbers ---------------------------------------------------------------


def cut(begin: int, end: int, length: int) -> list[slice]:
    return [slice(at, min(at + length, end)) for at in range(begin, end, length)]


def run(
    plans: Plans,
    inputs: list[np.ndarray],
    slices: list[int],
    rng: random.Random,
    in_place: bool,
    copied: bool = False,
) -> list[np.ndarray]:
    """Carry out the plans in a random order, each rank cutting its own slices, as engines could.

    A receiver gets a *reference* to the sender's bytes and reads them when it likes, what it keeps
    when it reduces: an overwritten buffer shows as a wrong result. If the operation is `copied` the
    bytes are taken when the send starts, and no rank receives before it has sent what it can.
    """
    count = len(inputs[0])
    segments = [segment_range(count, plans[0].segments, i) for i in range(plans[0].segments)]
    inputs = [x.copy() for x in inputs]
    outputs = [
        x if in_place or not any(s.kind != SEND for s in plan.steps) else np.full_like(x, np.nan)
        for plan, x in zip(plans, inputs, strict=True)
    ]
    kept_for = prover.match(plans).kept_for
    nodes = {(plan.rank, i): step for plan in plans for i, step in enumerate(plan.steps)}
    sends = {(n[0], s.peer, s.message): n for n, s in nodes.items() if s.kind == SEND}
    done = {node: np.zeros(count, bool) for node in nodes}
    sent: dict[tuple[int, int], np.ndarray] = {}  # where receivers read what a step has sent
    waiting = []
    for node, step in nodes.items():
        whole = (0, count) if step.segment == ALL_SEGMENTS else segments[step.segment]
        cutter = node[0] if step.kind in (SEND, REDUCE) else step.peer
        waiting += [(node, part) for part in cut(*whole, slices[cutter])]

    def needed(node: tuple[int, int]) -> list[tuple[int, int]]:
        rank, step = node[0], nodes[node]
        before = [(rank, step.after)] if step.after >= 0 else []
        if step.kind == REDUCE:
            sends = [
                (rank, i)
                for i, s in enumerate(plans[rank].steps)
                if copied and s.kind == SEND and 0 <= s.after == step.after
            ]
            return before + sends + list(kept_for[node].values())
        return before if step.kind == SEND else [*before, received(node)]

    def received(node: tuple[int, int]) -> tuple[int, int]:
        return sends[nodes[node].peer, node[0], nodes[node].message]

    def carry_out(node: tuple[int, int], part: slice) -> None:
        rank, step = node[0], nodes[node]
        if step.kind == SEND:
            source = (inputs if step.source == FROM_INPUT else outputs)[rank]
            if copied:
                sent.setdefault(node, np.full_like(source, np.nan))[part] = source[part]
            else:
                sent[node] = source
        elif step.kind == RECV:
            outputs[rank][part] = sent[received(node)][part]
        elif step.kind == RECV_REDUCE:
            outputs[rank][part] = sent[received(node)][part] + inputs[rank][part]
        elif step.kind == REDUCE:
            values = {peer: sent[received(keep)] for peer, keep in kept_for[node].items()}
            values[rank] = (inputs if step.source == FROM_INPUT else outputs)[rank]
            for segment, (begin, end) in enumerate(segments):
                here = slice(max(begin, part.start), min(end, part.stop))
                if here.start < here.stop:
                    first = segment if step.segment == ALL_SEGMENTS else step.peer
                    ranks = sorted(values, key=lambda r: (r < first, r))
                    order = [values[r][here] for r in ranks]
                    outputs[rank][here] = functools.reduce(np.add, order)

    while waiting:
        rng.shuffle(waiting)
        left = []
        sending = {node[0] for node, _ in waiting if sends_at_once(nodes[node])} if copied else ()
        for node, part in waiting:
            held = node[0] in sending and not sends_at_once(nodes[node])
            if held or not all(done[other][part].all() for other in needed(node)):
                left.append((node, part))
                continue
            carry_out(node, part)
            done[node][part] = True
        assert len(left) < len(waiting), "stuck"
        waiting = left
    return outputs


def sends_at_once(step: Step) -> bool:
    return step.kind == SEND and step.after < 0


def different_slices(data: st.DataObject, size: int) -> list[int]:
    return data.draw(st.lists(st.integers(1, 9), min_size=size, max_size=size), label="slices")


@every_algorithm
@given(
    size=st.integers(1, 7),
    count=st.integers(0, 60),
    in_place=st.booleans(),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
@settings(deadline=None)
def test_any_timing_and_slices_give_the_bits_of_the_declared_order(
    algorithm: Algorithm, size: int, count: int, in_place: bool, seed: int, data: st.DataObject
) -> None:
    numbers = np.random.default_rng(seed)
    # Numbers of very different sizes: another order of additions gives other bits.
    scale = 10.0 ** numbers.integers(-6, 6, (size, count))
    inputs = list(numbers.standard_normal((size, count)) * scale)
    plans, slices = all_reduce(size, algorithm), different_slices(data, size)
    task = algorithm.task("all_reduce", size)
    wanted = declared(task, inputs)
    rng = random.Random(seed)
    for output in run(plans, inputs, slices, rng, in_place, algorithm.copied):
        assert output.tobytes() == wanted.tobytes()


def declared(task: prover.Task, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """The sum in the declared order."""
    wanted = np.empty_like(inputs[0])
    for segment in range(task.segments):
        begin, end = segment_range(wanted.size, task.segments, segment)
        order = (task.order or prover.Task.canonical)(task, segment)
        parts = [given[begin:end] for given in inputs]
        wanted[begin:end] = task.expressions.evaluate(order, parts, np.add)
    return wanted


@given(
    size=st.integers(1, 9),
    count=st.integers(0, 60),
    in_place=st.booleans(),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
@settings(deadline=None)
def test_any_timing_and_slices_give_the_bits_of_the_declared_order_with_levels(
    size: int, count: int, in_place: bool, seed: int, data: st.DataObject
) -> None:
    numbers = np.random.default_rng(seed)
    scale = 10.0 ** numbers.integers(-6, 6, (size, count))
    inputs = list(numbers.standard_normal((size, count)) * scale)
    places = data.draw(st.sampled_from(levels_for(size)), label="places")
    plans = hierarchical("all_reduce", size, places)
    task = prover.hierarchical(places, size, plans[0].segments).task("all_reduce", size)
    slices = different_slices(data, size)
    for output in run(plans, inputs, slices, random.Random(seed), in_place):
        assert output.tobytes() == declared(task, inputs).tobytes()


@given(
    size=st.integers(1, 7),
    count=st.integers(0, 60),
    in_place=st.booleans(),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
@settings(deadline=None)
def test_any_timing_and_slices_give_everybody_the_bytes_of_the_root(
    size: int, count: int, in_place: bool, seed: int, data: st.DataObject
) -> None:
    root = data.draw(st.integers(0, size - 1), label="root")
    slices = different_slices(data, size)
    inputs = list(np.random.default_rng(seed).standard_normal((size, count)))
    outputs = run(broadcast(size, root), inputs, slices, random.Random(seed), in_place)
    for output in outputs:
        assert output.tobytes() == inputs[root].tobytes()


def test_numbers_too_show_that_whole_needs_its_sends_copied_in_place() -> None:
    inputs = [np.full(40, float(2**rank)) for rank in range(3)]
    wrong = run(all_reduce(3, WHOLE), inputs, [3, 4, 5], random.Random(0), in_place=True)
    assert any((output != 7).any() for output in wrong)
