"""What peers and the coordinator tell each other in a round: reports and verdicts.

Plain immutable data and its wire form, which the C core reads and writes, too
(``native/wire/round.h`` has the table). All integers are little-endian.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
import uuid
from collections.abc import Mapping

from collectives.membership.fields import MalformedError

NONE = 2**32 - 1
"""As a rank: none."""
MAX_ENTRIES = 20_000
MAX_TEXT = 1024
EPOCH_BYTES = 32


class Standing(enum.IntEnum):
    """Where an operation stands at a sealed peer; ``enum coll__phase`` of ``engine/agree.h``."""

    ABSENT = 0
    RUNNING = 1
    COMPLETE = 2
    SETTLED = 3
    AWAITING = 4


@dataclasses.dataclass(frozen=True, order=True)
class Epoch:
    """A round: of one coordinator (its term), about one view, the ``round``-th of that term."""

    term: int
    view_term: int
    view: int
    round: int


@dataclasses.dataclass(frozen=True)
class Pair:
    """What one peer sends to another with a tag.

    Attributes:
        sender: None: of receives from any that wait for one.
    """

    tag: int
    sender: uuid.UUID | None
    receiver: uuid.UUID


Order = int | Pair
"""In which operations are numbered: a tag, for what all members call together, or a pair's."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An operation that a peer has not settled, or whose result it retains.

    Attributes:
        tag: the order of its number; so it is in all that follows.
        retained: it counts as success where its result is held.
        repeatable: it may run again without those who went.
        root: the rank, in the sealed view, without which it cannot; None: there is none.
        idle: nothing is to come for it at this peer: that it is complete says nothing of
            the others.
    """

    tag: Order
    number: int
    standing: Standing
    retained: bool = False
    repeatable: bool = True
    root: int | None = None
    idle: bool = False


@dataclasses.dataclass(frozen=True)
class Veto:
    """A call wants to end with an error.

    Attributes:
        status: a ``COLL_`` status of the core.
        culprit: the rank, in the sealed view, that it is about; None: nobody in particular.
    """

    tag: Order
    number: int
    status: int
    culprit: int | None
    text: str


@dataclasses.dataclass(frozen=True)
class Report:
    """Where a sealed peer's operations stand.

    Attributes:
        settled: by order: every operation up to this number is settled there.
    """

    settled: Mapping[Order, int] = dataclasses.field(default_factory=dict)
    entries: tuple[Entry, ...] = ()
    vetoes: tuple[Veto, ...] = ()


@dataclasses.dataclass(frozen=True)
class Error:
    """What every operation raises that does not stand, until all members have called sync()."""

    status: int
    culprit: uuid.UUID | None
    text: str


@dataclasses.dataclass(frozen=True)
class Stand:
    """An operation that stands; ``supplier`` holds its result and sends it to who lacks it."""

    tag: Order
    number: int
    supplier: uuid.UUID | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What becomes of the outstanding operations.

    Those named stand; all others raise ``error``, or are repeated if there is none.
    """

    stands: tuple[Stand, ...] = ()
    error: Error | None = None


# ---- wire form --------------------------------------------------------------------------------

_EPOCH = struct.Struct("<QQQQ")
_COUNT = struct.Struct("<I")
_ORDER = struct.Struct("<II16sQ")
_ENTRY = struct.Struct("<IQBBHI")
_VETO = struct.Struct("<IQIII")
_STAND = struct.Struct("<IQIII")
_VIEW = struct.Struct("<QQ32s")
_ERROR = struct.Struct("<I16sI")
_RETAINED, _REPEATABLE, _IDLE = 1, 2, 4
_TOGETHER, _SENDING, _RECEIVING = 0, 1, 2
_NOBODY = bytes(16)
_FIRST_ERROR = 2  # below it are COLL_OK and COLL_IN_PROGRESS


def encode_epoch(epoch: Epoch) -> bytes:
    """The 32 bytes that name a round."""
    return _EPOCH.pack(*dataclasses.astuple(epoch))


def decode_epoch(data: bytes) -> Epoch:
    """The inverse of ``encode_epoch``."""
    return Epoch(*_EPOCH.unpack(data))


