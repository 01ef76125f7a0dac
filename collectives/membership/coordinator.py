"""The coordinator as a pure function: ``decide(state, event, now)``.

Here: who may speak (versions, token, connections), what each message does, and catching up
those who missed something. How views come about is in ``formation``. The shell that owns the
socket and the clock is ``server``.

A message is acted on only if it comes over a connection that has introduced itself with Hello
(and proved the token where there is one). Anything stale, repeated or out of place is answered
with what the sender should know by now, and changes nothing else.
"""

from __future__ import annotations

import dataclasses
import hmac
import uuid

from collectives.membership import formation, recall, restart, rounds, suspects, visits
from collectives.membership.ledger import (
    MAX_CHALLENGES,
    MAX_GROUPS,
    Challenged,
    CoordinatorState,
    Decision,
    Departure,
    Event,
    Group,
    Received,
    ReceivedOtherVersion,
    Refused,
    Registered,
    Tick,
    prove,
)
from collectives.membership.messages import (
    FEATURES,
    MAX_NAME,
    MAX_PEERS,
    NO_RUN,
    VERSIONS,
    Abandon,
    Alive,
    Challenge,
    Denied,
    Evicted,
    Hello,
    Identify,
    Leave,
    Message,
    Noted,
    Prepare,
    Prepared,
    Proof,
    Recollect,
    Report,
    Skew,
    StatusQuery,
    StatusReply,
    Suspect,
    SyncDone,
    SyncReached,
    Taken,
    Unreachable,
    Veto,
    Welcome,
)
from collectives.membership.status import snapshot_json
from collectives.membership.turn import Turn, farewell, with_item, without
from collectives.membership.view import Peer


def decide(state: CoordinatorState, event: Event, now: float) -> Decision:
    """Return what the coordinator does about one event.

    Pure: no clock, no socket, no randomness. ``Decision.reason`` is a sentence for people;
    it appears in the log and in ``collectives status``.

    Args:
        state: what the coordinator knew.
        event: what happened.
        now: seconds on a clock that never goes back.
    """
    turn = Turn(state, now)
    if isinstance(event, Received):
        _received(turn, event.route, event.message)
    elif isinstance(event, ReceivedOtherVersion):
        _skewed(turn, event.route, event.low, event.high)
    elif isinstance(event, Refused):
        turn.refuse(event.reason, event.count)
    else:
        _tick(turn)
    return turn.decision()


# ---- who may speak ----------------------------------------------------------------------------


def _received(turn: Turn, route: bytes, message: Message) -> None:
    if isinstance(message, Hello | StatusQuery):
        if message.high < VERSIONS[0] or message.low > VERSIONS[1]:
            _skewed(turn, route, message.low, message.high)
        elif not turn.state.token or _known(turn, route, message):
            _admit(turn, route, message)
        else:
            _challenge(turn, route, message)
    elif isinstance(message, Proof):
        _check_proof(turn, route, message)
    else:
        _from_peer(turn, route, message)


def _known(turn: Turn, route: bytes, message: Hello | StatusQuery) -> bool:
    """Whether this connection has proved the token for this very peer already."""
    return isinstance(message, Hello) and turn.state.routes.get(route) == (
        message.group,
        message.peer,
    )


def _skewed(turn: Turn, route: bytes, low: int, high: int) -> None:
    turn.refuse("other protocol version")
    turn.because(f"refused a connection that speaks protocol versions {low} to {high}")
    turn.send(route, Skew(*VERSIONS))


def _challenge(turn: Turn, route: bytes, message: Hello | StatusQuery) -> None:
    pending = turn.state.challenges.get(route)
    if pending is not None and pending.request == message:
        nonce = pending.nonce  # asked again: the same challenge, or a late proof would fail
    else:
        nonce = turn.secret("challenge")
    challenges = with_item(
        without(turn.state.challenges, route), route, Challenged(message, nonce, turn.now)
    )
    while len(challenges) > MAX_CHALLENGES:
        del challenges[next(iter(challenges))]
    turn.set(challenges=challenges)
    turn.send(route, Challenge(nonce))


def _check_proof(turn: Turn, route: bytes, message: Proof) -> None:
    pending = turn.state.challenges.get(route)
    if pending is None:
        if route not in turn.state.routes:
            turn.send(route, Identify())
        return
    if message.nonce not in (b"", pending.nonce):
        return  # the answer to another challenge; that to ours is on its way
    turn.set(challenges=without(turn.state.challenges, route))
    request = pending.request
    who = request.peer if isinstance(request, Hello) else request.client
    if hmac.compare_digest(prove(turn.state.token, pending.nonce, who), message.mac):
        _admit(turn, route, request)
        return
    turn.refuse("wrong token")
    name = repr(request.name) if isinstance(request, Hello) else "a status query"
    turn.because(f"refused {name}: its run token is wrong or missing")
    turn.send(route, Denied("the run token is wrong or missing"))


