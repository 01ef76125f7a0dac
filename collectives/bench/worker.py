"""One rank of one library: a process that carries out what the conductor asks, and checks results.

``python -m collectives.bench.worker ADDRESS LIBRARY [RANK]``: started by `ranks`, by mpirun (which
tells the rank), or by a launcher's processes. Between commands it sleeps, so that the libraries do
not disturb each other.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

import collectives
from collectives.bench import crowd, launcher, libraries, messages, sockets, usage
from collectives.bench.config import BenchConfig
from collectives.bench.libraries import Array, Library
from collectives.bench.messages import Block, BlockResult, Line
from collectives.bench.pattern import Pattern, poison
from collectives.errors import UnsupportedError

_CONNECT_SECONDS = 60.0
T = TypeVar("T")


class Bench:
    """The buffers of one rank, and the blocks of calls on them."""

    def __init__(self, name: str, config: BenchConfig) -> None:
        self._name, self._config = name, config
        self._control = sockets.connected()  # to the conductor
        self._pattern = Pattern(config.dtype, config.op, config.ranks)
        most = max(config.sizes) // self._pattern.storage.itemsize
        # Kept for the whole run: faulting in a fresh buffer would be what is measured.
        self._source, self._target = (
            np.empty(most if needed else 0, self._pattern.storage)
            for needed in (False in config.sides(name), True)
        )
        # What checks need is in the first figure of memory, so that none of it is in the second.
        for buffer in (self._source, self._target):
            poison(buffer)
            self._pattern.count_wrong(buffer[: 1 << 20])
        self._resident = usage.resident()

    def enter(self, library: Library) -> None:
        """Use a library that has just been joined."""
        self._library = library
        collective, ranks = self._config.collective, self._config.ranks
        self._inputs = collective.inputs(library.rank, ranks)
        self._outputs = collective.outputs(library.rank, ranks)
        library.barrier()

    def handle(self, command: Any) -> Any:
        """Carry out a command."""
        if isinstance(command, messages.Stream):
            return usage.stream(command, self._library.barrier)
        if isinstance(command, messages.Crowd):
            assert isinstance(self._library, libraries.Ours)
            large = self._source, self._target
            return crowd.play(command, self._library.group, self._pattern, *large)
        return self.run(command)

    def run(self, block: Block) -> BlockResult:
        """Carry out one block, in as many chains of calls as it takes to check them."""
        source, target = self._buffers(block)
        times: list[int] = []
        checked = wrong = cpu = cpu_calls = peak = 0
        for calls, settle, known in self._chains(block):
            # In place they have bytes in common: first what must not be left, then the input.
            poison(target)
            self._fill(source)
            usage.forget_peak()
            self._library.barrier()
            begin = time.process_time_ns()
            times += _timed(self._library.call(source, target, block.in_place), calls)[settle:]
            cpu += time.process_time_ns() - begin
            cpu_calls += calls
            peak = max(peak, usage.peak() - self._resident)
            for part, piece in _cut(target, self._outputs if known else []):
                checked += len(piece)
                wrong += self._pattern.count_wrong(piece, part, calls if block.in_place else 1)
        count, names = self._sockets()
        return BlockResult(
            tuple(times), checked, wrong, cpu, cpu_calls, max(0, peak), count, tuple(names)
        )

    def _buffers(self, block: Block) -> tuple[Array, Array]:
        """Return what this rank passes and where its result goes, in place or apart."""
        collective, whole = self._config.collective, self._target[: block.count]
        unit = block.count // self._config.ranks if collective.has_blocks else block.count
        takes, gives = len(self._inputs), len(self._outputs)
        if not block.in_place:
            return self._source[: takes * unit], self._target[: gives * unit]
        if not collective.has_blocks:
            return whole, whole
        start = self._library.home * unit
        own = whole[start : start + unit]
        source, target = (whole if parts > 1 else own[: parts * unit] for parts in (takes, gives))
        return source, target

    def _chains(self, block: Block) -> Iterator[tuple[int, int, bool]]:
        """Yield how many calls have one input, the first how many settle, and if it can be checked.

        In place each call finds the last one's result, so a chain ends before sums are no longer
        exact; and where that result is not known, the last call of a block is a chain of its own.
        """
        left, settle = block.calls, int(block.settle)
        if block.in_place and not self._config.collective.repeats:
            if left > 1:
                yield left - 1 + settle, settle, False
            yield 1, 0, True
            return
        longest = self._pattern.chain() if block.in_place else left + settle
        settle = min(settle, longest - 1)
        while left > 0:
            calls = min(longest, left + settle)
            yield calls, settle, True
            left -= calls - settle

    def _fill(self, source: Array) -> None:
        for number, piece in _cut(source, self._inputs):
            self._pattern.fill(piece, self._library.rank, number)
        if self._library.rank == 0:
            spoiled = source[: self._config.plant_wrong].view(np.uint8)
            spoiled ^= 1

    def _sockets(self) -> tuple[int, list[str]]:
        """Return the number of connections and their congestion control, which is the wanted one.

        Open MPI connects in the first calls of a kind. A warm-up comes before the calls that count.
        """
        found, wanted = self._library.sockets() - self._control, self._config.congestion
        if wanted is not None and self._name != "collectives":
            # Where it may not be set, the check below says so.
            with suppress(OSError):
                sockets.set_congestion(found, wanted)
        names = sockets.congestion(found)
        if wanted is not None and names not in ([], [wanted]):
            raise UnsupportedError(
                f"the connections of {self._name} have congestion control {', '.join(names)}"
                f" although {wanted} was asked for: this system does not have it or does not allow"
                " it (net.ipv4.tcp_allowed_congestion_control); take another one or auto"
            )
        return len(found), names


def _cut(buffer: Array, parts: Sequence[T]) -> Iterator[tuple[T, Array]]:
    """Return the parts of which a buffer is made, each with its piece of it."""
    return zip(parts, buffer.reshape(max(1, len(parts)), -1), strict=False)


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


def main(address: str, name: str, rank: int) -> int:
    """Say hello, and carry out commands until the conductor is content or gone."""
    # The terminal sends Ctrl-C to all processes; the conductor ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Gloo prints to standard output, which is the conductor's table or JSON.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    line = messages.connect(address, _CONNECT_SECONDS)
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    try:
        _serve(line, name, rank)
    except BaseException as error:
        # An error of the library explains itself; of others the place is wanted too.
        ours = isinstance(error, collectives.CollectiveError)
        with suppress(OSError):  # the conductor may be gone
            text = f"rank-{rank} of {name}: {error if ours else traceback.format_exc()}"
            line.send(messages.Failed(text))
        return 1
    return 0


def _end_with(line: Line) -> None:
    """End this process when the conductor is gone, also in the middle of a call."""
    gone = select.poll()
    gone.register(line.connection.fileno(), select.POLLRDHUP)
    gone.poll()
    os._exit(1)


def _serve(line: Line, name: str, rank: int) -> None:
    libraries.load(name)
    # Rank 0 of Gloo holds the store at which its ranks meet.
    store = libraries.store(_CONNECT_SECONDS) if name == "gloo" and rank == 0 else None
    line.send(messages.Here(name, rank, messages.host(), store.port if store else 0))
    start = line.receive()
    bench = Bench(name, start.config)
    library = libraries.enter(name, rank, start)
    try:
        bench.enter(library)
        places = library.group.view.places if isinstance(library, libraries.Ours) else ()
        line.send(messages.Ready(places))
        while not isinstance(command := line.receive(), messages.End):
            line.send(bench.handle(command))
    finally:
        library.close()


if __name__ == "__main__":
    place, library, *told = sys.argv[1:]
    launched = launcher.find()
    number = int(told[0]) if told else launched.rank if launched else 0
    raise SystemExit(main(place, library, number))
