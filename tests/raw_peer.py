"""A peer of the data plane in plain Python: sockets, struct and hmac, nothing of the library.

What the core's own code would never send is sent with it; and that it gets along with the core at
all shows that ``docs/wire-protocol.md`` tells the truth. ``Pair`` are two engines in this process
with a known key, whose all-reduces go on meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
import secrets
import select
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from collectives import Options
from collectives._native import ffi, lib
from collectives._native.engine import Engine, EngineGroup, EnginePeer

DEADLINE = 20.0
MAGIC = b"COLLPEER"
OK, VERSION, UNKNOWN, NOT_ME = range(4)
DATA, OPEN, QUERY, TOKEN, SUPPLY, GOODBYE, VOID, ALIVE = range(1, 9)
FETCH, CHUNK, BREAK = 14, 15, 16
LATER_TYPES = tuple(range(9, 14))  # watermarks and what is passed on in a round
EAGER, ACK_NOW = 1, 2
HEADER = struct.Struct("<HBBHHIIQQQIIQQQQIIQBBBBIQI5xBH")


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.001)
    return value


# ---- messages --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Hello:
    sender: uuid.UUID
    to: uuid.UUID
    group: int = 2
    term: int = 1
    view: int = 1
    low: int = 1
    high: int = 1
    slot: int = 0
    flags: int = 0
    length: int = 160
    magic: bytes = MAGIC

    def encode(self) -> bytes:
        head = self.magic + struct.pack("<IHHIIHH4x", self.length, self.low, self.high, 0,
                                        self.group, self.slot, self.flags)  # fmt: skip
        middle = struct.pack("<QQ", self.term, self.view) + self.sender.bytes + self.to.bytes
        return (head + middle + secrets.token_bytes(32)).ljust(160, b"\0")


@dataclasses.dataclass
class Frame:
    type: int = DATA
    flags: int = 0
    payload: bytes = b""
    sequence: int = 1
    acknowledged: int = 0
    consumed: int = 0
    group: int = 2
    tag: int = 0
    term: int = 1
    view: int = 1
    operation: int = 1
    attempt: int = 1
    message: int = 0
    offset: int = 0
    kind: int = lib.COLL_ALL_REDUCE
    dtype: int = lib.COLL_I64
    op: int = lib.COLL_SUM
    root: int = 0
    count: int = 0
    place: int = 0
    plan: int | None = None  # None: what an engine of two makes of the call
    # what an honest peer never varies
    length: int | None = None
    crc: int | None = None
    magic: int = 0xC011
    version: int = 1
    header: int = 128

    def encode(self) -> bytes:
        length = len(self.payload) if self.length is None else self.length
        crc = crc32c(self.payload) if self.crc is None else self.crc
        head = HEADER.pack(
            self.magic, self.version, self.type, self.flags, self.header, length, crc,
            self.sequence, self.acknowledged, self.consumed, self.group, self.tag, self.term,
            self.view, self.operation, 0, self.attempt, self.message, self.offset, self.kind,
            self.dtype, self.op, 0, self.root, self.count, self.place,
            self._usual() if self.plan is None else self.plan, 0,
        )  # fmt: skip
        return head + struct.pack("<I", crc32c(head)) + self.payload

    def _usual(self) -> int:
        nbytes = min(8 * self.count, 2**63)
        return 1 + int(lib.coll_plan_choose(self.kind, nbytes, 2, 0, ffi.NULL))


def decode(head: bytes) -> Frame:
    assert len(head) == 128 and struct.unpack_from("<I", head, 124)[0] == crc32c(head[:124])
    field = HEADER.unpack(head[:124])
    return Frame(
        type=field[2], flags=field[3], length=field[5], crc=field[6], sequence=field[7],
        acknowledged=field[8], consumed=field[9], group=field[10], tag=field[11], term=field[12],
        view=field[13], operation=field[14], attempt=field[16], message=field[17],
        offset=field[18], kind=field[19], dtype=field[20], op=field[21], root=field[23],
        count=field[24], place=field[25], plan=field[26],
    )  # fmt: skip


def crc32c(data: bytes) -> int:
    return int(lib.coll_crc32c(0, data, len(data), lib.COLL_ISA_AUTO))


def proof(key: bytes, role: bytes, *said: bytes) -> bytes:
    return hmac.digest(key, role + b"".join(said), "sha256")


# ---- the peer --------------------------------------------------------------------------------


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    made = socket.create_connection((host.strip("[]"), int(port)), DEADLINE)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def read(connection: socket.socket, length: int) -> bytes:
    """So many bytes, or fewer if it ends before."""
    data = b""
    while len(data) < length:
        try:
            part = connection.recv(length - len(data))
        except ConnectionResetError:
            break
        if not part:
            break
        data += part
    return data


def is_closed(connection: socket.socket, seconds: float = DEADLINE) -> bool:
    """Whether the other side closes within the time; what it says until then is dropped."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([connection], [], [], left)[0]:
            try:
                if not connection.recv(1 << 16):
                    return True
            except OSError:
                return True
    return False


