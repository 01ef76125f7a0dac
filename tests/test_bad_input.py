"""G8: bad input is an error that says what is wrong. Not a hang, a crash or a wrong answer."""

from __future__ import annotations

import pathlib
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import collectives
from collectives import InvalidArgument, MismatchError, UnsupportedError
from pool import Pool

FOREVER = 20.0
PROMPTLY = 2.0


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(4) as pool:
        yield pool


# ---- ranks that call different things ------------------------------------------------------------


def array_of(count: int, dtype: Any = np.float32) -> np.ndarray:
    return np.arange(count).astype(dtype)


CALLS: dict[str, Callable[[collectives.Group, list[np.ndarray]], Any]] = {
    "f32 x100": lambda g, kept: g.all_reduce(keep(kept, array_of(100))),
    "f32 x101": lambda g, kept: g.all_reduce(keep(kept, array_of(101))),
    "f32 x0": lambda g, kept: g.all_reduce(keep(kept, array_of(0))),
    "f64 x100": lambda g, kept: g.all_reduce(keep(kept, array_of(100, np.float64))),
    "i32 x100": lambda g, kept: g.all_reduce(keep(kept, array_of(100, np.int32))),
    "max x100": lambda g, kept: g.all_reduce(keep(kept, array_of(100)), "max"),
    "f32 x1000000": lambda g, kept: g.all_reduce(keep(kept, array_of(1_000_000))),
    "f32 x999999": lambda g, kept: g.all_reduce(keep(kept, array_of(999_999))),
    "broadcast 0 x100": lambda g, kept: g.broadcast(keep(kept, array_of(100)), 0),
    "broadcast 1 x100": lambda g, kept: g.broadcast(keep(kept, array_of(100)), 1),
    "broadcast 0 x0": lambda g, kept: g.broadcast(keep(kept, array_of(0)), 0),
    "broadcast 0 x1000000": lambda g, kept: g.broadcast(keep(kept, array_of(1_000_000)), 0),
    "reduce 0 x100": lambda g, kept: g.reduce(keep(kept, array_of(100)), 0),
    "reduce 1 x100": lambda g, kept: g.reduce(keep(kept, array_of(100)), 1),
    "max to 0 x100": lambda g, kept: g.reduce(keep(kept, array_of(100)), 0, "max"),
    "scattered x48": lambda g, kept: g.reduce_scatter(keep(kept, array_of(48))),
    "scattered x480000": lambda g, kept: g.reduce_scatter(keep(kept, array_of(480_000))),
    "all_gather x12": lambda g, kept: g.all_gather(keep(kept, array_of(12))),
    "all_gather x13": lambda g, kept: g.all_gather(keep(kept, array_of(13))),
    "all_gather x0": lambda g, kept: g.all_gather(keep(kept, array_of(0))),
    "all_gather x90000": lambda g, kept: g.all_gather(keep(kept, array_of(90_000))),
    "gather 0 x12": lambda g, kept: g.gather(keep(kept, array_of(12)), 0),
    "gather 1 x12": lambda g, kept: g.gather(keep(kept, array_of(12)), 1),
    "scatter 0 x12": lambda g, kept: scatter(g, kept, 0, 12),
    "scatter 1 x12": lambda g, kept: scatter(g, kept, 1, 12),
    "scatter 1 x13": lambda g, kept: scatter(g, kept, 1, 13),
    "all_to_all x48": lambda g, kept: g.all_to_all(keep(kept, array_of(48))),
    "barrier": lambda g, kept: g.barrier(),
    "sync": lambda g, kept: g.sync(timeout=FOREVER),
}


def keep(kept: list[np.ndarray], array: np.ndarray) -> np.ndarray:
    kept += [array, array.copy()]
    return array


def scatter(group: collectives.Group, kept: list[np.ndarray], root: int, rows: int) -> Any:
    if group.rank == root:
        return group.scatter(keep(kept, array_of(rows * group.size)), root)
    return group.scatter(None, root, out=np.empty(rows, np.float32))


