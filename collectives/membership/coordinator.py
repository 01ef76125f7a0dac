"""The coordinator as a pure function: ``decide(state, event, now)``.

Here: which event is whose business, and what time brings. Who may speak is in ``entrance``, what
peers say in ``hearing``; both call what they have in common, from ``formation``, where views are
decided on, down to ``preparation`` and ``rounds``. The shell that owns the socket and the clock is
``server``.

A message is acted on only if it comes over a connection that has introduced itself with Hello
(and proved the token where there is one). Anything stale, repeated or out of place is answered
with what the sender should know by now, and changes nothing else.
"""

from __future__ import annotations

import dataclasses

from collectives.membership import (
    entrance,
    formation,
    hearing,
    overdue,
    recall,
    restart,
    rounds,
    suspects,
    visits,
)
from collectives.membership.ledger import (
    MAX_EMPTY,
    CoordinatorState,
    Decision,
    Event,
    Received,
    ReceivedOtherVersion,
    Refused,
    Tick,
)
from collectives.membership.messages import Hello, Proof, StatusQuery
from collectives.membership.turn import Turn, without
from collectives.membership.wire import Message


def decide(state: CoordinatorState, event: Event, now: float) -> Decision:
    """Return what the coordinator does about one event.

    Pure: no clock, no socket, no randomness. ``Decision.reason`` is a sentence for people;
    it appears in the log and in ``collectives status``.

    Args:
        state: what the coordinator knew.
        event: what happened.
        now: seconds on a clock that never goes back.
    """
    turn = Turn(state, now)
    if isinstance(event, Received):
        _received(turn, event.route, event.message)
    elif isinstance(event, ReceivedOtherVersion):
        entrance.skewed(turn, event.route, event.low, event.high)
    elif isinstance(event, Refused):
        turn.refuse(event.reason, event.count)
    else:
        _tick(turn)
    return turn.decision()


def _received(turn: Turn, route: bytes, message: Message) -> None:
    if isinstance(message, Hello | StatusQuery):
        entrance.request(turn, route, message)
    elif isinstance(message, Proof):
        entrance.check_proof(turn, route, message)
    else:
        hearing.heard(turn, route, message)


def _tick(turn: Turn) -> None:
    state = turn.state
    timing = state.timing
    last = turn.now if state.ticked is None else state.ticked
    turn.set(ticked=turn.now)
    if turn.now - last > timing.pause:
        turn.because(f"the coordinator itself stood still for {turn.now - last:.1f} s")
        _restart_clocks(turn)
        return
    stale = [r for r, c in state.challenges.items() if turn.now - c.at > timing.challenge_life]
    if stale:
        turn.refuse("challenge not answered", len(stale))
        kept = {r: c for r, c in state.challenges.items() if r not in stale}
        turn.set(challenges=kept)
    for name in list(state.groups):
        overdue.check_waiting(turn, name)
        restart.check(turn, name)
        recall.check(turn, name)
        overdue.check_preparation(turn, name)
        overdue.check_abandoned(turn, name)
        suspects.check(turn, name)
        overdue.check_round(turn, name)
        visits.check(turn, name)
        formation.check(turn, name)
        formation.tell_waiting(turn, name)
    _forget_groups(turn)


def _forget_groups(turn: Turn) -> None:
    """Let go of groups that nobody is in; the newest that had a view stay to be looked at."""
    empty = [g for g in turn.state.groups.values() if not g.peers and not g.recollections]
    had_view = [group.name for group in empty if group.number > 0]
    kept = set(had_view[-MAX_EMPTY:])
    for group in empty:
        if group.name not in kept:
            turn.set(groups=without(turn.state.groups, group.name))


def _restart_clocks(turn: Turn) -> None:
    for name, group in turn.state.groups.items():
        peers = {p: dataclasses.replace(r, heard=turn.now) for p, r in group.peers.items()}
        coming = group.preparing
        if coming is not None:
            coming = dataclasses.replace(coming, since=turn.now)
        returning = group.returning
        if returning is not None:
            returning = dataclasses.replace(returning, since=turn.now)
        turn.set_group(name, peers=peers, preparing=coming, returning=returning, suspects={})
        rounds.restart_clocks(turn, name)


__all__ = ["Received", "ReceivedOtherVersion", "Refused", "Tick", "decide"]
