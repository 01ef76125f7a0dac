"""G3: nobody is put out of the run without a reason.

A view may lose a member that left, was killed or ended, stood still for the detection time, or was
cut off. Standing still for less, or being slow, is no reason. What is lost to a coordinator's death
is G6's (``failover``).
"""

from __future__ import annotations

from collectives.chaos.checkers.findings import Findings
from collectives.chaos.history import History
from collectives.chaos.losses import Loss, losses, of_an_outage

RULE = "G3"


def check(history: History) -> Findings:
    """Ask of each view that followed another whether its losses have a cause."""
    findings = Findings()
    for loss in losses(history):
        findings.checked += 1
        if is_false(history, loss):
            note(findings, RULE, loss, "although no fault had touched it")
    return findings


def is_false(history: History, loss: Loss) -> bool:
    """Whether nothing accounts for a loss, not even a coordinator that was gone."""
    return loss.cause is None and of_an_outage(history, loss) is None


def note(findings: Findings, rule: str, loss: Loss, why: str) -> None:
    """Add a loss to the violations."""
    witness = loss.lineage.lives[loss.after.presence.id]
    view = loss.after.view
    findings.add(
        rule,
        f"view {view.number} (term {view.term}) lost {loss.name}, {why}",
        loss.after.t,
        [witness.name, *([loss.life.name] if loss.life else [])],
        [witness.at(loss.after.line)],
    )
