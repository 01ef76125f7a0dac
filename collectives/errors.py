"""Every error the library raises. Each message says what happened, to whom, and what to do."""

from __future__ import annotations


class CollectiveError(Exception):
    """Base of all errors of this library.

    Attributes:
        outcome_unknown: True if the operation may have succeeded for other peers although it
            raised here; the inputs are as they were before the call.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class PeerLost(CollectiveError):
    """A peer of the view died, left or was cut off while an operation needed it.

    The group stays broken (every operation raises this) until every member calls ``sync()``.

    Attributes:
        peer: name of the lost peer.
    """

    def __init__(self, message: str, *, peer: str = "", outcome_unknown: bool = False) -> None:
        super().__init__(message, outcome_unknown=outcome_unknown)
        self.peer = peer


class StepLost(PeerLost):
    """A member was lost in the middle of a step, so none of the step counts; take it again.

    Raised on all members alike at the end of the step's block. Unlike after other errors the group
    is not broken: nobody needs to call ``sync()``.
    """


class TooFewPeers(CollectiveError):
    """Fewer than ``min_size`` peers are left."""


class Evicted(CollectiveError):
    """The coordinator removed this peer from the run; ``Group.rejoin()`` brings it back."""


class CoordinatorUnreachable(CollectiveError):
    """Nobody answers at the coordinator's address, or it stopped answering."""


class Timeout(CollectiveError, TimeoutError):
    """A call's deadline passed; the message names who is missing."""


class MismatchError(CollectiveError):
    """Ranks called different things; the message names who called what."""


class StateError(CollectiveError):
    """States cannot be made identical; the message names what differs, and where."""


class NotAuthorized(CollectiveError):
    """The run token is missing or wrong."""


class VersionSkew(CollectiveError):
    """The other side speaks no protocol version that this side speaks."""


class Cancelled(CollectiveError):
    """The operation was cancelled, here or at another peer."""


class UnsupportedError(CollectiveError):
    """This build or machine cannot do what was asked."""


class InvalidArgument(CollectiveError, ValueError):
    """The arguments make no sense; nothing was sent."""
