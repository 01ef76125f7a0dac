"""A peer of the shared-memory transport in plain Python: a local socket, a memfd and ctypes.

What the core's own code would never write is written with it; and that it gets along with the core
at all shows that the layout is what ``transport/shm/shm.h`` says.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import secrets
import socket
import struct
import uuid
from typing import Any

from raw_peer import DEADLINE, MAGIC, OK, Hello, Pair, proof

LAYOUT, LINE, LANES, UNITS = 1, 64, 128, 256
RING_BYTES, UNIT_BYTES, INLINE_BYTES = 128 << 10, 32 << 10, 8 << 10
HELLO_BYTES, WELCOME_BYTES, PROOF_BYTES = 160, 104, 40
OFFER = struct.Struct("<II Q")
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
GENERATION = 1


class Header(ctypes.Structure):
    _fields_ = [
        ("magic", ctypes.c_char * 8),
        ("layout", ctypes.c_uint32),
        ("lanes", ctypes.c_uint32),
        ("units", ctypes.c_uint32),
        ("_1", ctypes.c_uint8 * 44),
        ("sleeping", ctypes.c_uint32),
        ("_2", ctypes.c_uint8 * 60),
        ("beat", ctypes.c_uint64),
        ("_3", ctypes.c_uint8 * 56),
    ]


class Lane(ctypes.Structure):
    _fields_ = [
        ("generation", ctypes.c_uint64),
        ("_1", ctypes.c_uint8 * 56),
        ("published", ctypes.c_uint64),
        ("starved", ctypes.c_uint32),
        ("_2", ctypes.c_uint8 * 52),
        ("taken", ctypes.c_uint64),
        ("consumed", ctypes.c_uint64),
        ("streams", ctypes.c_uint32),
        ("_3", ctypes.c_uint8 * 44),
        ("done", ctypes.c_uint32 * UNITS),
        ("ring", ctypes.c_uint8 * RING_BYTES),
    ]


class Entry(ctypes.Structure):
    """With the frame; what the tests do not vary stays 0."""

    _fields_ = [
        ("bytes", ctypes.c_uint32),
        ("unit", ctypes.c_uint16),
        ("units", ctypes.c_uint16),
        ("number", ctypes.c_uint32),
        ("skip", ctypes.c_uint16),
        ("streamed", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("flags", ctypes.c_uint16),
        ("length", ctypes.c_uint32),
        ("payload_crc", ctypes.c_uint32),
        ("sequence", ctypes.c_uint64),
        ("acknowledged", ctypes.c_uint64),
        ("consumed", ctypes.c_uint64),
        ("group", ctypes.c_uint32),
        ("tag", ctypes.c_uint32),
        ("term", ctypes.c_uint64),
        ("view", ctypes.c_uint64),
        ("operation", ctypes.c_uint64),
        ("watermark", ctypes.c_uint64),
        ("attempt", ctypes.c_uint32),
        ("message", ctypes.c_uint32),
        ("offset", ctypes.c_uint64),
        ("place", ctypes.c_uint32),
        ("kind", ctypes.c_uint8),
        ("dtype", ctypes.c_uint8),
        ("op", ctypes.c_uint8),
        ("codec", ctypes.c_uint8),
        ("root", ctypes.c_uint32),
        ("count", ctypes.c_uint64),
    ]


class Segment(ctypes.Structure):
    _fields_ = [
        ("header", Header),
        ("lanes", Lane * LANES),
        ("_", ctypes.c_uint8 * (-(ctypes.sizeof(Header) + LANES * ctypes.sizeof(Lane)) % 4096)),
        ("units", (ctypes.c_uint8 * UNIT_BYTES) * UNITS),
    ]


SIZE = ctypes.sizeof(Segment)


def entry_bytes(length: int) -> int:
    return -(-(ctypes.sizeof(Entry) + length) // LINE) * LINE


def name_of(peer: uuid.UUID) -> str:
    return f"\0collectives/{LAYOUT}/{peer.hex}"


def connect(peer: uuid.UUID) -> socket.socket:
    """A connection to its local socket."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.connect(name_of(peer))  # waits while many others do
    made.settimeout(DEADLINE)
    return made


