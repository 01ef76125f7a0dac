# ruff: noqa: RUF009  (wire_field makes a dataclasses.field)
"""Every message of the control plane.

Their bounds and shapes are in ``wire``, their form as bytes in ``codec``. Nothing here knows what a
message means; that is ``coordinator`` and ``peer``.

A peer's life on the wire::

    peer                            coordinator
      Hello             ──────►
                        ◄──────     Challenge            (only if a token is set)
      Proof             ──────►
                        ◄──────     Welcome, Waiting     (whenever it changes)
                        ◄──────     Visit                (who fetches before its admission)
                        ◄──────     Prepare              a coming view, with its key
      Prepared          ──────►                          or Unreachable, once a second
                        ◄──────     Commit
      SyncReached       ──────►
                        ◄──────     SyncWaiting ... SyncDone, or Prepare ... Commit
      Suspect, Veto     ──────►
                        ◄──────     Check                (to the suspected: are you there?)
                        ◄──────     Seal                 to every member: a round
      Report            ──────►
                        ◄──────     Verdict              and the view that it issues
      Leave             ──────►
                        ◄──────     LeaveDone

    with a coordinator that has lost its memory:

      Hello             ──────►
                        ◄──────     Recall
      Recollect         ──────►
                        ◄──────     Identify             once enough members have said so

Requests are sent again until they are answered, and every one of them may be repeated without
harm. ``Alive`` says where a peer stands; the coordinator answers with what the peer missed.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import ClassVar

from collectives.membership.fields import Bytes, Flag, Int, ListOf, Text, Uuid
from collectives.membership.view import Choice, LevelChoice, View
from collectives.membership.wire import (
    ADDRESSES,
    EPOCH,
    LEVELS,
    MAX_NAME,
    MAX_PEERS,
    MAX_PROCESS,
    MAX_RECALLED,
    MAX_REPORT,
    MAX_TO_PEER,
    NAME,
    NAMES,
    NO_RUN,
    PAIR,
    PEERS,
    PLACES,
    RANKS,
    TABLE,
    TEXT,
    U32,
    U64,
    VERSION,
    VERSIONS,
    VIEW,
    Message,
    OfGroup,
    OfView,
    wire_field,
)

# ---- from a peer to the coordinator ----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Hello(Message):
    """Who a peer is and what it wants.

    Also how it introduces itself again after a lost connection; ``run``, ``term`` and ``number``
    then say where it stands. ``visits``: it wants to visit the members, and not to be admitted
    before its Alive says ``filled``. ``among``: who are to form the group's first view together,
    in the order of their ranks; empty: whoever comes.
    """

    kind: ClassVar[str] = "hello"
    peer: uuid.UUID = wire_field(Uuid())
    group: str = wire_field(NAME)
    name: str = wire_field(NAME)
    addresses: tuple[str, ...] = wire_field(ADDRESSES)
    min_size: int = wire_field(Int(1, MAX_PEERS))
    unit: str = wire_field(Text(MAX_NAME), "")
    low: int = wire_field(VERSION, VERSIONS[0])
    high: int = wire_field(VERSION, VERSIONS[1])
    features: int = wire_field(U64, 0)
    run: uuid.UUID = wire_field(Uuid(), NO_RUN)
    term: int = wire_field(U64, 0)
    number: int = wire_field(U64, 0)
    process: str = wire_field(Text(MAX_PROCESS), "")
    visits: bool = wire_field(Flag(), False)
    site: str = wire_field(Text(MAX_NAME), "")
    tunes: bool = wire_field(Flag(), False)
    among: tuple[uuid.UUID, ...] = wire_field(PEERS, ())


@dataclasses.dataclass(frozen=True)
class Proof(Message):
    """The answer to a challenge: HMAC-SHA256 with the run's token.

    ``nonce`` is the challenge's, so that an answer to a coordinator that is no more is not taken
    for a wrong one by its successor.
    """

    kind: ClassVar[str] = "proof"
    mac: bytes = wire_field(Bytes(32, 32))
    nonce: bytes = wire_field(Bytes(0, 32), b"")


@dataclasses.dataclass(frozen=True)
class Alive(OfView):
    """Where the peer stands.

    The term and number of its committed view, the number of its prepared view (0: none), whether
    the committed one is sealed, the number of the visit that it knows of (0: none), and whether it
    has fetched what it wanted to before its admission.
    """

    kind: ClassVar[str] = "alive"
    prepared: int = wire_field(U64, 0)
    sealed: bool = wire_field(Flag(), False)
    visit: int = wire_field(U64, 0)
    filled: bool = wire_field(Flag(), False)


@dataclasses.dataclass(frozen=True)
class Prepared(OfView):
    """Links to all peers of the view in preparation are up.

    ``nearby``: as in ``plane.ViewReady``; empty: it knows nothing of places.
    """

    kind: ClassVar[str] = "prepared"
    nearby: tuple[int, ...] = wire_field(RANKS, ())


@dataclasses.dataclass(frozen=True)
class Unreachable(OfView):
    """Peers of the view in preparation to which there is no link yet, with what was tried.

    The complete list; it replaces what was said before.
    """

    kind: ClassVar[str] = "unreachable"
    pairs: tuple[tuple[uuid.UUID, str], ...] = wire_field(ListOf(PAIR, MAX_PEERS))


@dataclasses.dataclass(frozen=True)
class SyncReached(OfView):
    """The peer's program is in its ``sync``-th sync since the last commit."""

    kind: ClassVar[str] = "sync_reached"
    sync: int = wire_field(U64)
    last_operation: int = wire_field(Int(0, 2**63 - 1))


