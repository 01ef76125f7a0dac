"""A state on its way to become another: where what comes belongs, and what has come."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from collectives.state.content import CHUNK, DIGEST, Manifest, Scalar
from collectives.state.plan import Piece
from collectives.state.shared import SharedState


class Intake:
    """Makes ``state`` a mixture, and whole again when all pieces have come.

    Tensors are written in place; what ``bytes`` become is kept beside until all is there.

    Args:
        state: what changes.
        mine: its manifest.
        wanted: of what it is to become.
        pieces: what has to come (``transfer.missing``).
    """

    def __init__(
        self, state: SharedState, mine: Manifest, wanted: Manifest, pieces: Sequence[Piece]
    ) -> None:
        state.begin()
        self._state = state
        self._wanted = wanted
        self._bodies: dict[str, bytearray] = {}
        self._places: dict[str, memoryview] = {}
        self._digests: dict[str, bytearray] = {}
        for name, entry in wanted.entries.items():
            if entry.kind == "tensor" and name not in state:
                state.allocate(entry)
            if entry.kind == "bytes":
                had = state.get(name, b"")
                self._bodies[name] = bytearray(had[: entry.size].ljust(entry.size, b"\0"))
                self._places[name] = memoryview(self._bodies[name])
            elif entry.kind == "tensor":
                self._places[name] = state.view(name)
            known = mine.entries.get(name)
            whole = len(entry.digests)
            digests = (known.digests if known else b"")[:whole].ljust(whole, b"\0")
            self._digests[name] = bytearray(digests)
        for piece in pieces:  # until it has come, what is there has no digest
            self._note(piece, bytes(DIGEST))

    def place(self, piece: Piece) -> memoryview:
        """Where a piece belongs: as many writable bytes as it has."""
        return self._places[piece.name][piece.offset : piece.offset + piece.size]

    def verified(self, piece: Piece) -> None:
        """A piece is in its place."""
        self._note(piece, piece.digest)

    def finish(self, run: uuid.UUID | None) -> None:
        """All pieces have come: the state is the wanted one, and belongs to ``run``."""
        entries = self._wanted.entries.items()
        values: dict[str, bytes | Scalar] = {n: e.value for n, e in entries if e.value is not None}
        values.update((name, bytes(body)) for name, body in self._bodies.items())
        self._state.finish(run, self._wanted.revision, values)

    def manifest(self) -> Manifest:
        """What the state consists of now; what did not come has a digest that nothing has."""
        known = {n: bytes(d) for n, d in self._digests.items() if n not in self._bodies}
        return self._state.manifest(known)

    def _note(self, piece: Piece, digest: bytes) -> None:
        at = piece.offset // CHUNK * DIGEST
        self._digests[piece.name][at : at + DIGEST] = digest
