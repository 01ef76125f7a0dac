"""Every operation of torch.distributed as cases: what a rank does, and what must come of it.

A case is data. ``play`` has all ranks do a list of cases in a process group, and returns for each
what came, and what numpy or a copy says must come: a rank's inputs are a function of (case, rank),
so each knows those of all. Imported in ranks only (torch_ranks.py), as it imports torch.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import math
import random
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = [
    torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64,
]  # fmt: skip
COMPLEX = [torch.complex64, torch.complex128]
COPIED = [torch.float8_e4m3fn, torch.float8_e5m2]
DTYPES = [*FLOATS, *INTEGERS, torch.bool, *COMPLEX, *COPIED]
# The names by which functional collectives know them, too.
OPS = {
    "sum": dist.ReduceOp.SUM, "avg": dist.ReduceOp.AVG, "product": dist.ReduceOp.PRODUCT,
    "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX, "band": dist.ReduceOp.BAND,
    "bor": dist.ReduceOp.BOR, "bxor": dist.ReduceOp.BXOR, "premul_sum": None,
}  # fmt: skip
BITWISE = ("band", "bor", "bxor")
# Shape, and how it lies in memory.
FORMS = {
    "0-dim": ((), "contiguous"),
    "empty": ((0,), "contiguous"),
    "1 element": ((1,), "contiguous"),
    "prime": ((31,), "contiguous"),
    "matrix": ((6, 5), "contiguous"),
    "transposed": ((6, 5), "transposed"),
    "every third": ((6, 5), "every third"),
    "channels last": ((2, 3, 4, 5), "channels last"),
    "large": ((300_007,), "contiguous"),
}
SPLIT = [form for form in FORMS if form != "0-dim"]  # those that have a first dimension
PROMPT = datetime.timedelta(seconds=20)


class Case(NamedTuple):
    """One operation on one kind of tensor."""

    operation: str
    dtype: torch.dtype
    form: str
    op: str  # of OPS; "" if it does not reduce
    root: int  # in the group, modulo its size
    how: str  # "sync", "async" or "future"
    seed: int

    def __str__(self) -> str:
        words = [self.operation, str(self.dtype).removeprefix("torch."), self.form, self.op]
        return ", ".join([*filter(None, words), f"root {self.root}", self.how, f"seed {self.seed}"])


@dataclasses.dataclass(frozen=True)
class Operation:
    """What it is defined for.

    Attributes:
        reduces: it has a reduction.
        rooted: it has a root.
        dtypes: of the tensors that it takes.
        forms: of FORMS.
        ops: of OPS.
        hows: of ``Case.how``.
    """

    function: Callable[[Context], None]
    reduces: bool
    rooted: bool
    dtypes: Sequence[torch.dtype]
    forms: Sequence[str]
    ops: Sequence[str]
    hows: Sequence[str]

    def cases(self) -> Iterator[tuple[torch.dtype, str, str, int, str]]:
        for dtype, op in itertools.product(self.dtypes, self.ops if self.reduces else [""]):
            if self.reduces and not defined(op, dtype):
                continue
            roots = range(4) if self.rooted else [0]
            yield from itertools.product([dtype], self.forms, [op], roots, self.hows)


def defined(op: str, dtype: torch.dtype) -> bool:
    """Whether there is such a reduction."""
    if dtype in COPIED:
        return False
    if dtype in COMPLEX:
        return op in ("sum", "avg")
    if op in BITWISE:
        return not dtype.is_floating_point
    if op == "premul_sum":
        return dtype.is_floating_point
    return op != "avg" or dtype != torch.bool


OPERATIONS: dict[str, Operation] = {}


def operation(
    reduces: bool = False,
    rooted: bool = False,
    dtypes: Sequence[torch.dtype] = tuple(DTYPES),
    forms: Sequence[str] = tuple(FORMS),
    ops: Sequence[str] = tuple(OPS),
    hows: Sequence[str] = ("sync", "async", "future"),
) -> Callable[[Callable[[Context], None]], None]:
    def add(function: Callable[[Context], None]) -> None:
        OPERATIONS[function.__name__] = Operation(
            function, reduces, rooted, dtypes, forms, ops, hows
        )

    return add


def product() -> list[Case]:
    """Every case."""
    return [
        Case(name, *case, seed=zlib.crc32(repr((name, case)).encode()))
        for name, operation in OPERATIONS.items()
        for case in operation.cases()
    ]


def sample(count: int, seed: int) -> list[Case]:
    """So many cases by chance; of every operation about as many, and one at least."""
    chance = random.Random(seed)
    cases = []
    for name, operation in OPERATIONS.items():
        all_of_it = list(operation.cases())
        for case in chance.sample(all_of_it, min(len(all_of_it), -(-count // len(OPERATIONS)))):
            cases.append(Case(name, *case, seed=chance.randrange(1 << 31)))
    chance.shuffle(cases)
    return cases


# ---- tensors -----------------------------------------------------------------------------------


def lay(tensor: torch.Tensor, how: str) -> torch.Tensor:
    """The same elements, lying otherwise in memory."""
    if how == "transposed" and tensor.dim() > 1:
        order = list(reversed(range(tensor.dim())))
        return tensor.permute(order).contiguous().permute(order)
    if how == "every third" and tensor.dim():
        wide = torch.zeros(*tensor.shape[:-1], 3 * tensor.shape[-1] + 1, dtype=tensor.dtype)
        narrow = wide[..., 1 : 1 + 3 * tensor.shape[-1] : 3]
        return narrow.copy_(tensor)
    if how == "channels last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Its elements' bytes in the order of their indices."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    plain = torch.empty(tensor.numel(), dtype=tensor.dtype)  # of one element even the stride is 1
    return plain.copy_(tensor.detach().reshape(-1)).view(torch.uint8)


class Context:
    """One case, as one rank of a process group sees it.

    Args:
        known: what has been computed for the case in another process group.

    Attributes:
        checks: (name, what came, what must, by how much floats may differ or None: not at all,
            whether all ranks get the same).
    """

    def __init__(self, case: Case, group: dist.ProcessGroup, known: dict[Any, Any]) -> None:
        self.case = case
        self.known = known
        self.group = group
        self.rank = group.rank()
        self.size = group.size()
        self.everyone = range(self.size)
        self.root = case.root % self.size
        self.shape, self.layout = FORMS[case.form]
        self.asynchronous = case.how != "sync"
        self.checks: list[tuple[str, torch.Tensor, torch.Tensor, np.ndarray | None, bool]] = []

    def values(
        self, rank: int, slot: int = 0, shape: tuple[int, ...] | None = None
    ) -> torch.Tensor:
        """What a rank has in one of its tensors; contiguous, and not to be changed."""
        shape = self.shape if shape is None else shape
        if (rank, slot, shape) not in self.known:
            chance = torch.Generator().manual_seed(self.case.seed * 64 + rank * 8 + slot)
            self.known[rank, slot, shape] = self._values(chance, shape)
        return self.known[rank, slot, shape]

    def _values(self, chance: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
        dtype = self.case.dtype
        if dtype.is_floating_point or dtype.is_complex:
            parts = 2 if dtype.is_complex else 1
            wide = torch.rand(*shape, parts, generator=chance, dtype=torch.float64) * 4 - 2
            return (torch.view_as_complex(wide) if parts == 2 else wide[..., 0]).to(dtype)
        if dtype == torch.bool:
            return torch.randint(0, 2, shape, generator=chance).to(dtype)
        lowest = -(1 << (8 * dtype.itemsize - 1)) if dtype.is_signed else 0
        highest = min(lowest + (1 << 8 * dtype.itemsize), (1 << 63) - 1)
        if self.case.op == "avg":  # whose sum is not to wrap around
            lowest, highest = max(lowest, -30), 31
        return torch.randint(lowest, highest, shape, generator=chance).to(dtype)

    def tensor(self, *where: Any, **what: Any) -> torch.Tensor:
        """``values``, lying as the case has it."""
        return lay(self.values(*where, **what).clone(), self.layout)

    def blank(self, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """What is not a result, lying as the case has it."""
        shape = self.shape if shape is None else shape
        ones = torch.full((math.prod(shape) * self.case.dtype.itemsize,), 1, dtype=torch.uint8)
        return lay(ones.view(self.case.dtype).reshape(shape), self.layout)

    @property
    def op(self) -> Any:
        if self.case.op == "premul_sum":
            return dist._make_nccl_premul_sum(self.factor(self.rank))
        return OPS[self.case.op]

    def factor(self, rank: int) -> float:
        return 0.5 + rank / 4

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Make the call, as the case has it."""
        work = function(*arguments, group=self.group, async_op=self.asynchronous, **named)
        self.finish(work)

    def finish(self, work: Any) -> None:
        """Wait for it, as the case has it."""
        assert (work is not None) == self.asynchronous
        if self.case.how == "async":
            work.wait()
        elif self.case.how == "future":
            # The coalesced ones return a future.
            (work.get_future() if hasattr(work, "get_future") else work).wait()

    def rooted(self, word: str) -> dict[str, int]:
        """The root, by its global rank or that in the group."""
        if self.case.seed % 2:
            return {f"group_{word}": self.root}
        return {word: dist.get_global_rank(self.group, self.root)}

    def same(self, came: torch.Tensor, must: torch.Tensor, name: str = "") -> None:
        """Bit by bit; ``must`` is the same on all ranks or not."""
        self.checks.append((name, came, must, None, False))

    def reduced(
        self, came: torch.Tensor, inputs: Sequence[torch.Tensor], everywhere: bool = False
    ) -> None:
        """It is the reduction of these, which are by rank."""
        number = len(self.checks)
        if number not in self.known:
            factors = [self.factor(rank) for rank in self.everyone]
            self.known[number] = reduction(self.case.op, inputs, factors)
        must, bound = self.known[number]
        self.checks.append(("", came, must, bound, everywhere))