DESCRIBED = {
    "f32 x100": "all_reduce(dtype=f32, op=sum, count=100)",
    "f32 x101": "all_reduce(dtype=f32, op=sum, count=101)",
    "f32 x0": "all_reduce(dtype=f32, op=sum, count=0)",
    "f64 x100": "all_reduce(dtype=f64, op=sum, count=100)",
    "i32 x100": "all_reduce(dtype=i32, op=sum, count=100)",
    "max x100": "all_reduce(dtype=f32, op=max, count=100)",
    "f32 x1000000": "all_reduce(dtype=f32, op=sum, count=1000000)",
    "f32 x999999": "all_reduce(dtype=f32, op=sum, count=999999)",
    "broadcast 0 x100": "broadcast(dtype=f32, count=100, root=0)",
    "broadcast 1 x100": "broadcast(dtype=f32, count=100, root=1)",
    "broadcast 0 x0": "broadcast(dtype=f32, count=0, root=0)",
    "broadcast 0 x1000000": "broadcast(dtype=f32, count=1000000, root=0)",
    "reduce 0 x100": "reduce(dtype=f32, op=sum, count=100, root=0)",
    "reduce 1 x100": "reduce(dtype=f32, op=sum, count=100, root=1)",
    "max to 0 x100": "reduce(dtype=f32, op=max, count=100, root=0)",
    "scattered x48": "reduce_scatter(dtype=f32, op=sum, count={48})",
    "scattered x480000": "reduce_scatter(dtype=f32, op=sum, count={480000})",
    "all_gather x12": "all_gather(dtype=f32, count=12)",
    "all_gather x13": "all_gather(dtype=f32, count=13)",
    "all_gather x0": "all_gather(dtype=f32, count=0)",
    "all_gather x90000": "all_gather(dtype=f32, count=90000)",
    "gather 0 x12": "gather(dtype=f32, count=12, root=0)",
    "gather 1 x12": "gather(dtype=f32, count=12, root=1)",
    "scatter 0 x12": "scatter(dtype=f32, count=12, root=0)",
    "scatter 1 x12": "scatter(dtype=f32, count=12, root=1)",
    "scatter 1 x13": "scatter(dtype=f32, count=13, root=1)",
    "all_to_all x48": "all_to_all(dtype=f32, count={48})",
    "barrier": "barrier()",
    "sync": "sync()",
}


def call_what(group: collectives.Group, calls: list[str]) -> tuple[float, str, list[str]]:
    group.all_reduce(np.ones(3))
    kept: list[np.ndarray] = []
    began = time.monotonic()
    try:
        CALLS[calls[group.rank]](group, kept)
    except MismatchError as error:
        said = str(error)
    else:
        raise AssertionError(f"{calls[group.rank]} beside {calls} raised nothing")
    took = time.monotonic() - began
    if kept:
        assert kept[0].tobytes() == kept[1].tobytes(), "the input was not restored"
    for again in (group.barrier, lambda: group.all_reduce(np.ones(3))):
        try:
            again()
        except MismatchError:
            pass
        else:
            raise AssertionError("the group was not broken")
    group.sync(timeout=FOREVER)
    array = np.ones(1000)
    group.all_reduce(array)
    assert (array == group.size).all()
    return took, said, [peer.name for peer in group.peers]


MISMATCHES = [
    ("f32 x100", "f32 x101"),
    ("f32 x100", "f64 x100"),
    ("f32 x100", "i32 x100"),
    ("f32 x100", "max x100"),
    ("f32 x100", "f32 x0"),
    ("f32 x0", "f32 x100"),
    ("f32 x1000000", "f32 x999999"),
    ("f32 x1000000", "f32 x0"),
    ("f32 x1000000", "f32 x100"),
    ("broadcast 0 x100", "broadcast 1 x100"),
    ("broadcast 1 x100", "broadcast 0 x100"),
    ("broadcast 0 x100", "broadcast 0 x0"),
    # The second waits for the first, which sends it nothing, and the other way round.
    ("f32 x100", "broadcast 0 x100"),
    ("f32 x0", "broadcast 0 x0"),
    ("broadcast 1 x100", "f32 x0"),
    ("f32 x1000000", "broadcast 0 x1000000"),
    ("broadcast 0 x1000000", "f32 x1000000"),
    ("barrier", "f32 x100"),
    ("f32 x0", "barrier"),
    ("barrier", "broadcast 0 x1000000"),
    ("sync", "f32 x100"),
    ("f32 x100", "sync"),
    ("sync", "f32 x1000000"),
    ("sync", "barrier"),
    ("broadcast 0 x100", "sync"),
    ("reduce 0 x100", "reduce 1 x100"),
    ("reduce 0 x100", "max to 0 x100"),
    ("reduce 1 x100", "f32 x100"),
    ("scattered x48", "f32 x100"),
    ("scattered x48", "scattered x480000"),
    ("all_gather x12", "all_gather x13"),
    ("all_gather x0", "all_gather x12"),
    ("all_gather x90000", "all_gather x12"),
    ("all_gather x12", "gather 0 x12"),
    ("gather 0 x12", "gather 1 x12"),
    ("gather 1 x12", "scatter 1 x12"),
    ("scatter 0 x12", "scatter 1 x12"),
    ("scatter 1 x12", "scatter 1 x13"),
    ("all_to_all x48", "scattered x48"),
    ("all_to_all x48", "barrier"),
    ("broadcast 0 x100", "scatter 0 x12"),
    ("sync", "all_gather x90000"),
]


