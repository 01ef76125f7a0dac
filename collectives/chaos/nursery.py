"""Processes by the dozen, forked from an interpreter that has imported everything.

A fresh interpreter costs half a second, a fork some milliseconds:

    with Nursery("numpy", "collectives._public") as nursery:
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
# Not "-m": what a child unpickles must come from this module, not from __main__.
_START = "from collectives.chaos import nursery; nursery.main()"
_MOST = 1 << 20


class Child:
    """A forked process; quacks like ``subprocess.Popen`` where it matters.

    Attributes:
        connection: to the function that it runs; its end is that of the process.
    """

    def __init__(
        self,
        nursery: Nursery,
        pid: int,
        descriptor: int,
        connection: multiprocessing.connection.Connection,
    ) -> None:
        self.pid = pid
        self.connection = connection
        self._nursery = nursery
        self._descriptor = descriptor
        self._status: int | None = None

    def fileno(self) -> int:
        """A descriptor that can be read once it has ended."""
        return self._descriptor

    def signal(self, number: int) -> None:
        """Send it a signal, if it still lives."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    send_signal = signal

    def wait(self, timeout: float) -> int:
        """Its exit status, or the signal that ended it as a negative number."""
        if self._status is None:
            if not self.gone(timeout):
                raise subprocess.TimeoutExpired(f"child {self.pid}", timeout)
            self._status = self._nursery.status(self.pid)
        return self._status

    def gone(self, timeout: float = 0.0) -> bool:
        """Whether it has ended, or does so within some seconds."""
        # Not select(): where many die, numbers of descriptors may be large.
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def kill(self) -> None:
        """End it."""
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
        self._nursery.forget(self)


class Nursery:
    """An interpreter that forks; a context manager.

    Args:
        modules: what it imports first, by name.
        path: a directory in which modules are looked for first.
    """

    def __init__(self, *modules: str, path: str = "") -> None:
        self._modules = modules
        self._path = path
        self._children: set[Child] = set()
        self._lock = threading.Lock()  # one request at a time

    def __enter__(self) -> Nursery:
        self._socket, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs.fileno()), self._path, *self._modules],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        theirs.close()
        self._socket.settimeout(60)  # it may import torch first
        return self

    def __exit__(self, *_: object) -> None:
        for child in list(self._children):
            with contextlib.suppress(OSError):
                child.close()
        self._socket.close()
        self._process.wait(5)

    def child(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        environment: dict[str, str] | None = None,
    ) -> Child:
        """A process that calls ``function(connection, *arguments)`` and ends.

        Args:
            function: a function of a module.
            arguments: what it is called with, pickled.
            environment: variables it has beside those of this process.
        """
        mine, theirs = socket.socketpair()
        where = f"{function.__module__}:{function.__qualname__}"
        data = pickle.dumps((where, arguments, {**os.environ, **(environment or {})}))
        reply, descriptors = self._ask(data, [theirs.fileno()])
        theirs.close()
        connection = multiprocessing.connection.Connection(mine.detach())
        child = Child(self, int.from_bytes(reply, "little"), descriptors[0], connection)
        self._children.add(child)
        return child

    def status(self, pid: int) -> int:
        """What a child that has ended ended with."""
        reply, _ = self._ask(pid.to_bytes(8, "little"), [])
        return int.from_bytes(reply, "little", signed=True)

    def forget(self, child: Child) -> None:
        """It has ended."""
        self._children.discard(child)

    def _ask(self, data: bytes, descriptors: list[int]) -> tuple[bytes, list[int]]:
        assert len(data) < _MOST
        with self._lock:
            socket.send_fds(self._socket, [len(data).to_bytes(4, "little") + data], descriptors)
            reply, received, _, _ = socket.recv_fds(self._socket, 8, 1)
        assert reply, "the nursery has ended"
        return reply, list(received)


def run_here(where: str, *arguments: Any) -> Any:
    """Call the function that goes by ``module:name``."""
    module, _, name = where.partition(":")
    function: Any = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    return function(*arguments)


def main() -> None:
    """Import; then fork a child, or tell how one ended, for each request."""
    descriptor, path, *modules = sys.argv[1:]
    requests = socket.socket(fileno=int(descriptor))
    if path:
        sys.path.insert(0, path)
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # else the first collection in a child copies all pages
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, _MOST, 1)
        if not data:
            return
        while len(data) < 4 + int.from_bytes(data[:4], "little"):
            data += requests.recv(_MOST)
        if not descriptors:
            _, status = os.waitpid(int.from_bytes(data[4:], "little"), 0)
            code = os.waitstatus_to_exitcode(status)
            requests.send(code.to_bytes(8, "little", signed=True))
            continue
        pid = os.fork()
        if pid == 0:
            requests.close()
            _live(data[4:], descriptors[0])
        os.close(descriptors[0])
        watch = os.pidfd_open(pid)
        socket.send_fds(requests, [pid.to_bytes(8, "little")], [watch])
        os.close(watch)


def _live(data: bytes, descriptor: int) -> None:
    code = 1
    try:
        os.setsid()
        where, arguments, environment = pickle.loads(data)
        os.environ.update(environment)
        run_here(where, multiprocessing.connection.Connection(descriptor), *arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
