"""Processes in fixed views, through the binding: no coordinator, and nothing above the core.

    with Ranks() as ranks:
        members = ranks.open(3, transport="tcp")     # a group of three processes, committed
        members[2].start(call, "all_reduce", 100)
        ended = members[2].result().get()

A process keeps its engine and the groups on it, by number, for the functions that it is told to
call; they act on the newest group. What survives a group goes into the next.
"""

from __future__ import annotations

import dataclasses
import itertools
import secrets
import select
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from collectives import Options
from collectives._native import ffi, lib
from collectives._native.engine import (
    KINDS,
    Engine,
    EngineGroup,
    EnginePeer,
    Event,
    process_identity,
    text,
)
from crew import DEADLINE, Member, Outcome
from nursery import Nursery

FOREVER = 2**62


@dataclasses.dataclass(frozen=True)
class Ended:
    """How an operation ended in a process, or why it was not issued.

    Attributes:
        status: a ``COLL_`` status.
        culprit: the name of the member that it is about, "" for none.
        text: of the error.
        value: the first element of the output.
        at: ``time.time()`` of the end.
    """

    status: int
    culprit: str
    text: str
    value: float
    at: float

    @property
    def cause(self) -> tuple[int, str]:
        return self.status, self.culprit


class Operation:
    """One under way, with its buffers."""

    def __init__(self, place: Place, kind: str, count: int, root: int, tag: int, seconds: float):
        self._place = place
        size = place.size
        given = count * (size if kind in ("all_to_all", "reduce_scatter") else 1)
        taken = count * (size if kind in ("all_to_all", "all_gather") else 1)
        self._input = np.full(given, place.rank + 1.0)
        self._output = np.zeros(taken)
        c = ffi.new("struct coll_call *")
        c.kind, c.dtype, c.op, c.count = KINDS[kind], lib.COLL_F64, lib.COLL_SUM, count
        c.root, c.tag, c.timeout_ns = root, tag, int(seconds * 1e9)
        c.input = ffi.cast("void *", self._input.ctypes.data)
        c.output = ffi.cast("void *", self._output.ctypes.data)
        if kind == "broadcast":
            self._output[:] = place.rank + 1
            c.input = c.output
        out = ffi.new("struct coll_operation **")
        self.issued = lib.coll_issue(place.group.handle, c, out)
        self.why = text(lib.coll_last_error()) if self.issued else ""
        self.handle = out[0] if self.issued == lib.COLL_OK else None

    def wait(self, nanoseconds: int = FOREVER) -> Ended:
        if self.handle is None:
            return Ended(self.issued, self._place.culprit(), self.why, 0.0, time.time())
        status = lib.coll_wait(self.handle, nanoseconds)
        at = time.time()
        culprit = lib.coll_operation_culprit(self.handle)
        return Ended(
            status,
            self._place.names[culprit] if culprit >= 0 else "",
            text(lib.coll_operation_error(self.handle)),
            float(self._output[0]) if self._output.size else 0.0,
            at,
        )

    def release(self) -> None:
        lib.coll_operation_release(self.handle)


class Place:
    """A group in this process."""

    def __init__(self, number: int, name: str) -> None:
        self.group = EngineGroup(engine(), number, name)
        self.rank = self.size = 0
        self.names: list[str] = []
        self._ids: list[uuid.UUID] = []
        self.works: list[Operation] = []
        self.events: list[Event] = []

    def prepare(self, rank: int, peers: tuple[EnginePeer, ...], key: bytes) -> None:
        self.rank, self.size = rank, len(peers)
        self.names, self._ids = [peer.name for peer in peers], [peer.id for peer in peers]
        self.group.prepare(
            term=1, number=1, first_operation=1, rank=rank, peers=peers, key=key, fixed=True
        )

    def await_event(self, *kinds: int, seconds: float = DEADLINE) -> Event:
        deadline = time.monotonic() + seconds
        while True:
            for event in iter(self.group.next_event, None):
                self.events.append(event)
                if event.kind in kinds:
                    return event
            left = deadline - time.monotonic()
            assert left > 0, f"no event {kinds} within {seconds} s, but {self.events}"
            select.select([self.group.event_fd], [], [], left)

    def culprit(self) -> str:
        """Whom the broken group is about."""
        _, culprit = self.group.state()
        return self.names[self._ids.index(uuid.UUID(bytes=culprit))] if any(culprit) else ""


_engine: Engine | None = None
_places: dict[int, Place] = {}


def engine() -> Engine:
    assert _engine is not None
    return _engine


def newest() -> Place:
    return _places[max(_places)]


# ---- what a process is told --------------------------------------------------------------------


def listen(_: Any, name: str, options: dict[str, Any]) -> EnginePeer:
    """Make the engine, if there is none."""
    global _engine
    if _engine is None:
        _engine = Engine(Options(**{"bind": ("127.0.0.1",), **options}), uuid.uuid4())
    addresses = options.get("advertise", _engine.addresses)
    return EnginePeer(_engine.peer_id, name, addresses, process_identity())


def prepare(_: Any, number: int, rank: int, peers: tuple[EnginePeer, ...], key: bytes) -> None:
    _places[number] = Place(number, f"group {number}")
    _places[number].prepare(rank, peers, key)


