# ruff: noqa: RUF009  (_wire makes a dataclasses.field)
"""Every message of the control plane, and their wire form.

A message is a msgpack map ``{"p": [low, high], "k": kind, "b": {field: value}}``. This envelope
never changes: ``p`` is the range of protocol versions that the sender speaks, so that two sides
of any age can tell each other that they have none in common. Fields that a receiver does not
know are ignored; fields that it misses take their default or make the message malformed.
Nothing here knows what a message means; that is ``coordinator`` and ``peer``.

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
from typing import Any, ClassVar, cast

import msgpack  # type: ignore[import-untyped,unused-ignore]

from collectives.membership.fields import (
    Bytes,
    Field,
    Flag,
    Int,
    ListOf,
    MalformedError,
    Record,
    Text,
    Uuid,
)
from collectives.membership.view import Peer, View

VERSIONS = (1, 1)
"""Lowest and highest protocol version that this build speaks."""
FEATURES = 0
"""Bits of optional features of this build; a run uses those that both sides have."""

MAX_PEERS = 1024
MAX_NAME = 63
SHOWN = 32
"""How many of those waited for a message names; who wants them all asks for the status."""
MAX_ADDRESSES = 16
MAX_ADDRESS = 128
MAX_TEXT = 512
MAX_REPORT = 1024 * 1024
MAX_TO_COORDINATOR = MAX_REPORT + 64 * 1024
MAX_RECALLED = 256 * 1024
MAX_PROCESS = 127
MAX_TO_PEER = 4 * 1024 * 1024

_U64 = Int()
_U32 = Int(0, 2**32 - 1)
_VERSION = Int(0, 2**16 - 1)
_NAME = Text(MAX_NAME, empty=False)
_TEXT = Text(MAX_TEXT)
_ADDRESSES = ListOf(Text(MAX_ADDRESS, empty=False), MAX_ADDRESSES)
_NAMES = ListOf(_NAME, MAX_PEERS)
_PEER = Record(
    (Uuid(), _NAME, _ADDRESSES, Text(MAX_NAME), Text(MAX_PROCESS)),
    take=lambda peer: (peer.id, peer.name, peer.addresses, peer.unit, peer.process),
    build=Peer,
    required=4,
)
_VIEW = Record(
    (_NAME, _U32, _U64, _U64, ListOf(_PEER, MAX_PEERS), Bytes(32, 32), _U64),
    take=lambda view: (
        view.group,
        view.group_id,
        view.term,
        view.number,
        view.peers,
        view.key,
        view.first_operation,
    ),
    build=View,
)
_PEERS = ListOf(Uuid(), MAX_PEERS)
_EPOCH = Bytes(32, 32)
_PAIR = Record((Uuid(), _TEXT), take=tuple, build=lambda peer, text: (peer, text))

NO_RUN = uuid.UUID(int=0)


class OtherVersionError(MalformedError):
    """A well-formed envelope from a side that speaks none of our versions."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__(f"speaks protocol versions {low} to {high}")
        self.low = low
        self.high = high


class UnknownKindError(MalformedError):
    """A kind of message that this build does not know."""


_MISSING: Any = dataclasses.MISSING


def _wire(field: Field, default: Any = _MISSING) -> Any:
    if default is _MISSING:
        return dataclasses.field(metadata={"wire": field})
    return dataclasses.field(default=default, metadata={"wire": field})


class Message:
    """Base of all messages. ``kind`` is the name on the wire."""

    kind: ClassVar[str]


def _register(cls: type[Message]) -> None:
    _KINDS[cls.kind] = (
        cls,
        tuple(
            (field.name, field.metadata["wire"], field.default is not _MISSING)
            for field in dataclasses.fields(cast(Any, cls))
        ),
    )


_KINDS: dict[str, tuple[type[Message], tuple[tuple[str, Field, bool], ...]]] = {}


# ---- from a peer to the coordinator ----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Hello(Message):
    """Who a peer is and what it wants.

    Also how it introduces itself again after a lost connection; ``run``, ``term`` and ``number``
    then say where it stands. ``visits``: it wants to visit the members, and not to be admitted
    before its Alive says ``filled``.
    """

    kind: ClassVar[str] = "hello"
    peer: uuid.UUID = _wire(Uuid())
    group: str = _wire(_NAME)
    name: str = _wire(_NAME)
    addresses: tuple[str, ...] = _wire(_ADDRESSES)
    min_size: int = _wire(Int(1, MAX_PEERS))
    unit: str = _wire(Text(MAX_NAME), "")
    low: int = _wire(_VERSION, VERSIONS[0])
    high: int = _wire(_VERSION, VERSIONS[1])
    features: int = _wire(_U64, 0)
    run: uuid.UUID = _wire(Uuid(), NO_RUN)
    term: int = _wire(_U64, 0)
    number: int = _wire(_U64, 0)
    process: str = _wire(Text(MAX_PROCESS), "")
    visits: bool = _wire(Flag(), False)


