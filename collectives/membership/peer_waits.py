"""What a peer waits for, in words, also where it has waited too long. Pure."""

from __future__ import annotations

from collectives.errors import CollectiveError, CoordinatorUnreachable, Timeout, TooFewPeers
from collectives.membership import messages
from collectives.membership.peer_state import PeerState, Phase

FIRST_ANSWER = 30.0
"""Seconds that join waits for the coordinator's first answer; shorter if its timeout is."""
_SILENT = 3.0


def waits_for(state: PeerState) -> str:
    """What the peer is waiting for, in words; ends up in timeouts and in ``waiting_for``."""
    where = f"the coordinator at {state.config.coordinator}"
    if state.phase is Phase.CONNECTING:
        return f"the first answer of {where}"
    if state.phase is Phase.CHALLENGED:
        return f"{where} to check the run token"
    if state.recall:
        return f"{where} to restore the run: {state.recall}"
    if state.phase is Phase.LEAVING:
        return f"{where} to confirm the departure"
    if state.coming is not None:
        if state.unreachable:
            names = {peer.id: peer.name for peer in state.coming.peers}
            tried = "; ".join(f"{names[p]} ({m.text})" for p, m in state.unreachable.items())
            return f"a connection to {tried}"
        if not state.ready:
            return f"the connections of view {state.coming.number}"
        return f"the other peers of view {state.coming.number} to connect"
    note = state.note
    if note is not None and note.missing:
        peers = "peer" if note.missing == 1 else "peers"
        have = f" (have: {', '.join(note.present)})" if isinstance(note, messages.Waiting) else ""
        return f"{note.missing} more {peers}{have}"
    if isinstance(note, messages.Waiting):
        return f"the members of group {state.config.group!r}: {note.text}"
    if isinstance(note, messages.SyncWaiting) and note.absent:
        return f"{', '.join(note.absent)} to call sync()"
    if state.sync is not None and state.view is not None:
        return f"the other members of view {state.view.number} to call sync()"
    return where


def timed_out(state: PeerState, what: str, limit: float, now: float, probe: str) -> CollectiveError:
    """The error of a call that has not ended within ``limit`` seconds.

    Args:
        state: what the peer knows.
        what: the call, for example ``"join()"``.
        limit: how long it was waited for.
        now: seconds on the clock of the peer's steps.
        probe: why nobody answers at the coordinator's address, as far as that is known.
    """
    where = state.config.coordinator
    if state.heard is None:
        waited = min(limit, FIRST_ANSWER) if what == "join()" else limit
        return CoordinatorUnreachable(
            f"nobody answered {state.config.name!r} at {where} within {waited:g} s"
            f" ({probe}); check the address, and that `collectives coordinator` runs"
            " there and a firewall lets you through"
        )
    silent = now - state.heard
    if silent > max(_SILENT, 2 * state.config.keepalive):
        return CoordinatorUnreachable(
            f"{what} of {state.config.name!r} did not end within {limit:g} s: the coordinator"
            f" at {where} has not answered for {silent:.0f} s; check that it runs"
        )
    waits = waits_for(state)
    note = state.note
    if isinstance(note, messages.SyncWaiting) and note.missing and not note.absent:
        return TooFewPeers(
            f"group {state.config.group!r} is {note.missing} short of its min_size and"
            f" nobody joined within {limit:g} s; start more peers and call {what} again, or"
            " leave and join with a smaller min_size"
        )
    return Timeout(
        f"{what} of {state.config.name!r} did not end within {limit:g} s: it waits for"
        f" {waits}; see `collectives status {where}`"
    )
