"""Rounds: what the coordinator does when a member goes, gives up or was sealed by another.

Functions on a ``Turn``. A round seals the committed view, collects a report from every member that
lives, and ends with a verdict (``verdict.judge``) that issues the next view::

    open_round ──Seal──►  reports  ──all──►  verdict, the next view  ──Verdict──►  taken
                            │ who does not report, or does not take it, in time is evicted
                            └ (``overdue``), and that opens the next round

Members that do not hear the coordinator (a program that holds its interpreter's lock) are reached
through their neighbours: ``relay``.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Collection

from collectives.membership import preparation
from collectives.membership.admission import missing_peers, peers_text
from collectives.membership.fields import MalformedError
from collectives.membership.ledger import Departure, Group, Issued, Round
from collectives.membership.messages import Seal, Verdict
from collectives.membership.report import (
    Epoch,
    decode_report,
    encode_epoch,
    encode_verdict,
)
from collectives.membership.turn import Turn, with_item
from collectives.membership.verdict import judge
from collectives.membership.wire import clip


def open_round(turn: Turn, name: str, lost: tuple[Departure, ...] = (), *, why: str = "") -> None:
    """Open a round about the committed view, or note in the open one who went meanwhile.

    ``lost`` are members that went, and are out of ``Group.peers`` already; ``why`` says what else
    calls for it.
    """
    preparation.abandon(turn, name)
    group = turn.group(name)
    view = group.view
    if view is None or not group.members:
        return
    if group.round is not None:
        reports = {p: r for p, r in group.round.reports.items() if p in group.peers}
        changed = dataclasses.replace(group.round, lost=(*group.round.lost, *lost), reports=reports)
        turn.set_group(name, round=changed)
        _decide_if_complete(turn, name)
        return
    number = group.rounds + 1
    epoch = Epoch(turn.state.term, view.term, view.number, number)
    turn.set_group(name, rounds=number, round=Round(epoch, turn.now, turn.now, lost=lost))
    reason = "; ".join(departure.text for departure in lost) or why
    turn.because(f"round {number} about view {view.number}: {reason}", name)
    for peer in group.members:
        turn.set_peer(name, peer.id, told=None)
        turn.tell(name, peer.id, _seal(group, epoch))


def _seal(group: Group, epoch: Epoch, relay: Collection[uuid.UUID] = ()) -> Seal:
    view = group.view
    assert view is not None
    return Seal(group.id, view.term, view.number, encode_epoch(epoch), tuple(relay))


def report(turn: Turn, name: str, data: bytes) -> None:
    """A report came, over its peer's connection or over a neighbour's."""
    group = turn.group(name)
    try:
        epoch, peer, found = decode_report(data)
    except MalformedError as error:
        turn.refuse("malformed report")
        turn.because(f"refused a report: it {error}", name)
        return
    round_ = group.round
    if round_ is None or epoch != round_.epoch or peer not in group.peers:
        return  # of another round, or of one who is out: it counts no more
    assert group.view is not None
    if group.view.rank_of(peer) is None or peer in round_.reports:
        return
    if any(entry.root is not None and entry.root >= group.view.size for entry in found.entries):
        turn.refuse("malformed report")
        turn.because("refused a report: it names a root that the view does not have", name)
        return
    first = turn.now if round_.first is None else round_.first
    reports = with_item(round_.reports, peer, found)
    turn.set_group(name, round=dataclasses.replace(round_, reports=reports, first=first))
    _decide_if_complete(turn, name)


def _decide_if_complete(turn: Turn, name: str) -> None:
    group = turn.group(name)
    round_, view = group.round, group.view
    assert round_ is not None and view is not None
    members = group.members
    if not members or any(peer.id not in round_.reports for peer in members):
        return
    missing = missing_peers(group, members)
    lost = "; ".join(departure.text for departure in round_.lost)
    too_few = f"the group lacks {peers_text(missing)}" + (f" ({lost})" if lost else "")
    verdict = judge(
        round_.reports,
        [peer.id for peer in view.peers],
        lost=f"{lost}; call sync() and go on" if lost else "",
        culprit=round_.lost[0].peer.id if round_.lost else None,
        too_few=f"{too_few}; call sync() to wait for more" if missing else "",
        broken=group.broken,
    )
    number = group.number + 1
    key = turn.secret(f"view {group.id} {number}")
    following = view.following(turn.state.term, number, key, (peer.id for peer in members))
    data = encode_verdict(
        round_.epoch,
        verdict,
        following.term,
        following.number,
        following.key,
        tuple(peer.id for peer in members),
    )
    text = clip(lost or (verdict.error.text if verdict.error else "an operation was given up"))
    issued = Issued(round_.epoch, view.term, view.number, data, text, turn.now, turn.now)
    turn.set_group(
        name,
        number=number,
        view=following,
        round=None,
        issued=issued,
        broken=verdict.error,
        suspects={},
        reached={},
    )
    outcome = "operations go on" if verdict.error is None else f"they raise: {verdict.error.text}"
    stands = f"{len(verdict.stands)} stand, " if verdict.stands else ""
    names = ", ".join(peer.name for peer in members[:8])
    turn.because(f"view {number} ({len(members)} peers: {names}): {stands}{outcome}", name)
    for peer in members:
        turn.set_peer(name, peer.id, told=None)
        turn.tell(name, peer.id, _verdict(turn.group(name)))


def _verdict(group: Group, relay: Collection[uuid.UUID] = ()) -> Verdict:
    issued, view = group.issued, group.view
    assert issued is not None and view is not None
    return Verdict(
        group.id, issued.term, issued.number, view, issued.data, issued.text, tuple(relay)
    )


def mark_taken(turn: Turn, name: str, peer: uuid.UUID, epoch: bytes = b"") -> None:
    """A member is in the committed view; with an epoch: it has taken the verdict of that round."""
    issued = turn.group(name).issued
    if issued is None or peer in issued.taken:
        return
    if not epoch or epoch == encode_epoch(issued.epoch):
        taken = issued.taken | {peer}
        turn.set_group(name, issued=dataclasses.replace(issued, taken=taken))


def repeat_verdict(turn: Turn, name: str, peer: uuid.UUID, term: int, number: int) -> bool:
    """Say the verdict again to a member that is still in the view that was judged, if it is."""
    group = turn.group(name)
    issued = group.issued
    if issued is None or (term, number) != (issued.term, issued.number):
        return False
    turn.tell(name, peer, _verdict(group))
    return True


def catch_up(turn: Turn, name: str, peer: uuid.UUID, sealed: bool) -> None:
    """A member said that it is in the committed view, and whether it is sealed there."""
    mark_taken(turn, name, peer)
    group = turn.group(name)
    if group.round is not None:
        if peer not in group.round.reports:
            turn.tell(name, peer, _seal(group, group.round.epoch, [peer]))
    elif sealed:
        # By a coordinator that this one has replaced.
        open_round(turn, name, why="a member was sealed in a round that was never decided")


def relay_seal(turn: Turn, name: str, silent: Collection[uuid.UUID]) -> None:
    """Ask those who have not reported again, through all others."""
    group = turn.group(name)
    round_, issued = group.round, group.issued
    assert round_ is not None
    turn.set_group(name, round=dataclasses.replace(round_, asked=turn.now))
    # Who does not hear us may not even know the view that the round is about.
    behind = [] if issued is None else [peer for peer in silent if peer not in issued.taken]
    for peer in group.members:
        if behind:
            turn.tell(name, peer.id, _verdict(group, behind))
        turn.tell(name, peer.id, _seal(group, round_.epoch, silent))


def relay_verdict(turn: Turn, name: str, silent: Collection[uuid.UUID]) -> None:
    """Say the verdict again to those who have not taken it, through all others."""
    group = turn.group(name)
    assert group.issued is not None
    turn.set_group(name, issued=dataclasses.replace(group.issued, asked=turn.now))
    for peer in group.members:
        turn.tell(name, peer.id, _verdict(group, silent))


def restart_clocks(turn: Turn, name: str) -> None:
    """The coordinator itself stood still: its silence is nobody's fault."""
    group = turn.group(name)
    if group.round is not None:
        first = None if group.round.first is None else turn.now
        turn.set_group(name, round=dataclasses.replace(group.round, since=turn.now, first=first))
    if group.issued is not None:
        turn.set_group(name, issued=dataclasses.replace(group.issued, since=turn.now))
