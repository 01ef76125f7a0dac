"""The verdict of a round as a pure function of the reports: ``judge``.

An operation *stands* if success has been returned for it somewhere, or could have been without
anybody noticing; all survivors can then return success, too. One whose result is retained stands
iff a survivor holds the result. Any other stands iff a survivor has settled it, or all survivors
are complete; but some of them must have had to receive something for that: a barrier that the dead
never reached does not stand, nor a gather without its root. A send and its receive are the matter
of two, and stand iff the receiver has settled it. What does not stand has succeeded nowhere that
counts: it is repeated in the next view, or raises one error for all.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence

from collectives.membership.report import (
    Entry,
    Error,
    Order,
    Pair,
    Report,
    Stand,
    Standing,
    Verdict,
    Veto,
)

PEER_LOST = 3
MISMATCH = 4
TOO_FEW_PEERS = 13

Name = tuple[Order, int]
"""Of an operation."""


def judge(
    reports: Mapping[uuid.UUID, Report],
    view: Sequence[uuid.UUID],
    *,
    lost: str = "",
    culprit: uuid.UUID | None = None,
    too_few: str = "",
    broken: Error | None = None,
) -> Verdict:
    """Decide about every operation that is outstanding at a survivor.

    Args:
        reports: of all survivors, each a member of ``view``.
        view: all members of the sealed view, by rank; also those who are gone.
        lost: who went and why, in words; "": nobody.
        culprit: the first of them.
        too_few: in words, if fewer are left than the group needs; "": enough are.
        broken: the error with which the group is broken already.
    """
    survivors = [peer for peer in view if peer in reports]
    entries: dict[Name, dict[uuid.UUID, Entry]] = {}
    for peer in survivors:
        for entry in reports[peer].entries:
            entries.setdefault((entry.tag, entry.number), {})[peer] = entry
    stands = []
    fallen = []
    for name in sorted(entries, key=_by_tag):
        found = entries[name]
        settled = sum(entry.standing is Standing.SETTLED for entry in found.values())
        if settled + _behind(name, reports, found) == len(_parties(name[0], survivors)):
            continue  # nobody waits for it; some have not let go of the result yet
        if _stands(name, found, reports, survivors):
            holders = [
                peer
                for peer in survivors
                if peer in found
                and found[peer].retained
                and found[peer].standing is Standing.SETTLED
            ]
            stands.append(Stand(*name, holders[0] if holders else None))
        else:
            fallen.append(name)
    error = broken or _error(reports, view, survivors, entries, fallen, lost, culprit, too_few)
    return Verdict(tuple(stands), error)


def _by_tag(name: Name) -> tuple[int, int, str]:
    """What the order of the verdict is by: any that all coordinators have."""
    order, number = name
    return (order, number, "") if isinstance(order, int) else (order.tag, number, str(order))


def _parties(order: Order, survivors: Sequence[uuid.UUID]) -> Sequence[uuid.UUID]:
    """The survivors that take part."""
    if isinstance(order, int):
        return survivors
    return [peer for peer in survivors if peer in (order.sender, order.receiver)]


def _behind(name: Name, reports: Mapping[uuid.UUID, Report], found: Collection[uuid.UUID]) -> int:
    """How many have settled it and kept nothing of it."""
    tag, number = name
    return sum(
        peer not in found and report.settled.get(tag, 0) >= number
        for peer, report in reports.items()
    )


def _stands(
    name: Name,
    found: Mapping[uuid.UUID, Entry],
    reports: Mapping[uuid.UUID, Report],
    survivors: Sequence[uuid.UUID],
) -> bool:
    if any(entry.standing is Standing.SETTLED for entry in found.values()):
        return True
    if any(entry.retained for entry in found.values()):
        return False
    if _behind(name, reports, found):
        return True
    if isinstance(name[0], Pair):
        return False  # the sender is complete, whatever it has sent
    complete = all(
        peer in found and found[peer].standing is Standing.COMPLETE for peer in survivors
    )
    return complete and not all(entry.idle for entry in found.values())


def _error(
    reports: Mapping[uuid.UUID, Report],
    view: Sequence[uuid.UUID],
    survivors: Sequence[uuid.UUID],
    entries: Mapping[Name, Mapping[uuid.UUID, Entry]],
    fallen: Collection[Name],
    lost: str,
    culprit: uuid.UUID | None,
    too_few: str,
) -> Error | None:
    """The one error for everything that does not stand; None: it is repeated."""
    vetoes = [
        veto
        for peer in survivors
        for veto in reports[peer].vetoes
        if (veto.tag, veto.number) in fallen
    ]
    # Who made different calls is worth more than who gave up waiting because of it.
    vetoes.sort(key=lambda veto: veto.status != MISMATCH)
    if vetoes and vetoes[0].status == MISMATCH:
        return _of_veto(vetoes[0], view)
    if lost:
        for name in fallen:
            for entry in entries[name].values():
                rootless = entry.root is not None and view[entry.root] not in reports
                if rootless or not entry.repeatable:
                    return Error(PEER_LOST, culprit, lost)
    if too_few:
        return Error(TOO_FEW_PEERS, culprit, too_few)
    return _of_veto(vetoes[0], view) if vetoes else None


def _of_veto(veto: Veto, view: Sequence[uuid.UUID]) -> Error:
    known = veto.culprit is not None and veto.culprit < len(view)
    return Error(veto.status, view[veto.culprit or 0] if known else None, veto.text)
