"""From a scenario to a verdict: draw it, run it, check it, and make a failing one smaller."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

from collectives.chaos import page
from collectives.chaos.harness import Harness
from collectives.chaos.history import History
from collectives.chaos.mix import draw
from collectives.chaos.report import Report
from collectives.chaos.scenario import Scenario
from collectives.chaos.shrink import Shrunk, shrink
from collectives.errors import CollectiveError, InvalidArgument

Look = Callable[[Harness], None]


def run(scenario: Scenario, seed: int, folder: Path, look: Look | None = None) -> Report:
    """Run a scenario and judge it.

    Args:
        scenario: what is left open in it is drawn.
        seed: of that, of the data, and of damage.
        folder: for the run's files; what an earlier run has left there is removed.
        look: called a few times a second while it runs.

    Raises:
        InvalidArgument: the folder holds something else, or nothing can be drawn.
        CollectiveError: the run did not form.
    """
    _clear(folder)
    concrete = draw(scenario, seed)
    with Harness(concrete, seed, folder, look) as harness:
        harness.run()
    report = Report.of(History.read(folder))
    report.write_json(folder / "report.json")
    page.write(report, folder / "report.html")
    with contextlib.suppress(ImportError):  # pictures need matplotlib; nothing else does
        from collectives.chaos import timeline

        timeline.draw(report, folder / "timeline.png")
    return report


def smaller(report: Report, folder: Path, budget: int, look: Look | None = None) -> Shrunk:
    """Find the smallest scenario that still breaks one of the rules that this run broke.

    Args:
        report: of a run with violations.
        folder: of that run; the smaller one is written there as ``shrunk.toml``.
        budget: how many runs at most.
        look: as in ``run``.
    """
    scenario = Scenario.from_file(folder / "scenario.toml")
    seed = scenario.seed or 0
    broken = {verdict.checker.name for verdict in report.verdicts if verdict.findings.violations}
    attempt = folder / "attempt"

    def fails(smaller: Scenario) -> bool:
        try:
            again = run(dataclasses.replace(smaller, seed=seed), seed, attempt, look)
        except CollectiveError:
            return False  # a run that does not form says nothing
        return any(v.findings.violations and v.checker.name in broken for v in again.verdicts)

    found = shrink(scenario, fails, budget)
    (folder / "shrunk.toml").write_text(found.scenario.to_toml(), encoding="utf-8")
    return found


def _clear(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "harness.jsonl").exists():
            raise InvalidArgument(f"{folder} holds something that is no chaos run; name another")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
