"""Operations that are shaped by the group: which block of an array is whose.

Each function here checks the arguments of one call, makes the array that its result goes to if the
caller has none, fills in the thread's call structure, and returns the value of the result. Blocks
lie along the first axis, in the order of the ranks; of a 0-d array each is one element.
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
from collectives.arrays import Buffer, buffer_of
from collectives.errors import InvalidArgument
from collectives.issue import Issuer, algorithm_code, code_of, dtype_name, flags_of
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

    @property
    def flags(self) -> int:
        """As the core wants them."""
        resize: int = lib.COLL_RESIZE if self.resize else 0
        return flags_of(self.atomic, self.on_failure) | resize


def reduce(issuer: Issuer, array: Any, op: str, root: int, out: Any, common: Common) -> Any:
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
    call.dtype = dtype
    call.count = count
    _give(issuer, call, given)
    if mine:
        _room(issuer, call, target, count, dtype)
        if out is None and issuer.step is not None:
            issuer.step.keep(array, given[0], count * lib.coll_dtype_size(dtype), given[3])
    return target if mine else None


def reduce_scatter(
    issuer: Issuer,
    array: Any,
    op: str,
    out: Any,
    counts: Sequence[int] | None,
    common: Common,
) -> Any:
    """Fill in a ``reduce_scatter``; the value is this rank's block."""
    given = buffer_of(array, "array", writable=False)
    dtype = given[2]
    rows, width = _rows(array)
    blocks = _blocks(issuer, counts, rows, "array")
    mine = blocks[issuer.mine.rank]
    value = _new(array, mine) if out is None else out
    code = code_of(op)
    call = _prepare(issuer, lib.COLL_REDUCE_SCATTER, common)
    call.op = code
    _fill(issuer, call, given, width, blocks, counts)
    _give(issuer, call, given)
    _, _, _, strides = _room(issuer, call, value, mine * width, dtype)
    if out is not None and issuer.step is not None:  # it may be a part of the array
        size = mine * width * lib.coll_dtype_size(dtype)
        issuer.step.keep(out, call.output, size, strides)
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
    given = buffer_of(array, "array", writable=False)
    dtype = given[2]
    rows, width = _rows(array)
    size = issuer.mine.size
    blocks = (rows,) * size if counts is None else _checked(counts, size, "counts")
    if blocks[issuer.mine.rank] != rows:
        raise InvalidArgument(
            f"array has {rows} rows, counts says {blocks[issuer.mine.rank]} for this rank"
            f" ({issuer.mine.rank})"
        )
    value = _new(array, sum(blocks)) if out is None and here else out
    call = _prepare(issuer, lib.COLL_ALL_GATHER if root is None else lib.COLL_GATHER, common, root)
    _fill(issuer, call, given, width, blocks, counts)
    _give(issuer, call, given)
    if here:
        _room(issuer, call, value, sum(blocks) * width, dtype)
        if common.resize:
            return Packed(value, issuer.mine.names, blocks)
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
    size = issuer.mine.size
    if issuer.checked_root(root) == issuer.mine.rank:
        given = buffer_of(array, "array", writable=False)
        rows, width = _rows(array)
        blocks = _blocks(issuer, counts, rows, "array")
        value = _new(array, blocks[root]) if out is None else out
    else:
        if array is not None:
            raise InvalidArgument(f"array is the root's to pass; rank {root} is the root")
        if out is None:
            raise InvalidArgument("scatter needs out= on all ranks but the root")
        value = out
        given = ffi.NULL, 0, buffer_of(out, "out", writable=True)[2], None
        rows, width = _rows(out)
        blocks = (rows,) * size if counts is None else _checked(counts, size, "counts")
    call = _prepare(issuer, lib.COLL_SCATTER, common, root)
    issuer.scratch.root = issuer.mine.names[root]
    _fill(issuer, call, given, width, blocks, counts)
    _give(issuer, call, given)
    _room(issuer, call, value, blocks[issuer.mine.rank] * width, given[2])
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
    if (counts is None) != (out_counts is None):
        raise InvalidArgument(
            "counts says what goes to each rank, out_counts what comes; pass both"
        )
    given = buffer_of(array, "array", writable=False)
    dtype = given[2]
    rows, width = _rows(array)
    blocks = _blocks(issuer, counts, rows, "array")
    size = issuer.mine.size
    theirs = blocks if out_counts is None else _checked(out_counts, size, "out_counts")
    value = _new(array, sum(theirs)) if out is None else out
    call = _prepare(issuer, lib.COLL_ALL_TO_ALL, common)
    _fill(issuer, call, given, width, blocks, counts)
    if out_counts is not None:
        call.counts_from = issuer.scratch.keep("counts_from", _sizes(theirs, width))
    _give(issuer, call, given)
    _room(issuer, call, value, sum(theirs) * width, dtype)
    if common.resize:
        return Packed(value, issuer.mine.names, theirs)
    return value


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


