"""SharedState: whatever peers hold before, all hold the same after ``sync`` (G5)."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collectives
from collectives._native import fetch
from collectives.state import SharedState, plan
from crew import DEADLINE, Crew, Member
from pool import Pool
from raw_peer import until

MIB = 1 << 20


@pytest.fixture(scope="module")
def pool():
    with Pool(4) as made:
        yield made


# ---- in the processes --------------------------------------------------------------------------


def filled(size: int, seed: int) -> np.ndarray:
    """``size`` bytes of float32."""
    return np.random.default_rng(seed).standard_normal(size // 4).astype(np.float32)


def fingerprint(state: SharedState) -> str:
    found = hashlib.sha256(str(state.revision).encode())
    for name in sorted(state):
        value = state[name]
        try:
            content = bytes(state.view(name))
        except KeyError:
            content = repr(value).encode()
        found.update(f"{name} {type(value).__name__}".encode() + content)
    return found.hexdigest()


def differing(group: collectives.Group, sizes: dict[str, int]) -> dict[str, Any]:
    """Every rank begins with contents of its own; rank 1 and 2 agree."""
    seed = {0: 0, 1: 1, 2: 1}.get(group.rank, group.rank)
    values: dict[str, Any] = {name: filled(size, seed) for name, size in sizes.items()}
    state = SharedState({**values, "step": seed, "rate": seed / 3, "blob": bytes([seed]) * 5000})
    before = values["a"]
    outcome = group.sync(state)
    assert state["a"] is before
    return {
        "fingerprint": fingerprint(state),
        "bytes": outcome.bytes_received,
        "sources": dict(outcome.sources),
        "step": state["step"],
        "expected": bytes(state.view("a")) == filled(sizes["a"], 1).tobytes(),
        "run": state.run,
        "names": [peer.name for peer in group.peers],
    }


def test_the_state_that_most_hold_is_everybodys_after_sync(pool):
    sizes = {"a": 9 * MIB + 4, "b": 4, "c": 0, "d": 4 * MIB}
    found = pool.get(4, differing, sizes)
    assert len({each["fingerprint"] for each in found}) == 1
    assert len({each["run"] for each in found}) == 1 and found[0]["run"] is not None
    assert all(each["expected"] and each["step"] == 1 for each in found)
    whole = sum(sizes.values())
    for rank, each in enumerate(found):
        if rank in (1, 2):
            assert each["bytes"] == 0 and each["sources"] == {}
        else:
            # A piece or two may have been packed, to see whether that pays.
            assert 0.9 * whole < each["bytes"] < whole + 20_000
            assert set(each["sources"]) <= {each["names"][1], each["names"][2]}
            assert sum(each["sources"].values()) == each["bytes"]


def changing(group: collectives.Group) -> list[Any]:
    state = SharedState({"a": filled(64 * MIB, 1), "b": filled(8 * MIB, 1), "n": 0})
    received = [group.sync(state).bytes_received]
    if group.rank == 0:
        state["b"][5 * MIB // 4] += 1  # in the second of two chunks
    else:
        state["n"] = 7
        state.advance()
    received.append(group.sync(state).bytes_received)
    received.append(group.sync(state).bytes_received)
    return [received, fingerprint(state), state["n"], state.revision]


def test_only_the_chunks_that_differ_travel(pool):
    found = pool.get(3, changing)
    assert len({tuple(each[1:]) for each in found}) == 1
    assert found[0][2:] == [7, 1]
    assert found[1][0] == found[2][0] == [0, 0, 0]
    first, changed, last = found[0][0]
    assert first == last == 0
    assert 3 * MIB < changed < 4 * MIB + 5000


def kinds(group: collectives.Group) -> list[Any]:
    import torch

    lucky = group.rank == 0
    state = SharedState(
        {
            "bf16": torch.full((3, 5), 1.5 if lucky else 0.0, dtype=torch.bfloat16),
            "bool": torch.tensor([lucky, False]),
            "param": torch.nn.Parameter(torch.full((7,), float(lucky))),
            "scalar": torch.tensor(float(lucky)),
            "c128": np.zeros((2, 0, 3), np.complex128),
            "i16": np.array(-5 if lucky else 1, np.int16),
            "big": -(2**63) if lucky else 0,
            "nan": float("nan") if lucky else 0.0,
            "yes": lucky,
            "grown": b"x" * (9 * MIB if lucky else 10),
            "shrunk": b"y" * (3 if lucky else 9 * MIB),
        },
        revision=1 if lucky else 0,
    )
    group.sync(state)
    return [
        fingerprint(state),
        state["big"],
        state["yes"],
        len(state["grown"]),
        len(state["shrunk"]),
    ]


def test_all_kinds_of_values_are_shared(pool):
    found = pool.get(2, kinds)
    assert found[0] == found[1]
    assert found[0][1:] == [-(2**63), True, 9 * MIB, 3]


def poor(group: collectives.Group) -> Any:
    state = SharedState(role="receive_only")
    if group.rank == 1:
        import torch

        state = SharedState(
            {
                "w": filled(5 * MIB, 3).reshape(-1, 4),
                "half": torch.ones(3, dtype=torch.bfloat16),
                "none": np.zeros((4, 0)),
                "step": 3,
            }
        )
    group.sync(state)
    shapes = {name: tuple(np.shape(state[name])) for name in ("w", "none")}
    return fingerprint(state), type(state["half"]).__name__, shapes, state["step"]


def test_who_lacks_tensors_gets_them_allocated(pool):
    found = pool.get(3, poor)
    assert len({each[0] for each in found}) == 1
    assert found[0][1:] == ("Tensor", {"w": (5 * MIB // 16, 4), "none": (4, 0)}, 3)


def with_role(group: collectives.Group, roles: list[str], revisions: list[int]) -> Any:
    mine = revisions[group.rank]
    values = {"w": np.full(1000, mine, np.int64)}
    state = SharedState(values, role=roles[group.rank], revision=mine)
    try:
        group.sync(state, timeout=20)
    except collectives.StateError as error:
        return str(error)
    return int(state["w"][0]), [p.name for p in group.peers]


def test_a_receive_only_state_never_counts(pool):
    found = pool.get(3, with_role, ["auto", "receive_only", "auto"], [1, 9, 2])
    assert [each[0] for each in found] == [2, 2, 2]


def test_if_nobody_gives_it_is_an_error_on_all(pool):
    found = pool.get(2, with_role, ["receive_only"] * 2, [1, 2])
    assert all("no state can be shared: no peer has a whole state to give" in e for e in found)


# ---- newcomers ----------------------------------------------------------------------------------

_state: SharedState | None = None


def found(group: collectives.Group, values: dict[str, Any], how: dict[str, Any]) -> Any:
    """The first sync with a state, which is kept for the next calls."""
    global _state
    _state = SharedState(values, **how)
    try:
        outcome = group.sync(_state, timeout=20)
    except collectives.StateError as error:
        return str(error)
    return report(group, outcome)


def until_size(group: collectives.Group, size: int) -> Any:
    """Sync until a view of that size was there, perhaps only inside a sync."""
    seen: list[int] = []
    group.on_view_change(lambda view: seen.append(view.size))
    deadline = time.monotonic() + DEADLINE
    while size not in seen:
        assert time.monotonic() < deadline, f"no view of {size} peers: {seen}"
        outcome = group.sync(_state)
    return report(group, outcome)


def report(group: collectives.Group, outcome: collectives.SyncOutcome) -> dict[str, Any]:
    assert _state is not None
    return {
        "state": fingerprint(_state),
        "bytes": outcome.bytes_received,
        "sources": dict(outcome.sources),
        "joined": outcome.joined,
        "left": outcome.left,
        "names": tuple(peer.name for peer in group.peers),
        "revision": _state.revision,
    }


def reduce(group: collectives.Group) -> int:
    array = np.ones(3)
    group.all_reduce(array)
    return int(array[0])


def admit(crew: Crew, values: dict[str, Any], name: str = "new", **how: Any) -> list[Any]:
    """Have one more peer join, with a state of its own; what all say of the sync."""
    members = list(crew.members)
    newcomer = crew.add(min_size=1, name=name)
    for member in members:
        member.start(until_size, len(members) + 1)
    newcomer.result().get()
    newcomer.start(found, values, how)
    return [member.result().get() for member in crew.members]


WEIGHTS = {"w": np.arange(3 * MIB, dtype=np.float64).reshape(3, -1), "step": 5}


def test_a_newcomer_takes_the_state_in_the_sync_that_admits_it_from_several_members():
    with Crew(3) as crew:
        crew.get(found, WEIGHTS, {"revision": 3})
        *members, newcomer = admit(crew, {})
        assert {each["state"] for each in members} == {newcomer["state"]}
        assert {each["joined"] for each in members} == {("new",)}
        assert newcomer["revision"] == 3
        whole = 24 * MIB
        assert 0 < newcomer["bytes"] < whole + 5000
        assert sum(newcomer["sources"].values()) == newcomer["bytes"]
        shares = sorted(share / newcomer["bytes"] for share in newcomer["sources"].values())
        print("shares", shares)
        assert len(shares) == 3
        # Operations and syncs of all go on as if nothing had been.
        assert crew.get(reduce) == [4] * 4
        for member in crew.members:
            member.start(again)
        assert [member.result().get() for member in crew.members] == [0] * 4


def again(group: collectives.Group) -> int:
    assert _state is not None
    return group.sync(_state).bytes_received


def test_a_newcomer_does_not_vote_whatever_it_brings():
    with Crew(2) as crew:
        crew.get(found, {"n": 1}, {"revision": 3})
        *members, newcomer = admit(crew, {"n": 2}, revision=99)
        assert {each["revision"] for each in (*members, newcomer)} == {3}
        assert {each["state"] for each in members} == {newcomer["state"]}


MISFITS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"w": np.ones((3, 2))},
        {},
        "'w' is a float64 tensor of shape (3, 2) at 'misfit' and a float64 tensor of shape (2, 3)"
        " at 'p",
    ),
    ({"w": np.ones((2, 3), np.float32)}, {}, "'w' is a float32 tensor of shape (2, 3) at 'misfit'"),
    ({"w": 3}, {}, "'w' is a int at 'misfit' and a float64 tensor of shape (2, 3) at 'p"),
    ({"w": np.ones((2, 3)), "v": 1}, {}, "'misfit' shares 'v', which 'p"),
    ({"w": np.ones((2, 3))}, {"role": "send_only"}, "its role is send_only"),
    ({"w": np.zeros((2, 3))}, {"run": uuid.UUID(int=7)}, "00000007, the group's to run"),
]


def test_newcomers_that_do_not_fit_leave_with_an_error_and_the_others_go_on():
    with Crew(2) as crew:
        crew.get(found, {"w": np.zeros((2, 3))}, {})
        for values, how, says in MISFITS:
            *members, message = admit(crew, values, "misfit", **how)
            assert says in message and "this peer left the group" in message
            assert {frozenset(each["names"]) for each in members} == {frozenset(("p0", "p1"))}
            crew.members.pop().end()
            assert crew.get(reduce) == [2, 2]


# ---- deaths and corruption ----------------------------------------------------------------------

BIG = 48 * MIB


def sabotage(group: collectives.Group, how: str, sign: str = "") -> str:
    """Prepare this process for its next transfer; returns its name.

    Args:
        how: what to do in it.
        sign: a path; made by a source that dies, waited for by a source that lets it go first.
    """
    service = group._mine.service
    server = service and service._server
    answer = server and service._answer
    came = plan.Plan.came
    count = itertools.count(1)

    def answering(peer, data, most):
        made = answer(peer, data, most)
        if made is None or made.data.nbytes < MIB:
            return made
        number = next(count)
        if how == "source dies" and number == 3:
            Path(sign).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "source goes second" and number > 3:
            until(Path(sign).exists, "the other source is not asked")
        if how == "source is wrong" and number % 2 == 0:
            wrong = bytearray(made.data)
            wrong[len(wrong) // 2] ^= 1
            return fetch.Answer(memoryview(wrong), lent=False)
        return made

    def coming(self, *arguments):
        if how == "receiver dies" and next(count) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return came(self, *arguments)

    if server:
        server.serve(group._mine.native.id, answering)
    plan.Plan.came = coming
    return group.name


def many() -> dict[str, Any]:
    return {"a": filled(BIG, 1), "b": filled(BIG, 2), "n": 3}


def of_many(group: collectives.Group) -> Any:
    return found(group, many(), {"revision": 1})


def joining(group: collectives.Group, how: str) -> Any:
    if how:
        sabotage(group, how)
    return found(group, {}, {})


def have_joined(crew: Crew, how: str = "") -> Member:
    """Start a newcomer's first sync, and the members' one; nobody is waited for."""
    members = list(crew.members)
    newcomer = crew.add(min_size=1)
    for member in members:
        member.start(until_size, len(members) + 1)
    newcomer.result().get()
    newcomer.start(joining, how)
    return newcomer


def test_a_source_that_dies_in_mid_transfer_is_replaced(tmp_path):
    with Crew(3, join={"min_size": 3}) as crew:
        crew.get(of_many)
        # The others stop at some time, or they might have sent all before it is asked thrice.
        for member, how in zip(
            crew.members, ("source goes second", "source dies", "source goes second"), strict=True
        ):
            member.start(sabotage, how, str(tmp_path / "sign"))
        name = [member.result().get() for member in crew.members][1]
        newcomer = have_joined(crew)
        assert crew.members[1].result().error == "Died"
        dead = crew.members.pop(1)
        dead.process.wait(5)
        others = [member.result().get() for member in crew.members]
        assert {each["state"] for each in others} == {others[0]["state"]}
        assert {each["names"] for each in others} == {others[0]["names"]}
        assert name not in others[0]["names"] and len(others[0]["names"]) == 3
        taken = newcomer is crew.members[-1] and others[-1]
        # Nothing that had come was fetched again.
        assert taken["bytes"] < 2 * BIG + 5 * 4 * MIB
        assert len(set(taken["sources"]) - {name}) == 2
        assert crew.get(reduce) == [3] * 3


def test_members_go_on_when_the_receiver_dies_in_mid_transfer():
    with Crew(2) as crew:
        crew.get(of_many)
        newcomer = have_joined(crew, "receiver dies")
        assert newcomer.result().error == "Died"
        crew.members.remove(newcomer)
        both = [member.result().get() for member in crew.members]
        assert both[0]["state"] == both[1]["state"]
        assert len(both[0]["names"]) == 2
        assert crew.get(reduce) == [2] * 2


def test_a_chunk_that_is_not_what_it_should_be_is_refused_and_fetched_from_another_source():
    with Crew(2) as crew:
        crew.get(of_many)
        crew.members[0].start(sabotage, "source is wrong")
        name = crew.members[0].result().get()
        have_joined(crew)
        all_ = [member.result().get() for member in crew.members]
        assert {each["state"] for each in all_} == {all_[0]["state"]}
        taken = all_[-1]["sources"]
        # Three wrong answers, and it is asked no more; what was right of it counts.
        assert taken[name] <= 7 * (4 * MIB + 70_000)
        assert sum(taken.values()) > 1.8 * BIG


def interrupted(group: collectives.Group) -> Any:
    """Rank 0 is stopped in mid-transfer; then all sync again."""
    mine = {"w": filled(BIG, group.rank), "blob": bytes([group.rank]) * (5 * MIB)}
    state = SharedState(mine, revision=min(group.rank, 1))
    came = plan.Plan.came
    count = itertools.count(1)

    def coming(self, *arguments):
        if next(count) == 5:
            raise KeyboardInterrupt
        return came(self, *arguments)

    if group.rank == 0:
        plan.Plan.came = coming
    try:
        group.sync(state, timeout=20)
    except (KeyboardInterrupt, collectives.Cancelled) as error:
        first = f"{type(error).__name__} {error}"
    else:
        first = "nothing was raised"
    finally:
        plan.Plan.came = came
    complete = state.complete
    outcome = group.sync(state, timeout=20)
    array = np.ones(4)
    group.all_reduce(array)
    assert array[0] == group.size
    return {
        "first": first,
        "complete": complete,
        "bytes": outcome.bytes_received,
        "state": fingerprint(state),
        "revision": state.revision,
    }


def test_a_transfer_that_is_interrupted_ends_the_sync_everywhere_and_is_resumed(pool):
    stopped, *others = pool.get(3, interrupted)
    assert stopped["first"].startswith("KeyboardInterrupt") and not stopped["complete"]
    for other in others:
        assert "gave up taking the state over" in other["first"]
        assert other["complete"] and other["revision"] == 1
    assert stopped["state"] == others[0]["state"]
    # Of four pieces that had come two were of the tensor, and came for good.
    assert 0.5 * BIG < stopped["bytes"] < BIG + 5 * MIB - 2 * 4 * MIB + 10_000


def with_or_without(group: collectives.Group) -> Any:
    group.sync(SharedState({"n": 1}) if group.rank == 0 else None, timeout=20)


def test_sync_with_and_without_a_state_is_a_mismatch(pool):
    found = pool.run(2, with_or_without)
    assert {each.error for each in found} == {"MismatchError"}
    assert all("sync(state)" in each.message and "sync()" in each.message for each in found)