@pytest.mark.parametrize(("one", "other"), MISMATCHES, ids=[" vs ".join(m) for m in MISMATCHES])
def test_all_ranks_are_told_who_called_what(pool: Pool, one: str, other: str):
    for calls in ([one, other], [one, one, other], [other, one, one], [one, other, one, one]):
        for took, said, names in pool.get(len(calls), call_what, calls):
            assert took < PROMPTLY, (calls, took)
            assert "ranks called different things as operation 2" in said
            assert "every rank must make the same calls in the same order" in said
            # Two that differ, by name, rank and call, at least.
            told = [
                f"'{names[rank]}' (rank {rank}) called {described(call, len(calls))}"
                for rank, call in enumerate(calls)
            ]
            found = {calls[rank] for rank, text in enumerate(told) if text in said}
            assert found == {one, other}, (calls, said)


def described(call: str, size: int) -> str:
    """In braces: what is cut into as many blocks as there are ranks."""
    before, brace, after = DESCRIBED[call].partition("{")
    count, _, after = after.partition("}")
    return before + (str(int(count) // size) if brace else "") + after


def counts_of(kind: str, size: int, odd: bool) -> list[int]:
    """As many in all, whether odd or not."""
    counts = [10 + rank for rank in range(size)]
    return counts[::-1] if odd else counts


def call_with_counts(group: collectives.Group, kind: str, odd: int) -> tuple[float, str]:
    """One rank says something else of the blocks than the others do."""
    counts = counts_of(kind, group.size, odd=group.rank == odd)
    mine, root = counts[group.rank], {"root": 0} if kind in ("gather", "scatter") else {}
    array: Any = array_of(mine if "gather" in kind else sum(counts))
    out = None
    if kind == "scatter" and group.rank != 0:
        array, out = None, np.empty(mine, np.float32)
    before = None if array is None else array.copy()
    began = time.monotonic()
    try:
        getattr(group, kind)(array, out=out, counts=counts, **root)
    except MismatchError as error:
        assert before is None or array.tobytes() == before.tobytes()
        took = time.monotonic() - began
        group.sync(timeout=FOREVER)
        assert group.all_gather(array_of(3)).value.size == 3 * group.size
        return took, str(error)
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("kind", ["reduce_scatter", "all_gather", "gather", "scatter"])
def test_all_ranks_are_told_of_other_counts(pool: Pool, kind: str):
    for size, odd in ((2, 1), (3, 0), (3, 2)):
        for took, said in pool.get(size, call_with_counts, kind, odd):
            assert took < PROMPTLY
            assert len(set(re.findall(rf"called {kind}\([^)]*(counts=#[0-9a-f]+)", said))) == 2, (
                said
            )


def call_with_pairs(group: collectives.Group, rows: int, source: int, target: int) -> str:
    """Of what goes from one rank to another, each of them says something else."""
    to, come = [5] * group.size, [5] * group.size
    if group.rank == source:
        to[target] = rows
    array = array_of(sum(to))
    try:
        group.all_to_all(array, counts=to, out_counts=come)
    except MismatchError as error:
        assert (array == array_of(sum(to))).all()
        group.sync(timeout=FOREVER)
        return str(error)
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("rows", [0, 4, 60_000])
def test_all_ranks_are_told_of_a_pair_that_disagrees(pool: Pool, rows: int):
    for size, source, target in ((2, 0, 1), (3, 2, 0), (4, 1, 2)):
        for said in pool.get(size, call_with_pairs, rows, source, target):
            assert f"(rank {target}) called all_to_all(dtype=f32, count=5)" in said
            assert f"(rank {source}) called all_to_all(dtype=f32, count={rows})" in said
            assert f"count is of what goes from rank {source} to rank {target};" in said


def test_equal_blocks_are_the_same_with_counts_in_an_all_to_all(pool: Pool):
    for right in pool.get(3, exchange_with_or_without_counts):
        assert right


def exchange_with_or_without_counts(group: collectives.Group) -> bool:
    array = np.full(6, group.rank)
    counts = {"counts": [2] * 3, "out_counts": [2] * 3} if group.rank == 1 else {}
    return list(group.all_to_all(array, **counts).value) == [0, 0, 1, 1, 2, 2]


def mismatch_in_a_tag(group: collectives.Group) -> str:
    array = array_of(10)
    work = group.all_reduce_async(array, "sum" if group.rank else "max", tag=3)
    try:
        work.wait()
    except MismatchError as error:
        assert (array == array_of(10)).all()
        group.sync(timeout=FOREVER)
        group.all_reduce(array, tag=3)
        return str(error)
    raise AssertionError("nothing was raised")


def test_a_mismatch_in_a_tag_ends_asynchronous_operations_too(pool: Pool):
    for said in pool.get(2, mismatch_in_a_tag):
        assert "op=sum" in said and "op=max" in said and "(tag 4)" not in said, said
        assert "tag 3" in said


# ---- arguments that make no sense ----------------------------------------------------------------


@pytest.fixture(scope="module")
def alone() -> Iterator[collectives.Group]:
    """A group of one, in this process: what is refused here never reaches another."""
    with (
        collectives.Coordinator("127.0.0.1:0") as coordinator,
        collectives.join(coordinator.address, timeout=FOREVER) as group,
    ):
        yield group


def refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + "".join(f"(?=.*{word})" for word in words))


def test_read_only_arrays_are_refused_where_they_would_be_written(alone: collectives.Group):
    array = np.ones(4)
    array.flags.writeable = False
    with refused(InvalidArgument, "array is read-only", "pass a writable array"):
        alone.all_reduce(array)
    with refused(InvalidArgument, "out is read-only"):
        alone.all_reduce(np.ones(4), out=array)
    with refused(InvalidArgument, "out is read-only"):
        alone.all_reduce_async(np.ones(4), out=array)
    out = np.zeros(4)
    alone.all_reduce(array, out=out)  # reading it is fine
    alone.broadcast(array, 0)
    assert (array == 1).all() and (out == 1).all()


def test_a_read_only_array_is_refused_by_those_who_receive_a_broadcast(pool: Pool):
    values = pool.get(2, broadcast_read_only)
    assert values[0] == "" and "array is read-only" in values[1]


def broadcast_read_only(group: collectives.Group) -> str:
    array = np.full(4, group.rank)
    array.flags.writeable = False
    said = ""
    if group.rank == 1:
        try:
            group.broadcast(array, 0)
        except InvalidArgument as error:
            said = str(error)
            array = array.copy()
    group.broadcast(array, 0)
    assert (array == 0).all()
    return said


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_an_overlapping_out_is_refused(alone: collectives.Group, library: str):
    import torch

    whole: Any = np.ones(100) if library == "numpy" else torch.ones(100)
    for array, out in [
        (whole[:60], whole[40:]),
        (whole[40:], whole[:60]),
        (whole[:50], whole[1:51]),
    ]:
        if len(array) != len(out):
            array, out = array[:40], out[:40]
        if library == "numpy" and not np.shares_memory(array, out):
            alone.all_reduce(array, out=out)
            continue
        with refused(InvalidArgument, "overlap", "the same or apart"):
            alone.all_reduce(whole[:60], out=whole[40:])
    alone.all_reduce(whole[:50], out=whole[50:])
    alone.all_reduce(whole, out=whole)
    assert (whole == 1).all()


def test_an_output_whose_elements_share_memory_is_refused(alone: collectives.Group):
    import torch
    from numpy.lib.stride_tricks import as_strided

    base = np.ones(36, np.float32)
    shared = [
        as_strided(base, (4, 4), (4, 4)),
        as_strided(base, (3, 4), (12, 4)),
        as_strided(base, (2, 3), (0, 8)),
        torch.ones(1).expand(5),
    ]
    for array in shared:
        with refused(InvalidArgument, "share memory"):
            alone.all_reduce(array)
        given = np.ones(array.shape, np.float32)
        with refused(InvalidArgument, "share memory"):
            alone.all_reduce(given, out=array)
        result = np.zeros(array.shape, np.float32)
        alone.all_reduce(array, out=result)  # to read they are fine
        assert (result == 1).all()
    with refused(InvalidArgument, "strides that no memory has"):
        alone.all_reduce(as_strided(base, (2,), (2**61,)))


def test_strided_arrays_that_overlap_are_refused(alone: collectives.Group):
    table = np.ones((8, 8), np.float32)
    for array, out in (
        (table[:4, ::2], table[2:6, ::2]),
        (table[:4, :4], table[:4, :4].T),
        (table[:4, :5], table[:4, 3:]),
        (table[:4, 1:7:3], table[:4, :6:4]),  # without a common element, which takes more to see
    ):
        with refused(InvalidArgument, "overlap"):
            alone.all_reduce(array, out=out)
    with refused(InvalidArgument, "overlap"):
        alone.all_gather(table[:, ::2], out=table[:, ::2])
    alone.all_reduce(table[:4, ::2], out=table[4:, ::2])
    alone.all_reduce(table[:4, ::2], out=table[:4, 1::2])
    alone.all_reduce(table[:, 4:], out=table[:, :4])
    deep = np.ones((2,) * 20, np.float32)
    with refused(UnsupportedError, "more than 8 nested loops"):
        alone.all_reduce(deep.transpose(range(19, -1, -1)))
    assert (table == 1).all()


def test_an_unknown_op_is_refused(alone: collectives.Group):
    for op in ("mean", "", "SUM", None, 3):
        with refused(InvalidArgument, "op is ", "known are sum, avg, prod, min, max"):
            alone.all_reduce(np.ones(3), op)


def test_a_scaled_sum_is_of_floats_and_its_factor_a_number(alone: collectives.Group):
    for dtype in (np.int32, np.uint8, bool):
        with refused(InvalidArgument, "there is no scaled_sum of"):
            alone.all_reduce(np.ones(3, dtype), collectives.scaled_sum(0.5))
    for factor in ("a half", None, 1j, [1.0]):
        with pytest.raises((TypeError, ValueError)):
            collectives.scaled_sum(factor)  # type: ignore[arg-type]
    with refused(InvalidArgument, "op is 'scaled_sum'; known are .*scaled_sum.factor."):
        alone.all_reduce(np.ones(3), "scaled_sum")


def test_dtypes_that_cannot_be_reduced_are_refused(alone: collectives.Group):
    import torch

    arrays: list[Any] = [
        np.ones(3, np.complex64),
        np.array([None, 1], object),
        np.array(["a"]),
        np.zeros(3, "m8[s]"),
        np.zeros(3, [("a", "f4")]),
        np.ones(3, np.longdouble),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3).to(torch.float8_e4m3fn),
    ]
    for array in arrays:
        with refused(UnsupportedError, "array has dtype", "supported are float64, float32"):
            alone.all_reduce(array)
    with refused(UnsupportedError, "not in this machine's byte order"):
        alone.all_reduce(np.ones(3, ">f4"))
    with refused(UnsupportedError, "sparse"):
        alone.all_reduce(torch.ones(3).to_sparse())
    with refused(UnsupportedError, "array is on meta", "cpu"):
        alone.all_reduce(torch.ones(3, device="meta"))


