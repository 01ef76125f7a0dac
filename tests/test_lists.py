"""Lists of arrays as one operation: the bits are those of one array, and blocks stay in their own.
Scaled sums that are repeated.

What each collective does with lists and factors is checked with all others in test_collectives.py.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import collectives
from crew import DEADLINE
from pool import Pool
from test_deaths import crew_of
from test_operations import FOREVER, LARGE, SMALL, after_the_break, raises

SEED = random.SystemRandom().randrange(2**32)
SLICE = 4096


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(3) as pool:
        yield pool


def pieces(chance: np.random.Generator, count: int) -> list[Any]:
    """Arrays and tensors of so many elements in all, that lie and follow each other anyhow."""
    made: list[Any] = []
    flat = np.zeros(count, np.float32)  # some are parts of one
    while count:
        size = min(count, int(chance.choice([1, 1, 2, 30, 1000, 1030, 30_000])))
        match int(chance.integers(8)):
            case 0:
                piece: Any = np.zeros(2 * size, np.float32)[::2]
            case 1 if size % 2 == 0:
                piece = np.zeros((size // 2, 2), np.float32).T[::-1]
            case 2 if size % 10 == 0:
                wide = np.zeros((size // 10, 13), np.float32)
                made.append(wide[:, 10:][:, :0])
                piece = wide[:, 2:12]
            case 3 if size % 2 == 0:
                piece = torch.zeros(2, size // 2).T
            case 4:
                piece = torch.zeros(size)
            case 5 if size == 1:
                piece = np.zeros((), np.float32)
            case _:
                piece, flat = flat[:size], flat[size:]
        made.append(piece)
        count -= size
    return made


def fill(arrays: list[Any], values: np.ndarray) -> None:
    for array in arrays:
        view = array.numpy() if isinstance(array, torch.Tensor) else array
        view[...] = values[: view.size].reshape(view.shape)
        values = values[view.size :]


def joined(arrays: list[Any]) -> np.ndarray:
    return np.concatenate([np.asarray(array).reshape(-1) for array in arrays])


def reduce_lists(group: collectives.Group, seed: int) -> None:
    """Each rank cuts the same elements in its own way; one passes an array."""
    shared, own = np.random.default_rng(seed), np.random.default_rng([seed, group.rank])
    for count in (0, 1, 5, 900, 70_000, 500_000):
        values = own.standard_normal(count, np.float32)
        wanted = values.copy()
        group.all_reduce(wanted, timeout=DEADLINE)
        arrays = pieces(own, count) or [np.zeros(0, np.float32)]
        results = pieces(own, count) or [np.zeros((0, 3), np.float32)]
        fill(arrays, values)
        given: Any = values if group.rank == shared.integers(group.size) else tuple(arrays)
        result = group.all_reduce(given, out=results, timeout=DEADLINE)
        assert result.value is results
        assert joined(results).tobytes() == wanted.tobytes(), "out of place"
        assert joined(arrays).tobytes() == values.tobytes(), "the input was written to"
        assert group.all_reduce(arrays, timeout=DEADLINE).value is arrays
        assert joined(arrays).tobytes() == wanted.tobytes(), "in place"
        fill(arrays, values)
        group.broadcast(arrays, 1, timeout=DEADLINE)
        group.broadcast(values, 1, timeout=DEADLINE)
        assert joined(arrays).tobytes() == values.tobytes(), "broadcast"


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_list_has_the_bits_of_one_array(pool: Pool, transport: str):
    print(f"seed {SEED}")
    options = {"transport": transport, "slice_bytes": SLICE}
    pool.get(3, reduce_lists, SEED, options=options)


def fail_in_the_middle(group: collectives.Group, count: int, op: Any, seed: int) -> None:
    chance = np.random.default_rng([seed, group.rank])
    arrays = pieces(chance, count)
    values = chance.standard_normal(count, np.float32)
    fill(arrays, values)
    with raises(collectives.Timeout):
        if group.rank == 2:
            group.barrier(tag=5, timeout=FOREVER)
        else:
            group.all_reduce(arrays, op, timeout=0.6)
    assert joined(arrays).tobytes() == values.tobytes(), "the input was not restored"
    after_the_break(group, collectives.Timeout)


@pytest.mark.parametrize("op", ["sum", collectives.scaled_sum(0.3)], ids=str)
@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_lists_are_intact_after_a_failure_in_the_middle(pool: Pool, count: int, op: Any):
    print(f"seed {SEED}")
    pool.get(3, fail_in_the_middle, count, op, SEED)


def forget(group: collectives.Group) -> None:
    arrays = [np.full(LARGE // 4, i, np.float32)[::2] for i in range(8)]
    work = group.all_reduce_async(arrays, timeout=DEADLINE)
    kept = arrays[0]
    arrays.clear()
    spoiler = [np.full(LARGE // 4, 9, np.float32) for _ in range(8)]  # where freed ones were
    assert work.wait().value is arrays
    assert (kept == 0).all() and all((array == 9).all() for array in spoiler)


def test_a_list_may_change_while_its_operation_is_under_way(pool: Pool):
    pool.get(2, forget)


def exchange(group: collectives.Group) -> None:
    """Sizes of each pair, some of them 0."""
    rank, n = group.rank, group.size
    size = [[(3 * k + 7 * r) % 5 * 1000 for r in range(n)] for k in range(n)]
    given = [np.full((size[rank][r] // 10, 10), 10 * rank + r, np.int16) for r in range(n)]
    out = [np.zeros(size[k][rank], np.int16)[::-1] for k in range(n)]
    group.all_to_all(given, out=out, timeout=DEADLINE)
    assert [set(block.tolist()) for block in out] == [
        {10 * k + rank} if size[k][rank] else set() for k in range(n)
    ]
    # One side may be an array.
    whole = np.zeros(sum(size[k][rank] for k in range(n)), np.int16)
    group.all_to_all(given, out=whole, out_counts=[size[k][rank] for k in range(n)])
    assert whole.tobytes() == joined(out).tobytes()
    # Equal blocks are what they are to those who pass no list.
    blocks = [np.zeros((2, 2), np.int64).T for _ in range(n)]
    out_of_root = {"out": blocks} if rank == 0 else {}
    group.gather(np.full(4, rank), 0, timeout=DEADLINE, **out_of_root)
    if rank == 0:
        assert [block.ravel().tolist() for block in blocks] == [[k] * 4 for k in range(n)]


def test_lists_of_blocks_are_exchanged_whatever_their_sizes(pool: Pool):
    pool.get(3, exchange)


def lose_one(group: collectives.Group, count: int, kind: str, even: bool) -> None:
    """The middle one dies before it calls; its block is nobody's, and its array is passed over."""
    rank, names = group.rank, [peer.name for peer in group.peers]
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    sizes = [count] * 3 if even else [count, count + 7, count - 3]
    flat = np.full(sum(sizes), -1, np.int32)  # even ones follow each other, and are no one array
    out: list[Any] = np.split(flat, np.cumsum(sizes)[:-1])
    if not even:
        out = [np.full(2 * size, -1, np.int32)[::2] for size in sizes]
    mine = np.full(sizes[rank], rank, np.int32)
    if kind == "all_gather":
        result = group.all_gather(mine, out=out, resize=True, timeout=DEADLINE)
    else:
        to = [np.full(sizes[rank], rank, np.int32) for _ in sizes]
        result = group.all_to_all(to, out=out, resize=True, timeout=DEADLINE)
    assert result.contributors == (names[0], names[2])
    assert [id(array) for array in result.value] == [id(out[0]), id(out[2])]
    assert [array.min() for array in out] == [array.max() for array in out] == [0, -1, 2]


