"""Draw what a scenario leaves open: random targets, and a mix of faults, into a timeline.

Each kind of fault has a stream of its own, so a further kind moves none of the others. A fault
that does not fit is left out: where more than ``spare`` peers would be away at once, where fewer
than two (or ``min_size``) would be left, on the side of the majority if the net is cut, or where it
would not be over ``settle`` seconds before the end. Same scenario, same seed: same timeline.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from random import Random
from typing import Any

from collectives.chaos.faults import Fault, Moment
from collectives.chaos.kinds import KINDS, OPERATION_PHASES, ROUND_PHASES, Kind
from collectives.chaos.presence import Presence
from collectives.chaos.rates import Mix, Rate
from collectives.chaos.scenario import Scenario
from collectives.chaos.spec import EVERYBODY, RANDOM, Parameter
from collectives.errors import InvalidArgument

# A second peer that is to die in the round about the first is told so this many seconds earlier.
_AHEAD = 0.2
_SHAPES = ("rate_up", "rate_down", "delay", "jitter")


def draw(scenario: Scenario, seed: int) -> Scenario:
    """Return the scenario with everything drawn: no mix, no ``"random"``, and this seed.

    Args:
        scenario: itself returned but for the seed, where it is concrete already.
        seed: of all that is drawn.

    Raises:
        InvalidArgument: a fault of the timeline has a random target, but nobody is there then.
    """
    mix = scenario.mix or Mix()
    plan = Presence(scenario, mix)
    faults = _timeline(scenario, seed, plan)
    for at, rate, index in _arrivals(scenario, mix, seed):
        plan.forget(at - _AHEAD)
        faults += _Candidate(scenario, mix, rate, plan, seed, index).at(at)
    faults.sort(key=lambda fault: fault.time)
    return dataclasses.replace(scenario, seed=seed, faults=tuple(faults), mix=None)


def _timeline(scenario: Scenario, seed: int, plan: Presence) -> list[Fault]:
    """What is written down: joins named one by one, targets drawn, all of it taken into account."""
    found: list[Fault] = []
    for fault in sorted(scenario.faults, key=lambda fault: fault.time):
        if fault.kind == "join":
            names = [fault.peer] if fault.peer else plan.names(fault.count or 1)
            found += [dataclasses.replace(fault, peer=name, count=None) for name in names]
            for name in names:
                plan.come(name, fault.time, fault.lasting)
        else:
            found.append(fault)
    # Those who are named go first: whoever is drawn must not be somebody else's target.
    for index in sorted(range(len(found)), key=lambda index: RANDOM in found[index].names):
        fault = found[index]
        if RANDOM in fault.names:
            fault = found[index] = _aimed(fault, Random(f"{seed}/timeline/{index}"), plan)
        plan.take(fault)
    return found


def _aimed(fault: Fault, random: Random, plan: Presence) -> Fault:
    there = plan.there(fault.time, fault.time)
    free = plan.free(fault)
    order = [*random.sample(free, len(free)), *(name for name in there if name not in free)]
    chosen = iter([name for name in order if name not in fault.names])

    def drawn(name: str) -> str:
        if name != RANDOM:
            return name
        for found in chosen:
            return found
        raise InvalidArgument(f"at {fault.time:g} s nobody is there for a random {fault.kind}")

    changes: dict[str, Any] = {"peer": drawn(fault.peer)} if fault.peer else {}
    for side in ("peers", "a", "b"):
        names = getattr(fault, side)
        if names is not None:
            changes[side] = tuple(drawn(name) for name in names)
    return dataclasses.replace(fault, **changes)


def _arrivals(scenario: Scenario, mix: Mix, seed: int) -> list[tuple[float, Rate, int]]:
    """When each kind comes: Poisson processes, in one order of time."""
    found = []
    last = scenario.duration - mix.settle
    for rate in mix.rates:
        random = Random(f"{seed}/{rate.kind}")
        at, index = mix.start, 0
        while rate.rate:
            at += random.expovariate(rate.rate / 60)
            if at >= last:
                break
            found.append((round(at, 3), rate, index))
            index += 1
    return sorted(found, key=lambda arrival: (arrival[0], arrival[1].kind))


class _Candidate:
    """One fault of a mix, from its own random numbers; whom it hits depends on who is there."""

    def __init__(
        self, scenario: Scenario, mix: Mix, rate: Rate, plan: Presence, seed: int, index: int
    ) -> None:
        self._scenario, self._mix, self._rate, self._plan = scenario, mix, rate, plan
        self._kind: Kind = KINDS[rate.kind]
        self._label = f"{seed}/{rate.kind}/{index}"
        self._random = Random(self._label)
        self._settings = dict(rate.settings)

    def at(self, at: float) -> list[Fault]:
        """Return the fault, or nothing if it does not fit."""
        values = self._values()
        momentary, phase, second, size = (self._random.random() for _ in range(4))
        if self._kind.name == "join":
            return self._join(at, values)
        over = at + max(values.get("lasting") or 0, values.get("restart") or 0)
        if over > self._scenario.duration - self._mix.settle:
            return []
        fault: dict[str, Any] = {"kind": self._kind.name, "at": at, **values}
        if self._kind.momentary and momentary < self._mix.moments:
            fault |= {"at": None, "moment": self._moment(at, phase)}
        for targets in self._targets(at, over, size):
            found = Fault(**{**fault, **targets})
            if found.kind == "leave" and self._plan.is_newcomer(found.peer or ""):
                found = dataclasses.replace(found, restart=None)
            if self._plan.fits(found):
                self._plan.take(found)
                return [found, *self._second(found, second)]
        return []

    def _values(self) -> dict[str, Any]:
        values = {row.attribute: self._value(row) for row in self._kind.parameters}
        if self._kind.name == "link":  # either a profile or a shape
            coin = self._random.random() < 0.5
            asked = set(_SHAPES) & set(self._settings)
            if asked:
                unused = {"profile", *_SHAPES} - asked
            else:
                unused = set(_SHAPES) if coin or "profile" in self._settings else {"profile"}
            values |= dict.fromkeys(unused)
        return {name: value for name, value in values.items() if value is not None}

    def _value(self, row: Parameter) -> Any:
        share = self._random.random()  # drawn in any case: a setting must not move the next ones
        value = self._settings.get(row.name, row.drawn)
        if row.is_number and isinstance(value, tuple):
            low, high = value
            drawn = low * (high / low) ** share if low > 0 else low + share * (high - low)
            whole = row.type in ("count", "number")
            return round(drawn) if whole else min(max(round(drawn, 4), low), high)
        if value is None and row.choices:
            return row.choices[int(share * len(row.choices))]
        return value

    def _moment(self, at: float, share: float) -> Moment:
        phase = OPERATION_PHASES[int(share * len(OPERATION_PHASES))]
        if self._mix.pace is not None:
            return Moment(phase, operation=max(1, round(at * self._mix.pace)))
        return Moment(phase, at=at)

    def _second(self, first: Fault, share: float) -> list[Fault]:
        """Perhaps another peer dies in the round about the first one's death."""
        if first.kind != "kill" or share >= self._mix.moments / 2 or first.time < _AHEAD:
            return []
        phase = self._random.choice(ROUND_PHASES)
        moment = Moment(phase, at=round(first.time - _AHEAD, 3))
        for name in self._ranked(first.time):
            second = Fault("kill", moment=moment, peer=name, restart=first.restart)
            if self._plan.fits(second):
                self._plan.take(second)
                return [second]
        return []

    def _join(self, at: float, values: dict[str, Any]) -> list[Fault]:
        most = self._mix.most or len(self._scenario.peers) + 2
        over = at + (values.get("lasting") or 0)
        if self._plan.size(at) >= most or over > self._scenario.duration - self._mix.settle:
            return []
        [name] = self._plan.names(1)
        self._plan.come(name, at, values.get("lasting"))
        return [Fault("join", at=at, peer=name, lasting=values.get("lasting"))]

    def _ranked(self, at: float) -> list[str]:
        """Who may be hit, in an order in which each has its place whoever else is there."""
        only = self._scenario.resolve(self._settings.get("peers", ()))
        there = [name for name in self._plan.there(at, at) if not only or name in only]
        return sorted(there, key=lambda name: Random(f"{self._label}/{name}").random())

    def _targets(self, at: float, over: float, size: float) -> Iterator[dict[str, Any]]:
        """Yield whom it could hit, best first."""
        ranked = self._ranked(at)
        if self._kind.has("peer"):
            for name in ranked:
                yield {"peer": name}
        elif self._kind.has("peers"):
            for name in ranked:
                yield {"peers": (name,)}
        elif not self._kind.has("a"):
            yield {}
        elif self._kind.name == "partition" and "a" not in self._settings:
            for count in range(1 + int(size * max(1, self._mix.spare)), 0, -1):
                yield {"a": tuple(sorted(ranked[:count]))}
        else:
            yield from self._pairs(ranked)

    def _pairs(self, ranked: list[str]) -> Iterator[dict[str, Any]]:
        fixed = {
            side: names
            for side in ("a", "b")
            if RANDOM not in (names := self._settings.get(side, (RANDOM,)))
        }
        if self._kind.name == "partition":
            fixed.setdefault("b", (EVERYBODY,))
        for a in ranked:
            for b in ranked:
                sides = {"a": (a,), "b": (b,), **fixed}
                if not set(sides["a"]) & set(sides["b"]) and a != b:
                    yield sides
