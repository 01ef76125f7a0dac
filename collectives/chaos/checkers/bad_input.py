"""G8: bad input is an error, not the end of a process, and it is counted.

Strangers, floods and damaged bytes end no process. Where they are known to have come to a life, and
its counters are known, something was refused or repaired.
"""

from __future__ import annotations

from collectives.chaos.checkers.endings import BAD_INPUT, blamed, ended_badly
from collectives.chaos.checkers.findings import Findings
from collectives.chaos.history import History
from collectives.chaos.records import SECOND, Fault, Life, Presence

RULE = "G8"
_REFUSED = ("refused_hello", "refused_silent", "refused_version", "refused_view")
# What is damaged may be a hello.
_BROKEN = ("corrupt_frames", "connections_lost", *_REFUSED)
_COUNTED = {"stranger": _REFUSED, "flip": _BROKEN, "truncate": _BROKEN, "duplicate": _BROKEN}
_UNDER_WAY = SECOND  # for which what a fault has sent may not have come


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
    there = [_there(life, fault.t) for life in hit]
    present = [presence for presences in there for presence in presences]
    # If what one of them has counted is not known, that may be the one that refused.
    if fields is None or not fault.applied or not present or not all(there):
        return
    if not all(_tells(presence, fault) for presence in present):
        return
    if not any((presence.counters or {}).get(field) for presence in present for field in fields):
        findings.add(
            RULE,
            f"a {fault.kind} hit {' and '.join(life.name for life in hit)}, and none of them has"
            f" counted anything as {', '.join(fields)}",
            fault.t,
            [life.name for life in hit],
            [f"harness:{fault.line}"],
        )


def _there(life: Life, t: int) -> list[Presence]:
    """A life's presences at a time, one for each group."""
    newest = {presence.group: presence for presence in life.presences if presence.t <= t}
    return [one for one in newest.values() if one.left is None or one.left > t]


def _tells(presence: Presence, fault: Fault) -> bool:
    """Whether its counters must have what the fault has sent.

    Those of a process that was killed are not known. Who is put out of the run ends its connections
    with all that is under way on them, and so does who leaves soon.
    """
    known = presence.counters is not None and not presence.out
    return known and presence.counted > fault.t + _UNDER_WAY
