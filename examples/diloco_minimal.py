"""Train on several machines with DiLoCo: an ordinary loop plus five lines, marked ``+``.

In one terminal start the coordinator, in two others the same script::

    collectives coordinator --bind 127.0.0.1:7077
    COLLECTIVES_COORDINATOR=127.0.0.1:7077 python examples/diloco_minimal.py
    COLLECTIVES_COORDINATOR=127.0.0.1:7077 python examples/diloco_minimal.py

The peers learn the same function from different samples, and print the same digest after each
round: their outer states are equal to the bit.
"""

import torch
from torch import nn

import collectives  # +
from collectives.diloco import DiLoCo  # +

model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

with collectives.join(min_size=2) as group:  # +
    diloco = DiLoCo(model, optimizer, group, inner_steps=20, outer_momentum=0.5)  # +
    torch.manual_seed(group.rank)  # every peer draws its own samples
    while diloco.round < 10:
        x = torch.randn(64, 2)
        loss = nn.functional.mse_loss(model(x), x.prod(dim=1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if done := diloco.step():  # +
            print(f"round {done.number}: loss {loss.item():.4f}, digest {done.digest}", flush=True)
