"""Operations that are shaped by the group: which block of an array is whose.

Each function here checks the arguments of one call, makes the array that its result goes to if the
caller has none, fills in the thread's call structure, and returns the value of the result. Blocks
lie along the first axis, in the order of the ranks; of a 0-d array each is one element. Of a list
each array is a block.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from collectives._native import ffi, lib
from collectives.arrays import Arrays, Buffer, buffer_of, dtype_name, is_list
from collectives.codec import Codec
from collectives.errors import InvalidArgument
from collectives.issue import Issuer, ScaledSum, algorithm_code, code_of, factor_of, flags_of
from collectives.work import Packed


@dataclasses.dataclass(frozen=True)
class Common:
    """The arguments that all operations have."""

    tag: int | None
    timeout: float | None
    algorithm: str | None = None
    on_failure: str = "retry"
    resize: bool = False
    atomic: bool = True
    codec: str | Codec | None = None
    residual: Any = None

    @property
    def flags(self) -> int:
        """As the core wants them."""
        resize: int = lib.COLL_RESIZE if self.resize else 0
        return flags_of(self.atomic, self.on_failure) | resize


def reduce(
    issuer: Issuer, array: Any, op: str | ScaledSum, root: int, out: Any, common: Common
) -> Any:
    """Fill in a ``reduce``; the value is where the root's result goes, None elsewhere."""
    issuer.checked_root(root)
    mine = root == issuer.mine.rank
    if out is not None and not mine:
        raise InvalidArgument(f"out is for the root's result; rank {root} is the root")
    target = array if out is None else out
    given = buffer_of(array, "array", writable=mine and out is None)
    _, count, dtype, _ = given
    code = code_of(op)
    call = _prepare(issuer, lib.COLL_REDUCE, common, root)
    call.op = code
    call.factor = factor_of(op)
    call.dtype = dtype
    call.count = count
    _give(issuer, call, given)
    _encode(issuer, call, common, count)
    if mine:
        _room(issuer, call, target, count, dtype)
        if out is None and issuer.step is not None:
            issuer.step.keep(array, given)
    return target if mine else None


def reduce_scatter(
    issuer: Issuer,
    array: Any,
    op: str | ScaledSum,
    out: Any,
    counts: Sequence[int] | None,
    common: Common,
) -> Any:
    """Fill in a ``reduce_scatter``; the value is this rank's block."""
    given = buffer_of(array, "array", writable=False)
    cut = _cut(issuer, array, given, counts)
    rank = issuer.mine.rank
    value = _own(array, rank, cut) if out is None else _one(out, "out")
    code = code_of(op)
    call = _prepare(issuer, lib.COLL_REDUCE_SCATTER, common)
    call.op = code
    call.factor = factor_of(op)
    _fill(issuer, call, given[2], cut)
    _give(issuer, call, given)
    _encode(issuer, call, common, given[1])
    room = _room(issuer, call, value, cut.rows[rank] * cut.width, given[2])
    if out is not None and issuer.step is not None:  # it may be a part of the array
        issuer.step.keep(out, room)
    return value


def all_gather(
    issuer: Issuer,
    array: Any,
    out: Any,
    counts: Sequence[int] | None,
    common: Common,
    *,
    root: int | None = None,
) -> Any:
    """Fill in an ``all_gather``, or a ``gather`` to ``root``; the value has the blocks of all."""
    if root is not None:
        issuer.checked_root(root)
    here = root is None or root == issuer.mine.rank
    if out is not None and not here:
        raise InvalidArgument(f"out is for the root's result; rank {root} is the root")
    given = buffer_of(_one(array, "array"), "array", writable=False)
    rank = issuer.mine.rank
    rows, width = _rows(array)
    if is_list(out):
        cut = _cut(issuer, out, buffer_of(out, "out", writable=True), counts, "out")
        if cut.rows[rank] != given[1]:
            raise InvalidArgument(
                f"array has {given[1]} elements, the array for this rank ({rank}) in out has"
                f" {cut.rows[rank]}"
            )
    else:
        cut = _alike(issuer, rows, width, counts)
        if cut.rows[rank] != rows:
            raise InvalidArgument(
                f"array has {rows} rows, counts says {cut.rows[rank]} for this rank ({rank})"
            )
    value = _new(array, sum(cut.rows)) if out is None and here else out
    call = _prepare(issuer, lib.COLL_ALL_GATHER if root is None else lib.COLL_GATHER, common, root)
    _fill(issuer, call, given[2], cut)
    _give(issuer, call, given)
    if here:
        _room(issuer, call, value, sum(cut.rows) * cut.width, given[2])
        if common.resize:
            return Packed(value, issuer.mine.names, cut.rows)
    return value


