"""The kernels alone, on one core: GB/s in L2 and out of cache, beside what copies reach.

Traffic is what a kernel reads and writes; of codecs, the f32 alone that are encoded or decoded.
Reductions are measured in place, where no line is read only to be overwritten. The memory speed is
what a copy past the caches reaches; it is taken right before each sample out of cache, so that a
share of it means something on a busy machine too. Every element is compared with what the scalar
kernel makes of it.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from collectives._native import ffi, lib
from collectives.codec import NAMES, Codec

OPS = ("sum", "prod", "min", "max")
IN_L2 = 96 << 10
_DIVISOR = 3
_PERIOD = 4096  # elements, after which the arrays repeat
_AUTO, _SCALAR = lib.COLL_ISA_AUTO, lib.COLL_ISA_SCALAR
_F32, _SUM = lib.COLL_F32, lib.COLL_SUM
CODECS = (
    *(Codec(name) for name in NAMES),
    Codec("int8", rounding="stochastic"),
    *(Codec(name, hadamard=True) for name in ("int8", "int4", "e3m0", "mxfp4", "nvfp4", "nvint4")),
)
_KINDS = {lib.COLL_F64: "f8", lib.COLL_F32: "f4", lib.COLL_F16: "f2", lib.COLL_BF16: "f4"}


@dataclasses.dataclass
class Speed:
    """One kernel: GB/s (1e9) of traffic, the best of the samples; elements that were wrong.

    `shares` are those of the memory speed, one per sample out of cache.
    """

    cached: float = 0
    memory: float = 0
    wrong: int = 0
    shares: list[float] = dataclasses.field(default_factory=list)

    def cell(self) -> str:
        """For people."""
        return f"{self.cached:5.1f} {self.memory:5.1f} {statistics.median(self.shares):4.0%}"


@dataclasses.dataclass(frozen=True)
class Kernels:
    """What `measure` found: for each element type, and each codec, its operations; copies."""

    dtypes: dict[str, dict[str, Speed]]
    codecs: dict[str, dict[str, Speed]]
    others: dict[str, Speed]

    @property
    def wrong(self) -> int:
        """Elements that are not those of the scalar kernel."""
        rows = [*self.dtypes.values(), *self.codecs.values(), self.others]
        return sum(speed.wrong for row in rows for speed in row.values())

    def lines(self) -> Iterator[str]:
        """For people."""
        yield "GB/s of traffic on one core: in L2, out of cache, median share of the memory speed"
        yield "type " + "".join(f"{name:>19}" for name in (*OPS, "division"))
        for dtype, row in self.dtypes.items():
            yield f"{dtype:<5}" + "".join(f"   {speed.cell()}" for speed in row.values())
        for name, speed in self.others.items():
            yield f"{name:<40} {speed.cell()}"
        yield "GB/s of f32 on one core, likewise"
        yield f"{'codec':<24}{'encode':>19}{'decode and add':>19}"
        for name, row in self.codecs.items():
            yield f"{name:<24}" + "".join(f"   {speed.cell()}" for speed in row.values())
        yield f"{self.wrong} elements wrong"


def measure(out_of_cache: int = 64 << 20, rounds: int = 5) -> Kernels:
    """Measure every kernel on arrays of `out_of_cache` bytes, and on some in L2.

    `out_of_cache` is a multiple of 32 KiB, the longest period.

    Each round measures everything, so a disturbance of the machine does not hit one kernel alone.
    """
    # Those that have all of the arithmetic.
    names = [ffi.string(lib.coll_dtype_name(i)).decode() for i in range(lib.COLL_BOOL)]
    labels = {_label(codec): codec for codec in CODECS}
    found = Kernels({name: {} for name in names}, {name: {} for name in labels}, {})
    cached, memory = _Arrays(IN_L2), _Arrays(out_of_cache)
    for _ in range(rounds):
        for dtype, name in enumerate(names):
            _sample(found.dtypes[name], _kernels(cached, dtype), _kernels(memory, dtype))
        for label, codec in labels.items():
            _sample(found.codecs[label], _codec(cached, codec), _codec(memory, codec))
        _sample(found.others, _others(cached), _others(memory))
    return found


class _Arrays:
    """Arrays of one size: a call may change `a`, and finds it as it was."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fresh, self.a, self.b, self.out, self.slot = (
            np.zeros(size, np.uint8) for _ in range(5)
        )

    def fill(self, dtype: int) -> np.ndarray:
        """Put numbers of like size into a and ones into b: nothing overflows or is denormal.

        Return one period of a, after which a repeats.
        """
        generator, item = np.random.default_rng(dtype), lib.coll_dtype_size(dtype)
        kind = np.dtype(_KINDS.get(dtype, f"u{item}"))
        low, high = (1, 2) if kind.kind == "f" else (1, 120)
        values, ones = generator.uniform(low, high, _PERIOD).astype(kind), np.ones(_PERIOD, kind)
        if dtype == lib.COLL_BF16:
            values, ones = (x.view(np.uint16)[1::2].copy() for x in (values, ones))
        period = values.view(np.uint8)
        self.fresh.reshape(-1, period.size)[:] = period
        self.b.reshape(-1, period.size)[:] = ones.view(np.uint8)
        return period

    def restore(self) -> None:
        """Leave `a` in L2, if it is small, else in memory."""
        if self.size <= IN_L2:
            np.copyto(self.a, self.fresh)
        else:
            lib.coll_copy_stream(_at(self.a), _at(self.fresh), self.size)


