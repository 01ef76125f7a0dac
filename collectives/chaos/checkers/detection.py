"""G3: who dies is missed within 1 s on its host, who falls silent within the detection time.

A survivor's caller sees the view without the lost member at the end of a call, and the call may
have had to wait for others to make it. So what counts is the time from the death, or from when the
last survivor had made that call, to the first sight of the view. Peers behind the proxy are as on
hosts of their own: nobody sees their processes die. A loss is not held to the limit while another
fault was on that may hold up the decision: none is made without a coordinator, for example.
"""

from __future__ import annotations

import statistics

from collectives.chaos.checkers.findings import SLACK, Findings
from collectives.chaos.history import History
from collectives.chaos.losses import Loss, losses
from collectives.chaos.operations import key_of
from collectives.chaos.records import SECOND

RULE = "G3"
SEEN_TO_DIE = 1.0
_DECIDING = 0.5  # seconds, of a round after a silence
_HOLD_UP_NOTHING = ("join", "leave", "reset", "flip", "duplicate", "stranger")


def check(history: History) -> Findings:
    """Hold each loss to its limit."""
    findings = Findings()
    for loss in losses(history):
        if loss.cause not in ("killed", "stopped") or not undisturbed(history, loss):
            continue
        findings.checked += 1
        took, limit = seconds(loss), limit_of(history, loss)
        if took > limit + SLACK + 2 * _typical(loss):
            assert loss.life is not None
            findings.add(
                RULE,
                f"{loss.life.name} was {loss.cause} and the others saw it after {took:.2f} s;"
                f" the limit is {limit:.1f} s",
                loss.after.t,
                [loss.life.name, _witness(loss)],
                [_line(loss)],
            )
    return findings


def limit_of(history: History, loss: Loss) -> float:
    """Seconds within which a loss is to be noticed."""
    if loss.cause == "killed" and not history.begin.get("proxied"):
        return SEEN_TO_DIE
    return history.detection + _DECIDING


def seconds(loss: Loss) -> float:
    """From when it could be noticed to the first sight of the view without the member."""
    since = loss.since
    call = loss.after.call
    if call is not None:
        since = max(since, call.t)
        key = key_of(call)
        operation = None if key is None else loss.lineage.operations.get(key)
        if operation is not None:
            since = max([since, *(c.t for c in operation.survivors() if c.t <= loss.after.t)])
    return max(0.0, loss.after.t - since) / SECOND


def undisturbed(history: History, loss: Loss) -> bool:
    """Whether no other fault was on that matters, and there was a coordinator."""
    until = loss.after.t
    for fault in history.faults_in(loss.since - SECOND, until):
        if fault is not loss.fault and fault.kind not in _HOLD_UP_NOTHING:
            return False
    # A coordinator that came back waits for the peers to register before it decides.
    returning = loss.since - 10 * SECOND
    return not any(down <= until and up >= returning for down, up, _ in history.outages)


def figures(history: History) -> dict[str, list[float]]:
    """Seconds by cause, of losses that no other fault disturbed."""
    found: dict[str, list[float]] = {}
    for loss in losses(history):
        if loss.cause in ("killed", "stopped", "cut") and undisturbed(history, loss):
            found.setdefault(loss.cause, []).append(seconds(loss))
    return found


def _typical(loss: Loss) -> float:
    """Seconds that the operation takes when nothing happens: the median of those before it."""
    call = loss.after.call
    if call is None:
        return 0.0
    like = [c for c in call.life.calls if (c.op, c.count) == (call.op, call.count) and c.returned]
    times = [(c.ended - c.t) / SECOND for c in like if c.ended is not None and c.t < call.t]
    return statistics.median(times[-50:]) if times else 0.0


def _witness(loss: Loss) -> str:
    return loss.lineage.lives[loss.after.presence.id].name


def _line(loss: Loss) -> str:
    return loss.lineage.lives[loss.after.presence.id].at(loss.after.line)
