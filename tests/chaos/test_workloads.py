"""Workloads: whatever a scenario may say, they can do, and they see a value that is wrong."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from collectives.chaos.parts import WORKLOADS
from collectives.chaos.workloads import allreduce
from collectives.work import Result

NAMES = ("p0", "p1.2", "p2-1", "p3")
(DTYPE,) = (row for row in WORKLOADS["allreduce"][1] if row.name == "dtype")


@pytest.mark.parametrize("dtype", [np.dtype(name) for name in DTYPE.choices], ids=str)
@pytest.mark.parametrize("op", ["sum", "max"])
def test_rounding_is_no_wrong_value_and_a_wrong_value_is_seen(dtype: np.dtype, op: str) -> None:
    inputs = [allreduce.data(1, name, 5, 1000, dtype) for name in NAMES]
    assert all(mine.dtype == dtype and np.unique(mine).size > 500 for mine in inputs)
    value = inputs[0].copy()
    for mine in inputs[1:]:  # rounded after each addition, as hops do
        value = value + mine if op == "sum" else np.maximum(value, mine)
    wrongs: list[str] = []
    seat = SimpleNamespace(
        settings=SimpleNamespace(seed=1),
        recorder=SimpleNamespace(wrong=wrongs.append, groups=[SimpleNamespace(name="p0")]),
    )

    def check() -> None:
        result = Result(value, NAMES, 1, 0, 0, 0.0)
        allreduce._check(seat, 5, op, inputs[0], result, True)

    check()
    assert wrongs == []
    exact = dtype.kind in "iu"
    value[77] += 1 if exact else 8 * np.finfo(dtype).eps * sum(abs(mine[77]) for mine in inputs)
    check()
    [wrong] = wrongs
    assert wrong.startswith(f"element 77 of 1000 of the {op} of {NAMES} is {value[77]}, not ")
