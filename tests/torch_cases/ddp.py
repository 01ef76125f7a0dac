"""DistributedDataParallel, and what is used with it."""

from __future__ import annotations

import itertools

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import (
    ddp_zero_hook,
    default_hooks,
    post_localSGD_hook,
    powerSGD_hook,
)
from torch.distributed.algorithms.join import Join
from torch.distributed.algorithms.model_averaging import averagers, hierarchical_model_averager
from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from torch_cases.common import (
    SMALL_BUCKETS,
    Numbers,
    data_of,
    losses_and_weights,
    model_of,
    train,
    weights,
)

# ---- DistributedDataParallel ---------------------------------------------------------------------


def plain(rank: int, world: int) -> Numbers:
    return losses_and_weights(rank, DistributedDataParallel(model_of(), **SMALL_BUCKETS))


def large(rank: int, world: int) -> Numbers:
    """Some megabytes, in several buckets."""
    model = DistributedDataParallel(model_of(width=1000), bucket_cap_mb=2)
    return losses_and_weights(rank, model)


def bucket_views(rank: int, world: int) -> Numbers:
    return losses_and_weights(
        rank, DistributedDataParallel(model_of(), gradient_as_bucket_view=True, **SMALL_BUCKETS)
    )


class Recomputed(nn.Module):
    """A block that computes its activations again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = model_of()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(self.layers, x, use_reentrant=False)
        return result


def static_graph(rank: int, world: int) -> Numbers:
    return losses_and_weights(
        rank, DistributedDataParallel(Recomputed(), static_graph=True, **SMALL_BUCKETS)
    )


class Branches(nn.Module):
    """A parameter that rank 1 alone uses, and one that nobody does."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.trunk = model_of()
        self.branch = nn.Linear(3, 3)
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.trunk(x)
        return self.branch(h) if self.rank == 1 else h


def unused_parameters(rank: int, world: int) -> Numbers:
    model = DistributedDataParallel(Branches(rank), find_unused_parameters=True, **SMALL_BUCKETS)
    return losses_and_weights(rank, model)


