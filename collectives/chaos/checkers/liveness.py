"""G3: no call hangs.

Every blocking call ends within its timeout, plus detection, plus recovery. Not counted is the time
in which its own process stood still, and a step is the program's own block, in which it may do what
it likes between its calls. A call that has not ended when its process does must have been
killed with it, and not have been late by then.
"""

from __future__ import annotations

from collectives.chaos.checkers.findings import SLACK, Findings
from collectives.chaos.history import History
from collectives.chaos.records import FOREVER, SECOND, Call

RULE = "G3"


def check(history: History) -> Findings:
    """Hold each call to its bound."""
    findings = Findings()
    for call in history.calls:
        timed = call.blocking or call.seconds is not None
        if call.timeout is None or not timed or call.op == "step":
            continue
        findings.checked += 1
        bound = call.timeout + history.detection + history.recovery + SLACK
        took, over = _seconds(history, call)
        if took > bound:
            words = "took" if over else "had not ended after"
            _note(findings, call, f"{words} {took:.1f} s; its bound is {bound:.1f} s")
        elif not over and call.life.ended is not None:
            _note(findings, call, "neither returned nor raised, and its process went on to its end")
    return findings


def _seconds(history: History, call: Call) -> tuple[float, bool]:
    """How long it took or has taken, and whether it has ended."""
    if call.seconds is not None and not call.blocking:
        return call.seconds, True
    end = call.ended
    if end is None:
        gone = min(call.life.gone, history.finish)
        until = gone if gone < FOREVER else history.finish
    else:
        until = end
    return (until - call.t - call.life.stopped(call.t, until)) / SECOND, end is not None


def _note(findings: Findings, call: Call, what: str) -> None:
    name = call.op if call.number is None else f"{call.op} {call.number}"
    who = call.life.name
    findings.add(RULE, f"{name} at {who} {what}", call.ended or call.t, [who], call.lines)
