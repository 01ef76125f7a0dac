"""DTensor, tensor parallelism, pipelines, and collectives that autograd goes through."""

from __future__ import annotations

import itertools

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import _functional_collectives as functional
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.nn import functional as autograd
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)

from torch_cases.common import Numbers, data_of, model_of, train, weights

# ---- DTensor -------------------------------------------------------------------------------------


def redistributed(rank: int, world: int) -> Numbers:
    """Every placement into every other, of shapes that do not divide by the number of ranks."""
    mesh = init_device_mesh("cpu", (world,))
    torch.manual_seed(0)
    result = {}
    for shape in ((world * 2, world * 3), (world * 2 + 1, world + 1), (1, world)):
        whole = torch.randint(-50, 50, shape).float()
        sources = {
            "shard 0": distribute_tensor(whole, mesh, [Shard(0)]),
            "shard 1": distribute_tensor(whole, mesh, [Shard(1)]),
            "replicate": distribute_tensor(whole, mesh, [Replicate()]),
            "partial": DTensor.from_local(whole * (rank + 1), mesh, [Partial()]),
            "partial avg": DTensor.from_local(whole + rank, mesh, [Partial("avg")]),
            "partial max": DTensor.from_local(whole * (-1) ** rank, mesh, [Partial("max")]),
        }
        for (name, source), placement in itertools.product(
            sources.items(), (Shard(0), Shard(1), Replicate())
        ):
            moved = source.redistribute(mesh, [placement])
            where = f"{shape}, {name} to {placement}"
            result[where] = moved.to_local().clone()
            result[f"{where}, whole"] = moved.full_tensor()
    return result


def two_dimensions(rank: int, world: int) -> Numbers:
    """Redistribution along both dimensions of a 2-D mesh."""
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("rows", "columns"))
    whole = torch.arange(35.0).reshape(5, 7)
    result = {}
    layouts = [[Shard(0), Shard(1)], [Shard(1), Shard(1)], [Replicate(), Shard(0)]]
    for here, there in itertools.permutations(layouts, 2):
        moved = distribute_tensor(whole, mesh, here).redistribute(mesh, there)
        result[f"{here} to {there}"] = moved.to_local().clone()
        result[f"{here} to {there}, whole"] = moved.full_tensor()
    return result


# ---- tensor parallelism --------------------------------------------------------------------------