def scatter(
    issuer: Issuer,
    array: Any,
    root: int,
    out: Any,
    counts: Sequence[int] | None,
    common: Common,
) -> Any:
    """Fill in a ``scatter``; the value is this rank's block."""
    if issuer.checked_root(root) == issuer.mine.rank:
        given = buffer_of(array, "array", writable=False)
        cut = _cut(issuer, array, given, counts)
        value = _own(array, root, cut) if out is None else _one(out, "out")
    else:
        if array is not None:
            raise InvalidArgument(f"array is the root's to pass; rank {root} is the root")
        if out is None:
            raise InvalidArgument("scatter needs out= on all ranks but the root")
        value = _one(out, "out")
        given = ffi.NULL, 0, buffer_of(out, "out", writable=True)[2], None
        cut = _alike(issuer, *_rows(out), counts)
    call = _prepare(issuer, lib.COLL_SCATTER, common, root)
    issuer.scratch.root = issuer.mine.names[root]
    _fill(issuer, call, given[2], cut)
    _give(issuer, call, given)
    _room(issuer, call, value, cut.rows[issuer.mine.rank] * cut.width, given[2])
    return value


def all_to_all(
    issuer: Issuer,
    array: Any,
    out: Any,
    counts: Sequence[int] | None,
    out_counts: Sequence[int] | None,
    common: Common,
) -> Any:
    """Fill in an ``all_to_all``; the value has a block from each rank."""
    given = buffer_of(array, "array", writable=False)
    to = _cut(issuer, array, given, counts)
    if is_list(array) or is_list(out):
        if out is None:
            raise InvalidArgument(
                "an all_to_all of a list needs out=, since what comes from each rank may be of"
                " another size"
            )
        come = _cut(issuer, out, buffer_of(out, "out", writable=True), out_counts, "out")
        to, come = dataclasses.replace(to, even=False), dataclasses.replace(come, even=False)
    elif (counts is None) != (out_counts is None):
        raise InvalidArgument(
            "counts says what goes to each rank, out_counts what comes; pass both"
        )
    elif out_counts is None:
        come = to
    else:
        come = Cut(_checked(out_counts, issuer.mine.size, "out_counts"), to.width, even=False)
    value = _new(array, sum(come.rows)) if out is None else out
    call = _prepare(issuer, lib.COLL_ALL_TO_ALL, common)
    _fill(issuer, call, given[2], to)
    if not come.even:
        call.counts_from = issuer.scratch.keep("counts_from", _sizes(come))
    _give(issuer, call, given)
    _room(issuer, call, value, sum(come.rows) * come.width, given[2])
    if common.resize:
        return Packed(value, issuer.mine.names, come.rows)
    return value


@dataclasses.dataclass(frozen=True)
class Cut:
    """The blocks of all ranks: rows of each, and elements in a row.

    Attributes:
        even: the caller did not say what the blocks are, so they are the same.
    """

    rows: tuple[int, ...]
    width: int
    even: bool


