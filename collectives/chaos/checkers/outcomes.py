"""G1: each operation has one outcome for all survivors.

Success with the same result and the same contributors, or the same error; of a send and its
receive, success with what was sent. Two successes of one view are of one attempt, so they must
agree also where one of the two is no survivor. Contributors are members of the view that the
operation ended in (``order`` looks at that), and who succeeded has called the same thing as the
others.
"""

from __future__ import annotations

from collectives.chaos.checkers.findings import Findings
from collectives.chaos.history import History
from collectives.chaos.operations import Operation, lineages
from collectives.chaos.records import Call

RULE = "G1"
# What ends a sync() for one member alone: it gave up, or cannot take the state.
_ALONE = ("Timeout", "CoordinatorUnreachable", "StateError", "PeerLost", "TooFewPeers")


def check(history: History) -> Findings:
    """Compare the outcomes of each operation."""
    findings = Findings()
    for lineage in lineages(history):
        for operation in lineage.operations.values():
            calls = operation.survivors()
            if operation.calls[0].op == "sync":
                calls = [call for call in calls if call.error not in _ALONE]
            if len(calls) > 1:
                findings.checked += 1
            if not _compare(findings, operation, calls, _outcome) and not _compare(
                findings, operation, [call for call in calls if call.returned], _descriptor
            ):
                _attempts(findings, operation)
    return findings


def _outcome(call: Call) -> tuple[object, ...]:
    if call.error is not None:
        return (call.error, call.peer)
    if call.op == "sync":
        return ("success",)
    return ("success", call.result, call.contributors, call.ranges)


def _descriptor(call: Call) -> tuple[object, ...]:
    if call.pair is not None:
        return ("transfer", call.count, call.dtype)
    return (call.op, call.count, call.dtype, call.redop, call.root)


def _compare(findings: Findings, operation: Operation, calls: list[Call], of: object) -> bool:
    """Note a difference; whether there is one."""
    assert callable(of)
    found = {of(call): call for call in reversed(calls)}
    if len(found) < 2:
        return False
    words = "; ".join(f"{call.life.name}: {_say(what)}" for what, call in found.items())
    findings.add(
        RULE,
        f"{operation.name} is not the same for all: {words}",
        max(call.ended or 0 for call in calls),
        [call.life.name for call in calls],
        [line for call in calls for line in call.lines],
    )
    return True


def _say(what: tuple[object, ...]) -> str:
    return " ".join("+".join(map(str, x)) if isinstance(x, tuple) else str(x) for x in what if x)


def _attempts(findings: Findings, operation: Operation) -> None:
    by_view: dict[int | None, list[Call]] = {}
    for call in operation.calls:
        if call.returned and call.op != "sync":
            by_view.setdefault(call.in_view, []).append(call)
    for calls in by_view.values():
        if _compare(findings, operation, calls, _outcome):
            return
