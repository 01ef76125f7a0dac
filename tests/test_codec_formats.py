"""Claims about what each format is: `docs/codecs.md`, carried out in numpy, gives the same bytes.

The tables of the small floats are written out, or torch's; a number is encoded here by looking for
the nearest one in the table, which shares nothing with the arithmetic of the kernels.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from collectives import Codec
from test_codecs import ISAS, SEED, VARIANTS, adversarial, label, rng, same, say_the_seed

__all__ = ["say_the_seed"]

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]  # OCP MX 1.0, table 3
E3M0 = [0, 0.25, 0.5, 1, 2, 4, 8, 16]
F32_MAX = np.finfo(np.float32).max
NAN = np.array([0x7FC00000], np.uint32).view(np.float32)[0]
f32 = np.float32


def codes_of(dtype: torch.dtype) -> np.ndarray:
    """What torch takes all bytes for."""
    return torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()


E4M3, E5M2 = codes_of(torch.float8_e4m3fn)[:0x7F], codes_of(torch.float8_e5m2)[:0x7C]
E8M0 = codes_of(torch.float8_e8m0fnu)


def small(values: list[float]) -> np.ndarray:
    """All 16 codes of a float of 4 bits, in f32."""
    return np.array(values + [-value for value in values], f32)


# ---- decoding ----------------------------------------------------------------------------------


def decoded(name: str, head: bytes, codes: np.ndarray, bits: int) -> list[np.ndarray]:
    """A block of these codes after these scales, on all instruction sets."""
    packed = codes.astype(np.uint8)
    if bits == 4:
        packed = packed[::2] | packed[1::2] << 4
    data = head + packed.tobytes()
    return [Codec(name).decode(data, codes.size, isa=isa) for isa in ISAS]


def test_the_codes_of_the_small_floats_are_those_of_the_specifications():
    sixteen, twice = np.arange(16), np.tile(np.arange(16), 2)
    for values in decoded("mxfp4", bytes([127]), twice, 4):
        np.testing.assert_array_equal(values, np.tile(small(E2M1), 2))
        assert np.signbit(values[8])
    for values in decoded("e3m0", np.float16(1).tobytes(), twice, 4):
        np.testing.assert_array_equal(values, np.tile(small(E3M0), 2))
    for values in decoded("nvfp4", f32(1).tobytes() + b"\x38", sixteen, 4):
        np.testing.assert_array_equal(values, small(E2M1))
    for name, dtype in (
        ("mxfp8_e4m3", torch.float8_e4m3fn),
        ("mxfp8_e5m2", torch.float8_e5m2),
    ):
        want = codes_of(dtype)
        for start in range(0, 256, 32):
            codes = np.arange(start, start + 32)
            for values in decoded(name, bytes([127]), codes, 8):
                np.testing.assert_array_equal(values, want[start : start + 32])


def test_e4m3_and_e5m2_have_the_extremes_of_the_specification():
    assert (E4M3.max(), E4M3[1], E4M3[8]) == (448, 2**-9, 2**-6)  # OCP MX 1.0, table 2
    assert (E5M2.max(), E5M2[1], E5M2[4]) == (57344, 2**-16, 2**-14)


def test_power_of_two_scales_are_those_of_the_specification():
    ones = np.full(32, 64)
    for scale in range(256):
        for values in decoded("mxint8", bytes([scale]), ones, 8):
            np.testing.assert_array_equal(values, np.repeat(E8M0[scale], 32))
    assert E8M0[0] == 2**-127
    assert E8M0[254] == 2**127
    assert np.isnan(E8M0[255])


def test_all_integers_are_decoded_as_what_they_are():
    for start in range(0, 256, 32):
        codes = np.arange(start, start + 32)
        want = codes.astype(np.uint8).view(np.int8).astype(f32)
        for values in decoded("int8", np.float16(0.25).tobytes(), codes, 8):
            np.testing.assert_array_equal(values, want / 4)
        for values in decoded("mxint8", bytes([130]), codes, 8):
            np.testing.assert_array_equal(values, want / 8)
    nibbles = np.tile(np.arange(16), 2)
    for values in decoded("int4", np.float16(1).tobytes(), nibbles, 4):
        np.testing.assert_array_equal(values[:16], [*range(8), *range(-8, 0)])


def test_every_16_bit_scale_is_the_float_that_it_is():
    every = np.arange(2**16, dtype=np.uint16)
    for scale, values in (
        ("f16", every.view(np.float16).astype(f32)),
        ("bf16", (every.astype(np.uint32) << np.uint32(16)).view(f32)),
    ):
        blocks = np.zeros((2**16, 34), np.uint8)
        blocks[:, :2] = every.view(np.uint8).reshape(-1, 2)
        blocks[:, 2:] = 1
        for isa in ISAS:
            got = Codec("int8", scale=scale).decode(blocks.tobytes(), 32 * 2**16, isa=isa)
            np.testing.assert_array_equal(got.reshape(-1, 32)[:, 7], values)


@pytest.mark.parametrize(("name", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_casts_are_those_of_torch(name: str, dtype: torch.dtype):
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(dtype)
    x = torch.from_numpy(np.concatenate([adversarial(), every.float().numpy()]))
    with np.errstate(all="ignore"):
        near = every.float().numpy()[None] * f32(1 + 2.0 ** -np.arange(8, 13))[:, None]
    x = torch.cat([x, torch.from_numpy(near.astype(f32).reshape(-1))])
    want = x.to(dtype).view(torch.uint16).numpy()
    want[torch.isnan(x).numpy()] = {"f16": 0x7E00, "bf16": 0x7FC0}[name]
    for isa in ISAS:
        same(Codec(name).encode(x, isa=isa), want.view(np.uint8), isa)
        back = Codec(name).decode(every.view(torch.uint8).numpy(), 2**16, isa=isa)
        np.testing.assert_array_equal(back, every.float().numpy())


# ---- the page, carried out ---------------------------------------------------------------------


def seed_of(key: int, index: int) -> int:
    mask = 2**64 - 1
    x = (key + (index // 64 + 1) * 0x9E3779B97F4A7C15) & mask
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
    return x ^ x >> 31


@functools.cache
def words(key: int, count: int) -> np.ndarray:
    """The pseudo-random words of the first elements."""
    out = []
    for index in range(count):
        high, low = divmod(seed_of(key, index), 2**32)
        w = (low + index % 64) & 0xFFFFFFFF
        w = (w ^ (w >> 16)) * 0x7FEB352D & 0xFFFFFFFF
        w = (w ^ (w >> 15)) * 0x846CA68B & 0xFFFFFFFF
        out.append(((w ^ (w >> 16)) + high) & 0xFFFFFFFF)
    return np.array(out, np.uint32)


class Rounding:
    """To nearest, or stochastically by random words; of what lies in a block from `at` on."""

    def __init__(self, random: np.ndarray | None) -> None:
        self.random = random

    def integers(self, v: np.ndarray, at: int) -> np.ndarray:
        """`v` in f32, rounded."""
        if self.random is None:
            return np.rint(v)
        r = (self.random[at : at + v.size] >> np.uint32(19) | 1).astype(f32) * f32(2**-13)
        return np.floor(v + r)

    def magnitudes(self, v: np.ndarray, table: np.ndarray, at: int) -> np.ndarray:
        """The index in an increasing table for each of the numbers `v` >= 0."""
        high = np.clip(np.searchsorted(table, v), 1, table.size - 1)
        low = high - 1
        wide, below, above = (a.astype(np.float64) for a in (v, table[low], table[high]))
        if self.random is not None:
            r = (self.random[at : at + v.size] >> np.uint32(19) | 1) * 2.0**-13
            up = np.floor((wide - below) / (above - below) + r) > 0
        else:
            up = (above - wide < wide - below) | ((above - wide == wide - below) & (high % 2 == 0))
        return np.where(v >= table[-1], table.size - 1, np.where(up, high, low))


def round_up(value: np.float32, scale: str) -> np.uint16:
    """The bits of the least f16 or bf16 that is not below, as the page has it."""
    if not np.isfinite(value):
        return np.uint16(0x7E00 if scale == "f16" else 0x7FC0)
    if scale == "f16":
        with np.errstate(over="ignore"):
            near = np.float16(value)
        if f32(near) < value:
            near = np.nextafter(near, np.float16(np.inf))
        near = max(near, np.float16(2**-24))
        return near.view(np.uint16) if np.isfinite(near) else np.uint16(0x7E00)
    bits = max((int(value.view(np.uint32)) + 0xFFFF) >> 16, 0x0080)
    return np.uint16(bits if bits < 0x7F80 else 0x7FC0)


def value_of(bits: np.uint16, scale: str) -> np.float32:
    if scale == "f16":
        return f32(bits.view(np.float16))
    return (np.uint32(bits) << np.uint32(16)).view(f32)


def packed(codes: np.ndarray, bits: int) -> bytes:
    each = codes.astype(np.int64)[:, None] >> np.arange(bits) & 1
    return np.packbits(each.astype(np.uint8), bitorder="little").tobytes()


def with_sign(magnitude: np.ndarray, x: np.ndarray, bits: int) -> np.ndarray:
    return magnitude + (np.signbit(x) << (bits - 1))


BITS = {"int8": 8, "int4": 4, "int2": 2, "mxint8": 8, "nvint4": 4}
MX = {
    "mxfp8_e4m3": (E4M3, 8, 8), "mxfp8_e5m2": (E5M2, 15, 8), "mxfp4": (f32(E2M1), 2, 4),
}  # fmt: skip


def block_of(codec: Codec, x: np.ndarray, at: int, rounding: Rounding) -> bytes:
    """One block, from its elements; `at`: where it begins."""
    name, n = codec.name, x.size
    amax = np.abs(x).max()
    finite = bool(np.isfinite(x).all())
    if name in ("int8", "int4", "int2", "e3m0"):
        top = 16 if name == "e3m0" else 2 ** (BITS[name] - 1) - bool(codec.symmetric)
        bits = round_up(amax / f32(top) if finite else f32(np.nan), codec.scale)
        scale = value_of(bits, codec.scale)
        width = BITS.get(name, 4)
        if np.isnan(scale):
            return bits.tobytes() + bytes((n * width + 7) // 8)
        v = x * (f32(1) / scale)
        if name == "e3m0":
            codes = with_sign(rounding.magnitudes(np.abs(v), f32(E3M0), at), x, 4)
        else:
            codes = rounding.integers(np.clip(v, -top, 2 ** (width - 1) - 1).astype(f32), at)
        return bits.tobytes() + packed(codes, width)
    if name in ("uint8", "uint8_zero"):
        low, high = x.min() + f32(0), x.max() + f32(0)
        if name == "uint8_zero":
            low, high = min(low, f32(0)), max(high, f32(0))
        width = high - low
        if not (finite and np.isfinite(width)):
            return NAN.tobytes() * (2 if name == "uint8" else 1) + bytes(n + (name != "uint8"))
        step = max(width / f32(255), f32(2**-126))
        factor = f32(1) / step
        if name == "uint8":
            v = np.clip((x - low) * factor, f32(0), f32(255))
            head = low.tobytes() + step.tobytes()
        else:
            zero = np.rint(np.clip(-low * factor, 0, 255)).astype(f32)
            v = np.clip(x * factor + zero, f32(0), f32(255))
            head = step.tobytes() + bytes([int(zero)])
        return head + rounding.integers(v, at).astype(np.uint8).tobytes()
    if name == "mxint8":
        if not finite:
            return bytes([255]) + bytes(n)
        scale = max(int(amax.view(np.uint32)) >> 23, 6)
        v = np.clip(x.astype(np.float64) * 2.0 ** (133 - scale), -128 + codec.symmetric, 127)
        return bytes([scale]) + packed(rounding.integers(v.astype(f32), at), 8)
    table, top, width = MX[name]
    if not finite and name == "mxfp4":
        return bytes([255]) + bytes((n + 1) // 2)
    amax = np.abs(np.where(np.isfinite(x), x, 0)).max()
    scale = max((int(amax.view(np.uint32)) >> 23) - top, 0)
    v = (np.abs(np.where(np.isfinite(x), x, 0)).astype(np.float64) * 2.0 ** (127 - scale)).astype(
        f32
    )
    codes = with_sign(rounding.magnitudes(v, table, at), x, width)
    if name == "mxfp8_e4m3":
        codes[~np.isfinite(x)] = 0x7F
    elif name == "mxfp8_e5m2":
        codes = np.where(np.isinf(x), with_sign(np.int64(0x7C), x, 8), codes)
        codes[np.isnan(x)] = 0x7E
    return bytes([scale]) + packed(codes, width)


def nv_unit(codec: Codec, x: np.ndarray, at: int, rounding: Rounding) -> bytes:
    integers = codec.name == "nvint4"
    top = f32(8 - bool(codec.symmetric) if integers else 6)
    blocks = [x[i : i + 16] for i in range(0, x.size, 16)]
    greatest = max([np.abs(b).max() for b in blocks if np.isfinite(b).all()], default=f32(0))
    unit = max(greatest / (top * f32(448)), f32(2**-117))
    data, factor = [unit.tobytes()], f32(1) / (top * unit)
    nearest = Rounding(None)
    for i, block in enumerate(blocks):
        if not np.isfinite(block).all():
            data.append(b"\x7f" + bytes((block.size + 1) // 2))
            continue
        code = int(nearest.magnitudes(np.abs(block).max()[None] * factor, E4M3, 0)[0])
        code = max(code, 1)
        v = block * (f32(1) / (E4M3[code] * unit))
        if integers:
            codes = rounding.integers(np.clip(v, -top, f32(7)).astype(f32), at + 16 * i)
        else:
            codes = with_sign(rounding.magnitudes(np.abs(v), f32(E2M1), at + 16 * i), block, 4)
        data.append(bytes([code]) + packed(codes, 4))
    return b"".join(data)


def rotated(x: np.ndarray, size: int, key: int) -> np.ndarray:
    """By the butterflies of the page, in f32; the signs are the bits of the seeds."""
    x = x.copy()
    whole = x.size - x.size % size
    if size == 0 or whole == 0:
        return x
    seeds = np.array([seed_of(key, i) for i in range(0, x.size, 64)], np.uint64)
    signs = f32(1) - 2 * np.unpackbits(seeds.view(np.uint8), bitorder="little")[:whole].astype(f32)
    v = (x[:whole] * f32(0.25 if size == 32 else 0.125) * signs).reshape(-1, size)
    distance = 1
    while distance < size:
        pairs = v.reshape(-1, size // (2 * distance), 2, distance)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        v = np.stack([a + b, a - b], axis=2).reshape(-1, size)
        distance *= 2
    x[:whole] = v.reshape(-1)
    return x


def by_the_page(codec: Codec, x: np.ndarray, rotation: int, rounding: int) -> bytes:
    stochastic = codec.rounding == "stochastic"
    how = Rounding(words(rounding, x.size) if stochastic else None)
    with np.errstate(all="ignore"):
        x = rotated(x, codec.hadamard, rotation) if codec.hadamard else x
        if codec.name.startswith("nv"):
            return b"".join(nv_unit(codec, x[i : i + 4096], i, how) for i in range(0, x.size, 4096))
        block = codec.block
        return b"".join(block_of(codec, x[i : i + block], i, how) for i in range(0, x.size, block))


BLOCKED = [codec for codec in VARIANTS if codec.name not in ("f16", "bf16", "topk")]


@pytest.mark.parametrize("codec", BLOCKED, ids=label)
def test_an_encoding_is_what_the_page_says(codec: Codec):
    x = adversarial(600)
    want = np.frombuffer(by_the_page(codec, x, SEED, SEED + 1), np.uint8)
    got = codec.encode(x, rotation=SEED, rounding=SEED + 1, isa=ISAS[-1])
    same(got, want)


# ---- stochastic rounding -------------------------------------------------------------------------

STOCHASTIC = [codec for codec in VARIANTS if codec.rounding == "stochastic" and not codec.hadamard]


@pytest.mark.parametrize("codec", STOCHASTIC, ids=label)
def test_stochastic_rounding_has_the_right_mean_and_takes_one_of_two_neighbours(codec: Codec):
    # In every block the greatest is 1, or 255 next to a 0: so the ends are not cut off.
    levels = np.linspace(-1, 1, 32, dtype=f32) * f32(0.9)
    levels[::16] = 1
    if codec.name.startswith("uint8"):
        levels = np.linspace(0, 254.6, 32, dtype=f32)
        levels[1] = 255
    x = np.tile(levels, 4096)
    found = codec.decode(codec.encode(x, rounding=SEED), x.size).reshape(-1, 32).astype(np.float64)
    for level, column in zip(levels, found.T, strict=True):
        values = np.unique(column)
        assert values.size <= 2
        apart = values[-1] - values[0]
        assert abs(column.mean() - level) <= apart * (6 * 0.5 / 4096**0.5 + 2**-13) + 2e-7 * level


TABLES = {
    "int8": np.arange(-127, 128), "int4": np.arange(-7, 8), "int2": np.arange(-1, 2),
    "uint8": np.arange(256), "uint8_zero": np.arange(256), "mxint8": np.arange(-127, 128),
    "e3m0": small(E3M0), "mxfp4": small(E2M1), "mxfp8_e4m3": E4M3, "mxfp8_e5m2": E5M2,
    "nvfp4": small(E2M1) * 448, "nvint4": np.arange(-7, 8) * 448,
}  # fmt: skip


@pytest.mark.parametrize("codec", STOCHASTIC, ids=label)
def test_what_can_be_represented_is_not_rounded_stochastically(codec: Codec):
    if codec.name in TABLES:
        table = TABLES[codec.name].astype(f32)
        x = rng().choice(table, (1024, 16))
        x[:, :2] = table.max(), table[0]  # so that the scale is 1
    else:
        every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)
        dtype = {"f16": torch.float16, "bf16": torch.bfloat16}[codec.name]
        x = every.view(dtype).float().numpy()
        x = x[np.isfinite(x)]
    x = x.reshape(-1)
    for key in range(3):
        np.testing.assert_array_equal(codec.decode(codec.encode(x, rounding=key), x.size), x)


def test_casts_are_rounded_stochastically_as_the_page_says():
    x = adversarial(3000)
    x = x[np.abs(x) < 65504]
    random = words(SEED, x.size)
    table = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(f32)
    want = with_sign(Rounding(random).magnitudes(np.abs(x), table, 0), x, 16).astype(np.uint16)
    upper = ((x.view(np.uint32) + (random >> np.uint32(16))) >> np.uint32(16)).astype(np.uint16)
    for isa in ISAS:
        for name, codes in (("f16", want), ("bf16", upper)):
            codec = Codec(name, rounding="stochastic")
            same(codec.encode(x, rounding=SEED, isa=isa), codes, name, isa)


def test_other_keys_and_other_places_have_other_random_bits():
    codec = Codec("int4", rounding="stochastic")
    x = np.tile(np.array([7, *[0.5] * 31], f32), 128)
    a = codec.encode(x, rounding=1).reshape(-1, 18)
    assert np.unique(a, axis=0).shape[0] > 100
    assert (codec.encode(x, rounding=2).reshape(-1, 18) != a).any(axis=1).mean() > 0.9
    assert (codec.encode(x, rounding=1, first=4096).reshape(-1, 18) != a).any(axis=1).mean() > 0.9
    same(codec.encode(x, rounding=1, rotation=5), a.reshape(-1))


# ---- rotation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 128])
def test_a_rotation_is_one_and_spreads_outliers(size: int):
    """With codes of 8 bits all numbers come back nearly as they were, outliers or not."""
    x = rng().standard_normal(40 * 128 + size // 2).astype(f32)
    x[::777] *= 30
    errors = {}
    for codec in (Codec("int4", block=32), Codec("int4", block=32, hadamard=size)):
        decoded_ = codec.decode(codec.encode(x, rotation=SEED), x.size, rotation=SEED)
        errors[codec.hadamard] = float(np.square(decoded_ - x).sum())
    assert errors[size] < errors[0]
    fine = Codec("int8", hadamard=size)
    decoded_ = fine.decode(fine.encode(x, rotation=SEED), x.size, rotation=SEED)
    assert np.square(decoded_ - x).sum() < 1e-4 * np.square(x).sum()
    other = fine.decode(fine.encode(x, rotation=SEED), x.size, rotation=SEED + 1)
    assert np.square(other - x).sum() > 0.1 * np.square(x).sum()


# ---- top-k -------------------------------------------------------------------------------------


def topk_unit(keep: int, x: np.ndarray) -> bytes:
    keep, magnitudes = min(keep, x.size), np.abs(x)
    size = (12 * keep + 7) // 8 + (2 * keep + 7) // 8
    if not np.isfinite(x).all():
        return np.uint16([0x7FC0, 0x7FC0]).tobytes() + bytes(size)
    largest = np.argsort(-magnitudes, kind="stable")[:keep]
    kept = np.sort(largest[magnitudes[largest] > 0])
    of_kept = magnitudes[kept]
    middle = of_kept.min() * f32(0.5) + of_kept.max() * f32(0.5) if kept.size else f32(0)
    high = of_kept > middle
    means = []
    for which in (~high, high):
        total = 0.0
        for value in of_kept[which]:
            total += float(value)
        mean = f32(total / which.sum()) if which.any() else f32(0)
        bits = torch.tensor(float(mean)).to(torch.bfloat16).view(torch.uint16).item()
        means.append(min(bits, 0x7F7F))
    codes = high + 2 * np.signbit(x[kept])
    if kept.size == 0:
        kept, codes = np.zeros(1, np.int64), np.signbit(x[:1]) * 2
    missing = keep - kept.size
    kept, codes = (np.append(a, np.repeat(a[-1], missing)) for a in (kept, codes))
    return np.uint16(means).tobytes() + packed(kept, 12) + packed(codes, 2)


@pytest.mark.parametrize("keep", [1, 2, 41, 64, 1000, 4095, 4096])
def test_the_greatest_are_kept_as_the_page_says(keep: int):
    generator, codec = rng(), Codec("topk", keep=keep)
    units = [
        generator.standard_normal(4096),
        np.round(generator.standard_normal(4096)),  # ties
        generator.standard_normal(4096) * (generator.random(4096) < 0.005),  # zeros
        np.zeros(4096),
        generator.standard_normal(4096) * 2.0**-140,
        generator.choice([F32_MAX, -F32_MAX], 4096),
        np.where(generator.random(4096) < 1e-3, np.nan, 1),
        np.where(np.arange(4096) == 4000, -np.inf, 1),
        generator.standard_normal(777),
    ]
    x = np.concatenate(units).astype(f32)
    want = b"".join(topk_unit(keep, x[i : i + 4096]) for i in range(0, x.size, 4096))
    for isa in ISAS:
        same(codec.encode(x, isa=isa), np.frombuffer(want, np.uint8), isa)
    values = codec.decode(want, x.size)
    kept = np.flatnonzero(values[:4096])
    assert kept.size == keep
    assert (np.sign(values[kept]) == np.sign(x[kept])).all()
    assert np.isnan(values[6 * 4096 : 8 * 4096]).all()
