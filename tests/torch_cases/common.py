"""What the cases share: a model, data that differ by rank, a loop, and what it came to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Numbers = dict[str, Tensor]


def model_of(width: int = 32, seed: int = 0) -> nn.Module:
    """The same layers on every rank; enough of them for several buckets of `SMALL_BUCKETS`."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)
    )


SMALL_BUCKETS = {"bucket_cap_mb": 0.003}
"""Arguments of DistributedDataParallel that cut `model_of` into some buckets."""


def data_of(rank: int, steps: int, batch: int = 4) -> list[tuple[Tensor, Tensor]]:
    """(inputs [batch, 8], targets [batch, 3]), float32: others on every rank."""
    generator = torch.Generator().manual_seed(1000 + rank)
    return [
        (torch.randn(batch, 8, generator=generator), torch.randn(batch, 3, generator=generator))
        for _ in range(steps)
    ]


def train(
    model: nn.Module,
    data: Iterable[tuple[Tensor, Tensor]],
    optimizer: Any = None,
    after_backward: Callable[[], object] = lambda: None,
) -> Numbers:
    """An ordinary loop; the losses of this rank."""
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for inputs, targets in data:
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        after_backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return {"losses": torch.stack(losses)}


def weights(model: nn.Module) -> Numbers:
    """Parameters and buffers by name; of a DTensor this rank's part."""
    return {
        name: (value.to_local() if hasattr(value, "to_local") else value).detach().clone()
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor)
    }


def losses_and_weights(rank: int, model: nn.Module, steps: int = 3, **how: Any) -> Numbers:
    """What some steps of `train` with this rank's data come to."""
    return train(model, data_of(rank, steps), **how) | weights(model)
