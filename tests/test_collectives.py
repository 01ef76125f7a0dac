"""Every collective against numpy (bf16: torch): what each rank gets, bit by bit.

A reduction adds segment s, or the block of rank s-1, in the order x_s, x_s+1, ... modulo the size,
or in that of the algorithm that was asked for, and rounds to the element's type at every hop; so
floats are compared for equality too.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import collectives
import prover
from collectives._native import ffi, lib
from covering import covering
from crew import DEADLINE, Crew
from test_kernels import BITWISE, DTYPES, FLOATS, NUMPY, OPS
from test_plans import make

SEED = random.SystemRandom().randrange(2**32)
REDUCTIONS = ("all_reduce", "reduce", "reduce_scatter")
KINDS = (*REDUCTIONS, "broadcast", "all_gather", "gather", "scatter", "all_to_all")
UNEVEN = ("reduce_scatter", "all_gather", "gather", "scatter", "all_to_all")
# Rows of each rank's block, or of the buffer by the number of ranks; and elements in each.
SHAPES = {
    "empty": (0, 1), "one": (1, 1), "tiny": (5, 3), "odd": (1_013, 1), "rows": (257, 33),
    "large": (70_001, 1), "uneven": (91, 7), "large uneven": (40_009, 1),
}  # fmt: skip


# How arrays lie: in one piece, every other row of a wider one, transposed, from the end; lists.
LIES = ("packed", "rows", "columns", "backwards", "list")


# Who is where, by the name of it: uneven groups, in each other or mixed.
PLACES = {
    "flat": (), "hosts": ((0, 1, 1, 0),), "sites": ((0, 0, 1, 2, 2), (0, 0, 0, 1, 1)),
    "many hosts": ((0, 1, 2, 3, 4, 4),),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """One call. ``where``: ``"new"`` array, into ``"out"``, or ``"place"``."""

    kind: str
    dtype: str
    op: str
    size: int
    transport: str
    shape: str
    where: str
    lies: str = "packed"
    algorithm: str = ""
    places: str = "flat"

    def __str__(self) -> str:
        return " ".join(str(value) for value in dataclasses.astuple(self) if value)

    @property
    def crew(self) -> tuple[int, str, str]:
        """The processes that it needs."""
        return self.size, self.transport, self.places

    @property
    def root(self) -> int:
        return (len(self.shape) + self.size) % self.size

    def counts(self) -> list[list[int]]:
        """Rows that go from each rank (first index) to each rank, or the block of each."""
        rows, _ = SHAPES[self.shape]
        if "uneven" not in self.shape:
            return [[rows] * self.size] * self.size
        chance = random.Random(str(self))
        matrix = [[chance.choice((0, 1, rows // 3, rows)) for _ in range(self.size)]]
        for _ in range(self.size - 1):
            again = [chance.choice((0, 2, rows)) for _ in range(self.size)]
            matrix.append(again if self.kind == "all_to_all" else matrix[0])
        return matrix


def ops_of(dtype: str) -> list[str]:
    if dtype == "bool":
        return [*(op for op in OPS if op != "avg"), *BITWISE]
    return [*OPS, "scaled_sum"] if dtype in FLOATS else [*OPS, *BITWISE]


def every_case() -> Iterator[Case]:
    for kind, dtype, size, transport, shape in itertools.product(
        KINDS, (*DTYPES, "bool"), (1, 2, 3, 4), ("shm", "tcp"), SHAPES
    ):
        if "uneven" in shape and kind not in UNEVEN:
            continue
        for op in ops_of(dtype) if kind in REDUCTIONS else ("",):
            for where in {
                "broadcast": ("place",),
                "all_to_all": ("new", "out"),
                "all_reduce": ("out", "place"),
                "reduce": ("out", "place"),
            }.get(kind, ("new", "out", "place")):
                for lies in LIES:
                    if lies == "list" and where == "new" and kind != "reduce_scatter":
                        continue
                    if lies == "packed" or where != "place" or kind not in UNEVEN:
                        yield Case(kind, dtype, op, size, transport, shape, where, lies)


def few() -> list[Case]:
    def factors(case: Case) -> tuple[Any, ...]:
        # Three at once where it matters: each kind on each transport, with each shape and size.
        place = case.kind, case.transport
        how = case.kind, case.lies
        return place, case.dtype, case.op, (case.kind, case.size), case.shape, case.where, how

    return covering(random.Random(2).sample(list(every_case()), 900), factors)


# ---- what it should be -------------------------------------------------------------------------


def given(case: Case, rank: int, rows: int, seed: int) -> np.ndarray:
    """A rank's array: small numbers, of which few sums overflow and many are rounded."""
    width = SHAPES[case.shape][1]
    chance = np.random.default_rng((seed, rank, rows))
    if case.dtype in FLOATS:
        values = chance.standard_normal((rows, width)).astype(np.float32)
        if case.dtype == "bf16":
            return torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view("u2")
        return values.astype(NUMPY[case.dtype])
    if case.dtype == "bool":
        return chance.integers(0, 2, (rows, width), np.uint8).astype(bool)
    info = np.iinfo(NUMPY[case.dtype])
    return chance.integers(info.min, info.max, (rows, width), NUMPY[case.dtype], endpoint=True)


