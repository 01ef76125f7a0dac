"""G7: views of a group are totally ordered, and nothing passes from one into another.

The views that a member sees rise; a view has one list of members, whoever sees it; who is out does
not come back under the same id; contributors of an operation are members of the view it ended in.
"""

from __future__ import annotations

from collectives.chaos.checkers.findings import Findings
from collectives.chaos.history import History
from collectives.chaos.operations import Lineage, lineages
from collectives.chaos.records import Life, Seen

RULE = "G7"


def check(history: History) -> Findings:
    """Look at the views of each member, and of all together."""
    findings = Findings()
    for life in history.lives.values():
        _rise(findings, life)
    for lineage in lineages(history):
        _one_list(findings, lineage)
        _no_return(findings, lineage)
        _contributors(findings, lineage)
    return findings


def _rise(findings: Findings, life: Life) -> None:
    last: dict[str, Seen] = {}
    for seen in life.views:
        before = last.get(seen.presence.id)
        findings.checked += 1
        if before is not None and not seen.view > before.view:
            findings.add(
                RULE,
                f"{life.name} saw view {_name(seen)} after view {_name(before)}",
                seen.t,
                [life.name],
                [life.at(before.line), life.at(seen.line)],
            )
        last[seen.presence.id] = seen


def _one_list(findings: Findings, lineage: Lineage) -> None:
    for first, *others in lineage.ordered:
        for other in others:
            if other.view.members == first.view.members:
                continue
            pair = [(lineage.lives[seen.presence.id], seen) for seen in (first, other)]
            words = " and ".join(f"{'+'.join(s.view.names)} at {life.name}" for life, s in pair)
            findings.add(
                RULE,
                f"view {_name(first)} has two lists of members: {words}",
                other.t,
                [life.name for life, _ in pair],
                [life.at(seen.line) for life, seen in pair],
            )
            break


def _no_return(findings: Findings, lineage: Lineage) -> None:
    out: dict[str, Seen] = {}
    before: Seen | None = None
    for first, *_ in lineage.ordered:
        for member, name in first.view.members:
            if member in out:
                life = lineage.lives[first.presence.id]
                findings.add(
                    RULE,
                    f"{name} is back in view {_name(first)} with the id that view"
                    f" {_name(out.pop(member))} had lost",
                    first.t,
                    [life.name],
                    [life.at(first.line)],
                )
        if before is not None:
            out.update((member, first) for member in before.view.ids - first.view.ids)
        before = first


def _contributors(findings: Findings, lineage: Lineage) -> None:
    for operation in lineage.operations.values():
        for call in operation.calls:
            view = lineage.by_number.get(call.in_view) if call.in_view is not None else None
            if view is None or call.contributors is None:
                continue
            findings.checked += 1
            strangers = set(call.contributors) - set(view.names)
            if strangers:
                findings.add(
                    RULE,
                    f"{operation.name} ended in view {view.number} at {call.life.name} with"
                    f" contributors that are no members of it: {', '.join(sorted(strangers))}",
                    call.ended or call.t,
                    [call.life.name],
                    call.lines,
                )
                break


def _name(seen: Seen) -> str:
    return f"{seen.view.number} (term {seen.view.term})"
