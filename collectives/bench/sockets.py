"""The TCP connections of this process: which congestion control they have, and setting it.

Gloo and Open MPI offer no option for it, and their sockets take the system's default. So that all
sides of a comparison have the same one, the bench finds the sockets that they have opened and sets
it there; no setting of the system is changed. What is reported is read back from the sockets.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LENGTH = 16  # TCP_CA_NAME_MAX


def connected() -> set[int]:
    """Return the descriptors of this process's established TCP connections."""
    found = set()
    for name in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError), _borrowed(name) as connection:
            internet = connection.family in (socket.AF_INET, socket.AF_INET6)
            if internet and connection.type == socket.SOCK_STREAM:
                connection.getpeername()
                found.add(name)
    return found


def ports(descriptor: int) -> set[int]:
    """Return the local and the remote port of a connection."""
    with _borrowed(descriptor) as connection:
        return {connection.getsockname()[1], connection.getpeername()[1]}


def congestion(descriptors: set[int]) -> list[str]:
    """Return the names of the congestion controls of some connections, each once."""
    names = set()
    for descriptor in descriptors:
        with suppress(OSError), _borrowed(descriptor) as connection:
            raw = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _LENGTH)
            names.add(raw.split(b"\0")[0].decode())
    return sorted(names)


def set_congestion(descriptors: set[int], name: str) -> None:
    """Set the congestion control of some connections.

    Raises:
        OSError: this process may not use it, or the system does not have it.
    """
    for descriptor in descriptors:
        with _borrowed(descriptor) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())


def system_default() -> str:
    """Return the congestion control that new connections of this system have."""
    path = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return path.read_text().strip() if path.exists() else "unknown"


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """Give a socket object for a descriptor that stays open and somebody else's."""
    copy = os.dup(descriptor)
    try:
        connection = socket.socket(fileno=copy)
    except OSError:  # it is no socket
        os.close(copy)
        raise
    with connection:
        yield connection
