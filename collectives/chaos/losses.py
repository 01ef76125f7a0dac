"""Members that a view lost: who, when it was seen, and which fault accounts for it, if any."""

from __future__ import annotations

import dataclasses

from collectives.chaos.history import History
from collectives.chaos.operations import Lineage, lineages
from collectives.chaos.records import SECOND, Fault, Life, Seen

CUTS = ("partition", "isolate", "cut_off", "black_hole", "half_open", "exhaust")
"""Faults that part a living peer from others for so long that it may be lost."""

_SEEN_LATE = 2 * SECOND  # the harness may write down a death after the survivors have seen it
_DECIDING = 20 * SECOND  # within which what a fault has begun is decided, after it has ended
_RETURNING = 15 * SECOND  # a restarted coordinator waits 10 s for the peers to register
_REPORT = 5.0  # seconds within which every member must report in a round


@dataclasses.dataclass(slots=True)
class Loss:
    """A member of a view was not in the next that anybody saw.

    Attributes:
        name: the member's, in the group.
        life: None: it never wrote a line.
        before, after: the first sightings of the two views.
        cause: ``"killed"``, ``"stopped"``, ``"cut"``, ``"left"``, ``"ended"``, ``"unknown"``
            (nobody knows who that was); None: nothing accounts for it.
        since: when the cause began.
        fault: which one, if the harness made it.
    """

    lineage: Lineage
    id: str
    name: str
    life: Life | None
    before: Seen
    after: Seen
    cause: str | None = None
    since: float = 0.0
    fault: Fault | None = None


def losses(history: History) -> list[Loss]:
    """All losses of a run, found once for each history."""
    found: list[Loss] | None = history.memo.get("losses")
    if found is None:
        found = history.memo["losses"] = [
            _explained(history, loss) for lineage in lineages(history) for loss in _of(lineage)
        ]
    return found


def of_an_outage(history: History, loss: Loss) -> tuple[float, float, bool] | None:
    """The time without a coordinator in or soon after which a loss was seen."""
    for outage in history.outages:
        if outage[0] <= loss.after.t <= outage[1] + _RETURNING:
            return outage
    return None


def _of(lineage: Lineage) -> list[Loss]:
    found = []
    for seers, next_seers in zip(lineage.ordered, lineage.ordered[1:], strict=False):
        before, after = seers[0], next_seers[0]
        for member, name in before.view.members:
            if member not in after.view.ids:
                life = lineage.lives.get(member)
                found.append(Loss(lineage, member, name, life, before, after))
    return found


def _explained(history: History, loss: Loss) -> Loss:
    loss.cause, loss.since, loss.fault = _cause(history, loss)
    return loss


def _cause(history: History, loss: Loss) -> tuple[str | None, float, Fault | None]:
    life, seen = loss.life, loss.after.t
    if life is None:
        return "unknown", seen, None
    if life.killed is not None and life.killed <= seen + _SEEN_LATE:
        return "killed", life.killed, _of_kind(history, life, "kill", life.killed)
    if (since := _leaving(loss, life, seen)) is not None:
        return "left", since, None
    limit = (min(history.detection, _REPORT) - 0.2) * SECOND
    for begin, end in life.stops:
        if min(end, seen) - begin >= limit and end >= seen - _DECIDING:
            return "stopped", begin, _of_kind(history, life, "stop", begin)
    near = history.touching(life.place, seen - _DECIDING, seen)
    cuts = [fault for fault in near if fault.kind in CUTS]
    if cuts:
        last = max(cuts, key=lambda fault: fault.t)
        return "cut", last.t, last
    ends = [t for t in (life.ended, life.exited) if t is not None]
    if ends and min(ends) <= seen + _SEEN_LATE and life.ending != "ok":
        return "ended", min(ends), None
    return None, seen, None


def _leaving(loss: Loss, life: Life, seen: int) -> float | None:
    """When the member began to leave, or left because its outcome was unknown."""
    for call in life.calls:
        if call.presence is None or call.presence.id != loss.id or call.t > seen:
            continue
        gives_up = call.error == "StateError" or (call.unknown and call.error != "Evicted")
        if call.op == "leave" or gives_up:
            return call.t
    for presence in life.presences:
        if presence.id == loss.id and presence.left is not None and presence.left <= seen:
            return presence.left
    return None


def _of_kind(history: History, life: Life, kind: str, t: float) -> Fault | None:
    """The fault that killed or stopped a life at a time; one aimed at a moment waited for it."""
    for fault in reversed(history.faults):
        if fault.kind == kind and life.place in fault.places and fault.t <= t + _SEEN_LATE:
            aimed = fault.fields.get("moment") is not None
            return fault if aimed or t - fault.t <= SECOND else None
    return None
