"""The demo's training: DiLoCo rounds, whose outer state must be the same everywhere.

Settings: ``inner_steps`` of a round (5); ``pause``, seconds between rounds (0).
"""

from __future__ import annotations

import logging
import time

import numpy as np
import torch
import torch._dynamo  # by the first optimizer anyway; here once, before peers are forked

from collectives import errors
from collectives.chaos.peer import Seat
from collectives.chaos.workloads.going import agreed_to_end, back, enter, may_go_on
from collectives.diloco import DiLoCo
from collectives.group import Group
from collectives.toy import model as models
from collectives.toy import text as texts

_log = logging.getLogger(__name__)

_SHAPE = models.Shape(layers=1, width=32, heads=2, context=32)
_BATCH = 4


def run(seat: Seat) -> None:
    """Take part until the run ends."""
    torch.set_num_threads(1)  # peers share the machine's cores
    settings = seat.settings
    group = enter(seat)
    if group is None:
        return
    while not settings.newcomer and group.size < settings.peers:
        group.sync()
    text = texts.read(None)
    mine, _ = texts.split(text, settings.index % 16, 16, _SHAPE.context)
    shard = texts.as_tensor(text[mine])
    batches = texts.batches(shard, _BATCH, _SHAPE.context, settings.seed + settings.index)
    torch.manual_seed(settings.seed * 1000 + settings.index)
    model = models.ByteTransformer(_SHAPE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    steps = int(settings.workload.get("inner_steps", 5))
    pause = float(settings.workload.get("pause", 0.0))
    diloco: DiLoCo | None = None
    while True:
        try:
            if diloco is None:
                diloco = DiLoCo(model, optimizer, group, inner_steps=steps)
            _tell(seat, group, diloco)
            if agreed_to_end(seat, group) or seat.control.leaving.is_set():
                break
            for _ in range(steps):
                loss = models.loss_of(model, *next(batches))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                diloco.step()
            if not np.isfinite(loss.item()):
                seat.recorder.wrong(f"the loss is {loss.item()}")
            time.sleep(pause)
        except errors.CollectiveError as error:
            _log.warning("%s: %s", type(error).__name__, error)
            if not may_go_on(error):
                raise
            came_back = back(seat, group, None)
            if came_back is None:
                break
            diloco = _mended(diloco, came_back)
    group.leave()


def _mended(diloco: DiLoCo | None, came_back: bool) -> DiLoCo | None:
    """After an error; None: a newcomer, which has no outer state."""
    while diloco is not None and not came_back:
        try:
            diloco.recover()
        except (errors.PeerLost, errors.TooFewPeers, errors.Timeout, errors.Cancelled) as error:
            _log.warning("%s: %s", type(error).__name__, error)
            continue
        return diloco
    return None


def _tell(seat: Seat, group: Group, diloco: DiLoCo) -> None:
    seat.recorder.work = diloco.round
    seat.recorder.journal.write(
        "state",
        group=group.view.group,
        revision=diloco.round,
        digest=diloco.digest(),
        run=None,
        work=diloco.round,
    )
