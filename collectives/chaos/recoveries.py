"""How long a run took to go on after each fault."""

from __future__ import annotations

import bisect
import dataclasses

from collectives.chaos.history import History
from collectives.chaos.losses import losses
from collectives.chaos.operations import lineages
from collectives.chaos.records import FOREVER, SECOND, Fault

HARMLESS = frozenset(("join", "slow", "link", "stranger", "flood"))
"""Kinds of faults that interrupt no operation, or do nothing else but make it slower."""


@dataclasses.dataclass(frozen=True)
class Recovery:
    """From a fault to the first operation that all survivors returned after it.

    After a fault that cost members that is the first one in a view without them; after another one
    the first that ended, which is the one that was under way if it was only held up.

    Attributes:
        t: of the fault, or of the death if it waited for a moment; nanoseconds.
        end: when the last survivor had returned; ``FOREVER``: the run ended before.
    """

    fault: Fault
    t: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end - self.t) / SECOND


def recoveries(history: History) -> list[Recovery]:
    """One for each fault that may interrupt operations, in their order."""
    ends: list[tuple[float, int]] = []  # when each operation was over for all, and its view
    for lineage in lineages(history):
        for operation in lineage.operations.values():
            calls = operation.survivors()
            if not calls or not all(call.returned for call in calls):
                continue
            views = [call.in_view or 0 for call in calls]
            ends.append((max(call.ended or 0 for call in calls), max(views)))
    ends.sort()
    cost: dict[int, tuple[float, int]] = {}  # fault: when it began to count, the first view without
    for loss in losses(history):
        if loss.fault is not None:
            _, number = cost.get(loss.fault.index, (0.0, 0))
            number = max(number, loss.after.view.number)
            cost[loss.fault.index] = (max(loss.since, loss.fault.t), number)
    found = []
    for fault in history.faults:
        if fault.kind in HARMLESS:
            continue
        t, number = cost.get(fault.index, (float(fault.t), 0))
        later = ends[bisect.bisect_right(ends, (t, 1 << 62)) :]
        end = next((end for end, view in later if view >= number), FOREVER)
        if t < history.stopping:
            found.append(Recovery(fault, t, end))
    return found
