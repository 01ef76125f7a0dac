"""Sends and receives: what arrives, in which order, who waits for whom, and what is an error."""

from __future__ import annotations

import collections
import random
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import collectives
from pool import Pool
from test_operations import raises

# float32 elements: nothing, small, just beyond what is small, beyond what goes without credit.
COUNTS = (0, 1, 1_000, 16_385, 1_000_000)
FOREVER = 20.0
SEED = random.SystemRandom().randrange(2**32)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(4) as pool:
        yield pool


def noise(count: int, *seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def strided(array: np.ndarray) -> np.ndarray:
    """The same, every other element of a wider one, from its end."""
    wide = np.full(2 * array.size, np.nan, array.dtype)
    view = wide[::-2]
    view[:] = array
    return view


# ---- what arrives ------------------------------------------------------------------------------


def exchange(group: collectives.Group) -> None:
    me = group.rank
    names = [peer.name for peer in group.peers]
    for count in COUNTS:
        for k, lies in enumerate((np.array, strided)):
            wanted = noise(count, count, k)
            if me == 0:
                given = lies(wanted)
                result = group.send(given, 1)
                assert result.value is given
                given = strided(np.zeros(count, np.float32))
                result = group.recv(given)
                assert result.contributors == (names[1],)
            else:
                given = lies(np.zeros(count, np.float32))
                result = group.recv(given, 0)
                assert result.value is given
                assert result.contributors == (names[0],)
                assert group.send(given, 0).contributors == (names[1],)
            assert given.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_what_is_sent_arrives_bit_by_bit(pool: Pool, transport: str):
    pool.get(2, exchange, options={"transport": transport})


def exchange_types(group: collectives.Group) -> None:
    tensors = [torch.tensor(7, dtype=d) for d in (torch.bfloat16, torch.bool, torch.int8)]
    arrays = [np.array([[3, 4]], d) for d in ("f2", "f8", "u4", "i8", "?")]
    for wanted in (*tensors, *arrays, np.array(3.5)):
        if group.rank == 0:
            group.send(wanted, 1)
        else:
            given = wanted.copy() if isinstance(wanted, np.ndarray) else wanted.clone()
            given[...] = 0
            group.recv(given, 0)
            assert (given == wanted).all()


def test_every_dtype_and_scalars(pool: Pool):
    pool.get(2, exchange_types)


def many(group: collectives.Group, seed: int) -> None:
    """All to all in random order, in tags that are threads'; beside a large all_reduce."""
    others = [rank for rank in range(group.size) if rank != group.rank]
    failed: list[BaseException] = []

    def talk(tag: int) -> None:
        mine = random.Random(seed * 100 + tag)
        counts = [mine.choice((*COUNTS[:4], 200_000)) for _ in range(8)]  # the same on all ranks
        calls = [(rank, k, way) for rank in others for k in range(8) for way in (0, 1)]
        # Those of a pair are in order, all others as each rank likes.
        order = random.Random(seed + tag * 10 + group.rank)
        queues = collections.defaultdict(list)
        for rank, k, way in calls:
            queues[rank, way].append(k)
        works = []
        try:
            while queues:
                rank, way = order.choice(sorted(queues))
                k = queues[rank, way].pop(0)
                if not queues[rank, way]:
                    del queues[rank, way]
                sender, receiver = (group.rank, rank) if way else (rank, group.rank)
                wanted = noise(counts[k], tag, sender, receiver, k)
                array = wanted if way else np.zeros_like(wanted)
                begin = group.send_async if way else group.recv_async
                works.append((begin(array, rank, tag=tag, timeout=FOREVER), array, wanted))
            order.shuffle(works)
            for work, array, wanted in works:
                work.wait()
                assert array.tobytes() == wanted.tobytes(), f"seed {seed}, tag {tag}"
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=talk, args=(tag,)) for tag in range(3)]
    for thread in threads:
        thread.start()
    whole = np.ones(1_000_000, np.float32)
    group.all_reduce(whole)
    assert (whole == group.size).all()
    for thread in threads:
        thread.join(FOREVER)
        assert not thread.is_alive(), f"seed {seed}"
    assert not failed, f"seed {seed}: {failed[0]!r}"
    group.barrier()


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_any_order_of_sends_and_receives_of_many_tags(pool: Pool, transport: str):
    print("seed", SEED)
    pool.get(3, many, SEED, options={"transport": transport})


