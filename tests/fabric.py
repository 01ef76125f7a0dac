"""A network between peers on one host in which any pair can be cut, one way or both, without root.

    with Fabric(3) as fabric:
        members = mortals.band(3, fabric.options(detection=1.0))
        fabric.know(mortals.group_of(members))
        fabric.cut(0, 1)

Each peer advertises a listener of the fabric's, which passes on what comes. Who dials is read from
the hello. What is cut is held back, not lost, as packets are that will be sent again: it arrives
after ``mend``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import selectors
import socket
import threading
import uuid
from typing import Any

from proxy import free_port, reset

_CHUNK = 1 << 18
_HELLO = 160  # bytes; the dialer's id is among them


@dataclasses.dataclass(eq=False)
class _Way:
    """One direction of a connection."""

    source: socket.socket
    sink: socket.socket
    dialer: int | None  # None: not known yet
    acceptor: int
    onwards: bool  # from the dialer to the acceptor
    other: _Way | None = None
    first: bytes = b""


class Fabric:
    """``size`` listeners and a thread that passes bytes on; a context manager."""

    def __init__(self, size: int) -> None:
        self._ports = [free_port() for _ in range(size)]
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(size)]
        self._selector = selectors.DefaultSelector()
        self._ids: dict[uuid.UUID, int] = {}
        self._cut: set[tuple[int, int]] = set()
        self._lock = threading.Lock()
        self._held: list[_Way] = []
        self._ways: list[_Way] = []
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stopping = False

    def options(self, **more: Any) -> list[dict[str, Any]]:
        """The ``Options`` of each peer."""
        return [
            {
                "transport": "tcp",
                "bind": ("127.0.0.1",),
                "port_range": (port, port),
                "advertise": (f"127.0.0.1:{listener.getsockname()[1]}",),
                **more,
            }
            for port, listener in zip(self._ports, self._listeners, strict=True)
        ]

    def know(self, group: Any) -> None:
        """Learn from the coordinator which peer is which; they are cut by rank."""
        ports = {listener.getsockname()[1]: i for i, listener in enumerate(self._listeners)}
        by_rank = {}
        with self._lock:
            for peer in group.view.peers:
                index = ports[int(peer.addresses[0].rpartition(":")[2])]
                self._ids[peer.id] = index
                by_rank[group.view.rank_of(peer.id)] = index
        self._index = by_rank

    def cut(self, a: int, b: int, *, one_way: bool = False) -> None:
        """Nothing gets from rank ``a`` to rank ``b`` any more, nor back unless it is one way."""
        here, there = self._index[a], self._index[b]
        with self._lock:
            self._cut.add((here, there))
            if not one_way:
                self._cut.add((there, here))

    def mend(self) -> None:
        """What was held back arrives, and all can talk again."""
        with self._lock:
            self._cut.clear()
        self._wake.send(b"x")

    def __enter__(self) -> Fabric:
        for index, listener in enumerate(self._listeners):
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, index)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._wake.send(b"x")
        self._thread.join(10)
        assert not self._thread.is_alive()
        for way in self._ways:
            reset(way.source)
        for end in (*self._listeners, self._wake, self._woken):
            end.close()
        self._selector.close()

    # -- below runs in the thread --

    def _run(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select(1.0):
                if key.data is None:
                    self._woken.recv(100)
                    held, self._held = self._held, []
                    for way in held:
                        if way.source.fileno() != -1:
                            self._selector.register(way.source, selectors.EVENT_READ, way)
                elif isinstance(key.data, int):
                    self._accept(key.data)
                elif key.fileobj.fileno() != -1:  # type: ignore[union-attr]
                    self._carry(key.data)

    def _accept(self, index: int) -> None:
        accepted, _ = self._listeners[index].accept()
        try:
            onward = socket.create_connection(("127.0.0.1", self._ports[index]), 5)
        except OSError:
            reset(accepted)
            return
        for end in (accepted, onward):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(5)
        there = _Way(accepted, onward, None, index, True)
        back = _Way(onward, accepted, None, index, False, there)
        there.other = back
        for way in (there, back):
            self._ways.append(way)
            self._selector.register(way.source, selectors.EVENT_READ, way)

    def _is_cut(self, way: _Way) -> bool:
        known = way if way.onwards else way.other
        assert known is not None
        with self._lock:
            if known.dialer is None and len(known.first) >= _HELLO:
                found = [i for peer, i in self._ids.items() if peer.bytes in known.first]
                known.dialer = next((i for i in found if i != known.acceptor), None)
            if known.dialer is None:
                return False
            pair = (known.dialer, known.acceptor)
            return (pair if way.onwards else pair[::-1]) in self._cut

    def _carry(self, way: _Way) -> None:
        if self._is_cut(way):
            self._selector.unregister(way.source)
            self._held.append(way)
            return
        try:
            data = way.source.recv(_CHUNK)
            if way.onwards and len(way.first) < _HELLO:
                way.first += data[:_HELLO]
                if self._is_cut(way):  # a new connection of a pair that is cut already
                    self._end(way)
                    return
            if data:
                way.sink.sendall(data)
                return
        except OSError:
            pass
        self._end(way)

    def _end(self, way: _Way) -> None:
        for one in (way, way.other):
            assert one is not None
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(one.source)
            if one in self._ways:
                self._ways.remove(one)
        reset(way.source)
        reset(way.sink)
