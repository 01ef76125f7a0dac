"""How the members of a group agree on groups to be made of it: what ``Group.split`` exchanges.

Each contributes one record; who gets into which group follows from the records alone, so that it is
the same on all. The new groups come about like any other, by their members' asking the coordinator.
"""

from __future__ import annotations

import dataclasses
import operator
import os
import struct
import uuid

import numpy as np

from collectives import blocks
from collectives._native import lib
from collectives.blocks import Common
from collectives.errors import InvalidArgument, MismatchError
from collectives.issue import Issuer
from collectives.membership.wire import MAX_NAME

SPLIT = 2
"""The ``op`` of a ``COLL_SYNC`` that begins a split."""
MAX_LABEL = 24
"""Bytes of the name that a caller gives; before it is the parent's, behind it a number."""

_RECORD = struct.Struct("<16s?qq6s25p")


@dataclasses.dataclass(frozen=True)
class Part:
    """A group that is to be made.

    Attributes:
        group: its name in the run.
        members: by rank.
    """

    group: str
    members: tuple[uuid.UUID, ...]


@dataclasses.dataclass(frozen=True)
class Wish:
    """What one member passed to ``split``; ``nonce`` is random."""

    peer: uuid.UUID
    color: int | None
    key: int
    label: str
    nonce: bytes

    def encode(self) -> bytes:
        """As it travels."""
        color = self.color
        return _RECORD.pack(
            self.peer.bytes,
            color is not None,
            color or 0,
            self.key,
            self.nonce,
            self.label.encode(),
        )

    @staticmethod
    def decode(data: bytes) -> Wish:
        """The wish that ``data`` encodes."""
        peer, wants, color, key, nonce, label = _RECORD.unpack(data)
        return Wish(uuid.UUID(bytes=peer), color if wants else None, key, label.decode(), nonce)


def wish(peer: uuid.UUID, color: int | None, key: int, label: str | None) -> Wish:
    """What a member wants.

    Raises:
        InvalidArgument: an argument makes no sense.
    """
    label = label or ""
    if len(label.encode()) > MAX_LABEL or not label.isprintable():
        raise InvalidArgument(
            f"name is {label!r}; it has at most {MAX_LABEL} bytes and no control characters"
        )
    for what, value in (("color", color), ("key", key)):
        if value is not None and not -(2**63) <= operator.index(value) < 2**63:
            raise InvalidArgument(f"{what} is {value}; it has 64 bits")
    return Wish(peer, color, key, label, os.urandom(6))


def exchange(issuer: Issuer, mine: Wish, timeout: float) -> list[Wish]:
    """What the members want, by rank; those who die meanwhile want nothing.

    Raises:
        CollectiveError: as for any collective call; all members get it.
    """
    # By this all know that all call split(); the exchange itself is an all_gather like another.
    issuer.prepare(lib.COLL_SYNC, None, timeout).op = SPLIT
    issuer.blocking(None)
    record = np.frombuffer(mine.encode(), np.uint8).reshape(1, -1)
    common = Common(None, timeout, resize=True)
    value = blocks.all_gather(issuer, record, None, None, common)
    found = issuer.blocking(value).value
    return [Wish.decode(row.tobytes()) for row in found]


def part_of(parent: str, wishes: list[Wish], mine: Wish) -> Part | None:
    """The group that a member is to be in, None if in none.

    Args:
        parent: name of the group that is split.
        wishes: of its members, by rank.
        mine: this member's.

    Raises:
        MismatchError: members of one color gave different names; all members get it.
    """
    by_color: dict[int, list[Wish]] = {}
    for each in wishes:
        if each.color is not None:
            by_color.setdefault(each.color, []).append(each)
    for color, members in sorted(by_color.items()):
        other = next((one for one in members if one.label != members[0].label), None)
        if other is not None:
            raise MismatchError(
                f"members of color {color} called split() with different names:"
                f" {members[0].label!r} and {other.label!r}; no group was made"
            )
    if mine.color is None:
        return None
    members = sorted(by_color[mine.color], key=lambda one: one.key)  # stable: then by rank
    label = f"{mine.label}." if mine.label else ""
    # The number is random: names outlive groups, and views, and coordinators.
    tail = f"/{label}{mine.color}#{members[0].nonce.hex()}"
    room = MAX_NAME - len(tail.encode())
    head = parent.encode()[:room].decode("utf-8", "ignore")
    return Part(head + tail, tuple(one.peer for one in members))
