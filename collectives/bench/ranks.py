"""The processes of the bench: started, asked, and ended, with a deadline on everything."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

import collectives
from collectives.bench import worker
from collectives.bench.config import BenchConfig
from collectives.errors import CollectiveError

_LEAVE_SECONDS = 10.0


class BenchError(CollectiveError):
    """A rank of the bench failed or stopped answering; the message says which and why."""


class Ranks:
    """All ranks of one run, in processes of their own, with a coordinator in this one.

    A context manager: leaving it ends the processes.
    """

    def __init__(self, config: BenchConfig) -> None:
        self._config = config
        self._processes: list[Any] = []
        self._connections: list[Connection] = []
        self._coordinator = collectives.Coordinator("127.0.0.1:0")
        self._directory = tempfile.TemporaryDirectory(prefix="collectives-bench-")

    def __enter__(self) -> Ranks:
        self._coordinator.__enter__()
        try:
            # spawn: a fork would take this process's threads and sockets half along.
            context = multiprocessing.get_context("spawn")
            for i in range(self._config.ranks):
                ours, theirs = context.Pipe()
                address, directory = self._coordinator.address, self._directory.name
                process = context.Process(
                    target=worker.main,
                    args=(theirs, self._config, address, f"rank-{i}", directory),
                    daemon=True,
                )
                process.start()
                theirs.close()
                self._processes.append(process)
                self._connections.append(ours)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            for connection in self._connections:
                with suppress(OSError):
                    connection.send(None)
            deadline = time.monotonic() + _LEAVE_SECONDS
            for process in self._processes:
                process.join(max(0.0, deadline - time.monotonic()))
        self._end()

    def _end(self) -> None:
        for process in self._processes:
            if process.is_alive():
                process.kill()
        for process in self._processes:
            process.join()
        for connection in self._connections:
            connection.close()
        self._coordinator.__exit__(None, None, None)
        self._directory.cleanup()

    def hellos(self) -> list[worker.Hello]:
        """Return what the ranks say when they are ready, rank 0 first.

        Raises:
            BenchError: one of them cannot start.
        """
        return sorted(self._answers("start"), key=lambda hello: int(hello.rank))

    def ask(self, block: worker.Block) -> list[worker.BlockResult]:
        """Let all ranks carry out a block and return their results.

        Raises:
            BenchError: one of them failed, died or took longer than the timeout.
        """
        for connection in self._connections:
            # Who is dead is found when its answer is awaited: its last words are in the pipe.
            with suppress(OSError):
                connection.send(block)
        return self._answers(f"{block.library} on {block.count} elements")

    def _answers(self, what: str) -> list[Any]:
        deadline = time.monotonic() + self._config.timeout
        answers: dict[int, Any] = {}
        while len(answers) < len(self._connections):
            pending = {c: i for i, c in enumerate(self._connections) if i not in answers}
            ready = wait(list(pending), max(0.0, deadline - time.monotonic()))
            if not ready:
                names = ", ".join(f"rank-{i}" for i in pending.values())
                raise BenchError(
                    f"no answer from {names} within {self._config.timeout:g} s ({what})"
                )
            for connection in ready:
                assert isinstance(connection, Connection)
                i = pending[connection]
                try:
                    answers[i] = connection.recv()
                except (EOFError, OSError):
                    self._processes[i].join(_LEAVE_SECONDS)
                    raise BenchError(
                        f"rank-{i} died with exit code {self._processes[i].exitcode} ({what})"
                    ) from None
                if isinstance(answers[i], worker.Failed):
                    raise BenchError(answers[i].text)
        return [answers[i] for i in sorted(answers)]
