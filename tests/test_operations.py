"""Operations under way: asynchronous, tagged, many at once, cancelled, timed out."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pathlib
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import collectives
from pool import Pool

SMALL, LARGE = 1_000, 1_000_000  # float32 elements: retained copies, and none
FOREVER = 20.0


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(3) as pool:
        yield pool


SEED_HERE = 7  # of inputs that are only compared with themselves


def ranks_array(group: collectives.Group, count: int, dtype: Any = np.float32) -> np.ndarray:
    return np.full(count, group.rank + 1, dtype)


def noise(group: collectives.Group, count: int) -> np.ndarray:
    return np.random.default_rng((SEED_HERE, group.rank)).standard_normal(count).astype(np.float32)


@contextlib.contextmanager
def raises(kind: type[Exception], **has: Any) -> Iterator[list[Exception]]:
    """As pytest.raises, in the peers."""
    caught: list[Exception] = []
    try:
        yield caught
    except kind as error:
        caught.append(error)
    if [type(error) for error in caught] != [kind]:
        raise AssertionError(f"{caught} was raised, {kind.__name__} should have been")


# ---- asynchronous ----------------------------------------------------------------------------


def issue_and_wait(group: collectives.Group) -> str:
    small, large = ranks_array(group, SMALL), ranks_array(group, LARGE)
    works = [group.all_reduce_async(small), group.all_reduce_async(large, "max")]
    works.append(group.barrier_async())
    results = [work.wait() for work in works]
    assert all(work.done() for work in works)
    assert results[0].value is small and results[1].value is large and results[2].value is None
    assert (small == 6).all() and (large == 3).all()
    assert works[0].wait() is results[0], "waiting again gives the same"
    for result in results:
        assert len(result.contributors) == 3
        assert set(result.contributors) == {peer.name for peer in group.peers}
        assert result.view == group.view.number
        assert result.retries == 0
        assert 0 < result.seconds < FOREVER
    # A ring of three sends 2 * 2/3 of the buffer, and headers.
    payload = 4 * LARGE * 4 / 3
    assert payload <= results[1].wire_bytes < payload * 1.02
    return repr(results[0])


def test_async_operations_end_with_values_and_results(pool: Pool):
    for text in pool.get(3, issue_and_wait):
        assert text.startswith("Result(contributors=(")


def watch_closely(group: collectives.Group) -> None:
    chance = random.Random(group.rank)
    for _ in range(1000):
        work = group.all_reduce_async(np.ones(10))
        time.sleep(chance.choice((0, 0, 1e-5)))
        assert work.telemetry().number > 0
        assert work.telemetry().retries == 0
        work.wait()


def test_an_operation_can_be_looked_at_while_it_ends(pool: Pool):
    pool.get(2, watch_closely)


def wait_briefly(group: collectives.Group) -> float:
    array = ranks_array(group, LARGE)
    if group.rank == 1:
        group.barrier(tag=1)
    work = group.all_reduce_async(array)
    if group.rank == 0:
        for _ in range(2):
            with raises(collectives.Timeout) as caught:
                work.wait(0.05)
            assert "it goes on" in str(caught[0]) and "0.05 s" in str(caught[0])
        assert not work.done()
        with raises(collectives.Timeout):
            work.wait(0)
        group.barrier(tag=1)
    work.wait()
    return float(array.sum())


def test_a_wait_that_timed_out_leaves_the_operation_running(pool: Pool):
    assert pool.get(2, wait_briefly) == [3.0 * LARGE] * 2


def gather_many(group: collectives.Group) -> list[float]:
    async def main() -> list[float]:
        arrays = [ranks_array(group, count) for count in (1, SMALL, LARGE, 5, 300_000)]
        works = [group.all_reduce_async(array) for array in arrays]
        results = await asyncio.gather(*works)
        assert [result.value is array for result, array in zip(results, arrays, strict=True)]
        assert (await works[0]).value is arrays[0], "one that is over may be awaited again"
        # Two tasks that wait for the same operation.
        array = ranks_array(group, LARGE)
        work = group.all_reduce_async(array)

        async def task() -> collectives.Result:
            return await work

        both = await asyncio.wait_for(asyncio.gather(task(), task()), FOREVER)
        assert both[0].value is array and both[1].value is array
        return [float(array[0]) for array in [*arrays, array]]

    return asyncio.run(main())


def test_several_operations_are_awaited_at_once(pool: Pool):
    assert pool.get(3, gather_many) == [[6.0] * 6] * 3


def await_goes_on_beside(group: collectives.Group) -> int:
    """The event loop runs while an operation is awaited that the other rank has not issued."""

    async def main() -> int:
        array, turns = ranks_array(group, SMALL), 0
        work = group.all_reduce_async(array)
        while not work.done():
            await asyncio.sleep(0.001)
            turns += 1
            if turns == 20:
                group.barrier(tag=1)
        await work
        assert (array == 3).all()
        return turns

    if group.rank == 0:
        return asyncio.run(main())
    group.barrier(tag=1)
    group.all_reduce(ranks_array(group, SMALL))
    return 20


def test_the_event_loop_runs_while_an_operation_is_awaited(pool: Pool):
    assert min(pool.get(2, await_goes_on_beside)) >= 20


def drop_work(group: collectives.Group) -> tuple[float, float]:
    first, second = ranks_array(group, LARGE), ranks_array(group, SMALL)
    group.all_reduce_async(first)
    gc.collect()
    group.all_reduce_async(second)
    gc.collect()
    group.barrier()
    # The barrier is no fence for other operations' buffers; a later one in the same order is
    # complete only if all its predecessors' slices went out, so wait for the values themselves.
    deadline = time.monotonic() + FOREVER
    while ((first != 3).any() or (second != 3).any()) and time.monotonic() < deadline:
        time.sleep(0.001)
    group.barrier()
    return float(first.sum()), float(second.sum())


def test_a_work_that_is_dropped_goes_on(pool: Pool):
    assert pool.get(2, drop_work) == [(3.0 * LARGE, 3.0 * SMALL)] * 2


# ---- many at once ----------------------------------------------------------------------------


def opposite_orders(group: collectives.Group, threads: int, rounds: int) -> list[float]:
    """Thread t uses tag t; the ranks start them in opposite orders, sizes small and large."""
    sums = [0.0] * threads
    failures: list[BaseException] = []

    def body(tag: int) -> None:
        try:
            for step in range(rounds):
                array = ranks_array(group, (10, 20_000, 400_000)[(tag + step) % 3])
                if step % 2:
                    group.all_reduce(array, tag=tag, timeout=FOREVER)
                else:
                    works = [group.all_reduce_async(array, tag=tag, timeout=FOREVER)]
                    works.append(group.all_reduce_async(np.ones(7), tag=tag, timeout=FOREVER))
                    for work in works:
                        work.wait()
                assert (array == array[0]).all()
                sums[tag] += float(array[0])
        except BaseException as error:
            failures.append(error)

    order = range(threads) if group.rank % 2 else reversed(range(threads))
    running = [threading.Thread(target=body, args=(tag,)) for tag in order]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(FOREVER)
    assert not failures, failures
    return sums


def test_tags_from_threads_in_opposite_orders_do_not_deadlock(pool: Pool):
    for sums in pool.get(3, opposite_orders, 6, 8):
        assert sums == [6.0 * 8] * 6


def blocking_in_opposite_order(group: collectives.Group) -> bool:
    """One thread, blocking calls on two tags in opposite orders: each must be able to go ahead."""
    arrays = {tag: ranks_array(group, LARGE) for tag in (1, 2)}
    works = {}
    for tag in (1, 2) if group.rank == 0 else (2, 1):
        works[tag] = group.all_reduce_async(arrays[tag], tag=tag)
    for tag in (1, 2) if group.rank == 0 else (2, 1):
        works[tag].wait()
    return all((array == 3).all() for array in arrays.values())


def test_large_operations_of_two_tags_in_opposite_orders_do_not_deadlock(pool: Pool):
    assert pool.get(2, blocking_in_opposite_order) == [True, True]


def many_outstanding(group: collectives.Group) -> tuple[bool, int]:
    large = ranks_array(group, 8 * LARGE)
    beside = group.all_reduce_async(large, tag=1)
    arrays = [ranks_array(group, 1 + 70 * i) for i in range(200)]
    works = [group.all_reduce_async(array) for array in arrays]
    for work in reversed(works):
        work.wait()
    right = all((array == 3).all() for array in arrays)
    beside.wait()
    return right and bool((large == 3).all()), len({w.telemetry().number for w in works})


def test_200_small_operations_beside_a_large_one(pool: Pool):
    assert pool.get(2, many_outstanding) == [(True, 200)] * 2


def small_beside_large(group: collectives.Group) -> tuple[int, list[float], float]:
    """How many of 5 small ones were over before the large one that was issued first."""
    large = np.ones(16 << 20, np.float32)  # 64 MiB
    group.barrier()
    work = group.all_reduce_async(large, tag=1)
    before, seconds = 0, []
    for _ in range(5):
        result = group.all_reduce(np.ones(16, np.float32))
        seconds.append(result.seconds)
        before += not work.done()
    took = work.wait().seconds
    assert (large[:: 1 << 16] == 2).all()
    return before, seconds, took


@pytest.mark.parametrize("connections", [1, 2])
def test_small_operations_overtake_a_large_one(pool: Pool, connections: int):
    options = {"connections": connections}
    for before, seconds, took in pool.get(2, small_beside_large, options=options):
        print(f"64 MiB in {took:.3f} s, beside it {', '.join(f'{s:.4f}' for s in seconds)} s")
        assert before == 5, "small operations waited for the large one"


def one_tag_ahead(group: collectives.Group) -> tuple[bool, int]:
    """Rank 0 issues 100 operations of 64 KiB that rank 1 does not want yet."""
    ahead = [ranks_array(group, 16 << 10) for _ in range(100)]
    other = ranks_array(group, LARGE)
    if group.rank == 0:
        works = [group.all_reduce_async(array, tag=1) for array in ahead]
        group.all_reduce(other, tag=2)
        kept = 0
    else:
        before = resident()
        group.all_reduce(other, tag=2)
        # What came of tag 1 meanwhile is kept until it is wanted; that is bounded.
        kept = resident() - before
        works = [group.all_reduce_async(array, tag=1) for array in ahead]
    for work in works:
        work.wait()
    return all((array == 3).all() for array in [*ahead, other]), kept


def resident() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_rank_far_ahead_in_one_tag_neither_deadlocks_nor_fills_the_other(pool: Pool):
    (right0, _), (right1, kept) = pool.get(2, one_tag_ahead)
    assert right0 and right1
    # The window is 1 MiB; the rest is the shadow and scratch of the 4 MB operation beside it.
    assert kept < 16 << 20, kept


def second_thread(group: collectives.Group) -> str:
    group.all_reduce(ranks_array(group, 3))
    said: list[str] = []

    def body() -> None:
        for call in (group.all_reduce, group.all_reduce_async, group.broadcast):
            try:
                call(np.ones(3))
            except collectives.InvalidArgument as error:
                said.append(str(error))
        group.all_reduce(np.ones(3), tag=9)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(FOREVER)
    group.all_reduce(ranks_array(group, 3))
    assert len(said) == 3
    return said[0]


def test_an_untagged_call_from_a_second_thread_is_refused(pool: Pool):
    for said in pool.get(2, second_thread):
        assert "untagged" in said and "pass tag=" in said


# ---- what goes wrong ---------------------------------------------------------------------------


def after_the_break(group: collectives.Group, kind: type[Exception]) -> None:
    """Everything raises the same until all have called sync(), then it works again."""
    for call in (group.all_reduce, group.all_reduce_async, group.broadcast):
        array = np.full(5, 7.0)
        with raises(kind):
            call(array)
        assert (array == 7).all()
    with raises(kind):
        group.barrier()
    before = group.view
    outcome = group.sync(timeout=FOREVER)
    assert outcome.joined == () and outcome.left == ()
    assert group.view.number > before.number and group.size == before.size
    array = ranks_array(group, SMALL)
    group.all_reduce(array)
    assert (array == group.size * (group.size + 1) / 2).all()


def time_out(group: collectives.Group, count: int, atomic: bool) -> str:
    array = noise(group, count)
    before = array.tobytes()
    for _ in range(3):
        group.all_reduce(np.ones(4))
    last = group._native.last_operation()
    said = ""
    if group.rank == 1:
        # Does not make the call: hears of it on the next one.
        deadline = time.monotonic() + FOREVER
        with raises(collectives.Timeout) as caught:
            while time.monotonic() < deadline:
                group.all_reduce(np.ones(1), tag=77, timeout=FOREVER)
        said = str(caught[0])
    else:
        began = time.monotonic()
        tag77 = threading.Thread(target=keep_company, args=(group,))
        tag77.start()
        with raises(collectives.Timeout) as caught:
            group.all_reduce(array, timeout=0.7, atomic=atomic)
        took = time.monotonic() - began
        assert took < 0.7 + 1.0, took
        tag77.join(FOREVER)
        said = str(caught[0])
        if atomic:
            assert array.tobytes() == before, "the input was not restored"
        missing = next(peer.name for peer in group.peers if peer is group.peers[1])
        assert f"'{missing}' (rank 1) has not called it (its last operation is {last})" in said
        assert f"operation {last + 1}" in said and "after 0.7 s" in said
    after_the_break(group, collectives.Timeout)
    return said


def keep_company(group: collectives.Group) -> None:
    """Take part in tag 77 until the group breaks."""
    with contextlib.suppress(collectives.Timeout):
        while True:
            group.all_reduce(np.ones(1), tag=77, timeout=FOREVER)


@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_a_timeout_names_who_is_missing_and_where_it_is(pool: Pool, count: int):
    said = pool.get(3, time_out, count, True)
    assert "gave up on all_reduce" in said[1], "who is waited for hears of it"
    assert said[1] in said, "with the words of one who gave up"


def test_not_atomic_raises_the_same(pool: Pool):
    pool.get(2, time_out, LARGE, False)


def fail_in_the_middle(group: collectives.Group, count: int, how: str) -> str:
    """Ranks 0 and 1 are at it, rank 2 never comes: their inputs must be what they were."""
    array = noise(group, count)
    before = array.tobytes()
    kind = {"cancel": collectives.Cancelled, "timeout": collectives.Timeout}[how]
    with raises(kind) as caught:
        if group.rank == 2:
            group.barrier(tag=5, timeout=FOREVER)
        else:
            work = group.all_reduce_async(array, timeout=0.6 if how == "timeout" else FOREVER)
            if how == "cancel" and group.rank == 1:
                with raises(collectives.Timeout):
                    work.wait(0.1)  # so that something is under way
                work.cancel("enough of it")
                work.cancel("and again")
                assert work.done()
            work.wait()
    assert array.tobytes() == before, "the input was not restored"
    after_the_break(group, kind)
    return str(caught[0])


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_inputs_are_intact_after_a_failure_in_the_middle(pool: Pool, count: int, how: str):
    said = pool.get(3, fail_in_the_middle, count, how)
    if how == "cancel":
        assert len(set(said)) == 1, said
        assert "cancelled operation 1: enough of it" in said[0] and "sync()" in said[0]


def cancel_awaited(group: collectives.Group) -> str:
    array = noise(group, LARGE)
    before = array.tobytes()
    if group.rank == 0:

        async def main() -> None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(group.all_reduce_async(array), 0.1)

        asyncio.run(main())
        with raises(collectives.Cancelled) as caught:
            group.barrier()
    else:
        with raises(collectives.Cancelled) as caught:
            group.barrier(tag=3)
    assert array.tobytes() == before
    after_the_break(group, collectives.Cancelled)
    return str(caught[0])


def test_cancelling_the_task_that_awaits_cancels_the_operation(pool: Pool):
    for said in pool.get(2, cancel_awaited):
        assert "the task that awaited it was cancelled" in said


def abort_from_a_thread(group: collectives.Group) -> str:
    array = noise(group, LARGE)
    before = array.tobytes()
    if group.rank == 0:
        work = group.all_reduce_async(array)
        began = time.monotonic()
        timer = threading.Timer(0.2, work.cancel, args=("from another thread",))
        timer.start()
        with raises(collectives.Cancelled) as caught:
            work.wait()
        assert 0.1 < time.monotonic() - began < 2.0
    else:
        with raises(collectives.Cancelled) as caught:
            group.barrier(tag=3)
    assert array.tobytes() == before
    after_the_break(group, collectives.Cancelled)
    return str(caught[0])


def test_another_thread_can_abort_a_wait(pool: Pool):
    for said in pool.get(2, abort_from_a_thread):
        assert "from another thread" in said


def cancel_when_over(group: collectives.Group) -> float:
    array = ranks_array(group, SMALL)
    work = group.all_reduce_async(array)
    work.wait()
    work.cancel("too late")
    group.all_reduce(array)
    return float(array[0])


def test_cancelling_what_is_over_has_no_effect(pool: Pool):
    assert pool.get(2, cancel_when_over) == [6.0, 6.0]


# ---- the rest ----------------------------------------------------------------------------------


def telemetry(group: collectives.Group, transport: str) -> None:
    group.barrier()
    before = time.monotonic()
    work = group.all_reduce_async(np.ones(LARGE, np.float32))
    during = work.telemetry()
    assert during.number == 2 and during.entered >= before
    work.wait()
    after = time.monotonic()
    seen = work.telemetry()
    assert seen.entered == during.entered
    assert seen.first_byte is not None and seen.last_byte is not None and seen.done is not None
    assert before <= seen.entered <= seen.done <= after
    assert seen.first_byte <= seen.last_byte <= seen.done
    assert seen.retries == 0
    assert {link.peer for link in seen.links} == {p.name for p in group.peers} - {group.name}
    right = group.peers[(group.rank + 1) % 3].name
    left = group.peers[(group.rank - 1) % 3].name
    segment = LARGE * 4 / 3
    for link in seen.links:
        assert link.resent == 0
        assert 0 <= link.blocked_seconds <= (after - before) * 3
        # In a ring two segments are passed on twice; directly everybody gets its own and mine.
        sent = received = 2 * segment
        if transport == "tcp":
            sent = 4 * segment if link.peer == right else 0
            received = 4 * segment if link.peer == left else 0
        assert sent <= link.sent_bytes < sent + 0.02 * 4 * segment
        assert received <= link.received_bytes < received + 0.02 * 4 * segment


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_telemetry_tells_where_the_time_went(pool: Pool, transport: str):
    pool.get(3, telemetry, transport, options={"transport": transport})


def meet(group: collectives.Group, late: int) -> tuple[float, float]:
    group.barrier()
    if group.rank == late:
        time.sleep(0.3)  # the delay that the others must wait for
    entered = time.monotonic()
    group.barrier()
    return entered, time.monotonic()


def test_a_barrier_lets_nobody_out_before_all_are_in(pool: Pool):
    for late in range(3):
        times = pool.get(3, meet, late)
        last_in = max(entered for entered, _ in times)
        assert last_in == times[late][0]
        assert all(out >= last_in for _, out in times)


def alone(group: collectives.Group) -> bool:
    array, out = np.arange(5.0), np.zeros(5)
    group.all_reduce(array, "avg", out=out)
    group.all_reduce(array)
    group.broadcast(array, 0)
    group.barrier()
    group.sync(timeout=FOREVER)
    return bool((array == np.arange(5.0)).all() and (out == array).all())


def test_a_group_of_one_works(pool: Pool):
    assert pool.get(1, alone) == [True]


def resync(group: collectives.Group) -> list[int]:
    numbers = []
    for _ in range(3):
        group.all_reduce(np.ones(3), tag=4)
        group.sync(timeout=FOREVER)
        numbers.append(group.view.number)
        group.all_reduce(np.ones(3))
    return numbers


def test_sync_without_a_change_keeps_the_view(pool: Pool):
    for numbers in pool.get(3, resync):
        assert numbers == [1, 1, 1]
