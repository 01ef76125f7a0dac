"""The processes of the bench: started, asked, and ended, with a deadline on everything.

Each rank of each library is a process of its own, so that CPU time, memory and connections are
that library's alone. They sleep while another library has its turn.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

import collectives
from collectives.bench import messages
from collectives.bench.config import BenchConfig
from collectives.bench.launcher import Meeting
from collectives.bench.messages import Line
from collectives.bench.processes import command_of, environment_of, mpirun
from collectives.errors import CollectiveError

_LEAVE_SECONDS = 10.0
_LOOK_SECONDS = 0.1
_MID_MESSAGE = struct.pack("ll", 10, 0)  # a struct timeval


class BenchError(CollectiveError):
    """A rank of the bench failed or stopped answering; the message says which and why."""


class Ranks:
    """All ranks of all libraries of one run, with a coordinator in this process.

    A context manager: leaving it ends the processes.

    Args:
        config: of the run.
        meeting: where ranks come from that a launcher has started; None: all are started here.
    """

    def __init__(self, config: BenchConfig, meeting: Meeting | None = None) -> None:
        self._config, self._meeting = config, meeting
        self._processes: dict[str, list[subprocess.Popen[bytes]]] = {}
        self._lines: dict[str, list[Line]] = {}
        self._stack = ExitStack()
        self.local = True
        self.places: tuple[tuple[int, ...], ...] = ()

    def __enter__(self) -> Ranks:
        try:
            self._start()
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
            for line in self._everybody():
                with suppress(OSError):
                    line.send(messages.End())
            deadline = time.monotonic() + _LEAVE_SECONDS
            # They leave together, and each ends at once when this end of its line is closed.
            for line in self._everybody():
                with suppress(CollectiveError, EOFError, OSError):
                    while line.connection.poll(max(0.0, deadline - time.monotonic())):
                        line.receive()
            for process in self._children():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        self._end()

    def _start(self) -> None:
        config, meeting = self._config, self._meeting
        bind = "127.0.0.1:0" if meeting is None else "*:0"
        self._coordinator = self._stack.enter_context(collectives.Coordinator(bind))
        if meeting is None:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="coll-bench-"))
            address = str(Path(folder) / "conductor")
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(address)
        else:
            self._listener = socket.create_server(("", meeting.port))
            port = self._listener.getsockname()[1]
            meeting.tell(port)
            self._stack.callback(meeting.end)
            address = f"127.0.0.1:{port}"
        self._stack.callback(self._listener.close)
        self._listener.listen(128)
        for library in config.libraries:
            if library == "mpi" and meeting is None:
                commands = [[*mpirun(config), *command_of(address, library, None)]]
            else:
                here = range(config.ranks if meeting is None else 1)
                commands = [command_of(address, library, rank) for rank in here]
            environment = environment_of(library, config)
            self._processes[library] = [
                subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
                for command in commands
            ]

    def _end(self) -> None:
        for process in self._children():
            # mpirun ends what it has started when it is asked; nobody else has to be asked.
            if process in self._processes.get("mpi", []):
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_LEAVE_SECONDS)
            process.kill()
        for process in self._children():
            process.wait()
        for line in self._everybody():
            line.close()
        self._stack.close()

    def _children(self) -> list[subprocess.Popen[bytes]]:
        return [process for some in self._processes.values() for process in some]

    def _everybody(self) -> list[Line]:
        return [line for some in self._lines.values() for line in some]

    def ready(self) -> None:
        """Wait until all ranks have come and each library's have joined each other.

        Raises:
            BenchError: one of them cannot start.
        """
        config = self._config
        found = self._arrivals(time.monotonic() + config.timeout)
        self._lines = {
            library: [found[library, rank][0] for rank in range(config.ranks)]
            for library in config.libraries
        }
        self.local = all(here.host == messages.host() for _, here in found.values())
        host = "127.0.0.1" if self.local or self._meeting is None else self._meeting.host
        port = self._coordinator.address.rpartition(":")[2]
        store = found["gloo", 0][1].port if "gloo" in config.libraries else 0
        start = messages.Start(config, f"{host}:{port}", f"{host}:{store}", self.local)
        for line in self._everybody():
            line.send(start)
        for library in config.libraries:
            ready = self._answers(library, "start")
            if library == "collectives":
                self.places = ready[0].places

    def _arrivals(self, deadline: float) -> dict[tuple[str, int], tuple[Line, messages.Here]]:
        """Wait for all ranks; a stranger that comes is turned away, or waits in vain."""
        config = self._config
        found: dict[tuple[str, int], tuple[Line, messages.Here]] = {}
        pending: dict[Connection, Line] = {}
        while len(found) < len(config.libraries) * config.ranks:
            dead = self._dead()
            ready = wait([self._listener, *pending], _LOOK_SECONDS)
            if self._listener in ready:
                accepted = self._listener.accept()[0]
                # A message is read once it has begun to come; no stranger may leave it at that.
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _MID_MESSAGE)
                line = Line(Connection(accepted.detach()))
                pending[line.connection] = line
            for connection in [connection for connection in ready if connection in pending]:
                line = pending.pop(connection)
                first = None
                with suppress(CollectiveError, EOFError, OSError):
                    first = line.receive()
                if isinstance(first, messages.Failed):
                    raise BenchError(first.text)
                if not isinstance(first, messages.Here):
                    line.close()
                elif first.library in config.libraries and 0 <= first.rank < config.ranks:
                    found[first.library, first.rank] = line, first
                else:
                    raise BenchError(f"rank-{first.rank} of {first.library} is none of this run")
            if dead and not ready:
                raise BenchError(f"{dead} before it had begun; its words are above")
            if time.monotonic() > deadline:
                raise BenchError(
                    f"not all of the {config.ranks} ranks of {', '.join(config.libraries)}"
                    f" came within {config.timeout:g} s"
                )
        return found

    def _dead(self) -> str:
        """Return who has failed before it was asked anything; "": nobody."""
        for library, processes in self._processes.items():
            for rank, process in enumerate(processes):
                if process.poll():
                    return f"rank-{rank} of {library} ended with exit status {process.returncode}"
        return ""

    def ask(self, library: str, command: Any) -> list[Any]:
        """Let all ranks of a library carry out a command and return their results.

        Raises:
            BenchError: one of them failed, died or took longer than the timeout.
        """
        for line in self._lines[library]:
            # Who is dead is found when its answer is awaited: its last words are on the line.
            with suppress(OSError):
                line.send(command)
        return self._answers(library, f"{library}: {command}")

    def _answers(self, library: str, what: str) -> list[Any]:
        deadline = time.monotonic() + self._config.timeout
        lines = {line.connection: i for i, line in enumerate(self._lines[library])}
        answers: dict[int, Any] = {}
        while len(answers) < len(lines):
            pending = {c: i for c, i in lines.items() if i not in answers}
            ready = wait(list(pending), max(0.0, deadline - time.monotonic()))
            if not ready:
                names = ", ".join(f"rank-{i}" for i in pending.values())
                raise BenchError(
                    f"no answer from {names} within {self._config.timeout:g} s ({what})"
                )
            for connection in ready:
                i = lines[connection]  # type: ignore[index]
                try:
                    answers[i] = self._lines[library][i].receive()
                except (EOFError, OSError):
                    raise BenchError(f"rank-{i} died{self._why(library, i)} ({what})") from None
                if isinstance(answers[i], messages.Failed):
                    raise BenchError(answers[i].text)
        return [answers[i] for i in sorted(answers)]

    def _why(self, library: str, rank: int) -> str:
        """Return with which status a rank ended, if it was started here."""
        processes = self._processes[library]
        if rank >= len(processes):
            return ""
        with suppress(subprocess.TimeoutExpired):
            return f" with exit code {processes[rank].wait(_LEAVE_SECONDS)}"
        return ""
