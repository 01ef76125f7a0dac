"""How views come about: first views, syncs, preparations, drops and departures of members.

Functions on a ``Turn``; ``coordinator`` calls ``settle`` after every event that touched a group.
A group is in one of four situations::

    no view ──enough peers──► preparing ──all ready──► view ──all in sync(), and somebody──┐
       ▲                        ▲  │ who cannot connect  │ ▲  came, or the group is broken  │
       │                        └──┘ is dropped    round ▼ │ verdict: the next view        │
       ├── all members gone ─────────────────────── (rounds)                               │
       └──────────────────────────────────── preparing ◄──────────────────────────────────-┘

What happens when a member goes in between is in ``rounds``.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Collection, Mapping, Sequence

from collectives.membership import rounds
from collectives.membership.admission import (
    missing_peers,
    next_peers,
    peers_text,
    who_to_drop,
    with_unit,
)
from collectives.membership.ledger import Departure, Failure, Group, Preparation
from collectives.membership.messages import (
    SHOWN,
    Abandon,
    Commit,
    Prepare,
    SyncDone,
    SyncWaiting,
    Waiting,
    clip,
)
from collectives.membership.turn import Turn, with_item
from collectives.membership.view import Peer, View


def settle(turn: Turn, name: str) -> None:
    """Do for a group whatever its state now calls for."""
    group = turn.group(name)
    if group.view is not None and not group.members:
        turn.because(f"all members of view {group.view.number} are gone", name)
        group = turn.set_group(
            name, view=None, round=None, issued=None, broken=None, suspects={}, reached={}, sync=1
        )
    if group.preparing is not None:
        coming = group.preparing
        lost = [peer.name for peer in coming.view.peers if peer.id not in group.peers]
        if lost:
            turn.because(f"view {coming.view.number} is given up: {_names(lost)} went", name)
            abandon(turn, name)
        elif all(peer.id in coming.ready for peer in coming.view.peers):
            _commit(turn, name, coming)
        else:
            return
    group = turn.group(name)
    if group.round is not None:
        return
    if group.view is None:
        if group.recollections or turn.now < group.held:
            return  # members of an earlier run may come back
        peers = next_peers(group)
        if peers and not missing_peers(group, peers):
            _prepare(turn, name, peers, f"{len(peers)} peers are there: {_names_of(peers)}")
    else:
        _settle_sync(turn, name)


def _settle_sync(turn: Turn, name: str) -> None:
    group = turn.group(name)
    view, members = group.view, group.members
    assert view is not None
    absent = [peer.name for peer in members if peer.id not in group.reached]
    peers = next_peers(group)
    missing = missing_peers(group, peers)
    if absent or missing:
        return
    why = []
    if group.broken is not None:
        why.append("an operation had failed")
    if group.renew:
        why.append("the run was restored from the members' words")
    if len(peers) > len(members):
        why.append(f"{_names_of(peers[len(members) :])} came")
    if why:
        _prepare(turn, name, peers, "all members are in sync() and " + ", ".join(why))
        return
    done = SyncDone(group.id, view.term, view.number, group.sync)
    synced = (view.term, view.number)
    turn.set_group(name, sync=group.sync + 1, synced=synced, reached={})
    for peer in members:
        turn.set_peer(name, peer.id, told=None)
        turn.tell(name, peer.id, done)
    turn.because(f"sync {done.sync} of view {view.number} is done, nobody came or went", name)


def _prepare(turn: Turn, name: str, peers: Sequence[Peer], why: str) -> None:
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


def _commit(turn: Turn, name: str, coming: Preparation) -> None:
    view = coming.view
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
    turn.because(f"view {view.number} is committed: {_names_of(view.peers)}", name)
    for peer in view.peers:
        turn.set_peer(name, peer.id, told=None)
        turn.tell(name, peer.id, commit_of(view))


def commit_of(view: View) -> Commit:
    """The message that makes a prepared view the group's view."""
    return Commit(view.group_id, view.term, view.number, view.first_operation)


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


