"""What the coordinator knows: its state, the events it is told and the actions it answers with.

Plain immutable data. Whoever holds a state holds it for ever; ``coordinator.decide`` makes new
ones. Whether a peer waits, prepares or is a member is not stored with the peer but follows from
the views it is in, so that the two cannot disagree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import uuid
from collections.abc import Mapping

from collectives.membership.messages import Hello, Recollect, StatusQuery
from collectives.membership.report import Epoch, Error, Report
from collectives.membership.view import Choice, LevelChoice, Peer, View
from collectives.membership.wire import Message

MAX_GROUPS = 4096
MAX_CHALLENGES = 1024
MAX_DEPARTED = 4096
MAX_REASONS = 20
MAX_EMPTY = 64


@dataclasses.dataclass(frozen=True)
class Timing:
    """The coordinator's patience, in seconds.

    Attributes:
        waiting_silence: a peer that waits for admission and says nothing for so long is dropped.
        prepare_patience: so long may members and newcomers of a coming view fail to connect
            before somebody is dropped.
        pair_patience: a pair must have failed to connect for so long, both knowing of the view,
            to count.
        hesitation: a report that was not repeated for so long is void, and while one of such a
            pair has said nothing for so long, nobody is dropped: either it speaks again or it is
            the one to drop. Less than ``pair_patience``, so that of a pair of which one has just
            died, the dead one is dropped.
        prepare_silence: who says neither Prepared nor Unreachable for so long is dropped.
        abandoned: when peers wait for admission and not one member has spoken for so long, the
            members are taken for dead: all were killed at once, nobody is left to report it. A
            single member of several is never judged so.
        registration: so long after a restart members may take to come back before those who did
            not are taken for dead.
        recollection: a member of a run that this coordinator does not know is there while it
            repeats itself within this time.
        reunion: while somebody waits here who already waited in an earlier run, members of that
            run may come for so long before a first view is formed without them.
        report_patience: who does not report in a round, or does not take its verdict, so long
            after others have is evicted.
        relay_after: after so long, members are asked to pass on what some do not hear.
        refused_patience: so long has a member whose port refuses connections to say that it lives.
        silent_patience: the same for one that is only silent.
        pairs_patience: so long are members collected that cannot reach each other though both are
            here, before some are evicted.
        challenge_life: a challenge must be answered within this time.
        pause: a clock that jumped by more says that the coordinator itself stood still; it then
            accuses nobody of silence.
    """

    waiting_silence: float = 5.0
    prepare_patience: float = 5.0
    pair_patience: float = 3.0
    hesitation: float = 2.5
    prepare_silence: float = 15.0
    abandoned: float = 30.0
    report_patience: float = 5.0
    relay_after: float = 0.2
    refused_patience: float = 0.3
    silent_patience: float = 0.25
    pairs_patience: float = 1.5
    registration: float = 10.0
    recollection: float = 2.0
    reunion: float = 3.0
    challenge_life: float = 10.0
    pause: float = 2.0


@dataclasses.dataclass(frozen=True)
class Registered:
    """A peer that has said Hello and has not departed.

    ``route`` is empty if it has not been heard since the coordinator was restarted. ``visits``: it
    wants to fetch from the members before it is admitted; ``filled``: it has. ``among``: who
    form the first view with it; empty: whoever comes. ``leaving``: it wants to go, and goes once
    the round is decided that was open then.
    """

    peer: Peer
    min_size: int
    route: bytes
    arrived: int
    heard: float
    told: Message | None = None
    visits: bool = False
    filled: bool = False
    among: tuple[uuid.UUID, ...] = ()
    leaving: Departure | None = None

    @property
    def id(self) -> uuid.UUID:
        """The peer's UUID."""
        return self.peer.id

    @property
    def filling(self) -> bool:
        """Whether it is not to be admitted yet."""
        return self.visits and not self.filled


@dataclasses.dataclass(frozen=True)
class Failure:
    """A pair that cannot talk: what was tried, since when, and when that was last said."""

    text: str
    since: float
    last: float


