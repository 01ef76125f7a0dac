"""Fetching and serving: the core's ``coll_fetch`` and ``coll_serve`` with Python types and errors.

``Fetch`` is one request to a peer; ``Server`` is the thread that answers the requests of others.
What is asked for and what the bytes mean is decided by ``collectives.state``.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import select
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from collectives import errors
from collectives._native import ffi, lib
from collectives._native.engine import (
    VISITS,
    Engine,
    EngineGroup,
    check,
    nanoseconds,
    raise_status,
    text,
)

logger = logging.getLogger("collectives.state")

_IDLE_MS = 1000  # without a request, after which a server holds no buffers

REQUEST_MAX: int = lib.COLL_FETCH_REQUEST_MAX
ANSWER_MAX: int = lib.COLL_FETCH_ANSWER_MAX


class Fetch:
    """Bytes on their way from a peer into ``place``.

    Args:
        group: a group whose committed or prepared view both peers are in.
        peer: whom to ask.
        request: 1 to ``REQUEST_MAX`` bytes that name what is wanted.
        place: writable contiguous bytes, at most ``ANSWER_MAX``; must not be looked at before the
            fetch has ended.

    Raises:
        PeerLost: there is no link to the peer.
        Timeout: too many requests to it are unanswered.
    """

    def __init__(
        self, group: EngineGroup, peer: uuid.UUID, request: bytes, place: memoryview
    ) -> None:
        out = ffi.new("struct coll_fetch **")
        self._place = ffi.from_buffer(place, require_writable=True)
        status = lib.coll_fetch_start(
            group.handle, peer.bytes, request, len(request), self._place, place.nbytes, out
        )
        if status == lib.COLL_IN_PROGRESS:
            raise errors.Timeout(text(lib.coll_last_error()))
        check(status)
        self._handle = ffi.gc(out[0], lib.coll_fetch_release)
        self._bytes = ffi.new("uint64_t *")

    def result(self) -> int:
        """How many bytes came; only after ``wait`` has named it.

        Raises:
            PeerLost: the peer is gone.
            UnsupportedError: it does not have what was asked for.
        """
        status = lib.coll_fetch_result(self._handle, self._bytes)
        if status != lib.COLL_OK:
            raise_status(status, text(lib.coll_last_error()))
        return int(self._bytes[0])

    def release(self) -> None:
        """Forget it; nothing is written to its place any more."""
        ffi.release(self._handle)


def wait(fetches: Sequence[Fetch], seconds: float) -> int | None:
    """Wait until one of the fetches has ended.

    Args:
        fetches: at least one.
        seconds: at most so long, or until a signal comes.

    Returns:
        The index of one that has ended, None if none has yet.
    """
    handles = ffi.new("struct coll_fetch *[]", [fetch._handle for fetch in fetches])
    ended = ffi.new("uint32_t *")
    status = lib.coll_fetch_wait(handles, len(fetches), nanoseconds(seconds), ended)
    check(status)
    return None if status == lib.COLL_IN_PROGRESS else int(ended[0])


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a request is answered with.

    Attributes:
        data: contiguous bytes.
        lent: whether they are somebody's live memory, and not the answer's own.
    """

    data: memoryview
    lent: bool


Answering = Callable[[uuid.UUID, bytes, int], Answer | None]
"""From (who asks, request, the most bytes it takes) to the answer; None: there is none."""


