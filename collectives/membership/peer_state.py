"""What a peer knows about its membership, the events it is told and the actions it answers with.

Plain immutable data; ``peer.step`` makes new states from old ones.
"""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections.abc import Mapping

from collectives.errors import CollectiveError
from collectives.membership import messages, plane, wire
from collectives.membership.view import Choice, View
from collectives.membership.wire import Message


class Phase(enum.Enum):
    """Where a peer stands with the coordinator."""

    CONNECTING = "connecting"
    CHALLENGED = "proving the run token"
    WAITING = "waiting for admission"
    MEMBER = "member"
    LEAVING = "leaving"
    OUT = "out"


class Call(enum.Enum):
    """What the user's thread may be waiting for."""

    JOIN = "join"
    SYNC = "sync"
    LEAVE = "leave"


@dataclasses.dataclass(frozen=True)
class SyncOutcome:
    """What a sync came to.

    Attributes:
        view: the view from now on.
        joined: names of those who came.
        left: names of those who went.
        bytes_received: how much of the others' state came here, as it travelled.
        sources: how much of that came from whom, by name.
    """

    view: View
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    bytes_received: int = 0
    sources: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PeerConfig:
    """What a peer is told once. Times are in seconds.

    Attributes:
        coordinator: its address, for messages to people; that of the one in use if it has several.
        coordinators: all its addresses, to be tried in turn.
        again: after so long an unanswered Hello, Leave or Suspect is sent again.
        keepalive: so often the peer says where it stands.
        silence: a coordinator that says nothing for so long is tried at its next address.
        stay: so long a coordinator that does not know the run is given to restore it.
        stale: a missing link that the data plane has not repeated for so long is there now.
        process: what names this process to others on its host; empty: not known.
        visits: before it is admitted, it fetches from the members of the group.
        site: where it is; empty: not said.
        tunes: it wants tables that are made from measured links.
        among: who form the group's first view; empty: whoever comes.
    """

    id: uuid.UUID
    group: str
    name: str
    addresses: tuple[str, ...] = ()
    min_size: int = 1
    unit: str = ""
    token: bytes = dataclasses.field(default=b"", repr=False)
    coordinator: str = "the coordinator"
    coordinators: tuple[str, ...] = ()
    versions: tuple[int, int] = wire.VERSIONS
    again: float = 0.5
    keepalive: float = 1.0
    silence: float = 3.0
    stay: float = 10.0
    stale: float = 2.5
    process: str = ""
    visits: bool = False
    site: str = ""
    tunes: bool = False
    among: tuple[uuid.UUID, ...] = ()


@dataclasses.dataclass(frozen=True)
class Suspicion:
    """Evidence against a member, and when the data plane last gave it."""

    text: str
    certain: int
    at: float


@dataclasses.dataclass(frozen=True)
class Missing:
    """A peer to which there was no link at time ``at``, and what was tried."""

    text: str
    at: float


@dataclasses.dataclass(frozen=True)
class PeerState:
    """All that a peer knows about its membership.

    Attributes:
        view: the committed view, also while the caller has not been handed it yet.
        views: those of the last commit or sync and the ones that verdicts have issued since.
        sealed: the round that has sealed ``view``, 32 bytes; empty: none.
        verdict: that which issued ``view``; None: none did.
        coming: the view in preparation; ``ready`` once the data plane has links to all of it, and
            ``nearby`` then says which ranks it reaches by memory.
        unreachable: its peers to which there was no link when the data plane last said so.
        highest: the newest (term, number) heard of; older preparations are not news.
        syncs: the number of the next (or pending) sync, from 1 since the last commit.
        sync: the last operation's number at the call of the sync under way; None: there is none.
        suspects: members whose death was reported and not yet decided, with the evidence.
        vetoed: an operation of ``view`` wants to end, in words; "": none.
        note: why nothing happens at the moment, by the coordinator's last word.
        error: why this peer is out, if not by its own will.
        heard, sent, introduced: when the coordinator last spoke, when it was last spoken to,
            and when it was last told Hello.
        unknown: the coordinator asked who this is and has not said Welcome since.
        recall: what a coordinator that does not know the run lacks to restore it; "" else.
        at, dialled: which of the coordinator's addresses is in use, and since when.
        refused: why which of them are no use, by index: another run is there.
        ticked: when time last passed.
        visit: the number of the visit under way; 0: there is none.
        visited: the newest (term, number) of a visit heard of.
        filled: what had to be fetched before the admission has been.
    """

    config: PeerConfig
    phase: Phase = Phase.CONNECTING
    run: uuid.UUID = wire.NO_RUN
    term: int = 0
    group_id: int = 0
    name: str = ""
    opened: bool = False
    view: View | None = None
    views: tuple[View, ...] = ()
    sealed: bytes = b""
    verdict: messages.Verdict | None = None
    coming: View | None = None
    ready: bool = False
    nearby: tuple[int, ...] = ()
    unreachable: Mapping[uuid.UUID, Missing] = dataclasses.field(default_factory=dict)
    highest: tuple[int, int] = (0, 0)
    syncs: int = 1
    sync: int | None = None
    suspects: Mapping[uuid.UUID, Suspicion] = dataclasses.field(default_factory=dict)
    vetoed: str = ""
    note: messages.Waiting | messages.SyncWaiting | None = None
    error: CollectiveError | None = None
    heard: float | None = None
    sent: float | None = None
    introduced: float | None = None
    unknown: bool = False
    recall: str = ""
    at: int = 0
    dialled: float | None = None
    refused: Mapping[int, str] = dataclasses.field(default_factory=dict)
    ticked: float | None = None
    visit: int = 0
    visited: tuple[int, int] = (0, 0)
    filled: bool = False


