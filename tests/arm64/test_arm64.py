"""The kernels of an arm64 build, run by an emulator, give the bits of those of this machine (G4).

``make test-arm64`` runs this; it needs gcc for aarch64 and qemu-user.
"""

from __future__ import annotations

import dataclasses
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collectives._native import ffi, lib
from test_codecs import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
SEED = random.SystemRandom().randrange(2**32)
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
FOLDERS = ("codec", "reduce")
ISAS = [lib.COLL_ISA_SCALAR]
ISAS += [lib.COLL_ISA_AVX2] if lib.coll_isa_available(lib.COLL_ISA_AVX2) else []
COUNT = 2 * 4096 + 777  # whole units of all codecs, and a rest

ENCODE, DECODE, DECODE_ADD, REDUCE, DIVIDE, SCALE, CRC32C, SPLIT, MERGE = range(9)
FORM = struct.Struct("<4I6I6Qd")
FLOATS = {
    lib.COLL_F64: np.float64, lib.COLL_F32: np.float32, lib.COLL_F16: np.float16,
    lib.COLL_BF16: np.uint16,
}  # fmt: skip

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
        reason=f"needs {COMPILER} and {EMULATOR}",
    ),
]


@dataclasses.dataclass(frozen=True)
class Request:
    """One call of a kernel; see driver.c."""

    function: int
    source: bytes = b""
    before: bytes = b""
    dtype: int = 0
    op: int = 0
    divisor: int = 0
    codec: Any = None
    first: int = 0
    count: int = 0
    rotation: int = 0
    rounding: int = 0
    factor: float = 0.0
    invented: bool = False  # the source is no encoding, but noise

    def fields(self) -> tuple[int, ...]:
        if self.codec is None:
            return (0,) * 6
        one = self.codec.struct()
        return (one.format, one.block, one.scale, one.hadamard, one.keep, one.flags)

    def encode(self) -> bytes:
        return b"".join(
            (
                FORM.pack(
                    self.function, self.dtype, self.op, self.divisor, *self.fields(), self.first,
                    self.count, self.rotation, self.rounding, len(self.source), len(self.before),
                    self.factor,
                ),
                self.source,
                self.before,
            )
        )  # fmt: skip

    def here(self, isa: int) -> tuple[int, bytes]:
        """What this machine's kernels make of it."""
        out = ffi.new("char[]", self.before + bytes(8))
        given = ffi.from_buffer(self.source)
        codec = ffi.NULL if self.codec is None else self.codec.struct()
        common = (self.first, self.count, self.dtype, codec, self.rotation)
        status = lib.COLL_OK
        match self.function:
            case 0:
                status = lib.coll_encode_local(out, given, *common, self.rounding, isa)
            case 1:
                status = lib.coll_decode_local(out, given, *common, isa)
            case 2:
                status = lib.coll_decode_add_local(out, given, *common, isa)
            case 3:
                status = lib.coll_reduce_local(
                    out, given, out, self.count, self.dtype, self.op, isa
                )
            case 4:
                status = lib.coll_divide_local(out, self.count, self.dtype, self.divisor, isa)
            case 5:
                status = lib.coll_scale_local(out, self.count, self.dtype, self.factor, isa)
            case 6:
                crc = lib.coll_crc32c(self.divisor, given, len(self.source), isa)
                return status, struct.pack("<I", crc)
            case 7:
                status = lib.coll_planes_split(out, given, self.count, self.divisor)
            case 8:
                status = lib.coll_planes_merge(out, given, self.count, self.divisor)
        return status, bytes(ffi.buffer(out, len(self.before)))

    def __str__(self) -> str:
        codec = "" if self.codec is None else f", {self.codec}"
        return (
            f"function {self.function} of dtype {self.dtype}, op {self.op}, {self.count} elements"
            f" from {self.first}, divisor {self.divisor}, factor {self.factor}{codec}"
        )


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver with the kernels, for arm64, by the flags that the library is built with."""
    flags = re.search(r"^ *(-ffp-contract=off .*) \$\{COLL", _cmake(), re.MULTILINE)
    assert flags is not None, "CMakeLists.txt has no flags of that form"
    sources = [str(path) for name in FOLDERS for path in (ROOT / "native" / name).glob("*.c")]
    program = tmp_path_factory.mktemp("arm64") / "driver"
    subprocess.run(
        [
            COMPILER, "-std=gnu11", "-O3", "-DNDEBUG", "-D_GNU_SOURCE", *flags[1].split(),
            "-Wall", "-Wextra", "-Werror", "-static", f"-I{ROOT}/native",
            f"-I{ROOT}/native/include", str(Path(__file__).with_name("driver.c")), *sources,
            f"{ROOT}/native/wire/crc32c.c", "-lm", "-pthread", "-o", str(program),
        ],
        check=True, timeout=300,
    )  # fmt: skip
    return program


def _cmake() -> str:
    return (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")


def compare(program: Path, requests: list[Request]) -> None:
    """Each has the same answer there and here, by every instruction set."""
    print(f"seed {SEED}, {len(requests)} calls")
    sent = b"".join(request.encode() for request in requests)
    done = subprocess.run(
        [EMULATOR, str(program)], input=sent, capture_output=True, timeout=600, check=True
    )
    at = 0
    for request in requests:
        (status,) = struct.unpack_from("<i", done.stdout, at)
        at += 4
        theirs = done.stdout[at : at + len(request.before)]
        at += len(request.before)
        for isa in ISAS:
            ours = request.here(isa)
            assert ours[0] == status, f"{request}: status {status}, here {ours[0]} by isa {isa}"
            same = ours[1] == theirs
            if not same and request.invented:
                same = plain(ours[1], request.dtype) == plain(theirs, request.dtype)
            assert same, f"{request}: other bits than by isa {isa} here"
    assert at == len(done.stdout)


def plain(data: bytes, dtype: int) -> bytes:
    """With one NaN for all: noise may have a scale of infinity, which times 0 is the CPU's own."""
    bits = np.frombuffer(data, f"u{lib.coll_dtype_size(dtype)}").copy()
    infinity = {
        lib.COLL_F64: 0x7FF << 52, lib.COLL_F32: 0xFF << 23, lib.COLL_F16: 0x1F << 10,
        lib.COLL_BF16: 0xFF << 7,
    }[dtype]  # fmt: skip
    magnitude = bits & bits.dtype.type(2 ** (8 * bits.itemsize - 1) - 1)
    bits[magnitude > infinity] = infinity + 1
    return bits.tobytes()


