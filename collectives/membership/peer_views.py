"""How a peer goes from view to view: preparations, syncs, rounds, visits.

Functions on a ``PeerTurn``, one per message of the coordinator.
"""

from __future__ import annotations

import dataclasses

from collectives.membership import messages, peer_says
from collectives.membership.peer_state import (
    Call,
    CommitPlane,
    JudgePlane,
    OpenPlane,
    Phase,
    PreparePlane,
    RelayPlane,
    Resolve,
    SealPlane,
    SyncOutcome,
    VisitPlane,
)
from collectives.membership.peer_turn import PeerTurn
from collectives.membership.report import decode_issued
from collectives.membership.view import Choice, View


def sync_done(turn: PeerTurn, message: messages.SyncDone) -> None:
    """A sync ended in a view that stays."""
    state = turn.state
    known = [(view.group_id, view.term, view.number) for view in state.views]
    about = (message.group_id, message.term, message.number)
    if state.sync is None or message.sync != state.syncs or about not in known:
        return
    # Not always the newest: the others may have gone on and left before we heard of it.
    views = state.views[known.index(about) :]
    turn.set(sync=None, syncs=state.syncs + 1, views=views, note=None)
    turn.act(Resolve(Call.SYNC, _outcome(state.views[0], views[0])))


def prepare(turn: PeerTurn, view: View) -> None:
    """Connect for a coming view."""
    state = turn.state
    rank = view.rank_of(state.config.id)
    if rank is None or view.term != state.term or view.group_id != state.group_id:
        return
    if (view.term, view.number) <= state.highest:
        if state.coming is not None and state.coming.number == view.number:
            peer_says.where_it_stands(turn)  # our answer was lost
        return
    if not state.opened:
        turn.act(OpenPlane(view.group_id, view.group))
    turn.set(
        opened=True,
        coming=view,
        ready=False,
        unreachable={},
        highest=(view.term, view.number),
    )
    turn.act(PreparePlane(view, rank))
    turn.because(f"connecting for view {view.number}: {', '.join(p.name for p in view.peers)}")


def visit(turn: PeerTurn, view: View) -> None:
    """Have links outside any view, or no more."""
    state = turn.state
    about = (view.term, view.number)
    if view.group_id != state.group_id or view.term != state.term or about <= state.visited:
        return
    turn.set(visited=about, visit=view.number if view.peers else 0)
    turn.act(VisitPlane(view if view.peers else None))
    names = ", ".join(peer.name for peer in view.peers if peer.id != state.config.id)
    turn.because(f"visit {view.number}: {names or 'over'}")


def abandon(turn: PeerTurn, message: messages.Abandon) -> None:
    """A coming view will not come."""
    state = turn.state
    about = (message.term, message.number)
    coming = state.coming
    if message.group_id != state.group_id or message.term > state.term:
        return
    if coming is not None and message.number == coming.number and message.term >= coming.term:
        turn.discard_coming()
        turn.because(f"view {message.number} will not come")
        if state.sync is not None:
            peer_says.sync_reached(turn)
    turn.set(highest=max(state.highest, about))


def commit(turn: PeerTurn, message: messages.Commit) -> None:
    """The prepared view is the view."""
    state = turn.state
    coming = state.coming
    if coming is None or not state.ready:
        return
    if (message.group_id, message.term, message.number) != (
        coming.group_id,
        coming.term,
        coming.number,
    ):
        return
    view = dataclasses.replace(
        coming,
        first_operation=message.first_operation,
        places=message.places,
        table=message.table,
        levels=message.levels,
    )
    old = state.view
    turn.set(
        phase=Phase.MEMBER,
        view=view,
        coming=None,
        ready=False,
        syncs=1,
        sync=None,
        views=(view,),
        sealed=b"",
        verdict=None,
        suspects={},
        vetoed="",
        note=None,
    )
    turn.act(CommitPlane(view))
    names = ", ".join(peer.name for peer in view.peers)
    turn.because(f"view {view.number} has {view.size} peers: {names}")
    if old is None:
        turn.act(Resolve(Call.JOIN, view))
    elif state.sync is not None:
        turn.act(Resolve(Call.SYNC, _outcome(state.views[0], view)))


def seal(turn: PeerTurn, message: messages.Seal) -> None:
    """A round was opened: seal the view and report."""
    for peer in message.relay:
        if peer != turn.state.config.id:
            turn.act(RelayPlane(peer, message.epoch, verdict=False))
    if turn.state.config.id in message.relay or message.epoch != turn.state.sealed:
        # Also again: the report may have been lost.
        turn.set(sealed=message.epoch, vetoed="")
        turn.act(SealPlane(message.epoch))


def judged(turn: PeerTurn, message: messages.Verdict) -> None:
    """The verdict of a round, and the view that it issues."""
    state = turn.state
    old, view = state.view, message.view
    for peer in message.relay:
        if peer != state.config.id:
            turn.act(RelayPlane(peer, message.data, verdict=True))
    if old is None or (message.term, message.number) != (old.term, old.number):
        if old is not None and (view.term, view.number) == (old.term, old.number):
            peer_says.alive(turn)  # it was taken; the word of that was lost
        return
    if view.rank_of(state.config.id) is None:
        return  # Evicted follows
    turn.act(JudgePlane(message.data))
    view = dataclasses.replace(view, table=old.table)  # of which the coordinator may not know
    if state.coming is not None:
        turn.set(coming=None, ready=False, unreachable={})
    turn.set(
        view=view,
        views=(*state.views, view),
        sealed=b"",
        verdict=dataclasses.replace(message, relay=()),
        suspects={},
        vetoed="",
        note=None,
        term=max(state.term, view.term),
        highest=max(state.highest, (view.term, view.number)),
    )
    names = ", ".join(peer.name for peer in view.peers)
    turn.because(f"view {view.number} has {view.size} peers: {names} ({message.text})")
    peer_says.alive(turn)
    if state.sync is not None:
        peer_says.sync_reached(turn)


def heard_verdict(turn: PeerTurn, data: bytes) -> None:
    """Others passed a verdict on, and the data plane has taken it: follow."""
    old = turn.state.view
    epoch, term, number, key, members = decode_issued(data)
    if old is None or (epoch.view_term, epoch.view) != (old.term, old.number):
        return  # the coordinator was faster
    view = old.following(term, number, key, members)
    text = "the coordinator is not heard, others passed it on"
    judged(turn, messages.Verdict(old.group_id, old.term, old.number, view, data, text))


def tuned(turn: PeerTurn, table: tuple[Choice, ...]) -> None:
    """The members have agreed on a table; one that went by a verdict before it heard, too."""
    state = turn.state
    if state.view is not None:
        views = tuple(dataclasses.replace(view, table=table) for view in state.views)
        turn.set(view=views[-1], views=views)


def _outcome(old: View, new: View) -> SyncOutcome:
    """What a sync came to, for a caller who knows the view ``old``."""
    joined = tuple(peer.name for peer in new.peers if old.rank_of(peer.id) is None)
    left = tuple(peer.name for peer in old.peers if new.rank_of(peer.id) is None)
    return SyncOutcome(new, joined, left)
