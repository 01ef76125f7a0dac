"""Peers on emulated hosts, and what travels between them.

Each host is a network namespace, and the emulator of wide-area networks joins them; the peers of
one host are processes that share memory. The coordinator is on a host of its own, to which links
are not limited. It takes root.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import socket
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import collectives
from collectives.bench.collective import COLLECTIVES, ROOT
from collectives.bench.pattern import Pattern, poison
from collectives.bench.ranks import BenchError
from collectives.chaos import namespaces
from collectives.chaos.profiles import Direction
from collectives.chaos.wan import Wan
from collectives.codec import Codec

_PATIENCE = 120.0
_COORDINATOR = "coordinator"
_GROUP = "bench"


def hear(pipe: Connection, seconds: float) -> Any:
    """What a process of the bench answers.

    Raises:
        BenchError: it died, did not answer within so many seconds, or answered with an exception.
    """
    if not pipe.poll(seconds):
        raise BenchError(f"a process of the bench did not answer within {seconds:g} s")
    try:
        answer = pipe.recv()
    except EOFError:
        raise BenchError("a process of the bench died") from None
    if isinstance(answer, Exception):
        raise BenchError(f"a process of the bench failed: {answer}")
    return answer


@dataclasses.dataclass(frozen=True)
class Layout:
    """Hosts, what joins them, and who is on them.

    Attributes:
        hosts: a letter for each rank, that of its host: ``"aabb"``.
        rate: bit/s that a path carries in each direction; 0: unlimited.
        shared: the rate is that of what a host sends to all others together, not of each pair.
        round_trip: seconds between two hosts.
        paths: devices of each host, each joined to those of the others by paths of its own.
        connections: TCP connections of a pair of peers, 0: as many as help.
        mtu: bytes of a packet at most. Large ones let the emulator keep up.
    """

    hosts: str
    rate: float
    shared: bool = False
    round_trip: float = 0.0
    paths: int = 1
    connections: int = 1
    mtu: int = 9000

    @property
    def direction(self) -> Direction:
        """One way of a path; a queue holds what is under way in a round trip, or 5 ms."""
        queue = max(256 << 10, int(self.rate / 8 * max(self.round_trip, 5e-3)))
        rate = 0.0 if self.shared else self.rate
        return Direction(rate=rate, delay=self.round_trip / 2, queue=queue)

    @property
    def names(self) -> list[str]:
        """The hosts."""
        return sorted(set(self.hosts))

    @property
    def ways(self) -> list[str]:
        """From which host to which: the letters of both, that of one host twice, too."""
        return [one + other for one in self.names for other in self.names]

    def devices(self, host: str) -> list[str]:
        """What a host's devices are called; the first is called like itself."""
        return [host, *(f"{host}/{network}" for network in range(1, self.paths))]

    def paths_between(self, one: str, other: str) -> list[tuple[str, str]]:
        """The devices at the ends of each path from one host to another."""
        return list(zip(self.devices(one), self.devices(other), strict=True))


