"""What a state consists of: entries with digests per chunk, and their encoding, the manifest.

Two states are identical if and only if their manifests are the same bytes, so the digest of the
manifest stands for the state. Digests are XXH3 (128 bits): they find what differs and what arrived
wrong; they are no defence against members that lie.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]
import xxhash

from collectives.errors import CollectiveError

CHUNK = 4 << 20
"""Bytes of an entry that have one digest and travel as one piece."""
DIGEST = 16
"""Bytes of a digest."""
MAX_NAME = 512
"""Bytes of an entry's name."""
_VERSION = 1
_PARALLEL = 64 << 20  # below, threads cost more than they bring

Scalar = bool | int | float


class ManifestError(CollectiveError):
    """A peer's manifest makes no sense."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One named value of a state.

    Attributes:
        name: its name.
        kind: ``"tensor"``, ``"bytes"`` or ``"value"``.
        dtype: a tensor's, by numpy's or torch's name.
        shape: a tensor's.
        value: a scalar's value.
        size: bytes of its content; 0 for a scalar, whose value is in the manifest.
        digests: of the content's chunks, one after the other.
    """

    name: str
    kind: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    value: Scalar | None = None
    size: int = 0
    digests: bytes = b""

    def digest(self, chunk: int) -> bytes:
        """The digest of the ``chunk``-th chunk."""
        return self.digests[chunk * DIGEST : (chunk + 1) * DIGEST]

    def describe(self) -> str:
        """For messages: ``float32 (3, 4)``."""
        if self.kind == "tensor":
            return f"a {self.dtype} tensor of shape {self.shape}"
        return "bytes" if self.kind == "bytes" else f"a {type(self.value).__name__}"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A whole state without its contents.

    Attributes:
        revision: the state's.
        entries: by name, in its order.
    """

    revision: int
    entries: dict[str, Entry]

    def encode(self) -> bytes:
        """The same bytes for the same state."""
        entries = [
            [e.name, e.kind, e.dtype, list(e.shape), e.value, e.size, e.digests]
            for _, e in sorted(self.entries.items())
        ]
        encoded: bytes = msgpack.packb([_VERSION, self.revision, entries])
        return encoded

    @staticmethod
    def decode(data: bytes) -> Manifest:
        """The manifest that ``data`` encodes.

        Raises:
            ManifestError: it encodes none.
        """
        try:
            version, revision, found = msgpack.unpackb(data)
            entries = [Entry(n, k, d, tuple(s), v, z, g) for n, k, d, s, v, z, g in found]
            if version != _VERSION or not isinstance(revision, int):
                raise ValueError(f"version {version}")
            for entry in entries:
                _check(entry)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise ManifestError(f"a manifest of a state makes no sense: {error}") from None
        return Manifest(revision, {entry.name: entry for entry in entries})


def _check(entry: Entry) -> None:
    whole = (
        isinstance(entry.name, str)
        and isinstance(entry.dtype, str)
        and isinstance(entry.size, int)
        and isinstance(entry.digests, bytes)
        and all(isinstance(length, int) and length >= 0 for length in entry.shape)
        and 0 <= entry.size < 2**63
        and len(entry.digests) == chunks_of(entry.size) * DIGEST
    )
    if entry.kind == "value":
        whole = whole and isinstance(entry.value, bool | int | float) and entry.size == 0
    if not whole or entry.kind not in ("tensor", "bytes", "value"):
        raise ValueError(f"entry {entry.name!r}")


def chunks_of(size: int) -> int:
    """How many chunks ``size`` bytes have."""
    return -(-size // CHUNK)


def digest_of(data: Any) -> bytes:
    """The digest of contiguous bytes."""
    digest: bytes = xxhash.xxh3_128_digest(data)
    return digest


def digests_of(view: memoryview) -> bytes:
    """The digests of all chunks of contiguous bytes, one after the other."""
    parts = [view[at : at + CHUNK] for at in range(0, view.nbytes, CHUNK)]
    if view.nbytes < _PARALLEL:
        return b"".join(map(digest_of, parts))
    # xxhash releases the GIL, and one core does not use up the memory's bandwidth.
    workers = min(4, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return b"".join(pool.map(digest_of, parts))
