"""The verdict on a run: each rule with what was checked, and the figures people ask for."""

from __future__ import annotations

import collections
import dataclasses
import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collectives.chaos.checkers import CHECKERS, Checker, Findings, Violation
from collectives.chaos.checkers.detection import figures
from collectives.chaos.checkers.false_deaths import is_false
from collectives.chaos.history import History
from collectives.chaos.losses import losses
from collectives.chaos.operations import lineages
from collectives.chaos.records import FOREVER
from collectives.chaos.recoveries import Recovery, recoveries

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a checker says of a run."""

    checker: Checker
    findings: Findings

    @property
    def word(self) -> str:
        """``"ok"``, ``"violated"``, or ``"nothing to check"``."""
        if self.findings.violations:
            return "violated"
        return "ok" if self.findings.checked else "nothing to check"


@dataclasses.dataclass
class Report:
    """All that is said of a run.

    Attributes:
        seconds: how long it took.
        operations: that all survivors have returned.
        raised: operations that raised, the same for all.
        moved: bytes of the arrays that were reduced or broadcast, each operation counted once.
        faults: how many of each kind.
        detection: seconds, by what befell the member; deaths that no other fault disturbed.
    """

    history: History
    verdicts: list[Verdict]
    seconds: float
    operations: int
    raised: int
    moved: int
    faults: dict[str, int]
    recoveries: list[Recovery]
    detection: dict[str, list[float]]
    false_deaths: int

    @classmethod
    def of(cls, history: History) -> Report:
        """Judge a run."""
        operations = [o for lineage in lineages(history) for o in lineage.operations.values()]
        done = [operation for operation in operations if operation.complete]
        raised = sum(any(call.error for call in operation.survivors()) for operation in operations)
        moved = sum((o.calls[0].count or 0) * _item_size(o.calls[0].dtype or "") for o in done)
        return cls(
            history,
            [Verdict(checker, checker.check(history)) for checker in CHECKERS],
            history.seconds(history.finish),
            len(done),
            raised,
            moved,
            dict(collections.Counter(fault.kind for fault in history.faults)),
            recoveries(history),
            figures(history),
            sum(is_false(history, loss) for loss in losses(history)),
        )

    @property
    def violations(self) -> list[Violation]:
        """All of them, by time."""
        found = [v for verdict in self.verdicts for v in verdict.findings.violations]
        return sorted(found, key=lambda violation: violation.t)

    @property
    def exit_status(self) -> int:
        """1 if a promise was broken, 2 if nothing was checked because nothing happened, else 0."""
        if self.violations:
            return 1
        return 0 if self.operations else 2

    def recovered(self, kind: str | None = None) -> list[float]:
        """Seconds of each recovery (from a kind of fault) that came to its end, sorted."""
        found = [r for r in self.recoveries if kind in (None, r.fault.kind)]
        return sorted(recovery.seconds for recovery in found if recovery.end < FOREVER)

    def facts(self) -> list[tuple[str, str]]:
        """What there is to say beside the verdicts, as label and text."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        rate = f"{self.operations / self.seconds:.1f}/s" if self.seconds else "no time"
        moved = f"{self.moved / 1e6 / self.seconds:.1f} MB/s" if self.seconds else ""
        found = [
            ("run", f"{self.seconds:.1f} s, {len(self.history.lives)} processes"),
            ("operations", f"{self.operations} by all survivors ({rate}, {moved} of arrays)"),
            (
                "errors",
                f"{self.raised} operations raised, the same for all" if self.raised else "none",
            ),
            ("faults", f"{sum(self.faults.values())}: {kinds}" if kinds else "none"),
            ("recoveries", _figure(self.recovered())),
        ]
        if killed := self.recovered("kill"):
            found.append(("after a kill", _figure(killed)))
        for cause, seconds in sorted(self.detection.items()):
            found.append((f"{cause}: noticed", _figure(sorted(seconds))))
        found.append(("false deaths", str(self.false_deaths)))
        return found

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        begin = self.history.begin
        return {
            "scenario": begin.get("scenario"),
            "seed": begin.get("seed"),
            "passed": self.exit_status == 0,
            "seconds": round(self.seconds, 3),
            "verdicts": [
                {
                    "rule": verdict.checker.rule,
                    "checker": verdict.checker.name,
                    "title": verdict.checker.title,
                    "verdict": verdict.word,
                    "checked": verdict.findings.checked,
                    "violations": len(verdict.findings.violations),
                }
                for verdict in self.verdicts
            ],
            "violations": [
                {**dataclasses.asdict(v), "seconds": round(self.history.seconds(v.t), 3)}
                for v in self.violations
            ],
            "operations": self.operations,
            "errors": self.raised,
            "operations_per_second": round(self.operations / self.seconds, 2)
            if self.seconds
            else 0,
            "bytes_per_second": round(self.moved / self.seconds) if self.seconds else 0,
            "faults": self.faults,
            "recoveries": _summary(self.recovered()),
            "recoveries_by_kind": {
                kind: _summary(self.recovered(kind))
                for kind in sorted({recovery.fault.kind for recovery in self.recoveries})
            },
            "detection": {cause: _summary(sorted(s)) for cause, s in self.detection.items()},
            "false_deaths": self.false_deaths,
        }

    def write_json(self, path: str | Path) -> None:
        """Write ``to_json`` to a file."""
        Path(path).write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")

    def table(self, most: int = 8) -> RenderableType:
        """For the terminal: verdicts, figures, and the first violations.

        Args:
            most: how many violations to spell out.
        """
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        begin = self.history.begin
        title = f"{begin.get('scenario', 'run')}, seed {begin.get('seed')}"
        verdicts = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
        for name in ("rule", "promise", "checked", "verdict"):
            verdicts.add_column(
                name, no_wrap=True, justify="right" if name == "checked" else "left"
            )
        styles = {"ok": "green", "violated": "bold red", "nothing to check": "dim"}
        for verdict in self.verdicts:
            checker, word = verdict.checker, verdict.word
            count = len(verdict.findings.violations)
            checked = f"{verdict.findings.checked} {checker.things}"
            told = Text(f"{count} violations" if count > 1 else word, style=styles[word])
            verdicts.add_row(checker.rule, checker.title, checked, told)
        facts = Table.grid(padding=(0, 2, 0, 1))
        for label, text in self.facts():
            facts.add_row(Text(label, style="dim"), Text(text))
        words = Text()
        for violation in self.violations[:most]:
            at = self.history.seconds(violation.t)
            words.append(f"\n {violation.rule} at {at:.3f} s: ", style="bold red")
            words.append(f"{violation.what}\n")
            if violation.lines:
                words.append(f"   see {', '.join(violation.lines[:8])}\n", style="dim")
        if len(self.violations) > most:
            words.append(
                f"\n and {len(self.violations) - most} more violations\n", style="bold red"
            )
        return Group(verdicts, facts, words)


def _item_size(dtype: str) -> int:
    """Bytes of an element: names of dtypes end with their bits, as in ``"bf16"``."""
    bits = dtype.lstrip("abcdefghijklmnopqrstuvwxyz")
    return max(int(bits) // 8, 1) if bits.isdigit() else 1


def _summary(seconds: list[float]) -> dict[str, Any]:
    if not seconds:
        return {"count": 0, "median": None, "worst": None}
    median = round(statistics.median(seconds), 4)
    return {"count": len(seconds), "median": median, "worst": round(seconds[-1], 4)}


def _figure(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    median = statistics.median(seconds)
    return f"{len(seconds)}, median {_time(median)}, worst {_time(seconds[-1])}"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
