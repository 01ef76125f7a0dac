"""A TCP proxy between two peers that damages what it carries, at exact offsets.

    with Proxy(port_of_the_peer) as proxy:      # the peer advertises proxy.address
        proxy.cut()                             # now
        proxy.damage = Damage(seed, every=100_000, acts=("cut", "flip"))

It runs in threads of the test process; each connection has a thread per direction.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import random
import socket
import struct
import termios
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

_CHUNK = 1 << 16


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nothing listens, and which the system gives to nobody who asks for any.

    One of those that it does give could be taken by whatever runs beside the test, before the one
    it is meant for listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    chance = random.SystemRandom()  # not the test's: others ask for ports at the same time
    others = [*range(10_000, first), *range(last + 1, 65_536)] or range(10_000, 65_536)
    while True:
        port = chance.choice(others)
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port


class Damage:
    """What happens to the bytes: acts at random distances, of random kinds, from a seed.

    Args:
        seed: of everything random.
        every: mean number of bytes (both directions together) between two acts.
        acts: which of ``cut`` (both ends are reset), ``end`` (the receiving end alone: the sender
            goes on talking to nobody), ``flip`` (a bit), ``drop`` (a few bytes are missing),
            ``twice`` (a few bytes come twice), ``close`` (the sender is reset, the receiver gets
            what was on its way, and then its end).
        most: how many acts there are at most.
        skip: bytes that pass before the first act.
    """

    def __init__(
        self, seed: int, every: int, acts: Sequence[str], most: int = 1 << 30, skip: int = 0
    ) -> None:
        self._random = random.Random(seed)
        self._every = every
        self._acts = acts
        self._lock = threading.Lock()
        self._most = most
        self.done: list[str] = []
        self._left = skip + self._random.randint(1, 2 * every)

    def split(self, length: int) -> tuple[int, str]:
        """How many of the next bytes pass, and what happens then (nothing: "")."""
        with self._lock:
            if self._left > length or len(self.done) >= self._most:
                self._left -= length
                return length, ""
            passed = self._left
            self._left = self._random.randint(1, 2 * self._every)
            self.done.append(self._random.choice(self._acts))
            return passed, self.done[-1]


class Proxy:
    """Listens on a port of its own and passes everything on to ``target``.

    Attributes:
        damage: what happens to the bytes; None: nothing.
        accepted: connections so far.
    """

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self._target = (host, target)
        self._listener = socket.create_server((host, 0))
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        self.damage: Damage | None = None
        self.accepted = 0
        self._passing = threading.Event()
        self._passing.set()
        self._closed = False
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._in_hand: dict[int, int] = {}
        self._swallowed: set[int] = set()
        self._forgotten: list[socket.socket] = []

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        self._passing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for end in self._forgotten:
            reset(end)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def cut(self) -> int:
        """Reset all connections at both ends; how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                reset(end)
        return len(pairs)

    def stall(self) -> None:
        """Let nothing pass any more, and keep the connections open."""
        self._passing.clear()

    def swallow_one(self) -> bool:
        """Let nothing more pass on the newest connection, though both ends may go on talking."""
        with self._lock:
            if not self._pairs:
                return False
            self._swallowed |= {id(end) for end in self._pairs[-1]}
        return True

    def held(self) -> int:
        """Bytes that wait in each direction of the connection that holds most, the lesser."""
        with self._lock:
            pairs = list(self._pairs)
            in_hand = dict(self._in_hand)
        most = 0
        for pair in pairs:
            waiting = []
            for end in pair:
                count = array.array("i", [0])
                with contextlib.suppress(OSError):
                    fcntl.ioctl(end.fileno(), termios.FIONREAD, count)
                waiting.append(count[0] + in_hand.get(id(end), 0))
            most = max(most, min(waiting))
        return most

    def resume(self) -> None:
        """Let pass what waits."""
        self._passing.set()

    def forget(self) -> int:
        """Reset the accepted ends alone, as a gateway does that forgets: the others learn nothing
        and talk to nobody from now on."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            # Without a reference Python would close them, and that would be heard.
            self._forgotten += [onward for _, onward in pairs]
        for accepted, _ in pairs:
            reset(accepted)
        return len(pairs)

    def _start(self, target, *arguments) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            try:
                onward = socket.create_connection(self._target, 5)
            except OSError:
                reset(accepted)
                continue
            for end in (accepted, onward):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                end.settimeout(None)
            with self._lock:
                self._pairs.append((accepted, onward))
                self.accepted += 1
            self._start(self._carry, accepted, onward)
            self._start(self._carry, onward, accepted)

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        while True:
            try:
                data = source.recv(_CHUNK)
            except OSError:
                if source.fileno() != -1:  # else it was reset here, on purpose
                    reset(sink)
                return
            if not data:
                if source.fileno() != -1:
                    with contextlib.suppress(OSError):
                        sink.shutdown(socket.SHUT_WR)
                return
            if id(source) in self._swallowed:
                continue
            self._in_hand[id(source)] = len(data)
            self._passing.wait()
            self._in_hand[id(source)] = 0
            try:
                if not self._pass(data, source, sink):
                    return
            except OSError:
                if sink.fileno() != -1:
                    reset(source)
                return

    def _pass(self, data: bytes, source: socket.socket, sink: socket.socket) -> bool:
        """Send what the damage leaves of the data. False: the connection is no more."""
        while data:
            passed, act = self.damage.split(len(data)) if self.damage else (len(data), "")
            sink.sendall(data[:passed])
            data = data[passed:]
            if act == "cut":
                reset(source)
                reset(sink)
                return False
            if act == "end":
                reset(sink)
                while source.recv(_CHUNK):
                    pass  # swallowed until its owner gives it up
                return False
            if act == "close":
                reset(source)
                sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)
                return False
            if act == "flip" and data:
                data = bytes([data[0] ^ 0x10]) + data[1:]
            elif act == "drop":
                data = data[5:]
            elif act == "twice":
                data = data[:7] + data
        return True


def reset(end: socket.socket) -> None:
    """Close with a reset instead of an orderly end."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RD)  # wakes a thread that reads from it
    with contextlib.suppress(OSError):
        end.close()
