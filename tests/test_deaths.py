"""A peer dies, hangs or is busy: who is dead is known in time, and nobody else is taken for it (G2,
G3, G6)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import collectives
from crew import DEADLINE, Crew, Member
from proxy import free_port

SMALL, LARGE = 2_000, 4_000_000  # elements of float32
NOTICED = 1.0  # seconds after a death


# ---- what the processes run ------------------------------------------------------------------


def rank_of(group: Any) -> int:
    return group.rank


def grow(group: Any, size: int) -> int:
    while group.size < size:
        group.sync(timeout=DEADLINE)
    return group.rank


def fork_workers(group: Any, count: int) -> list[int]:
    """Children that inherit everything and sleep, as a DataLoader's do."""
    pids = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
            os._exit(0)
        pids.append(pid)
    return pids


def call(group: Any, what: str, array: np.ndarray | None = None) -> None:
    if what in ("small", "large"):
        group.all_reduce(array, timeout=DEADLINE, on_failure="raise")
    elif what == "apart":
        group.all_reduce(array, out=np.empty_like(array), timeout=DEADLINE, on_failure="raise")
    elif what == "broadcast":
        group.broadcast(array, group.size - 1, timeout=DEADLINE, on_failure="raise")
    else:
        group.barrier(timeout=DEADLINE, on_failure="raise")


def until_lost(group: Any, what: str) -> tuple[str, str, float, bool]:
    """Call it over and over until somebody is missing: it raises, or (if the death fell between two
    calls) goes on without the dead. Who is missing, the words, when it came (CLOCK_MONOTONIC, the
    same in all processes), and whether the input was as before if it raised."""
    count = SMALL if what == "small" else LARGE
    pristine = np.random.default_rng(group.rank).random(count, np.float32)
    names = [peer.name for peer in group.peers]
    while True:
        array = pristine.copy()
        try:
            call(group, what, array)
        except collectives.PeerLost as error:
            now = time.monotonic()
            return error.peer, str(error), now, array.tobytes() == pristine.tobytes()
        except collectives.TooFewPeers as error:
            now = time.monotonic()
            (lost,) = (name for name in names if f"'{name}' is dead" in str(error))
            return lost, str(error), now, array.tobytes() == pristine.tobytes()
        if group.size < len(names):
            now = time.monotonic()
            (lost,) = set(names) - {peer.name for peer in group.peers}
            return lost, f"{lost} is missing", now, True


def next_call(group: Any) -> tuple[str, float]:
    began = time.monotonic()
    try:
        group.barrier(on_failure="raise")
    except collectives.PeerLost as error:
        return error.peer, time.monotonic() - began
    return "", time.monotonic() - began


def go_on(group: Any, size: int) -> tuple[int, float]:
    """A call that does not care: how many took part, and how long it took."""
    began = time.monotonic()
    array = np.ones(10)
    took_part = group.all_reduce(array).contributors
    assert array[0] == len(took_part) == group.size == size
    return len(took_part), time.monotonic() - began


def mend(group: Any) -> tuple[int, float]:
    size = group.sync(timeout=DEADLINE).view.size
    array = np.full(1000, group.rank + 1.0)
    group.all_reduce(array)
    return size, float(array[0])


def sync_now(group: Any) -> tuple[Any, float]:
    outcome = group.sync(timeout=DEADLINE)
    return outcome.left, time.monotonic()


def barrier(group: Any) -> float:
    group.barrier(timeout=DEADLINE)
    return time.monotonic()


def hold_the_gil(group: Any, seconds: float) -> float:
    """In C calls that keep it: no other thread of this Python runs meanwhile."""
    began = time.monotonic()
    ctypes.PyDLL(None).usleep(int(seconds / 2 * 1e6))
    middle = time.monotonic()
    while time.monotonic() - middle < seconds / 2:
        re.match(r"(a?){24}a{24}", "a" * 22)  # one call of C, tens of milliseconds or more
    return time.monotonic() - began


def reduce_for(group: Any, seconds: float) -> int:
    began, done = time.monotonic(), 0
    over = np.zeros(1, np.uint8)
    while not over[0]:
        array = np.full(50_000, group.rank + 1.0)
        group.all_reduce(array, timeout=10)
        assert (array == group.size * (group.size + 1) / 2).all()
        over[0] = time.monotonic() - began > seconds
        group.all_reduce(over, "max", timeout=10)
        done += 1
    return done


def try_barrier(group: Any) -> float:
    with contextlib.suppress(collectives.CollectiveError):
        group.barrier(timeout=DEADLINE)
    return time.monotonic()


