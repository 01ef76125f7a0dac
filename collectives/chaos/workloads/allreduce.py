"""All-reduces whose values prove who contributed, in a state that adds them up.

Settings: ``count``, the largest number of elements (65536); ``dtype`` of the random ones (float32);
``values`` (both), ``in_flight`` (1), ``on_failure`` (retry); ``sync_every`` so many steps (1);
``pause``, seconds between steps (0).
"""

from __future__ import annotations

import functools
import time
import zlib
from typing import Any

import numpy as np

from collectives import errors
from collectives.chaos.peer import Seat
from collectives.chaos.workloads.going import enter, go
from collectives.group import Group
from collectives.state.shared import SharedState
from collectives.work import Result

_SIZES = (10, 1_000, 20_000, 65_536)
_BITS = 60


def run(seat: Seat) -> None:
    """Take part until the run ends."""
    settings = seat.settings.workload
    pause = float(settings.get("pause", 0.0))
    values = settings.get("values", "both")
    total = np.zeros(1_000, np.int64)
    state = SharedState({"total": total})
    group = enter(seat)
    if group is None:
        return

    def step() -> None:
        bits = _who(seat, group) if values != "random" else 0
        if values != "powers":
            _what(seat, group, state.revision)
        # Only now: a step that raised has changed nothing.
        total[state.revision % total.size] += bits
        state.advance()
        if pause:
            time.sleep(pause)

    go(seat, group, state, step, int(settings.get("sync_every", 1)))


def _who(seat: Seat, group: Group) -> int:
    """A power of two per peer: the sum says who is in it."""
    mine = np.full(1_000, 1 << place_of(group.name), np.int64)
    result = group.all_reduce(mine, on_failure=_on_failure(seat))
    expected = sum(1 << place_of(name) for name in result.contributors)
    if not (mine == expected).all():
        seat.recorder.wrong(
            f"the sum of {result.contributors} has {np.unique(mine)[:4]}, not {expected}"
        )
    return expected


def _what(seat: Seat, group: Group, number: int) -> None:
    """Random data, checked against the same sum of the same data made here."""
    seed, settings = seat.settings.seed, seat.settings.workload
    chance = np.random.default_rng([seed, number])  # the same on all peers
    count = min(int(settings.get("count", _SIZES[-1])), int(chance.choice(_SIZES)))
    dtype = np.dtype(settings.get("dtype", "float32"))
    op = str(chance.choice(["sum", "sum", "max"]))
    apart, later = chance.random(2) < 0.3
    flying = int(settings.get("in_flight", 1))
    works = []
    for more in range(flying):
        mine = data(seed, group.name, number * flying + more, count, dtype)
        out = np.empty_like(mine) if apart else None
        how: dict[str, Any] = {"op": op, "out": out, "on_failure": _on_failure(seat)}
        if flying > 1 or later:
            works.append((mine, group.all_reduce_async(mine, **how).wait))
        else:
            works.append((mine, functools.partial(group.all_reduce, mine, **how)))
    # All are waited for, also after one has raised: none may be outstanding at the next sync.
    raised = []
    for more, (mine, wait) in enumerate(works):
        try:
            result = wait()
        except errors.CollectiveError as error:
            raised.append(error)
            continue
        _check(seat, number * flying + more, op, mine, result, apart)
    if raised:
        raise raised[0]


def _on_failure(seat: Seat) -> str:
    return str(seat.settings.workload.get("on_failure", "retry"))


def _check(seat: Seat, number: int, op: str, mine: np.ndarray, result: Result, apart: bool) -> None:
    seed, count, dtype = seat.settings.seed, mine.size, mine.dtype
    inputs = [data(seed, name, number, count, dtype) for name in result.contributors]
    found = result.value
    if op == "max":
        expected: Any = np.max(inputs, axis=0)
        good = found == expected
    elif dtype.kind in "iu":
        expected = np.sum(inputs, axis=0, dtype=dtype)
        good = found == expected
    else:
        expected = np.sum(inputs, axis=0, dtype=np.float64)
        # Each addition rounds by at most half an eps of what was added up until then.
        slack = np.finfo(dtype).eps * len(inputs) * np.sum(np.abs(inputs), axis=0, dtype=np.float64)
        good = np.abs(found - expected) <= slack
    if not good.all():
        at = int(np.argmin(good))
        seat.recorder.wrong(
            f"element {at} of {count} of the {op} of {result.contributors} is {found[at]}, not"
            f" {expected[at]}"
        )
    me = data(seed, seat.recorder.groups[-1].name, number, count, dtype)
    if apart and mine.tobytes() != me.tobytes():
        seat.recorder.wrong("the input of an out-of-place reduction has changed")


def place_of(name: str) -> int:
    """The number of a peer's place: its bit."""
    return int(name.partition(".")[0].partition("-")[0].lstrip("p")) % _BITS


def data(seed: int, name: str, number: int, count: int, dtype: np.dtype) -> np.ndarray:
    """A peer's contribution to a step."""
    chance = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    if dtype.kind in "iu":
        return chance.integers(0 if dtype.kind == "u" else -(10**6), 10**6, count, dtype)
    drawn = np.float32 if dtype == np.float16 else dtype  # which numpy does not draw
    return chance.standard_normal(count, drawn).astype(dtype, copy=False)
