"""What a quantized reduction has to give, bit by bit, from the codec's own kernels.

    wanted = quantized.reduced([x0, x1, x2], Codec("int8"), op="avg")

As long as the codec is neither rotated nor rounded stochastically, whose keys follow from the
operation's number and the view's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from collectives.codec import Codec


def segments(count: int, unit: int, size: int) -> list[slice]:
    """Of what is reduced: whole units each, the longer ones first."""
    units = -(-count // unit)
    edges = [i * (units // size) + min(i, units % size) for i in range(size + 1)]
    return [
        slice(min(begin * unit, count), min(end * unit, count))
        for begin, end in itertools.pairwise(edges)
    ]


def passed(codec: Codec, values: np.ndarray) -> np.ndarray:
    """What is left of them on the way."""
    return codec.decode(codec.encode(values), len(values))


def divided(total: np.ndarray, op: str, size: int) -> np.ndarray:
    return total / np.float32(size) if op == "avg" else total


def direct(
    inputs: Sequence[np.ndarray], owner: int, first: int, codec: Codec, op: str
) -> np.ndarray:
    """What the owner of a segment has, before it is encoded again: its own input as it is."""
    size = len(inputs)
    order = [(first + k) % size for k in range(size)]
    given = [inputs[r] if r == owner else passed(codec, inputs[r]) for r in order]
    total = given[0].copy()
    for one in given[1:]:
        total += one
    return divided(total, op, size)


def ring(inputs: Sequence[np.ndarray], first: int, codec: Codec, op: str) -> np.ndarray:
    """The same, where what each adds to is encoded at each hop."""
    size = len(inputs)
    total = inputs[first]
    for k in range(1, size):
        total = passed(codec, total) + inputs[(first + k) % size]
    return divided(total, op, size)


def reduced(
    arrays: Sequence[np.ndarray], codec: Codec, op: str = "sum", algorithm: str = "direct"
) -> np.ndarray:
    """The result of an all_reduce on every rank, of the dtype of the arrays, by rank."""
    size, count, dtype = len(arrays), len(arrays[0]), arrays[0].dtype
    if size == 1:
        return arrays[0]
    wide = [array.astype(np.float32) for array in arrays]
    out = np.empty(count, np.float32)
    for s, part in enumerate(segments(count, codec.unit, size)):
        inputs = [array[part] for array in wide]
        if algorithm == "ring":
            total = ring(inputs, s, codec, op)
        else:
            total = direct(inputs, (s - 1) % size, s, codec, op)
        out[part] = passed(codec, total)
    return out.astype(dtype)
