"""What a profile delivers: its rates and its round trip, measured.

That is through the proxy, or through the emulator, and then its losses are counted, too. Both ends
are in this process, so that the figures are what a peer on this machine would get.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator

from collectives.chaos import datagrams
from collectives.chaos.profiles import Profile
from collectives.chaos.shaper import Shaper
from collectives.chaos.wan import Wan

CONNECTIONS = 4
"""Of a measurement of rate: one alone does not fill a long link."""
PING_INTERVAL = 0.005
_PATIENCE = 30.0
_BLOCK = 1 << 18


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was delivered.

    Attributes:
        profile: the nominal values.
        up: bit/s from who dials to whom it dials.
        down: bit/s back.
        ping_median: seconds of a round trip of 8 bytes.
        ping_p99: seconds; 99 of 100 round trips were not slower.
        packets: what became of UDP packets on the way up; None: through the proxy, which has none.
    """

    profile: Profile
    up: float
    down: float
    ping_median: float
    ping_p99: float
    packets: datagrams.Fate | None = None


def measure(profile: Profile, seconds: float = 1.0, namespaces: bool = False) -> Measurement:
    """Measure one profile: ``seconds`` of pings, then as long in each direction.

    Args:
        profile: the link.
        seconds: of each figure.
        namespaces: whether through the emulator instead of the proxy.

    Raises:
        OSError: a connection failed.
        UnsupportedError: namespaces cannot be had.
    """
    medium = _through_emulator if namespaces else _through_proxy
    with medium(profile) as ends:
        pings = _pings(ends, seconds)
        up, down = (_rate(ends, seconds, profile, up=up) for up in (True, False))
        return Measurement(
            profile=profile,
            up=up,
            down=down,
            ping_median=statistics.median(pings),
            ping_p99=sorted(pings)[int(0.99 * (len(pings) - 1))],
            packets=None if ends.packets is None else ends.packets(seconds),
        )


Pair = tuple[socket.socket, socket.socket]


@dataclasses.dataclass(frozen=True)
class _Ends:
    """Two ends of a link: how one connects, on what the other listens, how packets go up."""

    connect: Callable[[], socket.socket]
    listener: socket.socket
    packets: Callable[[float], datagrams.Fate] | None = None


@contextlib.contextmanager
def _through_proxy(profile: Profile) -> Iterator[_Ends]:
    with socket.create_server(("127.0.0.1", 0)) as listener, Shaper() as shaper:
        route = shaper.link(f"127.0.0.1:{listener.getsockname()[1]}", profile)
        host, _, port = route.address.rpartition(":")
        yield _Ends(lambda: socket.create_connection((host, int(port)), _PATIENCE), listener)


@contextlib.contextmanager
def _through_emulator(profile: Profile) -> Iterator[_Ends]:
    with contextlib.ExitStack() as stack:
        wan = stack.enter_context(Wan())
        near, far = (wan.host(name) for name in ("near", "far"))
        wan.link("near", "far", profile)
        here, there = wan.namespace("near"), wan.namespace("far")
        listener = stack.enter_context(there.run(lambda: socket.create_server((far, 0))))
        address = listener.getsockname()

        def packets(seconds: float) -> datagrams.Fate:
            with (
                here.run(lambda: datagrams.bound(near)) as sender,
                there.run(lambda: datagrams.bound(far)) as receiver,
            ):
                return datagrams.send(sender, receiver, seconds, patience=1 + profile.up.delay)

        yield _Ends(
            lambda: here.run(lambda: socket.create_connection(address, _PATIENCE)),
            listener,
            packets,
        )


@contextlib.contextmanager
def _pairs(ends: _Ends, count: int) -> Iterator[list[Pair]]:
    """Connections: the end that dialled, and the other one."""
    with contextlib.ExitStack() as stack:
        ends.listener.settimeout(_PATIENCE)
        pairs = []
        for _ in range(count):
            near = stack.enter_context(ends.connect())
            far = stack.enter_context(ends.listener.accept()[0])
            for end in (near, far):
                end.settimeout(_PATIENCE)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pairs.append((near, far))
        yield pairs


@contextlib.contextmanager
def _threads(*threads: threading.Thread) -> Iterator[None]:
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join(_PATIENCE)


def _echo(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := end.recv(_BLOCK):
            end.sendall(data)
        end.shutdown(socket.SHUT_WR)


def _send_pings(end: socket.socket, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        end.sendall(struct.pack("q", time.monotonic_ns()))
        time.sleep(PING_INTERVAL)
    end.shutdown(socket.SHUT_WR)


def _pings(ends: _Ends, seconds: float) -> list[float]:
    """Seconds of round trips.

    They are sent at an interval and not one after the other, so that a second suffices for many
    on a link of 80 ms.
    """
    with _pairs(ends, 1) as [(near, far)]:
        echo = threading.Thread(target=_echo, args=(far,), daemon=True)
        send = threading.Thread(target=_send_pings, args=(near, seconds), daemon=True)
        found: list[float] = []
        with _threads(echo, send):
            rest = b""
            while got := near.recv(_BLOCK):  # until the end of the pings has come back
                now = time.monotonic_ns()
                rest += got
                whole = len(rest) // 8 * 8
                found += [(now - sent) / 1e9 for (sent,) in struct.iter_unpack("q", rest[:whole])]
                rest = rest[whole:]
    return found


class _Sink(threading.Thread):
    """Receives on one connection and counts."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(daemon=True)
        self._end = end
        self.bytes = 0

    def run(self) -> None:
        room = bytearray(_BLOCK)
        with contextlib.suppress(OSError):
            while got := self._end.recv_into(room):
                self.bytes += got


def _flood(end: socket.socket) -> None:
    block = bytes(_BLOCK)
    with contextlib.suppress(OSError):
        while True:
            end.sendall(block)


def _rate(ends: _Ends, seconds: float, profile: Profile, *, up: bool) -> float:
    """Bit/s that arrive, once the queues are full."""
    with _pairs(ends, CONNECTIONS) as pairs:
        ways = [(near, far) if up else (far, near) for near, far in pairs]
        floods = [threading.Thread(target=_flood, args=(near,), daemon=True) for near, _ in ways]
        sinks = [_Sink(far) for _, far in ways]
        with _threads(*sinks, *floods):
            # The burst of the beginning is over; and TCP, where it is real, has found the rate.
            time.sleep(0.2 + profile.round_trip * (1 if ends.packets is None else 10))
            begun, before = time.monotonic(), sum(sink.bytes for sink in sinks)
            time.sleep(seconds)
            arrived, took = sum(sink.bytes for sink in sinks) - before, time.monotonic() - begun
            for pair in pairs:
                for end in pair:
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
    return arrived * 8 / took
