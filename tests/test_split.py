"""Groups made at run time: ``Group.split``, and several groups of one process on one engine."""

from __future__ import annotations

import functools
import gc
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collectives
import collectives.group
from collectives._native import lib
from crew import DEADLINE, Crew
from pool import Pool


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(4) as made:
        yield made


def total(group: collectives.Group, value: int = 1) -> int:
    """The sum over the group, of a small operation and of a large one."""
    small = np.full(3, value, np.int64)
    large = np.full(1 << 17, value, np.int64)
    for array in (small, large):
        group.all_reduce(array, timeout=DEADLINE)
        assert (array == array[0]).all()
    assert small[0] == large[0]
    return int(small[0])


def entries(what: str) -> int:
    """Threads ("task") or descriptors ("fd") of this process."""
    return sum(1 for _ in Path("/proc/self", what).iterdir())


def ids(group: collectives.Group) -> list[str]:
    return [peer.id.hex for peer in group.peers]


# ---- who gets into which group -------------------------------------------------------------------


def by_parity(group: collectives.Group) -> dict[str, Any]:
    connections = group.counters().open_connections
    child = group.split(group.rank % 2, key=-group.rank, name="half", timeout=DEADLINE)
    assert child is not None
    with child:
        assert child.name == group.name
        assert child.counters().open_connections == connections, "no new ones"
        return {
            "group": child.view.group,
            "rank": child.rank,
            "names": [peer.name for peer in child.peers],
            "parents": [peer.name for peer in group.peers],
            "ids": set(ids(child)) <= set(ids(group)),
            "sum": total(child, group.rank),
            "all": total(group, group.rank),
        }


def test_members_of_a_color_form_a_group_in_the_order_of_their_keys(pool: Pool):
    found = pool.get(4, by_parity)
    names = found[0]["parents"]
    for rank, one in enumerate(found):
        assert one["names"] == ([names[2], names[0]] if rank % 2 == 0 else [names[3], names[1]])
        assert one["rank"] == one["names"].index(names[rank])
        assert one["ids"], "they are the same peers"
        assert (one["sum"], one["all"]) == ((2, 4)[rank % 2], 6)
        assert one["group"] == found[rank % 2]["group"]
        assert f"/half.{rank % 2}#" in one["group"]
    assert found[0]["group"] != found[1]["group"]


def some_of_all(group: collectives.Group) -> tuple[Any, int]:
    child = group.split(None if group.rank == 1 else -7, timeout=DEADLINE)
    size = None if child is None else child.size
    if child is not None:
        assert total(child) == child.size
        assert [peer.id for peer in child.peers] == [group.peers[rank].id for rank in (0, 2)]
        child.leave()
    return size, total(group)


def test_who_has_no_color_is_in_no_group(pool: Pool):
    assert pool.get(3, some_of_all) == [(2, 3), (None, 3), (2, 3)]