@dataclasses.dataclass(frozen=True)
class Proof(Message):
    """The answer to a challenge: HMAC-SHA256 with the run's token.

    ``nonce`` is the challenge's, so that an answer to a coordinator that is no more is not taken
    for a wrong one by its successor.
    """

    kind: ClassVar[str] = "proof"
    mac: bytes = _wire(Bytes(32, 32))
    nonce: bytes = _wire(Bytes(0, 32), b"")


@dataclasses.dataclass(frozen=True)
class Alive(Message):
    """Where the peer stands.

    The term and number of its committed view, the number of its prepared view (0: none), whether
    the committed one is sealed, the number of the visit that it knows of (0: none), and whether it
    has fetched what it wanted to before its admission.
    """

    kind: ClassVar[str] = "alive"
    group_id: int = _wire(_U32)
    term: int = _wire(_U64)
    number: int = _wire(_U64)
    prepared: int = _wire(_U64, 0)
    sealed: bool = _wire(Flag(), False)
    visit: int = _wire(_U64, 0)
    filled: bool = _wire(Flag(), False)


@dataclasses.dataclass(frozen=True)
class Prepared(Message):
    """Links to all peers of the view in preparation are up."""

    kind: ClassVar[str] = "prepared"
    group_id: int = _wire(_U32)
    term: int = _wire(_U64)
    number: int = _wire(_U64)


@dataclasses.dataclass(frozen=True)
class Unreachable(Message):
    """Peers of the view in preparation to which there is no link yet, with what was tried.

    The complete list; it replaces what was said before.
    """

    kind: ClassVar[str] = "unreachable"
    group_id: int = _wire(_U32)
    term: int = _wire(_U64)
    number: int = _wire(_U64)
    pairs: tuple[tuple[uuid.UUID, str], ...] = _wire(ListOf(_PAIR, MAX_PEERS))


@dataclasses.dataclass(frozen=True)
class SyncReached(Message):
    """The peer's program is in its ``sync``-th sync since the last commit."""

    kind: ClassVar[str] = "sync_reached"
    group_id: int = _wire(_U32)
    term: int = _wire(_U64)
    number: int = _wire(_U64)
    sync: int = _wire(_U64)
    last_operation: int = _wire(Int(0, 2**63 - 1))


@dataclasses.dataclass(frozen=True)
class Suspect(Message):
    """Evidence that another member of the committed view is dead, and how good it is.

    ``certain`` is that of ``plane.PeerSuspected``.
    """

    kind: ClassVar[str] = "suspect"
    group_id: int = _wire(_U32)
    term: int = _wire(_U64)
    number: int = _wire(_U64)
    peer: uuid.UUID = _wire(Uuid())
    text: str = _wire(_TEXT)
    certain: int = _wire(Int(0, 2), 0)


@dataclasses.dataclass(frozen=True)
class Veto(Message):
    """An operation of the committed view wants to end with an error; its report says which."""

    kind: ClassVar[str] = "veto"
    group_id: int = _wire(_U32)
    term: int = _wire(_U64)
    number: int = _wire(_U64)
    text: str = _wire(_TEXT)


@dataclasses.dataclass(frozen=True)
class Report(Message):
    """A sealed peer's report (``report.decode_report``), its own or one that was passed on."""

    kind: ClassVar[str] = "report"
    group_id: int = _wire(_U32)
    data: bytes = _wire(Bytes(0, MAX_REPORT))


@dataclasses.dataclass(frozen=True)
class Taken(Message):
    """A peer that was reached through another has taken the verdict of this round."""

    kind: ClassVar[str] = "taken"
    group_id: int = _wire(_U32)
    epoch: bytes = _wire(_EPOCH)
    peer: uuid.UUID = _wire(Uuid())


@dataclasses.dataclass(frozen=True)
class Leave(Message):
    """The peer goes, by its own will; or (``aborted``) its program failed and it says so."""

    kind: ClassVar[str] = "leave"
    group_id: int = _wire(_U32)
    text: str = _wire(_TEXT, "")
    aborted: bool = _wire(Flag(), False)