@dataclasses.dataclass(frozen=True)
class _Case:
    """A call that reads and writes `traffic` bytes, and what it leaves: `want` over and over."""

    name: str
    arrays: _Arrays
    traffic: int
    call: Callable[[], object]
    outputs: list[np.ndarray]
    want: np.ndarray

    def speed(self) -> float:
        """GB/s without what the call from Python costs. In L2 the best of some calls."""
        times, costs = [], []
        for _ in range(20 if self.arrays.size <= IN_L2 else 1):
            self.arrays.restore()
            start = time.perf_counter_ns()
            self.call()
            middle = time.perf_counter_ns()
            lib.coll_divide_local(ffi.NULL, 0, _F32, _DIVISOR, _AUTO)
            costs.append(time.perf_counter_ns() - middle)
            times.append(middle - start)
        return self.traffic / max(min(times) - min(costs), 1)

    def wrong(self) -> int:
        """Count the elements that are not what the last call has to leave."""
        kind, period = self.want.dtype, self.want.size
        views = (output.view(kind).reshape(-1, period) for output in self.outputs)
        return sum(int(np.count_nonzero(view != self.want)) for view in views)


def _sample(row: dict[str, Speed], cached: Iterator[_Case], memory: Iterator[_Case]) -> None:
    for case in cached:
        speed = row.setdefault(case.name, Speed())
        speed.cached = max(speed.cached, case.speed())
        speed.wrong += case.wrong()
    for case in memory:
        copy = _copy_stream(case.arrays).speed()
        speed, reached = row[case.name], case.speed()
        speed.memory = max(speed.memory, reached)
        speed.shares.append(reached / copy)
        speed.wrong += case.wrong()


def _copy_stream(arrays: _Arrays) -> _Case:
    out, a, size = _at(arrays.out), _at(arrays.a), arrays.size
    want = arrays.fresh[: _PERIOD * 8]
    call = functools.partial(lib.coll_copy_stream, out, a, size)
    return _Case("copy_stream", arrays, 2 * size, call, [arrays.out], want)


