"""Who was put out of the run comes back as a new member; what the old one sent counts nowhere."""

from __future__ import annotations

import hashlib
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import collectives
from crew import DEADLINE, Crew, Member
from test_deaths import crew_of, grow

SMALL, LARGE = 10_000, 2_000_000  # elements of float32
IMPATIENT = {"detection": 1.0}

held: list[tuple[collectives.Work, np.ndarray]] = []


# ---- what the processes run ------------------------------------------------------------------


def inputs(name: str, number: int, count: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(f"{name} {number}".encode()).digest()[:4], "little")
    return np.random.default_rng(seed).random(count, np.float32)


def reduce_some(group: collectives.Group, first: int, calls: int, count: int) -> str:
    """Reductions of what this peer's name says; a digest of their results and contributors."""
    digest = hashlib.sha256()
    for number in range(first, first + calls):
        array = inputs(group.name, number, count)
        took_part = group.all_reduce(array, timeout=DEADLINE).contributors
        digest.update(array.tobytes() + " ".join(took_part).encode())
    return digest.hexdigest()


def until_out(
    group: collectives.Group, count: int, stop: tuple[str, int] | None = None
) -> tuple[str, bool, bool]:
    """Reductions until this peer is put out: what it was told, whether the outcome was unknown, and
    whether the input was as before. ``stop``: the moment at which the process stops itself."""
    if stop is not None:
        phase, number = stop
        number += group._native.last_operation()
        group._fault_at(phase, number, action="stop")
    number = 0
    while True:
        pristine = inputs(group.name, number, count)
        array = pristine.copy()
        number += 1
        try:
            group.all_reduce(array, timeout=DEADLINE)
        except collectives.Evicted as error:
            return str(error), error.outcome_unknown, array.tobytes() == pristine.tobytes()


def until_smaller(group: collectives.Group, count: int) -> tuple[int, str]:
    """Reductions until somebody is missing in one: how many, and a digest of the results."""
    digest = hashlib.sha256()
    for number in range(1_000_000):
        array = inputs(group.name, number, count)
        size = group.size
        took_part = group.all_reduce(array, timeout=DEADLINE).contributors
        digest.update(array.tobytes())
        if len(took_part) < size:
            return number, digest.hexdigest()
    raise AssertionError("nobody went")


def rejoin(group: collectives.Group) -> tuple[str, int]:
    heard: list[int] = []
    group.on_view_change(lambda view: heard.append(view.number))
    view = group.rejoin(timeout=DEADLINE)
    assert view == group.view and heard == [view.number]
    assert group.peers[group.rank].name == group.name
    return group.name, view.number


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def wait_until_stopped(member: Member) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_stopped(member.pid):
        assert time.monotonic() < deadline, "it was not stopped"
        time.sleep(0.002)


# ---- stopped and woken -----------------------------------------------------------------------


def come_back(crew: Crew, lost: Member, others: list[Member]) -> None:
    """The lost one rejoins, the others sync; all of them then get the same bits."""
    lost.start(rejoin)
    for member in others:
        member.start(grow, len(crew.members))
    name, _ = lost.result().get()
    assert name == f"p{lost.index}"
    for member in others:
        member.result().get()
    for count in (SMALL, LARGE):
        assert len(set(crew.get(reduce_some, 0, 5, count))) == 1


@pytest.mark.parametrize("times", [1, pytest.param(8, marks=pytest.mark.full)])
@pytest.mark.parametrize("count", [SMALL, LARGE], ids=["small", "large"])
def test_a_peer_that_stood_still_is_evicted_rejoins_and_takes_part(count, times):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    with crew_of(3, IMPATIENT) as crew:
        for _ in range(times):
            lost = crew.members[chance.randrange(3)]
            others = [member for member in crew.members if member is not lost]
            phase = chance.choice(["issued", "reduce_scatter", "all_gather", "complete"])
            print(f"p{lost.index} stops at {phase}")
            for member in others:
                member.start(until_smaller, count)
            lost.start(until_out, count, (phase, chance.randrange(1, 4)))
            wait_until_stopped(lost)
            # The others go on without it, all alike, while it still stands.
            assert len({member.result().get() for member in others}) == 1
            # It wakes up in the middle of their next calls, and sends what it had not sent.
            for member in others:
                member.start(reduce_some, 100, 200 if count == SMALL else 10, count)
            lost.signal(signal.SIGCONT)
            assert len({member.result().get() for member in others}) == 1
            message, unknown, intact = lost.result().get()
            print(message)
            assert "rejoin()" in message
            assert intact
            # A small operation may have succeeded before it heard; then it was out at the next.
            assert unknown or count == SMALL
            come_back(crew, lost, others)


