"""What a checker hands back: how much it looked at, and what was wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

SLACK = 2.0
"""Seconds that a machine under load may be late."""


@dataclasses.dataclass(frozen=True)
class Violation:
    """A promise that was broken.

    Attributes:
        rule: of the checker, such as ``"G1"``.
        what: a sentence that says what happened, to whom.
        t: nanoseconds of CLOCK_MONOTONIC.
        peers: names of the lives concerned, such as ``"p2.0"``.
        lines: where it is written, as ``"p2.0:17"`` (journal and line).
    """

    rule: str
    what: str
    t: int
    peers: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


@dataclasses.dataclass
class Findings:
    """What one checker found.

    Attributes:
        checked: how many things it looked at; 0: there was nothing to check.
    """

    checked: int = 0
    violations: list[Violation] = dataclasses.field(default_factory=list)

    def add(
        self, rule: str, what: str, t: float, peers: Iterable[str] = (), lines: Iterable[str] = ()
    ) -> None:
        """Note a violation."""
        names = tuple(dict.fromkeys(peers))
        self.violations.append(Violation(rule, what, int(t), names, tuple(lines)))