class Server:
    """A thread that answers the requests of other peers, in each of an engine's groups.

    Args:
        engine: whose peers may ask.
        memory: while answers that are not lent hold so many bytes, no request is looked at.
    """

    def __init__(self, engine: Engine, memory: int = 32 << 20) -> None:
        self._engine = engine
        self._memory = memory
        self._lock = threading.Lock()
        self._answers: dict[int, Answering] = {}  # by group; guarded by _lock
        self._out: dict[int, tuple[Any, Answer, int]] = {}  # by ticket; likewise
        self._owned = 0  # likewise
        self._spare: list[np.ndarray] = []  # likewise
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        check(lib.coll_serve(engine.handle, 1))
        self._thread = threading.Thread(target=self._run, name="collectives-state", daemon=True)
        self._thread.start()

    def serve(self, group: int, answer: Answering) -> None:
        """Answer what is asked in a group from now on.

        Args:
            group: its number.
            answer: called in the server's thread; what it raises is logged and refuses the request.
        """
        with self._lock:
            self._answers[group] = answer

    def stop(self, group: int) -> None:
        """Answer nothing of a group any more; its memory is nobody's when this returns."""
        with self._lock:
            self._answers.pop(group, None)
            self._revoke(group, lent_only=False)

    def take_back(self, group: int) -> None:
        """Have no live memory of a group lent any more when this returns.

        Whoever had not got all of such an answer is told that there is none.
        """
        with self._lock:
            self._revoke(group, lent_only=True)

    def _revoke(self, group: int, *, lent_only: bool) -> None:
        for ticket, (_, answer, whose) in list(self._out.items()):
            if whose == group and (answer.lent or not lent_only):
                lib.coll_serve_revoke(self._engine.handle, ticket)
                del self._out[ticket]
                self._owned -= 0 if answer.lent else answer.data.nbytes

    def close(self) -> None:
        """End the thread and refuse what waits. The engine must be open still."""
        if self._stopping:
            return
        self._stopping = True
        os.eventfd_write(self._stop_fd, 1)
        self._thread.join()
        os.close(self._stop_fd)
        lib.coll_serve(self._engine.handle, 0)
        with self._lock:
            for ticket in self._out:
                lib.coll_serve_revoke(self._engine.handle, ticket)
            self._out.clear()

    def _run(self) -> None:
        request = ffi.new("struct coll_request *")
        fd = lib.coll_serve_fd(self._engine.handle)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._stop_fd, select.POLLIN)
        while not self._stopping:
            full = self._owned >= self._memory
            status = lib.coll_serve_next(self._engine.handle, full, request)
            if status == lib.COLL_IN_PROGRESS:
                if not poll.poll(_IDLE_MS):
                    with self._lock:
                        self._spare.clear()
            elif status != lib.COLL_OK:
                return  # a forked child
            elif request.length == 0:
                self._done(request.ticket)
            else:
                self._serve(request)

    def _done(self, ticket: int) -> None:
        with self._lock:
            _, answer, _ = self._out.pop(ticket, (None, None, 0))
            if answer is not None and not answer.lent:
                self._owned -= answer.data.nbytes
                if isinstance(answer.data.obj, np.ndarray):
                    self._spare.append(answer.data.obj)

    def copy(self, data: memoryview) -> Answer:
        """An answer of its own, a copy; only to be called by ``answer``."""
        # A fresh buffer would cost more to fault in than to fill.
        buffer = next((b for b in self._spare if b.size >= data.nbytes), None)
        if buffer is None:
            buffer = np.empty(data.nbytes, np.uint8)
        else:
            self._spare = [other for other in self._spare if other is not buffer]
        own = buffer.data[: data.nbytes]
        own[:] = data
        return Answer(own, lent=False)

    def _serve(self, request: Any) -> None:
        peer = uuid.UUID(bytes=bytes(ffi.buffer(request.peer)))
        asked = bytes(ffi.buffer(request.data, request.length))
        group = request.group & ~VISITS
        # Under the lock, so that take_back() finds whatever was lent before it.
        with self._lock:
            answering, answer = self._answers.get(group), None
            try:
                if answering is not None:
                    answer = answering(peer, asked, request.capacity)
            except Exception:
                logger.exception("cannot answer a request of %s", peer)
            if answer is None:
                lib.coll_serve_refuse(self._engine.handle, request.ticket)
                return
            data = ffi.from_buffer(answer.data)
            status = lib.coll_serve_answer(
                self._engine.handle, request.ticket, data, answer.data.nbytes
            )
            if status == lib.COLL_OK:
                self._out[request.ticket] = (data, answer, group)
                self._owned += 0 if answer.lent else answer.data.nbytes
