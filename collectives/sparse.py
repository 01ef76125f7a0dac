"""``all_reduce`` of the elements that matter: ``codec=Codec("topk", ...)``.

Sums of sparse arrays are less and less sparse, so nothing is added on the way: every rank encodes
its input once, all gather the encodings, and each adds what it decodes, in f32 and by rank, so that
all have the same bits. It is one all_gather, repeated without those who die, and promises what that
does. The result and the residual are written when the caller waits for the operation.
"""

from __future__ import annotations

import dataclasses
import struct
import sys
from typing import Any, ClassVar

import numpy as np

from collectives._native import ffi, lib
from collectives._native.engine import check, text
from collectives.arrays import dtype_name, is_list
from collectives.codec import Codec
from collectives.errors import CollectiveError, InvalidArgument, UnsupportedError
from collectives.issue import Issuer, ScaledSum
from collectives.work import Later

_OPS = (lib.COLL_SUM, lib.COLL_AVG, lib.COLL_SCALED_SUM)
_FLOATS = (lib.COLL_F64, lib.COLL_F32, lib.COLL_F16, lib.COLL_BF16)


def codec_of(codec: str | Codec | None) -> Codec | None:
    """The codec, if an all_reduce with it is one of those here."""
    made = None if codec is None else Codec.of(codec)
    return made if made is not None and made.name == "topk" else None


@dataclasses.dataclass(frozen=True)
class Head:
    """What one rank has called; it is before its payload."""

    FORM: ClassVar = struct.Struct("<QIHH")

    count: int
    keep: int
    op: int
    dtype: int

    def encode(self) -> bytes:
        """As it travels."""
        return self.FORM.pack(self.count, self.keep, self.op, self.dtype)

    def __str__(self) -> str:
        op = text(lib.coll_redop_name(self.op))
        return (
            f"all_reduce(dtype={dtype_name(self.dtype)}, op={op}, count={self.count},"
            f" codec=topk keep={self.keep})"
        )


@dataclasses.dataclass
class Sum(Later):
    """What becomes of the payloads, of which there is a row for each rank of the call's view."""

    reduces = True

    issuer: Issuer
    tag: int | None
    codec: Codec
    head: Head
    names: tuple[str, ...]
    mine: np.ndarray
    payloads: np.ndarray
    target: Any
    residual: np.ndarray | None
    lost: np.ndarray | None
    _error: CollectiveError | None = None

    def of(self, contributors: tuple[str, ...]) -> Any:
        """Add what has come, and write it."""
        if self._error is not None:
            raise self._error
        rows = self.payloads[: len(contributors)]
        heads = [Head(*Head.FORM.unpack(row[: Head.FORM.size])) for row in rows]
        if any(head != heads[0] for head in heads):
            self._differ(dict(zip(contributors, heads, strict=True)))
        total = np.zeros(self.head.count, np.float32)
        for row in rows:
            self.codec.decode_add(row[Head.FORM.size :], total)
        if self.head.op == lib.COLL_AVG:
            where, by = ffi.from_buffer(total), len(contributors)
            check(lib.coll_divide_local(where, total.size, lib.COLL_F32, by, lib.COLL_ISA_AUTO))
        _write(self.target, total)
        if self.residual is not None:
            self.residual[:] = self.lost
        return self.target

    def _differ(self, heads: dict[str, Head]) -> None:
        calls = ", ".join(
            f"{name!r} (rank {self.names.index(name)}) called {head}"
            for name, head in heads.items()
        )
        why = f"ranks called different things: {calls}; every rank must make the same calls"
        try:
            self.issuer.mismatch(self.tag, why)
        except CollectiveError as error:
            self._error = error
            raise


def all_reduce(
    issuer: Issuer,
    array: Any,
    target: Any,
    op: str | ScaledSum,
    tag: int | None,
    made: Codec,
    residual: Any,
) -> Sum:
    """Make the ``all_reduce`` that this thread's structure says a gathering one.

    Returns:
        The value of its result.

    Raises:
        UnsupportedError: it is none that can be.
    """
    call, mine = issuer.scratch.call, issuer.mine
    if call.op not in _OPS or call.dtype not in _FLOATS:
        what = f"{text(lib.coll_redop_name(call.op))} of {dtype_name(call.dtype)}"
        raise UnsupportedError(
            f"codec topk is for sums and averages of floats, not for {what}; pass no codec"
        )
    if call.flags & lib.COLL_RESUME:
        raise InvalidArgument(
            "on_failure='resume' with codec topk, which has no parts; use 'retry'"
        )
    flags = 0 if call.flags & (lib.COLL_NO_REPEAT | lib.COLL_NOT_ATOMIC) else lib.COLL_RESIZE
    algorithm, timeout = call.algorithm, call.timeout_ns * 1e-9
    head = Head(call.count, made.keep or 0, call.op, call.dtype)
    given = _flat(array)
    if isinstance(op, ScaledSum):
        given *= np.float32(op.factor)
    kept = None if residual is None else _view(residual)
    if kept is not None:
        given += kept
    encoded = made.encode(given)
    lost = None
    if kept is not None:
        with np.errstate(invalid="ignore"):  # infinities are not owed
            lost = given - made.decode(encoded, head.count)
        lost[~np.isfinite(lost)] = 0
    payload = np.concatenate([np.frombuffer(head.encode(), np.uint8), encoded])
    payloads = np.empty((mine.size, payload.size), np.uint8)
    call = issuer.prepare(lib.COLL_ALL_GATHER, tag, timeout)
    call.flags, call.algorithm = flags, algorithm
    call.dtype, call.count = lib.COLL_U8, payload.size
    call.input, call.output = ffi.from_buffer(payload), ffi.from_buffer(payloads)
    call.codec = issuer.scratch.keep("codec", made.struct())
    call.peers, call.peer_count = mine.ids, mine.size
    return Sum(issuer, tag, made, head, mine.names, payload, payloads, target, kept, lost)


def _flat(array: Any) -> np.ndarray:
    """A copy as f32, in the order of the indices; of a list, one after the other."""
    parts = [
        part.reshape(-1).astype(np.float32)
        if isinstance(part, np.ndarray)
        else part.detach().reshape(-1).to(sys.modules["torch"].float32).numpy().copy()
        for part in (array if is_list(array) else [array])
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _view(array: Any) -> np.ndarray:
    """A contiguous array's elements, not a copy."""
    return (
        array.reshape(-1) if isinstance(array, np.ndarray) else array.detach().reshape(-1).numpy()
    )


def _write(target: Any, values: np.ndarray) -> None:
    at = 0
    for part in target if is_list(target) else [target]:
        count = part.size if isinstance(part, np.ndarray) else part.numel()
        piece = values[at : at + count].reshape(tuple(part.shape))
        at += count
        if isinstance(part, np.ndarray):
            with np.errstate(over="ignore"):  # f16 overflows to infinity
                part[...] = piece
        else:
            part.detach().copy_(sys.modules["torch"].from_numpy(piece))
