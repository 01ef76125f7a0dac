"""Claims about the reduction kernels, the CRC and the HMAC: bits, not tolerances.

The oracle is numpy, on the values where numpy has the type; bf16 is rounded here by choosing the
nearer of two candidates in f64, which shares nothing with the bit trick in the kernels.
"""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import itertools
import platform
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from collectives._native import ffi, lib

SEED = random.SystemRandom().randrange(2**32)

DTYPES = ["f64", "f32", "f16", "bf16", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"]
OPS = ["sum", "avg", "prod", "min", "max"]
BITWISE = ["band", "bor", "bxor"]  # of integers and bool
BOOL = 12
# What the bytes of an element are kept in here; bf16 has no numpy type.
NUMPY = {
    "f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": np.uint16,
    "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
}  # fmt: skip
FLOATS = {"f64": (11, 52), "f32": (8, 23), "f16": (5, 10), "bf16": (8, 7)}
CANONICAL_NAN = {
    "f64": 0x7FF8000000000000,
    "f32": 0x7FC00000,
    "f16": 0x7E00,
    "bf16": 0x7FC0,
}
SCALAR, AVX2 = lib.COLL_ISA_SCALAR, lib.COLL_ISA_AVX2
ISAS = [SCALAR] + ([AVX2] if lib.coll_isa_available(AVX2) else [])
DIVISORS = [1, 2, 3, 5, 7, 127, 128, 129, 255, 256, 1000, 65535, 65536, 65537]
DIVISORS += [2**24 + 1, 2**31 - 1, 2**31, 2**32 - 1]


@pytest.fixture(autouse=True)
def say_the_seed() -> None:
    print(f"seed {SEED}")


def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


# ---- calling the kernels ------------------------------------------------------------------


def pointer(array: np.ndarray):
    return ffi.cast("void *", array.ctypes.data)


def reduce(op: str, dtype: str, a: np.ndarray, b: np.ndarray, isa: int) -> np.ndarray:
    out = np.empty_like(a)
    status = lib.coll_reduce_local(
        pointer(out), pointer(a), pointer(b), a.size, DTYPES.index(dtype), OPS.index(op), isa
    )
    assert status == lib.COLL_OK
    return out


def divide(dtype: str, a: np.ndarray, divisor: int, isa: int) -> np.ndarray:
    out = a.copy()
    status = lib.coll_divide_local(pointer(out), out.size, DTYPES.index(dtype), divisor, isa)
    assert status == lib.COLL_OK
    return out


# ---- the oracle ---------------------------------------------------------------------------


def unsigned(dtype: str) -> type[np.unsignedinteger]:
    return {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[np.dtype(NUMPY[dtype]).itemsize]


def bits(dtype: str, array: np.ndarray) -> np.ndarray:
    return array.view(unsigned(dtype))


def widen_bf16(array: np.ndarray) -> np.ndarray:
    return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)


def round_to_bf16(value: np.ndarray) -> np.ndarray:
    """The nearest bf16 of f32 values: of the two neighbours the nearer, at a tie the even one."""
    low = (value.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    high = (low + 1).astype(np.uint16)  # away from zero; beyond the largest lies infinity
    exact = np.abs(value.astype(np.float64))
    below = np.abs(widen_bf16(low).astype(np.float64))
    above = np.abs(widen_bf16(high).astype(np.float64))
    above[np.isinf(above)] = 2.0**128  # for rounding, the next step after the largest
    to_low, to_high = exact - below, above - exact
    up = (to_high < to_low) | ((to_high == to_low) & (low % 2 == 1))
    rounded = np.where(up, high, low)
    return np.where(np.isinf(value), low, rounded).astype(np.uint16)


def as_float(dtype: str, array: np.ndarray) -> np.ndarray:
    """The values in the type that the arithmetic is done in."""
    if dtype == "bf16":
        return widen_bf16(array)
    return array.astype(np.float32) if dtype == "f16" else array


def from_float(dtype: str, value: np.ndarray) -> np.ndarray:
    """Round to the element type and replace every NaN by the canonical one."""
    out = round_to_bf16(value) if dtype == "bf16" else value.astype(NUMPY[dtype])
    bits(dtype, out)[np.isnan(value)] = CANONICAL_NAN[dtype]
    return out


def expected(op: str, dtype: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        if dtype not in FLOATS:
            if op in ("sum", "avg", "prod"):
                x, y = bits(dtype, a), bits(dtype, b)  # unsigned arithmetic wraps
                return (x * y if op == "prod" else x + y).view(a.dtype)
            return np.minimum(a, b) if op == "min" else np.maximum(a, b)
        x, y = as_float(dtype, a), as_float(dtype, b)
        if op in ("sum", "avg"):
            if x.dtype == np.float32:  # by way of f64, which is exact enough to round once
                return from_float(dtype, (x.astype(np.float64) + y).astype(np.float32))
            return from_float(dtype, x + y)
        if op == "prod":
            return from_float(dtype, x * y)
        least = np.where((x < y) | ((x == y) & np.signbit(x)), x, y)
        most = np.where((x > y) | ((x == y) & ~np.signbit(x)), x, y)
        result = np.where(np.isnan(x) | np.isnan(y), np.nan, least if op == "min" else most)
        return from_float(dtype, result.astype(x.dtype))


def expected_quotient(dtype: str, a: np.ndarray, divisor: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        if dtype in FLOATS:
            x = as_float(dtype, a)
            return from_float(dtype, x / x.dtype.type(divisor))
    quotients = [abs(x) // divisor * (-1 if x < 0 else 1) for x in a.tolist()]
    return np.array(quotients, dtype=a.dtype)


def assert_same_bits(got: np.ndarray, want: np.ndarray, dtype: str, *context: object) -> None:
    x, y = bits(dtype, got), bits(dtype, want)
    wrong = np.flatnonzero(x != y)
    if wrong.size:
        i = int(wrong[0])
        pytest.fail(
            f"{dtype} {context}: {wrong.size} of {x.size} differ; "
            f"first [{i}] got {int(x[i]):#x}, want {int(y[i]):#x}"
        )


def specials(dtype: str) -> np.ndarray:
    """The values on which kernels go wrong, as elements of the type."""
    if dtype not in FLOATS:
        info = np.iinfo(NUMPY[dtype])
        near = [info.min, info.min + 1, info.max, info.max - 1, info.max // 2, info.max // 2 + 1]
        small = [0, 1, 2, 3, 7, 100, 127]
        return np.array(near + small + [-x for x in small if info.min < 0], dtype=NUMPY[dtype])
    exponent, mantissa = FLOATS[dtype]
    one = (2 ** (exponent - 1) - 1) << mantissa
    infinity = (2**exponent - 1) << mantissa
    quiet = infinity | 1 << (mantissa - 1)
    positive = [0, 1, 2, 3, (1 << mantissa) - 1, 1 << mantissa, (1 << mantissa) + 1]
    positive += [one - 1, one, one + 1, one + (1 << mantissa), one + (3 << (mantissa - 1))]
    positive += [infinity - 2, infinity - 1, infinity, infinity - (1 << mantissa)]
    positive += [infinity + 1, quiet, quiet + 1, infinity | ((1 << mantissa) - 1)]
    sign = 1 << (exponent + mantissa)
    return np.array(positive + [p | sign for p in positive], unsigned(dtype)).view(NUMPY[dtype])


def random_elements(dtype: str, count: int, generator: np.random.Generator) -> np.ndarray:
    """Random bits, of which a quarter are numbers of like size (where sums are rounded)."""
    itemsize = np.dtype(NUMPY[dtype]).itemsize
    array = np.frombuffer(generator.bytes(count * itemsize), dtype=NUMPY[dtype]).copy()
    if dtype in FLOATS:
        normal = generator.standard_normal(count // 4).astype(np.float32)
        array[: count // 4] = from_float(dtype, normal)
    return array


def pairs(dtype: str, count: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of specials, then random pairs."""
    s, generator = specials(dtype), rng()
    a = np.concatenate([np.repeat(s, s.size), random_elements(dtype, count, generator)])
    b = np.concatenate([np.tile(s, s.size), random_elements(dtype, count, generator)])
    return a, b


# ---- reduction ----------------------------------------------------------------------------


def test_names_and_sizes_are_those_of_the_types():
    for i, dtype in enumerate(DTYPES):
        assert ffi.string(lib.coll_dtype_name(i)).decode() == dtype
        assert lib.coll_dtype_size(i) == np.dtype(NUMPY[dtype]).itemsize
    assert ffi.string(lib.coll_dtype_name(BOOL)) == b"bool"
    assert lib.coll_dtype_size(BOOL) == 1
    names = [ffi.string(lib.coll_redop_name(i)).decode() for i in range(9)]
    assert names == [*OPS, *BITWISE, "scaled_sum"]
    assert lib.coll_dtype_size(13) == 0
    assert ffi.string(lib.coll_dtype_name(13)) == b"unknown dtype"
    assert ffi.string(lib.coll_redop_name(9)) == b"unknown op"


def test_instruction_sets_are_what_the_cpu_has():
    assert lib.coll_isa_available(lib.COLL_ISA_AUTO) == 1
    assert lib.coll_isa_available(SCALAR) == 1
    assert lib.coll_isa_available(lib.COLL_ISA_COUNT) == 0
    if platform.machine() != "x86_64":
        assert lib.coll_isa_available(AVX2) == 0
        return
    with open("/proc/cpuinfo") as file:  # noqa: PTH123
        flags = next(line for line in file if line.startswith("flags")).split()
    assert lib.coll_isa_available(AVX2) == int("avx2" in flags and "f16c" in flags)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kernel_gives_the_bits_of_the_oracle(dtype: str, op: str):
    a, b = pairs(dtype)
    want = expected(op, dtype, a, b)
    for isa in ISAS:
        assert_same_bits(reduce(op, dtype, a, b, isa), want, dtype, op, isa)


def apply(code: int, op: int, a: np.ndarray, b: np.ndarray, isa: int) -> np.ndarray:
    out = np.empty_like(a)
    pointers = [ffi.from_buffer(x) for x in (out, a, b)]
    assert lib.coll_reduce_local(*pointers, a.size, code, op, isa) == lib.COLL_OK
    return out


@pytest.mark.parametrize("op", BITWISE)
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype not in FLOATS])
def test_bitwise_operations_are_those_of_numpy(dtype: str, op: str):
    a, b = pairs(dtype)
    name = {"band": "bitwise_and", "bor": "bitwise_or", "bxor": "bitwise_xor"}[op]
    for isa in ISAS:
        got = apply(DTYPES.index(dtype), 5 + BITWISE.index(op), a, b, isa)
        assert (got == getattr(np, name)(a, b)).all()


def test_what_a_type_does_not_have_is_refused():
    out, a = np.zeros(4, np.uint8), np.ones(4, np.uint8)
    pointers = [ffi.from_buffer(x) for x in (out, a, a)]
    lacking = [(DTYPES.index(dtype), 5 + i) for dtype in FLOATS for i in range(3)]
    for code, op in [*lacking, (BOOL, OPS.index("avg"))]:
        for isa in ISAS:
            assert lib.coll_reduce_local(*pointers, 1, code, op, isa) == lib.COLL_UNSUPPORTED
    assert lib.coll_divide_local(pointers[0], 1, BOOL, 2, SCALAR) == lib.COLL_UNSUPPORTED
    assert not out.any()


@pytest.mark.parametrize(
    ("op", "name"),
    [("sum", "or"), ("prod", "and"), ("min", "and"), ("max", "or"), ("band", "and"),
     ("bor", "or"), ("bxor", "xor")],
)  # fmt: skip
def test_bools_are_true_or_false_whatever_their_bytes(op: str, name: str):
    every = np.arange(256, dtype=np.uint8)
    a, b = np.repeat(every, 256), np.tile(every, 256)
    want = getattr(np, f"logical_{name}")(a, b).astype(np.uint8)
    for isa in ISAS:
        assert (apply(BOOL, [*OPS, *BITWISE].index(op), a, b, isa) == want).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_division_gives_the_bits_of_the_oracle(dtype: str):
    a, _ = pairs(dtype, 1000)
    for divisor in DIVISORS:
        want = expected_quotient(dtype, a, divisor)
        for isa in ISAS:
            assert_same_bits(divide(dtype, a, divisor, isa), want, dtype, divisor, isa)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_all_16_bit_floats_against_each_special_value(dtype: str):
    everything = np.arange(2**16, dtype=np.uint16).view(NUMPY[dtype])
    constants = specials(dtype)[rng().permutation(specials(dtype).size)][:16]
    for constant in constants:
        other = np.full_like(everything, constant)
        for op in ("sum", "prod", "min", "max"):
            want = expected(op, dtype, everything, other)
            for isa in ISAS:
                got = reduce(op, dtype, everything, other, isa)
                assert_same_bits(got, want, dtype, op, constant, isa)
    for divisor in DIVISORS:
        want = expected_quotient(dtype, everything, divisor)
        for isa in ISAS:
            assert_same_bits(divide(dtype, everything, divisor, isa), want, dtype, divisor, isa)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("isa", ISAS)
def test_factors_are_multiplied_in_the_type_of_the_arithmetic(dtype: str, isa: int):
    everything = np.concatenate([specials(dtype), random_elements(dtype, 5001, rng())])
    factors = [0.0, -0.0, 1.0, -1.0, 1 / 3, 2.0**-20, 3e38, 1e300, 5e-324, np.inf, np.nan]
    for factor in [*factors, *rng().standard_normal(20).tolist()]:
        for length in (1, 7, 16, 33, everything.size):  # whole vectors and not
            got = everything[:length].copy()
            status = lib.coll_scale_local(pointer(got), length, DTYPES.index(dtype), factor, isa)
            assert status == lib.COLL_OK
            with np.errstate(all="ignore"):
                x = as_float(dtype, everything[:length])
                want = from_float(dtype, x * x.dtype.type(factor))
            assert_same_bits(got, want, dtype, factor, isa)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_16_bit_sums_are_rounded_to_nearest_with_ties_to_even(dtype: str):
    _, mantissa = FLOATS[dtype]
    one = specials(dtype)[8:9]
    ulp = 2.0**-mantissa  # of numbers in [1, 2)

    def of(*values: float) -> np.ndarray:
        return from_float(dtype, np.array(values, np.float32))

    a = of(1, 1 + ulp, 1, 1, -1, -1 - ulp)
    b = of(ulp / 2, ulp / 2, ulp * 0.75, ulp / 4, -ulp / 2, -ulp / 2)
    want = of(1, 1 + 2 * ulp, 1 + ulp, 1, -1, -1 - 2 * ulp)
    assert as_float(dtype, one)[0] == 1
    for isa in ISAS:
        assert_same_bits(reduce("sum", dtype, a, b, isa), want, dtype, isa)


@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_all_pairs_of_bytes(dtype: str):
    every = np.arange(256, dtype=np.uint8).view(NUMPY[dtype])
    a, b = np.repeat(every, 256), np.tile(every, 256)
    for isa in ISAS:
        for op in OPS:
            want = expected(op, dtype, a, b)
            assert_same_bits(reduce(op, dtype, a, b, isa), want, dtype, op, isa)
        for divisor in range(1, 301):
            want = expected_quotient(dtype, every, divisor)
            assert_same_bits(divide(dtype, every, divisor, isa), want, dtype, divisor, isa)


@pytest.mark.parametrize("dtype", ["i16", "u16"])
def test_all_16_bit_integers_divided(dtype: str):
    every = np.arange(2**16, dtype=np.uint16).view(NUMPY[dtype])
    for divisor in [3, 7, 127, 128, 1000, 32767, 32768, 65535, 65536, 2**32 - 1]:
        want = np.trunc(every.astype(np.float64) / divisor).astype(NUMPY[dtype])
        for isa in ISAS:
            assert_same_bits(divide(dtype, every, divisor, isa), want, dtype, divisor, isa)


@pytest.mark.parametrize("dtype", ["i32", "u32", "i64", "u64"])
def test_quotients_next_to_an_integer_are_cut_not_rounded(dtype: str):
    generator, info = random.Random(SEED), np.iinfo(NUMPY[dtype])
    for divisor in [*DIVISORS, *(generator.randrange(2, 2**32) for _ in range(40))]:
        largest = info.max // divisor
        multiples = [divisor * generator.randint(0, largest) for _ in range(20)]
        multiples.append(divisor * largest)
        values = [m + d for m in multiples for d in (-1, 0, 1)]
        values += [-v for v in values]
        a = np.array([v for v in values if info.min <= v <= info.max], dtype=NUMPY[dtype])
        want = expected_quotient(dtype, a, divisor)
        for isa in ISAS:
            assert_same_bits(divide(dtype, a, divisor, isa), want, dtype, divisor, isa)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length_and_alignment_writes_its_elements_and_nothing_else(dtype: str):
    size = np.dtype(NUMPY[dtype]).itemsize
    a, b = pairs(dtype, 3000)
    for isa in ISAS:
        for length in range(71):
            offset = length % 7  # in bytes: most are not a multiple of the element's size
            x, y = a[3 * length :][:length], b[3 * length :][:length]
            left = bytearray(offset) + x.tobytes()
            right = bytearray(offset + 1) + y.tobytes()
            out = bytearray(b"\xa5" * (offset + 2 + length * size + 64))
            for op in ("sum", "prod", "min", "max"):
                status = lib.coll_reduce_local(
                    ffi.from_buffer(out) + offset + 2,
                    ffi.from_buffer(left) + offset,
                    ffi.from_buffer(right) + offset + 1,
                    length, DTYPES.index(dtype), OPS.index(op), isa,
                )  # fmt: skip
                assert status == lib.COLL_OK
                body = out[offset + 2 :][: length * size]
                got = np.frombuffer(bytes(body), dtype=NUMPY[dtype])
                assert_same_bits(got, expected(op, dtype, x, y), dtype, op, length, isa)
                assert set(out[: offset + 2]) | set(out[offset + 2 + length * size :]) == {0xA5}
            data = left + b"\xa5" * 64
            status = lib.coll_divide_local(
                ffi.from_buffer(data) + offset, length, DTYPES.index(dtype), 3, isa
            )
            assert status == lib.COLL_OK
            got = np.frombuffer(bytes(data[offset:][: length * size]), dtype=NUMPY[dtype])
            assert_same_bits(got, expected_quotient(dtype, x, 3), dtype, length, isa)
            assert data[offset + length * size :] == b"\xa5" * 64


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_output_may_be_either_operand(dtype: str, op: str):
    a, b = pairs(dtype, 1037)
    for isa in ISAS:
        want = reduce(op, dtype, a, b, isa)
        for in_place in ("a", "b"):
            x, y = a.copy(), b.copy()
            out = x if in_place == "a" else y
            status = lib.coll_reduce_local(
                pointer(out), pointer(x), pointer(y), x.size, DTYPES.index(dtype),
                OPS.index(op), isa,
            )  # fmt: skip
            assert status == lib.COLL_OK
            assert_same_bits(out, want, dtype, op, in_place, isa)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_instruction_sets_give_the_same_bits_on_random_bits(dtype: str):
    generator = rng()
    a = random_elements(dtype, 100_003, generator)
    b = random_elements(dtype, 100_003, generator)
    for isa in [*ISAS, lib.COLL_ISA_AUTO]:
        for op in OPS:
            want = reduce(op, dtype, a, b, SCALAR)
            assert_same_bits(reduce(op, dtype, a, b, isa), want, dtype, op, isa)
        for divisor in (3, 8, 1000):
            want = divide(dtype, a, divisor, SCALAR)
            assert_same_bits(divide(dtype, a, divisor, isa), want, dtype, divisor, isa)


def test_what_cannot_be_reduced_is_refused():
    data = np.zeros(4, np.float32)
    p = pointer(data)
    invalid, unsupported = lib.COLL_INVALID_ARGUMENT, lib.COLL_UNSUPPORTED
    assert lib.coll_reduce_local(p, p, p, 4, 13, 0, 0) == invalid
    assert lib.coll_reduce_local(p, p, p, 4, 1, 9, 0) == invalid
    assert lib.coll_reduce_local(p, p, p, 4, 1, 0, 3) == invalid
    assert lib.coll_reduce_local(ffi.NULL, p, p, 4, 1, 0, 0) == invalid
    assert lib.coll_reduce_local(p, p, p, 2**63, 1, 0, 0) == invalid
    assert lib.coll_reduce_local(ffi.NULL, ffi.NULL, ffi.NULL, 0, 1, 0, 0) == lib.COLL_OK
    null = ffi.NULL
    assert lib.coll_reduce_many(null, null, [p, p], 2, 4, 1, 0, 0) == invalid
    assert lib.coll_reduce_many(p, null, [p, null], 2, 4, 1, 0, 0) == invalid
    assert lib.coll_reduce_many(p, null, null, 2, 4, 1, 0, 0) == invalid
    assert lib.coll_reduce_many(p, null, [p], 0, 4, 1, 0, 0) == invalid
    assert lib.coll_reduce_many(p, null, [p], 1, 4, 13, 0, 0) == invalid
    assert lib.coll_divide_local(p, 4, 13, 1, 0) == invalid
    assert lib.coll_divide_local(p, 4, 1, 0, 0) == invalid
    assert lib.coll_divide_local(p, 4, 1, 1, 3) == invalid
    assert lib.coll_divide_local(ffi.NULL, 4, 1, 1, 0) == invalid
    assert lib.coll_divide_local(ffi.NULL, 0, 1, 1, 0) == lib.COLL_OK
    assert lib.coll_scale_local(p, 4, 13, 0.5, 0) == invalid
    assert lib.coll_scale_local(p, 4, 1, 0.5, 3) == invalid
    assert lib.coll_scale_local(ffi.NULL, 4, 1, 0.5, 0) == invalid
    assert lib.coll_scale_local(ffi.NULL, 0, 1, 0.5, 0) == lib.COLL_OK
    for integer in (*range(4, 12), BOOL):
        assert lib.coll_scale_local(p, 1, integer, 0.5, 0) == unsupported
        assert lib.coll_reduce_local(p, p, p, 1, integer, lib.COLL_SCALED_SUM, 0) == unsupported
    if AVX2 not in ISAS:
        assert lib.coll_reduce_local(p, p, p, 4, 1, 0, AVX2) == unsupported
        assert lib.coll_divide_local(p, 4, 1, 1, AVX2) == unsupported


# ---- many inputs, two outputs, copies past the cache -----------------------------------------


def place(data: bytes, offset: int) -> tuple[bytearray, object]:
    """A buffer that holds the data at an offset, with a border behind it; and where the data is."""
    room = bytearray(b"\xa5" * offset + data + b"\xa5" * 64)
    return room, ffi.from_buffer(room) + offset


def held(room: bytearray, offset: int, length: int) -> bytes:
    """What is in it now; the border must be as it was."""
    assert set(room[:offset]) | set(room[offset + length :]) <= {0xA5}
    return bytes(room[offset : offset + length])


# Elements per array: none, less than a line, around one piece, several.
COUNTS = [1, 5, 511, 513, 1000, 4095, 4097, 9001]


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "u8", "i32"])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_many_inputs_give_the_bits_of_one_call_after_another(dtype: str, n: int):
    generator = random.Random(SEED)
    numbers, size = rng(), np.dtype(NUMPY[dtype]).itemsize
    for isa, count in itertools.product(ISAS, COUNTS):
        op = generator.choice(OPS)
        arrays = [random_elements(dtype, count, numbers) for _ in range(n)]
        want = arrays[0]
        for array in arrays[1:]:
            want = reduce(op, dtype, want, array, isa)
        for outputs in ("kept", "streamed", "both"):
            rooms, offsets = [], []
            for array in [*arrays, *np.zeros_like(arrays[0], shape=(2, count))]:
                # Half of the places are those of elements, half are anywhere.
                offsets.append(
                    generator.choice([generator.randrange(9) * size, generator.randrange(70)])
                )
                rooms.append(place(array.tobytes(), offsets[-1]))
            # An output is a place of its own (the last two), or an input.
            kept = generator.choice([*range(n), n]) if outputs != "streamed" else None
            free = [i for i in [*range(n), n + 1] if i != kept]
            streamed = generator.choice(free) if outputs != "kept" else None
            status = lib.coll_reduce_many(
                ffi.NULL if streamed is None else rooms[streamed][1],
                ffi.NULL if kept is None else rooms[kept][1],
                [where for _, where in rooms[:n]], n, count,
                DTYPES.index(dtype), OPS.index(op), isa,
            )  # fmt: skip
            assert status == lib.COLL_OK
            for i, (room, _) in enumerate(rooms):
                got = np.frombuffer(held(room, offsets[i], count * size), NUMPY[dtype])
                if i in (kept, streamed):
                    assert_same_bits(got, want, dtype, op, isa, count, kept, streamed, i)
                elif i < n:
                    assert_same_bits(got, arrays[i], dtype, "an input changed", count, i)


def test_a_copy_past_the_cache_is_a_copy_at_every_length_and_alignment():
    data = rng().bytes(20_000)
    for length in [*range(200), 4095, 4096, 4097, 10_000, 19_000]:
        for offset in (0, 1, 63, length % 61):
            out, target = place(bytes(length), offset)
            source = ffi.from_buffer(data) + length % 17
            lib.coll_copy_stream(target, source, length)
            assert held(out, offset, length) == data[length % 17 :][:length], (length, offset)


# ---- the floating-point mode of the caller's thread -------------------------------------------


def control_word() -> tuple[ctypes.CDLL, ctypes.Array, int]:
    """libm, a buffer for fenv_t, and which of its 32-bit words holds MXCSR or FPCR."""
    libm = ctypes.CDLL("libm.so.6")
    return libm, (ctypes.c_uint32 * 16)(), 7 if platform.machine() == "x86_64" else 0


@contextmanager
def float_mode(flush: bool, upwards: bool) -> Iterator[int]:
    """Set this thread's mode; yields what the control register holds."""
    libm, saved, word = control_word()
    x86 = platform.machine() == "x86_64"
    assert libm.fegetenv(saved) == 0
    changed = type(saved)(*saved)
    if flush:
        changed[word] |= 0x8040 if x86 else 1 << 24  # FTZ and DAZ; FZ
    if upwards:
        changed[word] |= 2 << 13 if x86 else 1 << 22
    libm.fesetenv(changed)
    try:
        yield changed[word]
    finally:
        libm.fesetenv(saved)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="knows glibc's fenv_t")
@pytest.mark.parametrize(("flush", "upwards"), [(True, False), (False, True), (True, True)])
def test_the_mode_of_the_caller_changes_no_bit_and_is_restored(flush: bool, upwards: bool):
    libm, after, word = control_word()
    tiny = np.float32(1e-40)
    cases = [(d, *pairs(d, 2000)) for d in FLOATS]
    for dtype, a, b in cases:
        wants = [expected(op, dtype, a, b) for op in OPS]
        quotient = expected_quotient(dtype, a, 3)
        for isa in ISAS:
            with float_mode(flush, upwards) as mode:
                flushed = tiny * np.float32(0.5) == 0
                rounded_up = np.float32(1) + np.float32(2**-30) > 1
                got = [reduce(op, dtype, a, b, isa) for op in OPS]
                got_quotient = divide(dtype, a, 3, isa)
                libm.fegetenv(after)
            assert (bool(flushed), bool(rounded_up)) == (flush, upwards), "the mode was not set"
            sticky = 0x3F if platform.machine() == "x86_64" else 0  # exception flags
            assert after[word] & ~sticky == mode & ~sticky
            for op, x, y in zip(OPS, got, wants, strict=True):
                assert_same_bits(x, y, dtype, op, isa)
            assert_same_bits(got_quotient, quotient, dtype, isa)


# ---- CRC-32C ------------------------------------------------------------------------------


def crc(data: bytes, start: int = 0, isa: int = lib.COLL_ISA_AUTO) -> int:
    return lib.coll_crc32c(start, ffi.from_buffer(data), len(data), isa)


def bitwise_crc(data: bytes) -> int:
    """By the definition: one bit at a time, reflected polynomial."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


ISCSI_READ = bytes.fromhex(
    "01c00000000000000000000000000000140000000000040000000014000000182800000000000000"
    "0200000000000000"
)


@pytest.mark.parametrize("isa", ISAS)
def test_crc_of_the_published_vectors(isa: int):
    """RFC 3720 B.4, and the check value of the CRC catalogues."""
    assert crc(b"123456789", isa=isa) == 0xE3069283
    assert crc(bytes(32), isa=isa) == 0x8A9136AA
    assert crc(b"\xff" * 32, isa=isa) == 0x62A8AB43
    assert crc(bytes(range(32)), isa=isa) == 0x46DD794E
    assert crc(bytes(reversed(range(32))), isa=isa) == 0x113FDB5C
    assert crc(ISCSI_READ, isa=isa) == 0xD9963A56
    assert crc(b"", isa=isa) == 0
    assert crc(b"", start=0x12345678, isa=isa) == 0x12345678


@pytest.mark.parametrize("isa", ISAS)
def test_crc_and_copy_of_every_length_and_alignment(isa: int):
    """Lengths on both sides of where another number of bytes per lane is taken."""
    data = rng().bytes(20_000)
    lengths = [*range(260), *range(760, 780), *range(955, 965), *range(6715, 6725), 6912, 13_450]
    for length in lengths:
        offset = length % 9
        piece = data[offset : offset + length]
        want = bitwise_crc(piece)
        source = ffi.from_buffer(data) + offset
        assert lib.coll_crc32c(0, source, length, isa) == want, length
        out = bytearray(b"\xa5" * (length + 80))
        target = ffi.from_buffer(out) + 3
        assert lib.coll_crc32c_copy(0, target, source, length, isa) == want, length
        assert out[3 : 3 + length] == piece
        assert out[:3] == b"\xa5" * 3
        assert out[3 + length :] == b"\xa5" * 77


@pytest.mark.parametrize("isa", ISAS)
def test_crc_is_the_same_however_the_data_is_split(isa: int):
    generator = random.Random(SEED)
    data = generator.randbytes(65_536)
    want = crc(data, isa=SCALAR)
    assert crc(data, isa=isa) == want
    for _ in range(50):
        cuts = sorted(generator.randrange(len(data) + 1) for _ in range(generator.randint(1, 9)))
        value, copied, out = 0, 0, bytearray(len(data))
        for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            value = crc(data[begin:end], value, isa)
            copied = lib.coll_crc32c_copy(
                copied, ffi.from_buffer(out) + begin, ffi.from_buffer(data) + begin,
                end - begin, isa,
            )  # fmt: skip
        assert (value, copied, bytes(out)) == (want, want, data)


def test_crc_notices_every_single_flipped_bit_of_a_slice_header():
    data = bytearray(rng().bytes(100))
    want = crc(bytes(data))
    for bit in range(800):
        data[bit // 8] ^= 1 << bit % 8
        assert crc(bytes(data)) != want
        data[bit // 8] ^= 1 << bit % 8


# ---- HMAC-SHA256 --------------------------------------------------------------------------


def mac(key: bytes, data: bytes) -> bytes:
    out = ffi.new("uint8_t[32]")
    lib.coll_hmac_sha256(ffi.from_buffer(key), len(key), ffi.from_buffer(data), len(data), out)
    return bytes(ffi.buffer(out))


RFC_4231 = [
    (b"\x0b" * 20, b"Hi There",
     "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (b"Jefe", b"what do ya want for nothing?",
     "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    (b"\xaa" * 20, b"\xdd" * 50,
     "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (bytes(range(1, 26)), b"\xcd" * 50,
     "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
    (b"\xaa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First",
     "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
    (b"\xaa" * 131, b"This is a test using a larger than block-size key and a larger than "
     b"block-size data. The key needs to be hashed before being used by the HMAC algorithm.",
     "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "data", "want"), RFC_4231)
def test_hmac_of_the_published_vectors(key: bytes, data: bytes, want: str):
    assert mac(key, data).hex() == want


def test_hmac_agrees_with_hashlib_at_every_length_around_the_blocks():
    generator = random.Random(SEED)
    for key_length in (0, 1, 32, 63, 64, 65, 200):
        for length in [*range(140), 1000, 4096]:
            key, data = generator.randbytes(key_length), generator.randbytes(length)
            assert mac(key, data) == hmac.new(key, data, hashlib.sha256).digest()
