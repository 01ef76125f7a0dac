"""G8, never silently wrong: no workload found a value that is not the one it computed itself."""

from __future__ import annotations

from collectives.chaos.checkers.findings import Findings
from collectives.chaos.history import History

RULE = "G8"


def check(history: History) -> Findings:
    """Collect what the workloads found wrong; every result with a digest counts as checked."""
    findings = Findings()
    for life in history.lives.values():
        findings.checked += sum(call.returned and call.result is not None for call in life.calls)
        for line in life.wrongs:
            findings.add(
                RULE,
                f"{life.name} got a wrong value: {line.fields.get('what')}",
                line.t,
                [life.name],
                [life.at(line.number)],
            )
    return findings
