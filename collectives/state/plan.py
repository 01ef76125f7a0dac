"""Which piece comes from which source, and whether packed. Pure: no sockets, no clock.

Sources *pull*: who has delivered gets the next piece, so slow ones get less. A source that goes
away gives its pieces back. Near the end a piece that its source keeps for long is asked of another
one, too.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

DEPTH = 4
"""Pieces that are asked of one source at once: with 4 MiB each, 16 MiB under way."""
_PATIENCE = 3.0  # times what a piece takes elsewhere, before it is asked of another source, too
_LEAST = 0.25  # seconds
_STRIKES = 3  # wrong answers of a source before it is asked no more

S = TypeVar("S", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A chunk that is to be fetched.

    Attributes:
        name: of the entry.
        offset: in its content, bytes.
        size: bytes.
        digest: what it must have.
    """

    name: str
    offset: int
    size: int
    digest: bytes


@dataclasses.dataclass
class _Source:
    out: dict[Piece, float] = dataclasses.field(default_factory=dict)  # since when
    done: int = 0
    pace: float = 0.0  # seconds that a piece takes, lately
    strikes: int = 0


class Plan(Generic[S]):
    """The pieces, and who is asked for them.

    Args:
        pieces: all that are needed.
        sources: who has them.
    """

    def __init__(self, pieces: Iterable[Piece], sources: Iterable[S]) -> None:
        self._pending = collections.deque(pieces)
        self._left = set(self._pending)
        self._sources = {source: _Source() for source in sources}

    @property
    def done(self) -> bool:
        """Whether every piece has come."""
        return not self._left

    @property
    def left(self) -> int:
        """How many pieces have not come."""
        return len(self._left)

    @property
    def sources(self) -> tuple[S, ...]:
        """Who can still be asked."""
        return tuple(self._sources)

    def take(self, source: S, now: float) -> Piece | None:
        """The next piece to ask a source for, None if it has enough to do."""
        mine = self._sources[source]
        # The first ones one by one: until a link's pace is known, it should not owe much.
        if len(mine.out) >= min(DEPTH, 1 + mine.done):
            return None
        while self._pending and self._pending[0] not in self._left:
            self._pending.popleft()
        piece = self._pending.popleft() if self._pending else self._overdue(source, now)
        if piece is not None:
            mine.out[piece] = now
        return piece

    def _overdue(self, source: S, now: float) -> Piece | None:
        patience = max(_LEAST, _PATIENCE * self._sources[source].pace)
        late = [
            (since, piece)
            for other, theirs in self._sources.items()
            for piece, since in theirs.out.items()
            if other != source and now - since > patience and self._holders(piece) == 1
        ]
        return min(late, key=lambda found: found[0])[1] if late else None

    def _holders(self, piece: Piece) -> int:
        return sum(piece in theirs.out for theirs in self._sources.values())

    def came(self, source: S, piece: Piece, now: float) -> tuple[S, ...]:
        """A piece has come whole and right. Returns who else was asked for it, in vain now."""
        mine = self._sources[source]
        mine.pace = now - mine.out.pop(piece)
        mine.done += 1
        self._left.discard(piece)
        others = tuple(s for s, theirs in self._sources.items() if piece in theirs.out)
        for other in others:
            del self._sources[other].out[piece]
        return others

    def wrong(self, source: S, piece: Piece) -> None:
        """A source does not have a piece, or what came is something else.

        Whoever else was asked for it counts as not asked.
        """
        for theirs in self._sources.values():
            theirs.out.pop(piece, None)
        mine = self._sources[source]
        mine.strikes += 1
        self._pending.appendleft(piece)
        if mine.strikes >= _STRIKES:
            self.lost(source)

    def lost(self, source: S) -> None:
        """A source is gone: others get its pieces, first of all."""
        gone = self._sources.pop(source, None)
        for piece in reversed(list(gone.out) if gone else []):
            if self._holders(piece) == 0:
                self._pending.appendleft(piece)


class Gauge:
    """Whether to have a source pack what it sends: where its link is slower than the codec.

    The first pieces come raw and tell the link's rate; if that is low, one comes packed and tells
    what the codec does on this content; then the faster way is taken.
    """

    FAST = 150e6
    """Bytes a second of a link on which packing costs more cores than it saves time."""

    def __init__(self) -> None:
        self._raw = 0
        self._rate = 0.0  # raw bytes a second, at best
        self._probing = False
        self._packed: bool | None = None  # None: not decided

    def choose(self) -> bool:
        """Whether the next piece should come packed."""
        if self._packed is not None:
            return self._packed
        probe = self._raw >= 3 and self._rate < self.FAST and not self._probing
        self._probing |= probe
        return probe

    def came_raw(self, size: int, seconds: float) -> None:
        """A raw piece of ``size`` bytes kept the link for so long."""
        self._raw += 1
        self._rate = max(self._rate, size / max(seconds, 1e-9))

    def came_packed(self, size: int, wire: int, packing: float, unpacking: float) -> None:
        """A packed piece came: ``wire`` bytes for ``size``; seconds of the codec on either end.

        Packing, travelling and unpacking overlap, so the slowest counts.
        """
        raw = size / max(self._rate, 1e-9)
        packed = max(wire / max(self._rate, 1e-9), packing, unpacking)
        self._packed = packed < 0.9 * raw
