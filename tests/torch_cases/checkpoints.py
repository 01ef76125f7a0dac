"""Distributed checkpoints, saved by some ranks and loaded by another number of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor

from torch_cases.common import Numbers, data_of, train
from torch_cases.sharded import sharded


def whole(model: nn.Module, optimizer: torch.optim.Optimizer) -> Numbers:
    """Everything that a checkpoint of them holds, gathered."""
    result: Numbers = {}

    def collect(where: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                collect(f"{where}.{name}", inner)
        elif isinstance(value, DTensor):
            result[where] = value.full_tensor().clone()
        elif isinstance(value, torch.Tensor):
            result[where] = value.clone()

    weights, moments = get_state_dict(model, optimizer)
    collect("model", weights)
    collect("optimizer", moments["state"])
    return result


def made(trained: int, rank: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = sharded()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    train(model, data_of(rank, trained), optimizer)
    return model, optimizer


def save(rank: int, world: int, folder: str, background: bool) -> Numbers:
    model, optimizer = made(2, rank)
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": moments, "step": 2}
    if background:
        # A group of its own: what the thread calls must not mix with what training does.
        saved = dcp.async_save(state, checkpoint_id=folder, process_group=dist.new_group())
        before = whole(model, optimizer)
        train(model, data_of(rank, 1), optimizer)
        saved.result(timeout=20)
        return before
    dcp.save(state, checkpoint_id=folder)
    return whole(model, optimizer)


def load(rank: int, world: int, folder: str) -> Numbers:
    model, optimizer = made(1, rank)
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": moments, "step": 0}
    dcp.load(state, checkpoint_id=folder)
    assert state["step"] == 2
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    return whole(model, optimizer)
