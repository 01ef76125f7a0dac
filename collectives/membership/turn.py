"""The working copy of the coordinator's state while it decides about one event.

A turn starts from an immutable state and ends in another; in between, ``coordinator`` and what it
calls change it through the methods here. Nobody outside sees it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import uuid
from collections.abc import Mapping
from typing import Any, TypeVar

from collectives.membership.ledger import (
    MAX_DEPARTED,
    MAX_REASONS,
    CoordinatorState,
    Decision,
    Departure,
    Group,
    Reason,
    Registered,
    Send,
)
from collectives.membership.messages import Evicted, LeaveDone
from collectives.membership.wire import Message, clip

_K = TypeVar("_K")
_V = TypeVar("_V")


def with_item(mapping: Mapping[_K, _V], key: _K, value: _V) -> dict[_K, _V]:
    """A copy of a mapping in which ``key`` has ``value``."""
    return {**mapping, key: value}


def without(mapping: Mapping[_K, _V], key: _K) -> dict[_K, _V]:
    """A copy of a mapping without ``key``."""
    return {k: v for k, v in mapping.items() if k != key}


class Turn:
    """One decision in the making."""

    def __init__(self, state: CoordinatorState, now: float) -> None:
        self.state = state
        self.now = now
        self._actions: list[Send] = []
        self._reasons: list[str] = []

    def decision(self) -> Decision:
        """What the turn came to."""
        return Decision(self.state, tuple(self._actions), "; ".join(self._reasons))

    def set(self, **fields: Any) -> None:
        """Replace fields of the state."""
        self.state = dataclasses.replace(self.state, **fields)

    def group(self, name: str) -> Group:
        """A group as it stands now."""
        return self.state.groups[name]

    def set_group(self, name: str, **fields: Any) -> Group:
        """Replace fields of a group."""
        group = dataclasses.replace(self.group(name), **fields)
        self.set(groups=with_item(self.state.groups, name, group))
        return group

    def set_peer(self, name: str, peer: uuid.UUID, **fields: Any) -> Registered:
        """Replace fields of a registered peer."""
        group = self.group(name)
        registered = dataclasses.replace(group.peers[peer], **fields)
        self.set_group(name, peers=with_item(group.peers, peer, registered))
        return registered

    def because(self, reason: str, group: str | None = None) -> None:
        """Say why; kept with the group if it is about one."""
        text = f"[{group}] {reason}" if group else reason
        self._reasons.append(text)
        if group is not None and group in self.state.groups:
            kept = (*self.group(group).reasons, Reason(self.now, reason))[-MAX_REASONS:]
            self.set_group(group, reasons=kept)

    def refuse(self, reason: str, count: int = 1) -> None:
        """Count refused traffic."""
        before = self.state.refused.get(reason, 0)
        self.set(refused=with_item(self.state.refused, reason, before + count))

    def send(self, route: bytes, message: Message) -> None:
        """Send over a connection; who has not come back after a restart has none."""
        if route:
            self._actions.append(Send(route, message))

    def tell(self, group: str, peer: uuid.UUID, message: Message) -> None:
        """Send to a registered peer."""
        self.send(self.group(group).peers[peer].route, message)

    def tell_news(self, group: str, peer: uuid.UUID, message: Message) -> None:
        """Send to a registered peer unless the last such message said the same."""
        if self.group(group).peers[peer].told != message:
            self.set_peer(group, peer, told=message)
            self.tell(group, peer, message)

    def secret(self, purpose: str) -> bytes:
        """32 bytes that nobody can guess and that are never given twice."""
        self.set(counter=self.state.counter + 1)
        text = f"{purpose} {self.state.term} {self.state.counter}".encode()
        return hmac.digest(self.state.seed, text, hashlib.sha256)

    def remove(self, name: str, peer: uuid.UUID, departure: Departure | None) -> None:
        """Take a peer out of its group.

        With a departure its UUID is used up, and it is told so now and whenever it speaks again;
        without one it may come back.
        """
        group = self.group(name)
        registered = group.peers[peer]
        self.set_group(name, peers=without(group.peers, peer), reached=without(group.reached, peer))
        if departure is None:
            self.set(routes=without(self.state.routes, registered.route))
            return
        departed = with_item(self.state.departed, (name, peer), departure)
        while len(departed) > MAX_DEPARTED:
            del departed[next(iter(departed))]
        self.set(departed=departed)
        self.send(registered.route, farewell(departure))


def farewell(departure: Departure) -> Message:
    """What a departed peer is told."""
    if departure.left:
        return LeaveDone()
    return Evicted(clip(departure.text), departure.admitted)
