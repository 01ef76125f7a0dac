"""Carries out a transfer: asks the sources, verifies every piece, asks again where it must."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from collectives._native.engine import EngineGroup
from collectives._native.fetch import ANSWER_MAX, Fetch, wait
from collectives.errors import PeerLost, StateError, Timeout, UnsupportedError
from collectives.state.content import CHUNK, Manifest, ManifestError, digest_of
from collectives.state.plan import Gauge, Piece, Plan
from collectives.state.service import PACKED_MAX, Request, unpack

_PAGE = 4096
_SLICE = 0.1  # seconds that a wait stays in the core before Python may handle signals


class SourcesLostError(Exception):
    """No source is left that could be asked: hold another election."""


class StoppedError(Exception):
    """``stop`` said so; what was verified is there."""


@dataclasses.dataclass
class _Transfer:
    fetch: Fetch
    source: uuid.UUID
    piece: Piece
    packed: memoryview | None  # where it arrives if it comes packed
    began: float


class Transfer:
    """What one peer fetches from others, and what it cost.

    Args:
        group: the core's group, whose links are used.
        names: of the sources, for messages.
        deadline: on the monotonic clock.
        stop: asked again and again; if it is true, what goes on raises ``StoppedError``.

    Attributes:
        received: bytes that came from each source, by its name, as they travelled.
    """

    def __init__(
        self,
        group: EngineGroup,
        names: Mapping[uuid.UUID, str],
        deadline: float,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._group = group
        self._stop = stop
        self.names = dict(names)
        self._deadline = deadline
        self.received: dict[str, int] = {}
        self._gauges: dict[uuid.UUID, Gauge] = {}
        self._last: dict[uuid.UUID, float] = {}  # when something came from it

    def manifest(self, sources: Sequence[uuid.UUID], digest: bytes, length: int) -> Manifest:
        """Get the manifest of which the digest is known.

        Raises:
            SourcesLostError: none of the sources gives it.
            Timeout: the deadline passed.
        """
        data = bytearray(length)
        for source in sources:
            try:
                for at in range(0, length, ANSWER_MAX):
                    part = memoryview(data)[at : at + ANSWER_MAX]
                    request = Request(digest, at, part.nbytes)
                    self._one(Fetch(self._group, source, request.encode(), part))
            except (PeerLost, UnsupportedError):
                continue
            if digest_of(data) == digest:
                self._count(source, length)
                return Manifest.decode(bytes(data))
        raise SourcesLostError

    def _one(self, fetch: Fetch) -> None:
        try:
            while wait([fetch], _SLICE) is None:
                if self._stop():
                    raise StoppedError
                if time.monotonic() > self._deadline:
                    raise Timeout("the state's manifest did not come in time; call sync() again")
            fetch.result()
        finally:
            fetch.release()

    def run(
        self,
        pieces: Sequence[Piece],
        sources: Sequence[uuid.UUID],
        place: Callable[[Piece], memoryview],
        verified: Callable[[Piece], None],
        stale: Callable[[Piece], None] | None = None,
    ) -> None:
        """Fetch all the pieces.

        Args:
            pieces: what is needed.
            sources: who has all of it.
            place: where a piece belongs: as many writable bytes as it has.
            verified: called with each piece that is in its place and has its digest.
            stale: the sources' content may change meanwhile, and this is called with each piece
                that came otherwise; it is not fetched again. None: it must not change.

        Raises:
            SourcesLostError: no source is left; what was ``verified`` is there.
            Timeout: the deadline passed.
        """
        plan = Plan(pieces, sources)
        active: list[_Transfer] = []
        try:
            while not plan.done:
                if self._stop():
                    raise StoppedError
                self._ask(plan, active, place, stale is not None)
                if not active:
                    raise SourcesLostError
                index = wait([transfer.fetch for transfer in active], _SLICE)
                if index is not None:
                    self._ended(plan, active, active.pop(index), place, verified, stale)
                elif time.monotonic() > self._deadline:
                    names = ", ".join(self.names[source] for source in plan.sources)
                    raise Timeout(
                        f"{plan.left} chunks of the state did not come in time from {names}; call"
                        " sync() again with a longer timeout: what came is kept"
                    )
        finally:
            for transfer in active:
                transfer.fetch.release()

    def _ask(
        self,
        plan: Plan[uuid.UUID],
        active: list[_Transfer],
        place: Callable[[Piece], memoryview],
        copied: bool,
    ) -> None:
        for source in plan.sources:
            gauge = self._gauges.setdefault(source, Gauge())
            while source in plan.sources and (piece := plan.take(source, time.monotonic())):
                packed = memoryview(bytearray(PACKED_MAX)) if gauge.choose() else None
                request = Request(piece.name, piece.offset, piece.size, packed is not None, copied)
                to = place(piece) if packed is None else packed
                if packed is None and all(other.piece != piece for other in active):
                    # A page that the kernel has to make while it receives costs ten times this.
                    np.frombuffer(to, np.uint8)[::_PAGE] = 0
                try:
                    fetch = Fetch(self._group, source, request.encode(), to)
                except (PeerLost, Timeout):
                    plan.lost(source)
                    _drop(active, source=source)
                    continue
                active.append(_Transfer(fetch, source, piece, packed, time.monotonic()))

    def _ended(
        self,
        plan: Plan[uuid.UUID],
        active: list[_Transfer],
        transfer: _Transfer,
        place: Callable[[Piece], memoryview],
        verified: Callable[[Piece], None],
        stale: Callable[[Piece], None] | None,
    ) -> None:
        source, piece = transfer.source, transfer.piece
        try:
            size = transfer.fetch.result()
        except PeerLost:
            plan.lost(source)
            _drop(active, source=source)
            return
        except UnsupportedError:
            _wrong(plan, active, source, piece)
            return
        finally:
            transfer.fetch.release()
        self._count(source, size)
        # Whoever else was asked must not write there any more while it is verified.
        _drop(active, piece=piece)
        now = time.monotonic()
        view = place(piece)
        if self._unpacked(transfer, size, view, now) and digest_of(view) == piece.digest:
            plan.came(source, piece, now)
            verified(piece)
        elif stale is not None:
            plan.came(source, piece, now)
            stale(piece)
        else:
            _wrong(plan, active, source, piece)

    def _unpacked(self, transfer: _Transfer, size: int, view: memoryview, now: float) -> bool:
        """Put what came where it belongs, and learn from what it took. False: it is nonsense."""
        source = transfer.source
        gauge = self._gauges[source]
        busy_since = max(transfer.began, self._last.get(source, 0.0))
        self._last[source] = now
        if transfer.packed is None:
            gauge.came_raw(size, now - busy_since)
            return size == view.nbytes
        try:
            packing = unpack(transfer.packed[:size], view)
        except ManifestError:
            return False
        gauge.came_packed(view.nbytes, size, packing, time.monotonic() - now)
        return True

    def _count(self, source: uuid.UUID, size: int) -> None:
        name = self.names[source]
        self.received[name] = self.received.get(name, 0) + size


def _wrong(plan: Plan[uuid.UUID], active: list[_Transfer], source: uuid.UUID, piece: Piece) -> None:
    _drop(active, piece=piece)
    plan.wrong(source, piece)
    if source not in plan.sources:
        _drop(active, source=source)


def _drop(
    active: list[_Transfer], *, source: uuid.UUID | None = None, piece: Piece | None = None
) -> None:
    """Release what a source was asked for, or all that a piece was asked of."""
    for transfer in list(active):
        if transfer.source == source or transfer.piece == piece:
            transfer.fetch.release()
            active.remove(transfer)


def missing(mine: Manifest, wanted: Manifest, here: str, there: str) -> list[Piece]:
    """What has to be fetched so that this peer's state becomes the wanted one. Pure.

    Args:
        mine: this peer's state.
        wanted: the group's.
        here: this peer's name.
        there: the name of one whose state the wanted one is.

    Raises:
        StateError: the states have different shapes; the message names what and both peers.
    """
    extra = sorted(set(mine.entries) - set(wanted.entries))
    if extra:
        raise StateError(
            f"{here!r} shares {', '.join(map(repr, extra))}, which {there!r} and the group do not;"
            " share the same names everywhere, or fewer here: what is missing is allocated"
        )
    pieces = []
    for name, entry in wanted.entries.items():
        have = mine.entries.get(name)
        if have is not None and (have.kind, have.dtype, have.shape) != (
            entry.kind,
            entry.dtype,
            entry.shape,
        ):
            raise StateError(
                f"{name!r} is {have.describe()} at {here!r} and {entry.describe()} at {there!r};"
                " make them alike"
            )
        same_size = have is not None and have.size == entry.size
        for chunk, offset in enumerate(range(0, entry.size, CHUNK)):
            digest = entry.digest(chunk)
            if have is None or not same_size or have.digest(chunk) != digest:
                pieces.append(Piece(name, offset, min(CHUNK, entry.size - offset), digest))
    return pieces
