"""Train a small language model with DistributedDataParallel.

    torchrun --nproc-per-node 2 examples/ddp.py
    torchrun --nproc-per-node 2 examples/ddp.py --backend gloo

An ordinary script: the name of the backend is all that is said of it, and the losses are the same
with either. The text is CPython's own documentation, a shard of it for every rank.
"""

import argparse
import os
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

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

shape = Shape()
torch.manual_seed(0)
model = DistributedDataParallel(ByteTransformer(shape).to(device))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

text = read(None)
shard, _ = split(text, rank, world, shape.context)
data = batches(as_tensor(text)[shard], arguments.batch, shape.context, seed=rank)

tokens, began = 0, time.monotonic()
for step in range(1, arguments.steps + 1):
    inputs, targets = (part.to(device) for part in next(data))
    loss = loss_of(model, inputs, targets)
    loss.backward()  # averages the gradients over the ranks while it computes them
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
