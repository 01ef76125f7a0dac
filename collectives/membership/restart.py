"""A coordinator that remembers its run starts again: its members come back before it judges them.

``resume`` makes the state to start from; the rest are functions on a ``Turn`` that ``coordinator``
calls. A group is *returning* from the restart until every member is back, or is dead by the word
of one that is, or ``Timing.registration`` has passed; whoever is missing then is taken for dead.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence

from collectives.membership import formation, rounds, suspects
from collectives.membership.ledger import (
    CoordinatorState,
    Departure,
    Group,
    Registered,
    Returning,
)
from collectives.membership.turn import Turn, with_item
from collectives.membership.view import View


def resume(state: CoordinatorState, now: float) -> CoordinatorState:
    """The state in which a restarted coordinator begins: a higher term, and nobody back yet.

    Args:
        state: the durable part of what it knew, from ``durable.restore``.
        now: seconds on the clock of ``decide``.
    """
    groups = {}
    for name, group in state.groups.items():
        if group.view is not None:
            peers = not_back(group.view, gone(state, group), now)
            issued = group.issued
            if issued is not None:
                issued = dataclasses.replace(issued, since=now, asked=now)
            group = dataclasses.replace(group, peers=peers, issued=issued, returning=Returning(now))
        groups[name] = group
    return dataclasses.replace(state, term=state.term + 1, groups=groups)


def gone(state: CoordinatorState, group: Group) -> tuple[Departure, ...]:
    """The departures of members of the committed view."""
    if group.view is None:
        return ()
    found = (state.departed.get((group.name, peer.id)) for peer in group.view.peers)
    return tuple(departure for departure in found if departure is not None)


def not_back(view: View, departed: Sequence[Departure], now: float) -> dict[uuid.UUID, Registered]:
    """The members of a view as a coordinator knows them that has not heard them yet."""
    dead = {departure.peer.id for departure in departed}
    living = [peer for peer in view.peers if peer.id not in dead]
    return {peer.id: Registered(peer, 1, b"", 0, now) for peer in living}


def hold_suspicion(
    turn: Turn, name: str, accuser: uuid.UUID, accused: uuid.UUID, text: str, certain: int
) -> None:
    """Keep a member's evidence until all others have had the time to come back."""
    returning = turn.group(name).returning
    assert returning is not None
    evidence = with_item(returning.suspects, accused, (accuser, text, certain))
    turn.set_group(name, returning=dataclasses.replace(returning, suspects=evidence))
    check(turn, name)


def check(turn: Turn, name: str) -> None:
    """End the return if all are back or it has taken long enough. Called at every tick too."""
    group = turn.group(name)
    returning = group.returning
    if returning is None:
        return
    absent = [peer for peer in group.members if not group.peers[peer.id].route]
    limit = turn.state.timing.registration
    late = turn.now - returning.since >= limit
    if not late and any(peer.id not in returning.suspects for peer in absent):
        return
    turn.set_group(name, returning=None)
    back = len(group.members) - len(absent)
    turn.because(f"{back} of {len(group.members)} members are back after the restart", name)
    departures = list(gone(turn.state, group))  # decided by the old coordinator, not carried out
    for peer in absent:
        text = f"{peer.name!r} did not come back within {limit:g} s after the coordinator"
        text += " was restarted"
        if peer.id in returning.suspects:
            text = f"{peer.name!r} is dead: {returning.suspects[peer.id][1]}"
        turn.because(text, name)
        departure = Departure(peer, left=False, text=text)
        turn.remove(name, peer.id, departure)
        departures.append(departure)
    if departures:
        rounds.open_round(turn, name, tuple(departures))
    for accused, (accuser, text, certain) in returning.suspects.items():
        peers = turn.group(name).peers
        if accused in peers and accuser in peers:
            suspects.mark(turn, name, accuser, accused, text, certain)
    formation.settle(turn, name)