@dataclasses.dataclass(frozen=True)
class Recollect(Message):
    """All that a member knows of its run, for a coordinator that knows nothing of it.

    The highest term that it heard of, its committed view, the number of that view's next (or
    pending) sync, and the view that it has connected for and that may be committed elsewhere
    already (0: none). If a verdict made its view: the verdict and the view that was judged (empty
    if it is too long to be sent), since others may be waiting for it, sealed in that view.
    """

    kind: ClassVar[str] = "recollect"
    peer: uuid.UUID = _wire(Uuid())
    run: uuid.UUID = _wire(Uuid())
    term: int = _wire(_U64)
    view: View = _wire(_VIEW)
    sync: int = _wire(_U64)
    prepared_term: int = _wire(_U64, 0)
    prepared: int = _wire(_U64, 0)
    verdict: bytes = _wire(Bytes(0, MAX_RECALLED), b"")
    judged_term: int = _wire(_U64, 0)
    judged: int = _wire(_U64, 0)


@dataclasses.dataclass(frozen=True)
class StatusQuery(Message):
    """Somebody, not necessarily a peer, wants to know how the run is."""

    kind: ClassVar[str] = "status_query"
    client: uuid.UUID = _wire(Uuid())
    low: int = _wire(_VERSION, VERSIONS[0])
    high: int = _wire(_VERSION, VERSIONS[1])


# ---- from the coordinator to a peer -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Challenge(Message):
    """Prove that you know the run's token."""

    kind: ClassVar[str] = "challenge"
    nonce: bytes = _wire(Bytes(32, 32))


@dataclasses.dataclass(frozen=True)
class Denied(Message):
    """The proof was wrong or missing."""

    kind: ClassVar[str] = "denied"
    text: str = _wire(_TEXT)


@dataclasses.dataclass(frozen=True)
class Skew(Message):
    """There is no protocol version that both sides speak."""

    kind: ClassVar[str] = "skew"
    low: int = _wire(_VERSION)
    high: int = _wire(_VERSION)


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
    run: uuid.UUID = _wire(Uuid())
    text: str = _wire(_TEXT)


@dataclasses.dataclass(frozen=True)
class Welcome(Message):
    """The Hello was accepted; what was agreed, and the name that the peer has in the run."""

    kind: ClassVar[str] = "welcome"
    run: uuid.UUID = _wire(Uuid())
    term: int = _wire(_U64)
    group_id: int = _wire(_U32)
    name: str = _wire(_NAME)
    version: int = _wire(_VERSION)
    features: int = _wire(_U64, 0)


@dataclasses.dataclass(frozen=True)
class Waiting(Message):
    """Why there is no view with this peer yet.

    How many more peers the group needs (0: the members' next sync admits it), and who is there.
    """

    kind: ClassVar[str] = "waiting"
    missing: int = _wire(Int(0, MAX_PEERS))
    present: tuple[str, ...] = _wire(_NAMES)
    text: str = _wire(_TEXT)


@dataclasses.dataclass(frozen=True)
class Prepare(Message):
    """Connect to the peers of this coming view and say Prepared or Unreachable."""

    kind: ClassVar[str] = "prepare"
    view: View = _wire(_VIEW)


@dataclasses.dataclass(frozen=True)
class Abandon(Message):
    """The view in preparation, of this term or an older one, will not come; forget it."""

    kind: ClassVar[str] = "abandon"
    group_id: int = _wire(_U32)
    term: int = _wire(_U64)
    number: int = _wire(_U64)


@dataclasses.dataclass(frozen=True)
class Commit(Message):
    """The prepared view is the group's view now."""

    kind: ClassVar[str] = "commit"
    group_id: int = _wire(_U32)
    term: int = _wire(_U64)
    number: int = _wire(_U64)
    first_operation: int = _wire(_U64)


@dataclasses.dataclass(frozen=True)
class Visit(Message):
    """Have links to these peers outside any view; it replaces the visit before it.

    Hosts (the members) are told of all guests, a guest of all hosts. No peers: it is over.
    """

    kind: ClassVar[str] = "visit"
    view: View = _wire(_VIEW)


@dataclasses.dataclass(frozen=True)
class SyncDone(Message):
    """The ``sync``-th sync since the last commit ended in this view, which stays."""

    kind: ClassVar[str] = "sync_done"
    group_id: int = _wire(_U32)
    term: int = _wire(_U64)
    number: int = _wire(_U64)
    sync: int = _wire(_U64)


@dataclasses.dataclass(frozen=True)
class SyncWaiting(Message):
    """Who has not reached the sync yet, and how many peers the group lacks."""

    kind: ClassVar[str] = "sync_waiting"
    group_id: int = _wire(_U32)
    term: int = _wire(_U64)
    number: int = _wire(_U64)
    absent: tuple[str, ...] = _wire(_NAMES)
    missing: int = _wire(Int(0, MAX_PEERS), 0)


