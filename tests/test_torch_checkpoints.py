"""Distributed checkpoints: four ranks save, two or three load, and have what the four had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from torch_ranks import BACKEND, Ranks
from training import Numbers, check_counts, observed


def run(
    ranks: Ranks, case: str, *args: object, world: int, backend: str = BACKEND
) -> list[Numbers]:
    found = ranks.run(observed, f"checkpoints:{case}", *args, world=world, backend=backend)
    if backend == BACKEND:
        for rank, (_, counts) in enumerate(found):
            check_counts(counts, ("gather", "scatter"), rank)
    return [numbers for numbers, _ in found]


def equal(found: list[Numbers], expected: Numbers) -> None:
    for rank, numbers in enumerate(found):
        assert numbers.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(numbers[name], value, f"rank {rank}, {name}", strict=True)


@pytest.mark.parametrize("background", [False, True], ids=["save", "async_save"])
def test_two_and_three_load_what_four_have_saved(
    ranks: Ranks, tmp_path: Path, background: bool
) -> None:
    saved = run(ranks, "save", str(tmp_path), background, world=4)
    assert len(saved[0]) > 20
    equal(saved, saved[0])
    for world in (2, 3):
        equal(run(ranks, "load", str(tmp_path), world=world), saved[0])


@pytest.mark.full
@pytest.mark.parametrize(("saver", "loader"), [("gloo", BACKEND), (BACKEND, "gloo")])
def test_a_checkpoint_does_not_depend_on_the_backend(
    ranks: Ranks, tmp_path: Path, saver: str, loader: str
) -> None:
    saved = run(ranks, "save", str(tmp_path), False, world=3, backend=saver)
    equal(run(ranks, "load", str(tmp_path), world=2, backend=loader), saved[0])