def backwards(group: collectives.Group) -> None:
    """More than goes without credit waits for receives that are called in the other order."""
    arrays = [np.full(300_000, tag, np.float32) for tag in range(8)]
    if group.rank == 0:
        works = [group.send_async(array, 1, tag=tag) for tag, array in enumerate(arrays)]
        group.barrier()
        for work in works:
            work.wait()
        return
    group.barrier()  # which is not behind what nobody receives yet
    for tag in reversed(range(8)):
        array = np.zeros(300_000, np.float32)
        group.recv(array, 0, tag=tag, timeout=FOREVER)
        assert array.tobytes() == arrays[tag].tobytes()


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_receives_in_another_order_than_the_sends(pool: Pool, transport: str):
    pool.get(2, backwards, options={"transport": transport})


# ---- from any ----------------------------------------------------------------------------------


def collect(group: collectives.Group, each: int, count: int) -> None:
    if group.rank > 0:
        works = []
        for k in range(each):
            array = np.full(count, group.rank * each + k, np.float64)
            works.append(group.send_async(array, 0, timeout=FOREVER))
        for work in works:
            work.wait()
        group.barrier()
        return
    names = [peer.name for peer in group.peers]
    heard: dict[int, list[int]] = {rank: [] for rank in range(1, group.size)}
    for _ in range(each * (group.size - 1)):
        array = np.zeros(count, np.float64)
        result = group.recv(array, timeout=FOREVER)
        assert (array == array[0]).all()
        rank, k = divmod(int(array[0]), each)
        assert result.contributors == (names[rank],)
        heard[rank].append(k)
    assert all(heard[rank] == list(range(each)) for rank in heard), heard
    group.barrier()


@pytest.mark.parametrize(("each", "count"), [(100, 3), (5, 100_000)])
@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_nothing_from_three_senders_is_lost_or_out_of_order(
    pool: Pool, each: int, count: int, transport: str
):
    pool.get(4, collect, each, count, options={"transport": transport})


def be_fair(group: collectives.Group) -> int:
    array = np.zeros(1)
    if group.rank == 2:
        group.send(np.ones(1), 0, timeout=FOREVER)
        group.barrier()
        return 0
    if group.rank == 1:  # there is always something of it
        stop = group.recv_async(np.zeros(1), 0, tag=1, timeout=FOREVER)
        works: collections.deque[collectives.Work] = collections.deque()
        while not stop.done():
            works.append(group.send_async(array, 0, timeout=FOREVER))
            if len(works) == 20:
                works.popleft().wait()
        group.send(np.full(1, 2.0), 0, timeout=FOREVER)
        group.barrier()
        return 0
    count = 0
    while array[0] != 1:
        group.recv(array, timeout=FOREVER)
        count += 1
        assert count < 100_000, "it is never its turn"
    group.send(np.zeros(1), 1, tag=1)
    while array[0] != 2:
        group.recv(array, timeout=FOREVER)
    group.barrier()
    return count


def test_one_who_sends_much_keeps_nobody_waiting(pool: Pool):
    pool.get(3, be_fair)


def prefer(group: collectives.Group) -> None:
    if group.rank == 0:
        arrays = [np.zeros(1) for _ in range(3)]
        works = [group.recv_async(arrays[0]), group.recv_async(arrays[1], 1)]
        works.append(group.recv_async(arrays[2]))
        group.barrier()
        for work in works:
            work.wait()
        assert [array[0] for array in arrays] == [2, 1, 3]
    else:
        group.barrier()
        for value in (1, 2, 3):
            group.send(np.full(1, float(value)), 0)


def test_from_any_takes_what_no_other_receive_was_called_for(pool: Pool):
    pool.get(2, prefer)


# ---- what is an error --------------------------------------------------------------------------


def differ(group: collectives.Group, given: np.ndarray, place: np.ndarray, any_: bool) -> str:
    before = given.copy()
    with raises(collectives.MismatchError) as caught:
        if group.rank == 0:
            group.send(given, 1, tag=9)
        elif group.rank == 1:
            group.recv(place, None if any_ else 0, tag=9)
        else:
            group.recv(np.zeros(1), 0, tag=9)  # it does not stand, so it ends with the others
    assert given.tobytes() == before.tobytes()
    group.sync()
    array = np.full(10, group.rank, np.float32)
    if group.rank == 0:
        group.send(array, 1, tag=9)
    elif group.rank == 1:
        group.recv(array, 0, tag=9)
        assert (array == 0).all()
    group.barrier()  # the third one is not in it, and must not go before it
    return str(caught[0])


