"""torch.compile over collectives gives the numbers that it gives with Gloo."""

from __future__ import annotations

import pytest

from torch_ranks import Ranks
from training import same_numbers

KINDS = {
    "collectives_in_a_graph": (
        "all_reduce",
        "all_gather",
        "reduce_scatter",
        "broadcast",
        "all_to_all",
    ),
    "ddp": ("all_reduce", "broadcast"),
    "fsdp": ("all_gather", "reduce_scatter"),
}


def test_collectives_in_a_graph(ranks: Ranks) -> None:
    case = "collectives_in_a_graph"
    same_numbers(ranks, f"compiled:{case}", "aot_eager", kinds=KINDS[case])


@pytest.mark.full
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.parametrize("case", KINDS)
def test_what_is_compiled(ranks: Ranks, case: str, compiler: str) -> None:
    same_numbers(ranks, f"compiled:{case}", compiler, kinds=KINDS[case], timeout=100)
