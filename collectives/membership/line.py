"""A peer's connection to its coordinator: ``Line``, a DEALER socket and the address it dials."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable

import zmq
import zmq.asyncio

from collectives.membership.address import Address, is_numeric, resolve
from collectives.membership.wire import MAX_TO_PEER

_AGAIN = 0.25
"""Seconds until a name that was not found is looked up again, and before the first probe."""


class Line:
    """Made, used and closed in the thread of a running loop.

    Args:
        connected: called in the loop when a name was found and is dialled; not for numbers.

    Attributes:
        probe: why nobody answers, as far as ``find_fault`` knows.
    """

    def __init__(self, connected: Callable[[], None]) -> None:
        self.probe = "no attempt to connect was finished"
        self._connected = connected
        self._loop = asyncio.get_running_loop()
        self._address: Address | None = None
        self._endpoint = ""
        self._closed = False
        self._context = zmq.asyncio.Context()
        socket = self._socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 200)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_TO_PEER)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        # What is said while nobody listens is queued and arrives late; little of it is enough,
        # as all of it is said again.
        socket.setsockopt(zmq.SNDHWM, 32)

    def dial(self, address: Address) -> None:
        """Speak with the coordinator at this address from now on."""
        self._address = address
        if self._endpoint:
            self._socket.disconnect(self._endpoint)
            self._endpoint = ""
        if is_numeric(address):
            self._connect(address, address.endpoint)
        else:
            threading.Thread(target=self._resolve, args=(address,), daemon=True).start()

    def _connect(self, address: Address, endpoint: str) -> None:
        if not self._closed and address == self._address and not self._endpoint:
            self._socket.connect(endpoint)
            self._endpoint = endpoint

    def _resolve(self, address: Address) -> None:
        """Find the address of a name, in a thread that nobody has to wait for: it may take long."""
        while not self._closed and address == self._address:
            try:
                endpoint = resolve(address).endpoint
            except OSError as error:
                self.probe = error.strerror or str(error)
                time.sleep(_AGAIN)
                continue
            with contextlib.suppress(RuntimeError):  # the agent was closed meanwhile
                self._loop.call_soon_threadsafe(self._resolved, address, endpoint)
            return

    def _resolved(self, address: Address, endpoint: str) -> None:
        self._connect(address, endpoint)
        self._connected()

    async def receive(self) -> bytes:
        """The next message."""
        parts: list[bytes] = await self._socket.recv_multipart()
        return parts[-1]

    def send(self, data: bytes) -> None:
        """Send if there is room: everything is sent again until it is answered."""
        future = self._socket.send(data, flags=zmq.NOBLOCK)
        if isinstance(future, asyncio.Future):
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def find_fault(self, answered: Callable[[], bool]) -> None:
        """Until somebody has answered, find out in plain TCP why not; ZeroMQ does not tell."""
        await asyncio.sleep(_AGAIN)
        while not answered():
            address = self._address
            assert address is not None
            try:
                _, writer = await asyncio.wait_for(
                    asyncio.open_connection(address.host, address.port), 5.0
                )
            except asyncio.TimeoutError:
                self.probe = "no answer to a TCP connection in 5 s"
            except OSError as error:
                # asyncio replaces the system's words by its own.
                self.probe = os.strerror(error.errno) if error.errno else str(error)
            else:
                self.probe = "something listens there, but it is no coordinator"
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            await asyncio.sleep(2.0)

    def close(self) -> None:
        """Close the socket; what was sent has 200 ms to go out."""
        self._closed = True
        self._context.destroy(linger=200)