@dataclasses.dataclass(frozen=True)
class Case:
    """One operation to be measured.

    Attributes:
        kind: as in ``COLLECTIVES``.
        algorithm: the plan; None: as the library chooses.
        bytes: of the buffer.
        codec: that a reduction's payloads are encoded by; "": none.
    """

    kind: str
    algorithm: str | None
    bytes: int
    codec: str = ""

    @property
    def encoded(self) -> int:
        """Bytes of the whole buffer, encoded."""
        return Codec(self.codec).encoded_bytes(self.bytes // 4) if self.codec else self.bytes


@dataclasses.dataclass(frozen=True)
class Measured:
    """What became of the calls of a case, all ranks together.

    Attributes:
        seconds: of each call: the mean over the ranks.
        checked: elements.
        wrong: of these.
        sent: bytes of a call from host to host by the peers' own telemetry, by the two letters;
            ``"aa"``: from one peer of a host to another.
        packets: the same between hosts, as the emulator saw them: IP packets with their headers.
    """

    seconds: tuple[float, ...]
    checked: int
    wrong: int
    sent: dict[str, float]
    packets: dict[str, float]


class Hosts:
    """The peers of a layout, joined; a context manager.

    Raises:
        UnsupportedError: it takes root, and /dev/net/tun; the message says what is missing.
        BenchError: a process failed, or did not answer in time.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        with contextlib.ExitStack() as stack:
            self.wan = stack.enter_context(Wan(seed=1))
            self._connect()
            stack.callback(self._end)
            self._start(stack)
            self._stack = stack.pop_all()

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, case: Case, calls: int) -> Measured:
        """Make some calls on all ranks, and check the results of each.

        Raises:
            BenchError: a rank failed, or did not answer in time.
        """
        before = self._packets()
        for pipe in self._pipes:
            pipe.send((case, calls))
        answers = [hear(pipe, _PATIENCE) for pipe in self._pipes]
        after = self._packets()
        sent = dict.fromkeys(self.layout.ways, 0.0)
        for rank, answer in enumerate(answers):
            for other, count in enumerate(answer.sent):
                sent[self.layout.hosts[rank] + self.layout.hosts[other]] += count / calls
        columns = zip(*(answer.seconds for answer in answers), strict=True)
        return Measured(
            tuple(sum(column) / len(column) for column in columns),
            sum(answer.checked for answer in answers),
            sum(answer.wrong for answer in answers),
            sent,
            {way: (after[way] - before[way]) / calls for way in before},
        )

    def _packets(self) -> dict[str, int]:
        """Bytes that have passed from host to host."""
        return {
            one + other: sum(
                self.wan.stats(*ends).bytes for ends in self.layout.paths_between(one, other)
            )
            for one, other in itertools.permutations(self.layout.names, 2)
        }

    def _connect(self) -> None:
        layout, wan, direction = self.layout, self.wan, self.layout.direction
        for name in layout.names:
            wan.host(name)
            for network in range(1, layout.paths):
                wan.device(name, network)
            wan.namespace(name).run(functools.partial(_set_mtu, layout.mtu))
        lines: dict[str, str | None] = dict.fromkeys(layout.names)
        if layout.shared:
            lines = {n: wan.line(f"from-{n}", layout.rate, direction.queue) for n in layout.names}
        for one, other in itertools.permutations(layout.names, 2):
            for ends in layout.paths_between(one, other):
                wan.shape(*ends, direction, lines[one])
        wan.host(_COORDINATOR)

    def _start(self, stack: contextlib.ExitStack) -> None:
        layout, wan = self.layout, self.wan

        # Its threads, and with them its sockets, belong where it is started.
        def coordinate() -> collectives.Coordinator:
            return stack.enter_context(collectives.Coordinator(f"{wan.address(_COORDINATOR)}:0"))

        coordinator = wan.namespace(_COORDINATOR).run(coordinate)
        context = multiprocessing.get_context("forkserver")  # which imports all of it once
        context.set_forkserver_preload([__name__])
        for rank, host in enumerate(layout.hosts):
            ours, theirs = context.Pipe()
            bind = tuple(wan.address(device) for device in layout.devices(host))
            options = {"bind": bind, "connections": layout.connections}
            peer = (wan.namespace(host).path, coordinator.address, rank, len(layout.hosts), options)
            process = context.Process(target=_main, args=(theirs, *peer), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
            # Ranks go by the order in which peers come.
            deadline = time.monotonic() + _PATIENCE
            while _known(coordinator) <= rank:
                if time.monotonic() > deadline or not process.is_alive():
                    raise BenchError(f"rank {rank} of the bench, on host {host!r}, did not come")
                time.sleep(0.01)
        for rank, pipe in enumerate(self._pipes):
            if hear(pipe, _PATIENCE) != rank:
                raise BenchError("the peers of the bench have other ranks than they came in")

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _known(coordinator: collectives.Coordinator) -> int:
    """How many peers have told the coordinator that they are there."""
    found = coordinator.state.groups.get(_GROUP)
    return len(found.peers) if found else 0


def _set_mtu(mtu: int) -> None:
    for _, device in socket.if_nameindex():
        if device != "lo":
            namespaces.set_mtu(device, mtu)


# ---- in the peers --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Answer:
    """Of one rank; `sent` are the bytes to each of the others, of all calls."""

    seconds: tuple[float, ...]
    checked: int
    wrong: int
    sent: tuple[int, ...]


def _main(
    pipe: Connection, namespace: str, coordinator: str, rank: int, size: int, options: Any
) -> None:
    try:
        namespaces.enter(namespace)
        with collectives.join(
            coordinator,
            group=_GROUP,
            name=f"rank-{rank}",
            min_size=size,
            timeout=_PATIENCE,
            options=collectives.Options(**options),
        ) as group:
            pipe.send(group.rank)
            while True:
                pipe.send(_run(group, *pipe.recv()))
    except Exception as error:
        pipe.send(error)


def _tolerance(pattern: Pattern, codec: Codec) -> float:
    """How far a sum can be off: each input is encoded once, and the sum of what is left of them."""

    def lost(block: np.ndarray) -> float:
        return float(np.abs(codec.decode(codec.encode(block), len(block)) - block).max())

    period = np.empty(codec.unit * pattern.period, np.float32)  # in every place of a unit
    total = np.zeros_like(period)
    most = 0.0
    for rank in range(pattern.ranks):
        pattern.fill(period, rank)
        total += period
        most += lost(period)
    return 1.5 * (most + lost(total))  # what is encoded last is not the exact sum


def _run(group: collectives.Group, case: Case, calls: int) -> _Answer:
    collective, rank, size = COLLECTIVES[case.kind], group.rank, group.size
    pattern = Pattern("float32", "sum" if collective.reduces else "none", size)
    count = case.bytes // pattern.storage.itemsize
    unit = count // size if collective.has_blocks else count
    inputs, outputs = collective.inputs(rank, size), collective.outputs(rank, size)
    source = np.empty(unit * len(inputs), pattern.storage)
    target = np.empty(unit * len(outputs), pattern.storage)
    names: dict[str, int] = {peer.name: number for number, peer in enumerate(group.peers)}
    seconds: list[float] = []
    wrong, sent = 0, [0] * size
    options: dict[str, Any] = {"algorithm": case.algorithm} if case.algorithm else {}
    if case.codec:
        options["codec"] = case.codec
    tolerance = _tolerance(pattern, Codec(case.codec)) if case.codec else 0.0
    if False not in collective.sides:  # what the root has is what all get
        source = target
    elif len(target):
        options["out"] = target
    if collective.rooted:
        options["root"] = ROOT
    begin = getattr(group, f"{case.kind}_async")
    for _ in range(calls):
        poison(target)
        for number, block in zip(inputs, source.reshape(max(1, len(inputs)), -1), strict=False):
            pattern.fill(block, rank, number)
        group.barrier()
        began = time.monotonic()
        work = begin(source if len(source) else None, **options)
        work.wait()
        seconds.append(time.monotonic() - began)
        for part, piece in zip(outputs, target.reshape(max(1, len(outputs)), -1), strict=False):
            wrong += pattern.count_wrong(piece, part, tolerance=tolerance)
        for use in work.telemetry().links:
            sent[names[use.peer]] += use.sent_bytes
    return _Answer(tuple(seconds), len(target) * calls, wrong, tuple(sent))