def _kernels(arrays: _Arrays, dtype: int) -> Iterator[_Case]:
    """Each reduction of the type, and the division, in place."""
    period, item = arrays.fill(dtype), lib.coll_dtype_size(dtype)
    a, b, count = _at(arrays.a), _at(arrays.b), arrays.size // item

    def case(name: str, traffic: int, call: Callable[[Any, int, int], object]) -> _Case:
        want = period.copy()
        call(_at(want), want.size // item, _SCALAR)
        measured = functools.partial(call, a, count, _AUTO)
        return _Case(
            name, arrays, traffic * arrays.size, measured, [arrays.a], want.view(f"u{item}")
        )

    def reduce(op: int, to: Any, n: int, isa: int) -> object:
        return lib.coll_reduce_local(to, to, b, n, dtype, op, isa)

    def divide(to: Any, n: int, isa: int) -> object:
        return lib.coll_divide_local(to, n, dtype, _DIVISOR, isa)

    for name in OPS:
        yield case(name, 3, functools.partial(reduce, getattr(lib, f"COLL_{name.upper()}")))
    yield case("division", 2, divide)


def _label(codec: Codec) -> str:
    rotated = f" hadamard {codec.hadamard}" if codec.hadamard else ""
    return codec.name + rotated + (" stochastic" if codec.rounding == "stochastic" else "")


def _encode(codec: Any, to: Any, source: Any, count: int, isa: int) -> object:
    return lib.coll_encode_local(to, source, 0, count, _F32, codec, 1, 2, isa)


def _decode_add(codec: Any, total: Any, source: Any, count: int, isa: int) -> object:
    return lib.coll_decode_add_local(total, source, 0, count, _F32, codec, 1, isa)


def _codec(arrays: _Arrays, codec: Codec) -> Iterator[_Case]:
    """Encoding, and decoding onto a sum."""
    arrays.fill(_F32)
    arrays.restore()
    struct, count = codec.struct(), arrays.size // 4
    encoded, added = _expected(codec, arrays.size)
    output, a = arrays.slot[: codec.encoded_bytes(count)], _at(arrays.a)
    encode = functools.partial(_encode, struct, _at(output), a, count, _AUTO)
    yield _Case("encode", arrays, arrays.size, encode, [output], encoded)
    add = functools.partial(_decode_add, struct, a, _at(output), count, _AUTO)
    yield _Case("decode and add", arrays, arrays.size, add, [arrays.a], added)


@functools.cache
def _expected(codec: Codec, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What the scalar kernels make of arrays of so many bytes: one period of it, if it has one."""
    seeded = codec.hadamard or codec.rounding == "stochastic"
    arrays = _Arrays(size if seeded else 4 * _PERIOD)
    arrays.fill(_F32)
    count, added = arrays.size // 4, arrays.fresh.copy()
    encoded = np.empty(codec.encoded_bytes(count), np.uint8)
    _encode(codec.struct(), _at(encoded), _at(arrays.fresh), count, _SCALAR)
    _decode_add(codec.struct(), _at(added), _at(encoded), count, _SCALAR)
    return encoded, added.view(np.uint32)


def _others(arrays: _Arrays) -> Iterator[_Case]:
    """Copies, reductions elsewhere, of many and to two places, checksums."""
    period, size = arrays.fill(_F32), arrays.size
    a, b, out, slot = (_at(x) for x in (arrays.a, arrays.b, arrays.out, arrays.slot))
    arrays.restore()

    move = functools.partial(ffi.memmove, out, a, size)
    yield _Case("memcpy", arrays, 2 * size, move, [arrays.out], period)
    yield _copy_stream(arrays)

    def reduce(
        name: str, inputs: list[Any], streamed: Any, kept: Any, outputs: list[np.ndarray]
    ) -> _Case:
        n, array, want = len(inputs), ffi.new("void *[]", inputs), period.copy()
        for other in inputs[1:]:  # of which one period is as good as the whole
            lib.coll_reduce_local(_at(want), _at(want), other, _PERIOD, _F32, _SUM, _SCALAR)
        return _Case(
            name, arrays, (n + len(outputs)) * size,
            lambda: lib.coll_reduce_many(streamed, kept, array, n, size // 4, _F32, _SUM, _AUTO),
            outputs, want.view(np.uint32),
        )  # fmt: skip

    null = ffi.NULL
    yield reduce("f32 sum elsewhere", [a, b], null, out, [arrays.out])
    yield reduce("f32 sum elsewhere, streamed", [a, b], out, null, [arrays.out])
    yield reduce("f32 sum to two, one streamed", [a, b], out, slot, [arrays.out, arrays.slot])
    yield reduce("f32 sum of four", [a, b, a, b], null, out, [arrays.out])

    checksum = np.zeros(1, np.uint32)
    want = np.array([lib.coll_crc32c(0, a, size, _SCALAR)], np.uint32)

    def crc() -> None:
        checksum[0] = lib.coll_crc32c(0, a, size, _AUTO)

    def crc_copy() -> None:
        checksum[0] = lib.coll_crc32c_copy(0, out, a, size, _AUTO)

    yield _Case("crc32c", arrays, size, crc, [checksum], want)
    yield _Case("crc32c with a copy", arrays, 2 * size, crc_copy, [checksum], want)


def _at(array: np.ndarray) -> Any:
    return ffi.cast("void *", array.ctypes.data)
