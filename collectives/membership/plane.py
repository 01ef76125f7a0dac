"""What membership asks of the data plane, and what the data plane tells it.

The agent drives anything that has these methods: the C engine in production, a simulated one in
the tests of the control plane.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import Protocol

from collectives.membership.view import View


@dataclasses.dataclass(frozen=True)
class ViewReady:
    """Links to all peers of the prepared view are up.

    ``nearby``: the ranks that it shares memory with, its own among them.
    """

    number: int
    nearby: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Unreachable:
    """There is no link to ``peer`` of the prepared view yet; repeated while it lasts."""

    number: int
    peer: uuid.UUID
    text: str


@dataclasses.dataclass(frozen=True)
class PeerSuspected:
    """Evidence that ``peer`` of the committed view is dead; repeated while it lasts.

    With ``certain`` 2 the view may be the prepared one, and the peer a newcomer.

    Attributes:
        certain: 2: its process, on this host, was seen to die. 1: its port refuses connections, or
            it said goodbye. 0: silence; it may live.
    """

    number: int
    peer: uuid.UUID
    text: str
    certain: int = 0


@dataclasses.dataclass(frozen=True)
class Vetoed:
    """An operation wants to end with an error; repeated until a round has decided about it."""

    number: int
    text: str


@dataclasses.dataclass(frozen=True)
class Reported:
    """A report for the coordinator: this peer's, or one of a peer that it was asked to reach."""

    data: bytes


@dataclasses.dataclass(frozen=True)
class VerdictTaken:
    """A peer that it was asked to reach has taken the verdict of a round."""

    epoch: bytes
    peer: uuid.UUID


@dataclasses.dataclass(frozen=True)
class VerdictHeard:
    """A member has passed a verdict on to this peer, and the data plane has taken it."""

    data: bytes


@dataclasses.dataclass(frozen=True)
class GivenUp:
    """No verdict came in time; the data plane has ended its operations and is out of the view."""

    number: int
    text: str


PlaneEvent = (
    ViewReady
    | Unreachable
    | PeerSuspected
    | Vetoed
    | Reported
    | VerdictTaken
    | VerdictHeard
    | GivenUp
)


class DataPlane(Protocol):
    """One group's data plane. Methods never block and are called from the agent's thread."""

    @property
    def event_fd(self) -> int:
        """A descriptor that is readable while events wait; asked for once it is open."""

    def next_event(self) -> PlaneEvent | None:
        """The oldest event, None when there is none."""

    def open(self, group_id: int, group: str) -> None:
        """Called once, when the coordinator has told the group's number."""

    def prepare(self, view: View, rank: int) -> None:
        """Start to connect to the peers of a coming view; ViewReady or Unreachable follow."""

    def commit(self, view: View) -> None:
        """Make the prepared view the one in which operations run; mends a broken group.

        ``view`` is the prepared one with its first operation, places and table.
        """

    def discard(self) -> None:
        """Forget the prepared view."""

    def visit(self, view: View | None) -> None:
        """Have links to the peers of ``view``, too, until the next call; nothing runs there."""

    def seal(self, epoch: bytes) -> None:
        """A round: accept nothing of the view any more, and report; Reported follows."""

    def judge(self, verdict: bytes) -> None:
        """The verdict of the round: end or go on in the view that it issues."""

    def relay(self, peer: uuid.UUID, message: bytes, verdict: bool) -> None:
        """Pass a seal or a verdict on to a member; Reported or VerdictTaken follows."""

    def out(self, text: str) -> None:
        """This peer was evicted: end everything."""
