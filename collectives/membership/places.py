"""Where the members of a view are: on which hosts, at which sites.

Pure functions of what the members say; called by ``preparation`` when a view is committed. Plans
that keep traffic within a host or a site are made from the result (``View.places``).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from collectives.membership.view import Peer


def speak_of_places(peers: Sequence[Peer], nearby: Mapping[uuid.UUID, Sequence[int]]) -> bool:
    """Whether all peers know of places: one that does not would follow another plan than the rest.

    Who knows of them names its own rank at least.
    """
    return all(rank in nearby[peer.id] for rank, peer in enumerate(peers))


def places_of(
    peers: Sequence[Peer], nearby: Mapping[uuid.UUID, Sequence[int]]
) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """The places of a view, as in ``View.places``, and what is odd about them, in sentences.

    A host is peers each of which reaches every other by memory, and that are at one site. Where
    not all pairs do, a peer joins the first host of lower ranks that it fits.

    Args:
        peers: by rank.
        nearby: for each, the ranks that it reaches by memory.
    """
    near = [set(nearby[peer.id]) for peer in peers]
    pairs = {(a, b) for b in range(len(peers)) for a in near[b] if a < b and b in near[a]}
    names = list(dict.fromkeys(peer.site for peer in peers))
    sites = [names.index(peer.site) for peer in peers]
    members: list[list[int]] = []
    hosts: list[int] = []
    for rank in range(len(peers)):
        lower = {hosts[a] for a in near[rank] if (a, rank) in pairs and sites[a] == sites[rank]}
        fits = (h for h in sorted(lower) if all((a, rank) in pairs for a in members[h]))
        host = next(fits, len(members))
        if host == len(members):
            members.append([])
        members[host].append(rank)
        hosts.append(host)
    levels: list[tuple[int, ...]] = []
    for level in (tuple(hosts), tuple(sites)):
        if 1 < len(set(level)) < len(peers) and level not in levels:
            levels.append(level)
    return tuple(levels), _odd(peers, {(a, b) for a, b in pairs if sites[a] != sites[b]})


def _odd(peers: Sequence[Peer], pairs: set[tuple[int, int]]) -> tuple[str, ...]:
    if not pairs:
        return ()
    one, other = (peers[rank] for rank in min(pairs))
    return (
        f"{one.name!r} of site {one.site!r} and {other.name!r} of site {other.site!r} are on one"
        " host; it counts as two: give the peers of a host one site",
    )
