"""What goes wrong in a history, and what the processes can see of it.

``causes`` says of whom it is known why they may be out: an eviction without a cause is a defect.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import TYPE_CHECKING

from collectives.membership import plane

from .operation import CANCELLED, TIMEOUT

if TYPE_CHECKING:
    from .process import Process
    from .world import World

DETECTION = 2.0
TICK = 0.25


@dataclasses.dataclass
class Chances:
    """How bad a history is; of a peer and per second where nothing else is said."""

    loss: float = 0.0  # of a control message
    repeat: float = 0.0  # of a control message
    delay: float = 0.02  # seconds
    reconnect: float = 0.0
    death: float = 0.0
    stop: float = 0.0  # for less than the time of detection, or for more
    deaf: float = 0.0
    slander: float = 0.0  # a member is taken for dead that lives
    cut: float = 0.0  # of each pair
    veto: float = 0.0  # of an operation that is under way
    mismatch: float = 0.0  # of an operation
    leave: float = 0.05  # after each sync
    restart: float = 0.0  # of the coordinator, from its journal
    amnesia: float = 0.0  # of the coordinator, without it


class Faults:
    """Makes them happen, and tells the engines what they would see."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.causes: dict[uuid.UUID, str] = {}
        self.cuts: dict[frozenset[uuid.UUID], float] = {}
        self.stopped_at: dict[uuid.UUID, float] = {}
        self.said: dict[tuple[uuid.UUID, uuid.UUID], float] = {}

    def chance(self, per_second: float) -> bool:
        return per_second > 0 and self.world.random.random() < per_second * TICK

    def blame(self, p: Process, why: str) -> None:
        """From now on there is a reason why it may be out; and its unit with it."""
        for q in self.world.processes:
            unit = p.state.config.unit
            if q is p or (unit and q.state.config.unit == unit):
                self.causes.setdefault(q.id, why)

    def apart(self, a: uuid.UUID, b: uuid.UUID) -> bool:
        return frozenset((a, b)) in self.cuts

    # -- what happens --

    def tick(self) -> None:
        world, chances = self.world, self.world.chances
        for pair, until in list(self.cuts.items()):
            if world.now >= until:
                del self.cuts[pair]
                world.heal(*(world.by_id[p] for p in pair))
        if world.calm:
            return
        if world.coordinator is not None:
            if self.chance(chances.restart):
                self.kill_coordinator(remembers=True)
            elif self.chance(chances.amnesia):
                self.kill_coordinator(remembers=False)
        living = [p for p in world.processes if p.alive]
        for p in living:
            if self.chance(chances.reconnect):
                p.route = b"%d.%d" % (p.index, next(world.sequence))
            if p.engine.view is None:
                continue
            if self.chance(chances.death):
                self.kill(p)
            elif self.chance(chances.stop) and not p.deaf:
                self.stop(p)
            elif self.chance(chances.deaf) and not p.deaf and not p.in_sync:
                self.deafen(p, world.random.uniform(0.5, 6.5))
            for operation in list(p.pending):
                if self.chance(chances.veto) and not p.stopped:
                    status = world.random.choice((TIMEOUT, CANCELLED))
                    p.engine.veto(operation, status, f"{p.name} gave up on {operation.name}")
        for p in living:
            for q in living:
                if p.index < q.index and self.chance(chances.cut):
                    self.cut(p, q, world.random.uniform(0.2, 8.0))
                if p is not q and self.chance(chances.slander):
                    self.slander(p, q)

    def kill(self, p: Process) -> None:
        self.world.log(f"{p.name} is killed")
        self.blame(p, "killed")
        p.error = None
        p.left = True
        self.world.ended(p)

    def stop(self, p: Process) -> None:
        length = self.world.random.choice((0.5, DETECTION * 0.8, DETECTION * 2.5))
        self.world.log(f"{p.name} is stopped for {length} s")
        if length > DETECTION * 0.9 or p.id in self.stopped_at:
            self.blame(p, "stopped")  # for too long, or again and again
            for q in self.world.processes:
                # Who suspects it is the other half of a pair that cannot talk, for a while still
                # after it has gone on.
                if length > DETECTION * 0.9 and q.engine.view is not None:
                    self.blame(q, f"took {p.name} for dead, which stood still")
        # While a view is coming the smallest set goes that has a part in every failing pair: one
        # that two could not reach while they stood still, rather than both.
        for q in self.world.processes:
            if q.engine.prepared is not None or p.engine.prepared is not None:
                self.blame(q, f"a view was coming while {p.name} stood still")
        p.stopped_until = p.resumed = self.world.now + length
        self.stopped_at[p.id] = self.world.now
        self.world.later(length, p.wake)

    def deafen(self, p: Process, length: float) -> None:
        self.world.log(f"the program of {p.name} holds its lock for {length:.1f} s")
        p.deaf_until = self.world.now + length
        self.world.later(length, p.wake)

    def cut(self, p: Process, q: Process, length: float) -> None:
        self.world.log(f"{p.name} and {q.name} cannot talk for {length:.1f} s")
        if length > DETECTION * 0.9 or self.world.coordinator is not None:
            self.blame(p, f"cut off from {q.name}")
            self.blame(q, f"cut off from {p.name}")
        self.cuts[frozenset((p.id, q.id))] = self.world.now + length

    def slander(self, p: Process, q: Process) -> None:
        view = p.engine.view
        if view is None or view.rank_of(q.id) is None or p.stopped:
            return
        self.world.log(f"{p.name} takes {q.name} for dead")
        self.blame(p, "said to be dead")
        self.blame(q, "said to be dead")
        p.emit(plane.PeerSuspected(view.number, q.id, "refused", 1))

    def kill_coordinator(self, remembers: bool) -> None:
        world = self.world
        world.log("the coordinator is killed")
        if not remembers:
            # Who waited is a stranger to the next one; and a run of which no majority is left, or
            # comes too late, is none any more.
            for p in world.processes:
                self.causes.setdefault(p.id, "the run was forgotten")
        world.coordinator = None
        wait = world.random.choice((0.0, 0.3, 2.0))
        world.later(wait, lambda: world.restart(remembers))

    def dies_before_it_speaks(self) -> bool:
        """What it has decided is on the disk, and nobody has heard of it."""
        world = self.world
        if world.calm or world.random.random() >= world.chances.restart * 0.01:
            return False
        self.kill_coordinator(remembers=True)
        return True

    # -- what the others see --

    def observe(self) -> None:
        world = self.world
        for p in world.processes:
            view = p.engine.view
            if not p.alive or p.stopped or view is None:
                continue
            for member in view.peers:
                q = world.by_id[member.id]
                certain = None if q is p else self.seen(p, q)
                if certain is None or world.now - self.said.get((p.id, q.id), -9.0) < 0.9:
                    continue
                self.said[p.id, q.id] = world.now
                text = ("silent", "refused", "its process ended")[certain]
                p.emit(plane.PeerSuspected(view.number, q.id, text, certain))

    def seen(self, p: Process, q: Process) -> int | None:
        """How certain p is that q is dead; None: it has no reason to think so."""
        now = self.world.now
        if not q.alive:
            return 2 if (p.index + q.index) % 2 == 0 and not q.left else 1
        silent_since = now
        if q.stopped:
            silent_since = self.stopped_at[q.id]
        until = self.cuts.get(frozenset((p.id, q.id)))
        if until is not None:
            silent_since = min(silent_since, self.cut_since(p, q))
        return 0 if now - max(silent_since, p.resumed) > DETECTION else None

    def cut_since(self, p: Process, q: Process) -> float:
        return self.world.link(p.id, q.id).last
