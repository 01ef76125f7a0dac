"""What a view is: the immutable, numbered list of the peers that do collectives together."""

from __future__ import annotations

import dataclasses
import uuid


@dataclasses.dataclass(frozen=True)
class Peer:
    """A process in a run.

    Attributes:
        id: the process's own UUID, new at every start.
        name: for people; unique in a view (the coordinator appends ``-2`` and so on).
        addresses: ``HOST:PORT`` of its data plane, to be tried in order.
        unit: peers of the same unit are admitted and dropped together; empty: alone.
        process: what names the process to others on its host, so that they see it die; empty: not
            known.
    """

    id: uuid.UUID
    name: str
    addresses: tuple[str, ...]
    unit: str = ""
    process: str = ""


@dataclasses.dataclass(frozen=True)
class View:
    """A group's members from one safe point to the next.

    Attributes:
        group: the group's name.
        group_id: the run's number for the group; frames carry it.
        term: raised by every restart of the coordinator.
        number: raised by every change; views are ordered by ``(term, number)``.
        peers: the members; the index is the rank, the order is the ring's.
        key: secret of the view, 32 bytes; links prove that they know it.
        first_operation: every tag's next operation gets at least this number.
    """

    group: str
    group_id: int
    term: int
    number: int
    peers: tuple[Peer, ...]
    key: bytes = dataclasses.field(repr=False)
    first_operation: int = 1

    @property
    def size(self) -> int:
        """Number of members."""
        return len(self.peers)

    def rank_of(self, peer: uuid.UUID) -> int | None:
        """The rank of a peer, None if it is no member."""
        for rank, member in enumerate(self.peers):
            if member.id == peer:
                return rank
        return None
