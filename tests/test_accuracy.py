"""The accuracy bench: its figures are those of theory where theory holds."""

from __future__ import annotations

import numpy as np
import pytest

from collectives.bench import accuracy
from collectives.codec import Codec

SEED = 11  # of statistics whose spread is far below what is allowed here


@pytest.mark.parametrize("name", ["int8", "bf16"])
@pytest.mark.parametrize("peers", [2, 5, 8])
def test_an_all_reduce_has_the_error_of_its_encodings(name: str, peers: int):
    chance = np.random.default_rng(SEED)
    inputs = [chance.standard_normal(1 << 16, np.float32) for _ in range(peers)]
    codec, exact = Codec(name), np.sum(inputs, axis=0, dtype=np.float64)
    unit = accuracy._energy(inputs[0] - accuracy._passed(codec, inputs[0]))
    for play, theory in (
        (accuracy._direct, accuracy._direct_theory),
        (accuracy._ring, accuracy._ring_theory),
    ):
        assert accuracy._energy(exact - play(codec, inputs)) / unit == pytest.approx(
            theory(peers),
            rel=0.05,  # of 65,536 independent errors
        )


@pytest.mark.full
def test_the_tables_have_every_codec_and_every_input(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("torch")
    for name, value in {"COUNT": 1 << 14, "STEPS": 2, "INNER_STEPS": 1, "PEERS": (2, 3)}.items():
        monkeypatch.setattr(accuracy, name, value)
    found = accuracy.measure(SEED)
    assert {one.codec.name for one in found.encodings} == set(accuracy.CODECS)
    assert all(np.isfinite(list(one.sqnr.values())).all() for one in found.encodings)
    lines = list(found.lines())
    assert sum(line.startswith("| int8 rotated |") for line in lines) == 1
    assert sum(line.startswith("| ring |") for line in lines) == 2
    assert any(line.startswith("| weights, bf16 |") for line in lines)
