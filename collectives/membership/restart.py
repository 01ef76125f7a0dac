"""A coordinator that remembers its run starts again: its members come back before it judges them.

``resume`` makes the state to start from; the rest are functions on a ``Turn`` that ``coordinator``
calls. A group is *returning* from the restart until every member is back, or is dead by the word
of one that is, or ``Timing.registration`` has passed; whoever is missing then is taken for dead.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence

from collectives.membership import formation
from collectives.membership.ledger import CoordinatorState, Departure, Registered, Returning
from collectives.membership.turn import Turn, with_item
from collectives.membership.view import Peer, View


def resume(state: CoordinatorState, now: float) -> CoordinatorState:
    """The state in which a restarted coordinator begins: a higher term, and nobody back yet.

    Args:
        state: the durable part of what it knew, from ``durable.restore``.
        now: seconds on the clock of ``decide``.
    """
    groups = {}
    for name, group in state.groups.items():
        if group.view is not None:
            peers = not_back(group.view, group.gone, now)
            group = dataclasses.replace(group, peers=peers, returning=Returning(now))
        groups[name] = group
    return dataclasses.replace(state, term=state.term + 1, groups=groups)


def not_back(view: View, gone: Sequence[Departure], now: float) -> dict[uuid.UUID, Registered]:
    """The members of a view as a coordinator knows them that has not heard them yet."""
    dead = {departure.peer.id for departure in gone}
    living = [peer for peer in view.peers if peer.id not in dead]
    return {peer.id: Registered(peer, 1, b"", 0, now) for peer in living}


def hold_suspicion(turn: Turn, name: str, accuser: Peer, accused: uuid.UUID, text: str) -> None:
    """Keep a member's evidence until all others have had the time to come back."""
    returning = turn.group(name).returning
    assert returning is not None
    suspects = with_item(returning.suspects, accused, (accuser, text))
    turn.set_group(name, returning=dataclasses.replace(returning, suspects=suspects))
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
    for accused, (accuser, text) in returning.suspects.items():
        if accused in turn.group(name).peers and accuser.id in turn.group(name).peers:
            formation.mark_suspect(turn, name, accuser, accused, text)
    for peer in absent:
        if peer.id in turn.group(name).peers:
            text = f"{peer.name!r} did not come back within {limit:g} s after the coordinator"
            text += " was restarted"
            turn.because(text, name)
            formation.depart(turn, name, peer.id, Departure(peer, left=False, text=text))
    after_restart(turn, name)
    formation.settle(turn, name)


def after_restart(turn: Turn, name: str) -> None:
    """The members of a group are back. Called once for each group with a view.

    This is where a round is opened for what the old coordinator left undecided.
    """
