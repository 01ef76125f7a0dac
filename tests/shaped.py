"""Connections through the shaping proxy, as plain sockets that no test can wait on for ever."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from collectives.chaos.route import Route
from collectives.chaos.shaper import Shaper

PATIENCE = 10.0
Pair = tuple[socket.socket, socket.socket]


class Wire:
    """A route to a listener of the test, and pairs of sockets through it."""

    def __init__(self, shaper: Shaper, stack: contextlib.ExitStack, family: int, **options) -> None:
        self.stack = stack
        self.family = family
        host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        self.listener = stack.enter_context(socket.create_server((host, 0), family=family))
        self.listener.settimeout(PATIENCE)
        port = self.listener.getsockname()[1]
        target = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
        self.route: Route = shaper.route(target, **options)

    def dial(self, timeout: float = PATIENCE, receive_buffer: int = 0) -> socket.socket:
        """The dialling end alone."""
        host, _, port = self.route.address.rpartition(":")
        near = self.stack.enter_context(socket.socket(self.family))
        if receive_buffer:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        near.settimeout(timeout)
        near.connect((host.strip("[]"), int(port)))
        near.settimeout(PATIENCE)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return near

    def accept(self) -> socket.socket:
        """The target's end."""
        far = self.stack.enter_context(self.listener.accept()[0])
        far.settimeout(PATIENCE)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return far

    def pair(self, **options) -> Pair:
        """Both ends of a new connection."""
        near = self.dial(**options)
        return near, self.accept()


@contextlib.contextmanager
def wire(shaper: Shaper, family: int = socket.AF_INET, **options) -> Iterator[Wire]:
    """A route that goes with its sockets."""
    with contextlib.ExitStack() as stack:
        yield Wire(shaper, stack, family, **options)


def exactly(end: socket.socket, count: int) -> bytes:
    """Receive so many bytes."""
    received = b""
    while len(received) < count:
        got = end.recv(count - len(received))
        assert got, f"the end after {len(received)} of {count} bytes"
        received += got
    return received


def rest(end: socket.socket) -> bytes:
    """Receive up to the end."""
    pieces = []
    while got := end.recv(1 << 18):
        pieces.append(got)
    return b"".join(pieces)


def is_silent(end: socket.socket, seconds: float = 0.1) -> bool:
    """Whether nothing comes for a while: no byte, no end, no reset."""
    end.settimeout(seconds)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    except OSError:
        return False
    finally:
        end.settimeout(PATIENCE)
    return False


def abort(end: socket.socket) -> None:
    """Close with a reset."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, which must come true soon."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"this did not come true: {what}")
        time.sleep(0.002)


@contextlib.contextmanager
def running(*targets: Callable[[], object]) -> Iterator[None]:
    """Functions in threads of their own; what one raises is raised at the end."""
    errors: list[BaseException] = []

    def guarded(target: Callable[[], object]) -> None:
        try:
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(one,), daemon=True) for one in targets]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(2 * PATIENCE)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
