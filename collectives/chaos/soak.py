"""One seed after another, and what they come to together."""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collectives.chaos import trial
from collectives.chaos.parts import Workload
from collectives.chaos.report import Report
from collectives.chaos.scenario import Scenario

if TYPE_CHECKING:
    from rich.console import RenderableType

_TORCH = importlib.util.find_spec("torch") is not None
WORKLOADS = ("allreduce", "state", "allreduce", "diloco" if _TORCH else "allreduce")
"""In turns."""


@dataclasses.dataclass
class Total:
    """What the runs of a soak come to.

    Attributes:
        seeds: that were run.
        broken: the folder and the broken rules of each run with violations.
        operations: that all survivors have returned.
        faults: how many of each kind.
        recoveries: seconds, by kind of fault.
        checked: how many things each rule was held against.
        false_deaths: peers put out without reason.
        seconds: in all.
    """

    seeds: list[int] = dataclasses.field(default_factory=list)
    broken: list[tuple[Path, tuple[str, ...]]] = dataclasses.field(default_factory=list)
    operations: int = 0
    faults: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    recoveries: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    checked: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    false_deaths: int = 0
    seconds: float = 0.0

    @property
    def exit_status(self) -> int:
        """1 if a promise was broken."""
        return 1 if self.broken else 0

    def add(self, seed: int, folder: Path, report: Report) -> None:
        """Take in a run."""
        self.seeds.append(seed)
        self.operations += report.operations
        self.faults.update(report.faults)
        self.false_deaths += report.false_deaths
        for recovery in report.recoveries:
            self.recoveries.setdefault(recovery.fault.kind, []).append(recovery.seconds)
        for verdict in report.verdicts:
            self.checked[f"{verdict.checker.rule} {verdict.checker.title}"] += (
                verdict.findings.checked
            )
        if report.violations:
            self.broken.append((folder, tuple(sorted({v.rule for v in report.violations}))))

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "seeds": self.seeds,
            "seconds": round(self.seconds, 1),
            "operations": self.operations,
            "faults": {"total": self.faults.total(), **dict(sorted(self.faults.items()))},
            "recoveries": {
                kind: {
                    "count": len(found),
                    "median": round(statistics.median(found), 4),
                    "worst": round(max(found), 4),
                }
                for kind, found in sorted(self.recoveries.items())
            },
            "checked": dict(self.checked),
            "false_deaths": self.false_deaths,
            "broken": [
                {"folder": str(folder), "rules": list(rules)} for folder, rules in self.broken
            ],
        }

    def table(self) -> RenderableType:
        """For people."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        rules = Table(box=None, padding=(0, 2, 0, 0))
        rules.add_column("rule")
        rules.add_column("checked", justify="right")
        for rule, count in self.checked.items():
            rules.add_row(rule, str(count))
        faults = Table(box=None, padding=(0, 2, 0, 0))
        for title in ("fault", "times", "recoveries", "median", "worst"):
            faults.add_column(title, justify="left" if title == "fault" else "right")
        for kind, count in sorted(self.faults.items()):
            found = self.recoveries.get(kind, [])
            figures = (
                (f"{statistics.median(found):.3f} s", f"{max(found):.3f} s") if found else ("", "")
            )
            faults.add_row(kind, str(count), str(len(found) or ""), *figures)
        runs = f"{len(self.seeds)} runs, seeds {self.seeds[0]} to {self.seeds[-1]}"
        head = (
            f"{runs}, {self.seconds / 60:.1f} min: {self.operations} operations,"
            f" {self.faults.total()} faults, {self.false_deaths} false deaths"
        )
        end = [
            Text(f"{', '.join(rules_)} broken: collectives chaos replay {folder}", "red")
            for folder, rules_ in self.broken
        ] or [Text("no violation", "green")]
        return Group(Text(head, "bold"), "", rules, "", faults, "", *end)


def soak(
    scenario: Scenario,
    seconds: float,
    seed: int,
    peers: int,
    folder: Path,
    look: trial.Look | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Total:
    """Run a scenario with one seed after another, for so long.

    Args:
        scenario: with a mix; its workload is changed in turns.
        seconds: after which no other run begins.
        seed: the first.
        peers: of each run, at its beginning.
        folder: for the runs' files; those of runs without a violation are removed.
        look: as in ``trial.run``.
        say: gets a line for each run.
    """
    total, began = Total(), time.monotonic()
    scenario = scenario.scaled(peers=peers)
    while not total.seeds or time.monotonic() - began < seconds:
        number = seed + len(total.seeds)
        kind = WORKLOADS[number % len(WORKLOADS)]
        run = dataclasses.replace(scenario, workload=Workload(kind))
        here = folder / f"{number}"
        report = trial.run(run, number, here, look)
        total.add(number, here, report)
        total.seconds = time.monotonic() - began
        say(
            f"seed {number}, {kind}: {report.operations} operations,"
            f" {sum(report.faults.values())} faults, {len(report.violations)} violations"
        )
        if not report.violations:
            shutil.rmtree(here)
    return total
