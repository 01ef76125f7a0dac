"""A peer's side of membership as a pure function: ``step(state, event, now)``.

The shell that owns the socket, the clock and the data plane is ``agent``. Phases::

    CONNECTING ──Challenge──► CHALLENGED ──Welcome──► WAITING ──Commit──► MEMBER ──► LEAVING ──► OUT
         └────────────────────Welcome────────────────────┘                  │ ▲
                                    Prepare, SyncReached, Commit; Seal, Report, Verdict

In WAITING and MEMBER a view may be in preparation (``coming``), in MEMBER a sync may be under way
(``sync``). Every request is sent again at intervals until it is answered, since a coordinator
that restarts forgets what was on its way.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

from collectives.errors import (
    CollectiveError,
    CoordinatorUnreachable,
    Evicted,
    NotAuthorized,
    VersionSkew,
)
from collectives.membership import messages, plane, whereabouts
from collectives.membership.ledger import prove
from collectives.membership.messages import Message, clip
from collectives.membership.peer_state import (
    Action,
    Call,
    CallFilled,
    CallLeave,
    CallSync,
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
from collectives.membership.report import decode_issued
from collectives.membership.view import View


def step(state: PeerState, event: Event, now: float) -> Step:
    """Return what a peer does about one event. Pure, like ``coordinator.decide``."""
    machine = _Machine(state, now)
    machine.handle(event)
    return Step(machine.state, tuple(machine.actions), "; ".join(machine.reasons))


def waits_for(state: PeerState) -> str:
    """What the peer is waiting for, in words; ends up in timeouts and in ``waiting_for``."""
    where = f"the coordinator at {state.config.coordinator}"
    if state.phase is Phase.CONNECTING:
        return f"the first answer of {where}"
    if state.phase is Phase.CHALLENGED:
        return f"{where} to check the run token"
    if state.recall:
        return f"{where} to restore the run: {state.recall}"
    if state.phase is Phase.LEAVING:
        return f"{where} to confirm the departure"
    if state.coming is not None:
        if state.unreachable:
            names = {peer.id: peer.name for peer in state.coming.peers}
            tried = "; ".join(f"{names[p]} ({m.text})" for p, m in state.unreachable.items())
            return f"a connection to {tried}"
        if not state.ready:
            return f"the connections of view {state.coming.number}"
        return f"the other peers of view {state.coming.number} to connect"
    note = state.note
    if note is not None and note.missing:
        peers = "peer" if note.missing == 1 else "peers"
        have = f" (have: {', '.join(note.present)})" if isinstance(note, messages.Waiting) else ""
        return f"{note.missing} more {peers}{have}"
    if isinstance(note, messages.Waiting):
        return f"the members of group {state.config.group!r}: {note.text}"
    if isinstance(note, messages.SyncWaiting) and note.absent:
        return f"{', '.join(note.absent)} to call sync()"
    if state.sync is not None and state.view is not None:
        return f"the other members of view {state.view.number} to call sync()"
    return where


class _Machine:
    """The working copy of a peer's state during one step."""

    def __init__(self, state: PeerState, now: float) -> None:
        self.state = state
        self.now = now
        self.actions: list[Action] = []
        self.reasons: list[str] = []

    def set(self, **fields: Any) -> None:
        self.state = dataclasses.replace(self.state, **fields)

    def send(self, message: Message) -> None:
        self.set(sent=self.now)
        self.actions.append(Send(message))

    def handle(self, event: Event) -> None:
        if self.state.phase is Phase.OUT:
            return
        if isinstance(event, Start):
            self.set(dialled=self.now)
            self.send(self._hello())
        elif isinstance(event, Received):
            self.set(heard=self.now)
            self._received(event.message)
        elif isinstance(event, ReceivedOtherVersion):
            self._skewed(event.low, event.high)
        elif isinstance(event, CallSync):
            self._call_sync(event)
        elif isinstance(event, CallLeave):
            self._call_leave(event)
        elif isinstance(event, CallFilled):
            self.set(filled=True)
            if self.state.phase is Phase.WAITING:
                self._send_alive()
        elif isinstance(event, Tick):
            self._tick()
        else:
            self._plane(event)

    # -- what the user and the clock want --

    def _hello(self) -> messages.Hello:
        self.set(introduced=self.now)
        config, view = self.state.config, self.state.view
        # Before its first view a peer has nothing to lose: it may join any run. Where it waited
        # tells a coordinator without memory that there is a run whose members will come.
        return messages.Hello(
            config.id,
            config.group,
            config.name,
            config.addresses,
            config.min_size,
            config.unit,
            config.versions[0],
            config.versions[1],
            messages.FEATURES,
            self.state.run,
            view.term if view is not None else 0,
            view.number if view is not None else 0,
            config.process,
            config.visits,
        )

    def _call_sync(self, event: CallSync) -> None:
        if self.state.view is None or self.state.sync is not None:
            return
        self.set(sync=event.last_operation, note=None)
        self._send_sync()

    def _send_sync(self) -> None:
        view, sync = self.state.view, self.state.sync
        assert view is not None
        assert sync is not None
        self.send(
            messages.SyncReached(
                view.group_id,
                view.term,
                view.number,
                self.state.syncs,
                sync,
            )
        )

    def _call_leave(self, event: CallLeave) -> None:
        if self.state.phase in (Phase.CONNECTING, Phase.CHALLENGED):
            self._out(None)
            return
        self.set(phase=Phase.LEAVING)
        self.send(messages.Leave(self.state.group_id, clip(event.text), event.aborted))

    def _tick(self) -> None:
        self._look_elsewhere()
        state = self.state
        quiet = float("inf") if state.sent is None else self.now - state.sent
        unknown = state.unknown or state.phase in (Phase.CONNECTING, Phase.CHALLENGED)
        urgent = unknown or state.suspects or state.vetoed or state.phase is Phase.LEAVING
        if quiet < (state.config.again if urgent else state.config.keepalive):
            return
        if unknown:
            self.send(self._hello())
        elif state.phase is Phase.LEAVING:
            self.send(messages.Leave(state.group_id))
        else:
            self._say_where_we_stand()

    def _look_elsewhere(self) -> None:
        """Try the coordinator's next address if it is time to."""
        move = whereabouts.next_address(self.state, self.now)
        self.set(ticked=self.now)
        if move is None:
            return
        index, why = move
        address = self.state.config.coordinators[index]
        config = dataclasses.replace(self.state.config, coordinator=address)
        self.set(config=config, at=index, dialled=self.now, recall="", unknown=True)
        if self.state.phase is Phase.CHALLENGED:
            self.set(phase=Phase.CONNECTING)
        self.actions.append(Dial(address, why))
        self.send(self._hello())

    def _say_where_we_stand(self) -> None:
        """Repeat whatever has not been answered, or just say Alive."""
        current = {
            p: suspicion
            for p, suspicion in self.state.suspects.items()
            if self.now - suspicion.at < self.state.config.stale
        }
        self.set(suspects=current)
        state = self.state
        for peer in state.suspects:
            self._send_suspect(peer)
        if state.vetoed:
            self._send_veto()
        if state.coming is not None and (state.ready or state.unreachable):
            self._send_preparation()
        elif state.coming is None and state.sync is not None:
            self._send_sync()
        if state.view is not None or not (state.coming is not None and state.ready):
            self._send_alive()

    def _send_alive(self) -> None:
        state = self.state
        term, number = (state.term, 0)
        if state.view is not None:
            term, number = state.view.term, state.view.number
        prepared = 0 if state.coming is None else state.coming.number
        self.send(
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

    def _send_preparation(self) -> None:
        coming = self.state.coming
        assert coming is not None
        about = (coming.group_id, coming.term, coming.number)
        if self.state.ready:
            self.send(messages.Prepared(*about))
        else:
            # The data plane repeats itself while a link is missing; what it no longer says is over.
            current = {
                p: missing
                for p, missing in self.state.unreachable.items()
                if self.now - missing.at < self.state.config.stale
            }
            self.set(unreachable=current)
            pairs = tuple((p, clip(missing.text)) for p, missing in current.items())
            self.send(messages.Unreachable(*about, pairs))

    def _send_suspect(self, peer: uuid.UUID) -> None:
        view = self.state.view
        assert view is not None
        suspicion = self.state.suspects[peer]
        self.send(
            messages.Suspect(
                view.group_id,
                view.term,
                view.number,
                peer,
                clip(suspicion.text),
                suspicion.certain,
            )
        )

    def _send_veto(self) -> None:
        view = self.state.view
        assert view is not None
        text = clip(self.state.vetoed)
        self.send(messages.Veto(view.group_id, view.term, view.number, text))

    # -- what the data plane sees --

    def _plane(self, event: plane.PlaneEvent) -> None:
        state = self.state
        coming, view = state.coming, state.view
        if isinstance(event, plane.ViewReady):
            if coming is not None and event.number == coming.number and not state.ready:
                self.set(ready=True, unreachable={})
                self._send_preparation()
        elif isinstance(event, plane.Unreachable):
            if coming is None or event.number != coming.number or state.ready:
                return
            if coming.rank_of(event.peer) is None:
                return
            news = event.peer not in state.unreachable
            missing = Missing(event.text, self.now)
            self.set(unreachable={**state.unreachable, event.peer: missing})
            if news:
                self._send_preparation()
        elif isinstance(event, plane.Reported):
            self.send(messages.Report(state.group_id, event.data))
        elif isinstance(event, plane.VerdictTaken):
            self.send(messages.Taken(state.group_id, event.epoch, event.peer))
        elif isinstance(event, plane.VerdictHeard):
            self._heard_verdict(event.data)
        elif isinstance(event, plane.GivenUp):
            self._given_up(event)
        elif isinstance(event, plane.PeerSuspected) and coming and event.number == coming.number:
            # The data plane repeats it while it is so.
            about = (coming.group_id, coming.term, coming.number)
            self.send(messages.Suspect(*about, event.peer, clip(event.text), event.certain))
        elif view is None or event.number != view.number:
            return  # of a view that is no more
        elif isinstance(event, plane.PeerSuspected):
            before = state.suspects.get(event.peer)
            better = before is None or event.certain > before.certain
            best = event if before is None or better else before
            suspicion = Suspicion(best.text, best.certain, self.now)
            self.set(suspects={**state.suspects, event.peer: suspicion})
            if better:
                self._send_suspect(event.peer)
        elif not state.vetoed and not state.sealed:
            self.set(vetoed=event.text or "an operation was given up")
            self._send_veto()

    def _given_up(self, event: plane.GivenUp) -> None:
        state = self.state
        if state.phase is not Phase.MEMBER or state.view is None:
            return
        if event.number == state.view.number:
            self.send(messages.Leave(state.group_id, clip(event.text), True))
            self._out(CoordinatorUnreachable(event.text))

    # -- what the coordinator says --

    def _received(self, message: Message) -> None:
        if isinstance(message, messages.Challenge):
            self._challenged(message)
        elif isinstance(message, messages.Identify):
            # One Hello answers however many messages were queued while the connection was lost.
            last = self.state.introduced
            if last is None or self.now - last >= self.state.config.again / 5:
                self.set(unknown=True)
                self.send(self._hello())
        elif isinstance(message, messages.Recall):
            self._recalled(message)
        elif isinstance(message, messages.Welcome):
            self._welcome(message)
        elif isinstance(message, messages.Denied):
            self._out(
                NotAuthorized(
                    f"the coordinator at {self.state.config.coordinator} refused"
                    f" {self.state.config.name!r}: {message.text}; pass the run's token as"
                    " token= or in $COLLECTIVES_TOKEN"
                )
            )
        elif isinstance(message, messages.Skew):
            self._skewed(message.low, message.high)
        elif isinstance(message, messages.Evicted):
            self._evicted(message)
        elif isinstance(message, messages.LeaveDone):
            if self.state.phase is Phase.LEAVING:
                self._out(None)
        elif self.state.phase in (Phase.WAITING, Phase.MEMBER):
            self._admitted(message)

    def _challenged(self, message: messages.Challenge) -> None:
        config = self.state.config
        if not config.token:
            self._out(
                NotAuthorized(
                    f"the coordinator at {config.coordinator} asks for the run token and"
                    f" {config.name!r} has none; pass it as token= or in $COLLECTIVES_TOKEN"
                )
            )
            return
        if self.state.phase is Phase.CONNECTING:
            self.set(phase=Phase.CHALLENGED)
        mac = prove(config.token, message.nonce, config.id)
        self.send(messages.Proof(mac, message.nonce))

    def _recalled(self, message: messages.Recall) -> None:
        """A coordinator without memory asks what there was."""
        state = self.state
        view, coming = state.view, state.coming
        if view is None:
            return
        if message.text != state.recall:
            self.set(recall=message.text)
            self.reasons.append(f"waiting for {waits_for(self.state)}")
        prepared = coming if coming is not None and state.ready else None
        verdict = state.verdict
        if verdict is not None and len(verdict.data) > messages.MAX_RECALLED:
            verdict = None
        self.send(
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

    def _welcome(self, message: messages.Welcome) -> None:
        state = self.state
        if state.view is not None and message.run != state.run:
            return  # it would have evicted us; a stale answer
        if message.run == state.run and message.term < state.term:
            return  # a coordinator that was replaced, and does not know it
        restarted = (message.run, message.term) != (state.run, state.term)
        # A view that we are ready for may have been committed before the restart; the coordinator
        # will tell.
        perhaps_committed = message.run == state.run and state.ready
        if state.coming is not None and restarted and not perhaps_committed:
            self.set(coming=None, ready=False, unreachable={})
            self.actions.append(DiscardPlane())
        if state.visit and restarted:
            # The visits of this coordinator are others; its first one may have the same number.
            self.set(visit=0)
            self.actions.append(VisitPlane(None))
        if state.opened and message.group_id != state.group_id:
            self._out(Evicted(_RESTARTED.format(state.config.coordinator)))
            return
        highest = state.highest if message.run == state.run else (0, 0)
        visited = state.visited if message.run == state.run else (0, 0)
        self.set(
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
            self.set(phase=Phase.WAITING)
            self.reasons.append(
                f"known to the coordinator at {state.config.coordinator} as {message.name!r}"
            )
        elif state.phase is Phase.LEAVING:
            self.send(messages.Leave(message.group_id))
        elif self.state.coming is not None and state.ready and restarted:
            self._send_preparation()
        elif state.sync is not None:
            self._send_sync()

    def _evicted(self, message: messages.Evicted) -> None:
        state = self.state
        if state.phase is Phase.LEAVING:
            self._out(None)  # it wanted to go
            return
        if state.view is not None and message.run not in (messages.NO_RUN, state.run):
            # Another run's coordinator: ours may be at another address.
            self.set(refused={**state.refused, state.at: message.text})
            if len(self.state.refused) < len(state.config.coordinators):
                return
        cure = "call rejoin()" if message.admitted else "mend the cause and join again"
        error = Evicted(f"{message.text}; {cure}")
        if state.opened:
            self.actions.append(EndPlane(str(error)))
        self._out(error)

    def _skewed(self, low: int, high: int) -> None:
        if self.state.phase not in (Phase.CONNECTING, Phase.CHALLENGED):
            return  # one side was replaced under us; the run goes on with what was agreed
        mine = self.state.config.versions
        self._out(
            VersionSkew(
                f"the coordinator at {self.state.config.coordinator} speaks protocol versions"
                f" {low} to {high}, {self.state.config.name!r} speaks {mine[0]} to {mine[1]};"
                " install the same release of collectives on both sides"
            )
        )

    def _out(self, error: CollectiveError | None) -> None:
        leaving = self.state.phase is Phase.LEAVING or error is None
        if self.state.coming is not None:
            self.actions.append(DiscardPlane())
        self.set(phase=Phase.OUT, error=error, coming=None, sync=None, suspects={}, vetoed="")
        if leaving:
            self.actions.append(Resolve(Call.LEAVE, None))
            self.reasons.append("left the group")
        if error is not None:
            self.reasons.append(str(error))
        self.actions.append(Reject(error or CollectiveError("this peer has left the group")))

    def _admitted(self, message: Message) -> None:
        state = self.state
        if isinstance(message, messages.Waiting):
            if state.phase is Phase.WAITING and message != state.note:
                self.set(note=message)
                self.reasons.append(f"waiting for {waits_for(self.state)}")
        elif isinstance(message, messages.Prepare):
            self._prepare(message.view)
        elif isinstance(message, messages.Abandon):
            self._abandon(message)
        elif isinstance(message, messages.Commit):
            self._commit(message)
        elif isinstance(message, messages.Visit):
            self._visit(message.view)
        elif isinstance(message, messages.Verdict):
            self._judged(message)
        elif isinstance(message, messages.Check):
            self._send_alive()
        elif isinstance(message, messages.SyncDone):
            self._sync_done(message)
        elif state.view is None or (
            getattr(message, "group_id", None),
            getattr(message, "term", None),
            getattr(message, "number", None),
        ) != (state.view.group_id, state.view.term, state.view.number):
            return  # of another view, or one that needs no action (Noted)
        elif isinstance(message, messages.SyncWaiting):
            if state.sync is not None and message != state.note:
                self.set(note=message)
                self.reasons.append(f"in sync(), waiting for {waits_for(self.state)}")
        elif isinstance(message, messages.Seal):
            self._seal(message)

    def _sync_done(self, message: messages.SyncDone) -> None:
        state = self.state
        known = [(view.group_id, view.term, view.number) for view in state.views]
        about = (message.group_id, message.term, message.number)
        if state.sync is None or message.sync != state.syncs or about not in known:
            return
        # Not always the newest: the others may have gone on and left before we heard of it.
        views = state.views[known.index(about) :]
        self.set(sync=None, syncs=state.syncs + 1, views=views, note=None)
        self.actions.append(Resolve(Call.SYNC, _outcome(state.views[0], views[0])))

    def _prepare(self, view: View) -> None:
        state = self.state
        rank = view.rank_of(state.config.id)
        if rank is None or view.term != state.term or view.group_id != state.group_id:
            return
        if (view.term, view.number) <= state.highest:
            if state.coming is not None and state.coming.number == view.number:
                self._say_where_we_stand()  # our answer was lost
            return
        if not state.opened:
            self.actions.append(OpenPlane(view.group_id, view.group))
        self.set(
            opened=True,
            coming=view,
            ready=False,
            unreachable={},
            highest=(view.term, view.number),
        )
        self.actions.append(PreparePlane(view, rank))
        self.reasons.append(
            f"connecting for view {view.number}: {', '.join(p.name for p in view.peers)}"
        )

    def _visit(self, view: View) -> None:
        state = self.state
        about = (view.term, view.number)
        if view.group_id != state.group_id or view.term != state.term or about <= state.visited:
            return
        self.set(visited=about, visit=view.number if view.peers else 0)
        self.actions.append(VisitPlane(view if view.peers else None))
        names = ", ".join(peer.name for peer in view.peers if peer.id != state.config.id)
        self.reasons.append(f"visit {view.number}: {names or 'over'}")

    def _abandon(self, message: messages.Abandon) -> None:
        state = self.state
        about = (message.term, message.number)
        coming = state.coming
        if message.group_id != state.group_id or message.term > state.term:
            return
        if coming is not None and message.number == coming.number and message.term >= coming.term:
            self.set(coming=None, ready=False, unreachable={})
            self.actions.append(DiscardPlane())
            self.reasons.append(f"view {message.number} will not come")
            if state.sync is not None:
                self._send_sync()
        self.set(highest=max(state.highest, about))

    def _commit(self, message: messages.Commit) -> None:
        state = self.state
        coming = state.coming
        if coming is None or not state.ready:
            return
        if (message.group_id, message.term, message.number) != (
            coming.group_id,
            coming.term,
            coming.number,
        ):
            return
        view = dataclasses.replace(coming, first_operation=message.first_operation)
        old = state.view
        self.set(
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
        self.actions.append(CommitPlane(view.term, view.number, view.first_operation))
        names = ", ".join(peer.name for peer in view.peers)
        self.reasons.append(f"view {view.number} has {view.size} peers: {names}")
        if old is None:
            self.actions.append(Resolve(Call.JOIN, view))
        elif state.sync is not None:
            self.actions.append(Resolve(Call.SYNC, _outcome(state.views[0], view)))

    # -- rounds --

    def _seal(self, message: messages.Seal) -> None:
        for peer in message.relay:
            if peer != self.state.config.id:
                self.actions.append(RelayPlane(peer, message.epoch, verdict=False))
        if self.state.config.id in message.relay or message.epoch != self.state.sealed:
            # Also again: the report may have been lost.
            self.set(sealed=message.epoch, vetoed="")
            self.actions.append(SealPlane(message.epoch))

    def _judged(self, message: messages.Verdict) -> None:
        state = self.state
        old, view = state.view, message.view
        for peer in message.relay:
            if peer != state.config.id:
                self.actions.append(RelayPlane(peer, message.data, verdict=True))
        if old is None or (message.term, message.number) != (old.term, old.number):
            if old is not None and (view.term, view.number) == (old.term, old.number):
                self._send_alive()  # it was taken; the word of that was lost
            return
        if view.rank_of(state.config.id) is None:
            return  # Evicted follows
        self.actions.append(JudgePlane(message.data))
        if state.coming is not None:
            self.set(coming=None, ready=False, unreachable={})
        self.set(
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
        self.reasons.append(f"view {view.number} has {view.size} peers: {names} ({message.text})")
        self._send_alive()
        if state.sync is not None:
            self._send_sync()

    def _heard_verdict(self, data: bytes) -> None:
        """Others passed a verdict on, and the data plane has taken it: follow."""
        old = self.state.view
        epoch, term, number, key, members = decode_issued(data)
        if old is None or (epoch.view_term, epoch.view) != (old.term, old.number):
            return  # the coordinator was faster
        peers = tuple(peer for member in members for peer in old.peers if peer.id == member)
        view = dataclasses.replace(old, term=term, number=number, key=key, peers=peers)
        text = "the coordinator is not heard, others passed it on"
        self._judged(messages.Verdict(old.group_id, old.term, old.number, view, data, text))


def _outcome(old: View, new: View) -> SyncOutcome:
    """What a sync came to, for a caller who knows the view ``old``."""
    joined = tuple(peer.name for peer in new.peers if old.rank_of(peer.id) is None)
    left = tuple(peer.name for peer in old.peers if new.rank_of(peer.id) is None)
    return SyncOutcome(new, joined, left)


_RESTARTED = (
    "the coordinator at {} was restarted without its memory while this peer was being admitted;"
    " join again"
)

__all__ = [
    "Action",
    "Call",
    "CallFilled",
    "CallLeave",
    "CallSync",
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
