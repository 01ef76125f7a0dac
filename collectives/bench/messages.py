"""What the conductor of a run and its ranks say to each other: dataclasses as JSON, never pickled.

Ranks that a launcher has started come over TCP, where a stranger may come too: a message can say
something wrong, but it cannot make anybody run anything.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from collectives.bench.config import BenchConfig
from collectives.errors import CollectiveError

_MOST_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True)
class Here:
    """A rank's first words: of which library it is, on which host; the port of Gloo's store."""

    library: str
    rank: int
    host: str
    port: int = 0


@dataclasses.dataclass(frozen=True)
class Start:
    """To every rank once all are here; `local`: they are all on this host."""

    config: BenchConfig
    coordinator: str
    store: str
    local: bool


@dataclasses.dataclass(frozen=True)
class Ready:
    """The rank has joined the others of its library; `places`: of the view, if there is one."""

    places: tuple[tuple[int, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class Block:
    """Make `calls` timed calls on `count` elements, and check the results.

    With `settle`, one more call is made first and not timed: the other ranks, and the caches, come
    from somewhere else, and a short call would mostly measure that.
    """

    in_place: bool
    count: int
    calls: int
    settle: bool


@dataclasses.dataclass(frozen=True)
class BlockResult:
    """What a block took, and what the checks found.

    Attributes:
        nanoseconds: of each timed call.
        checked: elements that were checked.
        wrong: those that were wrong.
        cpu_ns: CPU time of the process, all threads, user and system, in `cpu_calls` calls.
        cpu_calls: the timed calls, and the one to settle.
        peak_bytes: memory that the library had at most, beyond the buffers of the caller.
        sockets: TCP connections of the library.
        congestion: their congestion controls.
    """

    nanoseconds: tuple[int, ...]
    checked: int
    wrong: int
    cpu_ns: int = 0
    cpu_calls: int = 0
    peak_bytes: int = 0
    sockets: int = 0
    congestion: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Stream:
    """Copy memory for so many seconds, in one of the ways of `streaming.WAYS`."""

    way: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Bytes that were copied, and how long that took. Each is read once and written once."""

    bytes: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Crowd:
    """Batches of `count` operations of `small` bytes at once; `large` bytes beside them, or 0."""

    count: int
    small: int
    large: int
    batches: int


@dataclasses.dataclass(frozen=True)
class Crowded:
    """How long each small operation took, and the large one (0: there was none).

    Only batches that ended while the large operation went on are in it.
    """

    nanoseconds: tuple[int, ...]
    large_ns: int
    checked: int
    wrong: int


@dataclasses.dataclass(frozen=True)
class Failed:
    """Why a rank could not go on."""

    text: str


@dataclasses.dataclass(frozen=True)
class End:
    """Leave."""


_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        Here,
        Start,
        Ready,
        Block,
        BlockResult,
        Stream,
        Streamed,
        Crowd,
        Crowded,
        Failed,
        End,
    )
}


class Line:
    """A connection that carries messages."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def send(self, message: Any) -> None:
        """Send a message.

        Raises:
            OSError: the other side is gone.
        """
        fields = dataclasses.asdict(message)
        self.connection.send_bytes(json.dumps([type(message).__name__, fields]).encode())

    def receive(self) -> Any:
        """Wait for a message.

        Raises:
            EOFError, OSError: the other side is gone.
            CollectiveError: what came is no message.
        """
        data = self.connection.recv_bytes(_MOST_BYTES)
        try:
            name, fields = json.loads(data)
            if name == "Start":
                fields["config"] = BenchConfig(**_tuples(fields["config"]))
            return _KINDS[name](**_tuples(fields))
        except (ValueError, TypeError, KeyError) as error:
            raise CollectiveError(f"no message of the bench: {error!r}") from error

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }


def host() -> str:
    """Return what tells this host from others, whatever it is called."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}"


def connect(address: str, timeout: float) -> Line:
    """Connect to the conductor, who may be a little late.

    Args:
        address: ``/PATH`` of a Unix socket, ``HOST:PORT``, or ``@FILE`` that holds one of them,
            soon.
        timeout: seconds to try.

    Raises:
        CollectiveError: nobody was there within the time.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            place = address
            if place.startswith("@"):
                place = Path(place[1:]).read_text().strip()
            return Line(Connection(_dial(place).detach()))
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                raise CollectiveError(
                    f"no conductor of the bench at {address} within {timeout:g} s: {error}"
                ) from error
            time.sleep(0.05)


def _dial(place: str) -> socket.socket:
    if place.startswith("/"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(os.fspath(place))
        return connection
    host, _, port = place.rpartition(":")
    connection = socket.create_connection((host.strip("[]"), int(port)), timeout=5)
    connection.settimeout(None)
    return connection
