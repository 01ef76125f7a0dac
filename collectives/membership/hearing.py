"""What registered peers say, and what the coordinator does about it.

Functions on a ``Turn``, one per message. Anything stale, repeated or out of place is answered with
what the sender should know by now (``catch_up``), and changes nothing else.
"""

from __future__ import annotations

import uuid

from collectives.membership import (
    formation,
    preparation,
    recall,
    restart,
    rounds,
    suspects,
    visits,
)
from collectives.membership.departures import depart, leave, let_go
from collectives.membership.ledger import Departure
from collectives.membership.messages import (
    Abandon,
    Alive,
    Identify,
    Leave,
    Noted,
    Prepare,
    Prepared,
    Recollect,
    Report,
    Suspect,
    SyncDone,
    SyncReached,
    Taken,
    Unreachable,
    Veto,
)
from collectives.membership.turn import Turn, farewell, without
from collectives.membership.wire import Message, OfGroup


def heard(turn: Turn, route: bytes, message: Message) -> None:
    """A message over a connection that has introduced itself, or should have."""
    key = turn.state.routes.get(route)
    if key is None:
        turn.send(route, Identify())
        return
    name, peer = key
    if key in turn.state.departed:
        turn.send(route, farewell(turn.state.departed[key]))
        return
    group = turn.state.groups.get(name)
    if group is not None and isinstance(message, Recollect) and message.peer == peer:
        recall.recollect(turn, name, route, message)
        return
    if group is None or peer not in group.peers:
        turn.set(routes=without(turn.state.routes, route))
        turn.send(route, Identify())
        return
    if not isinstance(message, OfGroup) or message.group_id != group.id:
        turn.refuse("message out of place")
        return
    turn.set_peer(name, peer, heard=turn.now)
    if isinstance(message, Alive):
        turn.send(route, Noted())
        coming = group.preparing
        if coming is not None and message.prepared == coming.view.number:
            preparation.mark_knows(turn, name, peer)
        if message.filled and turn.group(name).peers[peer].filling:
            turn.set_peer(name, peer, filled=True)
            turn.because(f"{group.peers[peer].peer.name!r} has fetched the state", name)
            formation.settle(turn, name)
        visits.catch_up(turn, name, peer, message.visit)
        catch_up(turn, name, peer, message)
    elif isinstance(message, Prepared | Unreachable):
        _about_preparation(turn, name, peer, message)
    elif isinstance(message, SyncReached):
        _sync_reached(turn, name, peer, message)
    elif isinstance(message, Suspect):
        _suspect(turn, name, peer, message)
    elif isinstance(message, Veto):
        _veto(turn, name, message)
    elif isinstance(message, Report):
        rounds.report(turn, name, message.data)
        let_go(turn, name)
        formation.settle(turn, name)
    elif isinstance(message, Taken):
        rounds.mark_taken(turn, name, message.peer, message.epoch)
    elif isinstance(message, Leave):
        _leave(turn, name, peer, message)
    else:
        turn.refuse("message out of place")


def catch_up(turn: Turn, name: str, peer: uuid.UUID, stand: Alive) -> None:
    """Send a peer whatever it should know by now and, by its own word, does not."""
    group = turn.group(name)
    view, coming = group.view, group.preparing
    if view is not None and view.rank_of(peer) is not None:
        if (stand.term, stand.number) == (view.term, view.number):
            rounds.catch_up(turn, name, peer, stand.sealed)
        elif not rounds.repeat_verdict(turn, name, peer, stand.term, stand.number):
            turn.tell(name, peer, preparation.commit_of(view))
    elif coming is None or coming.view.rank_of(peer) is None:
        turn.tell(name, peer, formation.waiting_note(turn.state, group, peer))
    if coming is not None and coming.view.rank_of(peer) is not None:
        if peer not in coming.ready and stand.prepared < coming.view.number:
            turn.tell(name, peer, Prepare(coming.view))
    elif stand.prepared and (view is None or stand.prepared != view.number):
        turn.tell(name, peer, Abandon(group.id, turn.state.term, stand.prepared))


