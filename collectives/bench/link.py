"""What all-reduces carry over a long link: one TCP connection, and as many as the library opens.

Two peers, each in a network namespace, are joined by the emulator of wide-area networks, so that
the kernel's own TCP meets rate, delay and loss. Several operations are under way at a time, as
where communication goes on beside work: the rate is that of the link, not of one call's beginning
and end. It takes root.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import re
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import collectives
from collectives.bench.hosts import hear
from collectives.chaos import namespaces
from collectives.chaos.profiles import Direction, Profile
from collectives.chaos.wan import Wan
from collectives.errors import InvalidArgument

_UNDER_WAY = 4
_PATIENCE = 60.0  # seconds beyond those of the measurement


@dataclasses.dataclass(frozen=True)
class Carried:
    """What one way of the link carried while operations went on, in bit/s.

    Attributes:
        payload: of the operations, each way.
        wire: of IP packets that the emulator delivered from the first peer to the other.
        connections: that were open at the end.
        broken: connections that were lost meanwhile.
        wrong: elements of the results.
    """

    payload: float
    wire: float
    connections: int
    broken: int
    wrong: int


@dataclasses.dataclass(frozen=True)
class LinkResult:
    """Both figures beside each other.

    Attributes:
        direction: what the link was like, each way.
        mtu: bytes of a packet at most.
        one: with one connection.
        adaptive: with as many as the library opened.
    """

    direction: Direction
    mtu: int
    one: Carried
    adaptive: Carried

    @property
    def wrong(self) -> int:
        """Elements, of both."""
        return self.one.wrong + self.adaptive.wrong

    def lines(self) -> list[str]:
        """For people."""
        there = self.direction
        lines = [
            f"link       {there.rate / 1e6:.0f} Mbit/s, round trip {there.delay * 2e3:g} ms,"
            f" {there.loss:.3%} of packets lost, {self.mtu} bytes each (emulated)"
        ]
        for name, carried in (("one", self.one), ("adaptive", self.adaptive)):
            lines.append(
                f"{name:<10} {carried.wire / 1e6:.0f} Mbit/s of packets each way,"
                f" {carried.wire / there.rate:.1%} of the link; {carried.payload / 1e6:.0f} Mbit/s"
                f" of payload; connections: {carried.connections}"
            )
        return [*lines, f"wrong      {self.wrong} elements"]


_UNITS = {"": 1e0, "K": 1e3, "M": 1e6, "G": 1e9}
_QUEUE = 0.5  # of what is under way in a round trip: what the router's buffer holds


def parse(rate: str, rtt: float, loss: float) -> Direction:
    """Return one way of a link, from what people write.

    Args:
        rate: ``"200M"`` or ``"1G"``, in bit/s.
        rtt: milliseconds of a round trip.
        loss: percent of the packets.

    Raises:
        InvalidArgument: there is no such rate.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)", rate.strip().upper())
    if match is None or float(match[1]) == 0:
        raise InvalidArgument(f"{rate!r} is no rate; write for example 200M or 1G, in bit/s")
    bits = float(match[1]) * _UNITS[match[2]]
    queue = max(256 << 10, int(bits / 8 * rtt / 1e3 * _QUEUE))
    return Direction(rate=bits, delay=rtt / 2e3, queue=queue, loss=loss / 100)


def measure(
    direction: Direction,
    size: int = 64 << 20,
    seconds: float = 10.0,
    warm_up: float = 35.0,
    send_buffer: int = 0,
    mtu: int = 1500,
) -> LinkResult:
    """Measure a link that is the same in both directions.

    Args:
        direction: the link; its rate must not be 0.
        size: bytes of each all-reduce.
        seconds: of each figure.
        warm_up: seconds before it, in which TCP and the library find their pace.
        send_buffer: bytes that a connection's may have (net.ipv4.tcp_wmem); 0: the system's.
        mtu: bytes of a packet at most. Large ones let the emulator keep up with a fast link.

    Raises:
        BenchError: a process failed or did not answer in time.
        UnsupportedError: namespaces cannot be had.
    """
    return LinkResult(
        direction,
        mtu,
        _carry(direction, 1, size, seconds, warm_up, send_buffer, mtu),
        _carry(direction, 0, size, seconds, warm_up, send_buffer, mtu),
    )


