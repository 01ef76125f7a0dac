"""Who reaches whom through which route of the proxy, and what each direction suffers now.

Places are told by name; the coordinator is one of them. Routes come into being when somebody asks
where to dial, which may be in the middle of a fault: what a pair suffers is kept here, and every
new route gets it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from collectives.chaos.profiles import Direction
from collectives.chaos.route import Route, Way
from collectives.chaos.shaper import Shaper

COORDINATOR = "coordinator"
"""The name under which the coordinator is a place."""

Pair = tuple[str, str]
"""One direction: from whom, to whom."""


@dataclasses.dataclass(frozen=True)
class Share:
    """What one direction of a pair is like.

    Attributes:
        direction: rate, delay, jitter and queue.
        buckets: names of rates that it shares with other pairs.
    """

    direction: Direction
    buckets: tuple[str, ...] = ()


class Network:
    """All routes of a run.

    Args:
        shaper: makes them.
        share_of: what a direction is like while nothing is wrong; None: the pair is not routed.
    """

    def __init__(self, shaper: Shaper, share_of: Callable[[str, str], Share | None]) -> None:
        self._shaper = shaper
        self._share_of = share_of
        self._owners: dict[str, str] = {}  # of addresses
        self._routes: dict[tuple[str, str], Route] = {}  # by who dials, and the address
        self._ends: dict[Route, Pair] = {}
        self._cuts: dict[int, frozenset[Pair]] = {}  # by fault
        self._holes: dict[int, frozenset[Pair]] = {}
        self._links: dict[int, dict[Pair, Direction]] = {}

    def register(self, place: str, addresses: Iterable[str]) -> None:
        """The place listens there."""
        self._owners.update(dict.fromkeys(addresses, place))

    def address_of(self, place: str) -> str | None:
        """Where the place listens now, without a proxy; None: nowhere."""
        return next((a for a, owner in reversed(self._owners.items()) if owner == place), None)

    def dial(self, place: str, address: str) -> str:
        """Where the place dials to reach an address."""
        target = self._owners.get(address)
        route = self._routes.get((place, address))  # also of one that has ended since
        if route is None and (
            target is None or target == place or self._share_of(place, target) is None
        ):
            return address
        if route is None:
            assert target is not None
            route = self._shaper.route(address)
            self._routes[place, address] = route
            self._ends[route] = (place, target)
            self._shape(route)
            self._hold(route)
        return route.address

    def bury(self, place: str) -> None:
        """The place's process has ended: its ports refuse, as its host would."""
        addresses = {address for address, owner in self._owners.items() if owner == place}
        for (_, address), route in self._routes.items():
            if address in addresses:
                route.refuse()
        for address in addresses:
            del self._owners[address]

    # -- faults that last --

    def cut(self, fault: int, pairs: Iterable[Pair]) -> None:
        """Let nothing pass in these directions, until ``mend``."""
        self._cuts[fault] = frozenset(pairs)
        for route in self._ends:
            self._hold(route)

    def swallow(self, fault: int, pairs: Iterable[Pair]) -> None:
        """Read and throw away what goes in these directions, until ``mend``."""
        self._holes[fault] = frozenset(pairs)
        for route in self._ends:
            self._hold(route)

    def link(self, fault: int, directions: dict[Pair, Direction]) -> None:
        """Give these directions other rates and delays, until ``mend``."""
        self._links[fault] = directions
        for route in self._ends:
            self._shape(route)

    def mend(self, fault: int) -> None:
        """End a fault that lasts."""
        self._cuts.pop(fault, None)
        self._holes.pop(fault, None)
        shaped = self._links.pop(fault, None) is not None
        for route in self._ends:
            if shaped:
                self._shape(route)
            else:
                self._hold(route)

    # -- faults of a moment --

    def between(self, one: str, other: str) -> Iterator[tuple[Route, bool]]:
        """The routes between two places; whether it is the first one that dials."""
        for route, ends in self._ends.items():
            if ends == (one, other):
                yield route, True
            elif ends == (other, one):
                yield route, False

    # -- how --

    def _hold(self, route: Route) -> None:
        dialler, target = self._ends[route]
        held = frozenset[Pair]().union(*self._cuts.values())
        swallowed = frozenset[Pair]().union(*self._holes.values())
        route.carry()
        ways: tuple[tuple[Way, Pair], ...] = (
            ("up", (dialler, target)),
            ("down", (target, dialler)),
        )
        for way, pair in ways:
            if pair in swallowed:
                route.drop(way)
            if pair in held:
                route.hold(way)

    def _shape(self, route: Route) -> None:
        dialler, target = self._ends[route]
        ways: tuple[tuple[Way, Pair], ...] = (
            ("up", (dialler, target)),
            ("down", (target, dialler)),
        )
        for way, pair in ways:
            share = self._share_of(*pair)
            assert share is not None
            direction = share.direction
            for link in self._links.values():
                direction = link.get(pair, direction)
            route.shape(way, direction, share.buckets)
