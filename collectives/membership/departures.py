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
