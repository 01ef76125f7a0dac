"""All ranks end with the same bits, and they are the right ones, whatever the options.

The oracle emulates the ring in numpy (f16 and bf16 in torch): segment s is the sum
((x_s + x_s+1) + x_s+2) + ..., rounded to the element's type at every hop. So floats are compared
for equality too.

The whole product of dtypes, operations, sizes, peers and connections moves 14 GB and is
``make test-full``. Without it, every second (dtype, operation, peers) has its largest size, with
one number of connections, another for each; that decides the transport, too.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import shutil
import tempfile
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import collectives
from pool import Pool
from test_kernels import CANONICAL_NAN, DTYPES, FLOATS, NUMPY, OPS, specials, unsigned

SEED = random.SystemRandom().randrange(2**32)
SIZES = (0, 1, 3, 4096, 1_000_003)
CONNECTIONS = (1, 2, 8)
TRANSPORTS = {1: "shm", 2: "tcp", 8: "auto"}
PATIENCE = 120.0  # seconds of work, many times as many where other tests run beside
TORCH = {
    "f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16,
    "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
    "u8": torch.uint8, "u16": torch.uint16, "u32": torch.uint32, "u64": torch.uint64,
}  # fmt: skip
MOST = 5
FULL = os.environ.get("COLLECTIVES_TEST_FULL") == "1"


@pytest.fixture(autouse=True)
def say_the_seed() -> None:
    print(f"seed {SEED}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[pathlib.Path]:
    """Where results are compared: in memory where there is enough of it."""
    shared = pathlib.Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).free > 1 << 30:
        path = pathlib.Path(tempfile.mkdtemp(dir=shared))
    else:
        path = tmp_path_factory.mktemp("results")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(MOST) as pool:
        yield pool


# ---- the same for parent and peers -------------------------------------------------------------


def inputs(dtype: str, rank: int, seed: int) -> np.ndarray:
    """One rank's input of the largest size; the smaller ones are its first elements."""
    count, itemsize = SIZES[-1], np.dtype(NUMPY[dtype]).itemsize
    generator = np.random.default_rng((seed, DTYPES.index(dtype), rank))
    array = np.frombuffer(generator.bytes(count * itemsize), NUMPY[dtype]).copy()
    if dtype in FLOATS:
        # Among random bits few sums are rounded; among numbers of like size most are.
        tensor = tensor_of(array, dtype)
        tensor[: count // 2] = torch.from_numpy(
            generator.standard_normal(count // 2, np.float32)
        ).to(TORCH[dtype])
        odd = specials(dtype)
        array[100_000:101_000] = odd[generator.integers(0, odd.size, 1000)]
    return array


def tensor_of(array: np.ndarray, dtype: str) -> torch.Tensor:
    tensor = torch.from_numpy(array.view(np.int16) if dtype == "bf16" else array)
    return tensor.view(torch.bfloat16) if dtype == "bf16" else tensor


def places(dtype: str, size: int, connections: int) -> dict[tuple[str, int], int]:
    """Where the results of what is run lie: all of ``layout``, or a sixth of the large."""

    def has_large(op: str) -> bool:
        turn = DTYPES.index(dtype) + OPS.index(op) + size
        return turn % 2 == 0 and CONNECTIONS[turn // 2 % 3] == connections

    return {
        (op, count): at
        for (op, count), at in layout(dtype)[0].items()
        if FULL or count < SIZES[-1] or has_large(op)
    }


def layout(dtype: str) -> tuple[dict[tuple[str, int], int], int]:
    """Where each (op, size) lies in a file of results, and the file's size, in bytes."""
    found, at = {}, 0
    for op in OPS:
        for size in SIZES:
            found[op, size] = at
            at += (size * np.dtype(NUMPY[dtype]).itemsize + 63) // 64 * 64
    return found, at


# ---- in the peers --------------------------------------------------------------------------------

_groups: dict[tuple[int, int], collectives.Group] = {}
_inputs: dict[tuple[str, int], np.ndarray] = {}
_files: dict[str, np.memmap] = {}


def join_all(_, address: str, size: int) -> list[int]:
    """One group for each number of connections, or for memory."""
    ranks = []
    for connections in CONNECTIONS:
        group = collectives.join(
            address, group=f"n{size}k{connections}", name=f"{os.getpid()}", min_size=size,
            timeout=20.0,
            options=collectives.Options(connections=connections, transport=TRANSPORTS[connections]),
        )  # fmt: skip
        _groups[size, connections] = group
        ranks.append(group.rank)
    return ranks


def leave_all(_, size: int) -> list[int]:
    """Leave them; returns how many connections each had to each other peer."""
    found = []
    for connections in CONNECTIONS:
        group = _groups.pop((size, connections))
        found.append(group.counters().open_connections // (size - 1))
        group.barrier()
        group.leave()
    return found


def my_input(dtype: str, rank: int, folder: str) -> np.ndarray:
    if (dtype, rank) not in _inputs:
        path = pathlib.Path(folder) / f"input-{dtype}-{rank}"
        _inputs[dtype, rank] = np.memmap(path, NUMPY[dtype], "r")
    return _inputs[dtype, rank]


def my_file(path: pathlib.Path) -> np.memmap:
    if str(path) not in _files:
        _files[str(path)] = np.memmap(path, np.uint8, "r+")
    return _files[str(path)]


def as_given(array: np.ndarray, dtype: str, with_torch: bool) -> np.ndarray | torch.Tensor:
    """What the user would pass; a single element as a 0-d array."""
    if array.size == 1:
        array = array.reshape(())
    elif array.size == 4096:
        array = array.reshape(4, 16, 64)
    return tensor_of(array, dtype) if with_torch or dtype == "bf16" else array


def reduce_all(_, size: int, connections: int, dtype: str, folder: str) -> int:
    """Every op and size of a dtype, into this rank's file; another way to pass arrays each time."""
    group = _groups[size, connections]
    source = my_input(dtype, group.rank, folder)
    file = my_file(pathlib.Path(folder) / f"result-{group.rank}")
    total = layout(dtype)[1]
    if connections == 1:
        file[:total] = 0xA5  # in place, the input itself replaces what was there before
    for (op, count), at in places(dtype, size, connections).items():
        target = file[at : at + count * source.itemsize].view(NUMPY[dtype])
        before = source[:count]
        if connections == 1:
            given = as_given(np.array(before), dtype, with_torch=False)
            group.all_reduce(given, op, out=as_given(target, dtype, with_torch=False))
            given = given.view(torch.int16).numpy() if dtype == "bf16" else given
            assert np.asarray(given).tobytes() == before.tobytes(), "the input was written to"
            continue
        target[:] = before
        given = as_given(target, dtype, with_torch=connections == 8)
        result = group.all_reduce(given, op)
        assert result.value is given
        assert len(result.contributors) == size
    return group.rank


def broadcast_all(_, size: int, dtype: str, folder: str) -> int:
    """From every root, another number of connections each time; into this rank's file."""
    rank = _groups[size, 1].rank
    file = my_file(pathlib.Path(folder) / f"result-{rank}")
    at = 0
    for root in range(size):
        group = _groups[size, CONNECTIONS[(root + DTYPES.index(dtype)) % 3]]
        source = my_input(dtype, group.rank, folder)
        for count in SIZES:
            target = file[at : at + count * source.itemsize].view(NUMPY[dtype])
            target[:] = source[:count]
            group.broadcast(as_given(target, dtype, with_torch=root % 2 == 1), root)
            at += (count * source.itemsize + 63) // 64 * 64
    return rank


# ---- the oracle ----------------------------------------------------------------------------------


def combine(op: str, dtype: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One hop: op(received, own)."""
    if dtype not in FLOATS:
        if op == "min":
            return np.minimum(a, b)
        if op == "max":
            return np.maximum(a, b)
        return a * b if op == "prod" else a + b
    x, y = tensor_of(a, dtype), tensor_of(b, dtype)
    if op in ("sum", "avg", "prod"):
        wide = torch.float32 if dtype in ("f16", "bf16") else TORCH[dtype]
        x, y = x.to(wide), y.to(wide)
        return array_of((x * y if op == "prod" else x + y).to(TORCH[dtype]), dtype)
    out = array_of(torch.minimum(x, y) if op == "min" else torch.maximum(x, y), dtype)
    bits, left, right = (array.view(unsigned(dtype)) for array in (out, a, b))
    zeros = np.flatnonzero(((x == 0) & (y == 0)).numpy())  # torch does not order them
    if op == "min":
        bits[zeros] = left[zeros] | right[zeros]
    else:
        bits[zeros] = left[zeros] & right[zeros]
    return out


def array_of(tensor: torch.Tensor, dtype: str) -> np.ndarray:
    array = tensor.view(torch.int16).numpy() if dtype == "bf16" else tensor.numpy()
    return array.view(NUMPY[dtype])


def divide(dtype: str, a: np.ndarray, by: int) -> np.ndarray:
    if dtype in FLOATS:
        x = tensor_of(a, dtype)
        if dtype in ("f16", "bf16"):
            x = x.float()
        return array_of((x / by).to(TORCH[dtype]), dtype)
    quotient = a // np.array(by, a.dtype)  # rounds down
    if np.iinfo(a.dtype).min < 0:
        quotient += (a < 0) & (quotient * np.array(by, a.dtype) != a)
    return quotient


def expected(op: str, dtype: str, arrays: list[np.ndarray]) -> np.ndarray:
    """The ring's result; segments are as long as can be, the longer ones first."""
    size, count = len(arrays), arrays[0].size
    if size == 1 or count == 0:
        return arrays[0]
    out, begin = np.empty_like(arrays[0]), 0
    for segment in range(size):
        end = begin + count // size + (segment < count % size)
        partial = arrays[segment][begin:end]
        for hop in range(1, size):
            partial = combine(op, dtype, partial, arrays[(segment + hop) % size][begin:end])
        out[begin:end] = divide(dtype, partial, size) if op == "avg" else partial
        begin = end
    if dtype in FLOATS:  # a NaN stays one, hop after hop; its payload is fixed by the kernels
        nan = torch.isnan(tensor_of(out, dtype)).numpy()
        out.view(unsigned(dtype))[nan] = CANONICAL_NAN[dtype]
    return out


def assert_equal(got: np.ndarray, want: np.ndarray, *context: object) -> None:
    """By torch.equal, on bits (NaN equals no NaN)."""
    x, y = (torch.from_numpy(a.view(f"i{a.itemsize}")) for a in (got, want))
    if torch.equal(x, y):
        return
    wrong = np.flatnonzero(got.view(unsigned_of(got)) != want.view(unsigned_of(want)))
    pytest.fail(
        f"{context}: {wrong.size} of {got.size} elements differ, first [{wrong[0]}]: got"
        f" {got[wrong[0]]!r}, want {want[wrong[0]]!r}"
    )


def unsigned_of(array: np.ndarray) -> np.dtype:
    return np.dtype(f"u{array.itemsize}")


# ---- the claims ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays(folder: pathlib.Path) -> dict[str, list[np.ndarray]]:
    """Every rank's input of every dtype, in files that the peers map."""
    made = {}
    for dtype in DTYPES:
        made[dtype] = [inputs(dtype, rank, SEED) for rank in range(MOST)]
        for rank, array in enumerate(made[dtype]):
            array.tofile(folder / f"input-{dtype}-{rank}")
    # Large enough for a dtype's results, whatever the test.
    for rank in range(MOST):
        with (folder / f"result-{rank}").open("wb") as file:
            file.truncate(layout("f64")[1])
    return made


def start(pool: Pool, size: int, function, *arguments) -> None:
    for member in pool.crew.members[:size]:
        member.start(function, *arguments)


def results(pool: Pool, size: int) -> list:
    return [member.result(PATIENCE).get() for member in pool.crew.members[:size]]


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_all_ranks_get_the_same_and_the_right_bits(
    size: int, pool: Pool, folder: pathlib.Path, arrays: dict[str, list[np.ndarray]]
):
    start(pool, size, join_all, pool.crew.coordinator.address, size)
    joined = results(pool, size)
    assert sorted(ranks[0] for ranks in joined) == list(range(size))
    files = [np.memmap(folder / f"result-{rank}", np.uint8, "r+") for rank in range(size)]
    compared = 0
    for dtype in DTYPES:
        wanted: dict[tuple[str, int], np.ndarray] = {}
        for connections in CONNECTIONS:
            start(pool, size, reduce_all, size, connections, dtype, str(folder))
            if not wanted:
                for op in OPS:
                    for count in SIZES:
                        every = [array[:count] for array in arrays[dtype][:size]]
                        wanted[op, count] = expected(op, dtype, every)
            assert sorted(results(pool, size)) == list(range(size))
            for (op, count), at in places(dtype, size, connections).items():
                want = wanted[op, count]
                for rank, file in enumerate(files):
                    got = file[at : at + want.nbytes].view(want.dtype)
                    assert_equal(got, want, dtype, op, count, f"K={connections}", f"rank {rank}")
                    compared += 1
    every = len(DTYPES) * len(OPS) * len(CONNECTIONS)
    large = every if FULL else every // 6
    assert compared == (every * (len(SIZES) - 1) + large) * size
    for dtype in DTYPES:
        start(pool, size, broadcast_all, size, dtype, str(folder))
        assert sorted(results(pool, size)) == list(range(size))
        at = 0
        for root in range(size):
            for count in SIZES:
                want = arrays[dtype][root][:count]
                for rank, file in enumerate(files):
                    got = file[at : at + want.nbytes].view(want.dtype)
                    assert_equal(got, want, "broadcast", dtype, count, root, f"rank {rank}")
                at += (want.nbytes + 63) // 64 * 64
    start(pool, size, leave_all, size)
    assert results(pool, size) == [[0, 3, 0]] * size  # one more for small operations


def digest_of_all(group: collectives.Group, seed: int, algorithm: str | None = None) -> str:
    """A digest over the results of every op and dtype, sizes with many slices and with one."""
    digest = hashlib.sha256()
    for dtype in DTYPES:
        source = few(dtype, group.rank, seed)
        for op in OPS:
            for count in (5, 3_001, 50_003):
                array = source[:count].copy()
                given = tensor_of(array, dtype) if dtype == "bf16" else array
                group.all_reduce(given, op, algorithm=algorithm)
                digest.update(array.tobytes())
    return digest.hexdigest()


def few(dtype: str, rank: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng((seed, DTYPES.index(dtype), rank))
    array = np.frombuffer(generator.bytes(50_003 * 8), NUMPY[dtype])[:50_003]
    if dtype not in FLOATS:
        return array
    return (
        tensor_of(array.copy(), dtype)
        .normal_(generator=torch.manual_seed(rank))
        .view(torch.int16)
        .numpy()
        .view(NUMPY[dtype])
        if dtype == "bf16"
        else generator.standard_normal(50_003).astype(NUMPY[dtype])
    )


def test_the_bits_are_no_function_of_slices_transports_or_instruction_set(pool: Pool):
    avx2 = "avx2" if collectives._native.lib.coll_isa_available(2) else "scalar"
    alike: list[dict] = [
        {"isa": "scalar"},
        {"isa": avx2, "transport": "tcp"},
        {"slice_bytes": 4096, "isa": avx2, "connections": 8, "transport": "tcp"},
        {"slice_bytes": 1 << 20, "connections": 3, "transport": "tcp"},
        {"slice_bytes": 1 << 20},
        {"slice_bytes": 5000, "checksums": False},
    ]
    mixed: list[dict] = [
        {"isa": "scalar", "slice_bytes": 1 << 20},
        {"isa": avx2, "slice_bytes": 4096, "connections": 4},
        {"checksums": False, "slice_bytes": 12_288, "connections": 2},
    ]
    beside = [{**each, "transport": "tcp"} for each in mixed]
    between = [mixed[0], beside[1], mixed[2]]  # memory between two of them, TCP to the third
    found = {}
    for options in [*alike, mixed, beside, between]:
        # Where some are nearer to each other the view has levels, and what is large another order.
        algorithm = "ring" if options is between else None
        digests = pool.get(3, digest_of_all, SEED, algorithm, options=options)
        assert len(set(digests)) == 1, (options, digests)
        found[str(options)] = digests[0]
    assert len(set(found.values())) == 1, found
