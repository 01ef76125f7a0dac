"""A route through the shaping proxy, and the faults that its connections suffer.

Made by ``collectives.chaos.shaper.Shaper``; each call is one command to the proxy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Sequence
from typing import Literal

from collectives.chaos.profiles import Direction
from collectives.errors import CollectiveError, InvalidArgument

Way = Literal["up", "down", "both"]
"""From who dials to the target; back; or both."""
End = Literal["dialler", "target", "both"]
"""Whose side of the connections."""


@dataclasses.dataclass(frozen=True)
class Flow:
    """What one direction of a route has done since it was made.

    Attributes:
        bytes: handed over.
        queued: bytes that are under way now.
        dropped: bytes that were read and thrown away.
        flipped: chunks with a bit flipped.
        truncated: chunks with a piece cut out.
        duplicated: chunks with a piece sent twice.
    """

    bytes: int
    queued: int
    dropped: int
    flipped: int
    truncated: int
    duplicated: int


@dataclasses.dataclass(frozen=True)
class RouteStats:
    """What a route has done.

    Attributes:
        live: connections now.
        accepted: connections in all.
        starved: how often a connection had to wait because descriptors had run out.
        dial_failures: connections whose target could not be reached.
        up: from who dials to the target.
        down: back.
    """

    live: int
    accepted: int
    starved: int
    dial_failures: int
    up: Flow
    down: Flow


class Route:
    """A listener whose connections go on to a target. Made by ``Shaper.route``.

    All faults apply to live connections, and to those to come while they last.

    Attributes:
        address: ``HOST:PORT`` to dial instead of the target.
        target: where its connections go.
    """

    def __init__(self, ask: Callable[[str], str], number: int, address: str, target: str) -> None:
        self._command = ask
        self._number = number
        self.address = address
        self.target = target
        self._lock = threading.Lock()
        self._timers: dict[str, threading.Timer] = {}  # by the fault that they end

    def shape(
        self,
        way: Way,
        direction: Direction,
        buckets: Sequence[str] | None = None,
    ) -> None:
        """Give the route another rate, delay, jitter and queue, and other shared buckets.

        What is under way keeps its time.

        Args:
            way: which directions.
            direction: the figures; its rate is shared by the route's connections.
            buckets: names of at most four buckets that it shares; None: as before.

        Raises:
            InvalidArgument: a figure is negative or not finite.
            ShaperError: there is no such bucket, or a figure is out of bounds.
        """
        settings = [
            f"rate_bit_s={whole('rate', direction.rate)}",
            f"delay_ns={whole('delay', direction.delay, 1e9)}",
            f"jitter_ns={whole('jitter', direction.jitter, 1e9)}",
            f"queue_bytes={whole('queue', direction.queue)}",
        ]
        if buckets is not None:
            settings.append(f"buckets={','.join(buckets) or '-'}")
        self._ask("shape", way, *settings)

    def hold(self, way: Way = "both", seconds: float | None = None) -> None:
        """Let nothing pass and read nothing; connections stay open, new ones hang.

        Args:
            way: which directions.
            seconds: for how long; None: until ``carry`` or ``heal``.
        """
        self._ask("fault", way, "hold")
        self._carry_after(seconds, way)

    def drop(self, way: Way = "both", seconds: float | None = None) -> None:
        """Read and throw away: the sender sees progress. The stream is damaged for good.

        Args:
            way: which directions.
            seconds: for how long; None: until ``carry`` or ``heal``.
        """
        self._ask("fault", way, "drop")
        self._carry_after(seconds, way)

    def carry(self, way: Way = "both") -> None:
        """End ``hold`` and ``drop`` of these directions, and no other fault."""
        self._ask("fault", way, "carry")

    def flip(self, way: Way, chunks: int = 1) -> None:
        """Flip a random bit in each of the next ``chunks`` chunks: what one read gets."""
        self._ask("fault", way, f"flip={chunks}")

    def truncate(self, way: Way, chunks: int = 1) -> None:
        """Cut 1 to 16 bytes out of each of the next ``chunks`` chunks."""
        self._ask("fault", way, f"truncate={chunks}")

    def duplicate(self, way: Way, chunks: int = 1) -> None:
        """Send 1 to 16 bytes of each of the next ``chunks`` chunks twice."""
        self._ask("fault", way, f"duplicate={chunks}")

    def reset(self, end: End = "both") -> int:
        """Reset ends of all live connections; how many there were.

        If one end alone is reset, the other gets what is under way and then an orderly end.
        """
        return int(self._ask("reset", end))

    def half(self, end: End) -> int:
        """Reset one end of all live connections and let the other hear nothing of it.

        What the other one sends is swallowed, also after ``heal``. Returns how many there were.
        """
        return int(self._ask("half", end))

    def refuse(self, seconds: float | None = None) -> None:
        """Refuse new connections, as if nobody listened; live ones go on.

        Args:
            seconds: for how long; None: until ``admit`` or ``heal``.
        """
        self._ask("door", "refuse")
        self._end_after(seconds, "door", self.admit)

    def ignore(self, seconds: float | None = None) -> None:
        """Give who dials no answer at all, as if the host were gone; live connections go on.

        Args:
            seconds: for how long; None: until ``admit`` or ``heal``.
        """
        self._ask("door", "ignore")
        self._end_after(seconds, "door", self.admit)

    def admit(self) -> None:
        """End ``refuse`` and ``ignore``."""
        self._ask("door", "open")

    def heal(self) -> None:
        """End every fault. What was damaged stays so; what was held passes."""
        self._ask("heal")

    def stats(self) -> RouteStats:
        """Count what passed."""
        return _route_stats(self._ask("stats"))

    def remove(self) -> None:
        """Reset its connections and stop listening."""
        self._ask("remove")

    def _carry_after(self, seconds: float | None, way: Way) -> None:
        if way != "down":
            self._end_after(seconds, "up", lambda: self.carry("up"))
        if way != "up":
            self._end_after(seconds, "down", lambda: self.carry("down"))

    def _end_after(self, seconds: float | None, what: str, end: Callable[[], None]) -> None:
        """End a fault in a while, unless it was begun anew before."""
        with self._lock:
            before = self._timers.pop(what, None)
            if before:
                before.cancel()
            if seconds is None:
                return

            def ring() -> None:
                with self._lock:
                    if self._timers.get(what) is not timer:
                        return
                    with contextlib.suppress(CollectiveError):  # removed or closed meanwhile
                        end()

            timer = threading.Timer(seconds, ring)
            timer.daemon = True
            self._timers[what] = timer
            timer.start()

    def _ask(self, command: str, *words: str) -> str:
        return self._command(" ".join((command, str(self._number), *words)))


def whole(what: str, value: float, scale: float = 1) -> int:
    """A figure as the commands want it: an integer, ``scale`` of which are one."""
    if not math.isfinite(value) or value < 0:
        raise InvalidArgument(f"the {what} is {value}, it must be a number from 0 on")
    return round(value * scale)


def counts(reply: str) -> dict[str, int]:
    """Take a reply of ``NAME=NUMBER`` pairs apart."""
    return {name: int(value) for name, _, value in (pair.partition("=") for pair in reply.split())}


def _route_stats(reply: str) -> RouteStats:
    found = counts(reply)
    up, down = (
        Flow(**{field.name: found[f"{way}.{field.name}"] for field in dataclasses.fields(Flow)})
        for way in ("up", "down")
    )
    return RouteStats(
        found["live"], found["accepted"], found["starved"], found["dial_failures"], up, down
    )
