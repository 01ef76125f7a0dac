"""Whose state counts: a pure function of what every member says about its own.

Each peer casts a ``Ballot``, a record of fixed size; all see all of them and count alike.
"""

from __future__ import annotations

import collections
import dataclasses
import struct
import uuid
from collections.abc import Sequence

from collectives.state.content import digest_of
from collectives.state.shared import ROLES, Role

_RECORD = struct.Struct("<IHBBQ16s16s16sQ")
_MAGIC = 0xBA110701
BALLOT = _RECORD.size
"""Bytes of an encoded ballot."""
NO_RUN = uuid.UUID(int=0)
_MEMBER, _COMPLETE, _EMPTY, _GIVES_UP = 1, 2, 4, 8


@dataclasses.dataclass(frozen=True)
class Ballot:
    """What a peer says about its state.

    Attributes:
        peer: who.
        run: its run, ``NO_RUN`` if it has none yet.
        revision: the state's.
        digest: of its manifest.
        length: of its manifest, in bytes.
        role: what it does when states differ.
        member: whether it was in the group before this sync; newcomers were not.
        complete: whether its content is that of one revision, and no mixture.
        empty: whether it shares nothing at all.
        gives_up: whether it was stopped in mid-transfer: then this sync ends for all.
    """

    peer: uuid.UUID
    run: uuid.UUID
    revision: int
    digest: bytes
    length: int
    role: Role = "auto"
    member: bool = True
    complete: bool = True
    empty: bool = False
    gives_up: bool = False

    def encode(self) -> bytes:
        """``BALLOT`` bytes, none of which are all zero."""
        flags = _MEMBER * self.member | _COMPLETE * self.complete
        flags |= _EMPTY * self.empty | _GIVES_UP * self.gives_up
        return _RECORD.pack(
            _MAGIC,
            1,
            ROLES.index(self.role),
            flags,
            self.revision,
            self.peer.bytes,
            self.run.bytes,
            self.digest,
            self.length,
        )

    @staticmethod
    def decode(data: bytes) -> Ballot | None:
        """The ballot, None if this is none: nobody cast it."""
        magic, _, role, flags, revision, peer, run, digest, length = _RECORD.unpack(data)
        if magic != _MAGIC or role >= len(ROLES):
            return None
        return Ballot(
            uuid.UUID(bytes=peer),
            uuid.UUID(bytes=run),
            revision,
            digest,
            length,
            ROLES[role],
            bool(flags & _MEMBER),
            bool(flags & _COMPLETE),
            bool(flags & _EMPTY),
            bool(flags & _GIVES_UP),
        )


@dataclasses.dataclass(frozen=True)
class Election:
    """What the ballots come to.

    Attributes:
        winner: the ballot whose state all will hold; None: nobody has one to give.
        run: the run that it belongs to from now on.
        sources: who has that state and gives it.
        receivers: who lacks it.
        outside: who cannot take part, by peer, and why: they have to go.
        reason: a sentence for people.
    """

    winner: Ballot | None
    run: uuid.UUID
    sources: tuple[uuid.UUID, ...]
    receivers: tuple[uuid.UUID, ...]
    outside: dict[uuid.UUID, str]
    reason: str

    @property
    def settled(self) -> bool:
        """Whether all hold the same state already."""
        return self.winner is not None and not self.receivers and not self.outside


def elect(ballots: Sequence[Ballot]) -> Election:
    """Decide whose state counts. Pure.

    Who was a member before votes; newcomers only if no member can. Of the states that are voted
    for, those of the highest revision count; of them the one that most hold; of these the one of
    the lowest rank. Neither mixtures nor ``receive_only`` states vote, nor empty ones beside
    others.

    Args:
        ballots: of the peers, by rank.
    """
    able = [b for b in ballots if b.complete and b.role != "receive_only"]
    able = [b for b in able if b.member] or able
    able = [b for b in able if not b.empty] or able
    if not able:
        reason = "no peer has a whole state to give: all are receive_only or were interrupted"
        return Election(None, NO_RUN, (), (), {}, reason)
    run = _run_of(able)
    voters = [b for b in able if b.run in (run, NO_RUN)]
    highest = max(b.revision for b in voters)
    newest = [b for b in voters if b.revision == highest]
    votes = collections.Counter(b.digest for b in newest)
    most = max(votes.values())
    winner = next(b for b in newest if votes[b.digest] == most)
    if run == NO_RUN:
        run = uuid.UUID(bytes=digest_of(winner.peer.bytes + winner.digest))
    sources, receivers, outside = [], [], {}
    for ballot in ballots:
        same = (ballot.revision, ballot.digest) == (winner.revision, winner.digest)
        if ballot.run not in (run, NO_RUN):
            outside[ballot.peer] = (
                f"its state belongs to run {ballot.run}, the group's to run {run}; start it with a"
                " fresh SharedState"
            )
        elif same and ballot.complete:
            if ballot.role != "receive_only":
                sources.append(ballot.peer)
        elif ballot.role == "send_only":
            outside[ballot.peer] = (
                f"its state (revision {ballot.revision}) is not the group's (revision"
                f" {winner.revision}, held by {most} of {len(voters)} voters), and its role is"
                " send_only"
            )
        else:
            receivers.append(ballot.peer)
    reason = f"revision {highest}, held by {most} of {len(voters)} voters"
    return Election(winner, run, tuple(sources), tuple(receivers), outside, reason)


def _run_of(ballots: Sequence[Ballot]) -> uuid.UUID:
    """The run that most belong to; ties: of the lowest rank."""
    runs = collections.Counter(b.run for b in ballots if b.run != NO_RUN)
    return max(runs, key=lambda run: runs[run], default=NO_RUN)