@pytest.mark.parametrize(
    ("kind", "count", "even"),
    [("all_gather", 10, True), ("all_gather", 100_000, False), ("all_to_all", 1000, False)],
)
def test_what_comes_without_the_lost_stays_in_its_arrays(kind: str, count: int, even: bool):
    with crew_of(3) as crew:
        for member in crew.members:
            member.start(lose_one, count, kind, even)
        assert crew.members[1].process.wait(DEADLINE) == -signal.SIGKILL
        for member in (crew.members[0], crew.members[2]):
            member.result().get()


def scaled_without_one(group: collectives.Group, count: int, phase: str, seed: int) -> None:
    """Who stays has its input restored as it was, and scaled once."""
    rank, names = group.rank, [peer.name for peer in group.peers]
    inputs = [np.random.default_rng([seed, k]).standard_normal(count, np.float32) for k in range(2)]
    if rank == len(names) - 1:
        group._fault_at(phase, group._native.last_operation() + 1)
    array = inputs[rank % 2].copy()
    result = group.all_reduce(array, collectives.scaled_sum(0.3 + rank), timeout=DEADLINE)
    assert result.contributors == tuple(names[:-1])
    scaled = [inputs[k] * np.float32(0.3 + k) for k in range(len(names) - 1)]
    want = sum(scaled[1:], scaled[0])
    assert array.tobytes() == want.tobytes()  # of two numbers either order is right


@pytest.mark.parametrize(("size", "phase"), [(2, "issued"), (3, "between")])
def test_a_scaled_sum_that_is_repeated_begins_with_the_input_as_it_was(size: int, phase: str):
    print(f"seed {SEED}")
    with crew_of(size) as crew:
        for member in crew.members:
            member.start(scaled_without_one, LARGE, phase, SEED)
        assert crew.members[-1].process.wait(DEADLINE) == -signal.SIGKILL
        for member in crew.members[:-1]:
            member.result().get()
