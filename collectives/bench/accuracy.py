"""What codecs lose: of one encoding, and of a whole all-reduce, beside theory; by the real kernels.

The signal-to-quantization-noise ratio (SQNR) is 10 log10(sum x^2 / sum (x - decoded)^2). An
all-reduce is played as the engine carries it out: *direct* encodes all inputs but one and then the
sum, a *ring* encodes the partial sum at each hop. Its error is given in units of the variance that
one encoding of one input has. Where inputs are independent, and the error is proportional to what
is encoded, the sum of k inputs costs k units: direct comes to (n-1) + n, a ring to n(n-1)/2 + n.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from collectives import lossless
from collectives.codec import Codec
from collectives.errors import InvalidArgument
from collectives.toy import text as texts

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

COUNT = 1 << 20
PEERS = (2, 3, 4, 6, 8, 12, 16)
STEPS, INNER_STEPS = 170, 30
_ROTATION, _ROUNDING = 0x5EED, 0xD1CE  # keys; any others would do

CODECS = (
    "bf16", "f16", "int8", "mxint8", "uint8", "uint8_zero", "mxfp8_e4m3", "mxfp8_e5m2", "int4",
    "nvint4", "nvfp4", "mxfp4", "e3m0", "int2", "topk",
)  # fmt: skip
REDUCED = ("int8", "mxint8", "int4", "nvfp4", "e3m0", "bf16")


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What one encoding loses.

    Attributes:
        codec: it.
        bits: per element.
        sqnr: in dB, by the name of what was encoded.
    """

    codec: Codec
    bits: float
    sqnr: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Reduction:
    """The error of an all-reduce of n inputs, in units of one encoding's variance, by codec."""

    peers: int
    algorithm: str
    theory: float
    error: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Packing:
    """How far an array was packed bit-exactly, and how fast: 1e6 bytes of the array a second."""

    what: str
    share: float
    pack: float
    unpack: float


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """All that ``measure`` found."""

    seed: int
    encodings: list[Encoding]
    reductions: list[Reduction]
    packings: list[Packing]

    def lines(self) -> Iterator[str]:
        """Tables for people, in Markdown."""
        yield f"seed {self.seed}; {COUNT} elements"
        yield ""
        inputs = list(self.encodings[0].sqnr)
        yield from _table(
            ["codec", "bits", *inputs],
            (
                [_name(one.codec), f"{one.bits:.2f}", *(f"{one.sqnr[i]:.1f}" for i in inputs)]
                for one in self.encodings
            ),
        )
        yield ""
        codecs = list(self.reductions[0].error)
        yield from _table(
            ["all-reduce", "peers", "theory", *codecs],
            (
                [one.algorithm, str(one.peers), f"{one.theory:.0f}"]
                + [f"{one.error[codec]:.1f}" for codec in codecs]
                for one in self.reductions
            ),
        )
        yield ""
        yield from _table(
            ["packed losslessly", "of the bytes", "pack MB/s", "unpack MB/s"],
            (
                [one.what, f"{one.share:.1%}", f"{one.pack:.0f}", f"{one.unpack:.0f}"]
                for one in self.packings
            ),
        )


def _name(codec: Codec) -> str:
    return f"{codec.name} rotated" if codec.hadamard else codec.name


