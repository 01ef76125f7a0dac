"""FSDP2: parameters, gradients and optimizer states in parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    fully_shard,
)

from torch_cases.common import Numbers, data_of, losses_and_weights, model_of, train, weights


def sharded(**how: Any) -> nn.Module:
    """`model_of`, each of its layers a unit of its own; 3 rows do not divide by 2 ranks."""
    model = model_of()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, **how)
    return fully_shard(model, **how)


def plain(rank: int, world: int) -> Numbers:
    return losses_and_weights(rank, sharded())


def first_fsdp(rank: int, world: int) -> Numbers:
    """The FSDP that FSDP2 has replaced."""
    model = FullyShardedDataParallel(model_of(), device_id=torch.device("cpu"))
    return train(model, data_of(rank, 3))


def kept_gathered(rank: int, world: int) -> Numbers:
    return losses_and_weights(rank, sharded(reshard_after_forward=False))


def mixed_precision(rank: int, world: int) -> Numbers:
    """bf16 parameters travel, gradients are reduced in f32."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return losses_and_weights(rank, sharded(mp_policy=policy))


def low_precision(rank: int, world: int) -> Numbers:
    """bf16 in both directions."""
    return losses_and_weights(
        rank, sharded(mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    )


def half_precision(rank: int, world: int) -> Numbers:
    """f16 gradients are divided before and after the sum."""
    return losses_and_weights(
        rank, sharded(mp_policy=MixedPrecisionPolicy(param_dtype=torch.float16))
    )


def hybrid(rank: int, world: int) -> Numbers:
    """HSDP: shards within pairs, replicas across them."""
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("replicate", "shard"))
    return losses_and_weights(rank, sharded(mesh=mesh))


def hybrid_accumulated(rank: int, world: int) -> Numbers:
    """HSDP that sums over replicas with the last of two microbatches."""
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("replicate", "shard"))
    model = sharded(mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = data_of(rank, 4)
    for i, (inputs, targets) in enumerate(data):
        model.set_requires_all_reduce(i % 2 == 1)
        nn.functional.mse_loss(model(inputs), targets).backward()
        if i % 2:
            optimizer.step()
            optimizer.zero_grad()
    return weights(model)


def accumulated(rank: int, world: int) -> Numbers:
    model = sharded()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i, (inputs, targets) in enumerate(data_of(rank, 4)):
        model.set_requires_gradient_sync(i % 2 == 1)
        nn.functional.mse_loss(model(inputs), targets).backward()
        if i % 2:
            optimizer.step()
            optimizer.zero_grad()
    return weights(model)


def divided(rank: int, world: int) -> Numbers:
    """A factor of one's own: the backend multiplies before it sums."""
    model = sharded()
    for module in model.modules():
        if hasattr(module, "set_gradient_divide_factor"):
            module.set_gradient_divide_factor(4.0)
    return losses_and_weights(rank, model)


def divided_by_torch(rank: int, world: int) -> Numbers:
    """As `divided`, for backends that cannot: torch divides, the backend only sums."""
    model = sharded()
    for module in model.modules():
        if hasattr(module, "set_gradient_divide_factor"):
            module.set_gradient_divide_factor(4.0)
            module.set_force_sum_reduction_for_comms(True)
    return losses_and_weights(rank, model)


def clipped(rank: int, world: int) -> Numbers:
    """The norm of gradients of which each rank has a part."""
    model = sharded()
    norms = []

    def clip() -> None:
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        norms.append(norm.full_tensor())

    result = train(model, data_of(rank, 3), after_backward=clip)
    return result | weights(model) | {"norms": torch.stack(norms)}


def from_rank_zero(rank: int, world: int) -> Numbers:
    """Rank 0 alone has the weights; after training it gets all of them."""
    full = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    model = model_of(seed=1 + rank)
    given = model.state_dict() if rank == 0 else {}
    given = {name: value.clone() for name, value in given.items()}
    model = sharded()
    set_model_state_dict(model, given, options=full)
    losses = losses_and_weights(rank, model)
    got = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return losses | {f"full {name}": value for name, value in got.items()}
