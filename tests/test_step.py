"""A step counts as a whole or not at all, for all survivors alike, whenever a member dies in it."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from typing import Any

import numpy as np
import pytest

import collectives
from crew import DEADLINE, Crew
from test_deaths import by_rank, crew_of

SMALL, LARGE = 1_000, 500_000  # elements of float32
NAMES = ("small", "large", "apart", "tagged", "copied", "twice")


# ---- what the processes run ------------------------------------------------------------------


class Arrays:
    """What a step of these tests works on, with values that tell the contributors."""

    def __init__(self, group: collectives.Group) -> None:
        bit = 1 << int(group.name.removeprefix("p"))
        self.small = np.full(SMALL, bit, np.float32)
        self.large = np.full(LARGE, bit, np.float64)
        self.apart = np.full(LARGE, bit, np.float32)
        self.out = np.zeros(LARGE, np.float32)
        self.tagged = np.full(SMALL, bit, np.int32)
        self.copied = np.full(SMALL, bit, np.int64)
        self.twice = np.full(2 * SMALL, bit, np.float64)

    def digests(self) -> dict[str, str]:
        return {name: hashlib.sha256(getattr(self, name)).hexdigest() for name in NAMES}


OPERATIONS = 7  # untagged, the agreement at the end among them


def operations(group: collectives.Group, arrays: Arrays) -> list[tuple[str, ...]]:
    """Blocking and asynchronous, all kinds, overlapping parts of an array; contributors."""
    took_part = [group.all_reduce(arrays.small, timeout=DEADLINE).contributors]
    works = [
        group.all_reduce_async(
            [arrays.large[:SMALL], arrays.large[SMALL::2], arrays.large[SMALL + 1 :: 2]],
            timeout=DEADLINE,
        ),
        group.all_reduce_async(arrays.tagged, "max", tag=5, timeout=DEADLINE),
    ]
    took_part.append(group.all_reduce(arrays.twice[:SMALL], timeout=DEADLINE).contributors)
    took_part.append(group.all_reduce(arrays.twice, timeout=DEADLINE).contributors)
    took_part.append(group.all_reduce(arrays.apart, out=arrays.out, timeout=DEADLINE).contributors)
    group.broadcast_async(arrays.copied, 0, timeout=DEADLINE)  # left to the end of the step
    took_part += [work.wait().contributors for work in works]
    return took_part


def take(group: collectives.Group) -> dict[str, Any]:
    """Take a step until it counts; what came of each attempt."""
    arrays = Arrays(group)
    before = arrays.digests()
    lost: list[tuple[str, str]] = []
    while True:
        try:
            with group.step(timeout=DEADLINE) as step:
                took_part = operations(group, arrays)
        except collectives.StepLost as error:
            assert not step.stands and step.contributors == ()
            assert arrays.digests() == before, "not all arrays are as they were"
            lost.append((error.peer, str(error)))
            continue
        break
    # All reductions have the same contributors, and their results say so, too.
    assert set(took_part) == {step.contributors}
    assert step.stands
    total = sum(1 << int(name.removeprefix("p")) for name in step.contributors)
    assert (arrays.small == total).all() and (arrays.large == total).all()
    assert (arrays.out == total).all()
    assert (arrays.twice[:SMALL] == total * len(step.contributors)).all()
    assert (arrays.twice[SMALL:] == total).all()
    group.barrier(timeout=DEADLINE)  # it is not broken
    result = arrays.digests()
    del result["apart"]  # an input, which is everybody's own
    return {"lost": lost, "took_part": step.contributors, "result": result}


def die_in_it(
    group: collectives.Group, phase: str, number: int, tag: int | None, journal: str
) -> dict[str, Any]:
    fd = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if tag is None:
        number += group._native.last_operation()
    else:
        number = 0  # the first of this tag
    group._fault_at(phase, number, tag, journal_fd=fd)
    return take(group)


# ---- nobody dies -----------------------------------------------------------------------------


def test_a_step_in_which_nobody_dies_is_like_its_operations():
    with Crew(3) as crew:
        found = crew.get(take)
        assert [outcome["lost"] for outcome in found] == [[], [], []]
        assert found[0] == found[1] == found[2]
        assert set(found[0]["took_part"]) == {"p0", "p1", "p2"}


def empty(group: collectives.Group) -> tuple[bool, tuple[str, ...]]:
    with group.step() as step:
        assert not step.stands
    return step.stands, step.contributors


def test_a_step_of_no_operations_counts():
    with Crew(2) as crew:
        assert crew.get(empty) == [(True, ())] * 2


# ---- deaths ----------------------------------------------------------------------------------

# The untagged operations of a step by number: 1 small, 2 large, 3 and 4 the parts of one array,
# 5 out of place, 6 the broadcast, 7 the agreement. The tagged one has an order of its own.
MOMENTS = [
    (1, "issued"),
    (1, "complete"),
    (2, "reduce_scatter"),
    (2, "all_gather"),
    (2, "tokens"),
    (3, "reduce_scatter"),
    (4, "issued"),
    (5, "between"),
    (5, "complete"),
    (6, "issued"),
    (7, "issued"),
    (7, "reduce_scatter"),
    (7, "complete"),
    ("tagged", "issued"),
    ("tagged", "complete"),
]


def test_the_moments_are_those_of_all_operations_of_a_step():
    assert {number for number, _ in MOMENTS} == {*range(1, OPERATIONS + 1), "tagged"}


def lose_one(crew: Crew, number: int | str, phase: str, journal: Any) -> None:
    victim = crew.members.pop()  # not the root of the broadcast
    for member in crew.members:
        member.start(take)
    where = (0, 5) if number == "tagged" else (number, None)
    victim.start(die_in_it, phase, *where, str(journal))
    assert victim.process.wait(DEADLINE) == -signal.SIGKILL
    assert journal.read_text().startswith(phase)
    found = [member.result().get() for member in crew.members]
    assert all(outcome == found[0] for outcome in found), "not alike on all survivors"
    survivors = {f"p{member.index}" for member in crew.members}
    took_part = set(found[0]["took_part"])
    dead = f"p{victim.index}"
    print(f"{number} {phase}: {found[0]['lost']}, then {sorted(took_part)}")
    # Either it died in the step's first reduction, or after the last, or the step was undone.
    assert took_part in (survivors, survivors | {dead})
    assert len(found[0]["lost"]) <= 1
    for peer, message in found[0]["lost"]:
        assert peer == dead
        assert f"'{dead}' was lost in the middle of the step" in message
        assert took_part == survivors
    if number == 7:
        assert dead in took_part, "it was in all reductions"
    if number in (3, 4):
        assert found[0]["lost"], "it was in some reductions only"
    by_rank(crew.members)


@pytest.mark.parametrize(("number", "phase"), MOMENTS)
def test_whenever_a_member_dies_in_a_step_it_counts_with_it_or_without_it(number, phase, tmp_path):
    with crew_of(3) as crew:
        lose_one(crew, number, phase, tmp_path / "journal")


@pytest.mark.full
@pytest.mark.parametrize("size", [2, 4, 5])
@pytest.mark.parametrize(("number", "phase"), MOMENTS)
def test_in_groups_of_other_sizes(size, number, phase, tmp_path):
    with crew_of(size) as crew:
        lose_one(crew, number, phase, tmp_path / "journal")


def test_one_member_after_another_dies_in_one_step(tmp_path):
    with crew_of(4) as crew:
        *staying, first, second = crew.members
        for member in staying:
            member.start(take)
        first.start(die_in_it, "complete", 3, None, str(tmp_path / "first"))
        second.start(die_in_it, "reduce_scatter", 5 + OPERATIONS, None, str(tmp_path / "second"))
        for victim in (first, second):
            assert victim.process.wait(DEADLINE) == -signal.SIGKILL
        found = [member.result().get() for member in staying]
        assert found[0] == found[1]
        assert [peer for peer, _ in found[0]["lost"]] == [f"p{first.index}", f"p{second.index}"]
        assert set(found[0]["took_part"]) == {f"p{member.index}" for member in staying}
        crew.members = staying


# ---- what goes wrong in the block ------------------------------------------------------------


def raise_in_it(group: collectives.Group, after: str) -> tuple[str, str, bool]:
    arrays = Arrays(group)
    before = arrays.digests()
    with pytest.raises(ZeroDivisionError), group.step():  # noqa: PT012
        if after != "nothing":
            group.all_reduce(arrays.small)
        if after == "what is under way":
            group.all_reduce_async(arrays.large)
            group.all_reduce_async(arrays.tagged, tag=5)
        elif after == "everything":
            operations(group, Arrays(group))
        raise ZeroDivisionError
    return go_on_after("", arrays, before, group)


def see_it_raise(group: collectives.Group, after: str) -> tuple[str, str, bool]:
    arrays = Arrays(group)
    before = arrays.digests()
    with pytest.raises(collectives.Cancelled) as caught, group.step(timeout=DEADLINE):  # noqa: PT012
        group.all_reduce(arrays.small, timeout=DEADLINE)
        if after == "what is under way":
            group.all_reduce_async(arrays.large)
            group.all_reduce_async(arrays.tagged, tag=5)
        if after == "everything":
            operations(group, Arrays(group))
        else:
            group.all_reduce(arrays.twice, timeout=DEADLINE)
    return go_on_after(str(caught.value), arrays, before, group)


def go_on_after(
    message: str, arrays: Arrays, before: dict[str, str], group: collectives.Group
) -> tuple[str, str, bool]:
    intact = arrays.digests() == before
    broken = ""
    try:
        group.barrier(timeout=DEADLINE)
    except collectives.CollectiveError as error:
        broken = type(error).__name__
    group.sync(timeout=DEADLINE)
    take(group)
    return message, broken, intact


@pytest.mark.parametrize("after", ["nothing", "one reduction", "what is under way", "everything"])
def test_a_block_that_raises_ends_the_step_of_all(after):
    with Crew(3) as crew:
        clumsy, *others = crew.members
        began = time.monotonic()
        clumsy.start(raise_in_it, after)
        for member in others:
            member.start(see_it_raise, after)
        assert clumsy.result().get() == ("", "Cancelled", True)
        for member in others:
            message, broken, intact = member.result().get()
            assert (
                message
                == f"'p{clumsy.index}' left a step by ZeroDivisionError; call sync() and go on"
            )
            assert (broken, intact) == ("Cancelled", True)
        assert time.monotonic() - began < 10


def fail_in_it(group: collectives.Group, error: type[Exception], **how: Any) -> tuple[str, bool]:
    """An operation of the block raises, and the block ends all the same."""
    arrays = Arrays(group)
    before = arrays.digests()
    with pytest.raises(error) as caught, group.step(timeout=DEADLINE):  # noqa: PT012
        group.all_reduce(arrays.small, timeout=DEADLINE)
        with pytest.raises(collectives.CollectiveError):
            group.all_reduce(arrays.large, timeout=DEADLINE, **how)
    return str(caught.value), arrays.digests() == before


def fail_to_raise(group: collectives.Group, journal: str) -> None:
    fd = os.open(journal, os.O_WRONLY | os.O_CREAT)
    group._fault_at("all_gather", group._native.last_operation() + 2, journal_fd=fd)
    fail_in_it(group, collectives.PeerLost, on_failure="raise")


def test_an_operation_that_raises_ends_the_step_of_all_though_the_block_goes_on(tmp_path):
    with crew_of(3) as crew:
        victim = crew.members.pop()
        victim.start(fail_to_raise, str(tmp_path / "journal"))
        for member in crew.members:
            member.start(on_failure_raise)
        assert victim.process.wait(DEADLINE) == -signal.SIGKILL
        for member in crew.members:
            message, intact = member.result().get()
            assert f"p{victim.index}" in message
            assert intact


def on_failure_raise(group: collectives.Group) -> tuple[str, bool]:
    return fail_in_it(group, collectives.PeerLost, on_failure="raise")


def wait_in_vain(group: collectives.Group) -> tuple[str, bool]:
    arrays = Arrays(group)
    before = arrays.digests()
    with pytest.raises(collectives.Timeout) as caught, group.step(timeout=0.5):
        group.all_reduce(arrays.small, timeout=DEADLINE)
    return str(caught.value), arrays.digests() == before


def come_too_late(group: collectives.Group, seconds: float) -> tuple[str, bool]:
    arrays = Arrays(group)
    before = arrays.digests()
    with pytest.raises(collectives.Timeout) as caught, group.step():  # noqa: PT012
        group.all_reduce(arrays.small, timeout=DEADLINE)
        time.sleep(seconds)  # the claim is that the others' patience ends
    return str(caught.value), arrays.digests() == before


def test_a_member_that_does_not_end_its_block_costs_all_the_step():
    with Crew(2) as crew:
        late, waiting = crew.members
        waiting.start(wait_in_vain)
        late.start(come_too_late, 1.5)
        (told, intact), (message, also_intact) = waiting.result().get(), late.result().get()
        assert told == message
        assert f"p{late.index}" in told
        assert intact and also_intact


# ---- what is refused -------------------------------------------------------------------------


def refuse(group: collectives.Group) -> list[str]:
    said = []
    with group.step() as step:
        group.all_reduce(np.ones(3))
        for call in (lambda: group.step().__enter__(), group.sync, group.leave, group.rejoin):
            with pytest.raises(collectives.InvalidArgument) as caught:
                call()
            said.append(str(caught.value))
        with pytest.raises(collectives.InvalidArgument):  # an own mistake that nobody hears of
            group.all_reduce([1, 2, 3])
    assert step.stands
    group.sync()
    return said


def test_no_step_in_a_step_and_no_safe_point():
    with Crew(2) as crew:
        for said in crew.get(refuse):
            assert [text.partition(" inside a step")[0] for text in said] == [
                "step()",
                "sync()",
                "leave()",
                "rejoin()",
            ]


def interrupt(group: collectives.Group) -> tuple[str, bool, float]:
    array = np.ones(SMALL)
    began = 0.0
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with group.step():
            group.all_reduce(array)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            began = time.monotonic() + 0.2
            group.barrier(timeout=DEADLINE)  # the other does not come
    except KeyboardInterrupt:
        return "interrupted", bool((array == 1).all()), time.monotonic() - began
    return "done", False, 0.0


def be_interrupted(group: collectives.Group) -> tuple[str, bool]:
    array = np.ones(SMALL)
    with pytest.raises(collectives.Cancelled) as caught, group.step():  # noqa: PT012
        group.all_reduce(array)
        time.sleep(1.0)
    return str(caught.value), bool((array == 1).all())


def test_ctrl_c_in_a_step_undoes_it_everywhere():
    with Crew(2) as crew:
        first, second = crew.members
        second.start(be_interrupted)
        first.start(interrupt)
        said, intact, took = first.result().get()
        assert (said, intact) == ("interrupted", True)
        assert took < 0.5
        message, intact = second.result().get()
        assert f"p{first.index}" in message and intact


def overlapping_views(group: collectives.Group) -> bool:
    import torch

    tensor = torch.arange(100, dtype=torch.float32)
    before = tensor.clone()
    with pytest.raises(RuntimeError), group.step():  # noqa: PT012
        group.all_reduce(tensor[10:20])
        group.all_reduce(tensor)
        group.all_reduce(tensor[5:15])
        group.all_reduce(tensor[10:20])
        raise RuntimeError
    group.sync(timeout=DEADLINE)
    return torch.equal(tensor, before)


def test_overlapping_parts_of_one_tensor_are_restored():
    with Crew(2) as crew:
        assert crew.get(overlapping_views) == [True, True]


def other_reductions(group: collectives.Group) -> bool:
    whole = np.arange(100, dtype=np.float32)
    summed = whole.copy()
    table = np.arange(60, dtype=np.int64).reshape(6, 10)
    size = 100 // group.size
    own = slice(group.rank * size, (group.rank + 1) * size)
    with pytest.raises(RuntimeError), group.step():  # noqa: PT012
        group.reduce_scatter(whole, out=whole[own], timeout=DEADLINE)
        group.reduce(summed, root=1, timeout=DEADLINE)
        group.all_reduce(table[::2, 3:7], timeout=DEADLINE)
        raise RuntimeError
    group.sync(timeout=DEADLINE)
    restored = [(array.ravel() == np.arange(array.size)).all() for array in (whole, summed, table)]
    return bool(all(restored))


def test_what_other_reductions_overwrite_is_restored():
    with Crew(2) as crew:
        assert crew.get(other_reductions) == [True, True]
