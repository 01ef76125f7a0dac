"""Several operations of a group as one: how ``Group.step`` begins and ends.

What it takes to undo them is in ``step``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from collectives import errors
from collectives._native import lib
from collectives.issue import Issuer
from collectives.step import Step
from collectives.work import MERCY


@contextlib.contextmanager
def transaction(issuer: Issuer, timeout: float | None) -> Iterator[Step]:
    """Make the operations of a ``with`` block one unit; see ``Group.step``."""
    issuer.check_alive()
    issuer.check_no_step("step()")
    issuer.claim_order()  # the agreement at the end is this thread's
    step = issuer.step = Step()
    try:
        yield step
        step.wait()
        apart = _agree_on(issuer, step, timeout)
    except BaseException as error:
        issuer.step = None
        if not step.stands:
            _refuse(issuer, error)
            step.undo()
        raise
    if apart:
        step.undo()
        lost = step.lost()
        who = " and ".join(f"{name!r}" for name in lost) or "a member"
        raise errors.StepLost(
            f"{who} was lost in the middle of the step: none of it counts, and all arrays are"
            " as they were before; take it again",
            peer=lost[0] if lost else "",
        )


def _agree_on(issuer: Issuer, step: Step, timeout: float | None) -> bool:
    """Whether a step is to be undone; a member that has not ended its block keeps all here."""
    issuer.step = None
    apart = np.array([step.apart], np.uint8)
    issuer.reduction(apart, "max", None, None, timeout, 0)
    work = issuer.issue(apart, (apart,))
    try:
        work.wait()
    except errors.CollectiveError:
        raise
    except BaseException as interrupt:
        work.cancel(f"interrupted by {type(interrupt).__name__}")
        with contextlib.suppress(errors.CollectiveError):
            work.wait()  # it may have succeeded, and then the step counts
            if not apart[0]:
                step.count()
        raise
    if not apart[0]:
        step.count()
    return bool(apart[0])


def _refuse(issuer: Issuer, error: BaseException) -> None:
    """The block of a step raised: end the others' steps, too, if nothing else has."""
    mine = issuer.mine
    if mine.closed:
        return
    why = f"{mine.name!r} left a step by {type(error).__name__}; call sync() and go on"
    with contextlib.suppress(errors.CollectiveError):
        work = issuer.refuse(None, lib.COLL_CANCELLED, why)
        work.wait(None if isinstance(error, Exception) else MERCY)
