"""Where the coordinator is, if it may be at one of several addresses. Pure.

A peer speaks with one of them at a time. It goes on to the next one when the present one is
silent, serves another run, or does not know the run and has had its time to restore it. Whichever
says Welcome is the one.
"""

from __future__ import annotations

from collectives.membership.peer_state import PeerState, Phase

_PAUSE = 1.5


def next_address(state: PeerState, now: float) -> tuple[int, str] | None:
    """The index of the address to try now, and why; None: stay."""
    config = state.config
    count = len(config.coordinators)
    if count < 2 or state.phase is Phase.OUT:
        return None
    here = f"the coordinator at {config.coordinator}"
    since = now if state.dialled is None else state.dialled
    if state.at in state.refused:
        why = f"{here} is not ours: {state.refused[state.at]}"
    elif state.recall:
        if now - since <= config.stay:
            return None
        why = f"{here} could not restore the run: {state.recall}"
    else:
        heard = since if state.heard is None else max(state.heard, since)
        paused = state.ticked is not None and now - state.ticked > _PAUSE
        # Who stood still has heard nothing meanwhile, whoever spoke.
        if paused or now - heard <= config.silence:
            return None
        why = f"{here} has said nothing for {now - heard:.0f} s"
    others = [(state.at + step) % count for step in range(1, count)]
    index = next((i for i in others if i not in state.refused), None)
    return None if index is None else (index, why)
