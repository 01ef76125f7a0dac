"""What the links of a group are like: the numbers that the cost model works with.

A network has levels, the innermost first, like the `places` of a view: ranks of one host speak over
level 0, ranks of two hosts of one site over level 1, and so on; without places all speak over the
only level. A *member* of level 0 is a process, one of level 1 a host, one of level 2 a site.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from collectives.errors import InvalidArgument
from collectives.topology.plans import Places, check_places


@dataclasses.dataclass(frozen=True)
class Level:
    """The links of one level.

    Attributes:
        latency: seconds from one process to another, of a message of no bytes.
        bandwidth: bytes/s of the link between two processes, in one direction.
        uplink: bytes/s that a member sends in all over links of this level and outer ones, and as
            much again that it receives: what its NIC, or its line to other sites, carries.
        fabric: bytes/s of all links together between the members of one group: what a host's
            memory and cores, or a switch, can do.
        written_once: whether what a process sends to several is written once, and read by all.

    Raises:
        InvalidArgument: a latency below 0, or a rate that is not above 0.
    """

    latency: float
    bandwidth: float
    uplink: float = math.inf
    fabric: float = math.inf
    written_once: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.latency < math.inf:
            raise InvalidArgument(f"a latency of {self.latency:g} s; it has to be 0 or more")
        for name in ("bandwidth", "uplink", "fabric"):
            _check_rate(name, getattr(self, name))


def _check_rate(name: str, rate: float) -> None:
    if not rate > 0:
        raise InvalidArgument(f"{name} is {rate:g} bytes/s; it has to be above 0")


# Measured with `collectives bench` on a virtual machine of two cores (see docs/plans.md); the last
# two are what 10 Gbit/s in one building and a leased 1 Gbit/s between two cities are sold as.
MEMORY = Level(latency=3e-6, bandwidth=9e9, uplink=9e9, fabric=13e9, written_once=True)
LOOPBACK = Level(latency=15e-6, bandwidth=2.1e9, uplink=2.1e9, fabric=4.2e9)
LAN = Level(latency=50e-6, bandwidth=1.2e9, uplink=1.2e9)
WAN = Level(latency=15e-3, bandwidth=50e6, uplink=120e6)
LEVELS = {"memory": MEMORY, "loopback": LOOPBACK, "lan": LAN, "wan": WAN}


@dataclasses.dataclass(frozen=True)
class Network:
    """The links between the ranks of a group, and what a process does besides.

    Attributes:
        levels: the innermost first; one more than `places` has.
        places: levels x size: in which group each rank is; () if all are equally near.
        local: whether without places all are on one host, and speak through its memory.
        overhead: seconds that a process spends on each message, at either end.
        reduction: bytes/s of input that a process reduces.

    Raises:
        InvalidArgument: the levels and places do not fit together, or a rate is not above 0.
    """

    levels: tuple[Level, ...] = (LAN,)
    places: tuple[tuple[int, ...], ...] = ()
    local: bool = False
    overhead: float = 1e-6
    reduction: float = 10e9

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.places) + 1:
            raise InvalidArgument(
                f"{len(self.places)} levels of places need links of {len(self.places) + 1} levels,"
                f" not of {len(self.levels)}: the last ones join the outermost groups"
            )
        if self.places and self.local:
            raise InvalidArgument("ranks that are all on one host have no places on several")
        if self.places:
            check_places(self.places, len(self.places[0]))
        if not 0 <= self.overhead < math.inf:
            raise InvalidArgument(f"an overhead of {self.overhead:g} s; it has to be 0 or more")
        _check_rate("reduction", self.reduction)


def usual(places: Places = (), *, local: bool = False) -> Network:
    """Return a network of ordinary machines, for when nothing was measured.

    Args:
        places: hosts, then sites, as `Network` has them; () if all are equally near.
        local: whether without places all are on one host, and not each on its own.
    """
    flat = MEMORY if local else LAN
    levels = (MEMORY, LAN, *(WAN for _ in places[1:])) if places else (flat,)
    return Network(levels, tuple(tuple(level) for level in places), local and not places)


def network_of(
    latencies: Sequence[Sequence[float]],
    rates: Sequence[Sequence[float]],
    places: Places = (),
    *,
    local: bool = False,
) -> Network:
    """Return the network that measured links make; the same on all ranks for the same numbers.

    Of each level it takes the median of its pairs' figures, so one probe that a busy machine held
    up decides nothing. What was not measured, and levels that no pair of ranks is of, are as
    `usual` has them. That a member sends to many at a time as fast as to one at best is assumed,
    since pairs are measured one after the other.

    Args:
        latencies: seconds one way, of row to column; what is not above 0 or not finite (the
            diagonal, for example) was not measured.
        rates: bytes/s of row to column, likewise.
        places: levels x size, as `Network` has them.
        local: whether without places all are on one host.

    Raises:
        InvalidArgument: the matrices and places do not have the same size.
    """
    size = len(latencies)
    if any(len(row) != size for row in (*latencies, *rates)) or len(rates) != size:
        raise InvalidArgument(f"latencies and rates must be {size} x {size}, as ranks there are")
    check_places(places, size)
    base = usual(places, local=local)
    measured: list[tuple[list[float], list[float]]] = [([], []) for _ in base.levels]
    for a in range(size):
        for b in range(size):
            level = next((i for i, row in enumerate(places) if row[a] == row[b]), len(places))
            for found, figure in zip(measured[level], (latencies[a][b], rates[a][b]), strict=True):
                if a != b and 0 < figure < math.inf:
                    found.append(figure)
    levels = tuple(_level(*pair) for pair in zip(base.levels, measured, strict=True))
    return dataclasses.replace(base, levels=levels)


def _level(base: Level, measured: tuple[list[float], list[float]]) -> Level:
    latencies, rates = measured
    rate = _median(rates, base.bandwidth)
    return dataclasses.replace(
        base,
        latency=_median(latencies, base.latency),
        bandwidth=rate,
        uplink=rate if rates else base.uplink,
        fabric=base.fabric * (rate / base.bandwidth),
    )


def _median(found: list[float], otherwise: float) -> float:
    # The lower one of two: no arithmetic, so the same bits on every machine.
    return sorted(found)[(len(found) - 1) // 2] if found else otherwise
