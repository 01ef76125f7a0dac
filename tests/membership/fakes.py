"""A data plane that moves nothing, for the tests of the control plane."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque

from collectives.membership import plane as plane_events
from collectives.membership.view import View


class FakePlane:
    """Connects to everybody at once unless told otherwise; records what it was asked."""

    def __init__(self) -> None:
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.lock = threading.Lock()
        self.events: deque[plane_events.PlaneEvent] = deque()
        self.calls: list[tuple] = []
        self.unreachable: dict[str, str] = {}  # peer name -> text
        self.silent = False
        self.view: View | None = None
        self.coming: View | None = None
        self.failed: list[tuple] = []

    def close(self) -> None:
        os.close(self.event_fd)

    def emit(self, event: plane_events.PlaneEvent) -> None:
        with self.lock:
            self.events.append(event)
            os.eventfd_write(self.event_fd, 1)

    def next_event(self) -> plane_events.PlaneEvent | None:
        with self.lock:
            if self.events:
                return self.events.popleft()
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.event_fd)
            return None

    def open(self, group_id: int, group: str) -> None:
        self.calls.append(("open", group_id, group))

    def prepare(self, view: View, rank: int) -> None:
        assert view.peers[rank] is not None
        self.calls.append(("prepare", view.number, rank))
        self.coming = view
        if self.silent:
            return
        bad = [p for p in view.peers if p.name in self.unreachable]
        for p in bad:
            text = self.unreachable[p.name]
            self.emit(plane_events.Unreachable(view.number, p.id, text))
        if not bad:
            self.emit(plane_events.ViewReady(view.number))

    def commit(self, term: int, number: int, first_operation: int) -> None:
        assert self.coming is not None
        assert self.coming.number == number
        self.calls.append(("commit", number, first_operation))
        self.view, self.coming = self.coming, None

    def discard(self) -> None:
        self.calls.append(("discard",))
        self.coming = None

    def fail(self, peer, left, text) -> None:
        self.calls.append(("fail", peer, left, text))
        self.failed.append((peer, left, text))
