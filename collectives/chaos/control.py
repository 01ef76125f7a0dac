"""A peer's line to the harness: it asks where to dial, and is told what to do.

Messages are JSON, one a packet, over a Unix socket. The peer says ``hello``, ``listens`` (its data
port), ``dial`` (and gets an answer), ``joined`` and ``progress``; the harness says ``arm``,
``leave``, ``exhaust`` and ``stop``. A peer whose harness is gone ends itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collectives.errors import CollectiveError

PACKET = 1 << 16
_PATIENCE = 20.0
_REPORT_EVERY = 0.5


def send(line: socket.socket, kind: str, **fields: Any) -> None:
    """Send a message; nothing happens if the other side is gone."""
    with contextlib.suppress(OSError):
        line.send(json.dumps({"kind": kind, **fields}).encode())


def receive(line: socket.socket) -> dict[str, Any] | None:
    """The next message; None: the other side is gone."""
    try:
        data = line.recv(PACKET)
    except OSError:
        return None
    if not data:
        return None
    message: dict[str, Any] = json.loads(data)
    return message


class Control:
    """The peer's end.

    Args:
        path: of the harness's socket.
        who: what ``hello`` says.
        progress: what ``progress`` says, asked twice a second.

    Attributes:
        stopping: set when the run is to end.
        leaving: set when this peer is to leave.
        arm: called with the fields of ``arm``.
    """

    def __init__(
        self, path: str, who: dict[str, Any], progress: Callable[[], dict[str, Any]]
    ) -> None:
        self.stopping = threading.Event()
        self.leaving = threading.Event()
        self.arm: Callable[[dict[str, Any]], None] = lambda _: None
        self._progress = progress
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._asking = threading.Lock()
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.connect(path)
        send(self._line, "hello", **who)
        threading.Thread(target=self._listen, name="chaos-control", daemon=True).start()
        threading.Thread(target=self._report, name="chaos-progress", daemon=True).start()

    def tell(self, kind: str, **fields: Any) -> None:
        """Say something that needs no answer."""
        send(self._line, kind, **fields)

    def dial(self, addresses: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
        """Ask where to dial instead; and whether the other peer counts as one of another host."""
        with self._asking:
            self.tell("dial", addresses=addresses)
            try:
                answer = self._answers.get(timeout=_PATIENCE)
            except queue.Empty:
                raise CollectiveError("the chaos harness does not answer") from None
        return tuple(answer["addresses"]), bool(answer["far"])

    def _listen(self) -> None:
        while True:
            message = receive(self._line)
            if message is None:
                os._exit(70)
            kind = message["kind"]
            if kind == "dial":
                self._answers.put(message)
            elif kind == "stop":
                self.stopping.set()
            elif kind == "leave":
                self.leaving.set()
            elif kind == "exhaust":
                threading.Thread(target=exhaust, args=(message["seconds"],), daemon=True).start()
            elif kind == "arm":
                self.arm(message)

    def _report(self) -> None:
        while True:
            time.sleep(_REPORT_EVERY)
            self.tell("progress", **self._progress())


def exhaust(seconds: float) -> None:
    """Let this process open no more files for so long: all that it may have are in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    time.sleep(seconds)
    for descriptor in taken:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