def test_what_is_no_array_is_refused(alone: collectives.Group):
    for thing in ({}, 3.0, None, b"abc", np.float32(1), "x", bytearray(8)):
        with refused(InvalidArgument, f"array is a {type(thing).__name__}", "numpy array or"):
            alone.all_reduce(thing)
        with refused(InvalidArgument, "array is a"):
            alone.broadcast(thing)
        if thing is not None:
            with refused(InvalidArgument, "out is a"):
                alone.all_reduce(np.ones(3), out=thing)


def test_lists_that_make_no_sense_are_refused_before_anything_is_sent(alone: collectives.Group):
    a, b = np.ones(6, np.float32), np.ones((2, 3), np.float32)
    frozen = np.ones(2, np.float32)
    frozen.flags.writeable = False
    before = alone._native.last_operation()
    for arrays, words in (
        ([], "array is an empty list, which has no dtype"),
        ([a, 1.0], "array.1. is a float"),
        ([a, [b]], "array.1. is a list; pass a flat list"),
        ([a, np.ones(2), np.ones(2, np.int8)], "array has arrays of f32, f64, i8"),
        ([a, frozen], "array.1. is read-only"),
        ([a, a], "arrays of the output share memory"),
        ([a, b, a[5:]], "arrays of the output share memory"),
        ([b[:, :2], b[:, 1:]], "arrays of the output share memory"),
        ([a, np.lib.stride_tricks.as_strided(b, (4,), (0,))], "elements of the output share"),
    ):
        with refused(InvalidArgument, words):
            alone.all_reduce(arrays)
    for given, out, words in (
        ([a, b], [a], "out has 6 elements of f32, array has 12 of f32"),
        ([a, b], [np.ones(12)], "out has 12 elements of f64, array has 12 of f32"),
        ([a, b], [b, a], "input and output overlap"),
        ([a, b], [a[::-1], b], "input and output overlap"),
        (np.ones(6, np.float32), [a[:3], a[2:5]], "arrays of the output share memory"),
    ):
        with refused(InvalidArgument, words):
            alone.all_reduce(given, out=out)
    assert alone._native.last_operation() == before


