"""Links as they are elsewhere: data.

The proxy (``shaper``) imposes it on connections, the emulator (``wan``) on packets. The proxy ends
TCP on either side, so a connection is not held back by its window and round trip as a real one is.
The queue stands for that: a connection carries at most ``queue / delay``. Where a profile's queue
is less than ``rate * delay``, several connections are needed to fill the link. To the emulator the
queue is a router's, and it alone knows of losses and of order.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Direction:
    """One direction of a link.

    Attributes:
        rate: bit/s of all connections together; 0: unlimited.
        delay: one-way, seconds.
        jitter: seconds; each chunk is late by a random share of it, and none overtakes another.
        queue: bytes under way in one connection before its sender must wait (4 KiB to 1 GiB); to
            the emulator, bytes that may wait in the router before packets are dropped.
        loss: share of the packets that are lost. The proxy ignores this and what follows: its TCP
            ends at either side, where nothing is lost.
        burst: how many are lost in a row, on average; 1: each for itself.
        reorder: share of the packets that are late, so that others overtake them.
        duplicate: share of the packets that arrive twice.
    """

    rate: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    queue: int = 4 << 20
    loss: float = 0.0
    burst: int = 1
    reorder: float = 0.0
    duplicate: float = 0.0


@dataclasses.dataclass(frozen=True)
class Profile:
    """A link between two sides.

    Attributes:
        name: by which the command line knows it.
        up: from who dials to whom it dials.
        down: back.
        model: what it is modelled on, a sentence.
    """

    name: str
    up: Direction
    down: Direction
    model: str

    @property
    def round_trip(self) -> float:
        """Seconds of the shortest round trip: both delays, no jitter."""
        return self.up.delay + self.down.delay


def _symmetric(name: str, direction: Direction, model: str) -> Profile:
    return Profile(name, direction, direction, model)


_ALL = (
    _symmetric("unshaped", Direction(), "Nothing: what the proxy itself costs."),
    _symmetric(
        "lan",
        Direction(rate=1e9, delay=0.1e-3, jitter=0.02e-3, queue=1 << 20),
        "Gigabit Ethernet through one switch.",
    ),
    _symmetric(
        "gigabit",
        Direction(rate=1e9, queue=1 << 20),
        "A gigabit per host and no delay at all: what the kernel's own links can be (veth).",
    ),
    Profile(
        "wifi",
        Direction(rate=200e6, delay=1.5e-3, jitter=3e-3, queue=1 << 20),
        Direction(rate=300e6, delay=1.5e-3, jitter=3e-3, queue=1 << 20),
        "Wi-Fi 5 (802.11ac, 80 MHz, two streams) a room away from the access point, shared air.",
    ),
    Profile(
        "dsl",
        Direction(rate=10e6, delay=10e-3, jitter=1e-3, queue=128 << 10),
        Direction(rate=50e6, delay=10e-3, jitter=1e-3, queue=512 << 10),
        "VDSL2 50/10 to a server in the same country; buffers hold about 100 ms.",
    ),
    _symmetric(
        "transatlantic",
        Direction(rate=1e9, delay=40e-3, jitter=0.5e-3, queue=2 << 20),
        "Data centres in New York and London, a round trip of 80 ms; one connection with Linux's"
        " default windows carries some 400 Mbit/s of it.",
    ),
    _symmetric(
        "lossy",
        Direction(
            rate=200e6, delay=40e-3, jitter=2e-3, queue=2 << 20, loss=0.01, burst=3, reorder=0.002
        ),
        "The same distance over a congested public path: 1 % of the packets lost, in bursts, some"
        " out of order. The proxy cannot lose packets, and gives the rate and the delay alone.",
    ),
    Profile(
        "5g",
        Direction(rate=40e6, delay=12e-3, jitter=15e-3, queue=1 << 20),
        Direction(rate=200e6, delay=12e-3, jitter=10e-3, queue=2 << 20),
        "5G at 3.5 GHz on a phone or a home router, where the uplink waits for its grants.",
    ),
)

PROFILES: dict[str, Profile] = {profile.name: profile for profile in _ALL}