# ---- crews that may shrink -------------------------------------------------------------------


@contextlib.contextmanager
def crew_of(size: int, options: dict[str, Any] | None = None, **how: Any) -> Iterator[Crew]:
    """A crew whose view may shrink to one peer; every process has run something of this module."""
    with Crew(1, options, join={"min_size": 1}, **how) as crew:
        for _ in range(size - 1):
            crew.add()
        for member in crew.members:
            member.start(grow, size)
        for member in crew.members[1:]:
            member.result().get()  # of join
        ranks = [member.result().get() for member in crew.members]
        crew.members = [crew.members[ranks.index(rank)] for rank in range(size)]
        yield crew


def by_rank(members: list[Member]) -> None:
    for member in members:
        member.start(rank_of)
    ranks = [member.result().get() for member in members]
    members[:] = [members[ranks.index(rank)] for rank in range(len(members))]


def mended(crew: Crew) -> None:
    size = len(crew.members)
    assert crew.get(mend) == [(size, size * (size + 1) / 2)] * size
    by_rank(crew.members)


# ---- deaths ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "calls"),
    [
        (2, ["small"]),
        (2, ["large"]),
        (3, ["broadcast", "apart"]),
        pytest.param(5, ["large", "small", "barrier"], marks=pytest.mark.full),
    ],
)
def test_the_death_of_a_peer_is_known_within_a_second_though_its_children_live(size, calls):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    children: list[int] = []
    try:
        with crew_of(size) as crew:
            for what in calls:
                victim = crew.members[chance.randrange(len(crew.members))]
                victim.start(fork_workers, 2)
                children += victim.result().get()
                for member in crew.members:
                    member.start(until_lost, what)
                time.sleep(chance.uniform(0.1, 0.4))  # anywhere in the middle of their calls
                crew.members.remove(victim)
                killed = time.monotonic()
                victim.kill()
                for member in crew.members:
                    name, message, when, intact = member.result().get()
                    assert name == f"p{victim.index}", message
                    assert name in message
                    print(f"{what}: {when - killed:.3f} s: {message}")
                    assert when - killed < NOTICED
                    assert intact
                mended(crew)
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_death_in_a_call_that_the_dead_never_made():
    with crew_of(3) as crew:
        victim = crew.members.pop(1)
        crew.get(rank_of)
        for member in crew.members:
            member.start(next_call)
        time.sleep(0.2)
        began = time.monotonic()
        victim.kill()
        for member in crew.members:
            assert member.result().get()[0] == f"p{victim.index}"
        assert time.monotonic() - began < NOTICED + 0.5
        mended(crew)


def test_a_death_while_the_others_sync_lets_them_go_on_without_the_dead():
    with crew_of(3) as crew:
        victim = crew.members.pop(0)
        for member in crew.members:
            member.start(sync_now)
        time.sleep(0.2)
        killed = time.monotonic()
        victim.kill()
        for member in crew.members:
            left, when = member.result().get()
            assert f"p{victim.index}" in str(left)
            assert when - killed < 2 * NOTICED
        mended(crew)


def test_a_death_while_nobody_is_in_a_call_costs_the_next_one_nothing():
    with crew_of(3) as crew:
        crew.get(barrier)
        crew.members.pop(1).kill()
        time.sleep(NOTICED)  # the claim is that it takes no longer
        for _, seconds in crew.get(go_on, 2):
            assert seconds < 0.1
        mended(crew)


def until_alone(group: Any, size: int) -> tuple[float, int]:
    """Large reductions until only ``size`` take part; when, and how often one was repeated."""
    retries = 0
    while True:
        array = np.ones(LARGE, np.float32)
        result = group.all_reduce(array, timeout=DEADLINE)
        retries += result.retries
        assert (array == len(result.contributors)).all()
        if len(result.contributors) == size:
            return time.monotonic(), retries


def test_several_deaths_at_once():
    with crew_of(5) as crew:
        for member in crew.members:
            member.start(until_alone, 2)
        time.sleep(0.2)
        killed = time.monotonic()
        victims = [crew.members.pop(4), crew.members.pop(2), crew.members.pop(0)]
        for victim in victims:
            victim.signal(signal.SIGKILL)
        for member in crew.members:
            when, retries = member.result().get()
            print(f"{when - killed:.3f} s, {retries} retries")
            assert when - killed < NOTICED + 0.5
        mended(crew)


# ---- silence ---------------------------------------------------------------------------------