@pytest.mark.parametrize("any_", [False, True])
@pytest.mark.parametrize(
    ("given", "place"),
    [
        (np.zeros(10, np.float32), np.zeros(11, np.float32)),
        (np.zeros(10, np.float32), np.zeros(10, np.int32)),
        (np.zeros(0, np.float32), np.zeros(1, np.float32)),
        (np.zeros(1_000_000, np.float32), np.zeros(0, np.float32)),
        (np.zeros(500_000, np.float64), np.zeros(1_000_000, np.float32)),
    ],
)
def test_who_expects_something_else_is_told_and_so_is_the_sender(
    pool: Pool, given: np.ndarray, place: np.ndarray, any_: bool
):
    texts = pool.get(3, differ, given, place, any_)
    assert texts[0] == texts[1] == texts[2]
    assert f"called send(dtype={lib_name(given)}, count={given.size}" in texts[0]
    assert f"called recv(dtype={lib_name(place)}, count={place.size}" in texts[0]


def lib_name(array: np.ndarray) -> str:
    return f"{array.dtype.kind}{8 * array.itemsize}"


def give_up(group: collectives.Group, how: str) -> tuple[str, str]:
    me = group.rank
    with raises(collectives.Timeout) as caught:
        if me == 0 and how == "send":
            group.send(np.zeros(1_000_000), 1, timeout=0.4)
        elif me == 0:
            group.recv(np.zeros(10), 1 if how == "recv" else None, timeout=0.4)
        else:
            # It waits for something else, and is told what the verdict is.
            group.recv(np.zeros(10), 0, tag=3, timeout=FOREVER)
    group.sync()
    group.barrier()
    return str(caught[0]), [peer.name for peer in group.peers][1]


@pytest.mark.parametrize("how", ["send", "recv", "any"])
def test_a_timeout_names_who_is_missing(pool: Pool, how: str):
    (text, name), (other, _) = pool.get(2, give_up, how)
    assert text == other
    wanted = "nobody has sent anything" if how == "any" else f"'{name}' (rank 1) has not called it"
    assert wanted in text, text


def misuse(group: collectives.Group) -> None:
    array, fixed = np.zeros(3), np.zeros(3)
    fixed.flags.writeable = False
    me = group.rank
    for call in (
        lambda: group.send(array, me),
        lambda: group.recv(array, me),
        lambda: group.send(array, 2),
        lambda: group.recv(array, -1),
        lambda: group.recv(fixed, 1 - me),
        lambda: group.recv(np.broadcast_to(np.zeros(1), (3,)), 1 - me),
        lambda: group.send([1, 2], 1 - me),
        lambda: group.send(array, 1 - me, tag=-1),
        lambda: group.send(array, 1 - me, timeout=0),
    ):
        with raises(collectives.InvalidArgument):
            call()
    with raises(collectives.UnsupportedError):
        group.send(np.zeros(3, "c8"), 1 - me)
    group.send(fixed, 1) if me == 0 else group.recv(array, 0)  # what is only read may be read-only


def test_what_cannot_be_is_refused_and_nothing_is_sent(pool: Pool):
    pool.get(2, misuse)


def cancel(group: collectives.Group) -> str:
    array = np.zeros(10)
    if group.rank == 0:
        work = group.recv_async(array, None)
        group.barrier()
        work.cancel("enough")
        with raises(collectives.Cancelled) as caught:
            work.wait()
    else:
        group.barrier()
        with raises(collectives.Cancelled) as caught:
            group.recv(array, 0, timeout=FOREVER)
    group.sync()
    group.send(array, 1) if group.rank == 0 else group.recv(array, 0)
    return str(caught[0])


def test_a_cancelled_receive_ends_the_others_calls_too(pool: Pool):
    first, second = pool.get(2, cancel)
    assert "enough" in first and "enough" in second


def undo(group: collectives.Group) -> None:
    array = np.full(10, -1.0)
    with raises(ValueError if group.rank == 0 else collectives.Cancelled), group.step():
        if group.rank == 0:
            group.send(np.ones(10), 1)
            raise ValueError
        group.recv(array, 0)
        assert (array == 1).all()
    assert (array == -1).all()
    group.sync()


def test_a_step_that_does_not_count_takes_back_what_was_received(pool: Pool):
    pool.get(2, undo)
