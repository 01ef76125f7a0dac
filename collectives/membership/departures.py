"""How a peer goes out of its group for good, and who goes with it.

Whoever calls ``depart`` calls ``formation.settle`` once all who go are out.
"""

from __future__ import annotations

from collectives.membership import rounds
from collectives.membership.admission import with_unit
from collectives.membership.ledger import Departure
from collectives.membership.turn import Turn


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
        let_go(turn, name)


def leave(turn: Turn, name: str, departure: Departure) -> None:
    """A peer goes by its own will.

    A member not before the round that is open: it may have settled what the others, sealed
    already, have heard nothing of any more; that this stands only its report can tell.
    """
    group = turn.group(name)
    if group.round is not None and departure.peer in group.members:
        turn.set_peer(name, departure.peer.id, leaving=departure)
        let_go(turn, name)
    else:
        depart(turn, name, departure)


def let_go(turn: Turn, name: str) -> None:
    """Take out those who waited for a round, if it is decided or nobody else is left in it."""
    group = turn.group(name)
    leaving = [entry.leaving for entry in group.peers.values() if entry.leaving is not None]
    if leaving and (group.round is None or len(leaving) == len(group.members)):
        depart(turn, name, *leaving)
