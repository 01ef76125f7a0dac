"""Somebody made a call before a death, and somebody makes it after it, knowing who is left: what
belongs together are the blocks of those who are left, or nothing does (G1, G2)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import collectives
from calls import ROOTED, SHAPED, Call
from crew import DEADLINE
from mortals import Mortals, arm, go_on

BLOCK = 6_000  # of three ranks too much to be small, of two small: plans depend on it


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as mortals:
        yield mortals


def eventually(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def settle(group: Any, prepared: Any, work: Any) -> tuple[str, Any]:
    """How it ended; every byte is checked."""
    try:
        result = work()
    except collectives.CollectiveError as error:
        prepared.check_input()
        found = type(error).__name__, getattr(error, "peer", "")
        group.sync(timeout=DEADLINE)
    else:
        prepared.check(result)
        found = "ok", result.contributors
    assert len(go_on(group)) == 2
    return found


def early(group: Any, call: Call) -> tuple[str, Any]:
    """The second one while the caller knows of no death: with resize also before there is one."""
    first = Call("all_reduce", 100).prepare(group)
    second = call.prepare(group)
    works = []
    for each in (first, second):
        begin = getattr(group, f"{each.call.kind}_async")
        works.append(begin(each.array, timeout=DEADLINE, **each.how))
        if not (call.kind in SHAPED and call.resize and call.root != 2):
            # What must not be repeated may not be under way when somebody dies.
            eventually(works[0].done)
    assert group.size == 3
    assert len(works[0].wait().contributors) == 2
    return settle(group, second, works[1].wait)


def late(group: Any, call: Call) -> tuple[str, Any]:
    """One after the other, the second one in the view of two."""
    assert len(Call("all_reduce", 100).make(group, timeout=DEADLINE).contributors) == 2
    assert group.size == 2
    made = call.prepare(group)
    function = getattr(group, call.kind)
    return settle(group, made, lambda: function(made.array, timeout=DEADLINE, **made.how))


def die(group: Any, folder: str) -> None:
    arm(group, "issued", folder)
    group.barrier(timeout=DEADLINE)


def names(group: Any) -> tuple[str, ...]:
    return tuple(peer.name for peer in group.peers)


def play(
    mortals: Mortals, folder: Any, transport: str, first: Call, second: Call
) -> tuple[str, Any, tuple[str, ...]]:
    """How it ended for both who are left, and the names of all three."""
    members = mortals.band(3, {"transport": transport})
    members[0].start(names)
    who = members[0].result().get()
    members[0].start(early, first)
    members[1].start(late, second)
    members[2].start(die, str(folder))
    assert members.pop().result().error == "Died"
    found = [member.result().get() for member in members]
    mortals.disband(members)
    assert found[0] == found[1]
    return *found[0], who


@pytest.mark.parametrize("transport", ["tcp", pytest.param("auto", marks=pytest.mark.full)])
@pytest.mark.parametrize("resize", [True, False], ids=["resize", "raise"])
@pytest.mark.parametrize("counts", ["", "uneven"], ids=["even", "uneven"])
@pytest.mark.parametrize("kind", SHAPED)
def test_blocks_of_two_views_fit_with_resize_and_only_then(
    mortals, tmp_path, kind, counts, resize, transport
):
    call = Call(kind, 3 * BLOCK, 1, in_place=True, counts=counts, resize=resize)
    after = dataclasses.replace(call, count=2 * BLOCK)
    status, who, members = play(mortals, tmp_path, transport, call, after)
    if not resize:
        assert (status, who) == ("PeerLost", members[2])
    else:
        assert (status, who) == ("ok", members[1:2] if kind == "scatter" else members[:2])


@pytest.mark.parametrize("kind", ROOTED)
def test_a_root_that_died_before_is_a_loss_also_for_who_calls_another(mortals, tmp_path, kind):
    # With who called another root there is nothing to compare: that of the first is gone.
    call = Call(kind, 3 * BLOCK, 2, resize=True)
    after = dataclasses.replace(call, count=2 * BLOCK, root=0)
    status, who, members = play(mortals, tmp_path, "auto", call, after)
    assert (status, who) == ("PeerLost", members[2])
