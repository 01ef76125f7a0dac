"""The processes of a run: peers, each a life in a place, and the coordinator."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from collectives.chaos import namespaces, peer
from collectives.chaos.network import Where
from collectives.chaos.nursery import Nursery
from collectives.errors import CollectiveError
from collectives.membership.server import Coordinator

_PATIENCE = 30.0
_TURN = 0.02


class Process(Protocol):
    """What a life needs of its process."""

    pid: int

    def fileno(self) -> int:
        """A descriptor that can be read once it has ended."""

    def signal(self, number: int) -> None:
        """Send it a signal, if it still lives."""

    def wait(self, timeout: float) -> int:
        """Its exit status, or the signal that ended it as a negative number."""

    def close(self) -> None:
        """End it if it still lives."""


class Script:
    """A user's script in an interpreter of its own."""

    def __init__(
        self, script: str, arguments: list[str], settings: dict[str, Any], log: Path
    ) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "collectives.chaos.peer", script, *arguments],
                env={**os.environ, peer.VARIABLE: json.dumps(settings)},
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._descriptor = os.pidfd_open(self.pid)

    def fileno(self) -> int:
        """A descriptor that can be read once it has ended."""
        return self._descriptor

    def signal(self, number: int) -> None:
        """Send it a signal, if it still lives."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def wait(self, timeout: float) -> int:
        """Its exit status, or the signal that ended it as a negative number."""
        return self._process.wait(timeout)

    def close(self) -> None:
        """End it if it still lives."""
        if self._descriptor >= 0:
            self.signal(signal.SIGKILL)
            self.wait(5)
            os.close(self._descriptor)
            self._descriptor = -1


class Life:
    """A process in a place.

    Attributes:
        place: its name.
        number: the how-manieth there.
        line: to its ``Control``; None until it has said hello.
        joined: whether it is, or was, in the group.
        ready: whether it has begun to work.
        expected: whether its end is meant.
        ended: whether it has ended.
        stopped: by how many faults it stands still.
        restart: seconds after its end at which the next life begins; None: never.
        armed: the fault aimed at a moment of its, by number.
        progress: what it said last.
    """

    def __init__(self, place: str, number: int, process: Process, moments: Path) -> None:
        self.place = place
        self.number = number
        self.process = process
        self.moments = moments
        self.line: socket.socket | None = None
        self.waiting: list[dict[str, Any]] = []  # to be said once there is a line
        self.joined = self.ready = self.expected = self.ended = False
        self.stopped = 0
        self.restart: float | None = None
        self.armed: dict[int, str] = {}
        self.progress: dict[str, Any] = {}

    def stop(self) -> None:
        """Stand still, until as many ``go_on``."""
        self.stopped += 1
        self.process.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Take one ``stop`` back."""
        self.stopped = max(0, self.stopped - 1)
        if not self.stopped:
            self.process.signal(signal.SIGCONT)


class CoordinatorProcess:
    """The coordinator, which can be killed and started again at the same address.

    Args:
        nursery: forks it.
        folder: where its journal and its log go.
        token: the run's.
        where: it lives.
        journaled: whether it keeps a journal.
    """

    def __init__(
        self, nursery: Nursery, folder: Path, token: str, where: Where, journaled: bool = True
    ) -> None:
        self._nursery = nursery
        self._folder = folder
        self._token = token
        self._journal = str(folder / "coordinator.journal") if journaled else None
        self._stopped = 0
        self._namespace = where.namespace
        self.address = f"{where.host}:0"
        self.alive = False
        self.start()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def start(self) -> None:
        """Start it, or start it again."""
        log = str(self._folder / "coordinator.log")
        self._process = self._nursery.child(
            _coordinate, self._namespace, self.address, self._journal, self._token, log
        )
        if not self._process.connection.poll(_PATIENCE):
            raise CollectiveError(f"the coordinator does not start; see {log}")
        try:
            self.address = self._process.connection.recv()
        except EOFError:
            raise CollectiveError(f"the coordinator does not start; see {log}") from None
        self.alive = True

    def kill(self) -> None:
        """SIGKILL."""
        self._process.close()
        self.alive = False
        self._stopped = 0

    def stop(self) -> None:
        """Stand still, until as many ``go_on``."""
        self._stopped += 1
        self._process.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Take one ``stop`` back."""
        self._stopped = max(0, self._stopped - 1)
        if not self._stopped:
            self._process.signal(signal.SIGCONT)


def burn(_: Connection, share: float, seconds: float) -> None:
    """In a process: compute for a share of the time."""
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        while time.monotonic() < now + share * _TURN:
            pass
        time.sleep((1 - share) * _TURN)


def _coordinate(
    connection: Connection,
    namespace: str,
    address: str,
    journal: str | None,
    token: str,
    log: str,
) -> None:
    """In the process: coordinate until the connection ends."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if namespace:
        namespaces.enter(namespace)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with Coordinator(address, journal=journal, token=token) as coordinator:
        connection.send(coordinator.address)
        select.select([connection], [], [])
