"""A ``Group`` as the state phase of ``sync`` sees it: the collective calls that it makes."""

from __future__ import annotations

import contextlib
import time

import numpy as np

from collectives import errors, tuning
from collectives._native.engine import EngineGroup
from collectives.issue import STATE_TAG, Issuer
from collectives.membership.view import View
from collectives.state.service import Service


class GroupCouncil:
    """Implements ``state.phase.Council`` on a group.

    Args:
        issuer: issues the group's operations.
        service: what answers the other peers.
    """

    def __init__(self, issuer: Issuer, service: Service) -> None:
        self._issuer = issuer
        self.service = service

    @property
    def view(self) -> View:
        """Its members now."""
        return self._issuer.mine.view

    @property
    def rank(self) -> int:
        """This peer's rank in it."""
        return self._issuer.mine.rank

    @property
    def native(self) -> EngineGroup:
        """Whose links are used."""
        return self._issuer.mine.native

    def exchange(self, slots: np.ndarray, timeout: float) -> None:
        """Sum ``slots`` over all members, in place."""
        self._issuer.reduction(slots, "sum", None, None, timeout, 0, reserved=STATE_TAG)
        self._issuer.blocking(slots)

    def meet(self, timeout: float) -> None:
        """Go on with those who are left."""
        tuning.regroup(self._issuer, time.monotonic() + timeout)

    def exchange_later(self, slots: np.ndarray) -> None:
        """Take part in the next exchange without waiting for it."""
        with contextlib.suppress(errors.CollectiveError):  # it is broken already
            self._issuer.reduction(slots, "sum", None, None, None, 0, reserved=STATE_TAG)
            self._issuer.issue(slots, (slots,))

    def go(self, reason: str) -> None:
        """Leave the group at once."""
        self._issuer.close(reason)