def test_an_out_of_another_size_or_dtype_is_refused(alone: collectives.Group):
    for out, text in [
        (np.zeros(4), "out has 4 elements of f64, array has 3 of f64; they must match"),
        (np.zeros(3, np.float32), "out has 3 elements of f32, array has 3 of f64"),
        (np.zeros(0), "out has 0 elements"),
    ]:
        with refused(InvalidArgument, text):
            alone.all_reduce(np.ones(3), out=out)


def test_roots_outside_the_view_are_refused(alone: collectives.Group):
    for root in (-1, 1, 2**40):
        with refused(InvalidArgument, f"root is {root}", "ranks of this view are 0 to 0"):
            alone.broadcast(np.ones(3), root)


def wrong_blocks(group: collectives.Group) -> list[str]:
    """Calls that make no sense, on all ranks of three; then one that does, which is the next."""
    rank, f = group.rank, np.float32
    at = np.arange(12, dtype=f)
    block = at[:4]
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: group.reduce_scatter(np.ones(13, f)), "13 rows, which are no equal blocks for 3"),
        (lambda: group.reduce_scatter(at, counts=[4, 8]), "counts has 2 entries for 3 ranks"),
        (lambda: group.reduce_scatter(at, counts=[4, 4, 3]), "12 rows, counts are 11 in all"),
        (lambda: group.reduce_scatter(at, counts=[8, 8, -4]), "each is a number of rows, from 0"),
        (lambda: group.reduce_scatter(at, counts=[2**64, 0, 0]), "each is a number of rows"),
        (lambda: group.reduce_scatter(at, out=np.ones(5, f)), "out has 5 elements of f32, the"),
        (lambda: group.reduce_scatter(at, out=np.ones(4)), "out has 4 elements of f64, the"),
        (lambda: group.reduce_scatter(at, "mean"), "op is 'mean'"),
        (lambda: group.reduce_scatter(at, out=at[1:5]), "overlap"),
        (lambda: group.all_gather(block, out=at[::-1]), "overlap"),
        (lambda: group.all_gather(block, out=np.ones(11, f)), "out has 11 elements of f32"),
        (
            lambda: group.all_gather(block, counts=[5, 5, 5]),
            f"counts says 5 for this rank ({rank})",
        ),
        (lambda: group.all_gather(block, counts=[4] * 4), "counts has 4 entries for 3 ranks"),
        (lambda: group.all_gather(at[1:5], out=at), "overlap"),
        (lambda: group.gather(block, 3), "root is 3; the ranks of this view are 0 to 2"),
        (lambda: group.gather(block, (rank + 1) % 3, out=at), "out is for the root's result"),
        (lambda: group.reduce(at, (rank + 1) % 3, out=at), "out is for the root's result"),
        (lambda: group.reduce(at, -1), "root is -1"),
        (lambda: group.reduce(at, rank, out=np.ones(3, f)), "out has 3 elements"),
        (lambda: group.scatter(at, 7), "root is 7"),
        (lambda: group.scatter(at, (rank + 1) % 3, out=block), "array is the root's to pass"),
        (lambda: group.scatter(None, (rank + 1) % 3), "scatter needs out="),
        (lambda: group.scatter(None, rank), "array is a NoneType"),
        (lambda: group.scatter(at[:7], rank), "7 rows, which are no equal blocks"),
        (lambda: group.all_to_all(at, counts=[4] * 3), "pass both"),
        (lambda: group.all_to_all(at, out=at), "overlap"),
        (lambda: group.all_to_all(at, counts=[4] * 3, out_counts=[4]), "out_counts has 1 entries"),
        (lambda: group.all_to_all(at, counts=[4] * 3, out_counts=[-1] * 3), "out_counts is [-1"),
        (lambda: group.all_to_all(at[:11]), "11 rows, which are no equal blocks"),
        (lambda: group.reduce_scatter([block, block]), "array has 2 arrays for 3 ranks"),
        (lambda: group.reduce_scatter([block] * 3, counts=[4] * 3), "both say what the blocks are"),
        (
            lambda: group.reduce_scatter([block] * 3, out=[block.copy()]),
            "out is a list; it is this",
        ),
        (lambda: group.reduce_scatter([block] * 3, out=block), "overlap"),
        (lambda: group.all_gather([block], out=at), "array is a list; it is this rank's block"),
        (lambda: group.all_gather(block, out=[at, at]), "out has 2 arrays for 3 ranks"),
        (lambda: group.all_gather(block, out=[at + 0] * 3), "array has 4 elements, the array for"),
        (lambda: group.all_gather(block + 0, out=[block] * 3), "arrays of the output share memory"),
        (lambda: group.all_to_all([block] * 3), "an all_to_all of a list needs out="),
        (lambda: group.all_to_all([block] * 3, out=[at]), "out has 1 arrays for 3 ranks"),
        (lambda: group.all_to_all([block] * 3, out=[at, block, at[4:]]), "overlap"),
        (lambda: group.scatter([block] * 2, rank), "array has 2 arrays for 3 ranks"),
    ]
    wrong = []
    for number, (call, words) in enumerate(calls):
        try:
            call()
        except InvalidArgument as error:
            if words not in str(error):
                wrong.append(f"{number}: {error}")
        else:
            wrong.append(f"{number}: nothing was raised")
    for counts in ([4.0, 4.0, 4.0], "abc", [None] * 3):
        try:
            group.all_gather(block, counts=counts)  # type: ignore[arg-type]
        except TypeError:
            continue
        wrong.append(f"counts {counts!r} is no TypeError")
    before = group._native.last_operation()
    group.reduce_scatter(at)
    if group._native.last_operation() != before + 1 or (at != np.arange(12)).any():
        wrong.append("something was begun")
    return wrong


