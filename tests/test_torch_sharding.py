"""FSDP2, DTensor, tensor parallelism and pipelines give the numbers that they give with Gloo."""

from __future__ import annotations

import pytest

from torch_ranks import Ranks
from training import same_numbers

FSDP = ("all_gather", "reduce_scatter")

# By case: how many ranks, and which operations must have been ours.
CASES = {
    "sharded:plain": (2, FSDP),
    "sharded:kept_gathered": (2, FSDP),
    "sharded:first_fsdp": (2, FSDP),
    "sharded:mixed_precision": (2, FSDP),
    "sharded:low_precision": (2, FSDP),
    "sharded:half_precision": (2, FSDP),
    "sharded:accumulated": (2, FSDP),
    "sharded:hybrid": (4, (*FSDP, "all_reduce")),
    "sharded:hybrid_accumulated": (4, (*FSDP, "all_reduce")),
    "sharded:clipped": (2, (*FSDP, "all_reduce")),
    "sharded:from_rank_zero": (2, (*FSDP, "broadcast")),
    "parallel:redistributed": (2, ("all_gather", "all_reduce", "scatter", "reduce_scatter")),
    "parallel:two_dimensions": (4, ("all_gather", "scatter")),
    "parallel:tensor_parallel": (2, ("all_reduce",)),
    "parallel:sequence_parallel": (2, ("all_reduce", "all_gather")),
    "parallel:sharded_tensor_parallel": (4, (*FSDP, "all_reduce")),
    "parallel:classes_in_parts": (2, ("all_reduce",)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_gloo(ranks: Ranks, case: str) -> None:
    world, kinds = CASES[case]
    same_numbers(ranks, case, world=world, kinds=kinds)


def test_gradients_are_multiplied_before_the_sum_where_gloo_cannot(ranks: Ranks) -> None:
    # A quarter of each gradient, then the sum, or a quarter of the sum: powers of two are exact.
    same_numbers(ranks, "sharded:divided", kinds=FSDP, reference="sharded:divided_by_torch")


@pytest.mark.parametrize("case", ["sharded:plain", "parallel:redistributed"])
def test_parts_that_are_not_equal_agree_with_gloo(ranks: Ranks, case: str) -> None:
    same_numbers(ranks, case, world=3, kinds=["all_gather", "reduce_scatter"])


@pytest.mark.parametrize(("schedule", "world"), [("GPipe", 2), ("1F1B", 3)])
def test_pipelines_give_the_numbers_of_gloo(ranks: Ranks, schedule: str, world: int) -> None:
    # Nothing is summed on the way, so three ranks have the same bits, too.
    kinds = ("send", "recv")
    same_numbers(ranks, "parallel:pipeline", schedule, world=world, kinds=kinds, tolerance=0.0)


@pytest.mark.parametrize("world", [2, 3])
def test_gradients_go_through_collectives(ranks: Ranks, world: int) -> None:
    kinds = ("all_reduce", "broadcast", "reduce", "all_gather", "reduce_scatter", "all_to_all")
    same_numbers(ranks, "parallel:gradients", world=world, kinds=kinds)
