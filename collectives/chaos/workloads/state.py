"""A large shared state of which a little changes at each step.

Settings: ``bytes`` in all (4 MiB); ``changed``, the share that changes in a step (0.1); ``pause``,
seconds between steps (0).
"""

from __future__ import annotations

import time

import numpy as np

from collectives.chaos.peer import Seat
from collectives.chaos.workloads.going import enter, go
from collectives.state.shared import SharedState

_TENSORS = 8


def run(seat: Seat) -> None:
    """Take part until the run ends."""
    settings = seat.settings.workload
    count = max(1, int(settings.get("bytes", 4 << 20)) // _TENSORS // 4)
    changes = max(1, int(count * float(settings.get("changed", 0.1))))
    pause = float(settings.get("pause", 0.0))
    # What a newcomer begins with must not matter.
    start = np.float32(1 + seat.settings.index if seat.settings.newcomer else 0)
    values = [np.full(count, start, np.float32) for _ in range(_TENSORS)]
    state = SharedState({"steps": 0, **{f"tensor {i}": v for i, v in enumerate(values)}})
    group = enter(seat, state)
    if group is None:
        return

    def step() -> None:
        number = state.revision
        change = np.full(1_000, 1.0, np.float32)
        result = group.all_reduce(change)
        if not (change == len(result.contributors)).all():
            seat.recorder.wrong(f"{len(result.contributors)} ones make {np.unique(change)[:4]}")
        chance = np.random.default_rng([seat.settings.seed, number])
        for value in values:
            at = int(chance.integers(0, count - changes + 1))
            value[at : at + changes] += change[0]
        state["steps"] += 1
        if state["steps"] != number + 1:
            seat.recorder.wrong(f"revision {number} has made {state['steps'] - 1} steps")
        state.advance()
        if pause:
            time.sleep(pause)

    go(seat, group, state, step)
