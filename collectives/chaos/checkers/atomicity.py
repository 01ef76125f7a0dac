"""G2: an operation that raises leaves its input as it was.

Compared are the digests of the input before the call and after the error, of operations in place
too. ``atomic=False`` gives the promise up.
"""

from __future__ import annotations

from collectives.chaos.checkers.findings import Findings
from collectives.chaos.history import History

RULE = "G2"


def check(history: History) -> Findings:
    """Compare the input before and after each call that raised."""
    findings = Findings()
    for call in history.calls:
        if call.error is None or not call.atomic or None in (call.digest, call.after):
            continue
        findings.checked += 1
        if call.digest != call.after:
            findings.add(
                RULE,
                f"{call.op} {call.number} raised {call.error} at {call.life.name} and left its"
                f" input changed ({call.digest} before, {call.after} after)",
                call.ended or call.t,
                [call.life.name],
                call.lines,
            )
    return findings
