"""G6: the coordinator may die.

No member is lost to it, the views that a restarted one issues are of a higher term, and the run
goes on. What a view lost between the coordinator's end and a while after its return, with nothing
else to account for it, is lost to the coordinator.
"""

from __future__ import annotations

import math

from collectives.chaos.checkers.false_deaths import note
from collectives.chaos.checkers.findings import Findings
from collectives.chaos.history import History
from collectives.chaos.losses import losses, of_an_outage
from collectives.chaos.operations import Lineage, lineages
from collectives.chaos.records import SECOND

RULE = "G6"
_SETTLED = 5 * SECOND  # after which a view that is new to all was not issued before
_GOING_ON = 25 * SECOND

Outage = tuple[float, float, bool]  # from, until, whether it was killed


def check(history: History) -> Findings:
    """Look at what came of each time without a coordinator."""
    findings = Findings(checked=len(history.outages))
    for loss in losses(history):
        if loss.cause is None and (outage := of_an_outage(history, loss)) is not None:
            at = history.seconds(outage[0])
            note(findings, RULE, loss, f"to the coordinator that was gone at {at:.1f} s")
    for outage in history.outages:
        _goes_on(findings, history, outage)
        if outage[2] and outage[1] < math.inf:
            for lineage in lineages(history):
                _term_rises(findings, history, lineage, outage)
    return findings


def _term_rises(findings: Findings, history: History, lineage: Lineage, outage: Outage) -> None:
    down, up, _ = outage
    before = [seen[0].view.term for seen in lineage.ordered if seen[0].t < down]
    if not before:
        return
    for seen in lineage.ordered:
        first = seen[0]
        new = first.call is not None and first.call.t >= up and first.t >= up + _SETTLED
        if new and first.view.term <= max(before):
            life = lineage.lives[first.presence.id]
            findings.add(
                RULE,
                f"view {first.view.number} was issued after the coordinator's restart at"
                f" {history.seconds(up):.1f} s, in term {first.view.term} as before",
                first.t,
                [life.name],
                [life.at(first.line)],
            )
            return


def _goes_on(findings: Findings, history: History, outage: Outage) -> None:
    down, up, _ = outage
    until = up + _GOING_ON + history.detection * SECOND
    if until > min(history.stopping, history.finish):
        return  # the run ended before one could tell
    through = [life for life in history.alive(down) if life.gone > until and not life.stops]
    calls = [call for life in through for call in life.calls if down < call.t < until]
    if not calls or any(call.returned for call in calls):
        return
    findings.add(
        RULE,
        f"the run did not go on after the coordinator's return at {history.seconds(up):.1f} s:"
        f" no call of {len(through)} peers has returned until {history.seconds(until):.1f} s",
        until,
        [life.name for life in through],
        [call.lines[0] for call in calls[:8]],
    )