def wild(count: int, salt: int) -> np.ndarray:
    """f32: of several scales, then all kinds of bits, then what is special."""
    chance = np.random.default_rng([SEED, salt])
    values = chance.standard_normal(count).astype(np.float32)
    values *= np.exp2(chance.integers(-30, 31, -(-count // 256))).repeat(256)[:count]
    bits = values.view(np.uint32)
    part = slice(count // 2, count // 2 + 512)
    bits[part] = chance.integers(0, 2**32, bits[part].size, np.uint32)
    special = np.array(
        [0, -0.0, 1, -1, 127, 128, 6, -8, 448, 57344, 65504, 65520, 3.4e38, -3.4e38, 1e-45, -1e-45,
         1.1754944e-38, np.inf, -np.inf, np.nan, 0.5, 1.5, 2.5, 2**-24, 2**-25, 2**-14],
        np.float32,
    )  # fmt: skip
    where = chance.choice(count // 4, 8 * special.size, replace=False)
    bits[where] = np.tile(special, 8).view(np.uint32)
    return values


def as_dtype(values: np.ndarray, dtype: int) -> bytes:
    if dtype == lib.COLL_BF16:
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    with np.errstate(all="ignore"):
        return values.astype(FLOATS[dtype]).tobytes()


def test_codecs(emulated: Path):
    chance = np.random.default_rng(SEED)
    requests = []
    for salt, codec in enumerate(VARIANTS):
        keys = {"rotation": int(chance.integers(2**63)), "rounding": int(chance.integers(2**63))}
        smooth = chance.standard_normal(COUNT).astype(np.float32)
        zeros = np.zeros(COUNT, np.float32)
        for values, dtype in (
            (wild(COUNT, salt), lib.COLL_F32), (smooth, lib.COLL_F32), (zeros, lib.COLL_F32),
            (smooth, lib.COLL_F64), (wild(COUNT, salt), lib.COLL_F16),
            (wild(COUNT, salt), lib.COLL_BF16),
        ):  # fmt: skip
            common = {"codec": codec, "count": COUNT, "first": 3 * codec.unit, "dtype": dtype}
            before = as_dtype(smooth, dtype)
            room = codec.encoded_bytes(COUNT)
            encoding = Request(ENCODE, as_dtype(values, dtype), bytes(room), **common, **keys)
            encoded = encoding.here(lib.COLL_ISA_SCALAR)[1]
            noise = chance.bytes(room)
            requests.append(encoding)
            for function in (DECODE, DECODE_ADD):
                requests.append(Request(function, encoded, before, **common, **keys))
                requests.append(Request(function, noise, before, invented=True, **common, **keys))
    compare(emulated, requests)


def test_reductions(emulated: Path):
    chance = np.random.default_rng(SEED)
    requests = []
    for dtype in range(lib.COLL_DTYPE_COUNT):
        size = lib.coll_dtype_size(dtype)
        for salt in range(2):
            a, b = (
                as_dtype(wild(1001, 10 * dtype + salt + k), dtype)
                if dtype in FLOATS and salt
                else chance.bytes(1001 * size)
                for k in (0, 5)
            )
            if dtype == lib.COLL_BOOL:
                a, b = (bytes(x & 1 for x in one) for one in (a, b))
            common = {"count": 1001, "dtype": dtype}
            for op in range(lib.COLL_REDOP_COUNT):
                requests.append(Request(REDUCE, a, b, op=op, **common))
            for divisor in (1, 2, 3, 7, 255, 65537, 2**32 - 1):
                requests.append(Request(DIVIDE, b"", a, divisor=divisor, **common))
            for factor in (0.0, 1.0, -0.3, 1e-30, 3e38):
                requests.append(Request(SCALE, b"", a, factor=factor, **common))
    compare(emulated, requests)


def test_checksums_and_planes(emulated: Path):
    chance = np.random.default_rng(SEED)
    requests = []
    for length in (0, 1, 7, 8, 63, 1000, 100_003):
        data = chance.bytes(length)
        crc = int(chance.integers(2**32))
        requests.append(Request(CRC32C, data, bytes(4), divisor=crc))
        for width in (2, 4, 8):
            count = length // width
            data = data[: count * width]
            for function in (SPLIT, MERGE):
                requests.append(
                    Request(function, data, bytes(count * width), divisor=width, count=count)
                )
    compare(emulated, requests)
