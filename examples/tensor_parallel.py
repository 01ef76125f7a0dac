"""Train a small language model with tensor parallelism: each rank computes a part of every layer.

    torchrun --nproc-per-node 2 examples/tensor_parallel.py
    torchrun --nproc-per-node 2 examples/tensor_parallel.py --backend gloo

The feed-forward layers, most of the weights, are cut as in Megatron-LM: the first by columns, the
second by rows, so that one sum per layer and direction is all that travels. All ranks see the same
data.
"""

import argparse
import os
import time

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from collectives.toy.model import ByteTransformer, Shape, loss_of
from collectives.toy.text import as_tensor, batches, read, split

parser = argparse.ArgumentParser()
parser.add_argument("--backend", default="collectives")
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--batch", type=int, default=16, help="sequences per step")
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
    parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, foreach=False)

text = read(None)
shard, _ = split(text, 0, 1, shape.context)
data = batches(as_tensor(text)[shard], arguments.batch, shape.context, seed=0)

tokens, began = 0, time.monotonic()
for step in range(1, arguments.steps + 1):
    inputs, targets = (part.to(device) for part in next(data))
    loss = loss_of(model, inputs, targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    tokens += inputs.numel()
    if step % 20 == 0 and rank == 0:
        rate = tokens / (time.monotonic() - began)
        print(f"step {step}: loss {loss.item():.6f}, {rate:,.0f} tokens/s", flush=True)

dist.destroy_process_group()
