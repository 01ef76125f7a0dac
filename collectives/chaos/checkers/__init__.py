"""What was promised, held against the journals of a run: one module for each rule.

Each has a ``check(history) -> Findings`` that is pure, and says in its first lines what it demands.
``tests/chaos/mutants.py`` shows for each what it catches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from collectives.chaos.checkers import (
    atomicity,
    bad_input,
    detection,
    determinism,
    endings,
    failover,
    false_deaths,
    leaks,
    liveness,
    order,
    outcomes,
    parity,
    standstill,
    values,
)
from collectives.chaos.checkers.findings import Findings, Violation
from collectives.chaos.history import History

__all__ = ["CHECKERS", "Checker", "Findings", "Violation"]


@dataclasses.dataclass(frozen=True)
class Checker:
    """A checker, as the report has it.

    Attributes:
        name: of its module.
        rule: the promise's number in ``docs/guarantees.md``, or a word for what none covers.
        title: what it shows if nothing is wrong.
        things: what it counts.
    """

    name: str
    rule: str
    title: str
    things: str
    check: Callable[[History], Findings]


CHECKERS: tuple[Checker, ...] = (
    Checker("outcomes", "G1", "one outcome for all survivors", "operations", outcomes.check),
    Checker("atomicity", "G2", "an error leaves the input as it was", "errors", atomicity.check),
    Checker("liveness", "G3", "no call past its bound", "calls", liveness.check),
    Checker("standstill", "G3", "nobody waits for nobody", "calls", standstill.check),
    Checker("detection", "G3", "deaths are noticed in time", "deaths", detection.check),
    Checker("false_deaths", "G3", "nobody is put out without reason", "losses", false_deaths.check),
    Checker("determinism", "G4", "same inputs, same bits", "pairs", determinism.check),
    Checker("parity", "G5", "one state for all members", "states", parity.check),
    Checker("failover", "G6", "the coordinator may die", "outages", failover.check),
    Checker("order", "G7", "views are ordered", "views and results", order.check),
    Checker("values", "G8", "no wrong value", "results", values.check),
    Checker("bad_input", "G8", "bad input is refused", "faults", bad_input.check),
    Checker("endings", "ends", "processes end as they should", "processes", endings.check),
    Checker("leaks", "leaks", "nothing leaks", "processes", leaks.check),
)