def make_segment(size: int = SIZE, seals: int = SEALS) -> int:
    fd = os.memfd_create("made-up", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


class RawShm:
    """The raw member of a ``Pair`` that was made with ``listening()``; it dials A.

    Args:
        pair: whose member it is.
        segment: what it hands over instead of a proper segment; closed at the end.
    """

    def __init__(self, pair: Pair, segment: int | None = None) -> None:
        self._pair = pair
        self.connection = connect(pair.ids[0])
        hello = Hello(sender=pair.raw, to=pair.ids[0]).encode()
        self.connection.sendall(hello)
        welcome = self.connection.recv(1000)
        assert len(welcome) == WELCOME_BYTES and welcome[:8] == MAGIC
        assert struct.unpack_from("<H", welcome, 12)[0] == OK
        assert welcome[72:] == proof(pair.raw_key, b"a", hello, welcome[:72])
        self.proof = b"PROOF\0\0\0" + proof(pair.raw_key, b"d", hello, welcome)
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)
        self.memory = make_segment() if segment is None else segment
        self.mine = None
        self._number = 0

    def offer(self, fds: list[int], lane: int = 0, generation: int = GENERATION) -> None:
        body = self.proof + OFFER.pack(lane, 0, generation)
        socket.send_fds(self.connection, [body], fds)

    def hand_over(self) -> None:
        """Exchange segments, properly."""
        self._map = mmap.mmap(self.memory, SIZE)
        self.mine = Segment.from_buffer(self._map)
        self.mine.header.magic = b"coll-shm"
        self.mine.header.layout, self.mine.header.lanes = LAYOUT, LANES
        self.mine.header.units = UNITS
        self.lane = self.mine.lanes[0]
        self.lane.generation = GENERATION
        self.offer([self.memory, self.wake])
        body, fds, _, _ = socket.recv_fds(self.connection, 1000, 4)
        assert len(fds) == 2
        self._theirs, self._signal = fds
        index, _, generation = OFFER.unpack(body)
        self._seen = mmap.mmap(self._theirs, SIZE, prot=mmap.PROT_READ)
        where = ctypes.sizeof(Header) + index * ctypes.sizeof(Lane)
        self.answers = Lane.from_buffer_copy(self._seen[where : where + ctypes.sizeof(Lane)])
        assert self.answers.generation == generation

    def write(self, payload: bytes = b"", **fields: Any) -> None:
        """Put an entry into the ring; what an honest peer never varies may be given, too."""
        assert self.mine is not None
        self._number += 1
        entry = Entry(number=self._number, length=len(payload), group=2, term=1, view=1)
        entry.bytes = entry_bytes(len(payload))
        for name, value in fields.items():
            setattr(entry, name, value)
        at = self.lane.published % RING_BYTES
        ctypes.memmove(ctypes.addressof(self.lane.ring) + at, bytes(entry) + payload,
                       ctypes.sizeof(Entry) + len(payload))  # fmt: skip
        self.publish(self.lane.published + entry_bytes(len(payload)))

    def publish(self, upto: int) -> None:
        self.lane.published = upto
        os.eventfd_write(self._signal, 1)

    def close(self) -> None:
        self.connection.close()
        if self.mine is not None:
            del self.lane, self.mine
            self._map.close()
            self._seen.close()
            os.close(self._theirs)
            os.close(self._signal)
        os.close(self.memory)
        os.close(self.wake)

    def __enter__(self) -> RawShm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def listening(peer: uuid.UUID) -> socket.socket:
    """A local socket at which nobody answers, but with which a peer counts as one of this host."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.bind(name_of(peer))
    made.listen(128)
    return made


def new_id() -> uuid.UUID:
    """One below all others, so that its owner dials."""
    return uuid.UUID(int=secrets.randbits(64))
