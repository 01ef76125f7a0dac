"""Networks of a run whose places are hosts in namespaces: on the WAN emulator, or on a switch."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable
from typing import Protocol

from collectives.chaos.namespaces import Namespace
from collectives.chaos.network import Network, Pair, Share, Side, Where
from collectives.chaos.profiles import Direction
from collectives.chaos.veth import Switch
from collectives.chaos.wan import Wan
from collectives.errors import InvalidArgument


class Hosts(Protocol):
    """What ``Wan`` and ``Switch`` have in common."""

    def host(self, name: str) -> str:
        """Make a host, in a namespace of its own; return its address."""

    def namespace(self, name: str) -> Namespace:
        """Where the host's processes live."""

    def cut(self, source: str, target: str, on: bool) -> None:
        """Let nothing pass from one host to another, or let it pass again."""


class NamespacedNetwork(Network):
    """Each place is a host of its own, whatever host it says: the kernel's TCP ends there.

    Args:
        hosts: makes them.
        share_of: what a direction is like while nothing is wrong; None: nothing is done to it.
    """

    def __init__(self, hosts: Hosts, share_of: Callable[[str, str], Share | None]) -> None:
        super().__init__(share_of)
        self._hosts = hosts
        self._places: dict[str, Where] = {}
        self._dark: frozenset[Pair] = frozenset()  # through which nothing passes now

    def where(self, place: str) -> Where:
        """In its namespace, which is made now if it is asked for the first time."""
        if place not in self._places:
            host = self._hosts.host(place)
            self._places[place] = Where(host, self._hosts.namespace(place).path)
            for other in self._places:
                if other != place:
                    self._shape((place, other))
                    self._shape((other, place))
            self._hold_all()
        return self._places[place]

    def dial(self, place: str, address: str) -> str:
        """There: what happens on the way is not the dialler's to know."""
        return address

    def is_far(self, place: str, address: str) -> bool:
        """Every other place is."""
        return True

    def _hold_all(self) -> None:
        # To TCP it is the same whether what it sends is held or swallowed: nothing comes back.
        # A place that a fault names may have no host yet.
        there = self._places.keys()
        wanted = self._held() | self._swallowed()
        dark = frozenset(pair for pair in wanted if there >= set(pair))
        for pair in dark ^ self._dark:
            self._hosts.cut(*pair, pair in dark)
        self._dark = dark

    def _shape_all(self) -> None:
        for pair in itertools.permutations(self._places, 2):
            self._shape(pair)

    @abc.abstractmethod
    def _shape(self, pair: Pair) -> None:
        """Make the direction what it is now."""


class EmulatedNetwork(NamespacedNetwork):
    """With the WAN emulator in between, which can do all that profiles say."""

    def __init__(self, wan: Wan, share_of: Callable[[str, str], Share | None]) -> None:
        super().__init__(wan, share_of)
        self._wan = wan

    def bucket(self, place: str, side: Side, direction: Direction) -> str:
        """Make it."""
        return self._wan.line(self._free_name(), direction.rate, direction.queue)

    def _shape(self, pair: Pair) -> None:
        share = self._share(pair) or Share(Direction())
        line = share.buckets[0] if share.buckets else None
        self._wan.shape(*pair, share.direction, line)


class SwitchedNetwork(NamespacedNetwork):
    """With a switch in between: hosts have rates, and nothing is late or lost."""

    def __init__(self, switch: Switch, share_of: Callable[[str, str], Share | None]) -> None:
        super().__init__(switch, share_of)
        self._switch = switch

    def bucket(self, place: str, side: Side, direction: Direction) -> str:
        """Make it the host's rate."""
        self._switch.rate(place, side, direction.rate)
        return self._free_name()

    def _shape(self, pair: Pair) -> None:
        share = self._share(pair) or Share(Direction())
        queue = share.direction.queue
        if share.direction != Direction(queue=queue):
            raise InvalidArgument(
                f"links.kind is 'veth', which has no delay and no losses, and rates of hosts alone:"
                f" the link from {pair[0]} to {pair[1]} cannot be so; take the profile 'gigabit' or"
                " 'unshaped', or write 'namespaces'"
            )
