"""G5: after a ``sync(state)`` all members hold the same state.

What members of a group hold of one run and one revision has one digest. (A program that changes its
state without advancing it has no such promise.)
"""

from __future__ import annotations

from collectives.chaos.checkers.findings import Findings
from collectives.chaos.history import History
from collectives.chaos.operations import lineages
from collectives.chaos.records import Life, State

RULE = "G5"


def check(history: History) -> Findings:
    """Compare what the members held after their syncs."""
    findings = Findings()
    lineage_of = {member: at for at, line in enumerate(lineages(history)) for member in line.lives}
    held: dict[tuple[object, ...], dict[str, list[tuple[Life, State]]]] = {}
    for life in history.lives.values():
        for state in life.states:
            at = lineage_of.get(state.presence.id) if state.presence else None
            key = (state.group, at, state.run, state.revision)
            held.setdefault(key, {}).setdefault(state.digest, []).append((life, state))
    for (group, _, _, revision), by_digest in held.items():
        holders = [holder for holders in by_digest.values() for holder in holders]
        findings.checked += len(holders) > 1
        if len(by_digest) > 1:
            words = "; ".join(
                f"{digest}: {', '.join(dict.fromkeys(life.name for life, _ in holders))}"
                for digest, holders in by_digest.items()
            )
            findings.add(
                RULE,
                f"the states of {group} at revision {revision} differ: {words}",
                min(state.t for _, state in holders),
                [life.name for life, _ in holders],
                [life.at(state.line) for life, state in holders],
            )
    return findings