def test_blocks_that_make_no_sense_are_refused_before_anything_is_sent(pool: Pool):
    assert pool.get(3, wrong_blocks) == [[]] * 3


def test_tags_and_timeouts_that_make_no_sense_are_refused(alone: collectives.Group):
    for tag in (-1, 2**32 - 1, 2**70):
        with refused(InvalidArgument, f"tag is {tag}", "allowed are 0 to 4294967293"):
            alone.barrier(tag=tag)
    for timeout in (0, -1.0, float("nan")):
        for call in (alone.barrier, alone.barrier_async, alone.sync):
            with refused(InvalidArgument, "timeout is", "in seconds, above 0"):
                call(timeout=timeout)
    work = alone.barrier_async()
    work.wait()
    alone.barrier(tag=2**32 - 3, timeout=float("inf"))
    alone.barrier(timeout=1e300)
    alone.sync(timeout=float("inf"))


def wrong_wait(group: collectives.Group) -> list[str]:
    work = group.barrier_async()
    said = []
    if group.rank == 0:
        for timeout in (-1, float("nan")):
            try:
                work.wait(timeout)
            except InvalidArgument as error:
                said.append(str(error))
        group.barrier(tag=1)
    else:
        group.barrier(tag=1)
    work.wait(float("inf"))
    return said