def reduction(
    op: str, inputs: Sequence[torch.Tensor], factors: Sequence[float]
) -> tuple[torch.Tensor, np.ndarray | None]:
    """The result, and how far off that of other arithmetic may be (None: not at all).

    Of floats: each of n operations rounds to nearest, by half an eps of what it has then, which is
    no more than the sum of the magnitudes (of a product, its magnitude); twice that.
    """
    dtype = inputs[0].dtype
    if dtype.is_complex:
        must, bound = reduction(op, [torch.view_as_real(tensor) for tensor in inputs], factors)
        return torch.complex(must[..., 0], must[..., 1]), bound
    if dtype.is_floating_point:
        wide = np.stack([tensor.double().numpy() for tensor in inputs])
        if op in ("min", "max"):
            return torch.from_numpy(np.asarray(getattr(wide, op)(0))).to(dtype), None
        if op == "premul_sum":
            wide = wide * np.array(factors).reshape(-1, *[1] * (wide.ndim - 1))
        result = wide.prod(0) if op == "product" else wide.sum(0)
        reach = np.abs(result) if op == "product" else np.abs(wide).sum(0)
        scale = len(inputs) if op == "avg" else 1
        info = torch.finfo(dtype)
        bound = (len(inputs) + 1) * (info.eps * reach / scale + info.smallest_normal * info.eps)
        return torch.from_numpy(np.asarray(result / scale)).to(dtype), np.asarray(bound)
    every = np.stack([tensor.numpy() for tensor in inputs])
    if dtype == torch.bool:
        op = {"sum": "bor", "max": "bor", "product": "band", "min": "band"}.get(op, op)
    if op == "avg":
        total = every.astype(np.int64).sum(0)
        result = np.sign(total) * (np.abs(total) // len(inputs))  # toward zero
    else:
        whole = {
            "sum": np.add, "product": np.multiply, "min": np.minimum, "max": np.maximum,
            "band": np.bitwise_and, "bor": np.bitwise_or, "bxor": np.bitwise_xor,
        }[op]  # fmt: skip
        result = whole.reduce(every, axis=0, dtype=every.dtype)
    return torch.from_numpy(np.asarray(result, dtype=every.dtype)), None


# ---- operations ----------------------------------------------------------------------------------


@operation(reduces=True)
def all_reduce(c: Context) -> None:
    tensor = c.tensor(c.rank)
    c.call(dist.all_reduce, tensor, op=c.op)
    c.reduced(tensor, [c.values(rank) for rank in c.everyone], everywhere=True)


@operation(reduces=True)
def all_reduce_coalesced(c: Context) -> None:
    tensors = [c.tensor(c.rank, slot) for slot in range(3)]
    c.call(dist.all_reduce_coalesced, tensors, op=c.op)
    for slot, tensor in enumerate(tensors):
        c.reduced(tensor, [c.values(rank, slot) for rank in c.everyone], everywhere=True)


@operation(reduces=True, hows=["sync", "async"])
def all_reduce_by_the_coalescing_manager(c: Context) -> None:
    tensors = [c.tensor(c.rank, slot) for slot in range(3)]
    with dist._coalescing_manager(group=c.group, async_ops=c.asynchronous) as manager:
        for tensor in tensors:
            dist.all_reduce(tensor, op=c.op, group=c.group)
    if c.asynchronous:
        manager.wait()
    for slot, tensor in enumerate(tensors):
        c.reduced(tensor, [c.values(rank, slot) for rank in c.everyone], everywhere=True)


@operation(
    reduces=True, dtypes=[*FLOATS[:2], torch.int64], forms=["matrix"], ops=["sum"], hows=["sync"]
)
def all_reduce_of_sparse_tensors(c: Context) -> None:
    dense = [c.values(rank) for rank in c.everyone]
    for rank, tensor in enumerate(dense):
        tensor[:: rank + 2] = 0  # ranks have different elements
    tensor = dense[c.rank].to_sparse()
    c.call(dist.all_reduce, tensor, op=c.op)
    c.reduced(tensor.to_dense(), dense, everywhere=True)


@operation(reduces=True, rooted=True)
def reduce(c: Context) -> None:
    tensor = c.tensor(c.rank)
    c.call(dist.reduce, tensor, op=c.op, **c.rooted("dst"))
    if c.rank == c.root:  # elsewhere it is nothing in particular
        c.reduced(tensor, [c.values(rank) for rank in c.everyone])


@operation(rooted=True)
def broadcast(c: Context) -> None:
    tensor = c.tensor(c.rank) if c.rank == c.root else c.blank()
    c.call(dist.broadcast, tensor, **c.rooted("src"))
    c.same(tensor, c.values(c.root))


@operation()
def all_gather(c: Context) -> None:
    tensors = [c.blank() for _ in c.everyone]
    c.call(dist.all_gather, tensors, c.tensor(c.rank))
    for rank, tensor in enumerate(tensors):
        c.same(tensor, c.values(rank), f"from {rank}")


@operation(forms=["prime", "matrix"])
def all_gather_of_uneven(c: Context) -> None:
    shapes = [(rank * 3 + 1, *c.shape[1:]) for rank in c.everyone]
    tensors = [c.blank(shape) for shape in shapes]
    c.call(dist.all_gather, tensors, c.tensor(c.rank, shape=shapes[c.rank]))
    for rank, tensor in enumerate(tensors):
        c.same(tensor, c.values(rank, shape=shapes[rank]), f"from {rank}")


@operation()
def all_gather_coalesced(c: Context) -> None:
    lists = [[c.blank() for _ in range(2)] for _ in c.everyone]
    c.call(dist.all_gather_coalesced, lists, [c.tensor(c.rank, slot) for slot in range(2)])
    for rank, slot in itertools.product(c.everyone, range(2)):
        c.same(lists[rank][slot], c.values(rank, slot), f"from {rank}")


@operation(forms=SPLIT)
def all_gather_into_tensor(c: Context) -> None:
    tensor = c.blank((c.size * c.shape[0], *c.shape[1:]))
    c.call(dist.all_gather_single, tensor, c.tensor(c.rank))
    c.same(tensor, torch.cat([c.values(rank) for rank in c.everyone]))


@operation()
def all_gather_stacked(c: Context) -> None:
    tensor = c.blank((c.size, *c.shape))
    c.call(dist.all_gather_single, tensor, c.tensor(c.rank))
    c.same(tensor, torch.stack([c.values(rank) for rank in c.everyone]))


@operation(forms=SPLIT, hows=["sync", "async"])
def all_gather_by_the_coalescing_manager(c: Context) -> None:
    tensors = [c.blank((c.size * c.shape[0], *c.shape[1:])) for _ in range(2)]
    with dist._coalescing_manager(group=c.group, async_ops=c.asynchronous) as manager:
        for slot, tensor in enumerate(tensors):
            dist.all_gather_single(tensor, c.tensor(c.rank, slot), group=c.group)
    if c.asynchronous:
        manager.wait()
    for slot, tensor in enumerate(tensors):
        c.same(tensor, torch.cat([c.values(rank, slot) for rank in c.everyone]))


@operation(reduces=True)
def reduce_scatter(c: Context) -> None:
    tensor = c.blank()
    c.call(dist.reduce_scatter, tensor, [c.tensor(c.rank, to) for to in c.everyone], op=c.op)
    c.reduced(tensor, [c.values(rank, c.rank) for rank in c.everyone])


@operation(reduces=True, forms=["prime", "matrix"])
def reduce_scatter_of_uneven(c: Context) -> None:
    shapes = [(rank * 3 + 1, *c.shape[1:]) for rank in c.everyone]
    tensor = c.blank(shapes[c.rank])
    tensors = [c.tensor(c.rank, to, shape=shapes[to]) for to in c.everyone]
    c.call(dist.reduce_scatter, tensor, tensors, op=c.op)
    c.reduced(tensor, [c.values(rank, c.rank, shapes[c.rank]) for rank in c.everyone])


@operation(reduces=True, forms=SPLIT)
def reduce_scatter_tensor(c: Context) -> None:
    tensor, whole = c.blank(), (c.size * c.shape[0], *c.shape[1:])
    c.call(dist.reduce_scatter_single, tensor, c.tensor(c.rank, shape=whole), op=c.op)
    mine = slice(c.rank * c.shape[0], (c.rank + 1) * c.shape[0])
    c.reduced(tensor, [c.values(rank, shape=whole)[mine] for rank in c.everyone])


@operation(reduces=True)
def reduce_scatter_stacked(c: Context) -> None:
    tensor, whole = c.blank(), (c.size, *c.shape)
    c.call(dist.reduce_scatter_single, tensor, c.tensor(c.rank, shape=whole), op=c.op)
    c.reduced(tensor, [c.values(rank, shape=whole)[c.rank] for rank in c.everyone])


@operation(reduces=True, forms=SPLIT, hows=["sync", "async"])
def reduce_scatter_by_the_coalescing_manager(c: Context) -> None:
    tensors, whole = [c.blank() for _ in range(2)], (c.size * c.shape[0], *c.shape[1:])
    mine = slice(c.rank * c.shape[0], (c.rank + 1) * c.shape[0])
    with dist._coalescing_manager(group=c.group, async_ops=c.asynchronous) as manager:
        for slot, tensor in enumerate(tensors):
            given = c.tensor(c.rank, slot, shape=whole)
            dist.reduce_scatter_single(tensor, given, op=c.op, group=c.group)
    if c.asynchronous:
        manager.wait()
    for slot, tensor in enumerate(tensors):
        c.reduced(tensor, [c.values(rank, slot, whole)[mine] for rank in c.everyone])


@operation(rooted=True)
def gather(c: Context) -> None:
    tensors = [c.blank() for _ in c.everyone] if c.rank == c.root else None
    c.call(dist.gather, c.tensor(c.rank), tensors, **c.rooted("dst"))
    for rank, tensor in enumerate(tensors or []):
        c.same(tensor, c.values(rank), f"from {rank}")


@operation(rooted=True)
def scatter(c: Context) -> None:
    tensor = c.blank()
    tensors = [c.tensor(c.rank, to) for to in c.everyone] if c.rank == c.root else None
    c.call(dist.scatter, tensor, tensors, **c.rooted("src"))
    c.same(tensor, c.values(c.root, c.rank))


@operation()
def all_to_all(c: Context) -> None:
    tensors = [c.blank() for _ in c.everyone]
    c.call(dist.all_to_all, tensors, [c.tensor(c.rank, to) for to in c.everyone])
    for rank, tensor in enumerate(tensors):
        c.same(tensor, c.values(rank, c.rank), f"from {rank}")


@operation(forms=["prime", "matrix"])
def all_to_all_of_uneven(c: Context) -> None:
    def shape(source: int, to: int) -> tuple[int, ...]:
        return ((source * 2 + to) % 3, *c.shape[1:])

    tensors = [c.blank(shape(rank, c.rank)) for rank in c.everyone]
    mine = [c.tensor(c.rank, to, shape=shape(c.rank, to)) for to in c.everyone]
    c.call(dist.all_to_all, tensors, mine)
    for rank, tensor in enumerate(tensors):
        c.same(tensor, c.values(rank, c.rank, shape(rank, c.rank)), f"from {rank}")


@operation(forms=SPLIT)
def all_to_all_single(c: Context) -> None:
    whole = (c.size * c.shape[0], *c.shape[1:])
    tensor = c.blank(whole)
    c.call(dist.all_to_all_single, tensor, c.tensor(c.rank, shape=whole))
    mine = slice(c.rank * c.shape[0], (c.rank + 1) * c.shape[0])
    c.same(tensor, torch.cat([c.values(rank, shape=whole)[mine] for rank in c.everyone]))


def splits(c: Context, source: int) -> list[int]:
    """What a rank sends to each in an uneven exchange; some of it is nothing."""
    return [(source * 2 + to) % 3 for to in c.everyone]


def expected_of_splits(c: Context) -> torch.Tensor:
    parts = []
    for rank in c.everyone:
        values = c.values(rank, shape=(sum(splits(c, rank)), *c.shape[1:]))
        parts.append(values.split(splits(c, rank))[c.rank])
    return torch.cat(parts)


@operation(forms=["prime", "matrix"])
def all_to_all_single_with_splits(c: Context) -> None:
    give, take = splits(c, c.rank), [splits(c, rank)[c.rank] for rank in c.everyone]
    tensor = c.blank((sum(take), *c.shape[1:]))
    given = c.tensor(c.rank, shape=(sum(give), *c.shape[1:]))
    c.call(dist.all_to_all_single, tensor, given, take, give)
    c.same(tensor, expected_of_splits(c))


@operation(hows=["sync", "async"])
def send_and_recv(c: Context) -> None:
    """Each pair after the other, in both directions."""
    for source, to in itertools.permutations(c.everyone, 2):
        tag = source * 5
        if c.rank == source:
            tensor = c.tensor(c.rank, to)
            if c.asynchronous:
                dist.isend(tensor, group=c.group, tag=tag, group_dst=to).wait()
            else:
                dist.send(tensor, dist.get_global_rank(c.group, to), c.group, tag)
        elif c.rank == to:
            tensor = c.blank()
            if c.asynchronous:
                dist.irecv(tensor, group=c.group, tag=tag, group_src=source).wait()
            else:
                source_too = dist.get_global_rank(c.group, source)
                assert dist.recv(tensor, source_too, c.group, tag) == source_too
            c.same(tensor, c.values(source, to), f"from {source}")


@operation(hows=["sync"])
def isend_and_irecv(c: Context) -> None:
    """All to all at once, two to each, waited for in another order than they began in."""
    slots = list(itertools.product([rank for rank in c.everyone if rank != c.rank], range(2)))
    came = {slot: c.blank() for slot in slots}
    works = [dist.irecv(came[rank, n], group=c.group, tag=n, group_src=rank) for rank, n in slots]
    mine = [c.tensor(c.rank, 2 * rank + n) for rank, n in slots]
    for tensor, (rank, n) in zip(mine, slots, strict=True):
        works.append(dist.isend(tensor, group=c.group, tag=n, group_dst=rank))
    for work in reversed(works):
        work.wait()
    for (rank, n), tensor in came.items():
        c.same(tensor, c.values(rank, 2 * c.rank + n), f"from {rank}")


@operation(rooted=True, hows=["sync", "async"])
def recv_from_any(c: Context) -> None:
    if c.rank != c.root:
        dist.send(c.tensor(c.rank), group=c.group, group_dst=c.root, tag=3)
        return
    found = {}
    for _ in range(c.size - 1):
        tensor = c.blank()
        if c.asynchronous:
            work = dist.irecv(tensor, group=c.group, tag=3)
            work.wait()
            source = work._source_rank()
        else:
            source = dist.get_group_rank(c.group, dist.recv(tensor, group=c.group, tag=3))
        found[source] = tensor
    assert sorted(found) == [rank for rank in c.everyone if rank != c.root], found.keys()
    for source in sorted(found):  # in whatever order they came
        c.same(found[source], c.values(source), f"from {source}")


@operation(hows=["sync"])
def batch_isend_irecv(c: Context) -> None:
    if c.size == 1:
        return
    right, left = (c.rank + 1) % c.size, (c.rank - 1) % c.size
    came = [c.blank() for _ in range(2)]
    parts = []
    for slot, tensor in enumerate(came):
        parts.append(dist.P2POp(dist.irecv, tensor, group=c.group, group_peer=left))
        sent = c.tensor(c.rank, slot)
        parts.append(dist.P2POp(dist.isend, sent, group=c.group, group_peer=right))
    for work in dist.batch_isend_irecv(parts):
        work.wait()
    for slot, tensor in enumerate(came):
        c.same(tensor, c.values(left, slot))


# ---- in place ----------------------------------------------------------------------------------

WHOLE = ["1 element", "prime", "matrix", "large"]  # whose blocks are in one piece


@operation(forms=WHOLE)
def all_gather_into_tensor_in_place(c: Context) -> None:
    tensor = c.blank((c.size * c.shape[0], *c.shape[1:]))
    mine = tensor[c.rank * c.shape[0] : (c.rank + 1) * c.shape[0]]
    c.call(dist.all_gather_single, tensor, mine.copy_(c.values(c.rank)))
    c.same(tensor, torch.cat([c.values(rank) for rank in c.everyone]))


@operation(reduces=True, forms=WHOLE)
def reduce_scatter_tensor_in_place(c: Context) -> None:
    whole = (c.size * c.shape[0], *c.shape[1:])
    mine = slice(c.rank * c.shape[0], (c.rank + 1) * c.shape[0])
    tensor = c.tensor(c.rank, shape=whole)
    c.call(dist.reduce_scatter_single, tensor[mine], tensor, op=c.op)
    c.reduced(tensor[mine], [c.values(rank, shape=whole)[mine] for rank in c.everyone])


@operation()
def all_gather_in_place(c: Context) -> None:
    tensors = [c.tensor(c.rank) if rank == c.rank else c.blank() for rank in c.everyone]
    c.call(dist.all_gather, tensors, tensors[c.rank])
    for rank, tensor in enumerate(tensors):
        c.same(tensor, c.values(rank), f"from {rank}")


@operation(reduces=True)
def reduce_scatter_in_place(c: Context) -> None:
    tensors = [c.tensor(c.rank, to) for to in c.everyone]
    c.call(dist.reduce_scatter, tensors[c.rank], tensors, op=c.op)
    c.reduced(tensors[c.rank], [c.values(rank, c.rank) for rank in c.everyone])


@operation(rooted=True)
def gather_in_place(c: Context) -> None:
    tensors = [c.tensor(c.rank) for _ in c.everyone]
    mine = tensors[c.rank]
    c.call(dist.gather, mine, tensors if c.rank == c.root else None, **c.rooted("dst"))
    for rank, tensor in enumerate(tensors if c.rank == c.root else []):
        c.same(tensor, c.values(rank), f"from {rank}")


@operation(rooted=True)
def scatter_in_place(c: Context) -> None:
    tensors = [c.tensor(c.rank, to) for to in c.everyone]
    mine = tensors[c.rank]
    c.call(dist.scatter, mine, tensors if c.rank == c.root else None, **c.rooted("src"))
    c.same(mine, c.values(c.root, c.rank))


@operation()
def all_to_all_in_place(c: Context) -> None:
    tensors = [c.tensor(c.rank, to) for to in c.everyone]
    c.call(dist.all_to_all, tensors, tensors)
    for rank, tensor in enumerate(tensors):
        c.same(tensor, c.values(rank, c.rank), f"from {rank}")


@operation(forms=WHOLE[1:])
def all_to_all_single_in_place(c: Context) -> None:
    whole = (c.size * c.shape[0], *c.shape[1:])
    mine = slice(c.rank * c.shape[0], (c.rank + 1) * c.shape[0])
    tensor = c.tensor(c.rank, shape=whole)
    c.call(dist.all_to_all_single, tensor, tensor)
    c.same(tensor, torch.cat([c.values(rank, shape=whole)[mine] for rank in c.everyone]))


# ---- without tensors -----------------------------------------------------------------------------

PLAIN: dict[str, Any] = {"dtypes": [torch.uint8], "forms": ["prime"]}


@operation(**PLAIN)
def barrier(c: Context) -> None:
    c.call(dist.barrier)


@operation(**PLAIN, hows=["sync"])
def monitored_barrier(c: Context) -> None:
    c.group.monitored_barrier(PROMPT, wait_all_ranks=bool(c.case.seed % 2))


def thing(c: Context, rank: int) -> Any:
    """An object; the larger the rank, the more bytes."""
    return {"rank": rank, "words": ["x" * rank] * rank, "values": c.values(rank).tolist()}


@operation(**PLAIN, hows=["sync"])
def all_gather_object(c: Context) -> None:
    things = [None] * c.size
    dist.all_gather_object(things, thing(c, c.rank), group=c.group)
    assert things == [thing(c, rank) for rank in c.everyone]


@operation(**PLAIN, rooted=True, hows=["sync"])
def gather_object(c: Context) -> None:
    things = [None] * c.size if c.rank == c.root else None
    dist.gather_object(thing(c, c.rank), things, group=c.group, **c.rooted("dst"))
    assert things is None or things == [thing(c, rank) for rank in c.everyone]


@operation(**PLAIN, rooted=True, hows=["sync"])
def broadcast_object_list(c: Context) -> None:
    things = [thing(c, 3), None, "three"] if c.rank == c.root else [None] * 3
    dist.broadcast_object_list(things, group=c.group, **c.rooted("src"))
    assert things == [thing(c, 3), None, "three"]


@operation(**PLAIN, rooted=True, hows=["sync"])
def scatter_object_list(c: Context) -> None:
    things = [thing(c, rank) for rank in c.everyone] if c.rank == c.root else None
    mine = [None]
    dist.scatter_object_list(mine, things, group=c.group, **c.rooted("src"))
    assert mine == [thing(c, c.rank)]


@operation(**PLAIN, hows=["sync"])
def send_and_recv_object_list(c: Context) -> None:
    for source, to in itertools.permutations(c.everyone, 2):
        if c.rank == source:
            dist.send_object_list([thing(c, to), source], group=c.group, group_dst=to)
        elif c.rank == to:
            things = [None, None]
            dist.recv_object_list(things, group=c.group, group_src=source)
            assert things == [thing(c, to), source]


# ---- functional collectives ----------------------------------------------------------------------

FUNCTIONAL = {"hows": ["sync"]}
NAMED = [op for op in OPS if op != "premul_sum"]


@operation(reduces=True, ops=NAMED, **FUNCTIONAL)
def functional_all_reduce(c: Context) -> None:
    given = c.tensor(c.rank)
    came = functional.all_reduce(given, c.case.op, c.group)
    c.reduced(functional.wait_tensor(came), [c.values(r) for r in c.everyone], everywhere=True)
    c.same(given, c.values(c.rank), "the input")


@operation(reduces=True, ops=NAMED, **FUNCTIONAL)
def functional_all_reduce_coalesced(c: Context) -> None:
    given = [c.tensor(c.rank, slot) for slot in range(2)]
    for slot, came in enumerate(functional.all_reduce_coalesced(given, c.case.op, c.group)):
        inputs = [c.values(rank, slot) for rank in c.everyone]
        c.reduced(functional.wait_tensor(came), inputs, everywhere=True)


@operation(rooted=True, **FUNCTIONAL)
def functional_broadcast(c: Context) -> None:
    came = functional.broadcast(c.tensor(c.rank), c.root, c.group)
    c.same(functional.wait_tensor(came), c.values(c.root))


@operation(forms=SPLIT, **FUNCTIONAL)
def functional_all_gather(c: Context) -> None:
    along = c.case.seed % len(c.shape)
    came = functional.all_gather_single(c.tensor(c.rank).contiguous(), along, c.group)
    came = came.wait() if isinstance(came, functional.AsyncCollectiveTensor) else came
    c.same(came, torch.cat([c.values(rank) for rank in c.everyone], along))


@operation(forms=SPLIT, **FUNCTIONAL)
def functional_all_gather_coalesced(c: Context) -> None:
    given = [c.tensor(c.rank, slot).contiguous() for slot in range(2)]
    for slot, came in enumerate(functional.all_gather_single_coalesced(given, c.group)):
        must = torch.cat([c.values(rank, slot) for rank in c.everyone])
        c.same(functional.wait_tensor(came), must)


@operation(reduces=True, ops=NAMED, forms=SPLIT, **FUNCTIONAL)
def functional_reduce_scatter(c: Context) -> None:
    along = c.case.seed % len(c.shape)
    whole = (*c.shape[:along], c.size * c.shape[along], *c.shape[along + 1 :])
    given = c.tensor(c.rank, shape=whole).contiguous()
    came = functional.reduce_scatter_single(given, c.case.op, along, c.group)
    inputs = [c.values(rank, shape=whole).chunk(c.size, along) for rank in c.everyone]
    c.reduced(functional.wait_tensor(came), [parts[c.rank].contiguous() for parts in inputs])


@operation(reduces=True, ops=NAMED, forms=SPLIT, **FUNCTIONAL)
def functional_reduce_scatter_coalesced(c: Context) -> None:
    whole = (c.size * c.shape[0], *c.shape[1:])
    given = [c.tensor(c.rank, slot, shape=whole).contiguous() for slot in range(2)]
    came = functional.reduce_scatter_single_coalesced(given, c.case.op, [0, 0], c.group)
    for slot, tensor in enumerate(came):
        inputs = [c.values(rank, slot, whole).chunk(c.size)[c.rank] for rank in c.everyone]
        c.reduced(functional.wait_tensor(tensor), inputs)


@operation(dtypes=FLOATS[:2], forms=["prime", "matrix"], **FUNCTIONAL)
def functional_backward(c: Context) -> None:
    """The gradient of a gather is a reduce_scatter, and the reverse."""
    given = c.tensor(c.rank).contiguous().requires_grad_()
    whole = functional.all_gather_single_autograd(given, 0, c.group)
    total = functional.reduce_scatter_single_autograd(whole * (c.rank + 1), "sum", 0, c.group)
    to_itself = [c.shape[0] if rank == c.rank else 0 for rank in c.everyone]
    same = functional.all_to_all_single_autograd(total, to_itself, to_itself, c.group)
    (same * c.values(c.rank, 1)).sum().backward()
    # A rank's block went to its own place, times the sum of what each rank multiplied it by.
    must = c.values(c.rank, 1) * sum(rank + 1 for rank in c.everyone)
    bound = 2 * c.size * torch.finfo(c.case.dtype).eps * must.double().abs().numpy()
    c.checks.append(("the gradient", given.grad, must, bound, False))


@operation(forms=["prime", "matrix"], **FUNCTIONAL)
def functional_all_to_all(c: Context) -> None:
    give, take = splits(c, c.rank), [splits(c, rank)[c.rank] for rank in c.everyone]
    given = c.values(c.rank, shape=(sum(give), *c.shape[1:]))
    came = functional.all_to_all_single(given, take, give, c.group)
    c.same(functional.wait_tensor(came), expected_of_splits(c))


# ---- what Gloo does otherwise --------------------------------------------------------------------

_PAIRS = ("send_and_recv", "isend_and_irecv", "recv_from_any", "batch_isend_irecv")
_ODD = [torch.int16, torch.uint16, torch.uint32, torch.uint64, *COPIED]
_STACKED = ("all_gather_stacked", "reduce_scatter_stacked")
_UNEVEN = ("all_gather_of_uneven", "all_to_all_of_uneven")
_BY_ADDRESS = (
    "all_reduce", "reduce", "broadcast", "reduce_scatter", "reduce_scatter_in_place", "scatter",
    "scatter_in_place",
)  # fmt: skip
_NO_COMPLEX = (
    "gather", "gather_in_place", "functional_all_gather_coalesced", "functional_all_to_all",
)  # fmt: skip

# What Gloo refuses, gets wrong or dies of; it is right in everything else.
GLOO_LACKS: dict[str, Callable[[Case], bool]] = {
    "dtypes that it does not know": lambda c: c.dtype in _ODD and c.operation not in _PAIRS,
    "averages of integers": lambda c: c.op == "avg" and c.dtype in INTEGERS,
    "scaled sums": lambda c: c.op == "premul_sum",
    "complex numbers": lambda c: c.dtype in COMPLEX and c.operation in _NO_COMPLEX,
    "lists of uneven tensors": lambda c: c.operation in _UNEVEN,
    "stacked tensors": lambda c: c.operation in _STACKED,
    "gaps": lambda c: c.form == "every third" and c.operation in _BY_ADDRESS,
    "strided tensors to be split": lambda c: (
        c.operation == "all_to_all_single"
        and (
            c.form in ("transposed", "every third")
            or (c.form == "channels last" and c.dtype in COMPLEX)
        )
    ),
    "strided tensors from one to another": lambda c: (
        c.form in ("transposed", "every third", "channels last") and c.operation in _PAIRS
    ),
    "futures of a reduce_scatter": lambda c: (
        c.how == "future" and c.operation.startswith("reduce_scatter")
    ),
    "an exchange in place": lambda c: c.operation == "all_to_all_single_in_place",
    "nothing from anybody": lambda c: c.form == "empty" and c.operation == "recv_from_any",
}


def gloo_does(case: Case) -> bool:
    return not any(lacks(case) for lacks in GLOO_LACKS.values())


# ---- playing them --------------------------------------------------------------------------------


def attempt(
    case: Case, group: dist.ProcessGroup, known: dict[Any, Any] | None = None
) -> tuple[Context, str]:
    """Do it; and what it raised, or what is wrong with what came: "" if nothing is."""
    context = Context(case, group, {} if known is None else known)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            OPERATIONS[case.operation].function(context)
    except Exception as error:
        return context, f"raised {type(error).__name__}: {error}"[:2000]
    for name, came, must, bound, _ in context.checks:
        what = differs(came, must, bound, case.dtype)
        if what:
            return context, f"{name or 'the result'} {what}"
    return context, ""


def differs(
    came: torch.Tensor, must: torch.Tensor, bound: np.ndarray | None, dtype: torch.dtype
) -> str:
    """What is wrong with it; "" if nothing is."""
    if came.shape != must.shape or came.dtype != dtype:
        return f"is {tuple(came.shape)} of {came.dtype}, not {tuple(must.shape)} of {dtype}"
    if bound is None:
        equal = torch.equal(as_bytes(came), as_bytes(must))
    else:
        first, second = (
            (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double().numpy()
            for tensor in (came, must)
        )
        equal = bool((np.abs(first - second) <= bound).all())  # not, if there is a NaN
    return "" if equal else f"is {short(came)}, not {short(must)}"


def short(tensor: torch.Tensor) -> str:
    return str(tensor.detach().reshape(-1)[:8].tolist())


def play(cases: Sequence[Case]) -> tuple[int, list[str], list[int]]:
    """Do them in the default process group, and in one of Gloo beside it.

    A quarter of them in a group of two, if there are more ranks.

    Returns:
        How many were wrong, the first of them in words, and for each case a digest of what must be
        the same on all ranks that were in it.
    """
    world = dist.get_world_size()
    beside = dist.new_group(backend="gloo")
    pairs = [dist.new_group([2, 0]), dist.new_group([2, 0], backend="gloo")] if world > 2 else []
    failures: list[str] = []
    digests = []
    for case in cases:
        ours, theirs = pairs if pairs and case.seed % 4 == 2 else (dist.group.WORLD, beside)
        if ours not in dist.distributed_c10d._world.pg_map:
            digests.append(0)
            continue
        known: dict[Any, Any] = {}
        came, what = attempt(case, ours, known)
        if gloo_does(case):
            gloo, other = attempt(case, theirs, known)
            if other:
                what += f"\n    Gloo: {other}"
            else:
                for mine, its in zip(came.checks, gloo.checks, strict=not what):
                    what = what or differs(mine[1], its[1], mine[3], case.dtype)
        if what:
            failures.append(f"{case}: {what}")
        shared = [as_bytes(check[1]).numpy() for check in came.checks if check[4]]
        digests.append(zlib.crc32(b"".join(data.tobytes() for data in shared)))
    return len(failures), failures[:20], digests