def _admit(turn: Turn, route: bytes, message: Hello | StatusQuery) -> None:
    if isinstance(message, StatusQuery):
        turn.send(route, StatusReply(snapshot_json(turn.state, turn.now)))
    else:
        _hello(turn, route, message)


def _hello(turn: Turn, route: bytes, hello: Hello) -> None:
    key = (hello.group, hello.peer)
    departure = turn.state.departed.get(key)
    if departure is not None:
        turn.send(route, farewell(departure))
        return
    group = turn.state.groups.get(hello.group)
    new = group is None or hello.peer not in group.peers
    if group is None or hello.peer not in group.peers:
        if recall.must_recall(turn, hello):
            _ensure_group(turn, hello.group)
            recall.recall(turn, route, hello)
            return
        refusal = _refusal(turn, group, hello)
        if refusal:
            turn.refuse("peer not let in")
            turn.because(f"refused {hello.name!r}: {refusal}")
            foreign = hello.number > 0 and hello.run != turn.state.run
            other = turn.state.run if foreign else NO_RUN
            turn.send(route, Evicted(refusal, hello.number > 0, other))
            return
        group = _register(turn, route, hello)
    registered = group.peers[hello.peer]
    if registered.route != route:
        turn.set(routes=without(turn.state.routes, registered.route))
    turn.set(routes=with_item(turn.state.routes, route, key))
    # What was told over the old connection may not have arrived.
    registered = turn.set_peer(
        hello.group, hello.peer, route=route, heard=turn.now, told=None, min_size=hello.min_size
    )
    turn.send(
        route,
        Welcome(
            turn.state.run,
            turn.state.term,
            group.id,
            registered.peer.name,
            min(hello.high, VERSIONS[1]),
            hello.features & FEATURES,
        ),
    )
    if new:
        formation.settle(turn, hello.group)
    if not new or not formation.is_preparing(turn.group(hello.group), hello.peer):
        _catch_up(turn, hello.group, hello.peer, Alive(group.id, hello.term, hello.number))
    _forgotten(turn, hello)
    restart.check(turn, hello.group)


def _forgotten(turn: Turn, hello: Hello) -> None:
    """Let go of a member that is in a newer view than the coordinator remembers.

    Where the run was restored from others' words or from an old copy of the journal, it cannot
    go back, and the others cannot follow it.
    """
    group = turn.group(hello.group)
    view = group.view
    if view is None or view.rank_of(hello.peer) is None:
        return
    if (hello.term, hello.number) > (view.term, view.number):
        peer = group.peers[hello.peer].peer
        text = f"{peer.name!r} is in view {hello.number}, which the coordinator does not remember"
        turn.because(text, hello.group)
        formation.depart(turn, hello.group, Departure(peer, left=False, text=text))
        formation.settle(turn, hello.group)


def _refusal(turn: Turn, group: Group | None, hello: Hello) -> str:
    """Why a peer that is not registered cannot be; "" if it can."""
    if hello.number > 0 and hello.run not in (NO_RUN, turn.state.run):
        return "this coordinator does not know your run, and has another one"
    if hello.number > 0:
        return "you are no member of the run any more"
    if group is None and len(turn.state.groups) >= MAX_GROUPS:
        return f"the run has {MAX_GROUPS} groups, more are not supported"
    if group is not None and len(group.peers) >= MAX_PEERS:
        return f"the group has {MAX_PEERS} peers, more are not supported"
    return ""


def _register(turn: Turn, route: bytes, hello: Hello) -> Group:
    number = turn.state.counter + 1
    turn.set(counter=number)
    group = _ensure_group(turn, hello.group)
    if group.number == 0 and hello.run not in (NO_RUN, turn.state.run):
        # It waited in a run that this coordinator does not know; its members cannot be far.
        held = turn.now + turn.state.timing.reunion
        group = turn.set_group(hello.group, held=held)
    name = _unique_name(group, hello.name)
    peer = Peer(hello.peer, name, hello.addresses, hello.unit, hello.process)
    registered = Registered(peer, hello.min_size, route, number, turn.now, visits=hello.visits)
    group = turn.set_group(hello.group, peers=with_item(group.peers, hello.peer, registered))
    turn.because(f"{name!r} asks to be admitted", hello.group)
    return group


def _ensure_group(turn: Turn, name: str) -> Group:
    if name not in turn.state.groups:
        number = turn.state.counter + 1
        turn.set(counter=number)
        used = {group.id for group in turn.state.groups.values()}
        # Frames carry the id; one that was given up is not used again while anybody may use it.
        group_id = next(i for i in range(number, number + MAX_GROUPS + 1) if i not in used)
        turn.set(groups=with_item(turn.state.groups, name, Group(group_id, name)))
    return turn.group(name)


