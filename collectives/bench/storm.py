"""What members pay for newcomers: a storm of joins and leaves, beside a run without.

Four members reduce for a minute while sixty others join and leave. Then the same again with nobody
coming, but with processes that compute as long as the newcomers did.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from collectives.chaos import trial
from collectives.chaos.faults import Fault
from collectives.chaos.journal import read
from collectives.chaos.parts import Workload, places
from collectives.chaos.report import Report
from collectives.chaos.scenario import Scenario

MEMBERS = 4
SECONDS = 60.0
STAY = 4.0


@dataclasses.dataclass(frozen=True)
class Storm:
    """Figures of both runs; times are seconds of one all-reduce at a member.

    Attributes:
        joins: how many came.
        cpu: seconds of CPU that they took, all together.
        storm: median and 99th percentile in the storm.
        control: the same without it.
        violations: of the storm: promises that were broken, leaks among them.
    """

    joins: int
    cpu: float
    storm: tuple[float, float]
    control: tuple[float, float]
    violations: list[str]

    def lines(self) -> list[str]:
        """For people."""
        (median, p99), (calm, calm99) = self.storm, self.control
        return [
            f"{self.joins} joined and left within {SECONDS:.0f} s,"
            f" and took {self.cpu:.1f} s of CPU",
            f"storm      median {median * 1e6:.0f} us, p99 {p99 * 1e6:.0f} us",
            f"control    median {calm * 1e6:.0f} us, p99 {calm99 * 1e6:.0f} us",
            f"ratio      median {median / calm:.2f}, p99 {p99 / calm99:.2f}",
            *(f"violation  {what}" for what in self.violations),
        ]


def measure(joins: int = 60, look: Callable[[object], None] | None = None) -> Storm:
    """Run both.

    Raises:
        CollectiveError: a run did not form.
    """
    at = [1.0 + index * (SECONDS - STAY - 2.0) / joins for index in range(joins)]
    storm = tuple(
        Fault("join", at=when, peer=f"p{MEMBERS + index}", lasting=STAY)
        for index, when in enumerate(at)
    )
    with tempfile.TemporaryDirectory() as folder:
        report, times = _run("storm", storm, Path(folder), look)
        cpu = sum(_cpu(Path(folder) / "peers" / f"p{MEMBERS + i}.0.jsonl") for i in range(joins))
        violations = [violation.what for violation in report.violations]
    share = min(1.0, max(0.001, cpu / joins / STAY))
    load = tuple(Fault("load", at=when, share=share, lasting=STAY) for when in at)
    with tempfile.TemporaryDirectory() as folder:
        _, calm = _run("control", load, Path(folder), look)
    return Storm(joins, cpu, _figures(times), _figures(calm), violations)


def _run(
    name: str,
    faults: tuple[Fault, ...],
    folder: Path,
    look: Callable[[object], None] | None,
) -> tuple[Report, list[float]]:
    scenario = Scenario(
        name, peers=places(MEMBERS), duration=SECONDS, faults=faults, workload=Workload("allreduce")
    )
    report = trial.run(scenario, 1, folder, look)
    times: list[float] = []
    for index in range(MEMBERS):
        calls: set[int] = set()
        for line in read(folder / "peers" / f"p{index}.0.jsonl"):
            if line.kind == "call" and line.fields["op"] == "all_reduce":
                calls.add(line.fields["n"])
            elif line.kind == "return" and line.fields["n"] in calls:
                times.append(line.fields["seconds"])
    return report, times


def _cpu(path: Path) -> float:
    return next((line.fields["cpu"] for line in read(path) if line.kind == "end"), 0.0)


def _figures(times: list[float]) -> tuple[float, float]:
    return statistics.median(times), statistics.quantiles(times, n=100)[98]
