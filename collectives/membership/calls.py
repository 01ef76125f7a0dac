"""What the user's thread waits for while the agent's thread works: ``Calls``."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from typing import Any

from collectives.membership.peer_state import Call


class Calls:
    """At most one call of each kind under way, and the error that ended them all; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._futures: dict[Call, concurrent.futures.Future[Any]] = {}
        self._error: BaseException | None = None

    def pending(self, call: Call) -> concurrent.futures.Future[Any] | None:
        """The one under way; None: there is none."""
        with self._lock:
            return self._futures.get(call)

    def begin(self, call: Call) -> concurrent.futures.Future[Any]:
        """Begin one; raises the error that has ended all calls."""
        with self._lock:
            if self._error is not None:
                raise self._error
            future = self._futures[call] = concurrent.futures.Future()
            return future

    def claim(self, call: Call, future: concurrent.futures.Future[Any]) -> None:
        """Its result was handed out: it is not under way any more."""
        with self._lock:
            if self._futures.get(call) is future:
                del self._futures[call]

    def resolve(self, call: Call, result: Any) -> None:
        """End one if it is under way."""
        with self._lock:
            future = self._futures.get(call)
            if future is not None and not future.done():
                future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """End every pending call, and all later ones, with ``error`` (the first one counts)."""
        with self._lock:
            self._error = self._error or error
            for future in self._futures.values():
                if not future.done():
                    future.set_exception(self._error)


def wait(future: concurrent.futures.Future[Any], deadline: float) -> Any:
    """Its result; raises ``concurrent.futures.TimeoutError`` at the deadline (monotonic)."""
    left = deadline - time.monotonic()
    return future.result(min(max(0.0, left), threading.TIMEOUT_MAX))
