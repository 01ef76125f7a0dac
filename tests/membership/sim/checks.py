"""What must hold in every history: as it happens, and at its end."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from collectives.errors import CoordinatorUnreachable, Evicted
from collectives.membership import peer
from collectives.membership.ledger import CoordinatorState
from collectives.membership.view import View

from .operation import Kind, Operation

if TYPE_CHECKING:
    from .process import Process
    from .world import World

Key = tuple[int, int]


class Checks:
    """Follows a history; every assertion here is a promise of ``docs/guarantees.md``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.views: dict[tuple[uuid.UUID, int, int], View] = {}
        self.installed: dict[uuid.UUID, tuple[int, int]] = {}
        self.outcomes: dict[Key, dict[Process, tuple]] = {}
        self.seen_at: dict[tuple[Key, uuid.UUID], View] = {}
        self.syncs: dict[tuple[int, int, int], tuple] = {}
        self.gracefully: dict[Process, View] = {}
        self.synced = self.succeeded = self.raised = self.retried = self.placed = 0

    # -- as it happens --

    def coordinator(self, before: CoordinatorState, after: CoordinatorState) -> None:
        """G7: a view is one thing, and a newer one has a higher (term, number)."""
        for name, group in after.groups.items():
            view = group.view
            old = before.groups[name].view if name in before.groups else None
            if view is None or view is old:
                continue
            known = self.views.setdefault((after.run, view.term, view.number), view)
            assert known.key == view.key and known.peers == view.peers, "two views of one name"
            if old is not None:
                assert (old.term, old.number) < (view.term, view.number), "views go backwards"
                stay = [p.id for p in old.peers if view.rank_of(p.id) is not None]
                assert [p.id for p in view.peers][: len(stay)] == stay, "members change their order"
            names = [p.name for p in view.peers]
            assert len(set(names)) == len(names), "two peers of one name"

    def engine(self, p: Process) -> None:
        view = p.engine.view
        if view is not None:
            now, before = (view.term, view.number), self.installed.get(p.id, (0, 0))
            assert before <= now, "a data plane goes back to an older view"
            self.installed[p.id] = now

    def peer(self, p: Process, before: peer.PeerState) -> None:
        self.engine(p)
        old, new = before.view, p.state.view
        if old is not None and new is not None and old is not new:
            assert (old.term, old.number) < (new.term, new.number), "views go backwards"
        if new is None or new is old:
            return
        others = [p.engine.view, self.views.get((p.state.run, new.term, new.number))]
        for other in others:
            if other is not None and (other.term, other.number) == (new.term, new.number):
                mine, theirs = ((v.peers, v.places, v.table) for v in (new, other))
                assert mine == theirs, "not all know the same of a view"
        self.placed += bool(new.places)

    def resolved(self, p: Process, action: peer.Resolve) -> None:
        if action.call is peer.Call.JOIN:
            return
        outcome = action.result
        assert p.in_sync, "a sync ended that nobody called"
        assert isinstance(outcome, peer.SyncOutcome)
        self.synced += 1

    def over(self, p: Process, operation: Operation) -> None:
        """G1, G2: note the outcome; what a success holds is known."""
        if operation.unknown or not p.alive or p.engine.view is None:
            return
        if p.engine.broken is not None and p.state.phase is peer.Phase.OUT:
            return
        view, key = p.engine.view, operation.key
        if operation.number == 0:
            return  # of a broken group, and never begun
        if operation.error is not None:
            self.raised += 1
            found: tuple = ("error", *operation.error)
        else:
            self.succeeded += 1
            self.retried += operation.retries > 0
            found = ("ok", operation.ran_in, operation.value)
            self.success(p, operation)
        assert p not in self.outcomes.setdefault(key, {}), "one number was used twice"
        self.outcomes[key][p] = found
        self.seen_at.setdefault((key, p.id), view)

    def success(self, p: Process, operation: Operation) -> None:
        inputs, contributors = operation.value
        kind = operation.call.kind
        if kind in (Kind.SMALL, Kind.LARGE):
            wanted = tuple(f"{name}'s {operation.name}" for name in contributors)
        elif kind is Kind.BROADCAST:
            wanted = (f"{self.world.by_id[operation.call.root].name}'s {operation.name}",)
        else:
            wanted = ()
        assert inputs == wanted, f"{operation.name} at {p.name} came out as {inputs}"
        assert p.name in contributors

    # -- at the end --

    def end(self) -> None:
        self.agreement()
        self.causes()
        self.liveness()

    def agreement(self) -> None:
        """G1: one outcome among the members of the newest view in which one came about, and those
        who left when the others needed nothing of them any more."""
        for key, found in self.outcomes.items():
            # As the peers have it: a view all of whose members go at once is never the group's.
            views = [self.seen_at[key, p.id] for p in found]
            newest = max(views, key=lambda view: (view.term, view.number))
            stayed = {p for p in found if newest.rank_of(p.id) is not None}
            left = {
                p
                for p, view in self.gracefully.items()
                if p in found and any(view.rank_of(q.id) is not None for q in stayed)
            }
            counted = {p.name: outcome for p, outcome in found.items() if p in stayed | left}
            assert len(set(counted.values())) <= 1, f"operation {key} of view {newest.number}: " + (
                "; ".join(f"{name}: {outcome}" for name, outcome in counted.items())
            )

    def causes(self) -> None:
        """Nobody is out for nothing."""
        for p in self.world.processes:
            if p.error is not None:
                assert isinstance(p.error, Evicted | CoordinatorUnreachable), p.error
                assert p.id in self.world.faults.causes, f"{p.name} is out, and why? {p.error}"

    def liveness(self) -> None:
        """G3: everybody has come to an end, but for those who wait for others to join."""
        stuck = [p for p in self.world.processes if p.alive]
        if self.world.chances.amnesia and any(p.state.recall for p in stuck):
            return  # no majority of them lives; the operator may force it
        if not stuck:
            return
        assert len(stuck) < self.world.min_size, [
            (p.name, peer.waits_for(p.state), [op.name for op in p.pending]) for p in stuck
        ]
        for p in stuck:
            note = p.state.note
            assert note is not None and note.missing > 0, (p.name, peer.waits_for(p.state))