def _fill(
    issuer: Issuer,
    call: Any,
    given: Buffer,
    width: int,
    blocks: Sequence[int],
    counts: Sequence[int] | None,
) -> None:
    call.dtype = given[2]
    if counts is None:
        call.count = blocks[0] * width
    else:
        call.counts = issuer.scratch.keep("counts", _sizes(blocks, width))


def _sizes(blocks: Sequence[int], width: int) -> Any:
    sizes = [rows * width for rows in blocks]
    if sum(sizes) > sys.maxsize:
        raise InvalidArgument(f"blocks of {list(blocks)} rows are more than there can be")
    return ffi.new("uint64_t[]", sizes)


def _rows(array: Any) -> tuple[int, int]:
    """How many rows an array has along its first axis, and elements each."""
    shape = tuple(array.shape)
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def _blocks(issuer: Issuer, counts: Sequence[int] | None, rows: int, what: str) -> tuple[int, ...]:
    """The rows of each rank's block in an array with the blocks of all."""
    size = issuer.mine.size
    if counts is None:
        if rows % size:
            raise InvalidArgument(
                f"{what} has {rows} rows, which are no equal blocks for {size} ranks; pass counts"
            )
        return (rows // size,) * size
    blocks = _checked(counts, size, "counts")
    if sum(blocks) != rows:
        raise InvalidArgument(f"{what} has {rows} rows, counts are {sum(blocks)} in all")
    return blocks


def _checked(counts: Sequence[int], size: int, what: str) -> tuple[int, ...]:
    blocks = tuple(operator.index(count) for count in counts)
    if len(blocks) != size:
        raise InvalidArgument(f"{what} has {len(blocks)} entries for {size} ranks")
    if any(not 0 <= count <= sys.maxsize for count in blocks):
        raise InvalidArgument(f"{what} is {list(blocks)}; each is a number of rows, from 0")
    return blocks


def _new(array: Any, rows: int) -> Any:
    """An array like this one, with so many rows."""
    shape = (rows, *tuple(array.shape)[1:])
    if isinstance(array, np.ndarray):
        return np.empty(shape, array.dtype)
    return sys.modules["torch"].empty(shape, dtype=array.dtype)


def _give(issuer: Issuer, call: Any, given: Buffer) -> None:
    """What the call takes."""
    call.input, _, _, strides = given
    if strides is not None:
        call.input_strides = issuer.scratch.keep("input", strides).struct


def _room(issuer: Issuer, call: Any, out: Any, count: int, dtype: int) -> Buffer:
    """Where the result goes."""
    room = buffer_of(out, "out", writable=True)
    call.output, out_count, out_dtype, strides = room
    if strides is not None:
        call.output_strides = issuer.scratch.keep("output", strides).struct
    if out_count != count or out_dtype != dtype:
        raise InvalidArgument(
            f"out has {out_count} elements of {dtype_name(out_dtype)}, the result has {count} of"
            f" {dtype_name(dtype)}; they must match"
        )
    return room