def no_sync(rank: int, world: int) -> Numbers:
    model = DistributedDataParallel(model_of(), **SMALL_BUCKETS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for one, other in itertools.pairwise(data_of(rank, 4)):
        with model.no_sync():
            nn.functional.mse_loss(model(one[0]), one[1]).backward()
        nn.functional.mse_loss(model(other[0]), other[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return weights(model)


def uneven_inputs(rank: int, world: int) -> Numbers:
    model = DistributedDataParallel(model_of(), **SMALL_BUCKETS)
    with Join([model]):
        losses = train(model, data_of(rank, 2 + rank))
    return losses | weights(model)


def uneven_inputs_that_end_for_all(rank: int, world: int) -> Numbers:
    model = DistributedDataParallel(model_of(), **SMALL_BUCKETS)
    ended = False
    try:
        with model.join(throw_on_early_termination=True):
            train(model, data_of(rank, 2 + rank))
    except RuntimeError as error:
        ended = "exhausted" in str(error)
    assert ended
    return weights(model)


def sparse_gradients(rank: int, world: int) -> Numbers:
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.EmbeddingBag(50, 4, mode="sum", sparse=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(3):
        rows = torch.tensor([[rank + step, 7, 20 + rank]])
        model(rows).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return weights(model)


def buffers(rank: int, world: int) -> Numbers:
    """The running mean and variance of a batch norm are rank 0's in every forward pass."""
    torch.manual_seed(0)
    model = DistributedDataParallel(
        nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    )
    result = losses_and_weights(rank, model)
    with torch.no_grad():
        model(data_of(0, 1)[0][0])  # broadcasts the buffers
    return result | {"running_mean": model.module[1].running_mean.clone()}


def subgroup(rank: int, world: int) -> Numbers:
    """Ranks 2 and 0, in this order, train; the others wait."""
    group = dist.new_group([2, 0])
    result = {"rank": torch.tensor(dist.get_rank(group))}
    if rank in (0, 2):
        result |= losses_and_weights(
            rank, DistributedDataParallel(model_of(), process_group=group, **SMALL_BUCKETS)
        )
    dist.barrier()
    return result


def another_group(rank: int, world: int) -> Numbers:
    """The model goes on over a new group, as after a change of members."""
    model = DistributedDataParallel(model_of(), **SMALL_BUCKETS)
    before = losses_and_weights(rank, model)
    group = dist.new_group()
    model._update_process_group(group)
    after = losses_and_weights(rank, model)
    return {f"before {k}": v for k, v in before.items()} | after


# ---- communication hooks -------------------------------------------------------------------------


def bf16_hook(group, bucket):
    """DDP refuses torch's hook by its name where there is no CUDA."""
    return default_hooks.bf16_compress_hook(group, bucket)


def hooked(rank: int, world: int, name: str) -> Numbers:
    model = DistributedDataParallel(model_of(), **SMALL_BUCKETS)
    group = dist.group.WORLD
    if name == "all_reduce":
        model.register_comm_hook(group, default_hooks.allreduce_hook)
    elif name == "fp16":
        model.register_comm_hook(group, default_hooks.fp16_compress_hook)
    elif name == "bf16":
        model.register_comm_hook(group, bf16_hook)
    elif name == "built-in":
        model._register_builtin_comm_hook(dist.BuiltinCommHookType.ALLREDUCE)
    elif name == "built-in fp16":
        model._register_builtin_comm_hook(dist.BuiltinCommHookType.FP16_COMPRESS)
    return losses_and_weights(rank, model, steps=4)


def power_sgd(rank: int, world: int) -> Numbers:
    """Its callbacks wait for operations of their own.

    One bucket, as callbacks of several would issue theirs in an order that depends on timing.
    """
    model = DistributedDataParallel(model_of())
    state = powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=1, start_powerSGD_iter=2, min_compression_rate=0.5
    )
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return losses_and_weights(rank, model, steps=5)


def post_local_sgd(rank: int, world: int) -> Numbers:
    """Gradients are averaged for two steps, then parameters at every second one."""
    model = DistributedDataParallel(model_of(), **SMALL_BUCKETS)
    alone, _ = dist.new_subgroups(group_size=1)
    state = post_localSGD_hook.PostLocalSGDState(
        process_group=None, subgroup=alone, start_localSGD_iter=2
    )
    model.register_comm_hook(state, post_localSGD_hook.post_localSGD_hook)
    optimizer = PostLocalSGDOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1),
        averagers.PeriodicModelAverager(period=2, warmup_steps=2),
    )
    return losses_and_weights(rank, model, steps=6, optimizer=optimizer)


def hierarchical_averaging(rank: int, world: int) -> Numbers:
    """Pairs average their parameters every second step, all four every fourth."""
    model = model_of()
    averager = hierarchical_model_averager.HierarchicalModelAverager(
        period_group_size_dict={2: 2, 4: 4}
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return losses_and_weights(
        rank,
        model,
        steps=5,
        optimizer=optimizer,
        after_backward=lambda: averager.average_parameters(model.parameters()),
    )


# ---- sharded optimizers --------------------------------------------------------------------------


def zero_redundancy(rank: int, world: int) -> Numbers:
    model = DistributedDataParallel(model_of(), **SMALL_BUCKETS)
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), torch.optim.Adam, lr=1e-2, parameters_as_bucket_view=True
    )
    result = losses_and_weights(rank, model, optimizer=optimizer)
    optimizer.consolidate_state_dict(to=0)
    if rank == 0:
        moments = [v["exp_avg"] for _, v in sorted(optimizer.state_dict()["state"].items())]
        result["moments"] = torch.cat([moment.flatten() for moment in moments])
    return result


def steps(rank: int, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> Numbers:
    """Five; the optimizer leaves out the first two."""
    losses = []
    for number, (inputs, targets) in enumerate(data_of(rank, 5)):
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        if optimizer is not None and number >= 2:
            optimizer.step()
        model.zero_grad()
        losses.append(loss.detach())
    return {"losses": torch.stack(losses)} | weights(model)


def overlapping_optimizer(rank: int, world: int) -> Numbers:
    """The optimizer's steps and its broadcasts are in a hook; the first two are for its set-up."""
    model = DistributedDataParallel(model_of(), **SMALL_BUCKETS)
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), torch.optim.SGD, lr=0.1, overlap_with_ddp=True
    )
    hook = ddp_zero_hook.hook_with_zero_step(default_hooks.allreduce_hook, model, optimizer)
    model.register_comm_hook(None, hook)
    return steps(rank, model, None)


def optimizer_afterwards(rank: int, world: int) -> Numbers:
    """As `overlapping_optimizer`, which torch refuses with Gloo, as it may hang."""
    model = DistributedDataParallel(model_of(), **SMALL_BUCKETS)
    return steps(rank, model, torch.optim.SGD(model.parameters(), lr=0.1))


def uneven_inputs_of_two(rank: int, world: int) -> Numbers:
    """Join over a model and its sharded optimizer, which shadow each other's operations."""
    model = DistributedDataParallel(model_of(), **SMALL_BUCKETS)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
    with Join([model, optimizer]):
        losses = train(model, data_of(rank, 2 + rank), optimizer)
    return losses | weights(model)
