"""From numpy arrays and torch tensors, and lists of them, to what the core takes.

That is an address, a count, a dtype, and how it lies in memory.

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

    def as_input(self, call: Any) -> None:
        """The call takes an array that lies like this."""
        call.input_strides = self.struct

    def as_output(self, call: Any) -> None:
        """The call's result goes to one."""
        call.output_strides = self.struct

    def __init__(self, shape: Sequence[int], strides: Sequence[int]) -> None:
        self.lies = (*shape, *strides)
        self._shape = ffi.new("uint64_t[]", list(shape))
        self._strides = ffi.new("int64_t[]", list(strides))
        self.struct = ffi.new("struct coll_strides *")
        self.struct.dims = len(shape)
        self.struct.shape = self._shape
        self.struct.strides = self._strides


class Arrays:
    """A list of arrays, one after the other.

    Args:
        arrays: what was passed.
        buffers: what each is to the core.

    Attributes:
        arrays: what was passed; they live as long as this.
        buffers: what each is to the core.
    """

    __slots__ = ("_struct", "arrays", "buffers")

    def __init__(self, arrays: tuple[Any, ...], buffers: list[Buffer]) -> None:
        self.arrays = arrays
        self.buffers = buffers
        self._struct = ffi.new("struct coll_array[]", len(buffers))
        for item, (pointer, count, _, lies) in zip(self._struct, buffers, strict=True):
            item.data = pointer
            item.count = count
            if isinstance(lies, Strides):
                item.strides = lies.struct

    def as_input(self, call: Any) -> None:
        """The call takes them."""
        call.inputs = self._struct
        call.input_arrays = len(self.buffers)

    def as_output(self, call: Any) -> None:
        """The call's result goes to them."""
        call.outputs = self._struct
        call.output_arrays = len(self.buffers)


Buffer = tuple[Any, int, int, "Strides | Arrays | None"]
"""An array as the core sees it: a pointer (cdata that keeps numpy's buffer alive), the number of
elements, the core's number of the dtype; how it lies, None: in one piece. Of a list: no pointer."""


def buffer_of(array: Any, what: str, *, writable: bool) -> Buffer:
    """Describe a numpy array or CPU tensor, or a list of them.

    Args:
        array: numpy array or torch tensor of any shape and strides, also empty or 0-d; or a list or
            tuple of at least one, all of one dtype.
        what: the argument's name, for messages.
        writable: whether it will be written to.

    Raises:
        InvalidArgument: it is no array, or read-only though written to; a list without an array, or
            of several dtypes.
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
    if isinstance(array, list | tuple):
        return _list(array, what, writable)
    raise InvalidArgument(
        f"{what} is a {type(array).__name__}; pass a numpy array or a torch tensor, or a list of"
        " them"
    )


def is_list(array: Any) -> bool:
    """Whether an argument is a list of arrays, and no array."""
    return isinstance(array, list | tuple)


def _list(arrays: Sequence[Any], what: str, writable: bool) -> Buffer:
    if not arrays:
        raise InvalidArgument(f"{what} is an empty list, which has no dtype; pass an empty array")
    buffers = []
    for i, array in enumerate(arrays):
        if is_list(array):
            raise InvalidArgument(f"{what}[{i}] is a {type(array).__name__}; pass a flat list")
        buffers.append(buffer_of(array, f"{what}[{i}]", writable=writable))
    dtypes = dict.fromkeys(dtype_name(dtype) for _, _, dtype, _ in buffers)
    if len(dtypes) > 1:
        raise InvalidArgument(
            f"{what} has arrays of {', '.join(dtypes)}; those of a list have one dtype: make a call"
            " for each"
        )
    count = sum(count for _, count, _, _ in buffers)
    return ffi.NULL, count, buffers[0][2], Arrays(tuple(arrays), buffers)


def dtype_name(dtype: int) -> str:
    """The name of a dtype of the core."""
    name: str = ffi.string(lib.coll_dtype_name(dtype)).decode()
    return name


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
