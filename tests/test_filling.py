"""A newcomer that passes its state to ``join`` fetches it before it is admitted."""

from __future__ import annotations

import itertools
import pathlib
import time
from typing import Any

import numpy as np

import collectives
import crew
from collectives.state import SharedState, transfer
from crew import DEADLINE, Crew, Member
from test_state import fingerprint

MIB = 1 << 20
BIG = 64 * MIB
"""Bytes of the tensor that does not change."""
SMALL = 4 * MIB
"""Bytes of the one that does."""

# ---- in the processes --------------------------------------------------------------------------

_state: SharedState | None = None


def content() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(BIG // 8)


def join(
    _: None,
    address: str,
    arguments: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    """Join with a state of zeros: ``fill`` says whether it is fetched before the admission.

    ``moment``: after that many fetched chunks, this process tells of it in the file ``mark`` and
    goes on when the file is gone.
    """
    global _state
    fill, moment = arguments.pop("fill", None), arguments.pop("moment", None)
    mark = arguments.pop("mark", None)
    if moment is not None:
        pause(moment, mark)
    if fill is None:
        return crew.join(None, address, arguments, options)
    _state = SharedState({"big": np.zeros(BIG // 8), "small": np.zeros(SMALL // 8), "step": 0})
    if fill:
        arguments["state"] = _state
    return crew.join(None, address, arguments, options)


def pause(moment: int, mark: str) -> None:
    """Wait at the ``moment``-th verified chunk until ``mark``, which is made then, is gone."""
    count = itertools.count(1)
    ended = transfer.Transfer._ended

    def stopping(self: Any, *arguments: Any) -> None:
        ended(self, *arguments)
        if next(count) == moment:
            pathlib.Path(mark).touch()
            deadline = time.monotonic() + DEADLINE
            while pathlib.Path(mark).exists() and time.monotonic() < deadline:
                time.sleep(0.01)

    transfer.Transfer._ended = stopping  # type: ignore[method-assign]


def begin(group: collectives.Group) -> str:
    """A member's state, after its first sync."""
    global _state
    _state = SharedState({"big": content(), "small": np.ones(SMALL // 8), "step": 0})
    group.sync(_state)
    return fingerprint(_state)


def train(group: collectives.Group, until: list[str]) -> dict[str, Any]:
    """Reduce, advance and sync until the peers that ``until`` names are there."""
    assert _state is not None
    fetched, received = group.fetched, 0
    steps = 0
    deadline = time.monotonic() + DEADLINE
    while True:
        received += group.sync(_state).bytes_received
        if set(until) == {peer.name for peer in group.peers}:
            break
        assert time.monotonic() < deadline, f"{group.peers} after {steps} steps"
        # A sync admits several or a part of them: who is new learns of it by their number.
        gradient = np.full(SMALL // 8, _state["step"] + 1.0)
        group.all_reduce(gradient, op="avg")
        weights = _state["small"]
        weights += gradient
        _state["step"] += 1
        _state.advance()
        steps += 1
    return {
        "state": fingerprint(_state),
        "big": bool((_state["big"] == content()).all()),
        "steps": steps,
        "fetched": None if fetched is None else fetched.bytes_received,
        "sources": {} if fetched is None else fetched.sources,
        "received": received,
    }


def step(group: collectives.Group) -> int:
    """One reduction and one step without a sync."""
    assert _state is not None
    gradient = np.ones(SMALL // 8)
    group.all_reduce(gradient)
    weights = _state["small"]
    weights += gradient
    _state.advance()
    return int(gradient[0])


def plain_sync(group: collectives.Group, until: list[str]) -> list[str]:
    """Sync without a state until the peers that ``until`` names are there."""
    deadline = time.monotonic() + DEADLINE
    while set(until) != (names := {peer.name for peer in group.peers}):
        assert time.monotonic() < deadline, f"only {names}"
        group.sync()
    return sorted(names)


# ---- the tests ---------------------------------------------------------------------------------


def members(size: int) -> Crew:
    return Crew(size, joiner="test_filling:join")


def admitted(run: Crew, *newcomers: Member) -> list[dict[str, Any]]:
    """Train until the newcomers are members; what all say then, and it is the same state."""
    names = [f"p{member.index}" for member in run.members]
    for member in run.members:
        member.start(train, names)  # a newcomer: when it has joined
    for newcomer in newcomers:
        newcomer.result().get()
    found = [member.result().get() for member in run.members]
    print([{key: each[key] for key in ("steps", "fetched", "received")} for each in found])
    assert len({each["state"] for each in found}) == 1
    assert all(each["big"] for each in found)
    return found


def reached(mark: pathlib.Path) -> None:
    """Wait until a process has reached its moment."""
    deadline = time.monotonic() + DEADLINE
    while not mark.exists():
        assert time.monotonic() < deadline, "the moment was not reached"
        time.sleep(0.01)


def test_a_newcomer_fetches_the_bulk_before_it_is_admitted():
    with members(3) as run:
        run.get(begin)
        *olds, new = admitted(run, run.add(fill=True, min_size=1))
        assert min(each["steps"] for each in olds) >= 1
        assert BIG < new["fetched"] < BIG + 3 * SMALL + 100_000
        # It may have caught some of them in the next sync already, and asked these alone.
        assert set(new["sources"]) <= {"p0", "p1", "p2"}
        # Of what did not change nothing came in the sync.
        assert new["received"] <= SMALL + 100_000


def test_members_reduce_and_advance_while_it_fetches(tmp_path):
    mark = tmp_path / "mark"
    with members(2) as run:
        run.get(begin)
        olds = list(run.members)
        new = run.add(fill=True, min_size=1, moment=4, mark=str(mark))
        reached(mark)
        for _ in range(3):
            for member in olds:
                member.start(step)
            assert [member.result().get() for member in olds] == [2, 2]
        mark.unlink()
        *_, taken = admitted(run, new)
        # What had not changed did not come twice.
        assert BIG < taken["fetched"] < BIG + 2 * SMALL + 100_000
        assert taken["received"] <= SMALL + 100_000


def test_a_member_that_dies_while_a_newcomer_fetches_costs_neither_of_them_what_it_has(tmp_path):
    mark = tmp_path / "mark"
    with members(2) as run:
        run.get(begin)
        admitted(run, run.add(fill=True, min_size=1))
        *olds, dead = list(run.members)
        new = run.add(fill=True, min_size=1, moment=5, mark=str(mark))
        reached(mark)
        run.members.remove(dead)
        dead.kill()
        for member in olds:
            member.start(step)
        assert [member.result().get() for member in olds] == [2, 2]
        mark.unlink()
        *_, taken = admitted(run, new)
        # Perhaps what the dead one had been asked for, and nothing else, was asked for again.
        assert BIG - 16 * MIB < taken["fetched"] + taken["received"] < BIG + 6 * SMALL
        assert taken["received"] <= SMALL + 100_000


def test_members_do_not_care_if_a_newcomer_dies_while_it_fetches(tmp_path):
    mark = tmp_path / "mark"
    with members(2) as run:
        run.get(begin)
        olds = list(run.members)
        new = run.add(fill=True, min_size=1, moment=5, mark=str(mark))
        reached(mark)
        run.members.remove(new)
        new.kill()
        for _ in range(2):
            for member in olds:
                member.start(step)
            assert [member.result().get() for member in olds] == [2, 2]
        later = run.add(fill=True, min_size=1, name="later")
        run.members.remove(later)  # it is not p2
        for member in olds:
            member.start(train, ["p0", "p1", "later"])
        later.result().get()
        later.start(train, ["p0", "p1", "later"])
        found = [member.result().get() for member in (*olds, later)]
        later.end()
        assert len({each["state"] for each in found}) == 1 and found[-1]["fetched"] > BIG


def test_two_newcomers_fetch_at_once():
    with members(2) as run:
        run.get(begin)
        both = [run.add(fill=True, min_size=1) for _ in range(2)]
        *_, first, second = admitted(run, *both)
        for each in (first, second):
            assert each["fetched"] > BIG and each["received"] < BIG // 2


def test_without_a_state_a_newcomer_fetches_in_its_first_sync_as_ever():
    with members(2) as run:
        run.get(begin)
        *_, new = admitted(run, run.add(fill=False, min_size=1))
        assert new["fetched"] is None
        assert BIG < new["received"] < BIG + 2 * SMALL + 100_000


def test_where_the_members_share_nothing_a_newcomer_with_a_state_is_admitted_all_the_same():
    with members(2) as run:
        olds = list(run.members)
        new = run.add(fill=True, min_size=1)
        names = ["p0", "p1", "p2"]
        for member in olds:
            member.start(plain_sync, names)
        new.result().get()
        new.start(plain_sync, names)
        assert [member.result().get() for member in (*olds, new)] == [names] * 3


def test_with_a_state_the_first_view_forms_at_once():
    with Crew(2, join={"fill": True}, joiner="test_filling:join") as run:
        assert run.get(step) == [2, 2]
