"""Every operation of torch.distributed, with every dtype and shape: as Gloo does it, in the same
ranks, and as numpy does. The cases are in torch_matrix.py."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import pytest

from torch_ranks import BACKEND, Ranks

# Of each world's cases in `make test`: of every operation five.
SAMPLE = 210


def play(rank: int, world: int, count: int, seed: int) -> tuple[int, list[str], list[int], Any]:
    import torch_matrix

    cases = torch_matrix.sample(count, seed) if count else torch_matrix.product()
    if BACKEND == "gloo":
        cases = [case for case in cases if torch_matrix.gloo_does(case)]
    counts = None
    played = torch_matrix.play(cases)
    if BACKEND == "collectives":
        import collectives.torch

        counts = collectives.torch.counts()
    return *played, counts


def check(ranks: Ranks, world: int, transport: str, count: int, seed: int, timeout: float) -> None:
    results = ranks.run(
        play,
        count,
        seed,
        world=world,
        timeout=timeout,
        group_timeout=60,
        options={"transport": transport} if BACKEND == "collectives" else None,
    )
    wrong = [
        f"rank {rank}: {bad} cases, among them\n  " + "\n  ".join(said)
        for rank, (bad, said, *_) in enumerate(results)
        if bad
    ]
    assert not wrong, f"seed {seed}\n" + "\n".join(wrong)
    for number, digests in enumerate(zip(*(result[2] for result in results), strict=True)):
        # 0: of a rank that was not in it, or a case in which ranks have different results.
        assert len(set(digests) - {0}) <= 1, f"seed {seed}: ranks differ in case {number}"
    assert any(any(result[2]) for result in results)
    if BACKEND == "collectives":
        kinds = {
            "all_reduce", "broadcast", "barrier", "reduce", "reduce_scatter", "all_gather",
            "gather", "scatter", "all_to_all", "send", "recv",
        }  # fmt: skip
        alone = {"send", "recv"} if world == 1 else set()
        for *_, counts in results:
            assert kinds - alone <= {kind for kind, number in counts.items() if number}, counts


@pytest.mark.parametrize(
    ("world", "transport"), [(1, "auto"), (2, "auto"), (3, "tcp"), (4, "auto")]
)
def test_a_sample_of_all_operations(ranks: Ranks, world: int, transport: str) -> None:
    seed = int(os.environ.get("COLLECTIVES_SEED") or random.randrange(1 << 20))
    print(f"COLLECTIVES_SEED={seed}")
    check(ranks, world, transport, SAMPLE, seed, timeout=60)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("world", "transport"), [(1, "auto"), (2, "tcp"), (3, "auto"), (4, "auto")]
)
def test_all_operations(ranks: Ranks, world: int, transport: str) -> None:
    began = time.monotonic()
    check(ranks, world, transport, 0, 0, timeout=3000)
    print(f"{time.monotonic() - began:.0f} s")


def try_gloo(rank: int, world: int, lack: str, seed: int) -> str:
    import torch_matrix

    lacks = torch_matrix.GLOO_LACKS[lack]
    case = random.Random(seed).choice([case for case in torch_matrix.product() if lacks(case)])
    _, what = torch_matrix.attempt(case, torch_matrix.dist.group.WORLD)
    return what and f"{case}: {what}"


LACKS = [
    "dtypes that it does not know", "averages of integers", "scaled sums", "complex numbers",
    "lists of uneven tensors", "stacked tensors", "gaps", "strided tensors to be split",
    "strided tensors from one to another", "futures of a reduce_scatter", "an exchange in place",
    "nothing from anybody",
]  # fmt: skip


@pytest.mark.parametrize("lack", LACKS)
def test_what_gloo_lacks_it_still_lacks(ranks: Ranks, lack: str) -> None:
    """Else what is said of it is out of date, and the comparison leaves something out."""
    seed = random.randrange(1 << 20)
    came = ranks.run(try_gloo, lack, seed, backend="gloo", group_timeout=3, may_die={0, 1})
    print(f"seed {seed}: {came}")
    # None: it died of it.
    assert any(what is None or what for what in came), f"Gloo does it now: seed {seed}, {came}"


def lacks(rank: int, world: int) -> list[str]:
    import torch_matrix

    return list(torch_matrix.GLOO_LACKS)


def test_all_that_gloo_lacks_is_tried(ranks: Ranks) -> None:
    assert ranks.run(lacks, world=1, init=False) == [LACKS]
