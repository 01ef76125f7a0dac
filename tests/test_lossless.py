"""Claims about lossless packing: the same bits, smaller where it can be, hostile bytes refused."""

from __future__ import annotations

import random
import struct
import uuid

import numpy as np
import pytest
import zstandard

from collectives import lossless
from collectives._native import ffi, lib
from collectives.state.content import ManifestError
from collectives.state.service import PACKED_HEADER, PACKED_MAX, Request, Service, unpack
from collectives.state.shared import SharedState

SEED = random.SystemRandom().randrange(2**32)
DTYPES = [*lossless.WIDTHS, "int64", "uint8", "bool", ""]


@pytest.fixture(autouse=True)
def say_the_seed() -> None:
    print(f"seed {SEED}")


def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


def weights(count: int, dtype: str) -> np.ndarray:
    """Gaussian, as the bytes of ``dtype``: tensors of several scales, like a model's."""
    scales = np.repeat(np.exp(rng().standard_normal(16)), -(-count // 16))[:count]
    values = (rng().standard_normal(count) * scales * 0.05).astype(np.float32)
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return values.astype(dtype).view(np.uint8)


def packed_and_back(data: bytes, dtype: str) -> bytes:
    packed = lossless.pack(data, dtype)
    assert len(packed) <= lossless.packed_max(len(data))
    into = bytearray(len(data))
    lossless.unpack(packed, into)
    assert into == data
    return packed


# ---- planes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 16, 33, 1000])
def test_planes_hold_the_bytes_of_the_rotated_elements_most_significant_first(width, count):
    raw = rng().integers(0, 256, count * width + 1, np.uint8)[1:]  # aligned to nothing
    planes = np.full(count * width, 7, np.uint8)
    assert lib.coll_planes_split(pointer(planes), pointer(raw), count, width) == lib.COLL_OK
    bits = 8 * width
    for i in range(count):
        value = int.from_bytes(raw[i * width : (i + 1) * width].tobytes(), "little")
        value = (value << 1 | value >> (bits - 1)) & ((1 << bits) - 1)
        assert bytes(planes[i::count]) == value.to_bytes(width, "big")
    back = np.empty(count * width + 1, np.uint8)[1:]
    assert lib.coll_planes_merge(pointer(back), pointer(planes), count, width) == lib.COLL_OK
    assert np.array_equal(back, raw)


def pointer(array: np.ndarray):
    return ffi.cast("void *", array.ctypes.data)


def test_planes_of_widths_that_are_not_are_refused():
    place = ffi.new("char[64]")
    for width in (0, 1, 3, 16):
        assert lib.coll_planes_split(place, place, 1, width) == lib.COLL_INVALID_ARGUMENT
        assert lib.coll_planes_merge(place, place, 0, width) == lib.COLL_INVALID_ARGUMENT
    assert lib.coll_planes_split(place, ffi.NULL, 1, 2) == lib.COLL_INVALID_ARGUMENT
    assert lib.coll_planes_merge(place, place, 2**63, 4) == lib.COLL_INVALID_ARGUMENT


# ---- packing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 9, 63, 4095, 100_001])
def test_what_comes_out_is_what_went_in_whatever_the_dtype_and_length(dtype, size):
    for content in (rng().integers(0, 256, size, np.uint8).tobytes(), bytes(size)):
        packed_and_back(content, dtype)


@pytest.mark.parametrize("dtype", list(lossless.WIDTHS))
def test_nan_payloads_infinities_and_signed_zeros_keep_their_bits(dtype):
    width = lossless.WIDTHS[dtype]
    ones = (1 << 8 * width) - 1
    special = [0, 1, ones, ones >> 1, ones ^ ones >> 1, 0x7F80 << 8 * (width - 2), 0x5555 % ones]
    packed_and_back(b"".join(value.to_bytes(width, "little") for value in special) * 1000, dtype)


@pytest.mark.parametrize(
    ("dtype", "most"), [("bfloat16", 0.72), ("float16", 0.90), ("float32", 0.87), ("float64", 0.93)]
)
def test_gaussian_weights_get_smaller_by_their_exponents(dtype, most):
    # f64 has three bits of its exponents in a plane with mantissas, which is random then.
    data = weights(1 << 18, "float32" if dtype == "float64" else dtype)
    if dtype == "float64":
        noise = 1 + rng().random(1 << 18) * 2.0**-24  # mantissas that are no f32's
        data = (data.view(np.float32) * noise).view(np.uint8)
    share = len(packed_and_back(data.tobytes(), dtype)) / data.nbytes
    print(f"{dtype}: {share:.3f}")
    assert share <= most


def test_what_cannot_be_made_smaller_costs_no_more_than_a_head():
    for dtype in DTYPES:
        noise = rng().bytes(1 << 20)
        assert len(lossless.pack(noise, dtype)) <= lossless.packed_max(len(noise))
        assert len(lossless.pack(bytes(1 << 20), dtype)) < 1 << 14


# ---- hostile bytes -------------------------------------------------------------------------------


def refused(packed: bytes, size: int) -> None:
    with pytest.raises(ValueError, match="packed array"):
        lossless.unpack(packed, bytearray(size))


@pytest.mark.parametrize("dtype", ["", "bfloat16", "float64"])
def test_every_cut_and_every_other_length_is_refused(dtype):
    data = weights(2000, "bfloat16").tobytes()
    packed = lossless.pack(data, dtype)
    for length in (*range(80), len(packed) // 2, len(packed) - 1):
        refused(packed[:length], len(data))
    refused(packed + b"x", len(data))
    for size in (0, 1, len(data) - 8, len(data) - 1, len(data) + 1, len(data) + 8):
        refused(packed, size)


@pytest.mark.parametrize("dtype", ["", "bfloat16", "float32"])
def test_changed_bytes_are_refused_or_fill_the_place_with_something_else(dtype):
    data = weights(5000, "float32").tobytes()
    packed = lossless.pack(data, dtype)
    choice = random.Random(SEED)
    for _ in range(400):
        broken = bytearray(packed)
        for _ in range(choice.choice([1, 1, 3])):
            broken[choice.randrange(choice.choice([40, len(broken)]))] = choice.randrange(256)
        try:
            lossless.unpack(broken, bytearray(len(data)))
        except ValueError:
            continue


def test_a_frame_that_promises_more_than_there_is_room_for_allocates_nothing():
    head = struct.Struct("<BQ")
    claim = bytearray(zstandard.ZstdCompressor(level=1).compress(b"abc" * 1000))
    assert claim[4] >> 6 == 1  # a content size of two bytes: make it one of eight
    claim[4] |= 0xC0
    claim[5:7] = struct.pack("<Q", 2**62)
    refused(head.pack(1, len(claim)) + bytes(claim), 3000)
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 26))
    refused(head.pack(1, len(bomb)) + bomb, 1 << 16)
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27)
    ).compressobj()
    coded = wide.compress(bytes(3000)) + wide.flush()
    refused(head.pack(1, len(coded)) + coded, 3000)
    refused(head.pack(1, 2**64 - 1), 3000)
    refused(struct.pack("<B4Q", 4, 2**63, 2**63, 0, 0), 0)


