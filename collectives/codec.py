"""What a payload is encoded with while it travels: `Codec`.

The formats are defined in ``docs/codecs.md``; the kernels are the core's. Who may use which codec
where, and how the error of an encoding is kept, is decided elsewhere.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from collectives._native import codec as native
from collectives._native import ffi
from collectives.arrays import buffer_of
from collectives.errors import InvalidArgument

NAMES: tuple[str, ...] = tuple(native.FORMATS)
"""The formats that there are."""
ROUNDINGS = ("nearest", "stochastic")

# The block of a format that has blocks, unless another is given.
_BLOCKS = {
    "int8": 32, "int4": 32, "int2": 32, "uint8": 128, "uint8_zero": 128, "e3m0": 32,
    "mxint8": 32, "mxfp8_e4m3": 32, "mxfp8_e5m2": 32, "mxfp4": 32, "nvfp4": 16, "nvint4": 16,
}  # fmt: skip
_SCALED = ("int8", "int4", "int2", "e3m0")
_INTEGERS = ("int8", "int4", "int2", "mxint8", "nvint4")
_HADAMARD = 64
_KEEP = 64


@dataclasses.dataclass(frozen=True)
class Codec:
    """A format in which floats travel, and its options.

    What is not given (None) is what the format has by default; so equal codecs have equal options.

    Attributes:
        name: the format: ``"bf16"``, ``"f16"``; ``"int8"``, ``"int4"``, ``"int2"`` (blocks of
            integers with a scale), ``"uint8"`` (minimum and step), ``"uint8_zero"`` (scale and
            zero point), ``"e3m0"``; ``"mxint8"``, ``"mxfp8_e4m3"``, ``"mxfp8_e5m2"``, ``"mxfp4"``;
            ``"nvfp4"``, ``"nvint4"``; ``"topk"``.
        block: elements that share a scale: 32, 64 or 128; the MX formats have 32, the NV formats
            16, casts and top-k none (0).
        scale: ``"f16"`` or ``"bf16"``: the type of the scale of int8, int4, int2 and e3m0
            (``"f16"`` by default); other formats have one of their own ("").
        hadamard: elements that are rotated together before they are encoded (randomised Hadamard
            transform): 32, 64 or 128; True: 64; 0 or False: none. Of formats with blocks.
        rounding: ``"nearest"`` (ties to even) or ``"stochastic"`` (up with the probability of the
            remainder, so that the mean is right). Not of top-k.
        symmetric: of int8, int4, int2, mxint8 and nvint4: whether the most negative code is not
            used, which would bias the mean (True by default). Other formats: False.
        keep: of top-k: how many elements of each 4096 are kept, 1 to 4096 (64 by default); else 0.
        error_feedback: whether what an encoding leaves out is kept, and added to what is encoded
            next. Of reductions; whoever calls the kernels on their own has to do it.

    Raises:
        InvalidArgument: there is no such format, or it does not have such options.
    """

    name: str
    block: int | None = None
    scale: str | None = None
    hadamard: int | bool = 0
    rounding: str = "nearest"
    symmetric: bool | None = None
    keep: int | None = None
    error_feedback: bool = False

    def __post_init__(self) -> None:
        if self.name not in native.FORMATS:
            known = ", ".join(native.FORMATS)
            raise InvalidArgument(f"there is no codec {self.name!r}; there are {known}")
        if self.scale not in (None, "", *native.SCALES):
            raise InvalidArgument(f"codec {self.name}: scale is f16 or bf16, not {self.scale!r}")
        if self.scale and self.name not in _SCALED:
            raise InvalidArgument(
                f"codec {self.name}: there is no choice of scales; {', '.join(_SCALED)} have one"
            )
        if self.rounding not in ROUNDINGS:
            raise InvalidArgument(
                f"codec {self.name}: rounding is {' or '.join(ROUNDINGS)}, not {self.rounding!r}"
            )
        defaults = {
            "block": _BLOCKS.get(self.name, 0),
            "scale": "f16" if self.name in _SCALED else "",
            "symmetric": self.name in _INTEGERS,
            "keep": _KEEP if self.name == "topk" else 0,
        }
        for field, value in defaults.items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, value)
        rotated = _HADAMARD if self.hadamard is True else int(self.hadamard)
        object.__setattr__(self, "hadamard", rotated)
        for field in ("block", "hadamard", "keep"):
            value = getattr(self, field)
            if not isinstance(value, int) or not 0 <= value < 2**32:
                raise InvalidArgument(f"codec {self.name}: {field} is a number, not {value!r}")
        self.struct()

    @classmethod
    def of(cls, codec: Codec | str) -> Codec:
        """The codec itself, or that of the name with the format's own options.

        Raises:
            InvalidArgument: there is no such format.
        """
        return codec if isinstance(codec, Codec) else cls(codec)

    def struct(self) -> Any:
        """A ``struct coll_codec *`` of its own, as the core takes it."""
        flags = native.STOCHASTIC * (self.rounding == "stochastic")
        flags |= native.SYMMETRIC * bool(self.symmetric)
        return native.codec(
            native.FORMATS[self.name],
            block=self.block or 0,
            scale=native.SCALES[self.scale] if self.scale else 0,
            hadamard=self.hadamard,
            keep=self.keep or 0,
            flags=flags,
        )

    @property
    def unit(self) -> int:
        """Elements that are encoded together: an array can be cut at its multiples."""
        return native.unit(self.struct())

    def encoded_bytes(self, count: int) -> int:
        """Bytes that ``count`` elements take from the beginning of a unit on."""
        return native.encoded_bytes(self.struct(), count)

    def encode(
        self, array: Any, *, first: int = 0, rotation: int = 0, rounding: int = 0, isa: str = "auto"
    ) -> np.ndarray:
        """Encode an array; all instruction sets give the same bytes.

        Args:
            array: numpy array or CPU tensor of f64, f32, f16 or bf16, in one piece. f64 is rounded
                to f32 first.
            first: the index of its first element in the whole array that it is a part of: a
                multiple of ``unit``.
            rotation: the key of the signs of the rotation, 64 bits; whoever decodes has the same.
            rounding: the key of stochastic rounding, 64 bits.
            isa: ``"auto"``, ``"scalar"`` or ``"avx2"``.

        Returns:
            uint8, ``encoded_bytes(count)`` of them.

        Raises:
            InvalidArgument: the array is not in one piece; ``first`` is no multiple.
            UnsupportedError: its dtype is no float; the CPU lacks the instruction set.
        """
        pointer, count, dtype = _in_one_piece(array, "array", writable=False)
        out = np.empty(self.encoded_bytes(count), np.uint8)
        native.encode(
            self.struct(), ffi.cast("void *", out.ctypes.data), pointer, count, dtype,
            first=first, rotation=rotation, rounding=rounding, isa=_isa(isa),
        )  # fmt: skip
        return out

    def decode(
        self, data: Any, count: int, *, first: int = 0, rotation: int = 0, isa: str = "auto"
    ) -> np.ndarray:
        """Decode what ``encode`` has returned.

        Args:
            data: its bytes.
            count: elements.
            first: as when it was encoded.
            rotation: likewise.
            isa: ``"auto"``, ``"scalar"`` or ``"avx2"``.

        Returns:
            f32, ``count`` of them.

        Raises:
            InvalidArgument: it is not ``encoded_bytes(count)`` bytes.
        """
        out = np.empty(count, np.float32)
        self._decode(data, out, first, rotation, isa, add=False)
        return out

    def decode_add(
        self, data: Any, total: Any, *, first: int = 0, rotation: int = 0, isa: str = "auto"
    ) -> None:
        """Add what is decoded to an array, in f32 (f64: in f64).

        Args:
            data: bytes from ``encode``.
            total: numpy array or CPU tensor of f64, f32, f16 or bf16, in one piece.
            first: as when it was encoded.
            rotation: likewise.
            isa: ``"auto"``, ``"scalar"`` or ``"avx2"``.

        Raises:
            InvalidArgument: it is not ``encoded_bytes`` bytes, or the array is not in one piece.
            UnsupportedError: its dtype is no float.
        """
        self._decode(data, total, first, rotation, isa, add=True)

    def _decode(
        self, data: Any, out: Any, first: int, rotation: int, isa: str, *, add: bool
    ) -> None:
        pointer, count, dtype = _in_one_piece(out, "total", writable=True)
        source, want = ffi.from_buffer(data), self.encoded_bytes(count)
        if len(source) != want:
            raise InvalidArgument(
                f"codec {self.name}: {count} elements are encoded in {want} bytes,"
                f" not {len(source)}"
            )
        native.decode(
            self.struct(), pointer, source, count, dtype,
            first=first, rotation=rotation, isa=_isa(isa), add=add,
        )  # fmt: skip


def _in_one_piece(array: Any, what: str, *, writable: bool) -> tuple[Any, int, int]:
    pointer, count, dtype, lies = buffer_of(array, what, writable=writable)
    if lies is not None:
        raise InvalidArgument(f"{what} is not in one piece; pass a contiguous array")
    return pointer, count, dtype


def _isa(name: str) -> int:
    if name not in native.ISAS:
        raise InvalidArgument(f"isa is {', '.join(native.ISAS)}, not {name!r}")
    return native.ISAS[name]
