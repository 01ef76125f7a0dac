"""Runs a case of `torch_cases` by Gloo and by this library's backend, and compares the numbers.

torch is imported in the ranks alone.
"""

from __future__ import annotations

import collections
import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np

import torch_ranks
from torch_ranks import Ranks

Numbers = dict[str, np.ndarray]

# Sums of three or more floats depend on the rank at which they begin, which is another one here
# than with Gloo: the last bits of f32. Steps of an optimizer make some of them larger.
ROUNDING = 1e-4


def observed(rank: int, world: int, case: str, *args: Any) -> tuple[Numbers, dict[str, int]]:
    """In a rank: what a case came to, and how many operations this library carried out for it."""
    import torch.distributed as dist
    from torch.distributed import distributed_c10d as c10d

    module, _, name = case.partition(":")
    numbers = getattr(importlib.import_module(f"torch_cases.{module}"), name)(rank, world, *args)
    counts: collections.Counter[str] = collections.Counter()
    if dist.get_backend() == "collectives":
        import collectives.torch

        for group in list(c10d._world.pg_map):
            counts.update(collectives.torch.counts(group))
    return {name: plain(value) for name, value in numbers.items()}, dict(counts)


def plain(value: Any) -> np.ndarray:
    """A tensor as an array; of types that numpy lacks, f32, which holds all of their values."""
    try:
        return value.detach().numpy()
    except TypeError:
        return value.detach().float().numpy()


def check_counts(counts: dict[str, int], kinds: Iterable[str], rank: int) -> None:
    """See that a rank has issued operations of each kind through this library's backend."""
    missing = {kind for kind in kinds if not counts.get(kind)}
    if torch_ranks.BACKEND == "collectives":
        assert not missing, f"rank {rank} issued no {missing} through the backend: {counts}"


def same_numbers(
    ranks: Ranks,
    case: str,
    *args: Any,
    world: int = 2,
    kinds: Iterable[str],
    reference: str | None = None,
    tolerance: float | None = None,
    **how: Any,
) -> list[Numbers]:
    """Run a case by either backend; the numbers must be the same, and the operations ours.

    Args:
        ranks: where to run it.
        case: ``"module:function"`` of `torch_cases`.
        args: of the case, besides rank and world.
        world: how many ranks.
        kinds: operations that every rank must have issued through this library's backend.
        reference: what Gloo runs, if it cannot run the case itself.
        tolerance: relative and absolute, of floats; None: equal to the bit with two ranks, as a sum
            of two is the same in either order, and `ROUNDING` with more.
        how: of ``ranks.run``.
    """
    if tolerance is None:
        tolerance = 0.0 if world <= 2 else ROUNDING
    gloo = ranks.run(observed, reference or case, *args, world=world, backend="gloo", **how)
    ours = ranks.run(observed, case, *args, world=world, **how)
    for rank, ((expected, _), (found, counts)) in enumerate(zip(gloo, ours, strict=True)):
        check_counts(counts, kinds, rank)
        assert expected, f"rank {rank} returned nothing that could be compared"
        assert found.keys() == expected.keys(), f"rank {rank}"
        for name, value in expected.items():
            where = f"rank {rank}, {name}"
            assert np.isfinite(value).all(), f"{where}: {value}"
            if tolerance == 0.0:
                np.testing.assert_array_equal(found[name], value, where, strict=True)
            else:
                np.testing.assert_allclose(found[name], value, tolerance, tolerance, err_msg=where)
                assert found[name].dtype == value.dtype, where
    return [found for found, _ in ours]
