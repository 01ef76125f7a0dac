"""Every process ends by itself and well, or by the fault that was meant for it.

A process that crashes, or whose program ends with an exception that nothing had provided for, is
found here; after bad input, by ``bad_input``. Each process that was started has ended.
"""

from __future__ import annotations

import signal

from collectives.chaos.checkers.findings import Findings
from collectives.chaos.history import History
from collectives.chaos.records import SECOND, Fault, Life

RULE = "ends"
BAD_INPUT = ("stranger", "flood", "flip", "truncate", "duplicate")
_AFTER = 10 * SECOND  # within which the end of a process is put down to what it was sent


def ended_badly(life: Life) -> bool:
    """Whether a process ended otherwise than anybody wanted."""
    return life.exited is not None and not life.expected and life.status != 0 and not life.killed


def blamed(history: History, life: Life) -> Fault | None:
    """The fault of bad input, if any, shortly before a life's end."""
    if life.exited is None:
        return None
    faults = history.touching(life.place, life.exited - _AFTER, life.exited)
    return next((fault for fault in reversed(faults) if fault.kind in BAD_INPUT), None)


def check(history: History) -> Findings:
    """Look at the end of each process."""
    findings = Findings()
    for life in history.lives.values():
        if life.started is None:
            continue
        findings.checked += 1
        if life.exited is None:
            what = f"{life.name} was still there at the end of the run"
            findings.add(RULE, what, history.finish, [life.name], [])
        elif ended_badly(life) and blamed(history, life) is None:
            how = (
                f"by signal {-(life.status or 0)}"
                if (life.status or 0) < 0
                else f"with {life.status}"
            )
            words = f": {life.ending}" if life.ending not in (None, "ok") else ""
            what = f"{life.name} ended {how}{words}, which no fault accounts for"
            if (life.ending or "").startswith("Evicted"):
                what = (
                    f"{life.name} ended {how}{words}; to survive that, a program catches Evicted"
                    " and calls group.rejoin()"
                )
            if life.status == -signal.SIGKILL and life.exited > history.stopping:
                what = f"{life.name} did not end when the run was over, and had to be killed"
            findings.add(RULE, what, life.exited, [life.name], [])
    return findings
