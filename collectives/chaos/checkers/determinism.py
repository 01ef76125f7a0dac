"""G4: same members, same order, same inputs: same bits.

Looked for are operations that are the same by all that may count: what was called, the contributors
in their order, and the digests of their inputs; where inputs have no digest, the workload's step
takes their place. Wherever two are the same, so are their results: within a run, across lives, and
(``compare``) between runs that differ in timing, connections or slices. Where each rank has a
result of its own, those of the same member are compared.
"""

from __future__ import annotations

from collections.abc import Iterator

from collectives.chaos.checkers.findings import Findings
from collectives.chaos.history import History
from collectives.chaos.operations import Operation, lineages
from collectives.chaos.records import Call

RULE = "G4"
Sameness = tuple[object, ...]


def check(history: History) -> Findings:
    """Compare the operations of one run that are the same."""
    findings = Findings()
    known: dict[Sameness, Call] = {}
    for what, call in _results(history):
        other = known.setdefault(what, call)
        if other is not call:
            _compare(findings, what, other, call, "")
    return findings


def compare(history: History, other: History) -> Findings:
    """Compare the operations that two runs have in common.

    Args:
        history: a run.
        other: another with the same seed and workload; who came and went when may differ:
            operations that nobody made alike are left out.
    """
    findings = Findings()
    known: dict[Sameness, Call] = {}
    for what, call in _results(history):
        known.setdefault(what, call)
    for what, call in _results(other):
        if what in known:
            _compare(findings, what, known[what], call, " of the other run")
    return findings


def _results(history: History) -> Iterator[tuple[Sameness, Call]]:
    """One successful call of each operation, with what it is; all, if each has its own result."""
    for lineage in lineages(history):
        for operation in lineage.operations.values():
            ended = [c for c in operation.survivors() if c.returned and (c.result or c.own)]
            call = next(iter(ended), None)
            if call is None or call.contributors is None or not call.is_its_inputs:
                continue
            inputs = _inputs(operation, call)
            if inputs is None:
                if call.work is None or call.digest is not None:
                    continue
                inputs = ("step", call.work, call.tag)
                same = [c for c in call.life.calls if c.work == call.work and c.op == call.op]
                if len(same) > 1:
                    continue  # which is which
            called = (call.op, call.count, call.counts, call.dtype, call.redop, call.codec)
            what = (*called, call.root, call.contributors, call.ranges, inputs)
            for one in ended if call.own else [call]:
                name = one.presence.name if one.own and one.presence else None
                yield (*what, name), one


def _inputs(operation: Operation, call: Call) -> tuple[object, ...] | None:
    assert call.contributors is not None
    digests = {c.presence.name: c.digest for c in operation.calls if c.presence is not None}
    found = tuple(digests.get(name) for name in call.contributors)
    return None if None in found else found


def _compare(findings: Findings, what: Sameness, one: Call, two: Call, whose: str) -> None:
    findings.checked += 1
    results = one.result or one.own, two.result or two.own
    if results[0] == results[1]:
        return
    names = "+".join(one.contributors or ())
    findings.add(
        RULE,
        f"{one.op} {one.number} and {two.op} {two.number}{whose} of {names} have the same inputs,"
        f" but results {results[0]} and {results[1]}",
        two.ended or two.t,
        [one.life.name, two.life.name],
        [*one.lines, *two.lines],
    )
