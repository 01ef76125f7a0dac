"""Nothing leaks: at its end a process holds about what it held after its first forty calls.

More members mean more links, so what a link needs is allowed for as often as the view has grown.
"""

from __future__ import annotations

from collectives.chaos.checkers.findings import Findings
from collectives.chaos.history import History
from collectives.chaos.records import Life

RULE = "leaks"
# What a process may have more of at its end, and for each member that its view has grown by.
_ALLOWED = {"fds": (8, 2), "threads": (4, 0), "mappings": (64, 8)}


def check(history: History) -> Findings:
    """Compare the first and the last count of each life."""
    findings = Findings()
    connections = int(history.begin.get("connections") or 1)
    for life in history.lives.values():
        if len(life.resources) < 2:
            continue
        findings.checked += 1
        first, last = life.resources[0], life.resources[-1]
        grown = max(0, _members(life, last.t) - _members(life, first.t))
        more = []
        for what, (constant, each) in _ALLOWED.items():
            before, after = first.fields.get(what, 0), last.fields.get(what, 0)
            if after - before > constant + each * connections * grown:
                more.append(f"{what}: {before}, then {after}")
        children = last.fields.get("children", 0)
        if children > first.fields.get("children", 0):
            more.append(f"{children} children")
        if more:
            where = [life.at(first.number), life.at(last.number)]
            findings.add(
                RULE, f"{life.name} holds more: {'; '.join(more)}", last.t, [life.name], where
            )
    return findings


def _members(life: Life, t: int) -> int:
    """The most members that the views of a life had up to a time."""
    return max((len(seen.view.members) for seen in life.views if seen.t <= t), default=1)
