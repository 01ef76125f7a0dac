"""What a peer waits for, in words. Pure."""

from __future__ import annotations

from collectives.membership import messages
from collectives.membership.peer_state import PeerState, Phase


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