def test_a_stopped_peer_is_lost_after_the_detection_time():
    with crew_of(3, {"detection": 1.0}) as crew:
        crew.get(barrier)
        stopped = crew.members.pop(1)
        for member in (*crew.members, stopped):
            member.start(until_lost, "small")
        time.sleep(0.2)
        began = time.monotonic()
        stopped.signal(signal.SIGSTOP)
        for member in crew.members:
            name, message, when, intact = member.result().get()
            assert name == f"p{stopped.index}", message
            assert 0.9 < when - began < 1.0 + NOTICED
            assert intact
        mended(crew)
        # Whoever wakes up too late learns it, and hangs nowhere.
        stopped.signal(signal.SIGCONT)
        outcome = stopped.result(10)
        assert outcome.error in ("", "Evicted", "CollectiveError"), outcome.trace
        stopped.kill()


def test_a_peer_that_holds_the_gil_is_not_taken_for_dead():
    with crew_of(2, {"detection": 1.0}) as crew:
        crew.get(barrier)
        busy, waiting = crew.members
        waiting.start(barrier)
        busy.start(hold_the_gil, 2.2)
        busy.start(barrier)
        assert busy.result().get() >= 2.2
        busy.result().get()
        waiting.result().get()
        crew.get(barrier)


def repeated(group: Any) -> tuple[str, ...]:
    """A reduction in which somebody dies."""
    array = np.full(LARGE, number_of(group.name), np.float32)
    took_part = group.all_reduce(array, timeout=DEADLINE).contributors
    assert (array == sum(map(number_of, took_part))).all()
    return took_part


def number_of(name: str) -> int:
    return int(name.removeprefix("p")) + 1


def wait_for_it_with_the_gil(group: Any, seconds: float) -> tuple[str, ...]:
    """The reduction goes on in the core while Python stands still."""
    array = np.full(LARGE, number_of(group.name), np.float32)
    work = group.all_reduce_async(array, timeout=DEADLINE)
    hold_the_gil(group, seconds)
    took_part = work.wait().contributors
    assert (array == sum(map(number_of, took_part))).all()
    return took_part


@pytest.mark.parametrize("seconds", [8.0, pytest.param(20.0, marks=pytest.mark.full)])
def test_a_member_that_holds_the_gil_takes_part_in_the_round_about_a_death(seconds):
    with crew_of(4) as crew:
        crew.get(barrier)
        busy, *waiting, victim = crew.members
        began = time.monotonic()
        for member in waiting:
            member.start(repeated)
        busy.start(wait_for_it_with_the_gil, seconds)
        time.sleep(0.5)  # it is in the C call by now; the victim has not called
        victim.kill()
        survivors = {f"p{member.index}" for member in (busy, *waiting)}
        for member in waiting:
            assert set(member.result().get()) == survivors
        # Its neighbours pass on what the coordinator says, so nobody waits for it.
        assert time.monotonic() - began < seconds
        assert set(busy.result(DEADLINE).get()) == survivors
        crew.members.remove(victim)
        crew.get(barrier)


def test_a_process_that_was_stopped_accuses_nobody():
    # It alone would take silence for death; the others are patient.
    options = [{"detection": 1.0}, {"detection": 60.0}, {"detection": 60.0}]
    with Crew(3, options) as crew:
        crew.get(barrier)
        impatient = next(member for member in crew.members if member.index == 0)
        # Stopped in a call that the others have not made.
        impatient.start(barrier)
        time.sleep(0.1)
        impatient.signal(signal.SIGSTOP)
        time.sleep(2.0)
        impatient.signal(signal.SIGCONT)
        for member in crew.members:
            if member is not impatient:
                member.start(barrier)
        for member in crew.members:
            member.result().get()
        assert all(done > 0 for done in crew.get(reduce_for, 1.2))  # longer than its detection


class CoordinatorProcess:
    """As ``collectives.Coordinator``, but one that can be killed."""

    def __init__(self) -> None:
        self.address = f"127.0.0.1:{free_port()}"

    def __enter__(self) -> CoordinatorProcess:
        command = [sys.executable, "-m", "collectives.cli", "coordinator", "--bind", self.address]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(5)


def test_operations_go_on_without_the_coordinator():
    crew = Crew(3)
    crew.coordinator = CoordinatorProcess()  # type: ignore[assignment]
    with crew:
        crew.get(barrier)
        for member in crew.members:
            member.start(reduce_for, 1.5)
        time.sleep(0.3)
        crew.coordinator.process.kill()
        done = [member.result().get() for member in crew.members]
        assert len(set(done)) == 1 and done[0] > 3
