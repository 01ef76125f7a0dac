"""Who reaches whom, and what each direction suffers now; the network that the proxy makes.

Places are told by name; the coordinator is one of them. Routes of the proxy come into being when
somebody asks where to dial, which may be in the middle of a fault: what a pair suffers is kept
here, and every new route gets it. The other network there is, ``emulated``, does so with hosts.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from collectives.chaos.profiles import Direction
from collectives.chaos.route import Route, Way
from collectives.chaos.shaper import Shaper

COORDINATOR = "coordinator"
"""The name under which the coordinator is a place."""

Pair = tuple[str, str]
"""One direction: from whom, to whom."""

Side = Literal["up", "down"]
"""What a place sends, or what it receives."""


@dataclasses.dataclass(frozen=True)
class Share:
    """What one direction of a pair is like.

    Attributes:
        direction: rate, delay, jitter and queue.
        buckets: names of rates that it shares with other pairs.
    """

    direction: Direction
    buckets: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Where:
    """Where a place is.

    Attributes:
        host: the address that its processes listen on.
        namespace: path of the network namespace that they enter; empty: they stay in ours.
    """

    host: str = "127.0.0.1"
    namespace: str = ""


class Network(abc.ABC):
    """What lies between the places of a run.

    Args:
        share_of: what a direction is like while nothing is wrong; None: nothing is done to it.
    """

    def __init__(self, share_of: Callable[[str, str], Share | None]) -> None:
        self._share_of = share_of
        self._numbers = itertools.count()
        self._owners: dict[str, str] = {}  # of addresses
        self._cuts: dict[int, frozenset[Pair]] = {}  # by fault
        self._holes: dict[int, frozenset[Pair]] = {}
        self._links: dict[int, dict[Pair, Direction]] = {}

    def register(self, place: str, addresses: Iterable[str]) -> None:
        """The place listens there."""
        self._owners.update(dict.fromkeys(addresses, place))

    def address_of(self, place: str) -> str | None:
        """Where the place listens now, without a proxy; None: nowhere."""
        return next((a for a, owner in reversed(self._owners.items()) if owner == place), None)

    def bury(self, place: str) -> None:
        """The place's process has ended."""
        for address in [address for address, owner in self._owners.items() if owner == place]:
            del self._owners[address]

    def between(self, one: str, other: str) -> Iterator[tuple[Route, bool]]:
        """The routes between two places; whether it is the first one that dials."""
        return iter(())

    @abc.abstractmethod
    def where(self, place: str) -> Where:
        """Where the place's processes are to live; asked before the first of them begins."""

    @abc.abstractmethod
    def dial(self, place: str, address: str) -> str:
        """Where the place dials to reach an address."""

    @abc.abstractmethod
    def is_far(self, place: str, address: str) -> bool:
        """Whether what listens there counts as on another host than the place's."""

    @abc.abstractmethod
    def bucket(self, place: str, side: Side, direction: Direction) -> str:
        """Make a rate that several links of a place share; return its name."""

    # -- faults that last --

    def cut(self, fault: int, pairs: Iterable[Pair]) -> None:
        """Let nothing pass in these directions, until ``mend``."""
        self._cuts[fault] = frozenset(pairs)
        self._hold_all()

    def swallow(self, fault: int, pairs: Iterable[Pair]) -> None:
        """Take and throw away what goes in these directions, until ``mend``."""
        self._holes[fault] = frozenset(pairs)
        self._hold_all()

    def link(self, fault: int, directions: dict[Pair, Direction]) -> None:
        """Give these directions other rates and delays, until ``mend``."""
        self._links[fault] = directions
        self._shape_all()

    def mend(self, fault: int) -> None:
        """End a fault that lasts."""
        self._cuts.pop(fault, None)
        self._holes.pop(fault, None)
        if self._links.pop(fault, None) is not None:
            self._shape_all()
        else:
            self._hold_all()

    # -- how --

    def _free_name(self) -> str:
        """For a bucket; one made of the place's name could be too long."""
        return f"b{next(self._numbers)}"

    @abc.abstractmethod
    def _hold_all(self) -> None:
        """Cuts and holes have changed."""

    @abc.abstractmethod
    def _shape_all(self) -> None:
        """Links have changed."""

    def _held(self) -> frozenset[Pair]:
        return frozenset[Pair]().union(*self._cuts.values())

    def _swallowed(self) -> frozenset[Pair]:
        return frozenset[Pair]().union(*self._holes.values())

    def _share(self, pair: Pair) -> Share | None:
        """What the direction is like now."""
        share = self._share_of(*pair)
        for link in self._links.values():
            if pair in link:
                share = dataclasses.replace(share or Share(Direction()), direction=link[pair])
        return share


class ProxyNetwork(Network):
    """All places on this host, and routes between them.

    Args:
        shaper: makes the routes.
        share_of: what a direction is like while nothing is wrong; None: the pair is not routed.
    """

    def __init__(self, shaper: Shaper, share_of: Callable[[str, str], Share | None]) -> None:
        super().__init__(share_of)
        self._shaper = shaper
        self._routes: dict[tuple[str, str], Route] = {}  # by who dials, and the address
        self._ends: dict[Route, Pair] = {}

    def where(self, place: str) -> Where:
        """On this host, as all of them."""
        return Where()

    def is_far(self, place: str, address: str) -> bool:
        """Behind a route."""
        return self.dial(place, address) != address

    def bucket(self, place: str, side: Side, direction: Direction) -> str:
        """Make it."""
        return self._shaper.bucket(self._free_name(), direction.rate)

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
        super().bury(place)

    def between(self, one: str, other: str) -> Iterator[tuple[Route, bool]]:
        """The routes between two places; whether it is the first one that dials."""
        for route, ends in self._ends.items():
            if ends == (one, other):
                yield route, True
            elif ends == (other, one):
                yield route, False

    def _hold_all(self) -> None:
        for route in self._ends:
            self._hold(route)

    def _shape_all(self) -> None:
        for route in self._ends:
            self._shape(route)

    def _hold(self, route: Route) -> None:
        dialler, target = self._ends[route]
        held, swallowed = self._held(), self._swallowed()
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
            share = self._share(pair)
            assert share is not None
            route.shape(way, share.direction, share.buckets)