def depart(turn: Turn, name: str, *departures: Departure) -> None:
    """Take peers out for good; a round decides what becomes of the members' operations.

    The rest of a member's unit goes with it.
    """
    group = turn.group(name)
    units = with_unit(group.members, {departure.peer.id for departure in departures})
    known = {departure.peer.id for departure in departures}
    first = departures[0]
    for peer in group.members:
        if peer.id in units and peer.id not in known:
            text = f"{peer.name!r} goes with its unit {peer.unit!r}: {first.text}"
            departures = (*departures, Departure(peer, left=False, text=text))
            turn.because(text, name)
    members = {peer.id for peer in group.members}
    for departure in departures:
        turn.remove(name, departure.peer.id, departure)
    lost = tuple(departure for departure in departures if departure.peer.id in members)
    if lost:
        rounds.open_round(turn, name, lost)


def check_preparation(turn: Turn, name: str) -> None:
    """Drop whoever keeps a view from coming for too long. Called at every tick."""
    group = turn.group(name)
    coming = group.preparing
    if coming is None:
        return
    timing = turn.state.timing
    age = turn.now - coming.since
    if age < timing.prepare_patience:
        return
    heard = {peer.id: turn.now - group.peers[peer.id].heard for peer in coming.view.peers}
    failing = {
        pair: failure
        for pair, failure in coming.failed.items()
        if turn.now - failure.since >= timing.pair_patience
        and turn.now - failure.last <= timing.hesitation
    }
    tried = {peer for peer, at in coming.knows.items() if turn.now - at >= timing.pair_patience}
    failed = {pair: failure for pair, failure in failing.items() if tried.issuperset(pair)}
    doubtful = any(heard[peer] > timing.hesitation for pair in failed for peer in pair)
    late = [peer for peer in coming.view.peers if peer.id not in coming.ready]
    if _expel_unheard(turn, name, failing, heard):
        pass
    elif failed and not doubtful:
        members = {peer.id for peer in group.members}
        order = [peer.id for peer in coming.view.peers]
        dropped = who_to_drop(
            [peer for peer in order if peer in members],
            [peer for peer in order if peer not in members],
            failed.keys(),
        )
        _drop(turn, name, dropped, failed)
    elif late and age >= timing.prepare_silence:
        silent = [peer for peer in late if heard[peer.id] > timing.waiting_silence]
        text = f"it did not say within {timing.prepare_silence:g} s that it can connect"
        for peer in silent or late:
            _expel(turn, name, peer, text)
    else:
        return
    settle(turn, name)


def check_abandoned(turn: Turn, name: str) -> None:
    """Give up a view whose members all died without a witness. Called at every tick."""
    group = turn.group(name)
    limit = turn.state.timing.abandoned
    members = group.members
    if not members or not group.newcomers or group.preparing is not None:
        return
    if all(turn.now - group.peers[peer.id].heard > limit for peer in members):
        for peer in members:
            _expel(turn, name, peer, f"no member has said anything for {limit:g} s")
        settle(turn, name)


def _expel_unheard(
    turn: Turn,
    name: str,
    failed: Mapping[tuple[uuid.UUID, uuid.UUID], Failure],
    heard: Mapping[uuid.UUID, float],
) -> bool:
    """Drop those whom others cannot reach and who have fallen silent here too.

    Neither alone says who of a pair is at fault; together they do, also against a member. (A
    member that dies while it is the last one has no other member to report it.)
    """
    group = turn.group(name)
    assert group.preparing is not None
    limit = turn.state.timing.waiting_silence
    unheard = []
    for peer in group.preparing.view.peers:
        accusers = [here for here, there in failed if there == peer.id and heard[here] <= limit]
        if accusers and heard[peer.id] > limit:
            unheard.append((peer, group.peers[accusers[0]].peer.name))
    for peer, accuser in unheard:
        silent = f"it has said nothing for {heard[peer.id]:.1f} s"
        _expel(turn, name, peer, f"{accuser!r} cannot reach it and {silent}")
    return bool(unheard)


def _drop(
    turn: Turn,
    name: str,
    dropped: Collection[uuid.UUID],
    failed: Mapping[tuple[uuid.UUID, uuid.UUID], Failure],
) -> None:
    group = turn.group(name)
    assert group.preparing is not None
    peers = {peer.id: peer for peer in group.preparing.view.peers}
    members = {peer.id for peer in group.members}
    newcomers = [peer for peer in peers.values() if peer.id not in members]
    for peer_id in with_unit(newcomers, dropped):
        peer = peers[peer_id]
        text = f"peer {peer.name!r} of its unit {peer.unit!r} was not admitted"
        mine = [pair for pair in failed if peer_id in pair and peer_id in dropped]
        if mine:
            # The pair that made it go is one whose other half stays, if there is such a pair.
            here, there = min(mine, key=lambda pair: set(pair) <= set(dropped))
            text = (
                f"{peers[here].name!r} and {peers[there].name!r} cannot reach each other"
                f" ({peers[here].name!r} tried: {failed[here, there].text})"
            )
        _expel(turn, name, peer, text)