@dataclasses.dataclass(frozen=True)
class Preparation:
    """A view that its peers are connecting for.

    Attributes:
        since: when it was begun.
        knows: since when who is known to know of it. Until then nobody can connect to it, which
            is no fault of the network's.
        ready: who has links to all others, and the ranks that each of them reaches by memory.
        failed: who cannot reach whom, by the word of the first.
    """

    view: View
    since: float
    knows: Mapping[uuid.UUID, float] = dataclasses.field(default_factory=dict)
    ready: Mapping[uuid.UUID, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    failed: Mapping[tuple[uuid.UUID, uuid.UUID], Failure] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Visits:
    """Who is visiting whom: see ``visits``."""

    key: bytes = dataclasses.field(repr=False)
    hosts: tuple[Peer, ...]
    guests: tuple[Peer, ...]


@dataclasses.dataclass(frozen=True)
class Departure:
    """How somebody went: left, or declared dead or dropped (``left`` false)."""

    peer: Peer
    left: bool
    text: str
    admitted: bool = True


@dataclasses.dataclass(frozen=True)
class Suspicion:
    """A member's word that another is dead; ``certain`` as in ``plane.PeerSuspected``."""

    text: str
    certain: int
    since: float
    last: float


@dataclasses.dataclass(frozen=True)
class Round:
    """A round about the committed view: it is sealed, and its members report.

    Attributes:
        since: when it was opened; ``asked``: when it was last said to all.
        first: when the first report came; silence counts from then on.
        lost: who went, and why, in the order in which it became known.
        reports: of members that have reported.
    """

    epoch: Epoch
    since: float
    asked: float
    first: float | None = None
    lost: tuple[Departure, ...] = ()
    reports: Mapping[uuid.UUID, Report] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Issued:
    """The verdict that issued the committed view.

    Attributes:
        term, number: of the view that was judged.
        data: the verdict for the core (``report.encode_verdict``).
        since, asked: when it was made, and last said to those who had not taken it.
        taken: who has.
    """

    epoch: Epoch
    term: int
    number: int
    data: bytes
    text: str
    since: float = 0.0
    asked: float = 0.0
    taken: frozenset[uuid.UUID] = frozenset()


@dataclasses.dataclass(frozen=True)
class Returning:
    """The members of a group are coming back to a restarted coordinator, since ``since``.

    ``suspects``: whom the members that are back hold for dead: the accuser and the evidence.
    """

    since: float
    suspects: Mapping[uuid.UUID, tuple[uuid.UUID, str, int]] = dataclasses.field(
        default_factory=dict
    )


@dataclasses.dataclass(frozen=True)
class Recollection:
    """What a member of a run that this coordinator does not know says of it, last heard ``at``."""

    route: bytes
    run: uuid.UUID
    word: Recollect
    at: float


@dataclasses.dataclass(frozen=True)
class Reason:
    """A decision in words, kept for ``collectives status``."""

    at: float
    text: str


@dataclasses.dataclass(frozen=True)
class Group:
    """One group of the run.

    Attributes:
        number: the highest view number used so far, also for views that never came.
        view: the committed view; None before the first and when all its members are gone.
        round: the round about it that is under way.
        rounds: how many were opened in this term.
        issued: the verdict that issued ``view``; None if a sync did.
        broken: the error that operations raise until the next sync; None: they run.
        renew: the next sync makes a new view in any case: members may be broken without this
            coordinator's knowledge.
        suspects: (accuser, accused) among the members.
        sync: the number of the sync that is under way or comes next, from 1 since the last commit.
        synced: term and number of the view in which the last one was done. A member that missed
            it may be told only after a verdict has issued the next view.
        reached: members that are in it, with the number of their last operation.
        peers: everybody who has not departed, by arrival.
        returning: not None until the members have come back after a restart.
        recollections: members of a run that has to be restored from their words.
        held: until when no first view is formed (see ``Timing.reunion``).
        visits: newcomers that fetch from the members; None: there are none.
        visit: raised by each change of ``visits``, in this term.
    """

    id: int
    name: str
    number: int = 0
    view: View | None = None
    round: Round | None = None
    rounds: int = 0
    issued: Issued | None = None
    broken: Error | None = None
    renew: bool = False
    suspects: Mapping[tuple[uuid.UUID, uuid.UUID], Suspicion] = dataclasses.field(
        default_factory=dict
    )
    sync: int = 1
    synced: tuple[int, int] = (0, 0)
    reached: Mapping[uuid.UUID, int] = dataclasses.field(default_factory=dict)
    preparing: Preparation | None = None
    peers: Mapping[uuid.UUID, Registered] = dataclasses.field(default_factory=dict)
    reasons: tuple[Reason, ...] = ()
    returning: Returning | None = None
    recollections: Mapping[uuid.UUID, Recollection] = dataclasses.field(default_factory=dict)
    held: float = 0.0
    visits: Visits | None = None
    visit: int = 0

    @property
    def members(self) -> tuple[Peer, ...]:
        """The members of the committed view that are not gone, in rank order."""
        if self.view is None:
            return ()
        return tuple(peer for peer in self.view.peers if peer.id in self.peers)

    @property
    def newcomers(self) -> tuple[Peer, ...]:
        """Those who wait for admission, by arrival."""
        members = {peer.id for peer in self.members}
        arrived = sorted(self.peers.values(), key=lambda registered: registered.arrived)
        return tuple(entry.peer for entry in arrived if entry.id not in members)


@dataclasses.dataclass(frozen=True)
class Challenged:
    """A request that has to be proved."""

    request: Hello | StatusQuery
    nonce: bytes
    at: float


@dataclasses.dataclass(frozen=True)
class CoordinatorState:
    """All that the coordinator knows.

    Attributes:
        run: names this run; a coordinator that lost its memory has another one.
        term: raised by every restart of the coordinator that kept its memory.
        seed: 32 secret random bytes from which view keys and nonces are derived.
        token: the run token; empty: none is required.
        groups: by name.
        routes: who is behind which connection (proved, where there is a token).
        departed: peers whose UUID is used up, the oldest first.
        refused: how much traffic was refused, by reason.
        force: one member's word is enough to restore a run.
        plans: the table of each view that is formed; empty: engines choose by themselves.
        levels: of each view that is formed, as in ``View``.
    """

    run: uuid.UUID
    seed: bytes = dataclasses.field(repr=False)
    token: bytes = dataclasses.field(default=b"", repr=False)
    term: int = 1
    timing: Timing = Timing()
    groups: Mapping[str, Group] = dataclasses.field(default_factory=dict)
    routes: Mapping[bytes, tuple[str, uuid.UUID]] = dataclasses.field(default_factory=dict)
    challenges: Mapping[bytes, Challenged] = dataclasses.field(default_factory=dict)
    departed: Mapping[tuple[str, uuid.UUID], Departure] = dataclasses.field(default_factory=dict)
    refused: Mapping[str, int] = dataclasses.field(default_factory=dict)
    counter: int = 0
    ticked: float | None = None
    force: bool = False
    plans: tuple[Choice, ...] = ()
    levels: tuple[LevelChoice, ...] = ()


# ---- events -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Received:
    """A well-formed message came over connection ``route``."""

    route: bytes
    message: Message


@dataclasses.dataclass(frozen=True)
class ReceivedOtherVersion:
    """Somebody who speaks versions ``low`` to ``high`` only."""

    route: bytes
    low: int
    high: int


@dataclasses.dataclass(frozen=True)
class Refused:
    """The shell refused ``count`` pieces of traffic for ``reason``."""

    reason: str
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Tick:
    """Time has passed; comes several times a second."""


Event = Received | ReceivedOtherVersion | Refused | Tick


@dataclasses.dataclass(frozen=True)
class Send:
    """Send ``message`` over connection ``route``, if it still exists."""

    route: bytes
    message: Message


@dataclasses.dataclass(frozen=True)
class Decision:
    """What follows from one event. ``reason`` says why, for people ("" if nothing changed)."""

    state: CoordinatorState
    actions: tuple[Send, ...]
    reason: str


def prove(token: bytes, nonce: bytes, who: uuid.UUID) -> bytes:
    """The proof that ``who`` knows the token, for one challenge: HMAC-SHA256 (RFC 2104)."""
    return hmac.digest(token, b"collectives control 1" + nonce + who.bytes, hashlib.sha256)
