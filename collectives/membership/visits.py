"""Visits: newcomers that fetch from the members before they are admitted. Functions on a ``Turn``.

A visit gives a guest links to the hosts, and nothing else: no operation runs over them, no view and
no round depends on them, and whoever cannot connect just cannot be fetched from. Its key is its
own. Every change of who is there is another visit, with a higher number, that replaces the one
before; links that both have stay up. What is lost on the way is said again when an ``Alive`` shows
it. (Why not a view: docs/decisions/0006.)
"""

from __future__ import annotations

import uuid

from collectives.membership.ledger import Group, Visits
from collectives.membership.messages import Visit
from collectives.membership.turn import Turn
from collectives.membership.view import View


def check(turn: Turn, name: str) -> None:
    """Begin, change or end the visits as those who are there demand. Called at every tick."""
    group = turn.group(name)
    hosts = group.members
    guests = tuple(peer for peer in group.newcomers if group.peers[peer.id].visits and hosts)
    before = group.visits
    if before is None and not guests:
        return
    if before is not None and (hosts, guests) == (before.hosts, before.guests):
        return
    number = group.visit + 1
    visits = None
    if guests:
        visits = Visits(turn.secret(f"visit {group.id} {number}"), hosts, guests)
    turn.set_group(name, visits=visits, visit=number)
    concerned = (*hosts, *guests) + (before.hosts + before.guests if before else ())
    for peer in dict.fromkeys(peer.id for peer in concerned):
        if peer in group.peers:
            turn.tell(name, peer, _visit(turn, name, peer))
    names = ", ".join(peer.name for peer in guests)
    turn.because(f"visit {number}: {names} fetch from the members" if guests else "no visits", name)


def catch_up(turn: Turn, name: str, peer: uuid.UUID, known: int) -> None:
    """Tell a peer of its visit if the one that it knows of (0: none) is not that."""
    group = turn.group(name)
    if known != (group.visit if _with(group, peer) else 0):
        turn.tell(name, peer, _visit(turn, name, peer))


def _with(group: Group, peer: uuid.UUID) -> tuple[uuid.UUID, ...]:
    """Whom a peer has links to, for its visit."""
    visits = group.visits
    if visits is None:
        return ()
    hosts, guests = ([one.id for one in side] for side in (visits.hosts, visits.guests))
    if peer in guests:
        return tuple(hosts)
    return tuple(guests) if peer in hosts else ()


def _visit(turn: Turn, name: str, peer: uuid.UUID) -> Visit:
    group = turn.group(name)
    visits = group.visits
    others = _with(group, peer)
    here = {one.id: one for one in (*visits.hosts, *visits.guests)} if visits else {}
    peers = tuple(here[one] for one in (peer, *others)) if others else ()
    key = visits.key if visits else bytes(32)
    return Visit(View(name, group.id, turn.state.term, group.visit, peers, key))
