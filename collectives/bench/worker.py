"""One rank of the bench: a process that carries out blocks of calls and checks their results.

The parent (`sweep`) decides what is called when; a worker answers each command with the times of
its calls and the number of wrong elements.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import collectives
from collectives.bench import sockets
from collectives.bench.config import BenchConfig
from collectives.bench.pattern import Pattern, poison

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Hello:
    """What a worker says once it is ready: its rank, and the sockets of each library."""

    rank: int
    congestion: dict[str, list[str]]
    sockets: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Block:
    """Make `calls` timed calls of one library on `count` elements, and check the results.

    With `settle`, one more call is made first and not timed: the other ranks, and the caches, come
    from somewhere else, and a short call would mostly measure that.
    """

    library: str
    in_place: bool
    count: int
    calls: int
    settle: bool


@dataclasses.dataclass(frozen=True)
class BlockResult:
    """The duration of each timed call, and what the checks found."""

    nanoseconds: list[int]
    checked: int
    wrong: int


@dataclasses.dataclass(frozen=True)
class Failed:
    """Why a worker could not go on."""

    text: str


class Library(Protocol):
    """What the bench needs of a library."""

    def barrier(self) -> None:
        """Return once all ranks have called it."""

    def call(self, source: Array, target: Array, in_place: bool) -> Callable[[], object]:
        """Return the call to be timed: reduce `source` into `target`, or `target` in place."""


class Ours:
    """This library."""

    def __init__(self, group: collectives.Group, config: BenchConfig) -> None:
        self._group, self._config = group, config

    def barrier(self) -> None:
        """Return once all ranks have called it."""
        self._group.barrier()

    def call(self, source: Array, target: Array, in_place: bool) -> Callable[[], object]:
        """Return the call to be timed."""
        all_reduce, op = self._group.all_reduce, self._config.op
        out = _typed(target, self._config.dtype)
        if in_place:
            return lambda: all_reduce(out, op=op)
        array = _typed(source, self._config.dtype)
        return lambda: all_reduce(array, op=op, out=out)


class Gloo:
    """torch.distributed over Gloo. It reduces in place only."""

    def __init__(self, rank: int, config: BenchConfig, directory: str) -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo",
            init_method=(Path(directory) / "gloo").as_uri(),
            rank=rank,
            world_size=config.ranks,
            timeout=timedelta(seconds=config.timeout),
        )
        self._dist, self._config = dist, config
        self._op = {
            "sum": dist.ReduceOp.SUM,
            "prod": dist.ReduceOp.PRODUCT,
            "min": dist.ReduceOp.MIN,
            "max": dist.ReduceOp.MAX,
        }[config.op]

    def barrier(self) -> None:
        """Return once all ranks have called it."""
        self._dist.barrier()

    def call(self, source: Array, target: Array, in_place: bool) -> Callable[[], object]:
        """Return the call to be timed."""
        import torch

        tensor = _typed(target, self._config.dtype)
        if isinstance(tensor, np.ndarray):
            tensor = torch.from_numpy(tensor)
        all_reduce, op = self._dist.all_reduce, self._op
        return lambda: all_reduce(tensor, op=op)

    def close(self) -> None:
        """Close its connections."""
        self._dist.destroy_process_group()


def _typed(storage: Array, dtype: str) -> Any:
    """Return the array as users have it: NumPy, but torch for what NumPy does not know."""
    if dtype != "bfloat16":
        return storage
    import torch

    return torch.from_numpy(storage.view(np.int16)).view(torch.bfloat16)


class Bench:
    """The buffers of one rank, and the blocks of calls on them."""

    def __init__(self, rank: int, config: BenchConfig, libraries: dict[str, Library]) -> None:
        self._rank, self._config, self._libraries = rank, config, libraries
        self._pattern = Pattern(config.dtype, config.op, config.ranks)
        most = max(config.sizes) // self._pattern.storage.itemsize
        # Kept for the whole run: faulting in a fresh buffer would be what is measured.
        self._source = np.zeros(most, self._pattern.storage)
        self._target = np.zeros(most, self._pattern.storage)
        poison(self._target)

    def run(self, block: Block) -> BlockResult:
        """Carry out one block, in as many chains of calls as it takes to keep results exact."""
        library = self._libraries[block.library]
        source, target = self._source[: block.count], self._target[: block.count]
        if not block.in_place:
            self._fill(source)
        times: list[int] = []
        checked = wrong = 0
        while len(times) < block.calls:
            longest = self._pattern.chain() if block.in_place else block.calls + 1
            settle = 1 if block.settle and longest > 1 else 0
            calls = min(longest, block.calls - len(times) + settle)
            if block.in_place:
                self._fill(target)
            else:
                poison(target)
            library.barrier()
            times += _timed(library.call(source, target, block.in_place), calls)[settle:]
            checked += block.count
            wrong += self._pattern.count_wrong(target, calls if block.in_place else 1)
        return BlockResult(times, checked, wrong)

    def _fill(self, buffer: Array) -> None:
        self._pattern.fill(buffer, self._rank)
        if self._rank == 0:
            spoiled = buffer[: self._config.plant_wrong].view(np.uint8)
            spoiled ^= 1


def _timed(call: Callable[[], object], calls: int) -> list[int]:
    clock = time.perf_counter_ns
    times = [0] * calls
    gc.disable()
    try:
        for i in range(calls):
            start = clock()
            call()
            times[i] = clock() - start
    finally:
        gc.enable()
    return times


def main(
    connection: Connection, config: BenchConfig, address: str, name: str, directory: str
) -> None:
    """Join, say hello, and answer commands until the parent closes the connection."""
    # The terminal sends Ctrl-C to all processes; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Gloo prints to standard output, which is the parent's table or JSON.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    try:
        with ExitStack() as stack:
            bench, hello = _start(stack, config, address, name, directory)
            connection.send(hello)
            while True:
                try:
                    command = connection.recv()
                except EOFError:
                    return
                if command is None:
                    return
                connection.send(bench.run(command))
    except BaseException as error:
        # An error of the library explains itself; of others the place is wanted too.
        ours = isinstance(error, collectives.CollectiveError)
        with suppress(OSError):  # the parent may be gone
            connection.send(Failed(f"{name}: {error if ours else traceback.format_exc()}"))
        raise SystemExit(1) from None


def _start(
    stack: ExitStack, config: BenchConfig, address: str, name: str, directory: str
) -> tuple[Bench, Hello]:
    options = collectives.Options(
        bind=("127.0.0.1",),
        connections=config.connections,
        congestion=config.congestion,
        slice_bytes=config.slice_bytes,
        checksums=config.checksums,
        timeout=config.timeout,
    )
    group = stack.enter_context(
        collectives.join(
            address,
            group="bench",
            name=name,
            min_size=config.ranks,
            timeout=config.timeout,
            options=options,
        )
    )
    group.barrier()
    control = int(address.rpartition(":")[2])
    ours = {fd for fd in sockets.connected() if control not in sockets.ports(fd)}
    libraries: dict[str, Library] = {"collectives": Ours(group, config)}
    found = {"collectives": ours}
    if "gloo" in config.compare:
        before = sockets.connected()
        gloo = Gloo(group.rank, config, directory)
        stack.callback(gloo.close)
        gloo.barrier()
        libraries["gloo"] = gloo
        found["gloo"] = sockets.connected() - before
        if config.congestion is not None:
            # Where it may not be set, the check below says so.
            with suppress(OSError):
                sockets.set_congestion(found["gloo"], config.congestion)
    hello = Hello(
        group.rank,
        {library: sockets.congestion(fds) for library, fds in found.items()},
        {library: len(fds) for library, fds in found.items()},
    )
    for library, names in hello.congestion.items():
        if config.congestion is not None and names not in ([], [config.congestion]):
            raise collectives.UnsupportedError(
                f"the connections of {library} have congestion control {', '.join(names)} although "
                f"{config.congestion} was asked for: this system does not have it or does not "
                "allow it (net.ipv4.tcp_allowed_congestion_control); take another one or auto"
            )
    return Bench(group.rank, config, libraries), hello
