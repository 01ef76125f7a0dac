"""Lossless packing of arrays: bit for bit the same when unpacked, two thirds of bf16 weights.

Floats are cut into byte planes (``native/codec/planes.c``), and zstandard codes those that it makes
smaller: exponents, not mantissas. It has hardly any memory to find repetitions with there, which in
planes of weights are chance and cost more than they save (``docs/decisions/0015-lossless.md``).
Other content is one plane, coded as usual.

A packed array describes itself::

    width (1)  plane 0's length (8)  ...  plane 0  ...  rest
    width 1: one plane, all of it; 2, 4, 8: as many planes, and of a torn last element the rest, raw

A plane that has its full length is not coded.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import zstandard

from collectives._native import ffi, lib
from collectives._native.engine import check

WIDTHS: dict[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
"""Bytes of the elements that are cut into planes, by numpy's and torch's name of the dtype."""

_LEVEL = 1  # of zstandard, for what is no floats: the fast end
_ENTROPY = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    min_match=7,
    hash_log=6,
    chain_log=6,
    search_log=1,
    window_log=17,
)
_WINDOW_MAX = 1 << 23  # bytes that a decoder is to remember, whatever a frame says
_LENGTHS = {width: struct.Struct(f"<B{width}Q") for width in (1, *WIDTHS.values())}


def packed_max(size: int) -> int:
    """Bytes that ``size`` bytes have at most when they are packed."""
    return size + max(form.size for form in _LENGTHS.values())


def pack(data: Any, dtype: str = "") -> bytes:
    """Pack contiguous bytes.

    Args:
        data: anything with a buffer.
        dtype: of the elements that the bytes are, by numpy's or torch's name; the last one may be
            torn. Of a name that is not in ``WIDTHS``: packed as bytes.
    """
    view = memoryview(data).cast("B")
    width = WIDTHS.get(dtype, 1)
    count = view.nbytes // width
    if width == 1:
        planes, coder = view, zstandard.ZstdCompressor(level=_LEVEL)
    else:
        scratch = np.empty(count * width, np.uint8)
        check(lib.coll_planes_split(ffi.from_buffer(scratch), ffi.from_buffer(view), count, width))
        planes = scratch.data
        coder = zstandard.ZstdCompressor(compression_params=_ENTROPY)
    coded = []
    for at in range(0, count * width, count) if count else ():
        plane = planes[at : at + count]
        smaller = coder.compress(plane)
        coded.append(smaller if len(smaller) < count else plane)
    lengths = [len(plane) for plane in coded] or [0] * width
    return b"".join((_LENGTHS[width].pack(width, *lengths), *coded, view[count * width :]))


def unpack(packed: Any, into: Any) -> None:
    """Unpack what ``pack`` packed.

    Args:
        packed: anything with a buffer; nothing in it is trusted.
        into: a writable buffer, contiguous, as large as what was packed; undefined after an error.

    Raises:
        ValueError: it is not exactly what fills ``into``.
    """
    view, to = memoryview(packed).cast("B"), memoryview(into).cast("B")
    form = _LENGTHS.get(view[0]) if view.nbytes else None
    if form is None or view.nbytes < form.size:
        raise ValueError("a packed array has no head")
    width, *lengths = form.unpack_from(view)
    count, rest = divmod(to.nbytes, width)
    if max(lengths) > count or form.size + sum(lengths) + rest != view.nbytes:
        raise ValueError("a packed array has another length than it should have")
    planes = to if width == 1 else np.empty(count * width, np.uint8).data
    at = form.size
    for plane, length in enumerate(lengths):
        _decode(view[at : at + length], planes[plane * count : (plane + 1) * count])
        at += length
    if width > 1:
        check(lib.coll_planes_merge(ffi.from_buffer(to), ffi.from_buffer(planes), count, width))
        to[count * width :] = view[at:]


def _decode(coded: memoryview, plane: memoryview) -> None:
    if coded.nbytes == plane.nbytes:
        plane[:] = coded
        return
    coder = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX)
    try:
        # What a frame says of its length is not believed: it is read into what there is for it.
        reader = coder.stream_reader(coded)
        got = 0
        while got < plane.nbytes and (more := reader.readinto(plane[got:])):
            got += more
        if got < plane.nbytes or reader.read(1):
            raise ValueError("a plane of a packed array has another length than it should have")
    except zstandard.ZstdError as error:
        raise ValueError(f"a plane of a packed array cannot be decoded: {error}") from None