@dataclasses.dataclass(frozen=True)
class Check(Message):
    """Somebody suspects you: say Alive."""

    kind: ClassVar[str] = "check"


@dataclasses.dataclass(frozen=True)
class Seal(Message):
    """A round was opened: seal the view and report.

    ``relay``: members that do not hear the coordinator; pass it on to them.
    """

    kind: ClassVar[str] = "seal"
    group_id: int = _wire(_U32)
    term: int = _wire(_U64)
    number: int = _wire(_U64)
    epoch: bytes = _wire(_EPOCH)
    relay: tuple[uuid.UUID, ...] = _wire(_PEERS, ())


@dataclasses.dataclass(frozen=True)
class Verdict(Message):
    """The verdict of a round about view ``number`` (``report.encode_verdict``), and its view.

    ``relay``: as in Seal.
    """

    kind: ClassVar[str] = "verdict"
    group_id: int = _wire(_U32)
    term: int = _wire(_U64)
    number: int = _wire(_U64)
    view: View = _wire(_VIEW)
    data: bytes = _wire(Bytes(0, MAX_REPORT))
    text: str = _wire(_TEXT, "")
    relay: tuple[uuid.UUID, ...] = _wire(_PEERS, ())


@dataclasses.dataclass(frozen=True)
class Evicted(Message):
    """This peer is out of the run, or was not let in (``admitted`` false).

    ``run`` is set if it is the coordinator of another run that says so.
    """

    kind: ClassVar[str] = "evicted"
    text: str = _wire(_TEXT)
    admitted: bool = _wire(Flag(), True)
    run: uuid.UUID = _wire(Uuid(), NO_RUN)


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
    json: bytes = _wire(Bytes(0, MAX_TO_PEER - 256))


for _cls in Message.__subclasses__():
    _register(_cls)


def encode(message: Message, *, versions: tuple[int, int] = VERSIONS) -> bytes:
    """The wire form of a message.

    Raises:
        MalformedError: a field is out of its bounds; the text names it.
    """
    _, fields = _KINDS[message.kind]
    body = {}
    for name, field, _ in fields:
        try:
            body[name] = field.encode(getattr(message, name))
        except MalformedError as error:
            raise MalformedError(f"{message.kind}.{name} {error}") from None
    envelope = {"p": list(versions), "k": message.kind, "b": body}
    return cast(bytes, msgpack.packb(envelope, use_bin_type=True))


def decode(
    data: bytes, *, limit: int = MAX_TO_PEER, versions: tuple[int, int] = VERSIONS
) -> Message:
    """The message in ``data``, every field checked.

    Raises:
        OtherVersionError: the sender speaks none of ``versions``; carries the range it speaks.
        UnknownKindError: well-formed, but no kind of message that this build knows.
        MalformedError: anything else that is wrong; the text says what.
    """
    if len(data) > limit:
        raise MalformedError(f"the message has {len(data)} bytes, more than {limit}")
    try:
        envelope = msgpack.unpackb(data, raw=False, use_list=True, strict_map_key=True)
    except Exception as error:  # msgpack documents no complete list of what bad input raises
        raise MalformedError(f"not msgpack: {type(error).__name__}") from None
    if type(envelope) is not dict:
        raise MalformedError("the envelope is not a map")
    try:
        low, high = ListOf(_VERSION, 2).decode(envelope.get("p"))
    except (MalformedError, ValueError):
        raise MalformedError("the envelope has no version range") from None
    if low > high:
        raise MalformedError("the version range is empty")
    if high < versions[0] or low > versions[1]:
        raise OtherVersionError(low, high)
    kind, body = envelope.get("k"), envelope.get("b")
    if type(kind) is not str or type(body) is not dict:
        raise MalformedError("the envelope has no kind or no body")
    if kind not in _KINDS:
        raise UnknownKindError(f"unknown kind {kind[:40]!r}")
    cls, fields = _KINDS[kind]
    values: dict[str, Any] = {}
    for name, field, has_default in fields:
        if name not in body:
            if has_default:
                continue
            raise MalformedError(f"{kind}.{name} is missing")
        try:
            values[name] = field.decode(body[name])
        except MalformedError as error:
            raise MalformedError(f"{kind}.{name} {error}") from None
    return cls(**values)


def clip(text: str, limit: int = MAX_TEXT) -> str:
    """A text made fit for a message: one line, no control characters, at most ``limit`` bytes."""
    flat = "".join(" " if ord(c) < 32 or ord(c) == 127 else c for c in text)
    # Surrogates, from file names for example, have no UTF-8 form; they become question marks.
    return flat.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")
