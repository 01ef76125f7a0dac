"""torch.compile over collectives."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import _functional_collectives as functional
from torch.nn.parallel import DistributedDataParallel

from torch_cases.common import Numbers, losses_and_weights, model_of
from torch_cases.sharded import sharded


def collectives_in_a_graph(rank: int, world: int, compiler: str) -> Numbers:
    """Functional collectives, and those of torch.distributed that become them, in one graph."""
    group = dist.group.WORLD
    assert group is not None

    def work(x: Tensor) -> tuple[Tensor, ...]:
        y = functional.all_reduce(x * 2, "sum", group) + 1
        gathered = functional.all_gather_tensor(y, 0, group)
        part = functional.reduce_scatter_tensor(gathered * gathered, "sum", 0, group)
        everywhere = functional.broadcast(part * (rank + 1), 0, group)
        split = [x.shape[0] // world] * world
        exchanged = functional.all_to_all_single(y, split, split, group)
        several = functional.all_reduce_coalesced([x, y], "max", group)
        in_place = x.clone()
        dist.all_reduce(in_place)
        return y.relu(), gathered, part.sin(), everywhere, exchanged, *several, in_place + y

    x = torch.arange(4.0 * world).reshape(2 * world, 2) + rank
    outputs = torch.compile(work, backend=compiler, fullgraph=True)(x)
    return {f"output {i}": output.clone() for i, output in enumerate(outputs)}


def ddp(rank: int, world: int, compiler: str) -> Numbers:
    """Dynamo cuts the graph where a bucket is full: at one MB, the least that it takes."""
    model = DistributedDataParallel(model_of(width=600), bucket_cap_mb=1)
    return losses_and_weights(rank, torch.compile(model, backend=compiler))


def fsdp(rank: int, world: int, compiler: str) -> Numbers:
    model = sharded()
    model.compile(backend=compiler)
    return losses_and_weights(rank, model)
