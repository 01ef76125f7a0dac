"""The shaping proxy from Python: its process, its routes, and the faults that they suffer.

The proxy is a program of its own (``native/shaper``); here are blocking calls that send it one
command and wait for the reply. What to do to whom and when is decided by who calls.

    with Shaper(seed=7) as shaper:
        uplink = shaper.bucket("host-a", 100e6)
        route = shaper.route("127.0.0.1:4711", up=Direction(delay=0.02), up_buckets=[uplink])
        ...                      # a peer dials route.address instead of the target
        route.hold("up")         # a cut that nobody is told of
        route.heal()
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import collectives._native
from collectives.chaos.profiles import Direction, Profile
from collectives.chaos.route import Route, counts, whole
from collectives.errors import CollectiveError, InvalidArgument, Timeout, UnsupportedError


class ShaperError(CollectiveError):
    """The proxy refused a command, or is no more; the message says which and why."""


class Shaper:
    """The process of the proxy; a context manager. All calls are safe from any thread.

    Args:
        seed: of jitter and damage.
        patience: seconds to wait for a reply, which takes microseconds.

    Raises:
        UnsupportedError: the proxy's program is not installed.
    """

    def __init__(self, *, seed: int = 0, patience: float = 10.0) -> None:
        program: Path = Path(collectives._native.__file__).with_name("shaper")
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [program, "--seed", str(seed)], stdin=theirs.fileno(), stdout=theirs.fileno()
                )
            except OSError as error:
                ours.close()
                raise UnsupportedError(
                    f"the shaping proxy cannot be started: {error}; reinstall collectives"
                ) from error
        self._socket = ours
        self._socket.settimeout(patience)
        self._lock = threading.Lock()
        self._received = b""

    def __enter__(self) -> Shaper:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id of the proxy."""
        return self._process.pid

    def close(self) -> None:
        """End the process, and so all connections; may be called again."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # heard although a forked child holds a copy
        self._socket.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def bucket(self, name: str, rate: float, burst: int = 0) -> str:
        """Make a rate that several directions share, or change it at once.

        Args:
            name: of at most 31 printable characters, without blanks, commas and ``=``.
            rate: bit/s; 0: unlimited.
            burst: bytes that may pass at once after a pause; 0: 5 ms of the rate, at least 16 KiB.

        Returns:
            The name.

        Raises:
            InvalidArgument: the name or a figure makes no sense.
        """
        if not name.isascii() or not name.isprintable() or not name or " " in name:
            raise InvalidArgument(f"{name!r} is no name for a bucket; use letters and digits")
        self.ask(f"bucket {name} {whole('rate', rate)} {whole('burst', burst)}")
        return name

    def route(
        self,
        target: str,
        *,
        up: Direction | None = None,
        down: Direction | None = None,
        up_buckets: Sequence[str] = (),
        down_buckets: Sequence[str] = (),
        listen: str = "127.0.0.1:0",
    ) -> Route:
        """Make a listener whose connections go on to ``target``; at any time.

        Args:
            target: ``HOST:PORT``, numeric; IPv6 in brackets.
            up: what bytes to the target suffer; None: nothing.
            down: what bytes from the target suffer.
            up_buckets: names of the buckets that the direction shares.
            down_buckets: the same for what comes back.
            listen: where to listen; port 0: any.

        Raises:
            ShaperError: an address is no address, or cannot be listened on.
        """
        number, address = self.ask(f"route {_word(target)} {_word(listen)}").split()
        route = Route(self.ask, int(number), address, target)
        route.shape("up", up or Direction(), up_buckets)
        route.shape("down", down or Direction(), down_buckets)
        return route

    def link(self, target: str, profile: Profile) -> Route:
        """Make a route that is like a profile."""
        return self.route(target, up=profile.up, down=profile.down)

    def stats(self) -> dict[str, int]:
        """Count ``routes``, ``live`` connections, and times without descriptors (``starved``)."""
        return counts(self.ask("stats"))

    def ask(self, command: str) -> str:
        """Send one command line, and return what follows ``ok`` in the reply.

        Raises:
            ShaperError: it was refused, or the proxy is no more.
            Timeout: there was no reply; the proxy is of no use any more.
        """
        with self._lock:
            try:
                self._socket.sendall(command.encode() + b"\n")
                while b"\n" not in self._received:
                    got = self._socket.recv(1 << 16)
                    if not got:
                        raise ConnectionResetError("it closed its end")
                    self._received += got
            except TimeoutError:
                self._process.kill()  # a late reply would be taken for that of the next command
                raise Timeout(f"the shaping proxy did not answer {command!r}") from None
            except OSError as error:
                raise ShaperError(f"the shaping proxy is gone: {error}") from error
            line, _, self._received = self._received.partition(b"\n")
        word, _, rest = line.decode().partition(" ")
        if word != "ok":
            raise ShaperError(f"the shaping proxy refused {command!r}: {rest}")
        return rest


def _word(text: str) -> str:
    if text.split() != [text]:
        raise InvalidArgument(f"{text!r} is not a usable address; write HOST:PORT")
    return text
