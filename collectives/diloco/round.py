"""The record of one outer step: what it cost, and the fingerprint of what came out of it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Round:
    """What one outer step did, as this peer saw it.

    Attributes:
        number: 1 for the first round of the run; the same on every peer.
        view: number of the view in which the pseudo-gradients were averaged.
        size: peers whose pseudo-gradients are in the average.
        wire_bytes: bytes this peer sent for the round, all of its operations together.
        seconds: time the round took on this peer, from pseudo-gradient to new parameters; waiting
            for slower peers is in it, the inner steps are not.
        digest: fingerprint of the outer state after the round, equal on all peers of the view.
    """

    number: int
    view: int
    size: int
    wire_bytes: int
    seconds: float
    digest: str
