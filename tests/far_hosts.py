"""Hosts on the WAN emulator, with sockets in them. It takes root; ``needs_root`` skips without."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import shaped
from collectives.chaos import datagrams, namespaces
from collectives.chaos.wan import PathStats, Wan
from collectives.errors import UnsupportedError


def unsupported() -> str:
    """Why not here; empty: nothing is missing."""
    try:
        namespaces.require()
    except UnsupportedError as error:
        return str(error)
    return ""


needs_root = pytest.mark.skipif(bool(unsupported()), reason=unsupported() or "not skipped")


class Hosts:
    """An emulator with hosts a and b, and sockets in them."""

    def __init__(self, wan: Wan, stack: contextlib.ExitStack) -> None:
        self.wan = wan
        self.stack = stack
        for name in "ab":
            wan.host(name)

    def packets(self, name: str) -> socket.socket:
        """A UDP socket whose buffer holds all that a test sends."""

        def make() -> socket.socket:
            made = datagrams.bound(self.wan.address(name))
            made.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
            return made

        made = self.stack.enter_context(self.wan.namespace(name).run(make))
        made.settimeout(shaped.PATIENCE)
        return made

    def pair(self) -> shaped.Pair:
        """A TCP connection: a's end, and b's."""
        where = self.wan.namespace("b").run(
            lambda: socket.create_server((self.wan.address("b"), 0))
        )
        with where as listener:
            address = listener.getsockname()
            connect = lambda: socket.create_connection(address, shaped.PATIENCE)  # noqa: E731
            near = self.stack.enter_context(self.wan.namespace("a").run(connect))
            far = self.stack.enter_context(listener.accept()[0])
        for end in (near, far):
            end.settimeout(shaped.PATIENCE)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return near, far

    def there(self) -> PathStats:
        """What went from a to b."""
        return self.wan.stats("a", "b")

    def send(self, count: int, size: int = 1000) -> list[int]:
        """Send so many UDP packets at once; the numbers of those that came, in that order."""
        near, far = self.packets("a"), self.packets("b")
        before, bare = self.there(), size - 28  # the headers of IP and UDP
        for number in range(count):
            near.sendto(struct.pack("q", number).ljust(bare), far.getsockname())

        def arrived() -> bool:
            now = self.there()
            gone = now.cut + now.overflown + now.lost - now.duplicated + now.delivered
            gone -= before.cut + before.overflown + before.lost
            return gone + before.duplicated - before.delivered == count

        shaped.until(arrived, "all packets have met their fate")
        came = []
        far.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                came.append(struct.unpack_from("q", far.recv(size))[0])
        return came


@contextlib.contextmanager
def making(seed: int = 1) -> Iterator[Hosts]:
    with contextlib.ExitStack() as stack:
        yield Hosts(stack.enter_context(Wan(seed=seed)), stack)


def held() -> list[str]:
    """Namespaces of networks and devices that this process holds."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(path.readlink()))
    return [target for target in found if target.startswith("net:") or "tun" in target]