def greet(connection: socket.socket, hello: bytes, key: bytes) -> tuple[bytes, bytes]:
    """Say hello and prove the key; the messages HELLO + PROOF, and WELCOME."""
    connection.sendall(hello)
    welcome = read(connection, 104)
    assert len(welcome) == 104 and welcome[:8] == MAGIC
    assert struct.unpack_from("<H", welcome, 12)[0] == OK
    assert welcome[72:] == proof(key, b"a", hello, welcome[:72]), "the acceptor's proof"
    mine = b"PROOF\0\0\0" + proof(key, b"d", hello, welcome)
    connection.sendall(mine)
    return hello + mine, welcome


def read_frame(connection: socket.socket) -> Frame | None:
    """The next frame that is no ALIVE, with its payload; None at the end."""
    while True:
        head = read(connection, 128)
        if len(head) < 128:
            return None
        frame = decode(head)
        frame.payload = read(connection, frame.length or 0)
        if frame.type != ALIVE:
            return frame


# ---- the engines -----------------------------------------------------------------------------


class Call:
    """One operation on a native group, to be waited for."""

    def __init__(
        self, group: EngineGroup, kind: int, array: np.ndarray | None, root: int = 0, tag: int = 0,
        seconds: float = DEADLINE,
    ) -> None:  # fmt: skip
        call = ffi.new("struct coll_call *")
        call.kind, call.root, call.tag = kind, root, tag
        call.timeout_ns = int(seconds * 1e9)
        if array is not None:
            call.dtype, call.count = lib.COLL_I64, array.size
            call.input = call.output = ffi.cast("void *", array.ctypes.data)
        self._array = array
        out = ffi.new("struct coll_operation **")
        status = lib.coll_issue(group.handle, call, out)
        assert status == lib.COLL_OK, ffi.string(lib.coll_last_error())
        self._operation = out[0]

    def done(self) -> bool:
        return bool(lib.coll_test(self._operation) != lib.COLL_IN_PROGRESS)

    def wait(self) -> tuple[int, str]:
        """The status and its text; releases the operation."""
        status = lib.coll_wait(self._operation, 2**62)
        text = ffi.string(lib.coll_operation_error(self._operation)).decode()
        lib.coll_operation_release(self._operation)
        return status, text


def open_group(
    engine: Engine, group_id: int, me: int, peers: list[EnginePeer], key: bytes, fixed: bool = False
) -> EngineGroup:
    group = EngineGroup(engine, group_id, f"g{group_id}")
    group.prepare(
        term=1, number=1, first_operation=1, rank=me, peers=tuple(peers), key=key, fixed=fixed
    )
    return group