def _carry(
    direction: Direction,
    connections: int,
    size: int,
    seconds: float,
    warm_up: float,
    send_buffer: int,
    mtu: int,
) -> Carried:
    context = multiprocessing.get_context("spawn")
    processes: list[Any] = []
    pipes: list[Connection] = []

    patience = seconds + warm_up + _PATIENCE
    with Wan(seed=1) as wan:
        try:
            hosts = [wan.host(name) for name in ("near", "far")]
            wan.link("near", "far", Profile("bench", direction, direction, ""))
            coordinator = ""
            for rank, name in enumerate(("near", "far")):
                wan.namespace(name).run(lambda: _configure(send_buffer, mtu))
                ours, theirs = context.Pipe()
                peer = (wan.namespace(name).path, hosts[rank], coordinator, connections, size)
                process = context.Process(target=_main, args=(theirs, *peer), daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
                pipes.append(ours)
                coordinator = coordinator or hear(ours, patience)
            for span in (warm_up, seconds):
                before = wan.stats("near", "far").bytes
                pipes[0].send(span)
                done, took, count, broken, wrong = hear(pipes[0], patience)
                packets = wan.stats("near", "far").bytes - before
            return Carried(done * 8 / took, packets * 8 / took, count, broken, wrong)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _configure(send_buffer: int, mtu: int) -> None:
    """The namespace that this thread is in."""
    if send_buffer:
        Path("/proc/sys/net/ipv4/tcp_wmem").write_text(f"4096 16384 {send_buffer}")
    for _, device in socket.if_nameindex():
        if device != "lo":
            namespaces.set_mtu(device, mtu)


def _main(
    pipe: Connection, namespace: str, host: str, coordinator: str, connections: int, size: int
) -> None:
    try:
        namespaces.enter(namespace)
        if coordinator:
            _peer(pipe, host, coordinator, connections, size)
        else:
            with collectives.Coordinator(f"{host}:0") as made:
                pipe.send(made.address)
                _peer(pipe, host, made.address, connections, size)
    except Exception as error:
        pipe.send(error)


def _peer(pipe: Connection, host: str, coordinator: str, connections: int, size: int) -> None:
    options = collectives.Options(bind=(host,), connections=connections)
    first = host.endswith(".1")
    name = "near" if first else "far"
    with collectives.join(coordinator, name=name, min_size=2, options=options) as group:
        inputs = [np.full(size // 4, place + 1, np.float32) for place in range(_UNDER_WAY)]
        outputs = [np.empty_like(array) for array in inputs]
        go_on = np.zeros(1, np.float32)
        while True:
            span = pipe.recv() if first else 0.0
            began, finished, wrong, more = time.monotonic(), 0, 0, True
            works = [_begin(group, inputs, outputs, place) for place in range(_UNDER_WAY)]
            while more:
                place = finished % _UNDER_WAY
                works[place].wait()
                wrong += int(np.count_nonzero(outputs[place] != 2 * (place + 1)))
                finished += 1
                # Both must end after the same one: the first says, while the other is under way.
                go_on[0] = first and time.monotonic() - began < span
                more = bool(group.all_reduce(go_on, tag=0).value[0])
                if more:
                    works[place] = _begin(group, inputs, outputs, place)
            for work in works:
                work.wait()
            took = time.monotonic() - began
            if first:
                done = (finished + _UNDER_WAY - 1) * size
                now = group.counters()
                pipe.send((done, took, now.open_connections, now.connections_lost, wrong))


def _begin(group: Any, inputs: Any, outputs: Any, place: int) -> collectives.Work:
    work: collectives.Work = group.all_reduce_async(
        inputs[place], out=outputs[place], tag=place + 1
    )
    return work
