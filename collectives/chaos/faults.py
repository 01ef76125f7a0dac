"""Faults of a timeline, as data; ``kinds`` says which there are and what each takes."""

from __future__ import annotations

import dataclasses

from collectives.chaos.kinds import KINDS, OPERATION_PHASES, ROUND_PHASES, Kind, kind_of
from collectives.chaos.spec import Parameter, known, listed, plain, settle, within
from collectives.errors import InvalidArgument

_MOMENT = (
    Parameter(
        "phase",
        "choice",
        "the step of an operation or of a round",
        required=True,
        choices=OPERATION_PHASES + ROUND_PHASES,
    ),
    Parameter(
        "operation", "number", "its number (of a round: the view's); 0: the first", default=0
    ),
    Parameter("at", "moment", "not before so many seconds after the run has formed", default=0.0),
    Parameter("slices", "number", "payloads of the phase to let pass first", default=0),
)


@dataclasses.dataclass(frozen=True)
class Moment:
    """A step of an operation, or of a round, at which a peer is hit (``Group._fault_at``).

    Attributes:
        phase: of ``OPERATION_PHASES`` or ``ROUND_PHASES``.
        operation: number of the operation, of a round the number of the view; 0: the first that
            gets there.
        at: seconds after the run has formed, not before.
        slices: payloads of the phase to let pass first.
    """

    phase: str
    operation: int = 0
    at: float = 0.0
    slices: int = 0

    def __post_init__(self) -> None:
        settle(self, _MOMENT)

    def plain(self) -> dict[str, object]:
        """Return it as TOML has it."""
        return plain(self, _MOMENT)


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault of a timeline. ``KINDS`` says which of the attributes a kind has; others are None.

    Attributes:
        at: seconds after the run has formed; None with a moment.
        lasting: seconds until it ends by itself (``for`` in TOML).
        restart: seconds until another life begins; None: never.
        a, b: two sides: names of peers, hosts or sites, ``"*"`` for everybody else.
        rate_up, rate_down: bit/s from a to b, from b to a.
        delay, jitter: seconds.
    """

    kind: str
    at: float | None = None
    moment: Moment | None = None
    peer: str | None = None
    peers: tuple[str, ...] | None = None
    a: tuple[str, ...] | None = None
    b: tuple[str, ...] | None = None
    way: str | None = None
    lasting: float | None = None
    restart: float | None = None
    share: float | None = None
    count: int | None = None
    profile: str | None = None
    rate_up: float | None = None
    rate_down: float | None = None
    delay: float | None = None
    jitter: float | None = None

    def __post_init__(self) -> None:
        kind = kind_of(self.kind)
        if self.moment is not None and not kind.momentary:
            able = listed(kind.name for kind in KINDS.values() if kind.momentary)
            raise InvalidArgument(f"a {self.kind} cannot be aimed at a moment; {able} can")
        if (self.at is None) == (self.moment is None):
            given = "neither" if self.at is None else "both"
            raise InvalidArgument(
                f"it has {given} of 'at' and 'moment'; it needs one (a moment's own 'at' says from"
                " when on)"
            )
        settle(self, kind.rows, self.kind, apart=("kind", "moment"))
        shape = (self.rate_up, self.rate_down, self.delay, self.jitter)
        shaped = any(value is not None for value in shape)
        if self.kind == "link" and shaped == (self.profile is not None):
            raise InvalidArgument(
                "a link needs either 'profile' or some of 'rate_up', 'rate_down', 'delay', 'jitter'"
            )

    @property
    def about(self) -> Kind:
        """Its kind."""
        return KINDS[self.kind]

    @property
    def time(self) -> float:
        """Seconds after the run has formed from which on it may hit."""
        return self.at if self.at is not None else self.moment.at if self.moment else 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """All whom it names, as they are written; of a join nobody, since they are not there."""
        if self.kind == "join":
            return ()
        one = (self.peer,) if self.peer is not None else ()
        return (*one, *(self.peers or ()), *(self.a or ()), *(self.b or ()))

    def plain(self) -> dict[str, object]:
        """Return it as TOML has it."""
        found: dict[str, object] = {"kind": self.kind, **plain(self, self.about.rows)}
        if self.moment is not None:
            found["moment"] = self.moment.plain()
        return found


def fault_from(table: dict[str, object]) -> Fault:
    """Make a fault of a table as TOML has it.

    Raises:
        InvalidArgument: a key or a value is not right.
    """
    kind = kind_of(table.get("kind"))
    with within(kind.name):
        names = ["kind", *(row.name for row in kind.rows)]
        for key in table:
            if key in ("restart", "for") and key not in names:
                able = listed(other.name for other in KINDS.values() if other.has(key))
                raise InvalidArgument(f"a {kind.name} has no {key!r}; these have: {able}")
        known({key: 0 for key in table if key != "moment"}, names)
        given = {("lasting" if key == "for" else key): value for key, value in table.items()}
        moment = given.get("moment")
        if moment is not None:
            if not isinstance(moment, dict):
                raise InvalidArgument(
                    f"moment is {moment!r};"
                    ' write moment = { phase = "all_gather", operation = 17 }'
                )
            with within("moment"):
                known(moment, [row.name for row in _MOMENT])
                given["moment"] = Moment(**{"phase": None, **moment})
        return Fault(**given)  # type: ignore[arg-type]
