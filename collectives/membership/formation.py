"""When a group's view is to come about: first views, syncs, and what who waits is told.

Functions on a ``Turn``; ``settle`` is called after every event that touched a group.
A group is in one of four situations::

    no view ──enough peers──► preparing ──all ready──► view ──all in sync(), and somebody──┐
       ▲                        ▲  │ who cannot connect  │ ▲  came, or the group is broken  │
       │                        └──┘ is dropped    round ▼ │ verdict: the next view        │
       ├── all members gone ─────────────────────── (rounds)                               │
       └──────────────────────────────────── preparing ◄──────────────────────────────────-┘

How a view is prepared is in ``preparation``, what happens when a member goes in ``departures`` and
``rounds``, who is dropped in ``overdue``.
"""

from __future__ import annotations

import uuid

from collectives.membership import preparation
from collectives.membership.admission import (
    first_peers,
    missing_peers,
    names_of,
    names_text,
    next_peers,
    peers_text,
)
from collectives.membership.ledger import CoordinatorState, Group
from collectives.membership.messages import SyncDone, SyncWaiting, Waiting
from collectives.membership.turn import Turn, with_item
from collectives.membership.wire import SHOWN, clip


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
            turn.because(f"view {coming.view.number} is given up: {names_text(lost)} went", name)
            preparation.abandon(turn, name)
        elif all(peer.id in coming.ready for peer in coming.view.peers):
            preparation.commit(turn, name, coming)
        else:
            return
    group = turn.group(name)
    if group.round is not None:
        return
    if group.view is None:
        if group.recollections or turn.now < group.held:
            return  # members of an earlier run may come back
        peers = next_peers(group)
        if peers and not missing_peers(group, peers) and not _awaited(turn.state, group):
            preparation.prepare(
                turn, name, peers, f"{len(peers)} peers are there: {names_of(peers)}"
            )
    else:
        _settle_sync(turn, name)


def check(turn: Turn, name: str) -> None:
    """Whoever a first view was to wait for may be gone. Called at every tick."""
    group = turn.group(name)
    if group.view is None and group.preparing is None and first_peers(group):
        settle(turn, name)


def _awaited(state: CoordinatorState, group: Group) -> list[uuid.UUID]:
    """Who is to be in the first view and is neither there nor known to be gone.

    Gone is who departed from a group and is in none: its process ended, or left the run. Of who was
    never heard of, nothing is known: this coordinator may have been restarted without its memory.
    """
    awaited = [peer for peer in first_peers(group) if peer not in group.peers]
    if not awaited:
        return []
    present = {peer for other in state.groups.values() for peer in other.peers}
    departed = {peer for _, peer in state.departed}
    return [peer for peer in awaited if peer in present or peer not in departed]


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
        why.append(f"{names_of(peers[len(members) :])} came")
    if why:
        preparation.prepare(turn, name, peers, "all members are in sync() and " + ", ".join(why))
        return
    done = SyncDone(group.id, view.term, view.number, group.sync)
    synced = (view.term, view.number)
    turn.set_group(name, sync=group.sync + 1, synced=synced, reached={})
    for peer in members:
        turn.set_peer(name, peer.id, told=None)
        turn.tell(name, peer.id, done)
    turn.because(f"sync {done.sync} of view {view.number} is done, nobody came or went", name)


def waiting_note(state: CoordinatorState, group: Group, peer: uuid.UUID) -> Waiting:
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
            text = f"{names_text(absent or [p.name for p in group.members])} must call sync()"
        return Waiting(missing, present, clip(text))
    if group.recollections or group.held:
        return Waiting(0, present, "members of an earlier run may come back to it first")
    if group.preparing is not None:
        return Waiting(0, present, f"view {group.preparing.view.number} is being prepared")
    missing = max(missing_peers(group, peers), len(_awaited(state, group)))
    return Waiting(missing, present, f"the group needs {peers_text(missing)}")


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
            turn.tell_news(name, peer.id, waiting_note(turn.state, group, peer.id))


def mark_reached(turn: Turn, name: str, peer: uuid.UUID, last_operation: int) -> None:
    """A member's program is in sync()."""
    group = turn.group(name)
    turn.set_group(name, reached=with_item(group.reached, peer, last_operation))
