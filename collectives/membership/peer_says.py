"""What a peer says to its coordinator, and says again until it is answered.

Functions on a ``PeerTurn``. A coordinator that restarts forgets what was on its way, so each of
these may be said at any time; ``tick`` says again what has had no answer.
"""

from __future__ import annotations

import dataclasses
import uuid

from collectives.membership import messages, whereabouts, wire
from collectives.membership.peer_state import Dial, Phase
from collectives.membership.peer_turn import PeerTurn
from collectives.membership.wire import clip


def hello(turn: PeerTurn) -> None:
    """Who it is, and where it stands."""
    turn.set(introduced=turn.now)
    config, view = turn.state.config, turn.state.view
    # Before its first view a peer has nothing to lose: it may join any run. Where it waited
    # tells a coordinator without memory that there is a run whose members will come.
    turn.send(
        messages.Hello(
            config.id,
            config.group,
            config.name,
            config.addresses,
            config.min_size,
            config.unit,
            config.versions[0],
            config.versions[1],
            wire.FEATURES,
            turn.state.run,
            view.term if view is not None else 0,
            view.number if view is not None else 0,
            config.process,
            config.visits,
            config.site,
            config.tunes,
            config.among if view is None else (),
        )
    )


def sync_reached(turn: PeerTurn) -> None:
    """Its program is in sync()."""
    view, sync = turn.state.view, turn.state.sync
    assert view is not None
    assert sync is not None
    turn.send(
        messages.SyncReached(
            view.group_id,
            view.term,
            view.number,
            turn.state.syncs,
            sync,
        )
    )


def tick(turn: PeerTurn) -> None:
    """Say what is to be said by now."""
    _look_elsewhere(turn)
    state = turn.state
    quiet = float("inf") if state.sent is None else turn.now - state.sent
    unknown = state.unknown or state.phase in (Phase.CONNECTING, Phase.CHALLENGED)
    urgent = unknown or state.suspects or state.vetoed or state.phase is Phase.LEAVING
    if quiet < (state.config.again if urgent else state.config.keepalive):
        return
    if unknown:
        hello(turn)
    elif state.phase is Phase.LEAVING:
        turn.send(messages.Leave(state.group_id))
    else:
        where_it_stands(turn)


def _look_elsewhere(turn: PeerTurn) -> None:
    """Try the coordinator's next address if it is time to."""
    move = whereabouts.next_address(turn.state, turn.now)
    turn.set(ticked=turn.now)
    if move is None:
        return
    index, why = move
    address = turn.state.config.coordinators[index]
    config = dataclasses.replace(turn.state.config, coordinator=address)
    turn.set(config=config, at=index, dialled=turn.now, recall="", unknown=True)
    if turn.state.phase is Phase.CHALLENGED:
        turn.set(phase=Phase.CONNECTING)
    turn.act(Dial(address, why))
    hello(turn)


def where_it_stands(turn: PeerTurn) -> None:
    """Repeat whatever has not been answered, or just say Alive."""
    current = {
        p: suspicion
        for p, suspicion in turn.state.suspects.items()
        if turn.now - suspicion.at < turn.state.config.stale
    }
    turn.set(suspects=current)
    state = turn.state
    for peer in state.suspects:
        suspect(turn, peer)
    if state.vetoed:
        veto(turn)
    if state.coming is not None and (state.ready or state.unreachable):
        preparation(turn)
    elif state.coming is None and state.sync is not None:
        sync_reached(turn)
    if state.view is not None or not (state.coming is not None and state.ready):
        alive(turn)


def alive(turn: PeerTurn) -> None:
    """Where it stands."""
    state = turn.state
    term, number = (state.term, 0)
    if state.view is not None:
        term, number = state.view.term, state.view.number
    prepared = 0 if state.coming is None else state.coming.number
    turn.send(
        messages.Alive(
            state.group_id,
            term,
            number,
            prepared,
            bool(state.sealed),
            state.visit,
            state.filled,
        )
    )


def preparation(turn: PeerTurn) -> None:
    """Whether it has connected for the view in preparation, or to whom it cannot."""
    coming = turn.state.coming
    assert coming is not None
    about = (coming.group_id, coming.term, coming.number)
    if turn.state.ready:
        turn.send(messages.Prepared(*about, turn.state.nearby))
    else:
        # The data plane repeats itself while a link is missing; what it no longer says is over.
        current = {
            p: missing
            for p, missing in turn.state.unreachable.items()
            if turn.now - missing.at < turn.state.config.stale
        }
        turn.set(unreachable=current)
        pairs = tuple((p, clip(missing.text)) for p, missing in current.items())
        turn.send(messages.Unreachable(*about, pairs))


def suspect(turn: PeerTurn, peer: uuid.UUID) -> None:
    """Evidence against another."""
    view = turn.state.view
    assert view is not None
    suspicion = turn.state.suspects[peer]
    turn.send(
        messages.Suspect(
            view.group_id,
            view.term,
            view.number,
            peer,
            clip(suspicion.text),
            suspicion.certain,
        )
    )


def veto(turn: PeerTurn) -> None:
    """An operation wants to end with an error."""
    view = turn.state.view
    assert view is not None
    text = clip(turn.state.vetoed)
    turn.send(messages.Veto(view.group_id, view.term, view.number, text))
