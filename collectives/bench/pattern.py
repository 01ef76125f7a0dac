"""The numbers that the bench sends and reduces, and what must come out, exactly.

Each rank contributes small integers that differ between ranks and between blocks at every element,
so that a contribution that is missing, doubled, of the wrong rank or of the wrong block changes the
result, and that differ along the buffer, so that bytes in the wrong place do too. All sums stay
where the dtype is exact, so the check is for equal bits, whatever the order of the additions. For
``band`` and ``bor`` each has one bit that differs from the others, which is another one for each
rank as long as there are enough.

The numbers repeat with a prime period: no power of two, and so no slice, is a multiple of it, and
a buffer of any length is filled and checked a small block at a time.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectives.bench.collective import Part
from collectives.errors import InvalidArgument

Array = NDArray[Any]

# name -> (NumPy dtype of the bytes, integers up to this are exact, largest finite number)
# bfloat16 is unknown to NumPy: its bytes are kept as uint16, and torch gives them their meaning.
DTYPES: dict[str, tuple[str, int, float]] = {
    "float64": ("<f8", 1 << 53, 1.7e308),
    "float32": ("<f4", 1 << 24, 3.4e38),
    "float16": ("<f2", 1 << 11, 65504.0),
    "bfloat16": ("<u2", 1 << 8, 3.3e38),
    "int8": ("i1", (1 << 7) - 1, 0.0),
    "int16": ("<i2", (1 << 15) - 1, 0.0),
    "int32": ("<i4", (1 << 31) - 1, 0.0),
    "int64": ("<i8", 1 << 53, 0.0),
    "uint8": ("u1", (1 << 8) - 1, 0.0),
    "uint16": ("<u2", (1 << 16) - 1, 0.0),
    "uint32": ("<u4", (1 << 32) - 1, 0.0),
    "uint64": ("<u8", 1 << 53, 0.0),
    "bool": ("u1", 1, 0.0),
}
OPS = ("sum", "avg", "prod", "min", "max", "band", "bor", "bxor", "none")
_BITWISE = {"band": np.bitwise_and, "bor": np.bitwise_or, "bxor": np.bitwise_xor}
# A sum of bools is true where one of them is, a product where all are.
_OF_BOOLS = {"sum": "bor", "max": "bor", "prod": "band", "min": "band"}

_PERIODS = (8191, 127, 31, 7, 3)
# By so much the numbers of one rank or block are shifted against the next: no period divides it.
_SHIFT = 37
_LONGEST_CHAIN = 1 << 20
# A piece that is filled or checked at a time: small enough to stay in the cache.
_PIECE_ELEMENTS = 1 << 17


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Inputs and results of `op` over `ranks` ranks; ``"none"``: nothing is reduced.

    Raises:
        InvalidArgument: unknown dtype or op, or no pattern stays exact for that many ranks.
    """

    dtype: str
    op: str
    ranks: int

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InvalidArgument(f"unknown dtype {self.dtype!r}; known are {', '.join(DTYPES)}")
        if self.op not in OPS:
            raise InvalidArgument(f"unknown op {self.op!r}; known are {', '.join(OPS)}")
        if self.op in _BITWISE and DTYPES[self.dtype][2]:
            raise InvalidArgument(f"there is no {self.op} of {self.dtype}; take an integer or bool")
        if self.dtype == "bool" and self.op == "avg":
            raise InvalidArgument("there is no avg of bool; take another op, or an integer")
        if self._largest(_PERIODS[-1]) > self._exact:
            raise InvalidArgument(
                f"{self.dtype} cannot hold an exact {self.op} over {self.ranks} ranks; "
                "take a wider dtype or fewer ranks"
            )

    @property
    def _exact(self) -> int:
        return DTYPES[self.dtype][1]

    def _largest(self, period: int) -> int:
        """Return the largest number that occurs on the way to a result."""
        if self.dtype == "bool" or self.op in ("band", "bor"):
            return self._bits
        if self.op == "bxor":
            return int((1 << period.bit_length()) - 1)
        if self.op == "sum":
            return self.ranks * period
        if self.op == "avg":
            return self.ranks * self.ranks * period
        if self.op == "prod":
            return int(2**self.ranks)
        return period

    @property
    def _bits(self) -> int:
        """All bits that a number may have, so that it is exact and is not negative."""
        return (1 << max(1, self._exact.bit_length() - 1)) - 1

    @property
    def _does(self) -> str:
        """What the op comes to."""
        return _OF_BOOLS.get(self.op, self.op) if self.dtype == "bool" else self.op

    @property
    def period(self) -> int:
        """Elements after which the numbers repeat."""
        return next(p for p in _PERIODS if self._largest(p) <= self._exact)

    @property
    def storage(self) -> np.dtype[Any]:
        """The NumPy dtype that holds the bytes."""
        return np.dtype(DTYPES[self.dtype][0])

    def _numbers(self, rank: int, block: int) -> NDArray[np.float64]:
        base = (np.arange(self.period) + _SHIFT * (rank + self.ranks * block)) % self.period
        if self._does in ("band", "bor"):
            # Of bools about every third result is made what it is by one rank alone.
            rare = base % (self.ranks + 1) == 0
            bit = rare if self.dtype == "bool" else 1 << base % self._bits.bit_length()
            return (bit if self._does == "bor" else self._bits ^ bit).astype(np.float64)
        if self.dtype == "bool":
            # As good as chance, so that no two ranks have nearly the same (Knuth, 6.4).
            return (base * 2654435761 >> 16 & 1).astype(np.float64)
        if self.op == "prod":
            base &= 1
        scale = self.ranks if self.op == "avg" else 1
        return ((base + 1) * scale).astype(np.float64)

    def _result(self, part: Part, calls: int) -> NDArray[np.float64]:
        inputs = np.stack([self._numbers(rank, part.block) for rank in part.ranks])
        if self.op == "none":
            return np.asarray(inputs[0])
        if self._does in _BITWISE:
            whole = _BITWISE[self._does].reduce(inputs.astype(np.int64), axis=0)
            return np.asarray(whole, np.float64)
        if self.op == "sum":
            return np.asarray(inputs.sum(axis=0) * float(self.ranks) ** (calls - 1))
        if self.op == "avg":
            return np.asarray(inputs.sum(axis=0) / self.ranks)
        if self.op == "prod":
            return np.asarray(inputs.prod(axis=0))
        return np.asarray(inputs.min(axis=0) if self.op == "min" else inputs.max(axis=0))

    def _encode(self, numbers: NDArray[np.float64]) -> Array:
        if self.dtype == "bfloat16":
            # The upper half of a float32; what is cut off is zero for these numbers.
            return (numbers.astype("<f4").view("<u4") >> 16).astype("<u2")
        return numbers.astype(self.storage)

    def chain(self) -> int:
        """Return how many calls in place, each on the last one's result, stay exact.

        A wrong element in any of them is still wrong in the last, for sums.
        """
        if self._does in ("prod", "bxor"):
            return 1
        if self._does != "sum" or self.ranks == 1:
            return _LONGEST_CHAIN
        largest, limit = float(self._largest(self.period)), float(self._exact)
        if self.ranks & (self.ranks - 1) == 0:
            # Only the exponent grows, so it stays exact as long as it is finite.
            limit = max(limit, DTYPES[self.dtype][2])
        calls = 1
        while largest * self.ranks <= limit:
            largest *= self.ranks
            calls += 1
        return calls

    def fill(self, buffer: Array, rank: int, block: int = 0) -> None:
        """Write a block of the input of `rank` into a buffer of `storage`."""
        numbers = self._encode(self._numbers(rank, block))
        for piece in self._pieces(buffer):
            _spread(piece, numbers)

    def count_wrong(
        self, buffer: Array, part: Part | None = None, calls: int = 1, tolerance: float = 0.0
    ) -> int:
        """Return how many elements are not what they have to be.

        Args:
            buffer: a result, or a piece of one.
            part: what it is; None: block 0 of all ranks.
            calls: reductions over all ranks that led to it, each on the last one's result.
            tolerance: how far off an element may be; NaN is too far.
        """
        numbers = self._encode(self._result(part or Part(range(self.ranks), 0), calls))
        if tolerance > 0:
            return sum(
                int(np.count_nonzero(~(np.abs(piece - _repeated(numbers, piece)) <= tolerance)))
                for piece in self._pieces(buffer)
            )
        wrong = 0
        for piece in self._pieces(buffer):
            whole = len(piece) // len(numbers) * len(numbers)
            rows, rest = piece[:whole].reshape(-1, len(numbers)), piece[whole:]
            wrong += int(np.count_nonzero(rows != numbers))
            wrong += int(np.count_nonzero(rest != numbers[: len(rest)]))
        return wrong

    def _pieces(self, buffer: Array) -> list[Array]:
        step = max(1, _PIECE_ELEMENTS // self.period) * self.period
        return [buffer[i : i + step] for i in range(0, len(buffer), step)]


def _repeated(numbers: Array, like: Array) -> Array:
    out = np.empty_like(like)
    _spread(out, numbers)
    return out


def _spread(piece: Array, numbers: Array) -> None:
    whole = len(piece) // len(numbers) * len(numbers)
    piece[:whole].reshape(-1, len(numbers))[:] = numbers
    piece[whole:] = numbers[: len(piece) - whole]


def poison(buffer: Array) -> None:
    """Write what no pattern contains, so that bytes that nobody wrote are seen."""
    buffer.view(np.uint8).fill(0xFF)
