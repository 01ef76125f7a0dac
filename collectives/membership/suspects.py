"""Who of the members is dead, and who only cannot be reached by some others.

Functions on a ``Turn``. A member's word against another counts by its kind: a process that was seen
to die is dead. Who refuses connections, or is silent, is asked (Check); if it does not answer in a
moment it is dead. If it answers, the two cannot reach each other though both are here: such pairs
are collected for a bounded time, then a largest set of members stays whose pairs can all talk.
"""

from __future__ import annotations

import uuid

from collectives.membership import formation
from collectives.membership.admission import who_to_drop
from collectives.membership.departures import depart
from collectives.membership.ledger import Departure, Suspicion
from collectives.membership.messages import Check
from collectives.membership.turn import Turn, with_item
from collectives.membership.wire import clip

_SEEN_TO_DIE = 2
_ANSWERS = 1.0
"""Who lives, answers Check within so many seconds, again and again."""


def mark(
    turn: Turn, name: str, accuser: uuid.UUID, accused: uuid.UUID, text: str, certain: int
) -> None:
    """A member has evidence that another is dead."""
    group = turn.group(name)
    if certain == _SEEN_TO_DIE:
        by = group.peers[accuser].peer.name
        why = f"is dead, its process ended (seen by {by!r})"
        _dead(turn, name, accused, why, group.peers[accused].peer.process)
        return
    before = group.suspects.get((accuser, accused))
    since = turn.now if before is None else before.since
    certain = max(certain, 0 if before is None else before.certain)
    suspicion = Suspicion(text, certain, since, turn.now)
    turn.set_group(name, suspects=with_item(group.suspects, (accuser, accused), suspicion))
    if before is None:
        turn.because(
            f"{group.peers[accuser].peer.name!r} suspects {group.peers[accused].peer.name!r}:"
            f" {text}",
            name,
        )
    turn.tell(name, accused, Check())


def mark_coming(
    turn: Turn, name: str, accuser: uuid.UUID, accused: uuid.UUID, certain: int
) -> None:
    """A peer of the view in preparation was seen to die by another; all else is no evidence yet."""
    if certain == _SEEN_TO_DIE:
        by = turn.group(name).peers[accuser].peer.name
        _dead(turn, name, accused, f"is dead, its process ended (seen by {by!r})")


def check(turn: Turn, name: str) -> None:
    """Decide about suspicions that are old enough. Called at every tick."""
    group = turn.group(name)
    timing = turn.state.timing
    current = {
        pair: suspicion
        for pair, suspicion in group.suspects.items()
        if turn.now - suspicion.last <= timing.hesitation
        and all(member in group.peers for member in pair)
    }
    if current != group.suspects:
        turn.set_group(name, suspects=current)
    edges = {}
    for (accuser, accused), suspicion in current.items():
        heard = turn.group(name).peers[accused].heard
        patience = timing.refused_patience if suspicion.certain else timing.silent_patience
        if heard > suspicion.since:
            # What it had sent before it died may have come after the evidence: once is not enough.
            patience = _ANSWERS
            edges[accuser, accused] = suspicion
        if turn.now - max(heard, suspicion.since) >= patience:
            by = group.peers[accuser].peer.name
            _dead(turn, name, accused, f"is dead by the word of {by!r}: {suspicion.text}")
            return
        turn.tell(name, accused, Check())
    if not edges:
        return
    if turn.now - min(suspicion.since for suspicion in edges.values()) < timing.pairs_patience:
        return
    peers = turn.group(name).peers
    if any(turn.now - peers[accused].heard > _ANSWERS / 2 for _, accused in edges):
        return  # it is asked at every tick, and will have answered or be dead soon
    members = {peer.id: peer for peer in group.members}
    departures = []
    for out in who_to_drop(list(members), [], edges.keys()):
        here, there = min(
            (pair for pair in edges if out in pair),
            key=lambda pair: str(pair),
        )
        text = (
            f"{members[out].name!r} is evicted from group {name!r}: {members[here].name!r} and"
            f" {members[there].name!r} cannot reach each other, though both reach the coordinator"
            f" ({members[here].name!r} says: {edges[here, there].text})"
        )
        turn.because(text, name)
        departures.append(Departure(members[out], left=False, text=clip(text)))
    depart(turn, name, *departures)
    formation.settle(turn, name)


def _dead(turn: Turn, name: str, accused: uuid.UUID, why: str, process: str = "") -> None:
    """A peer is dead; and all that its process is in other groups, if that is what has died.

    It is one decision, and one record of the journal: dead in all its groups or in none.
    """
    for other in list(turn.state.groups):
        group = turn.group(other)
        members = {member.id for member in group.members}
        departures = []
        for registered in group.peers.values():
            peer = registered.peer
            if peer.id == accused or (process and peer.process == process):
                text = f"{peer.name!r} {why}"
                turn.because(text, other)
                admitted = peer.id in members
                departures.append(Departure(peer, left=False, text=text, admitted=admitted))
        if departures:
            depart(turn, other, *departures)
            formation.settle(turn, other)
