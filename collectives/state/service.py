"""What others ask of this peer's state: the requests, and the answers.

A request names a range of an entry's bytes, or of a manifest by its digest; or it asks for the
ballot of the last sync, which says what there was to share. Between syncs the state is the user's,
who writes into it: then a copy is sent, perhaps torn. While all members are in ``sync`` the live
memory is lent, but not to those who fetch before they are admitted: they would lose it at the
sync's end. The receiver judges what it got by digests, so neither is trusted.
"""

from __future__ import annotations

import dataclasses
import struct
import time
import uuid

from collectives import lossless
from collectives._native.fetch import ANSWER_MAX, Answer, Server
from collectives.state.content import CHUNK, ManifestError, digest_of
from collectives.state.shared import SharedState, dtype_of

PACKED_HEADER = struct.Struct("<d")
"""Before what ``lossless.pack`` made of a chunk: the seconds that it took."""
PACKED_MAX = PACKED_HEADER.size + lossless.packed_max(CHUNK)
"""Bytes that a packed chunk has at most."""

_HEAD = struct.Struct("<BBQI")
_RANGE, _MANIFEST, _BALLOT, _COPY = 1, 2, 3, 4


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        name: of an entry; or, as ``bytes``, the digest of a manifest; None: the last ballot.
        offset: of the range in it.
        size: of the range.
        packed: whether it should be packed.
        copied: whether live memory must not be lent.
    """

    name: str | bytes | None
    offset: int
    size: int
    packed: bool = False
    copied: bool = False

    def encode(self) -> bytes:
        """As it travels."""
        if self.name is None:
            kind, name = _BALLOT, b"-"
        elif isinstance(self.name, bytes):
            kind, name = _MANIFEST, self.name
        else:
            kind, name = _COPY if self.copied else _RANGE, self.name.encode()
        return _HEAD.pack(kind, self.packed, self.offset, self.size) + name

    @staticmethod
    def decode(data: bytes) -> Request:
        """The request that ``data`` encodes.

        Raises:
            ValueError: it encodes none.
        """
        if len(data) <= _HEAD.size:
            raise ValueError("a request is too short")
        kind, packed, offset, size = _HEAD.unpack_from(data)
        name = data[_HEAD.size :]
        if not _RANGE <= kind <= _COPY or size > ANSWER_MAX or (packed and size > CHUNK):
            raise ValueError(f"a request of kind {kind} for {size} bytes")
        wanted = {_MANIFEST: name, _BALLOT: None}.get(kind, name.decode("utf-8", "replace"))
        return Request(wanted, offset, size, bool(packed), kind == _COPY)


class Service:
    """Answers what peers ask of a state.

    Args:
        server: gets the requests.
        group: the number of the group whose members may ask.
    """

    def __init__(self, server: Server, group: int) -> None:
        self._state: SharedState | None = None
        self._manifest = b""
        self._ballot = b""
        self._digest = b""
        self._quiet = False
        self._server, self._group = server, group
        server.serve(group, self._answer)

    def offer(self, state: SharedState, manifest: bytes, ballot: bytes) -> None:
        """From now until ``rest`` the state does not change: its live memory may be lent."""
        self._state, self._manifest, self._digest = state, manifest, digest_of(manifest)
        self._ballot = ballot
        self._quiet = True

    def rest(self) -> None:
        """The state is the user's again; what was lent is taken back before this returns."""
        self._quiet = False
        self._server.take_back(self._group)

    def close(self) -> None:
        """Answer nothing any more."""
        self._server.stop(self._group)

    def _answer(self, peer: uuid.UUID, data: bytes, most: int) -> Answer | None:
        try:
            request = Request.decode(data)
            content, dtype = self._content(request.name)
        except (ValueError, KeyError):
            return None
        part = content[request.offset : request.offset + request.size]
        if part.nbytes != request.size:
            return None
        if request.packed:
            began = time.monotonic()
            packed = lossless.pack(part, dtype)
            head = PACKED_HEADER.pack(time.monotonic() - began)
            return Answer(memoryview(head + packed), lent=False)
        if isinstance(request.name, bytes | None) or (self._quiet and not request.copied):
            return Answer(part, lent=True)
        return self._server.copy(part)

    def _content(self, name: str | bytes | None) -> tuple[memoryview, str]:
        """The bytes, and a tensor's dtype."""
        if name is None:
            return memoryview(self._ballot), ""
        if isinstance(name, bytes):
            if name != self._digest:
                raise KeyError(name)
            return memoryview(self._manifest), ""
        if self._state is None or not self._state.complete:
            raise KeyError(name)
        value = self._state[name]
        return self._state.view(name), "" if isinstance(value, bytes) else dtype_of(value)


def unpack(packed: memoryview, into: memoryview) -> float:
    """Unpack what ``Service`` packed.

    Returns:
        The seconds that packing had taken.

    Raises:
        ManifestError: it is not exactly what fills ``into``.
    """
    if packed.nbytes < PACKED_HEADER.size:
        raise ManifestError("a packed chunk is too short")
    (seconds,) = PACKED_HEADER.unpack_from(packed)
    try:
        lossless.unpack(packed[PACKED_HEADER.size :], into)
    except ValueError as error:
        raise ManifestError(str(error)) from None
    return float(seconds)
