"""G3: when all members wait in a call and nothing is wrong any more, the call ends.

Timeouts are long, so a run that is stuck would pass for a slow one until they are over. It is taken
for stuck if every member is in a call, no fault is on, and nobody's call ends for several times as
long as such calls have taken before, and longer than any decision may take.
"""

from __future__ import annotations

from collectives.chaos.checkers.findings import Findings
from collectives.chaos.history import History
from collectives.chaos.records import FOREVER, SECOND, Call, Life

RULE = "G3"
_PATIENCE = 15.0  # seconds, besides detection
_TIMES = 3
_APART = ("join", "rejoin", "leave", "step")  # who is in one of these is no member, or computes


def check(history: History) -> Findings:
    """Look for times at which everybody waits."""
    findings = Findings()
    longest: dict[str, float] = {}
    for call in history.calls:
        if call.returned and call.ended is not None:
            longest[call.op] = max(longest.get(call.op, 0.0), (call.ended - call.t) / SECOND)
    limits = {op: _TIMES * seconds for op, seconds in longest.items()}
    told: float = 0.0
    for call in sorted(history.calls, key=lambda call: call.t):
        if call.op in _APART or not call.blocking:
            continue
        findings.checked += 1
        end = _end(history, call)
        limit = _PATIENCE + history.detection + limits.get(call.op, 0.0)
        if call.returned or (end - call.t) / SECOND < limit or call.t <= told:
            continue
        waiting = _waiting(history, call, end)
        since = _calm_since(history, waiting, end)
        if waiting and (end - since) / SECOND > limit:
            told = end
            names = [other.life.name for other in waiting]
            findings.add(
                RULE,
                f"{', '.join(names)} have waited {(end - since) / SECOND:.1f} s in {call.op} for"
                " nobody: all members are there, and no fault is on",
                since,
                names,
                [other.lines[0] for other in waiting],
            )
    return findings


def _end(history: History, call: Call) -> float:
    return call.ended if call.ended is not None else min(call.life.gone, history.finish)


def _waiting(history: History, call: Call, end: float) -> list[Call]:
    """The calls that all members are in shortly before a time; empty: one is in none."""
    found = []
    for life in history.alive(end - SECOND // 2):
        member = [p for p in life.presences if p.group == call.group and p.left is None]
        if not member or member[-1].t > end:
            continue
        current = _current(history, life, end)
        if current is None:
            return []
        if current.op not in _APART:
            found.append(current)
    return found


def _current(history: History, life: Life, end: float) -> Call | None:
    for call in reversed(life.calls):
        if call.t < end:
            return call if call.blocking and _end(history, call) >= end - SECOND else None
    return None


def _calm_since(history: History, waiting: list[Call], end: float) -> float:
    """From when on all were there, no fault was on, and there was a coordinator."""
    times = [float(call.t) for call in waiting]
    times += [min(fault.until, end) for fault in history.faults if fault.t < end]
    times += [min(up, end) for down, up, _ in history.outages if down < end]
    gone = [life.gone for life in history.lives.values() if life.gone < min(end - SECOND, FOREVER)]
    return max(times + gone, default=end)
