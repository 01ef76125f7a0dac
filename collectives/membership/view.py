"""What a view is: the immutable, numbered list of the peers that do collectives together."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable


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
        site: where it is, by its own word: hosts of one site are near each other; empty: all peers
            that name none are at one site.
        tunes: it wants the plan table of its views to be made from measured links.
    """

    id: uuid.UUID
    name: str
    addresses: tuple[str, ...]
    unit: str = ""
    process: str = ""
    site: str = ""
    tunes: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
    """A row of a plan table: what operations of a kind, up to a size, are carried out by.

    Attributes:
        kind: of operation, for example ``"all_reduce"``.
        bytes: the largest payload that the row is for.
        algorithm: for example ``"ring"``.
    """

    kind: str
    bytes: int
    algorithm: str


@dataclasses.dataclass(frozen=True)
class LevelChoice:
    """How those speak to each other who meet at one level of a view.

    Attributes:
        plan: of hierarchical operations at this level: ``"direct"``, ``"ring"`` or ``"auto"``.
        transport: that its links have: ``"shm"``, ``"tcp"`` or ``"auto"``: any.
        codec: whether what passes there in a hierarchical reduction with a codec is encoded:
            ``"call"``: by the call's codec; ``"none"``: it is not; ``"auto"``: at the outermost
            level, and wherever a level within says "call".
    """

    plan: str = "auto"
    transport: str = "auto"
    codec: str = "auto"


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
        places: by level, the nearest first (hosts, then sites), each rank's group there, from 0. A
            level that says nothing is left out: all in one group, or each in its own.
        table: which algorithm an operation uses: that of the first row it fits, in this order; if
            it fits none, the engine's own choice.
        levels: of each level of ``places``, and then of the one above, how those speak to each
            other who meet there; those that are not named are left to the engine.
    """

    group: str
    group_id: int
    term: int
    number: int
    peers: tuple[Peer, ...]
    key: bytes = dataclasses.field(repr=False)
    first_operation: int = 1
    places: tuple[tuple[int, ...], ...] = ()
    table: tuple[Choice, ...] = ()
    levels: tuple[LevelChoice, ...] = ()

    @property
    def size(self) -> int:
        """Number of members."""
        return len(self.peers)

    @property
    def untuned(self) -> bool:
        """Whether the members are to measure their links and agree on a table: all want to."""
        return not self.table and all(peer.tunes for peer in self.peers)

    def rank_of(self, peer: uuid.UUID) -> int | None:
        """The rank of a peer, None if it is no member."""
        for rank, member in enumerate(self.peers):
            if member.id == peer:
                return rank
        return None

    def following(self, term: int, number: int, key: bytes, staying: Iterable[uuid.UUID]) -> View:
        """The view that a verdict issues, with those who stay, in this view's order.

        It has their places, the table and the levels; so does the core's (``engine/judge.c``).
        """
        kept = set(staying)
        ranks = [rank for rank, peer in enumerate(self.peers) if peer.id in kept]
        return dataclasses.replace(
            self,
            term=term,
            number=number,
            key=key,
            peers=tuple(self.peers[rank] for rank in ranks),
            places=tuple(tuple(level[rank] for rank in ranks) for level in self.places),
        )