# ---- in a transfer -------------------------------------------------------------------------------


class Ears:
    """Stands for the server that a service gets its requests from."""

    def serve(self, group: int, answer: object) -> None:
        pass


def test_a_chunk_of_weights_is_packed_by_its_dtype():
    data = weights(1 << 16, "float16")
    state = SharedState({"w": data.view(np.float16), "same": data, "b": data.tobytes()})
    service = Service(Ears(), 1)  # type: ignore[arg-type]
    service.offer(state, b"manifest", b"ballot")
    sizes = {}
    for name in state:
        for offset, size in ((0, data.nbytes), (1, 33333)):
            request = Request(name, offset, size, packed=True).encode()
            answer = service._answer(uuid.uuid4(), request, PACKED_MAX)
            assert answer is not None and not answer.lent
            into = bytearray(size)
            assert unpack(memoryview(answer.data), memoryview(into)) >= 0
            assert into == data[offset : offset + size].tobytes()
            sizes[name, offset] = memoryview(answer.data).nbytes
    print(sizes)
    assert sizes["w", 0] <= 0.90 * data.nbytes < sizes["same", 0]


def test_a_hostile_chunk_is_nonsense_and_not_an_accident():
    for data in (b"", bytes(7), bytes(8), bytes(9), PACKED_HEADER.pack(0.1) + b"\2" + bytes(16)):
        with pytest.raises(ManifestError):
            unpack(memoryview(data), memoryview(bytearray(100)))