def _cut(
    issuer: Issuer,
    whole: Any,
    buffer: Buffer,
    counts: Sequence[int] | None,
    what: str = "array",
) -> Cut:
    """How an array or a list has the blocks of all ranks."""
    size = issuer.mine.size
    lies = buffer[3]
    name = "out_counts" if what == "out" else "counts"
    if isinstance(lies, Arrays):
        if counts is not None:
            raise InvalidArgument(
                f"counts and {what}, a list, both say what the blocks are; leave the counts out"
            )
        if len(whole) != size:
            raise InvalidArgument(
                f"{what} has {len(whole)} arrays for {size} ranks; each has one, which may be empty"
            )
        return Cut(tuple(count for _, count, _, _ in lies.buffers), 1, even=False)
    rows, width = _rows(whole)
    if counts is None and rows % size:
        raise InvalidArgument(
            f"{what} has {rows} rows, which are no equal blocks for {size} ranks; pass {name}"
        )
    if counts is None:
        return Cut((rows // size,) * size, width, even=True)
    blocks = _checked(counts, size, name)
    if sum(blocks) != rows:
        raise InvalidArgument(f"{what} has {rows} rows, {name} are {sum(blocks)} in all")
    return Cut(blocks, width, even=False)


def _alike(issuer: Issuer, rows: int, width: int, counts: Sequence[int] | None) -> Cut:
    """The blocks of all ranks where this one has its own, of so many rows."""
    size = issuer.mine.size
    if counts is None:
        return Cut((rows,) * size, width, even=True)
    return Cut(_checked(counts, size, "counts"), width, even=False)


def _one(array: Any, what: str) -> Any:
    """An argument that is a block, and not a list of all."""
    if is_list(array):
        raise InvalidArgument(f"{what} is a list; it is this rank's block here, which is one array")
    return array


def _prepare(issuer: Issuer, kind: int, common: Common, root: int | None = None) -> Any:
    call = issuer.prepare(kind, common.tag, common.timeout)
    call.flags = common.flags
    if common.algorithm is not None:
        call.algorithm = algorithm_code(common.algorithm)
    call.peers = issuer.mine.ids
    call.peer_count = issuer.mine.size
    if root is not None:
        call.root = root
    return call


def _fill(issuer: Issuer, call: Any, dtype: int, cut: Cut) -> None:
    call.dtype = dtype
    if cut.even:
        call.count = cut.rows[0] * cut.width
    else:
        call.counts = issuer.scratch.keep("counts", _sizes(cut))


def _sizes(cut: Cut) -> Any:
    sizes = [rows * cut.width for rows in cut.rows]
    if sum(sizes) > sys.maxsize:
        raise InvalidArgument(f"blocks of {list(cut.rows)} rows are more than there can be")
    return ffi.new("uint64_t[]", sizes)


def _rows(array: Any) -> tuple[int, int]:
    """How many rows an array has along its first axis, and elements each."""
    shape = tuple(array.shape)
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def _checked(counts: Sequence[int], size: int, what: str) -> tuple[int, ...]:
    blocks = tuple(operator.index(count) for count in counts)
    if len(blocks) != size:
        raise InvalidArgument(f"{what} has {len(blocks)} entries for {size} ranks")
    if any(not 0 <= count <= sys.maxsize for count in blocks):
        raise InvalidArgument(f"{what} is {list(blocks)}; each is a number of rows, from 0")
    return blocks


def _own(array: Any, rank: int, cut: Cut) -> Any:
    """A new array for a rank's block of an array or a list."""
    return _new(array[rank]) if is_list(array) else _new(array, cut.rows[rank])


def _new(array: Any, rows: int | None = None) -> Any:
    """An array like this one, with so many rows."""
    shape = tuple(array.shape) if rows is None else (rows, *tuple(array.shape)[1:])
    if isinstance(array, np.ndarray):
        return np.empty(shape, array.dtype)
    return sys.modules["torch"].empty(shape, dtype=array.dtype)


def _give(issuer: Issuer, call: Any, given: Buffer) -> None:
    """What the call takes."""
    call.input, _, _, lies = given
    if lies is not None:
        issuer.scratch.keep("input", lies).as_input(call)


def _encode(issuer: Issuer, call: Any, common: Common, count: int) -> None:
    if common.codec is not None or common.residual is not None:
        issuer.encode(call, common.codec, common.residual, count)


def _room(issuer: Issuer, call: Any, out: Any, count: int, dtype: int) -> Buffer:
    """Where the result goes."""
    room = buffer_of(out, "out", writable=True)
    call.output, out_count, out_dtype, lies = room
    if lies is not None:
        issuer.scratch.keep("output", lies).as_output(call)
    if out_count != count or out_dtype != dtype:
        raise InvalidArgument(
            f"out has {out_count} elements of {dtype_name(out_dtype)}, the result has {count} of"
            f" {dtype_name(dtype)}; they must match"
        )
    return room