def twice(group: collectives.Group) -> tuple[list[int], list[str]]:
    half = group.split(group.rank // 2, timeout=DEADLINE)
    assert half is not None
    alone = half.split(half.rank, timeout=DEADLINE)
    again = half.split(0, key=-half.rank, timeout=DEADLINE)
    assert alone is not None
    assert again is not None
    made = [total(one, group.rank + 1) for one in (group, half, alone, again)]
    names = [one.view.group for one in (group, half, alone, again)]
    for one in (half, alone, again):  # in this order: a parent goes before its children
        one.leave()
    made.append(total(group))
    return made, names


def test_a_group_made_by_a_split_can_be_split_and_each_is_left_by_itself(pool: Pool):
    found = pool.get(4, twice)
    for rank, (made, names) in enumerate(found):
        half = (3, 7)[rank // 2]
        assert made == [10, half, rank + 1, half, 4]
        assert len(set(names)) == 4
        assert all(len(name.encode()) <= 63 for name in names)


def outlives(group: collectives.Group, address: str) -> tuple[int, bool, list[int]]:
    options = collectives.Options(connections=3)  # like no other's: an engine of its own
    name = f"parent of {group.view.group}"
    threads = entries("task")
    parent = collectives.join(
        address, group=name, min_size=group.size, options=options, timeout=DEADLINE
    )
    child = parent.split(0, timeout=DEADLINE)
    assert child is not None
    parent.leave()
    sums = [total(child)]
    port = child.peers[child.rank].addresses[0]
    child.sync(timeout=DEADLINE)
    sums.append(total(child))
    child.leave()
    host, _, number = port.rpartition(":")
    with socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET) as probe:
        probe.settimeout(DEADLINE)
        closed = probe.connect_ex((host.strip("[]"), int(number))) != 0
    deadline = time.monotonic() + DEADLINE
    while entries("task") > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    return entries("task") - threads, closed, sums


def test_a_child_outlives_its_parent_and_the_last_group_closes_the_engine(pool: Pool):
    found = pool.get(2, outlives, pool.crew.coordinator.address)
    assert found == [(0, True, [2, 2])] * 2


# ---- what is refused -----------------------------------------------------------------------------


def odd_one_out(group: collectives.Group) -> str:
    call = group.sync if group.rank == 1 else functools.partial(group.split, 0)
    with pytest.raises(collectives.MismatchError) as caught:
        call(timeout=DEADLINE)
    group.sync(timeout=DEADLINE)
    assert total(group) == group.size
    return str(caught.value)


def test_who_calls_something_else_gets_all_a_mismatch(pool: Pool):
    for text in pool.get(3, odd_one_out):
        assert "called split()" in text
        assert "called sync()" in text


def differing(group: collectives.Group) -> tuple[str, int]:
    with pytest.raises(collectives.MismatchError) as caught:
        group.split(group.rank // 2, name=f"n{group.rank % 2}" if group.rank < 2 else "x")
    return str(caught.value), total(group)


def test_members_of_a_color_must_give_one_name(pool: Pool):
    for text, whole in pool.get(4, differing):
        assert "color 0" in text
        assert "'n0' and 'n1'" in text
        assert whole == 4


def bad_arguments(group: collectives.Group) -> int:
    for arguments in ({"color": 2**63}, {"color": 0, "key": -(2**63) - 1}):
        with pytest.raises(collectives.InvalidArgument, match="64 bits"):
            group.split(**arguments)
    for name in ("x" * 25, "a\nb"):
        with pytest.raises(collectives.InvalidArgument, match="24 bytes"):
            group.split(0, name=name)
    with pytest.raises(collectives.InvalidArgument, match="timeout"):
        group.split(0, timeout=0)
    with group.step(), pytest.raises(collectives.InvalidArgument, match="inside a step"):
        group.split(0)
    return total(group)


def test_bad_arguments_are_refused_before_anything_is_sent(pool: Pool):
    assert pool.get(2, bad_arguments) == [2, 2]


def absent(group: collectives.Group) -> tuple[str, str]:
    if group.rank == 1:
        deadline = time.monotonic() + DEADLINE
        while group._native.state()[0] == lib.COLL_OK and time.monotonic() < deadline:
            time.sleep(0.005)
        group.sync(timeout=DEADLINE)
        return group.name, ""
    with pytest.raises(collectives.Timeout) as caught:
        group.split(0, timeout=0.3)
    group.sync(timeout=DEADLINE)
    return group.name, str(caught.value)


def test_a_member_that_does_not_call_it_is_named(pool: Pool):
    found = pool.get(2, absent)
    assert f"'{found[1][0]}'" in found[0][1]


# ---- deaths --------------------------------------------------------------------------------------


def die_at(_: collectives.Group, phase: str, ahead: int) -> None:
    group = _kept[0]
    group._fault_at(phase, group._native.last_operation() + ahead)
    group.split(0, timeout=DEADLINE)


def die_before_joining(_: collectives.Group) -> None:
    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    collectives.group.Incarnation = die  # type: ignore[assignment, misc]
    _kept[0].split(0, timeout=DEADLINE)


def split_and_add(_: collectives.Group) -> tuple[list[str], int, int, float]:
    group = _kept[0]
    began = time.monotonic()
    child = group.split(0, key=-group.rank, timeout=DEADLINE)
    seconds = time.monotonic() - began
    assert child is not None
    sums = total(child), total(group)
    with child:
        return [peer.name for peer in child.peers], *sums, seconds


@pytest.mark.parametrize(
    ("phase", "ahead"),
    [("issued", 1), ("tokens", 1), ("issued", 2), ("complete", 2), ("joining", 0)],
)
def test_who_dies_in_a_split_is_in_no_new_group(phase: str, ahead: int):
    with Crew(3) as crew:
        crew.get(keep_two)
        victim = crew.members[1]
        if ahead:
            victim.start(die_at, phase, ahead)
        else:
            victim.start(die_before_joining)
        rest = [crew.members[0], crew.members[2]]
        for member in rest:
            member.start(split_and_add)
        names, *others = [member.result().get() for member in rest]
        assert victim.result().error == "Died"
        for found in (names, *others):
            assert found[0] == names[0], "the same members everywhere"
            assert len(found[0]) == 2
            assert found[1:3] == (2, 2)
            assert found[3] < 5.0


_kept: list[collectives.Group] = []


def keep_two(group: collectives.Group) -> None:
    """Groups that may become smaller, which the first one may not."""
    for color in range(2):
        made = group.split(color, timeout=DEADLINE)
        assert made is not None
        _kept.append(made)


def add_in_each(_: collectives.Group) -> list[tuple[int, int]]:
    return [(total(one), one.view.size) for one in _kept]


def test_a_death_is_seen_in_each_group_by_itself():
    with Crew(3) as crew:
        crew.get(keep_two)
        assert crew.get(add_in_each) == [[(3, 3)] * 2] * 3
        crew.members.pop().kill()
        assert crew.get(add_in_each) == [[(2, 2)] * 2] * 2


# ---- several groups of one process ---------------------------------------------------------------


def beside(group: collectives.Group, address: str, rounds: int) -> dict[str, Any]:
    """Two groups, each with a thread of its own, that call different things at different times."""
    other = collectives.join(
        address, group=f"{group.view.group} other", min_size=group.size, timeout=DEADLINE
    )
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for step in range(rounds):
                array = np.full(1 + step * 999, step + other.rank, np.float64)
                other.all_reduce(array, tag=5, timeout=DEADLINE)
                assert (array == other.size * step + sum(range(other.size))).all()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    for step in range(rounds):
        array = np.full(1000, step, np.int32)
        group.broadcast(array, root=step % group.size, timeout=DEADLINE)
        if step % 10 == 9:
            group.sync(timeout=DEADLINE)  # a safe point of this group alone
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert not failed, failed
    same = group.peers[group.rank].id == other.peers[other.rank].id
    ports = group.peers[group.rank].addresses == other.peers[other.rank].addresses
    apart = collectives.join(
        address,
        group=f"{group.view.group} apart",
        min_size=group.size,
        timeout=DEADLINE,
        options=collectives.Options(connections=2),
    )
    unlike = apart.peers[apart.rank].id != group.peers[group.rank].id
    apart.leave()
    # An error in one breaks only that one.
    with pytest.raises(collectives.MismatchError):
        other.all_reduce(np.ones(1 + other.rank), timeout=DEADLINE)
    whole = total(group)
    other.sync(timeout=DEADLINE)
    mended = total(other)
    other.leave()
    return {"shared": same and ports, "apart": unlike, "sums": (whole, mended, total(group))}


def test_groups_of_one_run_share_an_engine_and_do_not_disturb_each_other(pool: Pool):
    found = pool.get(3, beside, pool.crew.coordinator.address, 60)
    assert found == [{"shared": True, "apart": True, "sums": (3, 3, 3)}] * 3


def sockets_to(addresses: set[tuple[str, int]]) -> list[int]:
    """Descriptors of this process's connections with one end at one of the addresses' ports."""
    ports = {port for _, port in addresses}
    found = []
    for path in Path("/proc/self/fd").iterdir():
        fd = int(path.name)
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            with socket.socket(fileno=os.dup(fd)) as one:
                if one.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                ends = {one.getsockname()[1], one.getpeername()[1]}
        except OSError:
            continue
        if ends & ports:
            found.append(fd)
    return found


def broken_connections(group: collectives.Group) -> tuple[int, int, int]:
    child = group.split(0, timeout=DEADLINE)
    assert child is not None
    child.barrier(timeout=DEADLINE)
    child.leave()  # says goodbye to this group, not to the peers
    group.barrier(timeout=DEADLINE)
    before = group.counters().reconnects
    if group.rank == 0:
        ports = {
            (host, int(port))
            for peer in group.peers
            for host, _, port in [peer.addresses[0].rpartition(":")]
        }
        broken = sockets_to(ports)
        assert broken
        for fd in broken:
            with socket.socket(fileno=os.dup(fd)) as one:
                one.shutdown(socket.SHUT_RDWR)
    sums = total(group)
    return sums, group.size, group.counters().reconnects - before


def test_who_has_left_one_group_is_still_dialled_for_another(pool: Pool):
    options = {"transport": "tcp", "connections": 1}
    found = pool.get(2, broken_connections, options=options)
    assert [one[:2] for one in found] == [(2, 2)] * 2
    assert max(one[2] for one in found) >= 1


def shared_states(group: collectives.Group, address: str) -> tuple[list[int], list[int]]:
    """Two groups with states of the same names and other contents."""
    child = group.split(0, timeout=DEADLINE)
    assert child is not None
    found = []
    for number, one in enumerate((group, child)):
        mine = one.rank == number  # who has the newest differs, too
        values = np.full(1 << 16, 100 * number + (7 if mine else 0), np.int64)
        state = collectives.SharedState({"w": values})
        if mine:
            state.advance()
        one.sync(state, timeout=DEADLINE)
        assert (values == values[0]).all()
        found.append(int(values[0]))
    child.leave()
    state = collectives.SharedState({"w": np.full(9, group.rank)})
    group.sync(state, timeout=DEADLINE)
    return found, state["w"].tolist()


def test_each_group_shares_a_state_of_its_own(pool: Pool):
    found = pool.get(2, shared_states, pool.crew.coordinator.address)
    assert found[0] == found[1]
    assert found[0][0] == [7, 107]


# ---- leaks ---------------------------------------------------------------------------------------


def footprint() -> dict[str, int]:
    gc.collect()
    return {
        "descriptors": entries("fd"),
        "threads": entries("task"),
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "resident": int(Path("/proc/self/statm").read_text().split()[1]) * 4096,
    }


def many_splits(group: collectives.Group, count: int) -> list[dict[str, int]]:
    seen = []
    for number in range(count):
        child = group.split(number % 2, key=group.rank * (-1) ** number, timeout=DEADLINE)
        assert child is not None
        assert total(child) == group.size
        child.leave()
        if number in (count // 4, count - 1):
            group.barrier(timeout=DEADLINE)
            seen.append(footprint())
    return seen


@pytest.mark.parametrize("count", [12, pytest.param(100, marks=pytest.mark.full)])
def test_splits_leave_nothing_behind(count: int):
    with Crew(2) as crew:
        for early, late in crew.get(many_splits, count):
            print(early, late)
            for what in ("descriptors", "threads"):
                # A thread or a socket of the last one may be on its way out.
                assert late[what] <= early[what] + 3, what
            assert late["mappings"] <= early["mappings"] + 10
            assert late["resident"] <= early["resident"] + (4 << 20)
        groups = crew.coordinator.state.groups
        assert len(groups) <= 1 + min(count, 64) + 1
        assert sum(1 for one in groups.values() if one.peers) == 1
