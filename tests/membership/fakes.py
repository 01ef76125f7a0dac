"""A data plane that moves nothing, for the tests of the control plane."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections import deque

from collectives.membership import plane as plane_events
from collectives.membership.report import (
    Entry,
    Report,
    Standing,
    Veto,
    decode_epoch,
    encode_report,
)
from collectives.membership.view import View

TIMEOUT = 2
"""``COLL_TIMEOUT`` of the core."""


def failed(number: int, text: str = "a call gave up", status: int = TIMEOUT) -> Report:
    """What a peer reports whose operation ``number`` wants to end with an error."""
    return Report(
        entries=(Entry(0, number, Standing.RUNNING),),
        vetoes=(Veto(0, number, status, None, text),),
    )


class FakePlane:
    """Connects to everybody at once unless told otherwise; records what it was asked.

    In a round it reports ``report``; ``veto`` opens one about an operation that failed.
    """

    def __init__(self) -> None:
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.lock = threading.Lock()
        self.events: deque[plane_events.PlaneEvent] = deque()
        self.calls: list[tuple] = []
        self.unreachable: dict[str, str] = {}  # peer name -> text
        self.silent = False  # tells nothing of the links of a coming view
        self.mute = False  # does not report
        self.me = uuid.UUID(int=0)
        self.view: View | None = None
        self.coming: View | None = None
        self.report = Report()
        self.verdicts: list[bytes] = []
        self.ended: list[str] = []

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

    def veto(self, view: int, number: int, text: str = "a call gave up") -> None:
        """Operation ``number`` wants to end with an error."""
        self.report = failed(number, text)
        self.emit(plane_events.Vetoed(view, text))

    # -- what membership asks --

    def open(self, group_id: int, group: str) -> None:
        self.calls.append(("open", group_id, group))

    def prepare(self, view: View, rank: int) -> None:
        self.me = view.peers[rank].id
        self.calls.append(("prepare", view.number, rank))
        self.coming = view
        if self.silent:
            return
        bad = [p for p in view.peers if p.name in self.unreachable]
        for p in bad:
            text = self.unreachable[p.name]
            self.emit(plane_events.Unreachable(view.number, p.id, text))
        if not bad:
            self.emit(plane_events.ViewReady(view.number, (rank,)))

    def commit(self, view: View) -> None:
        assert self.coming is not None
        assert self.coming.number == view.number
        self.calls.append(("commit", view.number, view.first_operation))
        self.view, self.coming = view, None

    def discard(self) -> None:
        self.calls.append(("discard",))
        self.coming = None

    def seal(self, epoch: bytes) -> None:
        self.calls.append(("seal", decode_epoch(epoch)))
        if not self.mute:
            data = encode_report(decode_epoch(epoch), self.me, self.report)
            self.emit(plane_events.Reported(data))

    def judge(self, verdict: bytes) -> None:
        self.calls.append(("judge", decode_epoch(verdict[:32])))
        self.report, self.coming = Report(), None
        self.verdicts.append(verdict)

    def relay(self, peer: uuid.UUID, message: bytes, verdict: bool) -> None:
        self.calls.append(("relay", peer, message, verdict))

    def out(self, text: str) -> None:
        self.calls.append(("out", text))
        self.ended.append(text)
