"""The working copy of a peer's state during one step, as ``turn`` is the coordinator's.

``peer`` and its parts (``peer_says``, ``peer_entry``, ``peer_views``) change it through the methods
here. Nobody outside sees it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from collectives.errors import CollectiveError
from collectives.membership.peer_state import (
    Action,
    Call,
    DiscardPlane,
    PeerState,
    Phase,
    Reject,
    Resolve,
    Send,
    Step,
)
from collectives.membership.wire import Message


class PeerTurn:
    """One step in the making."""

    def __init__(self, state: PeerState, now: float) -> None:
        self.state = state
        self.now = now
        self._actions: list[Action] = []
        self._reasons: list[str] = []

    def step(self) -> Step:
        """What the turn came to."""
        return Step(self.state, tuple(self._actions), "; ".join(self._reasons))

    def set(self, **fields: Any) -> None:
        """Replace fields of the state."""
        self.state = dataclasses.replace(self.state, **fields)

    def act(self, action: Action) -> None:
        """Have the shell do something."""
        self._actions.append(action)

    def because(self, reason: str) -> None:
        """Say why."""
        self._reasons.append(reason)

    def send(self, message: Message) -> None:
        """Say something to the coordinator."""
        self.set(sent=self.now)
        self.act(Send(message))

    def discard_coming(self) -> None:
        """The view in preparation will not come."""
        if self.state.coming is not None:
            self.set(coming=None, ready=False, unreachable={})
            self.act(DiscardPlane())

    def out(self, error: CollectiveError | None) -> None:
        """The peer is out of the run: by its own will, or with an error."""
        leaving = self.state.phase is Phase.LEAVING or error is None
        self.discard_coming()
        self.set(phase=Phase.OUT, error=error, sync=None, suspects={}, vetoed="")
        if leaving:
            self.act(Resolve(Call.LEAVE, None))
            self.because("left the group")
        if error is not None:
            self.because(str(error))
        self.act(Reject(error or CollectiveError("this peer has left the group")))
