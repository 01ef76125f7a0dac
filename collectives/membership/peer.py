"""A peer's side of membership as a pure function: ``step(state, event, now)``.

Here: which event is whose business. What a peer says is in ``peer_says``, how it is let in and put
out in ``peer_entry``, how it goes from view to view in ``peer_views``; the shell that owns the
socket, the clock and the data plane is ``agent``. Phases::

    CONNECTING ──Challenge──► CHALLENGED ──Welcome──► WAITING ──Commit──► MEMBER ──► LEAVING ──► OUT
         └────────────────────Welcome────────────────────┘                  │ ▲
                                    Prepare, SyncReached, Commit; Seal, Report, Verdict

In WAITING and MEMBER a view may be in preparation (``coming``), in MEMBER a sync may be under way
(``sync``). Every request is sent again at intervals until it is answered, since a coordinator
that restarts forgets what was on its way.
"""

from __future__ import annotations

from collectives.errors import CoordinatorUnreachable
from collectives.membership import messages, peer_entry, peer_says, peer_views, plane
from collectives.membership.peer_state import (
    Action,
    Call,
    CallFilled,
    CallLeave,
    CallSync,
    CallTuned,
    CommitPlane,
    Dial,
    DiscardPlane,
    EndPlane,
    Event,
    JudgePlane,
    Missing,
    OpenPlane,
    PeerConfig,
    PeerState,
    Phase,
    PreparePlane,
    Received,
    ReceivedOtherVersion,
    Reject,
    RelayPlane,
    Resolve,
    SealPlane,
    Send,
    Start,
    Step,
    Suspicion,
    SyncOutcome,
    Tick,
    VisitPlane,
)
from collectives.membership.peer_turn import PeerTurn
from collectives.membership.peer_waits import waits_for
from collectives.membership.view import View
from collectives.membership.wire import Message, OfView, clip


def step(state: PeerState, event: Event, now: float) -> Step:
    """Return what a peer does about one event. Pure, like ``coordinator.decide``."""
    turn = PeerTurn(state, now)
    _handle(turn, event)
    return turn.step()


def _handle(turn: PeerTurn, event: Event) -> None:
    if turn.state.phase is Phase.OUT:
        return
    if isinstance(event, Start):
        turn.set(dialled=turn.now)
        peer_says.hello(turn)
    elif isinstance(event, Received):
        turn.set(heard=turn.now)
        _received(turn, event.message)
    elif isinstance(event, ReceivedOtherVersion):
        peer_entry.skewed(turn, event.low, event.high)
    elif isinstance(event, CallSync):
        _call_sync(turn, event)
    elif isinstance(event, CallLeave):
        _call_leave(turn, event)
    elif isinstance(event, CallFilled):
        turn.set(filled=True)
        if turn.state.phase is Phase.WAITING:
            peer_says.alive(turn)
    elif isinstance(event, CallTuned):
        peer_views.tuned(turn, event.table)
    elif isinstance(event, Tick):
        peer_says.tick(turn)
    else:
        _plane(turn, event)


# ---- what the user wants ------------------------------------------------------------------------


def _call_sync(turn: PeerTurn, event: CallSync) -> None:
    if turn.state.view is None or turn.state.sync is not None:
        return
    turn.set(sync=event.last_operation, note=None)
    peer_says.sync_reached(turn)


def _call_leave(turn: PeerTurn, event: CallLeave) -> None:
    if turn.state.phase in (Phase.CONNECTING, Phase.CHALLENGED):
        turn.out(None)
        return
    turn.set(phase=Phase.LEAVING)
    turn.send(messages.Leave(turn.state.group_id, clip(event.text), event.aborted))


# ---- what the data plane sees -------------------------------------------------------------------


def _plane(turn: PeerTurn, event: plane.PlaneEvent) -> None:
    state = turn.state
    coming, view = state.coming, state.view
    if isinstance(event, plane.ViewReady):
        if coming is not None and event.number == coming.number and not state.ready:
            turn.set(ready=True, nearby=event.nearby, unreachable={})
            peer_says.preparation(turn)
    elif isinstance(event, plane.Unreachable):
        if coming is None or event.number != coming.number or state.ready:
            return
        if coming.rank_of(event.peer) is None:
            return
        news = event.peer not in state.unreachable
        missing = Missing(event.text, turn.now)
        turn.set(unreachable={**state.unreachable, event.peer: missing})
        if news:
            peer_says.preparation(turn)
    elif isinstance(event, plane.Reported):
        turn.send(messages.Report(state.group_id, event.data))
    elif isinstance(event, plane.VerdictTaken):
        turn.send(messages.Taken(state.group_id, event.epoch, event.peer))
    elif isinstance(event, plane.VerdictHeard):
        peer_views.heard_verdict(turn, event.data)
    elif isinstance(event, plane.GivenUp):
        _given_up(turn, event)
    elif isinstance(event, plane.PeerSuspected) and coming and event.number == coming.number:
        # The data plane repeats it while it is so.
        about = (coming.group_id, coming.term, coming.number)
        turn.send(messages.Suspect(*about, event.peer, clip(event.text), event.certain))
    elif view is None or event.number != view.number:
        return  # of a view that is no more
    elif isinstance(event, plane.PeerSuspected):
        before = state.suspects.get(event.peer)
        better = before is None or event.certain > before.certain
        best = event if before is None or better else before
        suspicion = Suspicion(best.text, best.certain, turn.now)
        turn.set(suspects={**state.suspects, event.peer: suspicion})
        if better:
            peer_says.suspect(turn, event.peer)
    elif not state.vetoed and not state.sealed:
        turn.set(vetoed=event.text or "an operation was given up")
        peer_says.veto(turn)


