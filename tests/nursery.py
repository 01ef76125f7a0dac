"""Processes by the dozen: a fresh interpreter costs half a second, a fork of one that has imported
everything some milliseconds. For tests in which many die.

    with Nursery() as nursery:
        child = nursery.child(some_function, argument)   # some_function(connection, argument) in it
        child.connection.recv()
        child.signal(signal.SIGKILL)

All end with the nursery, or with the process that made it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing.connection
import os
import pathlib
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

# The interpreter that forks must have no other thread.
_START = "import sys; sys.path.insert(0, sys.argv[1]); import nursery; nursery.main()"
_MOST = 1 << 20


class Child:
    """A forked process; quacks like ``subprocess.Popen`` where it matters.

    Attributes:
        connection: to the function that it runs; its end is that of the process.
    """

    def __init__(
        self, pid: int, descriptor: int, connection: multiprocessing.connection.Connection
    ) -> None:
        self.pid = pid
        self.connection = connection
        self._descriptor = descriptor

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    send_signal = signal

    def wait(self, timeout: float) -> int:
        """Wait until it is gone."""
        if not self.gone(timeout):
            raise subprocess.TimeoutExpired(f"child {self.pid}", timeout)
        return 0

    def gone(self, timeout: float = 0.0) -> bool:
        """Whether it has ended, or does so within some seconds."""
        # Not select(): where many die, numbers of descriptors may be large.
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait(5)

    def close(self) -> None:
        """End it if it still lives."""
        if self._descriptor < 0:
            return
        self.connection.close()
        self.kill()
        os.close(self._descriptor)
        self._descriptor = -1


class Nursery:
    """An interpreter that forks; a context manager.

    Args:
        modules: what it imports first, by name.
    """

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._children: list[Child] = []
        self._lock = threading.Lock()  # one request at a time

    def __enter__(self) -> Nursery:
        self._socket, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [
                *[sys.executable, "-c", _START, str(pathlib.Path(__file__).parent)],
                *[str(theirs.fileno()), *self._modules],
            ],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        theirs.close()
        self._socket.settimeout(30)
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            with contextlib.suppress(OSError):
                child.close()
        self._socket.close()
        self._process.wait(5)

    def child(self, function: Callable[..., Any], *arguments: Any) -> Child:
        """A process that calls ``function(connection, *arguments)`` and ends."""
        mine, theirs = socket.socketpair()
        where = f"{function.__module__}:{function.__qualname__}"
        data = pickle.dumps((where, arguments))
        assert len(data) < _MOST
        request = [len(data).to_bytes(4, "little") + data]
        with self._lock:
            socket.send_fds(self._socket, request, [theirs.fileno()])
            reply, descriptors, _, _ = socket.recv_fds(self._socket, 8, 1)
        theirs.close()
        assert reply, "the nursery has ended"
        connection = multiprocessing.connection.Connection(mine.detach())
        child = Child(int.from_bytes(reply, "little"), descriptors[0], connection)
        self._children.append(child)
        return child


def run_here(where: str, *arguments: Any) -> Any:
    """Call the function that goes by ``module:name``."""
    module, _, name = where.partition(":")
    function: Any = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    return function(*arguments)


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[2]))
    for module in ("numpy", "collectives", "crew", *sys.argv[3:]):
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: the dead are gone
    gc.freeze()  # else the first collection in a child copies all pages
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, _MOST, 1)
        if not data:
            return
        while len(data) < 4 + int.from_bytes(data[:4], "little"):
            data += requests.recv(_MOST)
        pid = os.fork()
        if pid == 0:
            requests.close()
            _live(data[4:], descriptors[0])
        os.close(descriptors[0])
        descriptor = os.pidfd_open(pid)
        socket.send_fds(requests, [pid.to_bytes(8, "little")], [descriptor])
        os.close(descriptor)


def _live(data: bytes, descriptor: int) -> None:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        where, arguments = pickle.loads(data)
        run_here(where, multiprocessing.connection.Connection(descriptor), *arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
