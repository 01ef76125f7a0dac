"""How often which faults come in a mix, and within which bounds; ``mix.draw`` draws from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from collectives.chaos.kinds import KINDS, Kind, kind_of
from collectives.chaos.spec import Parameter, is_number, known, plain, settle, within
from collectives.errors import InvalidArgument

_PEERS = Parameter("peers", "side", "only these are hit")
_RATE = Parameter("rate", "rate", "how many a minute, on average", required=True)

MIX = (
    Parameter("spare", "number", "so many peers at most are away at once", default=1),
    Parameter("most", "count", "no more places than this through joins; by default two more"),
    Parameter("start", "moment", "seconds at the beginning without faults", default=1.0),
    Parameter("settle", "moment", "seconds at the end without faults", default=4.0),
    Parameter(
        "returning",
        "moment",
        "seconds in which a peer that was away is back in the run; until then it counts as away",
        default=2.0,
    ),
    Parameter(
        "moments",
        "portion",
        "of the kills and stops, aimed at a phase of an operation",
        default=0.3,
    ),
    Parameter(
        "pace",
        "rate",
        "operations a second: moments are then numbers of operations; else the first operation"
        " after a time",
    ),
)


@dataclasses.dataclass(frozen=True)
class Rate:
    """How often one kind of fault comes.

    Attributes:
        rate: per minute, on average.
        settings: (parameter, value): what is not drawn as usual; of a number also (least, most).
            ``peers``: only these are hit.
    """

    kind: str
    rate: float
    settings: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        kind = kind_of(self.kind)
        rows = {row.name: row for row in self._rows(kind)}
        taken = []
        with within(self.kind):
            object.__setattr__(self, "rate", _RATE.take(self.rate))
            known(dict(self.settings), rows)
            for name, value in self.settings:
                row = rows[name]
                if row.is_number and isinstance(value, (list, tuple)):
                    if len(value) != 2 or not all(map(is_number, value)) or value[0] > value[1]:
                        raise InvalidArgument(f"{name} is {value!r}; write [least, most]")
                    taken.append((name, (row.take(value[0]), row.take(value[1]))))
                else:
                    taken.append((name, row.take(value)))
        object.__setattr__(self, "settings", tuple(sorted(taken)))

    @staticmethod
    def _rows(kind: Kind) -> tuple[Parameter, ...]:
        own = tuple(row for row in kind.parameters if row.name not in ("peer", "peers"))
        if kind.name == "join":  # the mix names them, and counts
            own = tuple(row for row in own if row.name != "count")
        if kind.has("peer") or kind.has("peers") or kind.has("a"):
            own += (_PEERS,)
        return own

    def plain(self) -> Any:
        """Return it as TOML has it: the rate alone, or a table."""
        if not self.settings:
            return self.rate
        settings = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.settings
        }
        return {"rate": self.rate, **settings}


@dataclasses.dataclass(frozen=True)
class Mix:
    """Faults at random.

    Attributes:
        spare: so many peers at most are away (dead, stopped, cut off) at once.
        most: as many places at most through joins; None: two more than there are at first.
        start: seconds at the beginning without faults.
        settle: seconds at the end without faults.
        returning: seconds in which a peer that was away is back; until then it counts as away.
        moments: share of the kills and stops that are aimed at a phase of an operation.
        pace: operations a second that the workload is expected to do: a moment is then the number
            of an operation. None: the first operation after a time.
    """

    rates: tuple[Rate, ...] = ()
    spare: int = 1
    most: int | None = None
    start: float = 1.0
    settle: float = 4.0
    returning: float = 2.0
    moments: float = 0.3
    pace: float | None = None

    def __post_init__(self) -> None:
        settle(self, MIX)
        kinds = [rate.kind for rate in self.rates]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise InvalidArgument(f"{kind} has more than one rate")
        # One order, so that equal mixes are equal however they were written.
        ordered = sorted(self.rates, key=lambda rate: list(KINDS).index(rate.kind))
        object.__setattr__(self, "rates", tuple(ordered))

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Mix:
        """Make a mix of a table as TOML has it.

        Raises:
            InvalidArgument: a key or a value is not right.
        """
        settings = [row.name for row in MIX]
        known(table, [*settings, *KINDS])
        rates = []
        for kind, value in table.items():
            if kind in settings:
                continue
            given = dict(value) if isinstance(value, Mapping) else {"rate": value}
            rates.append(Rate(kind, given.pop("rate", None), tuple(given.items())))
        return cls(tuple(rates), **{key: table[key] for key in settings if key in table})

    def plain(self) -> dict[str, Any]:
        """Return it as TOML has it."""
        return {**plain(self, MIX), **{rate.kind: rate.plain() for rate in self.rates}}
