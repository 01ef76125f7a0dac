"""How a peer and a coordinator come to know each other, and how that ends.

Functions on a ``PeerTurn``, one per message: the run token, a coordinator that was restarted, one
that has lost its memory, one that does not want the peer.
"""

from __future__ import annotations

from collectives.errors import Evicted, NotAuthorized, VersionSkew
from collectives.membership import messages, peer_says, wire
from collectives.membership.ledger import prove
from collectives.membership.peer_state import EndPlane, Phase, VisitPlane
from collectives.membership.peer_turn import PeerTurn
from collectives.membership.peer_waits import waits_for

_RESTARTED = (
    "the coordinator at {} was restarted without its memory while this peer was being admitted;"
    " join again"
)


def challenged(turn: PeerTurn, message: messages.Challenge) -> None:
    """Prove that it knows the run token."""
    config = turn.state.config
    if not config.token:
        turn.out(
            NotAuthorized(
                f"the coordinator at {config.coordinator} asks for the run token and"
                f" {config.name!r} has none; pass it as token= or in $COLLECTIVES_TOKEN"
            )
        )
        return
    if turn.state.phase is Phase.CONNECTING:
        turn.set(phase=Phase.CHALLENGED)
    mac = prove(config.token, message.nonce, config.id)
    turn.send(messages.Proof(mac, message.nonce))


def denied(turn: PeerTurn, text: str) -> None:
    """Its proof was wrong."""
    config = turn.state.config
    turn.out(
        NotAuthorized(
            f"the coordinator at {config.coordinator} refused {config.name!r}: {text}; pass the"
            " run's token as token= or in $COLLECTIVES_TOKEN"
        )
    )


def recalled(turn: PeerTurn, message: messages.Recall) -> None:
    """A coordinator without memory asks what there was."""
    state = turn.state
    view, coming = state.view, state.coming
    if view is None:
        return
    if message.text != state.recall:
        turn.set(recall=message.text)
        turn.because(f"waiting for {waits_for(turn.state)}")
    prepared = coming if coming is not None and state.ready else None
    verdict = state.verdict
    if verdict is not None and len(verdict.data) > wire.MAX_RECALLED:
        verdict = None
    turn.send(
        messages.Recollect(
            state.config.id,
            state.run,
            state.term,
            view,
            state.syncs,
            0 if prepared is None else prepared.term,
            0 if prepared is None else prepared.number,
            b"" if verdict is None else verdict.data,
            0 if verdict is None else verdict.term,
            0 if verdict is None else verdict.number,
        )
    )


def welcome(turn: PeerTurn, message: messages.Welcome) -> None:
    """The coordinator knows it."""
    state = turn.state
    if state.view is not None and message.run != state.run:
        return  # it would have evicted us; a stale answer
    if message.run == state.run and message.term < state.term:
        return  # a coordinator that was replaced, and does not know it
    restarted = (message.run, message.term) != (state.run, state.term)
    # A view that we are ready for may have been committed before the restart; the coordinator
    # will tell.
    perhaps_committed = message.run == state.run and state.ready
    if state.coming is not None and restarted and not perhaps_committed:
        turn.discard_coming()
    if state.visit and restarted:
        # The visits of this coordinator are others; its first one may have the same number.
        turn.set(visit=0)
        turn.act(VisitPlane(None))
    if state.opened and message.group_id != state.group_id:
        turn.out(Evicted(_RESTARTED.format(state.config.coordinator)))
        return
    highest = state.highest if message.run == state.run else (0, 0)
    visited = state.visited if message.run == state.run else (0, 0)
    turn.set(
        visited=visited,
        run=message.run,
        term=message.term,
        group_id=message.group_id,
        name=message.name,
        highest=highest,
        unknown=False,
        recall="",
        refused={},
    )
    if state.phase in (Phase.CONNECTING, Phase.CHALLENGED):
        turn.set(phase=Phase.WAITING)
        turn.because(f"known to the coordinator at {state.config.coordinator} as {message.name!r}")
    elif state.phase is Phase.LEAVING:
        turn.send(messages.Leave(message.group_id))
    elif turn.state.coming is not None and state.ready and restarted:
        peer_says.preparation(turn)
    elif state.sync is not None:
        peer_says.sync_reached(turn)


def evicted(turn: PeerTurn, message: messages.Evicted) -> None:
    """The coordinator does not want it, or not any more."""
    state = turn.state
    if state.phase is Phase.LEAVING:
        turn.out(None)  # it wanted to go
        return
    if state.view is not None and message.run not in (wire.NO_RUN, state.run):
        # Another run's coordinator: ours may be at another address.
        turn.set(refused={**state.refused, state.at: message.text})
        if len(turn.state.refused) < len(state.config.coordinators):
            return
    cure = "call rejoin()" if message.admitted else "mend the cause and join again"
    error = Evicted(f"{message.text}; {cure}")
    if state.opened:
        turn.act(EndPlane(str(error)))
    turn.out(error)


def skewed(turn: PeerTurn, low: int, high: int) -> None:
    """The coordinator speaks other versions of the protocol."""
    if turn.state.phase not in (Phase.CONNECTING, Phase.CHALLENGED):
        return  # one side was replaced under us; the run goes on with what was agreed
    mine = turn.state.config.versions
    turn.out(
        VersionSkew(
            f"the coordinator at {turn.state.config.coordinator} speaks protocol versions"
            f" {low} to {high}, {turn.state.config.name!r} speaks {mine[0]} to {mine[1]};"
            " install the same release of collectives on both sides"
        )
    )