@dataclasses.dataclass(frozen=True)
class Suspect(OfView):
    """Evidence that another member of the committed view is dead, and how good it is.

    ``certain`` is that of ``plane.PeerSuspected``.
    """

    kind: ClassVar[str] = "suspect"
    peer: uuid.UUID = wire_field(Uuid())
    text: str = wire_field(TEXT)
    certain: int = wire_field(Int(0, 2), 0)


@dataclasses.dataclass(frozen=True)
class Veto(OfView):
    """An operation of the committed view wants to end with an error; its report says which."""

    kind: ClassVar[str] = "veto"
    text: str = wire_field(TEXT)


@dataclasses.dataclass(frozen=True)
class Report(OfGroup):
    """A sealed peer's report (``report.decode_report``), its own or one that was passed on."""

    kind: ClassVar[str] = "report"
    data: bytes = wire_field(Bytes(0, MAX_REPORT))


@dataclasses.dataclass(frozen=True)
class Taken(OfGroup):
    """A peer that was reached through another has taken the verdict of this round."""

    kind: ClassVar[str] = "taken"
    epoch: bytes = wire_field(EPOCH)
    peer: uuid.UUID = wire_field(Uuid())


@dataclasses.dataclass(frozen=True)
class Leave(OfGroup):
    """The peer goes, by its own will; or (``aborted``) its program failed and it says so."""

    kind: ClassVar[str] = "leave"
    text: str = wire_field(TEXT, "")
    aborted: bool = wire_field(Flag(), False)


@dataclasses.dataclass(frozen=True)
class Recollect(Message):
    """All that a member knows of its run, for a coordinator that knows nothing of it.

    The highest term that it heard of, its committed view, the number of that view's next (or
    pending) sync, and the view that it has connected for and that may be committed elsewhere
    already (0: none). If a verdict made its view: the verdict and the view that was judged (empty
    if it is too long to be sent), since others may be waiting for it, sealed in that view.
    """

    kind: ClassVar[str] = "recollect"
    peer: uuid.UUID = wire_field(Uuid())
    run: uuid.UUID = wire_field(Uuid())
    term: int = wire_field(U64)
    view: View = wire_field(VIEW)
    sync: int = wire_field(U64)
    prepared_term: int = wire_field(U64, 0)
    prepared: int = wire_field(U64, 0)
    verdict: bytes = wire_field(Bytes(0, MAX_RECALLED), b"")
    judged_term: int = wire_field(U64, 0)
    judged: int = wire_field(U64, 0)


@dataclasses.dataclass(frozen=True)
class StatusQuery(Message):
    """Somebody, not necessarily a peer, wants to know how the run is."""

    kind: ClassVar[str] = "status_query"
    client: uuid.UUID = wire_field(Uuid())
    low: int = wire_field(VERSION, VERSIONS[0])
    high: int = wire_field(VERSION, VERSIONS[1])


# ---- from the coordinator to a peer -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Challenge(Message):
    """Prove that you know the run's token."""

    kind: ClassVar[str] = "challenge"
    nonce: bytes = wire_field(Bytes(32, 32))


@dataclasses.dataclass(frozen=True)
class Denied(Message):
    """The proof was wrong or missing."""

    kind: ClassVar[str] = "denied"
    text: str = wire_field(TEXT)


@dataclasses.dataclass(frozen=True)
class Skew(Message):
    """There is no protocol version that both sides speak."""

    kind: ClassVar[str] = "skew"
    low: int = wire_field(VERSION)
    high: int = wire_field(VERSION)


@dataclasses.dataclass(frozen=True)
class Identify(Message):
    """The coordinator does not know this connection: say Hello."""

    kind: ClassVar[str] = "identify"


@dataclasses.dataclass(frozen=True)
class Recall(Message):
    """The coordinator does not know the peer's run: say Recollect.

    ``text`` says what is still missing before the run can go on here; ``run`` is the
    coordinator's own.
    """

    kind: ClassVar[str] = "recall"
    run: uuid.UUID = wire_field(Uuid())
    text: str = wire_field(TEXT)


