"""The public names, which ``collectives`` offers as its own when the first of them is used."""

from __future__ import annotations

from collectives._native.engine import Counters
from collectives._version import __version__
from collectives.codec import Codec
from collectives.errors import (
    Cancelled,
    CollectiveError,
    CoordinatorUnreachable,
    Evicted,
    InvalidArgument,
    MismatchError,
    NotAuthorized,
    PeerLost,
    StateError,
    StepLost,
    Timeout,
    TooFewPeers,
    UnsupportedError,
    VersionSkew,
)
from collectives.group import Group
from collectives.issue import ScaledSum, scaled_sum
from collectives.joining import join
from collectives.membership.peer import SyncOutcome
from collectives.membership.server import Coordinator
from collectives.membership.view import Peer, View
from collectives.options import Options
from collectives.state import SharedState
from collectives.step import Step
from collectives.work import LinkUse, Range, Result, Telemetry, Work

__all__ = [
    "Cancelled",
    "Codec",
    "CollectiveError",
    "Coordinator",
    "CoordinatorUnreachable",
    "Counters",
    "Evicted",
    "Group",
    "InvalidArgument",
    "LinkUse",
    "MismatchError",
    "NotAuthorized",
    "Options",
    "Peer",
    "PeerLost",
    "Range",
    "Result",
    "ScaledSum",
    "SharedState",
    "StateError",
    "Step",
    "StepLost",
    "SyncOutcome",
    "Telemetry",
    "Timeout",
    "TooFewPeers",
    "UnsupportedError",
    "VersionSkew",
    "View",
    "Work",
    "__version__",
    "join",
    "scaled_sum",
]