# ---- events -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Start:
    """Ask to be admitted."""


@dataclasses.dataclass(frozen=True)
class Received:
    """A well-formed message came from the coordinator."""

    message: Message


@dataclasses.dataclass(frozen=True)
class ReceivedOtherVersion:
    """Whoever is at the coordinator's address speaks versions ``low`` to ``high`` only."""

    low: int
    high: int


@dataclasses.dataclass(frozen=True)
class CallSync:
    """The user's program is in sync()."""

    last_operation: int


@dataclasses.dataclass(frozen=True)
class CallLeave:
    """The user's program wants to leave, or (``aborted``) fails and can only say so."""

    text: str = ""
    aborted: bool = False


@dataclasses.dataclass(frozen=True)
class CallFilled:
    """What had to be fetched before the admission has been."""


@dataclasses.dataclass(frozen=True)
class CallTuned:
    """The members have agreed on a plan table for their view."""

    table: tuple[Choice, ...]


@dataclasses.dataclass(frozen=True)
class Tick:
    """Time has passed; comes several times a second."""


Event = (
    Start
    | Received
    | ReceivedOtherVersion
    | CallSync
    | CallLeave
    | CallFilled
    | CallTuned
    | Tick
    | plane.PlaneEvent
)

# ---- actions ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Send:
    """Send to the coordinator."""

    message: Message


@dataclasses.dataclass(frozen=True)
class Dial:
    """Speak with the coordinator at another of its addresses from now on; ``why`` is for people."""

    address: str
    why: str


@dataclasses.dataclass(frozen=True)
class OpenPlane:
    """``plane.open``."""

    group_id: int
    group: str


@dataclasses.dataclass(frozen=True)
class PreparePlane:
    """``plane.prepare``."""

    view: View
    rank: int


@dataclasses.dataclass(frozen=True)
class CommitPlane:
    """``plane.commit``."""

    view: View


@dataclasses.dataclass(frozen=True)
class DiscardPlane:
    """``plane.discard``."""


@dataclasses.dataclass(frozen=True)
class VisitPlane:
    """``plane.visit``."""

    view: View | None


@dataclasses.dataclass(frozen=True)
class SealPlane:
    """``plane.seal``."""

    epoch: bytes


@dataclasses.dataclass(frozen=True)
class JudgePlane:
    """``plane.judge``."""

    verdict: bytes


@dataclasses.dataclass(frozen=True)
class RelayPlane:
    """``plane.relay``."""

    peer: uuid.UUID
    message: bytes
    verdict: bool


@dataclasses.dataclass(frozen=True)
class EndPlane:
    """``plane.out``: this peer was evicted."""

    text: str


@dataclasses.dataclass(frozen=True)
class Resolve:
    """A call has its result: JOIN a View, SYNC a SyncOutcome, LEAVE None."""

    call: Call
    result: View | SyncOutcome | None


@dataclasses.dataclass(frozen=True)
class Reject:
    """Every pending call, and every later one, raises this."""

    error: CollectiveError


Action = (
    Send
    | Dial
    | OpenPlane
    | PreparePlane
    | CommitPlane
    | DiscardPlane
    | VisitPlane
    | SealPlane
    | JudgePlane
    | RelayPlane
    | EndPlane
    | Resolve
    | Reject
)


@dataclasses.dataclass(frozen=True)
class Step:
    """What follows from one event. ``reason`` is for people ("" if there is nothing to say)."""

    state: PeerState
    actions: tuple[Action, ...]
    reason: str
