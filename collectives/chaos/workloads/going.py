"""How every workload goes on, whatever happens to its group."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

import collectives
from collectives import errors
from collectives.chaos.peer import Seat
from collectives.group import Group
from collectives.state.shared import SharedState

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_PAUSE = 0.05
_TRY = 15.0
_LAST_TRIES = 3.0
"""Seconds for which a peer that is out still tries to come back when the run is ending."""


def enter(seat: Seat, state: SharedState | None = None) -> Group | None:
    """Join, however long that takes; None: the run ends before it is done."""
    settings = seat.settings

    def once() -> Group:
        return collectives.join(
            settings.address,
            name=settings.name,
            min_size=settings.min_size,
            timeout=_TRY,
            state=state,
        )

    return _until_it_works(seat, once)


def go(
    seat: Seat,
    group: Group,
    state: SharedState,
    step: Callable[[], None],
    sync_every: int = 1,
) -> None:
    """Sync and do a step, again and again, until all members have agreed to end.

    An error costs the step: the next sync mends the group. Who was put out comes back.

    Args:
        seat: the peer's.
        group: joined.
        state: what is synced.
        step: one step of the workload; it ends with ``state.advance()``.
        sync_every: steps from one sync to the next, while nothing goes wrong.
    """
    # The first view may have one member; the first step is everybody's.
    complete = seat.settings.newcomer
    mend = True
    while True:
        try:
            if mend or state.revision % sync_every == 0:
                group.sync(state)
                mend = False
            complete = complete or group.size >= seat.settings.peers
            if not complete:
                mend = True
                continue
            seat.recorder.work = state.revision
            if agreed_to_end(seat, group) or seat.control.leaving.is_set():
                break
            step()
        except errors.CollectiveError as error:
            _log.warning("%s: %s", type(error).__name__, error)
            if not may_go_on(error):
                raise
            if back(seat, group, state) is None:
                break
            mend = True
    group.leave()


def agreed_to_end(seat: Seat, group: Group) -> bool:
    """Whether any member was told that the run ends: all do at the same step."""
    over = np.array([seat.control.stopping.is_set()], np.uint8)
    group.all_reduce(over, "max")
    return bool(over[0])


def may_go_on(error: errors.CollectiveError) -> bool:
    """Whether the error is one of those that faults cause, not a defect of workload or library."""
    return not isinstance(error, errors.InvalidArgument | errors.MismatchError)


def back(seat: Seat, group: Group, state: SharedState | None) -> bool | None:
    """See to it that this peer is a member: whether it had to come back; None: the run ends."""

    def once() -> bool:
        try:
            group.rejoin(timeout=_TRY, state=state)
        except errors.InvalidArgument:  # it is a member
            return False
        return True

    return _until_it_works(seat, once)


def _until_it_works(seat: Seat, once: Callable[[], _T]) -> _T | None:
    last: float | None = None
    while True:
        try:
            return once()
        except errors.InvalidArgument:
            raise
        except errors.CollectiveError as error:
            _log.warning("%s: %s", type(error).__name__, error)
        if seat.control.leaving.is_set():
            return None
        if seat.control.stopping.is_set():
            last = last or time.monotonic() + _LAST_TRIES
            if time.monotonic() > last:
                return None
        time.sleep(_PAUSE)
