"""A data plane that dials where the harness says, so that its connections can be shaped."""

from __future__ import annotations

import dataclasses

from collectives._native.engine import Engine
from collectives.chaos.control import Control
from collectives.data_plane import EnginePlane
from collectives.membership.view import Peer, View


class RoutedPlane(EnginePlane):
    """An ``EnginePlane`` for which the addresses of a view are those of routes.

    A peer behind a route counts as one of another host: what names its process is left out, so its
    death shows as it would from afar.
    """

    control: Control

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._me = engine.peer_id
        self.control.tell("listens", addresses=engine.addresses)

    def prepare(self, view: View, rank: int) -> None:
        """As it is, through routes."""
        super().prepare(self._routed(view), rank)

    def visit(self, view: View | None) -> None:
        """As it is, through routes."""
        super().visit(None if view is None else self._routed(view))

    def _routed(self, view: View) -> View:
        return dataclasses.replace(view, peers=tuple(map(self._route, view.peers)))

    def _route(self, peer: Peer) -> Peer:
        if peer.id == self._me:
            return peer
        addresses, far = self.control.dial(peer.addresses)
        process = "" if far else peer.process
        return dataclasses.replace(peer, addresses=addresses, process=process)