@dataclasses.dataclass(frozen=True)
class Welcome(Message):
    """The Hello was accepted; what was agreed, and the name that the peer has in the run."""

    kind: ClassVar[str] = "welcome"
    run: uuid.UUID = wire_field(Uuid())
    term: int = wire_field(U64)
    group_id: int = wire_field(U32)
    name: str = wire_field(NAME)
    version: int = wire_field(VERSION)
    features: int = wire_field(U64, 0)


@dataclasses.dataclass(frozen=True)
class Waiting(Message):
    """Why there is no view with this peer yet.

    How many more peers the group needs (0: the members' next sync admits it), and who is there.
    """

    kind: ClassVar[str] = "waiting"
    missing: int = wire_field(Int(0, MAX_PEERS))
    present: tuple[str, ...] = wire_field(NAMES)
    text: str = wire_field(TEXT)


@dataclasses.dataclass(frozen=True)
class Prepare(Message):
    """Connect to the peers of this coming view and say Prepared or Unreachable."""

    kind: ClassVar[str] = "prepare"
    view: View = wire_field(VIEW)


@dataclasses.dataclass(frozen=True)
class Abandon(OfView):
    """The view in preparation, of this term or an older one, will not come; forget it."""

    kind: ClassVar[str] = "abandon"


@dataclasses.dataclass(frozen=True)
class Commit(OfView):
    """The prepared view is the group's; ``places``, ``table``, ``levels`` are those of ``View``."""

    kind: ClassVar[str] = "commit"
    first_operation: int = wire_field(U64)
    places: tuple[tuple[int, ...], ...] = wire_field(PLACES, ())
    table: tuple[Choice, ...] = wire_field(TABLE, ())
    levels: tuple[LevelChoice, ...] = wire_field(LEVELS, ())


@dataclasses.dataclass(frozen=True)
class Visit(Message):
    """Have links to these peers outside any view; it replaces the visit before it.

    Hosts (the members) are told of all guests, a guest of all hosts. No peers: it is over.
    """

    kind: ClassVar[str] = "visit"
    view: View = wire_field(VIEW)


@dataclasses.dataclass(frozen=True)
class SyncDone(OfView):
    """The ``sync``-th sync since the last commit ended in this view, which stays."""

    kind: ClassVar[str] = "sync_done"
    sync: int = wire_field(U64)


@dataclasses.dataclass(frozen=True)
class SyncWaiting(OfView):
    """Who has not reached the sync yet, and how many peers the group lacks."""

    kind: ClassVar[str] = "sync_waiting"
    absent: tuple[str, ...] = wire_field(NAMES)
    missing: int = wire_field(Int(0, MAX_PEERS), 0)


@dataclasses.dataclass(frozen=True)
class Check(Message):
    """Somebody suspects you: say Alive."""

    kind: ClassVar[str] = "check"


@dataclasses.dataclass(frozen=True)
class Seal(OfView):
    """A round was opened: seal the view and report.

    ``relay``: members that do not hear the coordinator; pass it on to them.
    """

    kind: ClassVar[str] = "seal"
    epoch: bytes = wire_field(EPOCH)
    relay: tuple[uuid.UUID, ...] = wire_field(PEERS, ())


@dataclasses.dataclass(frozen=True)
class Verdict(OfView):
    """The verdict of a round about view ``number`` (``report.encode_verdict``), and its view.

    ``relay``: as in Seal.
    """

    kind: ClassVar[str] = "verdict"
    view: View = wire_field(VIEW)
    data: bytes = wire_field(Bytes(0, MAX_REPORT))
    text: str = wire_field(TEXT, "")
    relay: tuple[uuid.UUID, ...] = wire_field(PEERS, ())


@dataclasses.dataclass(frozen=True)
class Evicted(Message):
    """This peer is out of the run, or was not let in (``admitted`` false).

    ``run`` is set if it is the coordinator of another run that says so.
    """

    kind: ClassVar[str] = "evicted"
    text: str = wire_field(TEXT)
    admitted: bool = wire_field(Flag(), True)
    run: uuid.UUID = wire_field(Uuid(), NO_RUN)


@dataclasses.dataclass(frozen=True)
class LeaveDone(Message):
    """The peer is out, as it asked."""

    kind: ClassVar[str] = "leave_done"


@dataclasses.dataclass(frozen=True)
class Noted(Message):
    """Answer to what needs no other answer: the coordinator lives."""

    kind: ClassVar[str] = "noted"


@dataclasses.dataclass(frozen=True)
class StatusReply(Message):
    """The run's state as JSON (``status.snapshot``)."""

    kind: ClassVar[str] = "status_reply"
    json: bytes = wire_field(Bytes(0, MAX_TO_PEER - 256))
