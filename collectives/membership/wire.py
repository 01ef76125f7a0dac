"""What all messages have in common: their bounds, and the shapes of their fields.

Every bound is checked on both sides (``codec``): nothing that comes from outside is longer, larger
or other than what is said here.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any, ClassVar

from collectives.membership.fields import Bytes, Field, Flag, Int, ListOf, Record, Text, Uuid
from collectives.membership.view import Choice, LevelChoice, Peer, View

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
MAX_LEVELS = 8
MAX_CHOICES = 256
MAX_TO_PEER = 4 * 1024 * 1024

U64 = Int()
U32 = Int(0, 2**32 - 1)
VERSION = Int(0, 2**16 - 1)
NAME = Text(MAX_NAME, empty=False)
TEXT = Text(MAX_TEXT)
ADDRESSES = ListOf(Text(MAX_ADDRESS, empty=False), MAX_ADDRESSES)
NAMES = ListOf(NAME, MAX_PEERS)
PEER = Record(
    (Uuid(), NAME, ADDRESSES, Text(MAX_NAME), Text(MAX_PROCESS), Text(MAX_NAME), Flag()),
    take=lambda peer: (
        peer.id,
        peer.name,
        peer.addresses,
        peer.unit,
        peer.process,
        peer.site,
        peer.tunes,
    ),
    build=Peer,
    required=4,
)
RANKS = ListOf(Int(0, MAX_PEERS - 1), MAX_PEERS)
PLACES = ListOf(RANKS, MAX_LEVELS)
"""Of each level the group that each rank is in; there are no more groups than ranks."""
CHOICE = Record(
    (NAME, U64, NAME), take=lambda row: (row.kind, row.bytes, row.algorithm), build=Choice
)
TABLE = ListOf(CHOICE, MAX_CHOICES)
LEVEL = Record(
    (NAME, NAME, NAME),
    take=lambda level: (level.plan, level.transport, level.codec),
    build=LevelChoice,
)
LEVELS = ListOf(LEVEL, MAX_LEVELS + 1)
VIEW = Record(
    (NAME, U32, U64, U64, ListOf(PEER, MAX_PEERS), Bytes(32, 32), U64, PLACES, TABLE, LEVELS),
    take=lambda view: (
        view.group,
        view.group_id,
        view.term,
        view.number,
        view.peers,
        view.key,
        view.first_operation,
        view.places,
        view.table,
        view.levels,
    ),
    build=View,
    required=7,
)
PEERS = ListOf(Uuid(), MAX_PEERS)
EPOCH = Bytes(32, 32)
PAIR = Record((Uuid(), TEXT), take=tuple, build=lambda peer, text: (peer, text))

NO_RUN = uuid.UUID(int=0)

_MISSING: Any = dataclasses.MISSING


def wire_field(field: Field, default: Any = _MISSING) -> Any:
    """A dataclass's field that travels as ``field``; one with a default need not be sent."""
    if default is _MISSING:
        return dataclasses.field(metadata={"wire": field})
    return dataclasses.field(default=default, metadata={"wire": field})


class Message:
    """Base of all messages. ``kind`` is the name on the wire."""

    kind: ClassVar[str]


@dataclasses.dataclass(frozen=True)
class OfGroup(Message):
    """A message about a group, by the id that frames carry too."""

    group_id: int = wire_field(U32)


@dataclasses.dataclass(frozen=True)
class OfView(OfGroup):
    """A message about one view of a group, committed or in preparation."""

    term: int = wire_field(U64)
    number: int = wire_field(U64)


def clip(text: str, limit: int = MAX_TEXT) -> str:
    """A text made fit for a message: one line, no control characters, at most ``limit`` bytes."""
    flat = "".join(" " if ord(c) < 32 or ord(c) == 127 else c for c in text)
    # Surrogates, from file names for example, have no UTF-8 form; they become question marks.
    return flat.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")