def _unique_name(group: Group, wanted: str) -> str:
    taken = {registered.peer.name for registered in group.peers.values()}
    if group.view is not None:
        taken |= {peer.name for peer in group.view.peers}
    name, count = wanted, 1
    while name in taken:
        count += 1
        suffix = f"-{count}"
        room = MAX_NAME - len(suffix)
        name = wanted.encode()[:room].decode("utf-8", "ignore") + suffix
    return name


# ---- what peers say ---------------------------------------------------------------------------


def _from_peer(turn: Turn, route: bytes, message: Message) -> None:
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
    if getattr(message, "group_id", None) != group.id:
        turn.refuse("message out of place")
        return
    turn.set_peer(name, peer, heard=turn.now)
    if isinstance(message, Alive):
        turn.send(route, Noted())
        coming = group.preparing
        if coming is not None and message.prepared == coming.view.number:
            formation.mark_knows(turn, name, peer)
        if message.filled and turn.group(name).peers[peer].filling:
            turn.set_peer(name, peer, filled=True)
            turn.because(f"{group.peers[peer].peer.name!r} has fetched the state", name)
            formation.settle(turn, name)
        visits.catch_up(turn, name, peer, message.visit)
        _catch_up(turn, name, peer, message)
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
    elif isinstance(message, Taken):
        rounds.mark_taken(turn, name, message.peer, message.epoch)
    elif isinstance(message, Leave):
        _leave(turn, name, peer, message)
    else:
        turn.refuse("message out of place")


def _catch_up(turn: Turn, name: str, peer: uuid.UUID, stand: Alive) -> None:
    """Send a peer whatever it should know by now and, by its own word, does not."""
    group = turn.group(name)
    view, coming = group.view, group.preparing
    if view is not None and view.rank_of(peer) is not None:
        if (stand.term, stand.number) == (view.term, view.number):
            rounds.catch_up(turn, name, peer, stand.sealed)
        elif not rounds.repeat_verdict(turn, name, peer, stand.term, stand.number):
            turn.tell(name, peer, formation.commit_of(view))
    elif coming is None or coming.view.rank_of(peer) is None:
        turn.tell(name, peer, formation.waiting_note(group, peer))
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
            turn.tell(name, peer, formation.commit_of(committed))
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
    formation.mark_knows(turn, name, peer)
    if isinstance(message, Prepared):
        formation.mark_ready(turn, name, peer)
        formation.settle(turn, name)
    else:
        formation.record_unreachable(turn, name, peer, message.pairs)
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
            _catch_up(turn, name, peer, Alive(group.id, message.term, message.number))
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
        _catch_up(turn, name, peer, stand)
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
    turn.because(text, name)
    formation.depart(turn, name, Departure(mine, left=not message.aborted, text=text))
    formation.settle(turn, name)


# ---- time -------------------------------------------------------------------------------------


def _tick(turn: Turn) -> None:
    state = turn.state
    timing = state.timing
    last = turn.now if state.ticked is None else state.ticked
    turn.set(ticked=turn.now)
    if turn.now - last > timing.pause:
        turn.because(f"the coordinator itself stood still for {turn.now - last:.1f} s")
        _restart_clocks(turn)
        return
    stale = [r for r, c in state.challenges.items() if turn.now - c.at > timing.challenge_life]
    if stale:
        turn.refuse("challenge not answered", len(stale))
        kept = {r: c for r, c in state.challenges.items() if r not in stale}
        turn.set(challenges=kept)
    for name in list(state.groups):
        _drop_silent(turn, name)
        restart.check(turn, name)
        recall.check(turn, name)
        formation.check_preparation(turn, name)
        formation.check_abandoned(turn, name)
        suspects.check(turn, name)
        rounds.check(turn, name)
        visits.check(turn, name)
        formation.tell_waiting(turn, name)
        group = turn.group(name)
        if not group.peers and not group.recollections and group.number == 0:
            turn.set(groups=without(turn.state.groups, name))


def _drop_silent(turn: Turn, name: str) -> None:
    """Forget who waits for admission and has gone silent.

    Members are never judged by silence on the control plane.
    """
    group = turn.group(name)
    limit = turn.state.timing.waiting_silence
    silent = [p for p in group.newcomers if turn.now - group.peers[p.id].heard > limit]
    for peer in silent:
        turn.because(f"{peer.name!r} waited for admission and fell silent; dropped", name)
        turn.remove(name, peer.id, None)
    if silent:
        formation.settle(turn, name)


def _restart_clocks(turn: Turn) -> None:
    for name, group in turn.state.groups.items():
        peers = {p: dataclasses.replace(r, heard=turn.now) for p, r in group.peers.items()}
        coming = group.preparing
        if coming is not None:
            coming = dataclasses.replace(coming, since=turn.now)
        returning = group.returning
        if returning is not None:
            returning = dataclasses.replace(returning, since=turn.now)
        turn.set_group(name, peers=peers, preparing=coming, returning=returning, suspects={})
        rounds.restart_clocks(turn, name)


__all__ = ["Received", "ReceivedOtherVersion", "Refused", "Tick", "decide"]