class Pair:
    """Engines A and B; group 1 are both, and reduces all the time between ``start`` and the end.

    Group 2 are A (rank 0) and ``raw`` (rank 1), whom nobody can dial: the test plays him.

    Args:
        raw: his id.
        fixed: whether group 2 has a fixed view.
        options: of both engines.
    """

    def __init__(self, raw: uuid.UUID | None = None, fixed: bool = False, **options: Any) -> None:
        self.ids = [uuid.uuid4(), uuid.uuid4()]
        self.raw = raw or uuid.uuid4()
        self.key, self.raw_key = secrets.token_bytes(32), secrets.token_bytes(32)
        chosen = Options(bind=("127.0.0.1",), **options)
        self.engines = [Engine(chosen, peer_id) for peer_id in self.ids]
        self.a, self.b = self.engines
        peers = [
            EnginePeer(peer_id, name, engine.addresses)
            for peer_id, name, engine in zip(self.ids, "AB", self.engines, strict=True)
        ]
        self.groups = [
            open_group(engine, 1, rank, peers, self.key) for rank, engine in enumerate(self.engines)
        ]
        self.raw_group = open_group(
            self.a, 2, 0, [peers[0], EnginePeer(self.raw, "raw", ())], self.raw_key, fixed
        )
        for group in self.groups:
            until(lambda group=group: _is_ready(group), "A and B did not connect")
            group.commit(1, 1, 1)
        self.raw_group.commit(1, 1, 1)
        self.rounds = 0
        self._stop = False
        self._errors: list[str] = []
        self._threads: list[threading.Thread] = []

    def hello(self, **changes: Any) -> bytes:
        return Hello(**{"sender": self.raw, "to": self.ids[0], **changes}).encode()

    def member(self, **changes: Any) -> socket.socket:
        """An authenticated connection of the raw member to A."""
        connection = connect(self.a.addresses[0])
        greet(connection, self.hello(**changes), self.raw_key)
        return connection

    def start(self, size: int = 3000) -> None:
        """Let A and B reduce, without a break and every element checked, until the end."""
        for rank in range(2):
            thread = threading.Thread(target=self._reduce, args=(rank, size), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _reduce(self, rank: int, size: int) -> None:
        number = 0
        while True:
            array = np.arange(size, dtype=np.int64) * (rank + 1) + number
            array[0] = self._stop
            status, text = Call(self.groups[rank], lib.COLL_ALL_REDUCE, array).wait()
            if status != lib.COLL_OK:
                self._errors.append(text)
                return
            expected = np.arange(size, dtype=np.int64) * 3 + 2 * number
            if array[1:].tobytes() != expected[1:].tobytes():
                self._errors.append(f"wrong result of operation {number}")
                return
            number += 1
            if rank == 0:
                self.rounds = number
            if array[0]:
                return

    def is_unharmed(self) -> None:
        """The reductions go on, and were right so far."""
        before = self.rounds
        until(lambda: self._errors or self.rounds > before + 3, "the reductions stopped")
        assert not self._errors

    def count(self, name: str) -> int:
        return int(getattr(self.a.counters(), name))

    def counts(self, name: str, more: int) -> Counting:
        """As a context: at its end A has counted exactly so many more."""
        return Counting(self, name, more)

    def __enter__(self) -> Pair:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join(DEADLINE)
        for group in (*self.groups, self.raw_group):
            group.close()
        for engine in self.engines:
            engine.close()
        assert not self._errors and not any(thread.is_alive() for thread in self._threads)


class Counting:
    def __init__(self, pair: Pair, name: str, more: int) -> None:
        self._pair, self._name, self._more = pair, name, more

    def __enter__(self) -> None:
        self._before = self._pair.count(self._name)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        wanted = self._before + self._more
        with contextlib.suppress(AssertionError):
            until(lambda: self._pair.count(self._name) >= wanted, "")
        assert self._pair.count(self._name) == wanted, (self._name, self._pair.a.counters())


def _is_ready(group: EngineGroup) -> bool:
    while event := group.next_event():
        if event.kind == lib.COLL_EVENT_VIEW_READY:
            return True
    return False
