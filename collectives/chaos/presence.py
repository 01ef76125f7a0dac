"""Who is where when, by a timeline: what ``mix`` must know to leave enough peers alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from collectives.chaos.spec import COORDINATOR, EVERYBODY

if TYPE_CHECKING:
    from collectives.chaos.faults import Fault
    from collectives.chaos.rates import Mix
    from collectives.chaos.scenario import Scenario

_PROCESS = ("kill", "stop", "leave", "slow", "exhaust")
# Of these one side is out of reach, and the coordinator keeps the larger one.
_CUTS = ("partition", "isolate", "cut_off", "black_hole")
# Seconds in which what hits at once, a reset for example, is left to itself.
_INSTANT = 0.5


class _Span(NamedTuple):
    what: tuple[str, str]
    begin: float
    end: float


class Presence:
    """Places, whom faults keep busy, and who is away, over the time of a run."""

    def __init__(self, scenario: Scenario, mix: Mix) -> None:
        self._scenario = scenario
        self._mix = mix
        self._first = {place.name for place in scenario.peers}
        self._present = {place.name: (0.0, math.inf) for place in scenario.peers}
        self._taken = self._first | {
            fault.peer for fault in scenario.faults if fault.kind == "join" and fault.peer
        }
        self._number = len(scenario.peers)
        self._busy: list[_Span] = []
        self._away: list[_Span] = []
        self._cuts: list[tuple[float, float]] = []

    def names(self, count: int) -> list[str]:
        """Return names for so many new places."""
        found: list[str] = []
        while len(found) < count:
            name = f"p{self._number}"
            self._number += 1
            if name not in self._taken:
                found.append(name)
        return found

    def is_newcomer(self, name: str) -> bool:
        """Whether the place came with a join."""
        return name not in self._first

    def come(self, name: str, at: float, lasting: float | None) -> None:
        """Note a place that is added, and for how long."""
        end = math.inf if lasting is None else at + lasting
        self._taken.add(name)
        self._present[name] = (at, end)

    def size(self, at: float) -> int:
        """How many places there are then."""
        return sum(begin <= at < end for begin, end in self._present.values())

    def there(self, begin: float, end: float) -> list[str]:
        """Who is in the run all that time, or away for a while; newcomers once they are settled."""
        return [
            name
            for name, (came, went) in self._present.items()
            if (came == 0 or came + self._mix.returning <= begin) and end < went
        ]

    def free(self, fault: Fault) -> list[str]:
        """Who is there and touched by nothing that would get in this fault's way."""
        layer, begin, end = _layer(fault), fault.time, self.end(fault)
        return [
            name
            for name in self.there(begin, end)
            if not self._met(self._busy, [(layer, name)], begin, end)
            and not self._met(self._away, [("away", name)], begin, end)
        ]

    def fits(self, fault: Fault) -> bool:
        """Whether it gets in no other's way, and leaves enough peers in the run."""
        begin, end = fault.time, self.end(fault)
        places = self._places(fault)
        there = self.there(begin, begin)
        if any(name not in there or not self._stays(name, end) for name in places):
            return False
        if _for_good(fault) and any(self._present[name][1] < math.inf for name in places):
            return False  # it goes anyhow
        keys = [(_layer(fault), name) for name in places or ("",)]
        if self._met(self._busy, keys, begin, end):
            return False
        lost = self._lost(fault)
        if not lost:
            return True
        if self._met(self._away, [("away", name) for name in lost], begin, end):
            return False
        instants = [begin, *(span.begin for span in self._away if begin < span.begin < end)]
        return all(self._enough(fault, lost, instant) for instant in instants)

    def take(self, fault: Fault) -> None:
        """Count the fault in."""
        if fault.kind == "join":
            return
        begin, end = fault.time, self.end(fault)
        layer = _layer(fault)
        self._busy += [_Span((layer, name), begin, end) for name in self._places(fault) or ("",)]
        self._away += [_Span(("away", name), begin, end) for name in self._lost(fault)]
        if fault.kind in _CUTS:
            self._cuts.append((begin, end))
        if _for_good(fault) and fault.peer:
            came, _ = self._present.get(fault.peer, (0.0, 0.0))
            self._present[fault.peer] = (came, begin)

    def forget(self, before: float) -> None:
        """Drop what ended before; whoever asks from here on asks about later."""
        self._busy = [span for span in self._busy if span.end > before]
        self._away = [span for span in self._away if span.end > before]
        self._cuts = [cut for cut in self._cuts if cut[1] > before]
        self._present = {
            name: (came, went) for name, (came, went) in self._present.items() if went > before
        }

    def _enough(self, fault: Fault, lost: Iterable[str], instant: float) -> bool:
        away = {span.what[1] for span in self._away if span.begin <= instant < span.end}
        away |= set(lost)
        left = len(set(self.there(instant, instant)) - away)
        # The coordinator keeps the larger side of a cut, which must be the one that is counted on.
        cut = fault.kind in _CUTS or any(begin <= instant < end for begin, end in self._cuts)
        enough = left >= max(2, self._scenario.min_size) and (left > len(away) or not cut)
        return enough and len(away) <= self._mix.spare

    def end(self, fault: Fault) -> float:
        """When nothing is to be seen of it any more."""
        if fault.about.absence or fault.kind == "coordinator_kill":
            if _for_good(fault):
                return fault.time + _INSTANT
            return fault.time + (fault.lasting or fault.restart or 0) + self._mix.returning
        return fault.time + (fault.lasting or _INSTANT)

    def _stays(self, name: str, end: float) -> bool:
        return end < self._present[name][1]

    def _places(self, fault: Fault) -> tuple[str, ...]:
        named = [name for name in fault.names if name not in (EVERYBODY, COORDINATOR)]
        return self._scenario.resolve(named, set(self._present) - self._first)

    def _lost(self, fault: Fault) -> tuple[str, ...]:
        if not fault.about.absence:
            return ()
        if fault.a is not None:  # of a pair one is lost; which of them, the ranks say
            return self._scenario.resolve(fault.a, set(self._present) - self._first)
        return self._places(fault)

    @staticmethod
    def _met(spans: list[_Span], keys: Iterable[tuple[str, str]], begin: float, end: float) -> bool:
        keys = set(keys)
        return any(span.what in keys and span.begin < end and begin < span.end for span in spans)


def _for_good(fault: Fault) -> bool:
    return fault.kind in ("kill", "leave") and fault.restart is None


def _layer(fault: Fault) -> str:
    """What a fault takes hold of: faults of other layers do not get in its way."""
    if fault.kind in _PROCESS:
        return "process"
    if fault.kind.startswith("coordinator"):
        return "coordinator"
    return "net" if fault.about.proxied else fault.kind
