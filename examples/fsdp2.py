"""Train a small language model with FSDP2: each rank holds a part of every parameter.

    torchrun --nproc-per-node 2 examples/fsdp2.py
    torchrun --nproc-per-node 2 examples/fsdp2.py --backend gloo

Parameters are gathered for as long as a block computes with them, gradients are reduced and
scattered, and the optimizer sees this rank's shards alone.
"""

import argparse
import os
import time

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from collectives.toy.model import ByteTransformer, Shape, loss_of
from collectives.toy.text import as_tensor, batches, read, split

parser = argparse.ArgumentParser()
parser.add_argument("--backend", default="collectives")
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--batch", type=int, default=16, help="sequences per rank and step")
arguments = parser.parse_args()

dist.init_process_group(arguments.backend)
rank, world = dist.get_rank(), dist.get_world_size()
device = torch.device("cpu")
if torch.cuda.is_available():
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
mesh = init_device_mesh(device.type, (world,))

shape = Shape()
torch.manual_seed(0)
model = ByteTransformer(shape).to(device)
for block in model.blocks:
    fully_shard(block, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
if rank == 0:
    whole = sum(parameter.numel() for parameter in model.parameters())
    mine = sum(parameter.to_local().numel() for parameter in model.parameters())
    print(f"rank 0 holds {mine:,} of {whole:,} parameters", flush=True)

text = read(None)
shard, _ = split(text, rank, world, shape.context)
data = batches(as_tensor(text)[shard], arguments.batch, shape.context, seed=rank)

tokens, began = 0, time.monotonic()
for step in range(1, arguments.steps + 1):
    inputs, targets = (part.to(device) for part in next(data))
    loss = loss_of(model, inputs, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # the norm over all shards
    optimizer.step()
    optimizer.zero_grad()
    tokens += world * inputs.numel()
    if step % 20 == 0:
        mean = loss.detach()
        dist.all_reduce(mean, op=dist.ReduceOp.AVG)
        if rank == 0:
            rate = tokens / (time.monotonic() - began)
            print(f"step {step}: loss {mean.item():.6f}, {rate:,.0f} tokens/s", flush=True)

dist.destroy_process_group()
