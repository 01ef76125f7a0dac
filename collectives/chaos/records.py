"""What the journals of a run say, with types: lives and what they did, faults and whom they hit.

Times are nanoseconds of the machine's monotonic clock, as in the journals; ``history`` reads them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from collectives.chaos.journal import AND_MORE, Line, View

SECOND = 1_000_000_000
FOREVER = math.inf
Interval = tuple[float, float]


@dataclasses.dataclass(slots=True)
class Presence:
    """One presence of a life in a group: from a ``joined`` or ``rejoined`` on.

    Attributes:
        counters: what its data plane refused and repaired until ``counted``; None: not known.
        out: whether it had been put out of the run by then.
    """

    group: str
    id: str
    name: str
    t: int
    left: int | None = None
    counters: dict[str, int] | None = None
    counted: int = 0
    out: bool = False


@dataclasses.dataclass(slots=True)
class Seen:
    """A view that a life's caller came to see, with the line that says so.

    Attributes:
        call: the one in which it came, None: not known.
    """

    t: int
    view: View
    presence: Presence
    line: int
    call: Call | None


@dataclasses.dataclass(slots=True)
class Call:
    """A call and what came of it.

    Attributes:
        timeout: seconds; None: the call had none.
        ended: None: it neither returned nor raised.
        counts: of blocks of different sizes; those that come after those that go, if they differ.
        codec: its name and a digest of all that is set of it.
        root: the name of the root; of a send and a receive, of the sender: "" from any.
        to: of a send and a receive, the name of the receiver.
        result: digest of what all have the same of.
        own: digest of a result that is this rank's own.
        ranges: elements that have contributors of their own, where not all have the same.
        error: class of what it raised, None: it returned, or has not ended.
        in_view: number of the view in which the operation ended; of a return only.
        seen: the newest view that the caller had seen when it called.
    """

    life: Life
    presence: Presence | None
    line: int
    n: int
    t: int
    op: str
    group: str
    tag: int | None
    count: int | None
    counts: tuple[int, ...] | None
    dtype: str | None
    redop: str | None
    codec: str | None
    root: str | int | None
    to: str | None
    in_place: bool
    atomic: bool
    timeout: float | None
    on_failure: str | None
    digest: str | None
    blocking: bool
    work: int | None
    seen: View | None
    ended: int | None = None
    end_line: int = 0
    number: int | None = None
    result: str | None = None
    own: str | None = None
    contributors: tuple[str, ...] | None = None
    ranges: tuple[tuple[int, int, tuple[str, ...]], ...] = ()
    in_view: int | None = None
    retries: int = 0
    seconds: float | None = None
    error: str | None = None
    peer: str | None = None
    unknown: bool = False
    message: str = ""
    after: str | None = None

    @property
    def returned(self) -> bool:
        """Whether it succeeded."""
        return self.ended is not None and self.error is None

    @property
    def is_its_inputs(self) -> bool:
        """Whether its result depends on nothing but its inputs."""
        return not (self.codec and self.codec.endswith(AND_MORE))

    @property
    def pair(self) -> tuple[str, str] | None:
        """Who sends to whom; None: it is no send or receive, or one from nobody that is known."""
        sender = self.contributors[0] if self.op == "recv" and self.contributors else self.root
        return (str(sender), self.to) if self.to and sender else None

    @property
    def lines(self) -> tuple[str, ...]:
        """Where its lines are."""
        where = self.life.at(self.line)
        return (where, self.life.at(self.end_line)) if self.end_line else (where,)


@dataclasses.dataclass(slots=True)
class State:
    """What a life held after a ``sync(state)`` that returned."""

    t: int
    group: str
    revision: int
    digest: str
    run: str | None
    line: int
    presence: Presence | None


@dataclasses.dataclass(slots=True)
class Life:
    """One process in a place.

    Attributes:
        place: the harness's name of it, such as ``"p2"``.
        number: 0 for the first process in the place.
        status: its exit status, negative: the signal; None: it has not exited.
        expected: whether the harness counted on that exit.
        killed: when a fault or the harness killed it.
        ending: what its ``end`` line says, None: there is none.
    """

    place: str
    number: int
    calls: list[Call] = dataclasses.field(default_factory=list)
    presences: list[Presence] = dataclasses.field(default_factory=list)
    views: list[Seen] = dataclasses.field(default_factory=list)
    states: list[State] = dataclasses.field(default_factory=list)
    wrongs: list[Line] = dataclasses.field(default_factory=list)
    resources: list[Line] = dataclasses.field(default_factory=list)
    started: int | None = None
    exited: int | None = None
    status: int | None = None
    expected: bool = False
    killed: int | None = None
    ending: str | None = None
    ended: int | None = None
    stops: list[Interval] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """As its journal is called."""
        return f"{self.place}.{self.number}"

    @property
    def gone(self) -> float:
        """When the process was no more."""
        times = [t for t in (self.killed, self.exited) if t is not None]
        return min(times, default=FOREVER)

    def at(self, line: int) -> str:
        """A reference to a line of its journal."""
        return f"{self.name}:{line}"

    def stopped(self, since: float, until: float) -> float:
        """Nanoseconds of the interval in which it stood still."""
        return sum(max(0.0, min(until, end) - max(since, begin)) for begin, end in self.stops)


@dataclasses.dataclass(slots=True)
class Fault:
    """A fault that the harness made.

    Attributes:
        places: all that it touches: of a pair both sides.
        until: when it ended; of an instant one ``t``; ``FOREVER`` if it never did.
        applied: of bad input, how many pieces of it are known to have come to somebody; None: that
            is not known.
    """

    index: int
    kind: str
    t: int
    until: float
    places: frozenset[str]
    fields: dict[str, Any]
    line: int
    applied: int | None = None


INSTANT = frozenset(
    ("kill", "leave", "join", "coordinator_kill", "reset", "half_open")
) | frozenset(("flip", "truncate", "duplicate", "stranger"))
"""Kinds that do not last: what follows from them is the run's own."""