def test_waits_that_make_no_sense_are_refused(pool: Pool):
    said, _ = pool.get(2, wrong_wait)
    assert len(said) == 2 and all("in seconds" in text for text in said)


def test_arguments_of_another_type_are_type_errors_and_break_nothing(alone: collectives.Group):
    for call in (
        lambda: alone.barrier(tag="a"),  # type: ignore[arg-type]
        lambda: alone.barrier(tag=1.5),  # type: ignore[arg-type]
        lambda: alone.broadcast(np.ones(3), "a"),  # type: ignore[arg-type]
        lambda: alone.broadcast(np.ones(3), 0.5),  # type: ignore[arg-type]
        lambda: alone.barrier(timeout="1"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call()
    alone.barrier()


def test_nothing_works_after_leave():
    with collectives.Coordinator("127.0.0.1:0") as coordinator:
        group = collectives.join(coordinator.address, timeout=FOREVER)
        work = group.all_reduce_async(np.ones(3))
        work.wait()
        group.leave()
        group.leave()
        for call in (
            lambda: group.all_reduce(np.ones(3)),
            lambda: group.all_reduce_async(np.ones(3)),
            lambda: group.broadcast(np.ones(3)),
            lambda: group.broadcast_async(np.ones(3)),
            group.barrier,
            group.barrier_async,
            group.sync,
        ):
            with refused(collectives.CollectiveError, "was left", "join"):
                call()
        assert work.done() and work.wait().value is not None
        assert work.telemetry().number == 1
        assert (group.rank, group.size) == (0, 1)


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"connections": -1}, ["Options.connections is -1", "1 to 64"]),
        ({"connections": 65}, ["Options.connections is 65"]),
        ({"slice_bytes": 4095}, ["Options.slice_bytes is 4095", "4096 to 1048576"]),
        ({"slice_bytes": 1 << 21}, ["Options.slice_bytes is 2097152"]),
        ({"isa": "sse"}, ["Options.isa is 'sse'", "'auto', 'scalar', 'avx2'"]),
        ({"port_range": (9, 8)}, ["Options.port_range", "low <= high"]),
        ({"port_range": (0, 8)}, ["Options.port_range", "1 <= low"]),
        ({"port_range": (1, 65536)}, ["Options.port_range", "65535"]),
        ({"timeout": 0}, ["Options.timeout is 0", "above 0"]),
        ({"timeout": float("nan")}, ["Options.timeout is nan"]),
        ({"detection": -1}, ["Options.detection is -1"]),
        ({"heartbeat": 0}, ["Options.heartbeat is 0"]),
        ({"bind": "127.0.0.1"}, ["Options.bind", "tuples", "write bind="]),
        ({"advertise": "127.0.0.1"}, ["Options.advertise", "tuples"]),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: list[str]):
    with refused(InvalidArgument, *words):
        collectives.Options(**options)


