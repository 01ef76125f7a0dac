"""Who comes into the next view.

Pure functions of who is there and who cannot talk to whom; called by ``formation``.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Collection, Iterable, Sequence

from collectives.membership.ledger import Group
from collectives.membership.view import Peer

_EXACT = 16


def next_peers(group: Group) -> tuple[Peer, ...]:
    """The peers of the next view if it were formed now.

    Members in their old order, then newcomers by arrival (in a first view those for whom it was
    made come first, see ``first_peers``), less those that are still fetching from
    the members, and those whose own ``min_size`` the view would not reach. A newcomer that wants a
    larger group than this one waits; it never holds up the members.
    """
    members = group.members
    newcomers = list(group.newcomers)
    if not members:
        ranks = {peer: rank for rank, peer in enumerate(first_peers(group))}
        newcomers.sort(key=lambda peer: ranks.get(peer.id, len(ranks)))
    else:
        filling = {peer.id for peer in newcomers if group.peers[peer.id].filling}
        out = with_unit(newcomers, filling)
        newcomers = [peer for peer in newcomers if peer.id not in out]
    while True:
        size = len(members) + len(newcomers)
        unhappy = {peer.id for peer in newcomers if group.peers[peer.id].min_size > size}
        if not unhappy or not members:
            # Without members all wait together; ``missing_peers`` says for how many.
            return members + tuple(newcomers)
        out = with_unit(newcomers, unhappy)
        newcomers = [peer for peer in newcomers if peer.id not in out]


def first_peers(group: Group) -> tuple[uuid.UUID, ...]:
    """For whom a group that has no view was made, by rank; empty: for whoever comes."""
    waiting = sorted(group.peers.values(), key=lambda registered: registered.arrived)
    return next((registered.among for registered in waiting if registered.among), ())


def missing_peers(group: Group, peers: Sequence[Peer]) -> int:
    """How many more peers the next view needs.

    By the members' ``min_size``, or by that of all who wait where there is no member.
    """
    deciding = group.members or peers
    needed = max((group.peers[peer.id].min_size for peer in deciding), default=1)
    return max(0, needed - len(peers))


def peers_text(missing: int) -> str:
    """``1 more peer``, ``2 more peers``."""
    return f"{missing} more {'peer' if missing == 1 else 'peers'}"


def names_text(names: Sequence[str]) -> str:
    """The first eight names, and how many more there are."""
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


def names_of(peers: Sequence[Peer]) -> str:
    """The names of peers, as ``names_text`` writes them."""
    return names_text([peer.name for peer in peers])


def with_unit(peers: Iterable[Peer], chosen: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """``chosen`` and all of ``peers`` that share a unit with one of them."""
    everybody = tuple(peers)
    units = {peer.unit for peer in everybody if peer.unit and peer.id in chosen}
    return set(chosen) | {peer.id for peer in everybody if peer.unit in units and peer.unit}


def who_to_drop(
    members: Sequence[uuid.UUID],
    newcomers: Sequence[uuid.UUID],
    failed: Collection[tuple[uuid.UUID, uuid.UUID]],
) -> tuple[uuid.UUID, ...]:
    """Whom to drop so that those who remain can all talk to each other.

    Members stay rather than newcomers; within each, the fewest are dropped, and of several ways
    to do so the one that keeps the lowest ranks.

    Args:
        members: in rank order.
        newcomers: in the order of their coming ranks.
        failed: pairs that cannot talk, in any order.
    """
    edges = {frozenset(pair) for pair in failed if pair[0] != pair[1]}
    dropped = set(_cover(members, {edge for edge in edges if edge <= set(members)}))
    staying = set(members) - dropped
    # A newcomer that cannot talk to a member that stays has to go, there is no choice.
    dropped |= {peer for peer in newcomers if any(frozenset((peer, m)) in edges for m in staying)}
    rest = [peer for peer in newcomers if peer not in dropped]
    dropped |= set(_cover(rest, {edge for edge in edges if edge <= set(rest)}))
    return tuple(peer for peer in (*members, *newcomers) if peer in dropped)


def _cover(
    vertices: Sequence[uuid.UUID], edges: set[frozenset[uuid.UUID]]
) -> tuple[uuid.UUID, ...]:
    """A smallest set of vertices that touches every edge, of high ranks where there is a choice.

    Exact for up to 16 vertices that have edges; beyond that the vertex with the most edges is
    taken again and again, which may drop more than needed.
    """
    touched = [vertex for vertex in vertices if any(vertex in edge for edge in edges)]
    touched.reverse()
    if len(touched) <= _EXACT:
        for count in range(len(touched) + 1):
            for chosen in itertools.combinations(touched, count):
                if all(not edge.isdisjoint(chosen) for edge in edges):
                    return chosen
    taken: list[uuid.UUID] = []
    left = set(edges)
    while left:
        # max() keeps the first of equals, and the highest rank comes first.
        worst = max(touched, key=lambda vertex: sum(vertex in edge for edge in left))
        taken.append(worst)
        left = {edge for edge in left if worst not in edge}
    return tuple(taken)
