"""What a scenario has besides faults: places for peers, links between them, and work to do."""

from __future__ import annotations

import dataclasses
from typing import Any

from collectives.chaos.spec import (
    COORDINATOR,
    PROFILES,
    RANDOM,
    Parameter,
    known,
    listed,
    nearest,
    plain,
    settle,
)
from collectives.errors import InvalidArgument

PLACE = (
    Parameter("name", "peer", "of the peer", required=True),
    Parameter("host", "peer", "on which host it is; by default one of its own"),
    Parameter("site", "peer", "where its host is"),
)
BETWEEN = (
    Parameter("a", "side", 'peers, hosts or sites; "*": everybody', required=True),
    Parameter("b", "side", 'the same, or "coordinator"', required=True),
    Parameter("profile", "choice", "what their link is like", required=True, choices=PROFILES),
)
LINKS = (
    Parameter(
        "kind",
        "choice",
        "the proxy's; with root, of packets between namespaces; or there with rates alone (veth)",
        default="proxy",
        choices=("proxy", "namespaces", "veth"),
    ),
    Parameter(
        "default",
        "choice",
        'what links are like; if not said "unshaped" where a fault needs the proxy, else "direct"',
        choices=PROFILES,
    ),
)

_DTYPES = ("float64", "float32", "float16", "int32", "int64", "uint64")
_PAUSE = Parameter("pause", "moment", "seconds between two steps", default=0.0)
_SYNC = Parameter("sync_every", "count", "steps from one sync() to the next", default=1)
WORKLOADS: dict[str, tuple[str, tuple[Parameter, ...]]] = {
    "allreduce": (
        "All-reduces whose results prove who took part.",
        (
            Parameter("count", "count", "elements", default=65536),
            Parameter("dtype", "choice", "of the elements", default="float32", choices=_DTYPES),
            Parameter(
                "values",
                "choice",
                "a power of two per peer, or random ones that are replayed",
                default="both",
                choices=("powers", "random", "both"),
            ),
            Parameter("in_flight", "count", "all-reduces at once", default=1),
            Parameter(
                "on_failure",
                "choice",
                "what an operation does when a peer is lost",
                default="retry",
                choices=("retry", "raise"),
            ),
            _SYNC,
            _PAUSE,
        ),
    ),
    "state": (
        "A large shared state, part of which changes in each step.",
        (
            Parameter("bytes", "count", "of the state", default=4 << 20),
            Parameter("changed", "portion", "of it that changes in a step", default=0.1),
            _PAUSE,
        ),
    ),
    "diloco": (
        "The demo's training.",
        (
            Parameter("inner_steps", "count", "steps from one exchange to the next", default=5),
            _PAUSE,
        ),
    ),
    "script": (
        "A script that calls collectives.join(), as it is.",
        (
            Parameter("script", "text", "its path", required=True),
            Parameter("arguments", "texts", "its arguments", default=()),
        ),
    ),
}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a peer is: one process after another lives there.

    Attributes:
        host: whose links it shares; empty: a host of its own, which has its name.
        site: empty: none.
    """

    name: str
    host: str | None = None
    site: str | None = None

    def __post_init__(self) -> None:
        settle(self, PLACE)
        if self.name in (RANDOM, COORDINATOR):
            raise InvalidArgument(f"{self.name!r} cannot name a peer, it means something else")
        if self.host == self.name:
            object.__setattr__(self, "host", None)

    @property
    def names(self) -> tuple[str, ...]:
        """By which a fault or a link can mean it."""
        return tuple(name for name in (self.name, self.host, self.site) if name)

    def plain(self) -> dict[str, Any]:
        """Return it as TOML has it."""
        return plain(self, PLACE)


@dataclasses.dataclass(frozen=True)
class Between:
    """The links between two sides; a is the side that has the profile's uplink."""

    a: tuple[str, ...]
    b: tuple[str, ...]
    profile: str

    def __post_init__(self) -> None:
        settle(self, BETWEEN)

    def plain(self) -> dict[str, Any]:
        """Return it as TOML has it."""
        return plain(self, BETWEEN)


@dataclasses.dataclass(frozen=True)
class Links:
    """What links are like.

    Attributes:
        default: name of a profile; None: as direct as the faults allow.
        between: other ones; of two that fit the later counts.
        kind: "proxy": connections are shaped; "namespaces": the packets of the kernel's TCP are;
            "veth": the kernel's TCP has rates of hosts, and no more.
    """

    default: str | None = None
    between: tuple[Between, ...] = ()
    kind: str = "proxy"

    def __post_init__(self) -> None:
        settle(self, LINKS)

    def plain(self) -> dict[str, Any]:
        """Return it as TOML has it."""
        found = plain(self, LINKS)
        if self.between:
            found["between"] = [between.plain() for between in self.between]
        return found


@dataclasses.dataclass(frozen=True)
class Workload:
    """What the peers do. ``WORKLOADS`` says which attributes a kind has; others are None."""

    kind: str = "allreduce"
    count: int | None = None
    dtype: str | None = None
    values: str | None = None
    in_flight: int | None = None
    on_failure: str | None = None
    sync_every: int | None = None
    pause: float | None = None
    bytes: int | None = None
    changed: float | None = None
    inner_steps: int | None = None
    script: str | None = None
    arguments: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in WORKLOADS:
            raise InvalidArgument(
                f"{self.kind!r} is no workload{nearest(str(self.kind), WORKLOADS)}; there are"
                f" {listed(WORKLOADS)}"
            )
        settle(self, WORKLOADS[self.kind][1], self.kind, apart=("kind",))

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> Workload:
        """Make a workload of a table as TOML has it.

        Raises:
            InvalidArgument: a key or a value is not right.
        """
        kind = table.get("kind", "allreduce")
        if not isinstance(kind, str) or kind not in WORKLOADS:
            return cls(kind)  # which says so
        known(table, ["kind", *(row.name for row in WORKLOADS[kind][1])])
        return cls(**table)

    def plain(self) -> dict[str, Any]:
        """Return it as TOML has it."""
        return {"kind": self.kind, **plain(self, WORKLOADS[self.kind][1])}


def places(count: int) -> tuple[Place, ...]:
    """Return so many places, p0, p1, ..., each on a host of its own."""
    return tuple(Place(f"p{index}") for index in range(count))
