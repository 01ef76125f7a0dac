"""``broadcast`` and ``all_gather`` with ``codec="lossless"``: what travels is packed, bit-exactly.

How far an array can be packed is not known before, so each is two operations of the same tag, one
after the other: the heads, which say what each rank has called and how much will come of it; then
the packed bytes. Both name ranks by the view of the call, so that who dies between them is missed
like one who died before an ordinary call. Ranks whose heads do not fit together refuse the second
operation, which ends in one ``MismatchError`` everywhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from collectives import blocks, lossless
from collectives._native import ffi, lib
from collectives.arrays import buffer_of, dtype_name, is_list
from collectives.blocks import Common
from collectives.errors import CollectiveError, InvalidArgument, UnsupportedError
from collectives.issue import Issuer
from collectives.state.shared import dtype_of, memory_of
from collectives.work import MERCY, Packed, Result

LOSSLESS = "lossless"


def check_codec(codec: str) -> None:
    """Raise InvalidArgument unless what is copied can be coded so."""
    if codec != LOSSLESS:
        raise InvalidArgument(
            f"codec is {codec!r}; what is copied, and not reduced, is packed bit for bit or not at"
            f" all: {LOSSLESS!r} or None"
        )


@dataclasses.dataclass(frozen=True)
class Head:
    """What one rank has called.

    Attributes:
        packed: bytes that its array has been packed to; 0: it has none to give.
        count: elements.
        dtype: the core's number of it.
        counts: digest of the rows of all ranks, 0 if they were not given.
    """

    FORM: ClassVar = struct.Struct("<QQII")

    packed: int
    count: int
    dtype: int
    counts: int

    def encode(self) -> bytes:
        """As it travels."""
        return self.FORM.pack(self.packed, self.count, self.dtype, self.counts)

    @staticmethod
    def decode(data: bytes) -> Head:
        """The head that ``data`` encodes."""
        return Head(*Head.FORM.unpack(data))

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return int(lib.coll_dtype_size(self.dtype))

    def agrees(self, other: Head) -> bool:
        """Whether two ranks have called the same."""
        alike = self.dtype == other.dtype and self.counts == other.counts
        return alike and (self.count == other.count or self.counts != 0)

    def __str__(self) -> str:
        counts = f", counts=#{self.counts:08x}" if self.counts else ""
        return f"dtype={dtype_name(self.dtype)}, count={self.count}{counts}, codec={LOSSLESS}"


class _Call:
    """The two operations of a call that has been checked, and prepared as if it were ordinary."""

    def __init__(self, issuer: Issuer, common: Common, root: int | None = None) -> None:
        prepared, mine = issuer.scratch.call, issuer.mine
        self._issuer, self._common, self._root = issuer, common, root
        self._kind, self._algorithm = prepared.kind, prepared.algorithm
        self._ids = {peer.name: peer.id.bytes for peer in mine.view.peers}
        self._began = time.monotonic()
        self._deadline = self._began + prepared.timeout_ns * 1e-9
        self._ended: list[Result] = []
        self.names = mine.names  # whose blocks there are, or of whom `root` is one

    def run(self, given: Any, out: Any, sizes: Sequence[int] = ()) -> Result:
        """Do an operation with bytes; ``sizes`` are those of the blocks of ``names``."""
        issuer = self._issuer
        call = issuer.prepare(
            self._kind, self._common.tag, max(self._deadline - time.monotonic(), 1e-3)
        )
        call.flags, call.algorithm, call.dtype = self._common.flags, self._algorithm, lib.COLL_U8
        ids = b"".join(self._ids[name] for name in self.names)
        call.peers = issuer.scratch.keep("peers", ffi.from_buffer(ids))
        call.peer_count = len(self.names)
        call.input = issuer.scratch.keep("given", ffi.from_buffer(given))
        call.output = issuer.scratch.keep("out", ffi.from_buffer(out))
        value = out
        if self._root is not None:
            call.count, call.root = len(out), self._root
            issuer.scratch.root = self.names[self._root]
        else:
            call.counts = issuer.scratch.keep("counts", ffi.new("uint64_t[]", list(sizes)))
            value = Packed(out, self.names, tuple(sizes))
        result = issuer.blocking(value)
        self._ended.append(result)
        return result

    @contextlib.contextmanager
    def undivided(self) -> Iterator[None]:
        """Whoever leaves by an interrupt before the second operation ends it for the others."""
        try:
            yield
        except CollectiveError:
            raise
        except BaseException as error:
            why = f"{self._issuer.mine.name!r} left an operation by {type(error).__name__}"
            with contextlib.suppress(CollectiveError):
                why += "; call sync() and go on"
                self._issuer.refuse(self._common.tag, lib.COLL_CANCELLED, why).wait(MERCY)
            raise

    def check(self, heads: dict[str, Head]) -> None:
        """Raise MismatchError, here and everywhere, unless they have all called the same."""
        first = next(iter(heads.values()))
        sane = all(h.packed <= lossless.packed_max(h.count * h.itemsize) for h in heads.values())
        if sane and all(head.agrees(first) for head in heads.values()):
            return
        kind = ffi.string(lib.coll_kind_name(self._kind)).decode()
        calls = ", ".join(
            f"{name!r} (rank {self.names.index(name)}) called {kind}({head})"
            for name, head in heads.items()
        )
        why = f"ranks called different things: {calls}; every rank must make the same calls"
        self._issuer.mismatch(self._common.tag, why)

    def result(self, value: Any) -> Result:
        """What both came to."""
        last = self._ended[-1]
        return Result(
            value,
            last.contributors,
            last.view,
            sum(each.retries for each in self._ended),
            sum(each.wire_bytes for each in self._ended),
            time.monotonic() - self._began,
        )


def broadcast(issuer: Issuer, array: Any, root: int, common: Common) -> Result:
    """Do a ``broadcast``."""
    _check_one(array)
    issuer.copying(array, root, common.tag, common.timeout, common.flags, common.algorithm)
    call = _Call(issuer, common, root)
    here = root == issuer.mine.rank
    packed = _packed(array) if here else b""
    own = _head(array, len(packed), 0)
    head = bytearray(own.encode())
    with call.undivided():
        call.run(head, head)
        heads = {call.names[root]: Head.decode(bytes(head)), issuer.mine.name: own}
        call.check(heads)
        body: Any = packed if here else np.empty(heads[call.names[root]].packed, np.uint8)
    call.run(body, body)
    if not here:
        _unpack(body, array, call.names[root])
    return call.result(array)


def all_gather(
    issuer: Issuer, array: Any, out: Any, counts: Sequence[int] | None, common: Common
) -> Result:
    """Do an ``all_gather``."""
    _check_one(array)
    _check_one(out)
    place = blocks.all_gather(issuer, array, out, counts, dataclasses.replace(common, resize=True))
    call = _Call(issuer, common)
    packed = _packed(array)
    digest = 0 if counts is None else zlib.crc32(repr(place.rows).encode()) | 1
    head = _head(array, len(packed), digest).encode()
    with call.undivided():
        first = call.run(
            head, bytearray(len(head) * len(call.names)), [len(head)] * len(call.names)
        )
        found = Head.FORM.iter_unpack(first.value)
        heads = {name: Head(*each) for name, each in zip(first.contributors, found, strict=True)}
        call.check(heads)
        call.names = first.contributors
        sizes = [each.packed for each in heads.values()]
        body = np.empty(sum(sizes), np.uint8)
    second = call.run(packed, body, sizes)
    rows = dict(zip(place.names, place.rows, strict=True))
    at = row = 0
    for name in second.contributors:
        end, last = at + heads[name].packed, row + rows[name]
        _unpack(body[at:end], place.array[row:last], name)
        at, row = end, last
    return call.result(place.of(second.contributors))


def _check_one(array: Any) -> None:
    if is_list(array):
        raise UnsupportedError("a list of arrays cannot be packed; make a call for each")


def _packed(array: Any) -> bytes:
    return lossless.pack(memory_of(_contiguous(array)), dtype_of(array))


def _head(array: Any, packed: int, counts: int) -> Head:
    _, count, dtype, _ = buffer_of(array, "array", writable=False)
    return Head(packed, count, dtype, counts)


def _contiguous(array: Any) -> Any:
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array.contiguous()


def _unpack(packed: Any, array: Any, name: str) -> None:
    whole = _contiguous(array)  # a copy, or the same memory
    try:
        lossless.unpack(packed, memory_of(whole))
    except ValueError as error:
        raise CollectiveError(f"what {name!r} has sent makes no sense: {error}") from None
    if whole is not array:
        array[...] = whole.reshape(array.shape)
