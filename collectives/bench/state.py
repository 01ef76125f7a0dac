"""What it costs to give a newcomer the state: its rate, its sources, and the pause of the run.

Members hold a state and sync all the time; then one more peer joins and fetches it while it waits
for its admission; the sync that admits it has the rest to do. In the same run a broadcast between
two of the processes tells what their link carries. The state is compared byte for byte afterwards.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import collectives
from collectives.bench.ranks import BenchError

_PART = 64 << 20  # bytes of one tensor
_ROUNDS = 5
# Seconds of work between two syncs of the members, done elsewhere: on an accelerator, not on the
# cores that give the state.
_STEP = 2.0


@dataclasses.dataclass(frozen=True)
class StateResult:
    """Figures of one run; rates are GB/s (1e9), times seconds.

    Attributes:
        size: bytes of the state.
        members: how many gave it.
        transfer: from the newcomer's first request to its last before the admission.
        rate: ``size / transfer``.
        link: what a broadcast of as many bytes reaches between a member and the newcomer.
        shares: of the bytes that came, per source.
        sync: median of a member's ``sync`` in which nobody comes.
        left: bytes that were left to the sync that admitted the newcomer.
        pause: the member's longest ``sync`` in which the newcomer came, less ``sync``.
        wrong: bytes of the newcomer's state that are not the members'.
    """

    size: int
    members: int
    transfer: float
    rate: float
    link: float
    shares: dict[str, float]
    sync: float
    left: int
    pause: float
    wrong: int

    def lines(self) -> list[str]:
        """For people."""
        shares = ", ".join(f"{name} {share:.0%}" for name, share in sorted(self.shares.items()))
        return [
            f"state      {self.size / 2**20:.0f} MiB from {self.members} members",
            f"transfer   {self.transfer:.3f} s, {self.rate:.2f} GB/s:"
            f" {self.rate / self.link:.0%} of the link's {self.link:.2f} GB/s",
            f"sources    {shares}",
            f"sync       {self.sync:.3f} s when nobody comes",
            f"left       {self.left / 2**20:.0f} MiB for the sync that admits the newcomer",
            f"pause      {self.pause:.3f} s more for the newcomer,"
            f" {self.pause / self.transfer:.0%} of the transfer",
            f"wrong      {self.wrong} bytes",
        ]


def measure(
    size: int = 1 << 30,
    members: int = 3,
    connections: int = 1,
    timeout: float = 300.0,
    background: bool = True,
) -> StateResult:
    """Return what it costs to give a newcomer ``size`` bytes.

    Args:
        size: of the state.
        members: who have it.
        connections: per pair.
        timeout: seconds without an answer after which the run is given up.
        background: the newcomer fetches before it is admitted; else in the sync that admits it,
            and all wait.

    Raises:
        BenchError: a process failed or did not answer in time.
    """
    context = multiprocessing.get_context("spawn")
    processes: list[Any] = []
    pipes: list[Connection] = []

    def start(index: int, address: str) -> Connection:
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_main,
            args=(theirs, index, address, size, members, connections, background),
            daemon=True,
        )
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
        return ours

    def hear(pipe: Connection) -> Any:
        if not pipe.poll(timeout):
            raise BenchError(f"process {pipes.index(pipe)} did not answer within {timeout:g} s")
        try:
            answer = pipe.recv()
        except EOFError:
            raise BenchError(f"process {pipes.index(pipe)} died") from None
        if isinstance(answer, str):
            raise BenchError(answer)
        return answer

    with collectives.Coordinator("127.0.0.1:0") as coordinator:
        try:
            for index in range(members):
                start(index, coordinator.address)
            quiet = [hear(pipe) for pipe in pipes]
            newcomer = start(members, coordinator.address)
            transfer, received, left, wrong = hear(newcomer)
            longest = max(hear(pipe) for pipe in pipes[:members])
            link = max(hear(newcomer), hear(pipes[0]))
        finally:
            for process in processes:
                process.kill()
                process.join()
    sync = statistics.median(quiet)
    total = sum(received.values())
    shares = {name: came / total for name, came in received.items()}
    rate = size / transfer / 1e9
    pause = max(0.0, longest - sync)
    return StateResult(size, members, transfer, rate, link, shares, sync, left, pause, wrong)


def _main(
    pipe: Connection,
    index: int,
    address: str,
    size: int,
    members: int,
    connections: int,
    background: bool,
) -> None:
    try:
        options = collectives.Options(bind=("127.0.0.1",), connections=connections)
        if index < members:
            _member(pipe, index, address, size, members, options)
        else:
            _newcomer(pipe, address, size, options, background)
        if index in (0, members):
            pipe.send(_link(address, size, index == 0, options))
        pipe.poll(60)  # until it is killed: nobody leaves while others measure
    except Exception as error:
        pipe.send(f"process {index} failed: {type(error).__name__}: {error}")


def _content(size: int) -> dict[str, np.ndarray]:
    parts = range(0, size, _PART)
    return {
        f"part {at // _PART}": np.random.default_rng(at)
        .standard_normal(min(_PART, size - at) // 4, np.float32)
        .astype(np.float32)
        for at in parts
    }


def _member(
    pipe: Connection,
    index: int,
    address: str,
    size: int,
    members: int,
    options: collectives.Options,
) -> None:
    group = collectives.join(address, name=f"member-{index}", min_size=members, options=options)
    state = collectives.SharedState(_content(size))
    group.sync(state)
    times = []
    for _ in range(_ROUNDS):
        group.barrier()
        began = time.monotonic()
        group.sync(state)
        times.append(time.monotonic() - began)
    pipe.send(statistics.median(times))
    while group.size == members:
        time.sleep(_STEP)
        group.barrier()
        began = time.monotonic()
        group.sync(state)
        took = time.monotonic() - began
    pipe.send(took)


def _newcomer(
    pipe: Connection, address: str, size: int, options: collectives.Options, background: bool
) -> None:
    # Whoever trains has its tensors before it joins.
    state = collectives.SharedState(
        {name: np.ones(min(_PART, size - at) // 4, np.float32)
         for at in range(0, size, _PART) for name in (f"part {at // _PART}",)}
    )  # fmt: skip
    fetching = state if background else None
    group = collectives.join(address, name="newcomer", options=options, state=fetching)
    began = time.monotonic()
    outcome = group.sync(state)
    took, sources, left = time.monotonic() - began, outcome.sources, outcome.bytes_received
    if group.fetched is not None:
        took, sources = group.fetched.seconds, group.fetched.sources
    wrong = sum(
        int(np.count_nonzero(part.view(np.uint8) != state[name].view(np.uint8)))
        for name, part in _content(size).items()
    )
    pipe.send((took, sources, left, wrong))


def _link(address: str, size: int, first: bool, options: collectives.Options) -> float:
    """What a broadcast reaches from the first member to the newcomer, GB/s."""
    with collectives.join(
        address, group="link", name=f"link-{int(not first)}", min_size=2, options=options
    ) as group:
        root = [peer.name for peer in group.peers].index("link-0")
        array = np.zeros(size // 4, np.float32)
        array += 1
        best = 0.0
        for _ in range(_ROUNDS):
            group.barrier()
            began = time.monotonic()
            group.broadcast(array, root, atomic=False)
            best = max(best, array.nbytes / (time.monotonic() - began) / 1e9)
        return best