class Block(nn.Module):
    """A norm and two layers over [batch, length, 8], added back."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 24)
        self.down = nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.relu(self.up(self.norm(x))))
        return y


def sequences(steps: int = 3) -> list[tuple[Tensor, Tensor]]:
    """(inputs, targets), [2, 6, 8]: the same on all ranks."""
    generator = torch.Generator().manual_seed(5)
    both = (torch.randn(2, steps, 2, 6, 8, generator=generator)).unbind()
    return list(zip(*both, strict=True))


def tensor_parallel(rank: int, world: int) -> Numbers:
    mesh = init_device_mesh("cpu", (world,))
    torch.manual_seed(0)
    model = parallelize_module(Block(), mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return train(model, sequences(), torch.optim.SGD(model.parameters(), lr=0.1)) | weights(model)


def by_sequence(mesh: DeviceMesh) -> nn.Module:
    """A block in parts, whose norm works on a part of each sequence."""
    torch.manual_seed(0)
    model = parallelize_module(
        Block(),
        mesh,
        {
            "norm": SequenceParallel(),
            "up": ColwiseParallel(input_layouts=Shard(1)),
            "down": RowwiseParallel(),
        },
    )
    scattered = PrepareModuleInput(
        input_layouts=Replicate(), desired_input_layouts=Shard(1), use_local_output=True
    )
    return parallelize_module(model, mesh, scattered)


def sequence_parallel(rank: int, world: int) -> Numbers:
    mesh = init_device_mesh("cpu", (world,))
    model = by_sequence(mesh)
    return train(model, sequences(), torch.optim.SGD(model.parameters(), lr=0.1)) | weights(model)


def classes_in_parts(rank: int, world: int) -> Numbers:
    """A cross-entropy over logits of which each rank has some classes."""
    mesh = init_device_mesh("cpu", (world,))
    torch.manual_seed(0)
    model = nn.Linear(8, 10 * world)
    head = ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)
    model = parallelize_module(model, mesh, head)
    inputs = sequences(1)[0][0].flatten(0, 1)
    targets = torch.arange(12) % (10 * world)
    with loss_parallel():
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
    return {"loss": loss.full_tensor().detach(), "gradient": model.weight.grad.to_local()}


def sharded_tensor_parallel(rank: int, world: int) -> Numbers:
    """FSDP2 across pairs of tensor-parallel ranks, and a norm over both dimensions."""
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("data", "tensor"))
    model = by_sequence(mesh["tensor"])
    fully_shard(model, mesh=mesh["data"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []

    def clip() -> None:
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.1).full_tensor())

    result = train(model, sequences(), optimizer, after_backward=clip)
    return result | weights(model) | {"norms": torch.stack(norms)}


# ---- pipelines -----------------------------------------------------------------------------------


def pipeline(rank: int, world: int, schedule: str) -> Numbers:
    """A stage per rank; activations and their gradients go from rank to rank."""
    layers = list(model_of())
    cut = len(layers) * rank // world, len(layers) * (rank + 1) // world
    module = nn.Sequential(*layers[slice(*cut)])
    stage = PipelineStage(module, rank, world, torch.device("cpu"))
    made = {"GPipe": ScheduleGPipe, "1F1B": Schedule1F1B}[schedule](
        stage, n_microbatches=4, loss_fn=nn.functional.mse_loss
    )
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    seen: list[Tensor] = []
    for inputs, targets in data_of(0, 3, batch=8):
        if rank == 0:
            made.step(inputs)
        elif rank == world - 1:
            made.step(target=targets, losses=seen)
        else:
            made.step()
        optimizer.step()
        optimizer.zero_grad()
    losses = {"losses": torch.stack(seen).detach()} if seen else {}
    return weights(module) | losses


# ---- collectives that autograd goes through ------------------------------------------------------


def gradients(rank: int, world: int) -> Numbers:
    """Each of torch.distributed.nn.functional, forward and backward."""
    torch.manual_seed(rank)
    result = {}

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, requires_grad=True)

    def backward(name: str, outputs: Tensor | tuple[Tensor, ...], *leaves: Tensor) -> None:
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        weight = torch.arange(1.0, outputs[0].numel() + 1).reshape(outputs[0].shape)
        sum((rank + 1) * (weight * output * output).sum() for output in outputs).backward()
        for i, output in enumerate(outputs):
            result[f"{name}, output {i}"] = output.detach()
        for i, one in enumerate(leaves):
            result[f"{name}, gradient {i}"] = one.grad if one.grad is not None else torch.zeros(0)

    x = leaf(5)
    backward("all_reduce", autograd.all_reduce(x.clone()), x)
    x = leaf(5)
    backward("broadcast", autograd.broadcast(x.clone(), src=world - 1), x)
    x = leaf(5)
    backward("reduce", autograd.reduce(x.clone(), dst=0), x)
    if rank != 0:  # what is there is not defined, and the gradient of it is the same everywhere
        del result["reduce, output 0"]
    x = leaf(5)
    backward("all_gather", autograd.all_gather(x), x)
    x = leaf(5)
    backward("gather", autograd.gather(x, dst=0), x)
    xs = [leaf(5) for _ in range(world)]
    backward("scatter", autograd.scatter(xs, src=0), *xs)
    xs = [leaf(5) for _ in range(world)]
    backward("reduce_scatter", autograd.reduce_scatter(torch.zeros(5), xs), *xs)
    xs = [leaf(5) for _ in range(world)]
    received = autograd.all_to_all([torch.zeros(5) for _ in range(world)], xs)
    backward("all_to_all", received, *xs)
    x = leaf(world * 3)
    exchanged = autograd.all_to_all_single(torch.zeros(world * 3), x)
    backward("all_to_all_single", exchanged, x)
    group = dist.group.WORLD
    x = leaf(world * 2, 3)
    split = [2] * world
    backward(
        "functional all_to_all", functional.all_to_all_single_autograd(x, split, split, group), x
    )
    x = leaf(2, 3)
    backward("functional all_gather", functional.all_gather_tensor_autograd(x, 0, group), x)
    x = leaf(world * 2, 3)
    scattered = functional.reduce_scatter_tensor_autograd(x, "sum", 0, group)
    backward("functional reduce_scatter", scattered, x)
    return result
