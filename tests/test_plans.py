"""Plans: proved right symbolically for every size from 1 to 33, and the prover itself proved to
notice wrong ones. Then the same plans are run on numbers, cut into slices, in random orders."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prover
from collectives._native import ffi, lib
from prover import FROM_INPUT, FROM_OUTPUT, RECV, RECV_REDUCE, SEND, Plan, PlanError, Step

if TYPE_CHECKING:
    from collections.abc import Callable

U32 = 2**32 - 1
U64 = 2**64 - 1
SIZES = range(1, 34)


def make(kind: int, rank: int, size: int, root: int = 0, algorithm: int = 0) -> Plan:
    out = ffi.new("struct coll_plan **")
    assert lib.coll_plan_make(kind, algorithm, rank, size, root, out) == lib.COLL_OK
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


def all_reduce(size: int) -> list[Plan]:
    return [make(lib.COLL_ALL_REDUCE, rank, size) for rank in range(size)]


def broadcast(size: int, root: int) -> list[Plan]:
    return [make(lib.COLL_BROADCAST, rank, size, root) for rank in range(size)]


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


@pytest.mark.parametrize("size", SIZES)
def test_ring_all_reduce_is_right(size: int) -> None:
    plans = all_reduce(size)
    prover.prove_all_reduce(plans)
    for count in counts_for(size):
        prover.prove_all_reduce_bytes(plans, lengths(count, plans[0].segments))


@pytest.mark.parametrize("size", SIZES)
def test_chain_broadcast_is_right_from_every_root(size: int) -> None:
    for root in range(size):
        plans = broadcast(size, root)
        prover.prove_broadcast(plans, root)
        for count in counts_for(size):
            prover.prove_broadcast_bytes(plans, root, lengths(count, plans[0].segments))


def test_a_group_of_one_has_nothing_to_do() -> None:
    assert make(lib.COLL_ALL_REDUCE, 0, 1) == Plan(0, 1, 1, ())
    assert make(lib.COLL_BROADCAST, 0, 1) == Plan(0, 1, 1, ())


def test_a_barrier_moves_no_bytes() -> None:
    for size in (1, 2, 33):
        for rank in range(size):
            assert make(lib.COLL_BARRIER, rank, size) == Plan(rank, size, 1, ())


def test_a_slice_that_is_nearly_done_goes_before_a_fresh_one() -> None:
    for size in (2, 3, 8):
        for plan in all_reduce(size):
            rounds = [step.message for step in plan.steps if step.kind == SEND]
            assert rounds == sorted(rounds, reverse=True)


def test_a_plan_is_a_function_of_its_arguments() -> None:
    assert all_reduce(7) == all_reduce(7)
    assert [make(lib.COLL_ALL_REDUCE, r, 7, root=U32) for r in range(7)] == all_reduce(7)


def test_a_thousand_ranks_are_no_special_case() -> None:
    plan = make(lib.COLL_ALL_REDUCE, 17, 1000)
    assert (plan.segments, len(plan.steps)) == (1000, 4 * 999)
    assert sum(step.final for step in plan.steps) == 1


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
        ("COLL_SYNC", 0, 2, 0),
        ("COLL_KIND_COUNT", 0, 2, 0),
        (U32, 0, 2, 0),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    kind: str | int, rank: int, size: int, root: int
) -> None:
    number = getattr(lib, kind) if isinstance(kind, str) else kind
    out = ffi.new("struct coll_plan **")
    assert (
        lib.coll_plan_make(number, lib.COLL_RING, rank, size, root, out)
        == lib.COLL_INVALID_ARGUMENT
    )
    assert out[0] == ffi.NULL


def test_making_a_plan_into_nothing_is_refused_and_freeing_nothing_is_fine() -> None:
    status = lib.coll_plan_make(lib.COLL_ALL_REDUCE, lib.COLL_RING, 0, 2, 0, ffi.NULL)
    assert status == lib.COLL_INVALID_ARGUMENT
    lib.coll_plan_free(ffi.NULL)


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


def find(plan: Plan, kind: int, message: int) -> int:
    (index,) = (i for i, s in enumerate(plan.steps) if (s.kind, s.message) == (kind, message))
    return index


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


def other_order(plans: Plans) -> Plans:
    """The same ring with the segments renamed: every sum is whole, none in the declared order."""
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


def star(size: int) -> Plans:
    """The root sends to everybody: right, but not the bytes of a chain."""
    root = tuple(Step(SEND, peer, 0, 0, FROM_INPUT, 0, -1) for peer in range(1, size))
    leaves = [Plan(rank, size, 1, (Step(RECV, 0, 0, 0, 0, 0, -1),)) for rank in range(1, size)]
    return [Plan(0, size, 1, root), *leaves]


def prove_reduction(plans: Plans) -> None:
    prover.prove_all_reduce(plans)
    for count in counts_for(len(plans)):
        prover.prove_all_reduce_bytes(plans, lengths(count, plans[0].segments))


def prove_chain(plans: Plans) -> None:
    prover.prove_broadcast(plans, 0)
    prover.prove_broadcast_bytes(plans, 0, lengths(100, 1))


def ring_with(**fields: int) -> Callable[[int, int], Plans]:
    """A ring of 4 with one field of one step of rank 2 changed."""

    def build(kind: int, message: int) -> Plans:
        plans = all_reduce(4)
        return changed(plans, 2, find(plans[2], kind, message), **fields)

    return build


MUTANTS: dict[str, tuple[str, Callable[[], Plans]]] = {
    "one end of a message takes another segment": (
        "match",
        lambda: ring_with(segment=1)(RECV, 5),
    ),
    "a send is missing": ("match", lambda: with_steps(all_reduce(4), 1, [])),
    "a whole round is missing": ("value", lambda: without_last_round(all_reduce(4))),
    "an input is added twice": ("value", lambda: added_twice(all_reduce(4))),
    "the order is another one": ("value", lambda: other_order(all_reduce(4))),
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


@pytest.mark.parametrize("name", MUTANTS)
def test_the_prover_catches_a_reduction_in_which(name: str) -> None:
    rule, build = MUTANTS[name]
    plans = build()
    with pytest.raises(PlanError) as caught:
        prove_reduction(plans)
    assert caught.value.rule == rule, caught.value


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


@pytest.mark.parametrize("name", BROADCAST_MUTANTS)
def test_the_prover_catches_a_broadcast_in_which(name: str) -> None:
    rule, build = BROADCAST_MUTANTS[name]
    plans = build()
    with pytest.raises(PlanError) as caught:
        prove_chain(plans)
    assert caught.value.rule == rule, caught.value


def mutated(plans: Plans, data: st.DataObject) -> Plans:
    """Change one field of one step to another value, in a way that cannot be right."""
    rank = data.draw(st.sampled_from([p.rank for p in plans if p.steps]), label="rank")
    index = data.draw(st.integers(0, len(plans[rank].steps) - 1), label="step")
    step = plans[rank].steps[index]
    fields = ["kind", "peer", "segment", "message", "source", "final"]
    if step.after >= 0:
        # To wait for more than is needed is not wrong; to wait for something else is.
        fields.append("after")
    field = data.draw(st.sampled_from(fields), label="field")
    value = data.draw(
        st.integers(-1, 2 * len(plans)).filter(lambda v: v != getattr(step, field)), label="value"
    )
    return changed(plans, rank, index, **{field: value})


@given(size=st.integers(2, 6), data=st.data())
@settings(deadline=None)
def test_no_field_of_a_ring_can_be_changed_unnoticed(size: int, data: st.DataObject) -> None:
    plans = mutated(all_reduce(size), data)
    with pytest.raises(PlanError):
        prove_reduction(plans)


@given(size=st.integers(2, 6), data=st.data())
@settings(deadline=None)
def test_no_field_of_a_chain_can_be_changed_unnoticed(size: int, data: st.DataObject) -> None:
    plans = mutated(broadcast(size, 0), data)
    with pytest.raises(PlanError):
        prove_chain(plans)


@given(size=st.integers(2, 6), data=st.data())
@settings(deadline=None)
def test_no_step_of_a_ring_can_be_left_out_or_doubled(size: int, data: st.DataObject) -> None:
    plans = all_reduce(size)
    rank = data.draw(st.integers(0, size - 1), label="rank")
    steps = list(plans[rank].steps)
    index = data.draw(st.integers(0, len(steps) - 1), label="step")
    if data.draw(st.booleans(), label="double"):
        steps.append(steps[index])
    else:
        steps.pop(index)
        steps = [
            dataclasses.replace(s, after=s.after - 1 if s.after > index else s.after) for s in steps
        ]
    with pytest.raises(PlanError):
        prove_reduction(with_steps(plans, rank, steps))


# ---- the same plans on numbers ---------------------------------------------------------------


def run(
    plans: Plans, inputs: list[np.ndarray], slice_elements: int, rng: random.Random, in_place: bool
) -> list[np.ndarray]:
    """Carry out the plans slice by slice in a random order, as an engine could.

    A send puts a *reference* to its bytes on the wire, and the receiver reads them when it likes:
    an overwritten buffer shows as a wrong result.
    """
    size, segments = len(plans), plans[0].segments
    inputs = [x.copy() for x in inputs]
    outputs = [
        x if in_place or not any(s.kind != SEND for s in plan.steps) else np.full_like(x, np.nan)
        for plan, x in zip(plans, inputs, strict=True)
    ]
    count = len(inputs[0])
    ranges = [segment_range(count, segments, i) for i in range(segments)]
    done: set[tuple[int, int, int]] = set()
    wire: dict[tuple[int, int, int, int], np.ndarray] = {}
    waiting = [
        (rank, index, j)
        for rank, plan in enumerate(plans)
        for index, step in enumerate(plan.steps)
        for j in range(-(-(ranges[step.segment][1] - ranges[step.segment][0]) // slice_elements))
    ]
    while waiting:
        rng.shuffle(waiting)
        left = []
        for rank, index, j in waiting:
            step = plans[rank].steps[index]
            begin = ranges[step.segment][0] + j * slice_elements
            part = slice(begin, min(begin + slice_elements, ranges[step.segment][1]))
            source, target = (rank, step.peer) if step.kind == SEND else (step.peer, rank)
            key = (source, target, step.message, j)
            ready = step.after < 0 or (rank, step.after, j) in done
            if not ready or (step.kind != SEND and key not in wire):
                left.append((rank, index, j))
                continue
            if step.kind == SEND:
                wire[key] = (inputs if step.source == FROM_INPUT else outputs)[rank][part]
            elif step.kind == RECV:
                outputs[rank][part] = wire.pop(key)
            else:
                outputs[rank][part] = wire.pop(key) + inputs[rank][part]
            done.add((rank, index, j))
        assert len(left) < len(waiting), "stuck"
        waiting = left
    assert not wire
    assert size == len(outputs)
    return outputs


@given(
    size=st.integers(1, 7),
    count=st.integers(0, 60),
    slice_elements=st.integers(1, 9),
    in_place=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_any_timing_and_slice_size_gives_the_bits_of_the_declared_order(
    size: int, count: int, slice_elements: int, in_place: bool, seed: int
) -> None:
    plans = all_reduce(size)
    numbers = np.random.default_rng(seed)
    # Numbers of very different sizes: another order of additions gives other bits.
    scale = 10.0 ** numbers.integers(-6, 6, (size, count))
    inputs = list(numbers.standard_normal((size, count)) * scale)
    wanted = np.empty(count)
    for segment in range(size):
        begin, end = segment_range(count, size, segment)
        total = inputs[segment][begin:end].copy()
        for k in range(1, size):
            total = total + inputs[(segment + k) % size][begin:end]
        wanted[begin:end] = total
    for output in run(plans, inputs, slice_elements, random.Random(seed), in_place):
        assert output.tobytes() == wanted.tobytes()


@given(
    size=st.integers(1, 7),
    count=st.integers(0, 60),
    slice_elements=st.integers(1, 9),
    in_place=st.booleans(),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
@settings(deadline=None)
def test_any_timing_and_slice_size_gives_everybody_the_bytes_of_the_root(
    size: int, count: int, slice_elements: int, in_place: bool, seed: int, data: st.DataObject
) -> None:
    root = data.draw(st.integers(0, size - 1), label="root")
    inputs = list(np.random.default_rng(seed).standard_normal((size, count)))
    outputs = run(broadcast(size, root), inputs, slice_elements, random.Random(seed), in_place)
    for output in outputs:
        assert output.tobytes() == inputs[root].tobytes()