def test_what_the_others_compute_is_what_they_would_have_without_its_late_writes():
    """The survivors' results are those of two peers that were alone from the start."""
    with crew_of(2) as crew:
        for member in crew.members:
            member.start(reduce_some, 300, 20, LARGE)
        alone = {member.result().get() for member in crew.members}
    assert len(alone) == 1
    with crew_of(3, IMPATIENT) as crew:
        lost = next(member for member in crew.members if member.index == 2)
        others = [member for member in crew.members if member is not lost]
        for member in others:
            member.start(until_smaller, LARGE)
        lost.start(until_out, LARGE, ("reduce_scatter", 2))
        wait_until_stopped(lost)
        for member in others:
            member.result().get()
        for member in others:
            member.start(reduce_some, 300, 20, LARGE)
        lost.signal(signal.SIGCONT)
        assert {member.result().get() for member in others} == alone
        lost.result().get()


# ---- what rejoin refuses, and what stays usable ----------------------------------------------


def refuse(group: collectives.Group) -> list[str]:
    said = []
    for call in (group.rejoin, lambda: group.rejoin(timeout=0)):
        with pytest.raises(collectives.InvalidArgument) as caught:
            call()
        said.append(str(caught.value))
    group.barrier()
    return said


def test_a_member_cannot_rejoin():
    with Crew(2) as crew:
        for said in crew.get(refuse):
            assert "this one is a member" in said[0]


def keep_some(group: collectives.Group) -> str:
    """An operation that succeeds, and one that is under way when the process stops."""
    first, second = np.ones(SMALL, np.float32), np.ones(LARGE, np.float32)
    held.append((group.all_reduce_async(first), first))
    held[0][0].wait()
    group._fault_at("reduce_scatter", group._native.last_operation() + 1, action="stop")
    held.append((group.all_reduce_async(second), second))
    with pytest.raises(collectives.Evicted) as caught:
        held[1][0].wait()
    return str(caught.value)


def ask_held(group: collectives.Group) -> None:
    """The works of the incarnation before; the present view must not suffer from it."""
    view = group.view
    (first, one), (second, two) = held
    assert first.done() and second.done()
    assert len(first.wait().contributors) == 3
    assert (one == 3).all()
    with pytest.raises(collectives.Evicted) as caught:
        second.wait()
    assert caught.value.outcome_unknown
    assert (two == 1).all()
    second.cancel("too late")
    assert first.telemetry().number + 1 == second.telemetry().number
    assert second.telemetry().done is not None
    assert group.view is view
    group.barrier(timeout=DEADLINE)


def live_on(group: collectives.Group) -> None:
    group.all_reduce(np.ones(SMALL, np.float32))
    group.all_reduce(np.ones(LARGE, np.float32))


def barrier(group: collectives.Group) -> None:
    group.barrier(timeout=DEADLINE)


def test_works_from_before_can_be_asked_and_the_block_still_leaves_gracefully():
    with crew_of(3, IMPATIENT) as crew:
        lost, *others = crew.members
        for member in others:
            member.start(live_on)
        lost.start(keep_some)
        wait_until_stopped(lost)
        for member in others:
            member.result().get()
        lost.signal(signal.SIGCONT)
        assert "rejoin()" in lost.result().get()
        come_back(crew, lost, others)
        for member in others:
            member.start(barrier)
        lost.start(ask_held)
        lost.result().get()
        for member in others:
            member.result().get()


def rejoin_in_vain(group: collectives.Group) -> list[str]:
    said = []
    for call in (
        lambda: group.rejoin(timeout=1.0),
        group.barrier,
        lambda: group.all_reduce_async(np.ones(3)),
        group.sync,
    ):
        with pytest.raises(collectives.CollectiveError) as caught:
            call()
        said.append(f"{type(caught.value).__name__}: {caught.value}")
    assert group.counters().sent_bytes == 0
    return said


def test_a_rejoin_that_fails_can_be_tried_again():
    with crew_of(2, IMPATIENT) as crew:
        lost, other = crew.members
        other.start(until_smaller, SMALL)
        lost.start(until_out, SMALL, ("issued", 2))
        wait_until_stopped(lost)
        other.result().get()
        lost.signal(signal.SIGCONT)
        lost.result().get()
        lost.start(rejoin_in_vain)  # the other does not call sync()
        said = lost.result().get()
        assert said[0].startswith("Timeout: ")
        assert all(line.startswith("Evicted: ") and "rejoin()" in line for line in said[1:]), said
        come_back(crew, lost, [other])