def _table(head: list[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def measure(seed: int = 1, say: Callable[[str], None] = lambda _: None) -> Accuracy:
    """Measure it; the model that the weights are of is trained for this, which takes torch.

    Args:
        seed: of the inputs and of the training.
        say: told what is done next.
    """
    say(f"training the demo's model for {STEPS + INNER_STEPS} steps, seed {seed}")
    inputs = _inputs(seed)
    say("encoding")
    encodings = [_encoding(codec, inputs) for codec in _codecs()]
    say("reducing")
    return Accuracy(seed, encodings, list(_reductions(seed)), list(_packings(inputs["weights"])))


def _inputs(seed: int) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(seed)
    gauss = chance.standard_normal(COUNT, np.float32)
    outliers = chance.standard_normal(COUNT, np.float32)
    outliers[chance.choice(COUNT, COUNT // 1000, replace=False)] *= 50
    weights, pseudo_gradient = _trained(seed)
    return {
        "Gaussian": gauss,
        "Laplace": chance.laplace(size=COUNT).astype(np.float32),
        "outliers": outliers,
        "weights": weights,
        "pseudo-gradient": pseudo_gradient,
    }


def _trained(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the demo's model, and what its last inner steps have changed in them."""
    import torch

    from collectives.toy import model as models

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shape = models.Shape()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = models.ByteTransformer(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    shard = texts.as_tensor(texts.read(None))
    batches = texts.batches(shard[: len(shard) * 9 // 10], 16, shape.context, seed)
    before = np.empty(0, np.float32)
    for step in range(STEPS + INNER_STEPS):
        if step == STEPS:
            before = _flat(model)
        loss = models.loss_of(model, *next(batches))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()  # type: ignore[no-untyped-call,unused-ignore]
    torch.set_num_threads(threads)
    after = _flat(model)
    return after, before - after


def _flat(model: torch.nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])


def _codecs() -> Iterator[Codec]:
    for name in CODECS:
        yield Codec(name)
        try:
            yield Codec(name, hadamard=True)
        except InvalidArgument:
            continue  # casts and top-k are not rotated


def _passed(codec: Codec, values: np.ndarray) -> np.ndarray:
    """What is left of them."""
    encoded = codec.encode(values, rotation=_ROTATION, rounding=_ROUNDING)
    return codec.decode(encoded, values.size, rotation=_ROTATION)


def _encoding(codec: Codec, inputs: dict[str, np.ndarray]) -> Encoding:
    return Encoding(
        codec,
        8 * codec.encoded_bytes(COUNT) / COUNT,
        {
            name: 10 * float(np.log10(_energy(values) / _energy(values - _passed(codec, values))))
            for name, values in inputs.items()
        },
    )


def _energy(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _reductions(seed: int) -> Iterator[Reduction]:
    chance = np.random.default_rng(seed + 1)
    count = COUNT // 4
    inputs = [chance.standard_normal(count, np.float32) for _ in range(max(PEERS))]
    codecs = {name: Codec(name) for name in REDUCED}
    unit = {name: _energy(inputs[0] - _passed(codec, inputs[0])) for name, codec in codecs.items()}
    for algorithm, play, theory in (
        ("direct", _direct, _direct_theory),
        ("ring", _ring, _ring_theory),
    ):
        for peers in PEERS:
            mine = inputs[:peers]
            exact = np.sum(mine, axis=0, dtype=np.float64)
            error = {
                name: _energy(exact - play(codec, mine)) / unit[name]
                for name, codec in codecs.items()
            }
            yield Reduction(peers, algorithm, theory(peers), error)


def _direct(codec: Codec, inputs: list[np.ndarray]) -> np.ndarray:
    total = inputs[0].copy()
    for one in inputs[1:]:
        total += _passed(codec, one)
    return _passed(codec, total)


def _ring(codec: Codec, inputs: list[np.ndarray]) -> np.ndarray:
    total = inputs[0]
    for one in inputs[1:]:
        total = _passed(codec, total) + one
    return _passed(codec, total)


def _direct_theory(n: int) -> float:
    return n - 1 + n


def _ring_theory(n: int) -> float:
    return n * (n - 1) / 2 + n


def _packings(weights: np.ndarray) -> Iterator[Packing]:
    bf16 = Codec("bf16").encode(weights).view(np.uint16)  # whose encoding is the type itself
    for what, dtype, array in (
        ("weights, bf16", "bfloat16", bf16),
        ("weights, f16", "float16", weights.astype(np.float16)),
        ("weights, f32", "float32", weights),
        ("weights, bf16, as bytes", "", bf16),
    ):
        packed, pack = _best(functools.partial(lossless.pack, array, dtype))
        into = np.empty(array.nbytes, np.uint8)
        _, unpack = _best(functools.partial(lossless.unpack, packed, into))
        yield Packing(
            what, len(packed) / array.nbytes, array.nbytes / pack / 1e6, array.nbytes / unpack / 1e6
        )


def _best(call: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and the least seconds that it takes."""
    found, least = call(), float("inf")
    for _ in range(9):
        began = time.perf_counter()
        found = call()
        least = min(least, time.perf_counter() - began)
    return found, least
