"""Deaths among many operations, many peers and too few; peers that only stand still, and peers that
die while they are being admitted (G1, G2, G3)."""

from __future__ import annotations

import random
import signal
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collectives
from calls import LARGE, SMALL, Call, data_of, ring_sum
from collectives.membership import ledger, messages
from collectives.membership.server import Coordinator
from crew import DEADLINE, Member
from mortals import NOTICED, Case, Mortals, arm, go_on


class Hooked(Coordinator):
    """A coordinator that calls ``hook`` with every message before it sends it."""

    def __init__(self) -> None:
        self.hook: Any = lambda message: None
        super().__init__("127.0.0.1:0")

    async def _deliver(self, socket: Any, send: ledger.Send, packet: bytes) -> None:
        self.hook(send.message)
        await super()._deliver(socket, send, packet)


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Hooked() as coordinator, Mortals(coordinator) as mortals:
        yield mortals


def eventually(what: Any, limit: float = DEADLINE) -> None:
    deadline = time.monotonic() + limit
    while not what():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.002)


# ---- too few, and only just enough ------------------------------------------------------------


# Who hears all directly has told them all, too, once its own reductions are done; what it dies of
# then costs the others nothing. In a ring they miss it still.
MISSED = [("auto", "issued"), ("auto", "reduce_scatter"), ("tcp", "between"), ("tcp", "all_gather")]


@pytest.mark.parametrize(("transport", "phase"), MISSED)
def test_all_raise_the_same_when_fewer_are_left_than_they_want(mortals, transport, phase):
    died = ((1, phase),)
    case = Case(3, Call("all_reduce", LARGE), victims=died, min_size=3, transport=transport)
    records = mortals.run(case)
    for record in records:
        assert record.outcome[0] == "TooFewPeers"
        assert "1 more peer" in record.message and record.members[1] in record.message


@pytest.mark.parametrize(("transport", "phase"), MISSED[1:3])
def test_two_are_enough_for_who_wants_two(mortals, transport, phase):
    died = ((0, phase), (3, phase))
    case = Case(4, Call("all_reduce", LARGE), victims=died, min_size=2, transport=transport)
    records = mortals.run(case)
    assert [len(record.outcome[1]) for record in records] == [2, 2]


@pytest.mark.parametrize(("transport", "phase"), MISSED[1:3])
@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_the_last_one_goes_on_alone(mortals, count, transport, phase):
    died = tuple((rank, phase) for rank in range(4))
    (record,) = mortals.run(Case(5, Call("all_reduce", count), victims=died, transport=transport))
    assert len(record.outcome[1]) == 1


# ---- many operations at once ------------------------------------------------------------------


def burst(group: Any, seed: int, victim: int, phase: str, folder: str) -> Any:
    """Operations of several tags, all begun before any has ended: what became of each."""
    common = random.Random(seed)
    plan = [
        (common.randrange(3), common.choice((0, 100, 5000, 40_000)), common.random() < 0.1)
        for _ in range(18)
    ]
    last = common.randrange(3)
    plan.append((last, 40_000, False))  # has all phases
    if group.rank == victim:
        arm(group, phase, folder, 0, tag=last)
    works = []
    for number, (tag, count, raises) in enumerate(plan):
        mine = data_of(group.name, count, seed + number)
        array = mine.copy()
        how: dict[str, Any] = {"tag": tag, "on_failure": "raise" if raises else "retry"}
        try:
            if count == 0:
                work = group.barrier_async(**how)
            else:
                work = group.all_reduce_async(array, **how)
        except collectives.CollectiveError as error:
            works.append((error, mine, array, number))
        else:
            works.append((work, mine, array, number))
    found = []
    for work, mine, array, number in works:
        try:
            if isinstance(work, Exception):
                raise work
            result = work.wait()
        except collectives.CollectiveError as error:
            assert array.tobytes() == mine.tobytes(), "the input is not as before"
            found.append((type(error).__name__, getattr(error, "peer", "")))
            continue
        if mine.size:
            wanted = [data_of(name, mine.size, seed + number) for name in result.contributors]
            assert array.tobytes() == ring_sum(wanted).tobytes(), "wrong bits"
        found.append((result.contributors, zlib.crc32(array)))
    failed = any(isinstance(what, str) for what, _ in found)
    if failed:
        group.sync()
    return found, failed, go_on(group)


def bursts() -> list[Any]:
    chance = random.Random(2)
    phases = ("issued", "reduce_scatter", "between", "all_gather", "complete", "tokens", "sealed")
    return [
        pytest.param(size, phase, marks=() if chance.random() < 0.25 else pytest.mark.full)
        for size in (2, 3, 4)
        for phase in phases[:-1]
        for _ in range(3)
    ]


@pytest.mark.parametrize(("size", "phase"), bursts())
def test_each_of_many_operations_has_one_outcome(mortals, size, phase, tmp_path):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    members = mortals.band(size)
    victim = seed % size
    for member in members:
        member.start(burst, seed, victim, phase, str(tmp_path))
    dead = members.pop(victim)
    assert dead.result().error == "Died"
    assert (tmp_path / str(victim)).read_text().split()[0] == phase
    found = [member.result().get() for member in members]
    assert all(each == found[0] for each in found)
    assert len(found[0][2]) == size - 1
    mortals.disband(members)