def ready(_: Any) -> None:
    newest().await_event(lib.COLL_EVENT_VIEW_READY)


def commit(_: Any) -> None:
    newest().group.commit(1, 1, 1)


def call(_: Any, kind: str, count: int, root: int = 0, tag: int = 0, seconds: float = 0) -> Ended:
    """One operation, from its issue to its end; it stays as it is."""
    work = Operation(newest(), kind, count, root, tag, seconds)
    newest().works.append(work)
    return work.wait()


def issue(_: Any, kind: str, count: int, root: int = 0, tag: int = 0, seconds: float = 0) -> int:
    """One that goes on; ``wait`` ends it."""
    newest().works.append(Operation(newest(), kind, count, root, tag, seconds))
    return newest().works[-1].issued


def wait(_: Any, index: int = -1) -> Ended:
    return newest().works[index].wait()


def die_at(_: Any, phase: str) -> None:
    newest().group.fault_at(phase, 0, tag=0)


def broken(_: Any) -> Ended:
    """The event of it; and what a call says after it."""
    place = newest()
    event = next((e for e in place.events if e.kind == lib.COLL_EVENT_BROKEN), None)
    event = event or place.await_event(lib.COLL_EVENT_BROKEN)
    later = Operation(place, "barrier", 0, 0, 0, 0).wait()
    status, culprit = place.group.state()
    assert (status, uuid.UUID(bytes=culprit)) == (later.status, event.peer)
    assert later.text.startswith(event.text[:400]), (later.text, event.text)
    return later


def give_up(_: Any, status: int, why: str) -> None:
    newest().group.break_(status, why)


def flush(_: Any, seconds: float = DEADLINE) -> tuple[bool, float]:
    """Whether it was done, and how long it took."""
    began = time.monotonic()
    return newest().group.flush(seconds), time.monotonic() - began


def close(_: Any) -> None:
    """The newest group, with what is held of it."""
    place = _places.pop(max(_places))
    place.group.close()
    for work in place.works:
        if work.handle is not None:
            assert lib.coll_test(work.handle) != lib.COLL_IN_PROGRESS
            work.release()


def shut(_: Any) -> None:
    """All groups, and the engine: the next ``listen`` makes a new one."""
    global _engine
    while _places:
        close(None)
    engine().close()
    _engine = None


def pause(_: Any, seconds: float) -> None:
    time.sleep(seconds)


# ---- in the test -------------------------------------------------------------------------------


class Ranks:
    """Processes for fixed views; a context manager."""

    def __init__(self) -> None:
        self._nursery = Nursery("fixed")
        self._numbers = itertools.count(1)
        self.idle: list[Member] = []
        self.peers: tuple[EnginePeer, ...] = ()  # of the newest group

    def __enter__(self) -> Ranks:
        self._nursery.__enter__()
        return self

    def __exit__(self, *what: object) -> None:
        self._nursery.__exit__(*what)

    def prepare(
        self, members: Sequence[Member], each: Sequence[dict[str, Any]] = (), **options: Any
    ) -> None:
        """A group of these, not committed yet; they are its ranks.

        Args:
            members: who.
            each: options of the engine of each, if it is made; none: the others.
            options: of all engines that are made.
        """
        each = each or [options] * len(members)
        peers = tuple(
            ask(members, listen, [(f"rank {rank}", one) for rank, one in enumerate(each)])
        )
        self.peers = peers
        number, key = next(self._numbers), secrets.token_bytes(32)
        ask(members, prepare, [(number, rank, peers, key) for rank in range(len(members))])

    def enter(self, members: Sequence[Member], **options: Any) -> None:
        self.prepare(members, **options)
        ask(members, ready)
        ask(members, commit)

    def open(self, size: int, **options: Any) -> list[Member]:
        """``size`` processes in a group."""
        while len(self.idle) < size:
            self.idle.append(Member(next(self._numbers), nursery=self._nursery))
        members, self.idle = self.idle[:size], self.idle[size:]
        self.enter(members, **options)
        return members

    def end(self, members: Sequence[Member]) -> None:
        """Have them close everything; they are there for other groups, with new engines."""
        ask(members, shut)
        self.idle += members


def start(members: Sequence[Member], function: Callable[..., Any], *arguments: Any) -> None:
    for member in members:
        member.start(function, *arguments)


def results(members: Sequence[Member]) -> list[Any]:
    """Of what was started last, in all of them; a deadline for all."""
    deadline = time.monotonic() + DEADLINE
    outcomes: list[Outcome] = [m.result(max(0.0, deadline - time.monotonic())) for m in members]
    return [outcome.get() for outcome in outcomes]


def ask(
    members: Sequence[Member], function: Callable[..., Any], arguments: Any = (), *same: Any
) -> list[Any]:
    """Call a function in each, and return what it returned.

    Args:
        members: who.
        function: what; see above.
        arguments: one tuple for each; or none, and `same` for all.
        same: arguments.
    """
    each = arguments or [same] * len(members)
    for member, mine in zip(members, each, strict=True):
        member.start(function, *mine)
    return results(members)


__all__ = ["Ended", "Ranks", "ask", "results", "start"]
