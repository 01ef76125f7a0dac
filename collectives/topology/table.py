"""The plan table: which algorithm carries out which operation, by the bytes.

The core goes by the rows of a view's table in their order (``struct coll_choice``). Here tables are
made from a network, written to a file and read back; who gets which is decided by membership.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence

from collectives._native import lib
from collectives._native.engine import ALGORITHMS, LEVEL_CODECS, LEVEL_PLANS, TRANSPORTS
from collectives.errors import InvalidArgument
from collectives.topology.model import Prediction
from collectives.topology.network import Network
from collectives.topology.plans import KINDS, algorithms, choose, limit, plan_of

UNLIMITED = 2**64 - 1
_FORMAT = "collectives plan table 1"
# An algorithm takes the place of another if it takes this part of its time: the model is no better.
_WORTH = 0.9
# Where a better algorithm is looked for: from 2**_SMALLEST to 2**_LARGEST bytes.
_SMALLEST, _LARGEST = 6, 34


@dataclasses.dataclass(frozen=True)
class Row:
    """Operations of a kind with up to so many bytes are carried out by an algorithm.

    Attributes:
        kind: ``"all_reduce"`` ...
        bytes: of the larger of a rank's input and output, at most; `UNLIMITED`: any number.
        algorithm: ``"ring"`` ...
    """

    kind: str
    bytes: int
    algorithm: str


@dataclasses.dataclass(frozen=True)
class LevelRow:
    """How those speak to each other who meet at one level: ranks of a host, hosts of a site ...

    Attributes:
        plan: of hierarchical operations: ``"direct"`` (all to one, and one to all), ``"ring"``
            (from one to the next) or ``"auto"``: by how many they are.
        transport: what the links of the level have to be: ``"shm"``, ``"tcp"`` or ``"auto"``: any.
            Peers whose links are something else refuse the table.
        codec: whether what passes there in a hierarchical reduction with a codec is encoded:
            ``"call"``: by the call's codec; ``"none"``: it is not; ``"auto"``: at the outermost
            level, and wherever a level within says "call".
    """

    plan: str = "auto"
    transport: str = "auto"
    codec: str = "auto"


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows in the order in which they are looked at; what none fits is left to the engine.

    Attributes:
        rows: which algorithm carries out what.
        levels: the innermost first, and last the one of all; those that are left out, and those
            that a view does not have, change nothing.

    Raises:
        InvalidArgument: a row that no operation could be carried out by, or a level that says what
            is not known, or encodes within one that does not; the message says which.
    """

    rows: tuple[Row, ...] = ()
    levels: tuple[LevelRow, ...] = ()

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            _check(row, f"row {number}")
        if len(self.levels) > lib.COLL_LEVELS_MAX + 1:
            raise InvalidArgument(
                f"the plan table has {len(self.levels)} levels; at most"
                f" {lib.COLL_LEVELS_MAX + 1} can be"
            )
        for number, level in enumerate(self.levels):
            _check_level(level, f"level {number}")
            if level.codec == "none" and "call" in [one.codec for one in self.levels[:number]]:
                raise InvalidArgument(
                    f"level {number} of the plan table has codec 'none' outside of one with 'call';"
                    " what an inner level loses must be lost for all: write 'auto' or 'call'"
                )

    @classmethod
    def of(
        cls,
        network: Network,
        size: int,
        kinds: Iterable[str] | None = None,
        levels: tuple[LevelRow, ...] = (),
    ) -> Table:
        """Return the table that the model gives for a network.

        It is worked out for powers of two, and where the choice differs between two of them.

        Args:
            network: of the ranks.
            size: how many they are.
            kinds: of which operations; None: all that can be done in several ways. For those that
                have a root it is rank 0.
            levels: that the table is to have, and its rows reckon with.
        """
        chosen = KINDS if kinds is None else kinds
        several = [kind for kind in chosen if len(algorithms(kind)) > 1]
        plans = [level.plan for level in cls(levels=levels).levels]
        return cls(
            tuple(row for kind in several for row in _rows(kind, network, size, plans)), levels
        )

    def algorithm(self, kind: str, nbytes: int) -> str | None:
        """Return how an operation is carried out; None: as the engine chooses."""
        fits = (row.algorithm for row in self.rows if row.kind == kind and nbytes <= row.bytes)
        return next(fits, None)

    def to_json(self) -> str:
        """Return the table as JSON text; ``"bytes": null`` is any number."""
        rows = [
            {**dataclasses.asdict(row), "bytes": None if row.bytes == UNLIMITED else row.bytes}
            for row in self.rows
        ]
        parts = {"rows": rows}
        if self.levels:
            parts["levels"] = [dataclasses.asdict(level) for level in self.levels]
        lines = [
            f'  "{name}": [\n    ' + ",\n    ".join(map(json.dumps, part)) + "\n  ]"
            for name, part in parts.items()
        ]
        return "{\n" + ",\n".join([f'  "format": "{_FORMAT}"', *lines]) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Table:
        """Return the table that `to_json` has written, or a person.

        Raises:
            InvalidArgument: it is no such text; the message says where and why.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidArgument(f"a plan table is JSON, and this is not: {error}") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise InvalidArgument(
                f'this is no plan table: it is an object with "format": "{_FORMAT}"'
            )
        rows = content.get("rows")
        if not isinstance(rows, list):
            raise InvalidArgument('a plan table has a list of "rows"')
        levels = content.get("levels", [])
        if not isinstance(levels, list):
            raise InvalidArgument('the "levels" of a plan table are a list')
        return cls(
            tuple(_row(row, f"row {number}") for number, row in enumerate(rows)),
            tuple(_level(level, f"level {number}") for number, level in enumerate(levels)),
        )


def _row(found: object, where: str) -> Row:
    if not isinstance(found, dict) or set(found) != {"kind", "bytes", "algorithm"}:
        raise InvalidArgument(f'{where} of the plan table is no {{"kind", "bytes", "algorithm"}}')
    most = UNLIMITED if found["bytes"] is None else found["bytes"]
    return Row(found["kind"], most, found["algorithm"])


def _level(found: object, where: str) -> LevelRow:
    names = {field.name for field in dataclasses.fields(LevelRow)}
    if not isinstance(found, dict) or not found.keys() <= names:
        raise InvalidArgument(f'{where} of the plan table is no {{"plan", "transport", "codec"}}')
    return LevelRow(**found)


def _check_level(level: LevelRow, where: str) -> None:
    for name, names in (
        (level.plan, LEVEL_PLANS),
        (level.transport, TRANSPORTS),
        (level.codec, LEVEL_CODECS),
    ):
        if not isinstance(name, str) or name not in names:
            raise InvalidArgument(
                f"{where} of the plan table names {name!r}; known are {', '.join(names)}"
            )


def _check(row: Row, where: str) -> None:
    if type(row.bytes) is not int or not 0 <= row.bytes <= UNLIMITED:
        raise InvalidArgument(
            f"{where} of the plan table is for {row.bytes!r} bytes; write a number, or null for any"
        )
    for name, names in ((row.kind, KINDS), (row.algorithm, ALGORITHMS)):
        if not isinstance(name, str) or name not in names:
            raise InvalidArgument(
                f"{where} of the plan table names {name!r}; known are {', '.join(names)}"
            )
    if row.algorithm not in (known := algorithms(row.kind)):
        raise InvalidArgument(
            f"{where} of the plan table: {row.algorithm!r} does no {row.kind};"
            f" choose from {', '.join(known) or 'nothing'}"
        )
    if row.bytes > (most := limit(row.algorithm)):
        raise InvalidArgument(
            f"{where} of the plan table: {row.algorithm!r} is for up to {most} bytes;"
            " add a row with another algorithm for what is larger"
        )


def _rows(kind: str, network: Network, size: int, levels: Sequence[str]) -> list[Row]:
    """Return the rows of one kind: the best algorithms, and where the next one becomes better."""
    made: dict[str, Prediction] = {}
    for name in algorithms(kind):
        plan = plan_of(kind, name, size, network.places, levels=levels)
        made[name] = Prediction(plan, network)

    def best(nbytes: int, before: str = "") -> str:
        able = [name for name in made if nbytes <= limit(name)]
        seconds = {name: made[name].seconds(nbytes) for name in able}
        quickest = min(able, key=lambda name: seconds[name])
        # What the engine takes by itself, then what smaller ones are carried out by.
        for name in (choose(kind, nbytes, size, network.places, local=network.local), before):
            if name in seconds and seconds[name] * _WORTH <= seconds[quickest]:
                return name
        return quickest

    rows: list[Row] = []
    last, chosen = 1, best(1)
    for high in (1 << exponent for exponent in range(_SMALLEST, _LARGEST + 1)):
        while best(high, chosen) != chosen:
            low, above = last, high
            while above - low > max(1, low >> 7):
                middle = (low + above) // 2
                if best(middle, chosen) == chosen:
                    low = middle
                else:
                    above = middle
            rows.append(Row(kind, low, chosen))
            last, chosen = above, best(above, chosen)
        last = high
    return [*rows, Row(kind, UNLIMITED, chosen)]