def _given_up(turn: PeerTurn, event: plane.GivenUp) -> None:
    state = turn.state
    if state.phase is not Phase.MEMBER or state.view is None:
        return
    if event.number == state.view.number:
        turn.send(messages.Leave(state.group_id, clip(event.text), True))
        turn.out(CoordinatorUnreachable(event.text))


# ---- what the coordinator says ------------------------------------------------------------------


def _received(turn: PeerTurn, message: Message) -> None:
    if isinstance(message, messages.Challenge):
        peer_entry.challenged(turn, message)
    elif isinstance(message, messages.Identify):
        # One Hello answers however many messages were queued while the connection was lost.
        last = turn.state.introduced
        if last is None or turn.now - last >= turn.state.config.again / 5:
            turn.set(unknown=True)
            peer_says.hello(turn)
    elif isinstance(message, messages.Recall):
        peer_entry.recalled(turn, message)
    elif isinstance(message, messages.Welcome):
        peer_entry.welcome(turn, message)
    elif isinstance(message, messages.Denied):
        peer_entry.denied(turn, message.text)
    elif isinstance(message, messages.Skew):
        peer_entry.skewed(turn, message.low, message.high)
    elif isinstance(message, messages.Evicted):
        peer_entry.evicted(turn, message)
    elif isinstance(message, messages.LeaveDone):
        if turn.state.phase is Phase.LEAVING:
            turn.out(None)
    elif turn.state.phase in (Phase.WAITING, Phase.MEMBER):
        _admitted(turn, message)
    elif turn.state.phase is Phase.LEAVING and isinstance(
        message, messages.Seal | messages.Verdict
    ):
        _admitted(turn, message)  # it leaves after the round that is open


def _admitted(turn: PeerTurn, message: Message) -> None:
    state = turn.state
    if isinstance(message, messages.Waiting):
        if state.phase is Phase.WAITING and message != state.note:
            turn.set(note=message)
            turn.because(f"waiting for {waits_for(turn.state)}")
    elif isinstance(message, messages.Prepare):
        peer_views.prepare(turn, message.view)
    elif isinstance(message, messages.Abandon):
        peer_views.abandon(turn, message)
    elif isinstance(message, messages.Commit):
        peer_views.commit(turn, message)
    elif isinstance(message, messages.Visit):
        peer_views.visit(turn, message.view)
    elif isinstance(message, messages.Verdict):
        peer_views.judged(turn, message)
    elif isinstance(message, messages.Check):
        peer_says.alive(turn)
    elif isinstance(message, messages.SyncDone):
        peer_views.sync_done(turn, message)
    elif not _is_about(message, state.view):
        return  # of another view, or one that needs no action (Noted)
    elif isinstance(message, messages.SyncWaiting):
        if state.sync is not None and message != state.note:
            turn.set(note=message)
            turn.because(f"in sync(), waiting for {waits_for(turn.state)}")
    elif isinstance(message, messages.Seal):
        peer_views.seal(turn, message)


def _is_about(message: Message, view: View | None) -> bool:
    """Whether a message is about this view."""
    return (
        isinstance(message, OfView)
        and view is not None
        and (message.group_id, message.term, message.number)
        == (view.group_id, view.term, view.number)
    )


__all__ = [
    "Action",
    "Call",
    "CallFilled",
    "CallLeave",
    "CallSync",
    "CallTuned",
    "CommitPlane",
    "Dial",
    "DiscardPlane",
    "Event",
    "EndPlane",
    "JudgePlane",
    "Missing",
    "OpenPlane",
    "PeerConfig",
    "PeerState",
    "Phase",
    "PreparePlane",
    "Received",
    "ReceivedOtherVersion",
    "Reject",
    "RelayPlane",
    "Resolve",
    "SealPlane",
    "Send",
    "Start",
    "Step",
    "SyncOutcome",
    "Tick",
    "VisitPlane",
    "step",
    "waits_for",
]