def _expel(turn: Turn, name: str, peer: Peer, why: str) -> None:
    if peer.id not in turn.group(name).peers:
        return  # with its unit, a moment ago
    admitted = any(member.id == peer.id for member in turn.group(name).members)
    what = "evicted from" if admitted else "not admitted to"
    text = f"{peer.name!r} is {what} group {name!r}: {why}"
    turn.because(text, name)
    depart(turn, name, Departure(peer, left=False, text=text, admitted=admitted))


def mark_knows(turn: Turn, name: str, peer: uuid.UUID) -> None:
    """A peer has shown that it knows of the view in preparation."""
    coming = turn.group(name).preparing
    assert coming is not None
    if peer not in coming.knows:
        knows = with_item(coming.knows, peer, turn.now)
        turn.set_group(name, preparing=dataclasses.replace(coming, knows=knows))


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


def waiting_note(group: Group, peer: uuid.UUID) -> Waiting:
    """What a peer that waits for admission is told."""
    peers = next_peers(group)
    present = tuple(peer.name for peer in (*group.members, *group.newcomers))[:SHOWN]
    if group.view is not None:
        own = group.peers[peer].min_size - len(group.peers)
        if own > 0:
            return Waiting(own, present, f"it wants {peers_text(own)} than there are")
        absent = [peer.name for peer in group.members if peer.id not in group.reached]
        missing = missing_peers(group, peers)
        if group.peers[peer].filling:
            text = "it fetches their state before it is admitted"
            return Waiting(0, present, text)
        if missing:
            text = f"the group needs {peers_text(missing)}"
        elif group.preparing is not None:
            text = f"view {group.preparing.view.number} is being prepared without you"
        else:
            text = f"{_names(absent or [p.name for p in group.members])} must call sync()"
        return Waiting(missing, present, clip(text))
    if group.recollections or group.held:
        return Waiting(0, present, "members of an earlier run may come back to it first")
    if group.preparing is not None:
        return Waiting(0, present, f"view {group.preparing.view.number} is being prepared")
    missing = missing_peers(group, peers)
    return Waiting(missing, present, f"the group needs {peers_text(missing)}")


def is_preparing(group: Group, peer: uuid.UUID) -> bool:
    """Whether a peer is in the view in preparation."""
    return group.preparing is not None and group.preparing.view.rank_of(peer) is not None


def tell_waiting(turn: Turn, name: str) -> None:
    """Tell those who wait for whom they wait, if that has changed.

    Called at every tick, not at every arrival: among n peers that would be n² messages, nearly
    all of them out of date when they are read.
    """
    group = turn.group(name)
    view = group.view
    if view is not None and group.preparing is None and group.reached:
        absent = [peer.name for peer in group.members if peer.id not in group.reached]
        missing = missing_peers(group, next_peers(group))
        note = SyncWaiting(group.id, view.term, view.number, tuple(absent[:SHOWN]), missing)
        for peer in group.members:
            if peer.id in group.reached:
                turn.tell_news(name, peer.id, note)
    coming = group.preparing
    in_view = {peer.id for peer in coming.view.peers} if coming is not None else set()
    for peer in group.newcomers:
        if peer.id not in in_view:
            turn.tell_news(name, peer.id, waiting_note(group, peer.id))


def mark_ready(turn: Turn, name: str, peer: uuid.UUID) -> None:
    """A peer has links to all peers of the view in preparation."""
    record_unreachable(turn, name, peer, ())
    coming = turn.group(name).preparing
    assert coming is not None
    turn.set_group(name, preparing=dataclasses.replace(coming, ready=coming.ready | {peer}))


def mark_reached(turn: Turn, name: str, peer: uuid.UUID, last_operation: int) -> None:
    """A member's program is in sync()."""
    group = turn.group(name)
    turn.set_group(name, reached=with_item(group.reached, peer, last_operation))


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


def _names_of(peers: Sequence[Peer]) -> str:
    return _names([peer.name for peer in peers])
