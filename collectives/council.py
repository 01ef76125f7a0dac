"""A ``Group`` as the state phase of ``sync`` sees it: the collective calls that it makes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from collectives import errors
from collectives._native.engine import EngineGroup
from collectives.membership.view import View
from collectives.state.service import Service

if TYPE_CHECKING:
    from collectives.group import Group

TAG = 2**32 - 2
"""Of these operations: they do not disturb the order of the user's."""


class GroupCouncil:
    """Implements ``state.phase.Council`` on a group.

    Args:
        group: the group.
        service: what answers the other peers.
    """

    def __init__(self, group: Group, service: Service) -> None:
        self._group = group
        self.service = service

    @property
    def view(self) -> View:
        """Its members now."""
        return self._group.view

    @property
    def rank(self) -> int:
        """This peer's rank in it."""
        return self._group.rank

    @property
    def native(self) -> EngineGroup:
        """Whose links are used."""
        return self._group._native

    def exchange(self, slots: np.ndarray, timeout: float) -> None:
        """Sum ``slots`` over all members, in place."""
        self._group._reduction(slots, "sum", None, None, timeout, 0, TAG)
        self._group._blocking(slots)

    def meet(self, timeout: float) -> None:
        """Go on with those who are left."""
        self._group._regroup(timeout)

    def exchange_later(self, slots: np.ndarray) -> None:
        """Take part in the next exchange without waiting for it."""
        with contextlib.suppress(errors.CollectiveError):  # it is broken already
            self._group._reduction(slots, "sum", None, None, None, 0, TAG)
            self._group._issue(slots, (slots,))

    def go(self, reason: str) -> None:
        """Leave the group at once."""
        self._group._abort(reason)
