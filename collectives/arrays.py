"""From numpy arrays and torch tensors to what the core takes: an address, a count, a dtype.

torch is never imported here: a tensor can only come from a process that has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from collectives._native import ffi, lib
from collectives.errors import InvalidArgument, UnsupportedError

DTYPES: dict[str, int] = {
    "float64": lib.COLL_F64,
    "float32": lib.COLL_F32,
    "float16": lib.COLL_F16,
    "bfloat16": lib.COLL_BF16,
    "int8": lib.COLL_I8,
    "int16": lib.COLL_I16,
    "int32": lib.COLL_I32,
    "int64": lib.COLL_I64,
    "uint8": lib.COLL_U8,
    "uint16": lib.COLL_U16,
    "uint32": lib.COLL_U32,
    "uint64": lib.COLL_U64,
    "bool": lib.COLL_BOOL,
}
"""The core's number of every dtype that it reduces, by numpy's and torch's name."""

_numpy_dtypes: dict[Any, int] = {
    np.dtype(name): code for name, code in DTYPES.items() if name != "bfloat16"
}
_torch_dtypes: dict[Any, int] = {}


class Strides:
    """How an array that is not in one piece lies in memory.

    Args:
        shape: elements in each dimension.
        strides: bytes from one index to the next in each.

    Attributes:
        lies: shape and strides.
        struct: the same as the core wants it; it lives as long as this.
    """

    __slots__ = ("_shape", "_strides", "lies", "struct")

    def __init__(self, shape: Sequence[int], strides: Sequence[int]) -> None:
        self.lies = (*shape, *strides)
        self._shape = ffi.new("uint64_t[]", list(shape))
        self._strides = ffi.new("int64_t[]", list(strides))
        self.struct = ffi.new("struct coll_strides *")
        self.struct.dims = len(shape)
        self.struct.shape = self._shape
        self.struct.strides = self._strides


Buffer = tuple[Any, int, int, Strides | None]
"""An array as the core sees it: a pointer (cdata that keeps numpy's buffer alive), the number of
elements, the core's number of the dtype; how it lies, None: in one piece."""


def buffer_of(array: Any, what: str, *, writable: bool) -> Buffer:
    """Describe a numpy array or CPU tensor.

    Args:
        array: numpy array or torch tensor of any shape and strides, also empty or 0-d.
        what: the argument's name, for messages.
        writable: whether it will be written to.

    Raises:
        InvalidArgument: it is no array, or read-only though written to.
        UnsupportedError: its dtype or device is none that the core knows.
    """
    if isinstance(array, np.ndarray):
        code = _numpy_dtypes.get(array.dtype)
        if code is None:
            code = _other_dtype(array.dtype, what)
        flags = array.flags
        # numpy loads its masked arrays when they are first named, which takes tens of milliseconds.
        masked = sys.modules.get("numpy.ma")
        if masked is not None and isinstance(array, masked.MaskedArray):
            raise UnsupportedError(
                f"{what} is a masked array, whose mask would be ignored; pass {what}.filled(...)"
            )
        if writable and not flags.writeable:
            raise InvalidArgument(f"{what} is read-only; pass a writable array")
        if not flags.c_contiguous:
            strides = Strides(array.shape, array.strides)
            return ffi.cast("void *", array.ctypes.data), array.size, code, strides
        if code == lib.COLL_BF16:  # an extension dtype, which the buffer protocol does not know
            return ffi.cast("void *", array.ctypes.data), array.size, code, None
        return ffi.from_buffer(array), array.size, code, None
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return _tensor(array, what, torch)
    raise InvalidArgument(
        f"{what} is a {type(array).__name__}; pass a numpy array or a torch tensor"
    )


def _tensor(tensor: Any, what: str, torch: Any) -> Buffer:
    code = _torch_dtypes.get(tensor.dtype)
    if code is None:
        code = _torch_dtypes[tensor.dtype] = _known_dtype(
            str(tensor.dtype).removeprefix("torch."), what
        )
    if tensor.device.type != "cpu":
        raise UnsupportedError(
            f"{what} is on {tensor.device}; only CPU tensors are supported yet: pass {what}.cpu()"
        )
    if tensor.layout is not torch.strided:
        raise UnsupportedError(f"{what} is {tensor.layout}; only dense tensors are supported")
    strides = None
    if not tensor.is_contiguous():
        item = tensor.element_size()
        strides = Strides(tensor.shape, [step * item for step in tensor.stride()])
    return ffi.cast("void *", tensor.data_ptr()), tensor.numel(), code, strides


def _other_dtype(dtype: Any, what: str) -> int:
    """A numpy dtype that is not one of the usual ones."""
    if not dtype.isnative:
        raise UnsupportedError(f"{what} is not in this machine's byte order; convert it first")
    code = _numpy_dtypes[dtype] = _known_dtype(dtype.name, what)
    return code


def _known_dtype(name: str, what: str) -> int:
    try:
        return DTYPES[name]
    except KeyError:
        raise UnsupportedError(
            f"{what} has dtype {name}; supported are {', '.join(DTYPES)}"
        ) from None
