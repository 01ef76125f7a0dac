"""G8: bad input is an error, not the end of a process, and it is counted.

Strangers, floods and damaged bytes end no process. Where the counters of a life that was hit are
known, something was refused or repaired.
"""

from __future__ import annotations

from collectives.chaos.checkers.endings import BAD_INPUT, blamed, ended_badly
from collectives.chaos.checkers.findings import Findings
from collectives.chaos.history import History
from collectives.chaos.records import Fault, Life

RULE = "G8"
_COUNTED = {
    "stranger": ("refused_hello", "refused_silent", "refused_version", "refused_view"),
    "flip": ("corrupt_frames", "connections_lost", "refused_hello", "refused_version"),
    "truncate": ("corrupt_frames", "connections_lost", "refused_hello", "refused_version"),
    "duplicate": ("corrupt_frames", "connections_lost", "refused_hello", "duplicate_slices"),
}


def check(history: History) -> Findings:
    """Look at what came of each fault that sends what makes no sense."""
    findings = Findings()
    for fault in history.faults:
        if fault.kind not in BAD_INPUT:
            continue
        findings.checked += 1
        hit = [life for life in history.alive(fault.t) if life.place in fault.places]
        for life in hit:
            if ended_badly(life) and blamed(history, life) is fault:
                findings.add(
                    RULE,
                    f"{life.name} ended with status {life.status} after a {fault.kind}",
                    life.exited or fault.t,
                    [life.name],
                    [f"harness:{fault.line}"],
                )
        _counted(findings, fault, hit)
    return findings


def _counted(findings: Findings, fault: Fault, hit: list[Life]) -> None:
    fields = _COUNTED.get(fault.kind)
    known = [life.counters for life in hit if life.counters is not None]
    # The counters of a life that was killed are lost, and it may have been the one that refused.
    if fields is None or not known or len(known) < len(hit) or fault.fields.get("applied") == 0:
        return
    if not any(counters.get(field) for counters in known for field in fields):
        findings.add(
            RULE,
            f"a {fault.kind} hit {' and '.join(life.name for life in hit)}, and none of them has"
            f" counted anything as {', '.join(fields)}",
            fault.t,
            [life.name for life in hit],
            [f"harness:{fault.line}"],
        )