def as_torch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)


def combine(case: Case, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    names = {
        "sum": "add", "avg": "add", "prod": "multiply", "min": "minimum", "max": "maximum",
        "scaled_sum": "add",
        "band": "bitwise_and", "bor": "bitwise_or", "bxor": "bitwise_xor",
    }  # fmt: skip
    if case.dtype == "bf16":
        result = getattr(torch, names[case.op])(as_torch(a), as_torch(b))
        return result.view(torch.int16).numpy().view("u2")
    with np.errstate(over="ignore", invalid="ignore"):
        return getattr(np, names[case.op])(a, b)


def factor_of(rank: int) -> float:
    """Rounded to f32 it is another number."""
    return 0.3 * (rank + 1)


def scaled(case: Case, rank: int, array: np.ndarray) -> np.ndarray:
    """Times the rank's factor, and rounded."""
    if case.op != "scaled_sum":
        return array
    if case.dtype == "f64":
        return array * factor_of(rank)
    factor = np.float32(factor_of(rank))
    if case.dtype == "bf16":
        product = as_torch(array).to(torch.float32) * torch.tensor(factor)
        return product.to(torch.bfloat16).view(torch.int16).numpy().view("u2")
    return (array.astype(np.float32) * factor).astype(array.dtype)


def divided(case: Case, whole: np.ndarray) -> np.ndarray:
    if case.op != "avg" or case.size == 1:
        return whole
    if case.dtype == "bf16":
        return (as_torch(whole) / case.size).view(torch.int16).numpy().view("u2")
    if case.dtype in FLOATS:
        return (whole / NUMPY[case.dtype](case.size)).astype(NUMPY[case.dtype])
    quotient = np.abs(whole.astype(object)) // case.size  # rounds toward zero
    return (np.sign(whole.astype(object)) * quotient).astype(NUMPY[case.dtype])


def fold(case: Case, arrays: Sequence[np.ndarray], first: int) -> np.ndarray:
    """((x_f + x_f+1) + x_f+2) + ..., all of them, modulo their number."""
    whole = arrays[first]
    for array in (*arrays[first + 1 :], *arrays[:first]):
        whole = combine(case, whole, array)
    return divided(case, whole)


def reduced(case: Case, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """By segments, as ``coll_segment_range`` cuts them."""
    if case.algorithm and case.size > 1:
        return ordered(case, arrays, None)
    flat = [array.reshape(-1) for array in arrays]
    begin, end = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    parts = []
    for s in range(case.size):
        lib.coll_segment_range(flat[0].size, case.size, s, begin, end)
        parts.append(fold(case, [array[begin[0] : end[0]] for array in flat], s))
    return np.concatenate(parts).reshape(arrays[0].shape)


def ordered(case: Case, arrays: Sequence[np.ndarray], blocks: Sequence[int] | None) -> np.ndarray:
    """In the order that the algorithm declares; ``blocks``: the lengths of those, by rank."""
    places, size = PLACES[case.places], case.size
    kind = lib.COLL_ALL_REDUCE if blocks is None else lib.COLL_REDUCE_SCATTER
    algorithm = {
        "bidirectional_ring": lambda: prover.BIDIRECTIONAL_RING,
        "doubling": lambda: prover.DOUBLING,
        "hierarchical": lambda: prover.hierarchical(
            places, size, make(kind, 0, size, 0, None, places).segments
        ),
    }[case.algorithm]()
    task = algorithm.task("all_reduce", size)
    if blocks is not None:
        return np.concatenate(
            [
                evaluated(case, task, (rank + 1) % size, given)
                for rank, given in enumerate(zip(*(cut(a, blocks) for a in arrays), strict=True))
            ]
        )
    flat = [array.reshape(-1) for array in arrays]
    begin, end = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    parts = []
    for s in range(task.segments):
        lib.coll_segment_range(flat[0].size, task.segments, s, begin, end)
        parts.append(evaluated(case, task, s, [array[begin[0] : end[0]] for array in flat]))
    return np.concatenate(parts).reshape(arrays[0].shape)


def evaluated(
    case: Case, task: prover.Task, segment: int, given: Sequence[np.ndarray]
) -> np.ndarray:
    add: Callable[..., np.ndarray] = functools.partial(combine, case)
    order = (task.order or prover.Task.canonical)(task, segment)
    return divided(case, task.expressions.evaluate(order, given, add))


def cut(array: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    return np.split(array, np.cumsum(counts)[:-1])


def wanted(case: Case, rank: int, seed: int) -> np.ndarray | None:
    n, counts = case.size, case.counts()
    rows = {
        "all_gather": lambda k: counts[0][k],
        "gather": lambda k: counts[0][k],
        "all_to_all": lambda k: sum(counts[k]),
    }.get(case.kind, lambda k: sum(counts[0]))
    arrays = [scaled(case, k, given(case, k, rows(k), seed)) for k in range(n)]
    match case.kind:
        case "all_reduce":
            return reduced(case, arrays)
        case "reduce":
            return reduced(case, arrays) if rank == case.root else None
        case "reduce_scatter" if case.algorithm and n > 1:
            return cut(ordered(case, arrays, counts[0]), counts[0])[rank]
        case "reduce_scatter":
            return fold(case, [cut(array, counts[0])[rank] for array in arrays], (rank + 1) % n)
        case "broadcast":
            return arrays[case.root]
        case "all_gather":
            return np.concatenate(arrays)
        case "gather":
            return np.concatenate(arrays) if rank == case.root else None
        case "scatter":
            return cut(arrays[case.root], counts[0])[rank]
        case _:
            return np.concatenate([cut(arrays[k], counts[k])[rank] for k in range(n)])


# ---- in the peers --------------------------------------------------------------------------------


def shown(array: Any, dtype: str) -> Any:
    """What a user would pass."""
    if isinstance(array, list):
        return [shown(piece, dtype) for piece in array]
    return as_torch(array) if dtype == "bf16" else array


def laid(array: np.ndarray, lies: str) -> np.ndarray:
    """The same, lying otherwise."""
    rows, width = array.shape
    if lies in ("packed", "list"):
        return array
    if lies == "columns":
        view = np.zeros((width, rows), array.dtype).T
    else:
        view = np.zeros((2 * rows, width + 3), array.dtype)[::2, 1 : width + 1]
        # torch knows no negative strides.
        view = view[::-1] if lies == "backwards" and array.dtype != "u2" else view
    view[...] = array
    return view


def listed(array: np.ndarray, sizes: Sequence[int] | None = None) -> list[np.ndarray]:
    """The same as a list: of arrays with so many elements each, that lie in one way or another."""
    flat = array.reshape(-1)
    if sizes is None:
        sizes = [min(1, flat.size), 0, flat.size // 3, flat.size // 4]
        sizes.append(flat.size - sum(sizes))
    pieces = []
    for i, part in enumerate(cut(flat, sizes)):
        piece = np.zeros(() if part.size == 1 else part.size, array.dtype)
        if i % 3 == 2:
            piece = np.zeros(2 * part.size + 1, array.dtype)[1::2]
        elif i % 3 == 0 and part.size % 2 == 0:
            piece = np.zeros((2, part.size // 2), array.dtype).T
        piece[...] = part.reshape(piece.shape)
        pieces.append(piece)
    return pieces


def as_lists(case: Case, rank: int, array: Any, options: dict[str, Any]) -> Any:
    """The same call with a list for the array, or for the blocks of all."""
    counts, width = case.counts(), SHAPES[case.shape][1]
    to = [rows * width for rows in counts[rank]]
    come = [row[rank] * width for row in counts] if case.kind == "all_to_all" else to
    if "out" in options and case.kind not in ("reduce_scatter", "scatter"):
        options["out"] = listed(options["out"], come if case.kind in UNEVEN else None)
        options.pop("out_counts", None)
        if case.kind in UNEVEN:
            options.pop("counts", None)
    if array is None or case.kind in ("all_gather", "gather"):
        return array
    options.pop("counts", None)
    return listed(array, to if case.kind in UNEVEN else None)


def packed(array: Any) -> np.ndarray:
    """What a user passed or got, in one piece."""
    if isinstance(array, list):
        return np.concatenate([packed(piece).reshape(-1) for piece in array])
    if isinstance(array, torch.Tensor):
        array = array.contiguous().view(torch.int16).numpy().view("u2")
    return np.ascontiguousarray(array)


def call(group: Any, case: Case, seed: int) -> tuple[bool, str]:
    """Make the call; whether it gave what it should, and what else was wrong."""
    rank, n, root = group.rank, group.size, case.root
    counts = case.counts()
    here = rank == root
    width = SHAPES[case.shape][1]
    mine = counts[0][rank]
    all_rows = sum(counts[0])
    kind, dtype = case.kind, case.dtype
    rows_in = {"all_gather": mine, "gather": mine, "all_to_all": sum(counts[rank])}.get(
        kind, all_rows
    )
    array = laid(given(case, rank, rows_in, seed), case.lies)
    before = array.copy()
    options: dict[str, Any] = {"timeout": DEADLINE}
    if case.algorithm:
        options["algorithm"] = case.algorithm
    if case.op:
        options["op"] = case.op
        if case.op == "scaled_sum":
            options["op"] = collectives.scaled_sum(factor_of(rank))
    if kind in ("reduce", "broadcast", "gather", "scatter"):
        options["root"] = root
    if "uneven" in case.shape:
        options["counts"] = counts[rank]
        if kind == "all_to_all":
            options["out_counts"] = [counts[k][rank] for k in range(n)]
    rows_out = {
        "reduce_scatter": mine,
        "scatter": mine,
        "all_to_all": sum(counts[k][rank] for k in range(n)),
    }.get(kind, all_rows)
    gets = kind not in ("reduce", "gather") or here
    start = sum(counts[0][:rank])
    out = None
    if case.where == "place" and kind in ("all_gather", "gather") and gets:
        out = np.zeros((all_rows, width), array.dtype)
        out[start : start + mine] = array
        array = out[start : start + mine]
    elif case.where == "place" and (kind == "reduce_scatter" or (kind == "scatter" and here)):
        out = array[start : start + mine]
    elif gets and (case.where == "out" or (kind == "scatter" and not here)):
        out = laid(np.zeros((rows_out, width), array.dtype), case.lies)
    if out is not None:
        options["out"] = out
    argument: Any = None if kind == "scatter" and not here else array
    if case.lies == "list":
        argument = as_lists(case, rank, argument, options)
        array = array if argument is None else argument
    if out is not None:
        options["out"] = shown(options["out"], dtype)
    if argument is not None:
        argument = shown(argument, dtype)
    result = getattr(group, kind)(argument, **options)
    value = None if result.value is None else packed(result.value)
    right = wanted(case, rank, seed)
    array = packed(array)
    if value is not None and right is not None and case.lies == "list":
        value = value.reshape(right.shape)
    everybody = tuple(peer.name for peer in group.peers)
    sources = (everybody[root],) if kind in ("broadcast", "scatter") else everybody
    names = "" if result.contributors == sources else f"contributors: {result.contributors}"
    if right is None:
        return value is None and array.tobytes() == before.tobytes(), names
    if case.where != "place" and kind != "broadcast" and array.tobytes() != before.tobytes():
        return False, "the input was written to"
    if case.dtype not in FLOATS:
        return value.tobytes() == right.tobytes(), names
    return bool(np.array_equal(value, right)), names


# ---- the tests -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crews() -> Iterator[dict[tuple[int, str, str], Crew]]:
    made: dict[tuple[int, str, str], Crew] = {}
    yield made
    for crew in made.values():
        crew.__exit__(None, None, None)


def crew_of(crews: dict[tuple[int, str, str], Crew], case: Case) -> Crew:
    key = case.crew
    if key not in crews:
        places = {"places": PLACES[case.places]}
        transport = {"transport": case.transport}
        modules = ("test_collectives", "levelled")
        crew = Crew(case.size, transport, places, joiner="levelled:join", modules=modules)
        crews[key] = crew.__enter__()
    return crews[key]


def check(crews: dict[tuple[int, str, str], Crew], case: Case) -> None:
    outcomes = crew_of(crews, case).run(call, case, SEED)
    got = [outcome.get() for outcome in outcomes]
    assert got == [(True, "")] * case.size, f"{case}, seed {SEED}"


@pytest.mark.parametrize("case", few(), ids=str)
def test_every_rank_gets_what_it_should(crews, case: Case) -> None:
    check(crews, case)


@pytest.mark.full
@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_rank_gets_what_it_should_in_every_case(
    crews, kind: str, size: int, transport: str
) -> None:
    for case in every_case():
        if (case.kind, case.size, case.transport) == (kind, size, transport):
            check(crews, case)
