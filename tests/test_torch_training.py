"""DistributedDataParallel, and what is used with it, gives the numbers that it gives with Gloo."""

from __future__ import annotations

import pytest

from torch_ranks import Ranks
from training import same_numbers

DDP = ("all_reduce", "broadcast", "all_gather")

CASES = {
    "plain": (2, DDP),
    "bucket_views": (2, DDP),
    "static_graph": (2, DDP),
    "unused_parameters": (2, DDP),
    "no_sync": (2, DDP),
    "uneven_inputs": (2, DDP),
    "uneven_inputs_that_end_for_all": (2, DDP),
    "sparse_gradients": (2, ("broadcast", "all_gather")),
    "buffers": (2, DDP),
    "subgroup": (3, ("barrier",)),
    "another_group": (2, DDP),
    "power_sgd": (2, DDP),
    "post_local_sgd": (2, DDP),
    "hierarchical_averaging": (4, ("all_reduce",)),
    "zero_redundancy": (2, DDP),
    "uneven_inputs_of_two": (2, DDP),
}


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_gloo(ranks: Ranks, case: str) -> None:
    world, kinds = CASES[case]
    same_numbers(ranks, f"ddp:{case}", world=world, kinds=kinds)


def test_an_optimizer_that_overlaps_with_the_backward_pass(ranks: Ranks) -> None:
    case, reference = "ddp:overlapping_optimizer", "ddp:optimizer_afterwards"
    same_numbers(ranks, case, kinds=DDP, reference=reference)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_megabytes_of_gradients(ranks: Ranks, transport: str) -> None:
    environment = {"COLLECTIVES_TRANSPORT": transport}
    same_numbers(ranks, "ddp:large", kinds=DDP, environment=environment)


@pytest.mark.parametrize("world", [3, 4])
def test_more_ranks_agree_with_gloo_within_rounding(ranks: Ranks, world: int) -> None:
    same_numbers(ranks, "ddp:plain", world=world, kinds=DDP)


@pytest.mark.parametrize("hook", ["all_reduce", "fp16", "bf16", "built-in", "built-in fp16"])
def test_a_communication_hook_gives_the_numbers_of_gloo(ranks: Ranks, hook: str) -> None:
    same_numbers(ranks, "ddp:hooked", hook, kinds=DDP)