# ---- who only stands still --------------------------------------------------------------------


def stand_still(group: Any, phase: str, folder: str) -> Any:
    arm(group, phase, folder, action="stop")
    return reduce(group)


def die(group: Any, phase: str, folder: str) -> Any:
    arm(group, phase, folder)
    return reduce(group)


def reduce(group: Any) -> tuple[str, tuple[str, ...], float]:
    array = np.ones(LARGE, np.float32)
    try:
        result = group.all_reduce(array)
    except collectives.CollectiveError as error:
        assert (array == 1).all(), "the input is not as before"
        return type(error).__name__, (), time.monotonic()
    assert (array == len(result.contributors)).all()
    return "", result.contributors, time.monotonic()


def stopped(member: Member, limit: float = DEADLINE) -> float:
    """Wait until a process is; when."""
    path = Path(f"/proc/{member.pid}/stat")
    eventually(lambda: path.read_text().rpartition(")")[2].split()[0] == "T", limit)
    return time.monotonic()


@pytest.mark.parametrize("phase", ["reduce_scatter", "all_gather", "complete", "tokens"])
def test_the_others_go_on_without_one_that_stands_still_for_long(mortals, phase, tmp_path):
    members = mortals.band(3, {"detection": 1.0})
    names = [f"p{i}" for i in range(3)]
    still = members[1]
    for member in members:
        if member is still:
            member.start(stand_still, phase, str(tmp_path))
        else:
            member.start(reduce)
    since = stopped(still)
    found = [members[rank].result().get() for rank in (0, 2)]
    assert (tmp_path / "1").read_text().split()[0] == phase
    assert found[0][:2] == found[1][:2]
    error, contributors, _ = found[0]
    # It stands with the one that stands still if all others are complete, too.
    assert not error and len(contributors) in (2, 3) and set(contributors) <= set(names)
    assert len(contributors) == 2 or phase != "reduce_scatter"
    assert max(when for _, _, when in found) - since < 1.0 + NOTICED
    for rank in (0, 2):
        members[rank].start(go_on)
    assert [len(members[rank].result().get()) for rank in (0, 2)] == [2, 2]
    still.signal(signal.SIGCONT)
    error, late, _ = still.result().get()
    assert error == "Evicted" or (not error and late == contributors), (error, late)
    still.start(go_on)
    assert still.result().error == "Evicted"
    still.kill()
    mortals.disband([members[0], members[2]])


@pytest.mark.parametrize("phase", ["sealed", "judged"])
def test_one_that_stands_still_in_a_round_for_a_moment_is_not_evicted(mortals, phase, tmp_path):
    members = mortals.band(4)
    victim, still = members[2], members[1]
    # Before the victim can die: it does so as soon as it hears of anybody.
    still.start(arm, phase, str(tmp_path), None, None, "stop")
    still.result().get()
    for member in members:
        if member is victim:
            member.start(die, "reduce_scatter", str(tmp_path))
        else:
            member.start(reduce)
    stopped(still)
    assert (tmp_path / "1").read_text().split()[0] == phase
    assert (tmp_path / "2").read_text().split()[0] == "reduce_scatter"
    assert not members[0]._pipe.poll(1.0), "it is one of them, so they wait"
    still.signal(signal.SIGCONT)
    members.remove(victim)
    found = [member.result().get() for member in members]
    assert len({(error, contributors) for error, contributors, _ in found}) == 1
    assert not found[0][0] and len(found[0][1]) == 3
    mortals.disband(members)


# ---- who dies at the door ---------------------------------------------------------------------


def admit(group: Any, size: int) -> tuple[int, float]:
    """Sync until ``size`` are there, or once."""
    began = time.monotonic()
    group.sync(timeout=DEADLINE)
    return group.size, time.monotonic() - began


@pytest.mark.parametrize("moment", ["waiting", "prepare", "commit"])
def test_one_that_dies_while_it_is_admitted_costs_the_others_nothing(mortals, moment):
    members = mortals.band(3)
    group = mortals.group_of(members)
    (newcomer,) = mortals.take(1)
    kind = {"prepare": messages.Prepare, "commit": messages.Commit}.get(moment)
    done = []

    def hook(message: Any) -> None:
        if kind is not None and isinstance(message, kind) and not done:
            done.append(message)
            newcomer.signal(signal.SIGKILL)

    newcomer.start("mortals:found", mortals.coordinator.address, group.name, "late", 4, 1, {})
    eventually(lambda: len(mortals.coordinator.state.groups[group.name].peers) == 4)
    mortals.coordinator.hook = hook
    if moment == "waiting":
        newcomer.kill()
    for member in members:
        member.start(admit, 4)
    found = [member.result().get() for member in members]
    mortals.coordinator.hook = lambda message: None
    assert bool(done) == (moment != "waiting")
    print(found)
    sizes = {size for size, _ in found}
    assert len(sizes) == 1
    for member in members:
        member.start(go_on)
    assert [len(member.result().get()) for member in members] == [3, 3, 3]
    assert max(seconds for _, seconds in found) < 2 * NOTICED
    newcomer.process.close()
    mortals.disband(members)