def _about_preparation(
    turn: Turn, name: str, peer: uuid.UUID, message: Prepared | Unreachable
) -> None:
    group = turn.group(name)
    coming = group.preparing
    about = (message.term, message.number)
    if coming is None or about != (coming.view.term, coming.view.number):
        committed = group.view
        if committed is not None and about == (committed.term, committed.number):
            turn.tell(name, peer, preparation.commit_of(committed))
        else:
            turn.tell(name, peer, Abandon(group.id, message.term, message.number))
            if coming is not None and coming.view.rank_of(peer) is not None:
                turn.tell(name, peer, Prepare(coming.view))
        return
    if coming.view.rank_of(peer) is None:
        turn.refuse("message out of place")
        return
    if peer in coming.ready:
        turn.tell(name, peer, Noted())
        return
    preparation.mark_knows(turn, name, peer)
    if isinstance(message, Prepared):
        preparation.mark_ready(turn, name, peer, message.nearby)
        formation.settle(turn, name)
    else:
        preparation.record_unreachable(turn, name, peer, message.pairs)
        turn.tell(name, peer, Noted())


def _sync_reached(turn: Turn, name: str, peer: uuid.UUID, message: SyncReached) -> None:
    group = turn.group(name)
    view = group.view
    if view is None or view.rank_of(peer) is None:
        turn.refuse("message out of place")
        return
    if (message.term, message.number) != (view.term, view.number) or message.sync < group.sync:
        if (message.term, message.number) == (view.term, view.number):
            done = SyncDone(group.id, *group.synced, message.sync)
            turn.tell(name, peer, done)
        else:
            catch_up(turn, name, peer, Alive(group.id, message.term, message.number))
        return
    if message.sync > group.sync:
        turn.refuse("message out of place")
        return
    again = peer in group.reached
    formation.mark_reached(turn, name, peer, message.last_operation)
    rounds.mark_taken(turn, name, peer)
    if again:
        # Whatever the answer was, it may have been lost.
        turn.set_peer(name, peer, told=None)
        turn.tell(name, peer, Noted())
        stand = Alive(group.id, message.term, message.number)
        catch_up(turn, name, peer, stand)
    formation.settle(turn, name)


def _suspect(turn: Turn, name: str, peer: uuid.UUID, message: Suspect) -> None:
    group = turn.group(name)
    view = group.view
    turn.tell(name, peer, Noted())
    coming = group.preparing
    about = (message.term, message.number)
    if coming is not None and about == (coming.view.term, coming.view.number):
        both = {member.id for member in coming.view.peers} >= {peer, message.peer}
        if both and message.peer != peer and message.peer in group.peers:
            suspects.mark_coming(turn, name, peer, message.peer, message.certain)
        return
    if view is None or about != (view.term, view.number):
        return  # of a view that is no more; whoever is dead is suspected again in this one
    members = {member.id for member in group.members}
    if peer not in members or message.peer == peer:
        turn.refuse("message out of place")
    elif message.peer in members and turn.group(name).returning is not None:
        restart.hold_suspicion(turn, name, peer, message.peer, message.text, message.certain)
    elif message.peer in members:
        suspects.mark(turn, name, peer, message.peer, message.text, message.certain)


def _veto(turn: Turn, name: str, message: Veto) -> None:
    view = turn.group(name).view
    if view is not None and (message.term, message.number) == (view.term, view.number):
        rounds.open_round(turn, name, why=message.text)


def _leave(turn: Turn, name: str, peer: uuid.UUID, message: Leave) -> None:
    mine = turn.group(name).peers[peer].peer
    text = f"{mine.name!r} {'aborted' if message.aborted else 'left'}"
    text += f": {message.text}" if message.text else ""
    if turn.group(name).peers[peer].leaving is None:
        turn.because(text, name)
    departure = Departure(mine, left=not message.aborted, text=text)
    (depart if message.aborted else leave)(turn, name, departure)
    formation.settle(turn, name)