class _Reader:
    """Takes what is there and refuses what is not."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, form: struct.Struct) -> tuple[int, ...]:
        self.need(form.size)
        found = form.unpack_from(self.data, self.at)
        self.at += form.size
        return found

    def need(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise MalformedError("ends too early")

    def count(self) -> int:
        (count,) = self.take(_COUNT)
        if count > MAX_ENTRIES:
            raise MalformedError(f"has {count} entries, more than {MAX_ENTRIES}")
        return count

    def text(self, length: int) -> str:
        if length > MAX_TEXT or self.at + length > len(self.data):
            raise MalformedError("has a text that is too long")
        found = self.data[self.at : self.at + length].decode("utf-8", "replace")
        self.at += length
        return found


def decode_report(data: bytes) -> tuple[Epoch, uuid.UUID, Report]:
    """The epoch, the peer and the report that the core has written.

    Raises:
        MalformedError: it makes no sense; the text says what.
    """
    reader = _Reader(data)
    epoch = Epoch(*reader.take(_EPOCH))
    reader.need(16)
    peer = uuid.UUID(bytes=data[reader.at : reader.at + 16])
    reader.at += 16
    settled: dict[Order, int] = {}
    orders: list[Order] = []
    for _ in range(reader.count()):
        reader.need(_ORDER.size)
        tag, role, other, number = _ORDER.unpack_from(data, reader.at)
        reader.at += _ORDER.size
        orders.append(_order(tag, role, other, peer))
        settled[orders[-1]] = number

    def known(place: int) -> Order:
        if place >= len(orders):
            raise MalformedError(f"has order {place} of {len(orders)}")
        return orders[place]

    entries = []
    for _ in range(reader.count()):
        place, number, standing, flags, _, root = reader.take(_ENTRY)
        if standing not in Standing.__members__.values():
            raise MalformedError(f"has an operation that is {standing}")
        entries.append(
            Entry(
                known(place),
                number,
                Standing(standing),
                bool(flags & _RETAINED),
                bool(flags & _REPEATABLE),
                None if root == NONE else root,
                bool(flags & _IDLE),
            )
        )
    vetoes = []
    for _ in range(reader.count()):
        place, number, status, culprit, length = reader.take(_VETO)
        if status < _FIRST_ERROR:
            raise MalformedError(f"has a veto with status {status}, which is no error")
        text = reader.text(length)
        whose = None if culprit == NONE else culprit
        vetoes.append(Veto(known(place), number, status, whose, text))
    if reader.at != len(data):
        raise MalformedError("has bytes left over")
    return epoch, peer, Report(settled, tuple(entries), tuple(vetoes))


def _order(tag: int, role: int, other: bytes, peer: uuid.UUID) -> Order:
    if role == _TOGETHER:
        return tag
    named = None if other == _NOBODY else uuid.UUID(bytes=other)
    if role == _SENDING and named is not None:
        return Pair(tag, peer, named)
    if role == _RECEIVING:
        return Pair(tag, named, peer)
    raise MalformedError(f"has an order in which its peer has role {role}")


def encode_report(epoch: Epoch, peer: uuid.UUID, report: Report) -> bytes:
    """The inverse of ``decode_report``; for simulations."""
    settled: dict[Order, int] = {entry.tag: 0 for entry in report.entries}
    settled |= {veto.tag: 0 for veto in report.vetoes}
    settled |= report.settled
    places = {order: place for place, order in enumerate(settled)}
    parts = [encode_epoch(epoch), peer.bytes, _COUNT.pack(len(settled))]
    for order, number in settled.items():
        if isinstance(order, int):
            parts.append(_ORDER.pack(order, _TOGETHER, _NOBODY, number))
            continue
        role = _SENDING if order.sender == peer else _RECEIVING
        other = order.receiver if role == _SENDING else order.sender
        parts.append(_ORDER.pack(order.tag, role, other.bytes if other else _NOBODY, number))
    parts.append(_COUNT.pack(len(report.entries)))
    for entry in report.entries:
        flags = entry.retained * _RETAINED + entry.repeatable * _REPEATABLE + entry.idle * _IDLE
        root = NONE if entry.root is None else entry.root
        place = places[entry.tag]
        parts.append(_ENTRY.pack(place, entry.number, entry.standing, flags, 0, root))
    parts.append(_COUNT.pack(len(report.vetoes)))
    for veto in report.vetoes:
        text = veto.text.encode()[:MAX_TEXT]
        culprit = NONE if veto.culprit is None else veto.culprit
        place = places[veto.tag]
        parts.append(_VETO.pack(place, veto.number, veto.status, culprit, len(text)) + text)
    return b"".join(parts)


def decode_issued(data: bytes) -> tuple[Epoch, int, int, bytes, tuple[uuid.UUID, ...]]:
    """The round of a verdict, and the term, number, key and members of the view that it issues.

    Raises:
        MalformedError: it makes no sense; the text says what.
    """
    reader = _Reader(data)
    epoch = Epoch(*reader.take(_EPOCH))
    reader.need(_VIEW.size)
    term, number, key = _VIEW.unpack_from(data, reader.at)
    reader.at += _VIEW.size
    count = reader.count()
    reader.need(16 * count)
    at = reader.at
    members = tuple(uuid.UUID(bytes=data[at + 16 * i : at + 16 * i + 16]) for i in range(count))
    return epoch, term, number, key, members


def encode_verdict(
    epoch: Epoch,
    verdict: Verdict,
    term: int,
    number: int,
    key: bytes,
    members: tuple[uuid.UUID, ...],
) -> bytes:
    """The verdict of a round for the core.

    With the term, number, key and members (by rank) of the view that it issues.
    """
    parts = [encode_epoch(epoch), _VIEW.pack(term, number, key)]
    parts.append(_COUNT.pack(len(members)))
    parts += [member.bytes for member in members]
    parts.append(_COUNT.pack(len(verdict.stands)))
    for stand in verdict.stands:
        supplier = NONE if stand.supplier is None else members.index(stand.supplier)
        tag, sender, receiver = stand.tag, NONE, NONE
        if isinstance(tag, Pair):
            assert tag.sender is not None  # what has no sender stands nowhere
            sender, receiver = members.index(tag.sender), members.index(tag.receiver)
            tag = tag.tag
        parts.append(_STAND.pack(tag, stand.number, supplier, sender, receiver))
    error = verdict.error
    text = b"" if error is None else error.text.encode()[:MAX_TEXT]
    culprit = b"\0" * 16 if error is None or error.culprit is None else error.culprit.bytes
    parts.append(_ERROR.pack(0 if error is None else error.status, culprit, len(text)) + text)
    return b"".join(parts)
