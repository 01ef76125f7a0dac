"""None of a peer's operations may be outstanding when it calls sync()."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import collectives
import collectives.work
from pool import Pool

LARGE = 1_000_000  # float32 elements: with tokens
FOREVER = 20.0


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(2) as pool:
        yield pool


def refused(group: collectives.Group) -> str:
    view, sent = group.view.number, group.counters().sent_bytes
    with pytest.raises(collectives.InvalidArgument) as caught:
        group.sync(timeout=FOREVER)
    assert group.view.number == view
    assert group.counters().sent_bytes - sent < 4096, "heartbeats, and no part of the sync"
    return str(caught.value)


def start_too_early(group: collectives.Group) -> str:
    """Rank 0 has called two operations that rank 1 has not, and wants to sync."""
    array, other = np.full(LARGE, group.rank + 1, np.float32), np.zeros(3)
    said = ""
    if group.rank == 1:
        group.barrier(tag=9, timeout=FOREVER)
    works = [group.all_reduce_async(array, timeout=FOREVER)]
    if group.rank == 0:
        said = refused(group)
        assert said.startswith(
            "1 operation of this peer is outstanding: all_reduce(dtype=f32, op=sum, count=1000000),"
            " operation 1 of view 1; wait for what was called, or cancel it"
        ), said
        works.append(group.recv_async(other, 1, tag=4, timeout=FOREVER))
        works += [group.barrier_async(tag=tag, timeout=FOREVER) for tag in (5, 6)]
        said = refused(group)
        assert not any(work.done() for work in works), "nothing ends by it"
        group.barrier(tag=9, timeout=FOREVER)
    else:
        works.append(group.send_async(np.arange(3.0), 0, tag=4, timeout=FOREVER))
        works += [group.barrier_async(tag=tag, timeout=FOREVER) for tag in (5, 6)]
    for work in works:
        work.wait()
    assert (array == 3).all() and (group.rank == 1 or (other == [0, 1, 2]).all())
    group.sync(timeout=FOREVER)
    return said


def test_a_sync_that_comes_too_early_names_what_is_outstanding_and_spoils_nothing(pool: Pool):
    said, _ = pool.get(2, start_too_early)
    assert said.startswith("4 operations of this peer are outstanding: "), said
    assert "barrier(), operation 1 (tag 5) of view 1; " in said
    assert "recv(dtype=f64, count=3), operation 1 from '" in said
    assert "; and 1 more; wait for what was called, or cancel it, and call sync() then" in said


def call_from_a_thread(group: collectives.Group) -> str:
    """A blocking call of another thread counts as well."""
    said: list[str] = []
    group.barrier(tag=1, timeout=FOREVER)
    if group.rank == 1:
        group.barrier(tag=2, timeout=FOREVER)
        group.barrier(tag=1, timeout=FOREVER)
    else:
        thread = threading.Thread(target=group.barrier, kwargs={"tag": 1, "timeout": FOREVER})
        thread.start()
        while not any(one["tag"] == 1 for one in group._native.operations()):
            assert thread.is_alive()
        said.append(refused(group))
        group.barrier(tag=2, timeout=FOREVER)
        thread.join()
    group.sync(timeout=FOREVER)
    return "".join(said)


def test_what_another_thread_waits_for_is_outstanding(pool: Pool):
    assert "barrier(), operation 2 (tag 1) of view 1" in pool.get(2, call_from_a_thread)[0]


def give_up(group: collectives.Group, how: Callable[[collectives.Work], None]) -> None:
    """What was given up is the coordinator's to decide, however long that takes."""
    collectives.work.MERCY = 0.0  # of this process, which the pool keeps
    try:
        if group.rank == 1:
            with pytest.raises(collectives.Cancelled):
                group.barrier(tag=3, timeout=FOREVER)
        else:
            how(group.all_reduce_async(np.ones(LARGE, np.float32), timeout=FOREVER))
        group.sync(timeout=FOREVER)
    finally:
        collectives.work.MERCY = 0.15
    array = np.ones(3)
    group.all_reduce(array, timeout=FOREVER)
    assert (array == 2).all()


def cancel(work: collectives.Work) -> None:
    work.cancel("enough")


def abandon(work: collectives.Work) -> None:
    work.abandon(KeyboardInterrupt())


@pytest.mark.parametrize("how", [cancel, abandon])
def test_what_was_given_up_is_waited_for(pool: Pool, how: Callable[[collectives.Work], None]):
    pool.get(2, give_up, how)
