"""Codecs of the core: what can be, how large an encoding is, and the kernels on their own."""

from __future__ import annotations

from typing import Any

from collectives._native import ffi, lib
from collectives._native.engine import check, text

_UNKNOWN = text(lib.coll_codec_name(lib.COLL_CODEC_NONE))
FORMATS: dict[str, int] = {
    name: number
    for number in range(1, lib.COLL_CODEC_COUNT)
    if (name := text(lib.coll_codec_name(number))) != _UNKNOWN
}
"""The core's number of every format, by name."""

SCALES: dict[str, int] = {"f16": lib.COLL_SCALE_F16, "bf16": lib.COLL_SCALE_BF16}
ISAS: dict[str, int] = {
    "auto": lib.COLL_ISA_AUTO,
    "scalar": lib.COLL_ISA_SCALAR,
    "avx2": lib.COLL_ISA_AVX2,
}
STOCHASTIC: int = lib.COLL_CODEC_STOCHASTIC
SYMMETRIC: int = lib.COLL_CODEC_SYMMETRIC


def codec(
    number: int,
    *,
    block: int = 0,
    scale: int = 0,
    hadamard: int = 0,
    keep: int = 0,
    flags: int = 0,
) -> Any:
    """A ``struct coll_codec`` that was checked.

    Raises:
        InvalidArgument: there is no such codec; the message says what can be.
    """
    values = (number, block, scale, hadamard, keep, flags)
    struct = ffi.new("struct coll_codec *", values)
    check(lib.coll_codec_check(struct))
    return struct


def unit(struct: Any) -> int:
    """How many elements are encoded together."""
    return int(lib.coll_codec_unit(struct))


def encoded_bytes(struct: Any, count: int) -> int:
    """Bytes that so many elements take."""
    return int(lib.coll_encoded_bytes(struct, count))


def encode(
    struct: Any,
    to: Any,
    source: Any,
    count: int,
    dtype: int,
    *,
    first: int,
    rotation: int,
    rounding: int,
    isa: int,
) -> None:
    """``coll_encode_local``: from ``count`` elements at one address to bytes at another.

    Raises:
        InvalidArgument: ``first`` is not the beginning of a unit.
        UnsupportedError: the dtype is no float, or the CPU lacks the instruction set.
    """
    check(lib.coll_encode_local(to, source, first, count, dtype, struct, rotation, rounding, isa))


def decode(
    struct: Any,
    to: Any,
    source: Any,
    count: int,
    dtype: int,
    *,
    first: int,
    rotation: int,
    isa: int,
    add: bool,
) -> None:
    """``coll_decode_local``, or with ``add`` ``coll_decode_add_local``; as ``encode``."""
    function = lib.coll_decode_add_local if add else lib.coll_decode_local
    check(function(to, source, first, count, dtype, struct, rotation, isa))