def join_with(**options: Any) -> None:
    with (
        collectives.Coordinator("127.0.0.1:0") as coordinator,
        collectives.join(
            coordinator.address, timeout=5.0, options=collectives.Options(**options)
        ) as group,
    ):
        group.barrier()


def test_an_unknown_congestion_control_is_an_error_that_lists_the_available():
    kernel = pathlib.Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
    available = kernel.read_text().split()
    with refused(UnsupportedError, "'no-such-thing'", *available):
        join_with(congestion="no-such-thing")
    with refused(collectives.CollectiveError, "congestion"):
        join_with(congestion="x" * 100)
    join_with(congestion=available[0])


def test_an_interface_that_does_not_exist_is_an_error():
    with refused(InvalidArgument, "interface 'eth-none'", "does not exist", "`ip address`"):
        join_with(interface="eth-none")
    join_with(interface="lo")


def test_a_full_port_range_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with refused(
            collectives.CollectiveError, f"ports {port} to {port}", "port_range", "in use"
        ):
            join_with(bind=("127.0.0.1",), port_range=(port, port))
    join_with(bind=("127.0.0.1",), port_range=(port, port))


def test_a_bind_address_that_is_none_of_this_host_is_an_error():
    with refused(collectives.CollectiveError, "cannot listen on 192.0.2.1", "bind"):
        join_with(bind=("192.0.2.1",))
    with refused(InvalidArgument, "'no.such.host.invalid'"):
        join_with(bind=("no.such.host.invalid",))


def test_addresses_that_make_no_sense_are_errors():
    for address in ("", "host:", "host:0", "host:65536", "host:x", ":7077", "[::1", "a b:7"):
        with pytest.raises(collectives.CollectiveError) as caught:
            collectives.join(address, timeout=2.0)
        assert type(caught.value) is InvalidArgument, (address, caught.value)
        assert str(caught.value)


def test_a_host_that_does_not_resolve_is_an_error():
    began = time.monotonic()
    with refused(collectives.CoordinatorUnreachable, "no.such.host.invalid"):
        collectives.join("no.such.host.invalid:7077", timeout=2.0)
    assert time.monotonic() - began < 10


def test_an_address_where_nobody_listens_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    with refused(collectives.CoordinatorUnreachable, f"127.0.0.1:{port}", "refused"):
        collectives.join(f"127.0.0.1:{port}", timeout=0.7)
    assert time.monotonic() - began < 3


def test_names_and_sizes_that_make_no_sense_are_errors():
    with collectives.Coordinator("127.0.0.1:0") as coordinator:
        for arguments, word in [
            ({"min_size": 0}, "min_size is 0"),
            ({"min_size": -3}, "min_size is -3"),
            ({"group": ""}, "group"),
            ({"group": "a\nb"}, "group"),
            ({"name": "x" * 2000}, "name"),
            ({"timeout": 0}, "timeout is 0"),
            ({"timeout": float("nan")}, "timeout is nan"),
        ]:
            with refused(InvalidArgument, word):
                collectives.join(coordinator.address, **{"timeout": 2.0, **arguments})
