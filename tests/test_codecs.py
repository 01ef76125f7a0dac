"""Claims about the codecs that hold for every format: bits, not tolerances.

What the formats are is in ``test_codec_formats``.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random

import numpy as np
import pytest

from collectives import Codec, InvalidArgument, UnsupportedError
from collectives._native import ffi, lib
from collectives.codec import NAMES

SEED = random.SystemRandom().randrange(2**32)
ISAS = ["scalar"] + (["avx2"] if lib.coll_isa_available(lib.COLL_ISA_AVX2) else [])
CASTS = ("bf16", "f16")


def through_scratch(name: str) -> Codec:
    if name == "topk":
        return Codec(name)
    return Codec(name, hadamard=name not in CASTS, rounding="stochastic")


def variants() -> list[Codec]:
    """Every format with every value of each of its options, one at a time, and a pair."""
    found: list[Codec] = []
    for name in NAMES:
        codec = Codec(name)
        found.append(codec)
        for field, values in {
            "block": (16, 32, 64, 128), "scale": ("f16", "bf16"), "symmetric": (False, True),
            "hadamard": (32, 64, 128), "rounding": ("stochastic",), "keep": (1, 63, 1000, 4096),
        }.items():  # fmt: skip
            for value in values:
                try:
                    found.append(dataclasses.replace(codec, **{field: value}))
                except InvalidArgument:
                    continue
        found.append(through_scratch(name))
    return list(dict.fromkeys(found))


VARIANTS = variants()


def label(codec: Codec) -> str:
    default = Codec(codec.name)
    changed = [
        f"{field.name}={getattr(codec, field.name)}"
        for field in dataclasses.fields(codec)
        if getattr(codec, field.name) != getattr(default, field.name)
    ]
    return "-".join([codec.name, *changed])


every_codec = pytest.mark.parametrize("codec", VARIANTS, ids=label)
# Every format as it is by default, and with what goes through scratch memory.
every_format = pytest.mark.parametrize(
    "codec",
    [codec for codec in VARIANTS if codec in (Codec(codec.name), through_scratch(codec.name))],
    ids=label,
)


@pytest.fixture(autouse=True)
def say_the_seed() -> None:
    print(f"seed {SEED}")


def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


@functools.cache
def adversarial(count: int = 9000) -> np.ndarray:
    """Blocks of one size, of all sizes, near the ends of f32, ties, zeros, specials."""
    generator = rng()
    normal = generator.standard_normal(count).astype(np.float32)
    bits = np.frombuffer(generator.bytes(4 * count), np.uint32)
    exponents = (np.arange(256, dtype=np.uint32) << np.uint32(23)).repeat(8)  # every exponent
    mantissas = np.frombuffer(generator.bytes(4 * exponents.size), np.uint32) & 0x807FFFFF
    with np.errstate(all="ignore"):
        pieces = [
            normal,
            normal * np.float32(1e-38),
            normal * np.float32(2**-140),
            normal * np.float32(6e37),
            np.exp(normal * 20).astype(np.float32),
            np.round(normal * 8).astype(np.float32) / 4,  # ties
            np.nextafter(np.round(normal * 8).astype(np.float32) / 4, np.float32(0)),  # just not
            bits.view(np.float32),  # a special in most blocks
            (bits & 0xBFFFFFFF).view(np.float32),  # none, and sizes of all sorts
            (exponents | mantissas).view(np.float32),
            (exponents & 0x7F000000 | mantissas).view(np.float32),
            np.zeros(300, np.float32),
            np.full(300, -0.0, np.float32),
            normal[:130] + 1000,
        ]
    x = np.concatenate(pieces)
    for value in (np.inf, -np.inf, np.nan, np.finfo(np.float32).max, 2**-149):
        x[generator.integers(0, x.size, 5)] = value
    x.setflags(write=False)
    return x


def same(a: np.ndarray, b: np.ndarray, *context: object) -> None:
    x, y = a.view(np.uint8), b.view(np.uint8)
    assert x.size == y.size, context
    wrong = np.flatnonzero(x != y)
    if wrong.size:
        i = int(wrong[0])
        pytest.fail(f"{context}: {wrong.size} of {x.size} bytes differ, first [{i}] {x[i]} {y[i]}")


@every_codec
def test_instruction_sets_give_the_same_bytes(codec: Codec):
    x = adversarial()
    first = 3 * codec.unit
    encoded, decoded, sums = {}, {}, {}
    for isa in ISAS:
        encoded[isa] = codec.encode(x, first=first, rotation=SEED, rounding=~SEED % 2**64, isa=isa)
        decoded[isa] = codec.decode(encoded["scalar"], x.size, first=first, rotation=SEED, isa=isa)
        sums[isa] = rng().permutation(x)
        codec.decode_add(encoded["scalar"], sums[isa], first=first, rotation=SEED, isa=isa)
        same(encoded[isa], encoded["scalar"], "encoded", isa)
        same(decoded[isa], decoded["scalar"], "decoded", isa)
        same(sums[isa], sums["scalar"], "added", isa)


@every_format
def test_every_16_bit_float_is_encoded_alike_by_all_instruction_sets(codec: Codec):
    every = np.arange(2**16, dtype=np.uint16)
    with np.errstate(all="ignore"):
        f16 = every.view(np.float16).astype(np.float32)
    bf16 = (every.astype(np.uint32) << np.uint32(16)).view(np.float32)
    x = np.concatenate([f16, bf16, rng().permutation(bf16)])  # their likes in a block, and not
    data = [codec.encode(x, rotation=SEED, rounding=SEED, isa=isa) for isa in ISAS]
    decoded = [codec.decode(data[0], x.size, rotation=SEED, isa=isa) for isa in ISAS]
    same(data[-1], data[0])
    same(decoded[-1], decoded[0])


@every_format
def test_any_bytes_are_decoded_to_the_same_on_all_instruction_sets(codec: Codec):
    count = 2 * 4096 + 77
    data = rng().integers(0, 256, codec.encoded_bytes(count), np.uint8)
    found = [codec.decode(data, count, rotation=SEED, isa=isa) for isa in ISAS]
    for isa, values in zip(ISAS, found, strict=True):
        same(values, found[0], isa)


@every_format
def test_a_sum_is_that_of_what_is_decoded(codec: Codec):
    x = adversarial()
    data = codec.encode(x, rotation=SEED)
    decoded, total = codec.decode(data, x.size, rotation=SEED), rng().permutation(x)
    with np.errstate(all="ignore"):
        want = total + decoded
    want.view(np.uint32)[np.isnan(want)] = 0x7FC00000
    codec.decode_add(data, total, rotation=SEED)
    same(total, want)


@every_format
def test_an_array_can_be_cut_between_its_units(codec: Codec):
    x = adversarial(3000)[: 5 * codec.unit + 17]
    keys = {"rotation": SEED, "rounding": SEED + 1}
    whole = codec.encode(x, **keys)
    cuts = [0, codec.unit, 2 * codec.unit, 5 * codec.unit, x.size]
    pieces = [codec.encode(x[a:b], first=a, **keys) for a, b in itertools.pairwise(cuts)]
    same(np.concatenate(pieces), whole)
    decoded = codec.decode(whole, x.size, rotation=SEED)
    for piece, (a, b) in zip(pieces, itertools.pairwise(cuts), strict=True):
        same(codec.decode(piece, b - a, first=a, rotation=SEED), decoded[a:b])


@every_format
def test_every_length_writes_its_bytes_and_elements_and_nothing_else(codec: Codec):
    x = adversarial(1500)
    lengths = [*range(1, 140), codec.unit - 1, codec.unit, codec.unit + 1, 2 * codec.unit + 33]
    for length in lengths:
        size, offset = codec.encoded_bytes(length), length % 5  # most are not aligned
        seen = []
        for isa in ISAS:
            number = {"scalar": lib.COLL_ISA_SCALAR, "avx2": lib.COLL_ISA_AVX2}[isa]
            source = bytearray(offset) + x[:length].tobytes()
            data = bytearray(b"\xa5" * (offset + size + 64))
            out = bytearray(b"\xa5" * (offset + 4 * length + 64))
            at = [ffi.from_buffer(buffer) + offset for buffer in (source, data, out)]
            assert not lib.coll_encode_local(
                at[1], at[0], 0, length, lib.COLL_F32, codec.struct(), 7, 8, number
            )
            assert not lib.coll_decode_local(
                at[2], at[1], 0, length, lib.COLL_F32, codec.struct(), 7, number
            )
            assert set(data[:offset]) | set(data[offset + size :]) <= {0xA5}
            assert set(out[:offset]) | set(out[offset + 4 * length :]) <= {0xA5}
            seen.append((bytes(data), bytes(out)))
        assert seen[0] == seen[-1], length


@every_format
def test_flushing_denormals_in_the_caller_changes_nothing(codec: Codec):
    torch = pytest.importorskip("torch")
    x = adversarial(2000)
    want = codec.encode(x, rotation=1)
    decoded = codec.decode(want, x.size, rotation=1)
    assert torch.set_flush_denormal(True)
    try:
        for isa in ISAS:
            same(codec.encode(x, rotation=1, isa=isa), want, isa)
            same(codec.decode(want, x.size, rotation=1, isa=isa), decoded, isa)
    finally:
        torch.set_flush_denormal(False)


@every_format
def test_what_is_not_a_number_is_never_decoded_as_one(codec: Codec):
    generator = rng()
    for value in (np.nan, np.inf, -np.inf):
        x = generator.standard_normal(2 * codec.unit + 31).astype(np.float32)
        at = np.array([0, 5, codec.unit - 1, codec.unit + 40, x.size - 1])
        x[at] = value
        decoded = codec.decode(codec.encode(x, rotation=3), x.size, rotation=3)
        assert not np.isfinite(decoded[at]).any(), value
        if np.isnan(value):
            assert np.isnan(decoded[at]).all()
        else:
            infinite = decoded[at][np.isinf(decoded[at])]
            assert (infinite == value).all()


@every_format
def test_zeros_are_decoded_as_zeros(codec: Codec):
    for zero in (0.0, -0.0):
        x = np.full(codec.unit + 45, zero, np.float32)
        assert not codec.decode(codec.encode(x), x.size).any()


@every_format
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_floats_go_by_way_of_f32(codec: Codec, dtype: type):
    with np.errstate(all="ignore"):
        x = adversarial(3000).astype(dtype)
    single = x.astype(np.float32)
    for array in (x, x[:100]):
        data = codec.encode(array, rotation=1, rounding=2)
        same(data, codec.encode(single[: array.size], rotation=1, rounding=2))
        total = np.ones_like(array)
        codec.decode_add(data, total, rotation=1)
        with np.errstate(all="ignore"):
            decoded = codec.decode(data, array.size, rotation=1)
            wide = np.float64 if dtype is np.float64 else np.float32
            want = (1 + decoded.astype(wide)).astype(dtype)
        np.testing.assert_array_equal(total, want)


def test_bf16_tensors_are_encoded_as_f32():
    torch = pytest.importorskip("torch")
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    for name in NAMES:
        codec = Codec(name)
        same(codec.encode(every), codec.encode(every.float()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("int3",), "there is no codec 'int3'; there are bf16, f16, int8"),
        (("int8", 48), "codec int8: block is 32, 64 or 128, not 48"),
        (("int8", 16), "codec int8: block is 32, 64 or 128, not 16"),
        (("mxint8", 64), "codec mxint8: its block is 32, not 64"),
        (("bf16", 32), "codec bf16: it has no blocks, so block must be 0, not 32"),
        (("int8", 32, "f32"), "codec int8: scale is f16 or bf16, not 'f32'"),
        (("mxint8", None, "f16"), "codec mxint8: there is no choice of scales"),
        (("int4", None, None, 16), "codec int4: hadamard is 0, 32, 64 or 128, not 16"),
        (("f16", None, None, True), "codec f16: it is not rotated"),
        (("int8", None, None, 0, "up"), "codec int8: rounding is nearest or stochastic"),
        (("bf16", None, None, 0, "nearest", True), "codec bf16: it has no integers"),
        (("topk", None, None, 0, "nearest", None, 0), "codec topk: keep is 1 to 4096 of each 4096"),
        (("topk", None, None, 0, "stochastic"), "codec topk: it is not rounded stochastically"),
        (("int8", None, None, 0, "nearest", None, 5), "it keeps all elements, so keep must be 0"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(arguments: tuple, message: str):
    with pytest.raises(InvalidArgument, match=message):
        Codec(*arguments)


def test_codecs_are_given_by_name_too_and_equal_if_their_options_are():
    assert Codec.of("mxint8") == Codec("mxint8", block=32, symmetric=True)
    codec = Codec("int4", block=32, hadamard=True, rounding="stochastic", error_feedback=True)
    assert Codec.of(codec) is codec
    assert (codec.hadamard, codec.scale, codec.symmetric) == (64, "f16", True)
    assert hash(codec) == hash(dataclasses.replace(codec))
    assert codec != Codec("int4", hadamard=True, rounding="stochastic")


def test_calls_that_make_no_sense_are_refused():
    codec, x = Codec("int8"), np.zeros(300, np.float32)
    data = codec.encode(x)
    with pytest.raises(InvalidArgument, match="not a multiple of 128"):
        codec.encode(x, first=64)
    with pytest.raises(UnsupportedError, match="only floats can be encoded, not i32"):
        codec.encode(np.zeros(300, np.int32))
    with pytest.raises(InvalidArgument, match="300 elements are encoded in 320 bytes, not 319"):
        codec.decode(data[:-1], 300)
    with pytest.raises(InvalidArgument, match="not in one piece"):
        codec.encode(x[::2])
    with pytest.raises(InvalidArgument, match="isa is auto, scalar, avx2, not 'sse'"):
        codec.encode(x, isa="sse")
    assert codec.encode(x[:0]).size == 0
    struct = codec.struct()
    for to, source in ((ffi.NULL, x), (x, ffi.NULL)):
        at = [a if a is ffi.NULL else ffi.from_buffer(a) for a in (to, source)]
        status = lib.coll_encode_local(*at, 0, 3, lib.COLL_F32, struct, 0, 0, lib.COLL_ISA_AUTO)
        assert status == lib.COLL_INVALID_ARGUMENT
        status = lib.coll_decode_local(*at, 0, 3, lib.COLL_F32, struct, 0, lib.COLL_ISA_AUTO)
        assert status == lib.COLL_INVALID_ARGUMENT
    assert lib.coll_codec_check(ffi.NULL) == lib.COLL_INVALID_ARGUMENT
    assert (
        lib.coll_encode_local(ffi.NULL, ffi.NULL, 0, 0, lib.COLL_F32, struct, 0, 0, 99)
        == lib.COLL_INVALID_ARGUMENT
    )


# ---- the ends of f32 -----------------------------------------------------------------------------

QUANTIZED = [codec for codec in VARIANTS if codec.name != "topk" and not codec.hadamard]
# By how much a number may be off, in terms of the greatest magnitude of its block, at most.
STEPS = {
    "int4": 1 / 7, "int2": 1, "nvint4": 1 / 5, "e3m0": 1 / 2, "mxfp4": 1 / 2, "nvfp4": 1 / 2,
    "mxfp8_e5m2": 1 / 7, "mxfp8_e4m3": 1 / 8,
}  # fmt: skip
OVERFLOWS = {"f16": 15, "int8": 22, "int4": 18, "int2": 15, "e3m0": 19}  # exponents, with f16


@pytest.mark.parametrize("codec", QUANTIZED, ids=label)
def test_blocks_of_any_size_are_decoded_as_about_what_they_were_or_as_no_number(codec: Codec):
    # The last place of the least f16, of scales of 16 bits, and of others.
    least = 2.0**-24 if codec.name == "f16" else 2.0**-20 if codec.scale == "f16" else 2.0**-118
    for exponent in (-148, -140, -126, -100, -24, -14, 0, 15, 22, 60, 100, 125):
        x = rng().uniform(0.2, 1, 4096) * rng().choice([-1, 1], 4096)
        x = np.ldexp(x.astype(np.float32), exponent)
        decoded = codec.decode(codec.encode(x, rounding=SEED), x.size)
        if np.isfinite(decoded).all():
            error = np.abs(decoded.astype(np.float64) - x).max()
            assert error <= max(STEPS.get(codec.name, 1 / 60) * float(np.abs(x).max()), least)
        else:
            assert codec.scale != "bf16"
            assert exponent >= OVERFLOWS[codec.name]
