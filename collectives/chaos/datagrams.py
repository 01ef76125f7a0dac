"""UDP packets that are counted: what a link loses and reorders, as seen from outside."""

from __future__ import annotations

import dataclasses
import socket
import struct
import threading
import time

_PACE = 0.001  # seconds from one handful to the next
_HANDFUL = 4
_SIZE = 100  # bytes: 3.2 Mbit/s, which no profile's queue drops
_ROOM = 8 << 20


@dataclasses.dataclass(frozen=True)
class Fate:
    """What became of them.

    Attributes:
        sent: packets.
        lost: share that did not come.
        reordered: share of those that came, that came after one that was sent later.
        duplicated: share of those sent that came again.
    """

    sent: int
    lost: float
    reordered: float
    duplicated: float


def bound(host: str) -> socket.socket:
    """A socket with an address, where the calling thread is."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
    made.bind((host, 0))
    return made


def send(sender: socket.socket, receiver: socket.socket, seconds: float, patience: float) -> Fate:
    """Send numbered packets at an even pace, and count what comes.

    Args:
        sender: where they leave.
        receiver: where they arrive.
        seconds: for how long.
        patience: seconds to wait for the next one at the end.
    """
    came: list[int] = []

    def receive() -> None:
        receiver.settimeout(patience)
        try:
            while True:
                came.append(struct.unpack_from("q", receiver.recv(_SIZE))[0])
        except TimeoutError:
            pass

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    target, sent, until = receiver.getsockname(), 0, time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(_HANDFUL):
            sender.sendto(struct.pack("q", sent).ljust(_SIZE), target)
            sent += 1
        time.sleep(_PACE)
    thread.join()
    highest, late, seen = -1, 0, set[int]()
    for number in came:
        late += number < highest and number not in seen
        highest = max(highest, number)
        seen.add(number)
    return Fate(
        sent=sent,
        lost=1 - len(seen) / sent,
        reordered=late / max(1, len(seen)),
        duplicated=(len(came) - len(seen)) / sent,
    )
