"""Fault-tolerant collective communication: the public names, nothing else."""

from __future__ import annotations

from collectives._version import __version__

try:
    from collectives._native.engine import Counters
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
    from collectives.join import join
    from collectives.membership.peer import SyncOutcome
    from collectives.membership.server import Coordinator
    from collectives.membership.view import Peer, View
    from collectives.options import Options
    from collectives.state import SharedState
    from collectives.step import Step
    from collectives.work import LinkUse, Range, Result, Telemetry, Work
except ImportError as error:
    # `collectives doctor` lives in this package, and must run where the rest does not.
    from collectives._broken import explain

    globals()["__getattr__"] = explain(error)

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
