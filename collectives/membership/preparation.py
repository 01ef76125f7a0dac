"""The view in preparation: who is to connect, who has, and how it becomes the group's or does not.

Functions on a ``Turn``; when a view is to be prepared decides ``formation``.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence

from collectives.membership.admission import names_of
from collectives.membership.ledger import Failure, Group, Preparation
from collectives.membership.messages import Abandon, Commit, Prepare
from collectives.membership.places import places_of, speak_of_places
from collectives.membership.turn import Turn, with_item
from collectives.membership.view import Peer, View


def prepare(turn: Turn, name: str, peers: Sequence[Peer], why: str) -> None:
    """Have these peers connect for the next view."""
    group = turn.group(name)
    number = group.number + 1
    last = max(group.reached.values(), default=0)
    key = turn.secret(f"view {group.id} {number}")
    view = View(
        name, group.id, turn.state.term, number, tuple(peers), key, first_operation=last + 1
    )
    turn.set_group(name, number=number, preparing=Preparation(view, turn.now))
    turn.because(f"view {number} is being prepared: {why}", name)
    for peer in peers:
        turn.set_peer(name, peer.id, told=None)
        turn.tell(name, peer.id, Prepare(view))


def commit(turn: Turn, name: str, coming: Preparation) -> None:
    """All are ready: the view in preparation is the group's."""
    view = coming.view
    if speak_of_places(view.peers, coming.ready):
        places, odd = places_of(view.peers, coming.ready)
        view = dataclasses.replace(
            view, places=places, table=turn.state.plans, levels=turn.state.levels
        )
        for sentence in odd:
            turn.because(sentence, name)
    turn.set_group(
        name,
        view=view,
        preparing=None,
        issued=None,
        broken=None,
        renew=False,
        suspects={},
        reached={},
        sync=1,
    )
    turn.because(f"view {view.number} is committed: {names_of(view.peers)}", name)
    for peer in view.peers:
        turn.set_peer(name, peer.id, told=None)
        turn.tell(name, peer.id, commit_of(view))


def commit_of(view: View) -> Commit:
    """The message that makes a prepared view the group's view."""
    return Commit(
        view.group_id,
        view.term,
        view.number,
        view.first_operation,
        view.places,
        view.table,
        view.levels,
    )


def abandon(turn: Turn, name: str) -> None:
    """Give up the view in preparation."""
    group = turn.group(name)
    if group.preparing is None:
        return
    view = group.preparing.view
    turn.set_group(name, preparing=None)
    for peer in view.peers:
        if peer.id in group.peers:
            turn.set_peer(name, peer.id, told=None)
            turn.tell(name, peer.id, Abandon(group.id, view.term, view.number))


def is_preparing(group: Group, peer: uuid.UUID) -> bool:
    """Whether a peer is in the view in preparation."""
    return group.preparing is not None and group.preparing.view.rank_of(peer) is not None


def mark_knows(turn: Turn, name: str, peer: uuid.UUID) -> None:
    """A peer has shown that it knows of the view in preparation."""
    coming = turn.group(name).preparing
    assert coming is not None
    if peer not in coming.knows:
        knows = with_item(coming.knows, peer, turn.now)
        turn.set_group(name, preparing=dataclasses.replace(coming, knows=knows))


def mark_ready(turn: Turn, name: str, peer: uuid.UUID, nearby: tuple[int, ...]) -> None:
    """A peer has links to all peers of the view in preparation, to some of them by memory."""
    record_unreachable(turn, name, peer, ())
    coming = turn.group(name).preparing
    assert coming is not None
    ready = with_item(coming.ready, peer, nearby)
    turn.set_group(name, preparing=dataclasses.replace(coming, ready=ready))


def record_unreachable(
    turn: Turn, name: str, peer: uuid.UUID, pairs: Sequence[tuple[uuid.UUID, str]]
) -> None:
    """Keep a peer's word about whom it cannot reach; it replaces what it said before."""
    coming = turn.group(name).preparing
    assert coming is not None
    known = {other.id for other in coming.view.peers}
    failed = {pair: failure for pair, failure in coming.failed.items() if pair[0] != peer}
    for other, text in pairs:
        if other in known and other != peer:
            before = coming.failed.get((peer, other))
            since = turn.now if before is None else before.since
            failed[(peer, other)] = Failure(text, since, turn.now)
    turn.set_group(name, preparing=dataclasses.replace(coming, failed=failed))
